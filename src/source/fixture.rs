//! Applications of SQLite for tests: stock SQLite in other processes. A test's own process opens no
//! database of theirs with it: that would share locks, and closing any descriptor would end them.

#![allow(clippy::disallowed_methods)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::os::Clock;
use crate::os::clock::SystemClock;
use crate::os::process::effective_user;

/// Runs what comes in, one line of SQL at a time, and answers each with one line.
const SHELL: &str = r#"
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for line in sys.stdin:
    try:
        rows = []
        for statement in line.strip().split("; "):
            rows = db.execute(statement).fetchall()
        print(json.dumps(rows), flush=True)
    except Exception as error:
        print("error: " + str(error), flush=True)
"#;

/// What each program begins with: `db` is the path, `say` and `hear` talk with the test.
const HEAD: &str = "
import sqlite3, sys, os, time, signal
db = sys.argv[1]
def open_db(timeout=5):
    return sqlite3.connect(db, timeout=timeout, isolation_level=None)
def say(*words): print(*words, flush=True)
def hear():
    line = sys.stdin.readline()
    if not line: sys.exit(0)
    return line.strip()
";

/// Runs a program to its end; gives what it said.
pub(super) fn run_program(database: &Path, code: &str) -> String {
    let output = Command::new("python3")
        .args(["-c", &format!("{HEAD}{code}")])
        .arg(database)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.trim_end().to_owned()
}

/// Whether tests that need Python can run; says so if not.
pub(super) fn has_python() -> bool {
    let found = Command::new("python3")
        .args(["-c", "import sqlite3"])
        .status();
    let is_there = found.is_ok_and(|status| status.success());
    if !is_there {
        println!("SKIPPED: needs python3 with sqlite3");
    }
    is_there
}

/// An application that has one database open.
#[derive(Debug)]
pub(super) struct Sql {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Sql {
    /// Opens or makes the database at `path`.
    pub(super) fn start(path: &Path) -> Self {
        Self::start_script(SHELL, &[path])
    }

    /// Runs a program of its own, which begins with what `HEAD` has.
    pub(super) fn start_program(database: &Path, code: &str) -> Self {
        Self::start_script(&format!("{HEAD}{code}"), &[database])
    }

    /// Its process.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Runs a script of Python with `paths` as its arguments.
    pub(super) fn start_script(script: &str, paths: &[&Path]) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", script])
            .args(paths)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            input,
            output,
        }
    }

    /// Runs a line of SQL and gives its rows as JSON. Panics if it fails.
    pub(super) fn run(&mut self, sql: &str) -> String {
        let answer = self.try_run(sql);
        assert!(!answer.starts_with("error: "), "{sql}: {answer}");
        answer
    }

    /// As [`Self::run`]; what fails is answered with `error: ` and why.
    pub(super) fn try_run(&mut self, sql: &str) -> String {
        writeln!(self.input, "{sql}").unwrap();
        self.input.flush().unwrap();
        self.line()
    }

    /// The next line that it writes.
    pub(super) fn line(&mut self) -> String {
        let mut line = String::new();
        let count = self.output.read_line(&mut line).unwrap();
        assert!(count > 0, "the application ended");
        line.trim_end().to_owned()
    }
}

impl Drop for Sql {
    fn drop(&mut self) {
        // By its own handle: nobody else's process is meant.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An XFS on a loop device, which shares blocks between files. Dropping it takes it down.
#[derive(Debug)]
pub(super) struct Xfs {
    base: tempfile::TempDir,
}

impl Xfs {
    /// `None`, and a printed reason, where that cannot be.
    pub(super) fn new() -> Option<Self> {
        let base = tempfile::tempdir().unwrap();
        let (image, root) = (base.path().join("image"), base.path().join("root"));
        // The least that mkfs takes.
        fs::File::create(&image)
            .unwrap()
            .set_len(320 << 20)
            .unwrap();
        fs::create_dir(&root).unwrap();
        let succeeds = |program: &str, words: &[&str], paths: &[&Path]| {
            let done = Command::new(program).args(words).args(paths).output();
            done.is_ok_and(|done| done.status.success())
        };
        let is_there = effective_user() == 0
            && succeeds("mkfs.xfs", &["-q", "-f", "-K"], &[&image])
            && succeeds("mount", &["-t", "xfs", "-o", "loop"], &[&image, &root]);
        if !is_there {
            println!("SKIPPED: needs root, mkfs.xfs and a loop device");
            return None;
        }
        Some(Self { base })
    }

    /// Where it is.
    pub(super) fn root(&self) -> PathBuf {
        self.base.path().canonicalize().unwrap().join("root")
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let root = self.root();
        let umount = || {
            let done = Command::new("umount").arg(&root).output();
            done.is_ok_and(|done| done.status.success())
        };
        for _ in 0..50 {
            if umount() {
                return;
            }
            SystemClock.sleep(Duration::from_millis(20));
        }
        drop(Command::new("umount").arg("--lazy").arg(&root).output());
    }
}

/// Sets a flag when it is dropped, also by a panic: a thread that goes on until then ends with its test.
#[derive(Debug)]
pub(super) struct StopAtEnd<'a>(pub(super) &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
