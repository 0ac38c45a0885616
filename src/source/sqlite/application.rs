//! For tests: an unmodified application that has databases open, in a process of its own (Python's
//! sqlite3), and does what it is told over a pipe.

#![allow(clippy::disallowed_methods)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const CODE: &str = r#"
import sys, sqlite3, json, os
names = {'sqlite3': sqlite3, 'os': os}
def connect(path, timeout=0):
    return sqlite3.connect(path, isolation_level=None, timeout=timeout, cached_statements=0)
names['connect'] = connect
def image(db, to):
    with open(to, 'wb') as out:
        out.write(db.serialize())
names['image'] = image
for line in sys.stdin:
    code = json.loads(line)
    try:
        try:
            value = eval(code, names)
        except SyntaxError:
            value = exec(code, names)
        print(json.dumps('ok ' + repr(value)), flush=True)
    except Exception as error:
        print(json.dumps('error ' + str(error)), flush=True)
"#;

/// See the head of the file. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Application {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Application {
    /// `None`, and a line that says so, where there is no Python with `serialize`.
    pub(super) fn start() -> Option<Self> {
        let able = Command::new("python3")
            .args(["-c", "import sqlite3; sqlite3.Connection.serialize"])
            .stderr(Stdio::null())
            .status();
        if !able.is_ok_and(|status| status.success()) {
            println!("SKIPPED: needs python3 with sqlite3's serialize");
            return None;
        }
        let mut child = Command::new("python3")
            .args(["-c", CODE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Some(Self {
            child,
            input,
            output,
        })
    }

    /// Its process.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// What one line of Python comes to: its value as Python prints it, or the error's text.
    pub(super) fn try_run(&mut self, code: &str) -> Result<String, String> {
        let line = serde_json::to_string(code).unwrap() + "\n";
        self.input
            .as_mut()
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        let answer: String = serde_json::from_str(&answer).expect("the application lives");
        match answer.split_once(' ') {
            Some(("ok", value)) => Ok(value.to_owned()),
            _ => Err(answer),
        }
    }

    /// The same of what must work.
    #[track_caller]
    pub(super) fn run(&mut self, code: &str) -> String {
        match self.try_run(code) {
            Ok(value) => value,
            Err(error) => panic!("{code}: {error}"),
        }
    }

    /// Opens `path` as `db` in WAL mode, with no checkpoint by itself.
    pub(super) fn open_wal(&mut self, path: &Path) {
        self.open(path);
        self.use_wal();
    }

    /// Opens `path`, which is not there, likewise, with pages of `page_bytes`.
    pub(super) fn make_wal(&mut self, path: &Path, page_bytes: u32) {
        self.open(path);
        self.sql(&format!("PRAGMA page_size={page_bytes}"));
        self.use_wal();
        let expected = format!("[({page_bytes},)]");
        assert_eq!(self.sql("PRAGMA page_size"), expected);
    }

    /// Turns `db` to WAL mode.
    pub(super) fn use_wal(&mut self) {
        assert_eq!(self.sql("PRAGMA journal_mode=WAL"), "[('wal',)]");
        self.sql("PRAGMA wal_autocheckpoint=0");
    }

    /// Opens `path` as `db`.
    pub(super) fn open(&mut self, path: &Path) {
        self.run(&format!("db = connect({path:?})"));
    }

    /// Runs one statement on `db`; gives its rows.
    #[track_caller]
    pub(super) fn sql(&mut self, sql: &str) -> String {
        self.run(&format!("db.execute({sql:?}).fetchall()"))
    }

    /// The same, which may fail.
    pub(super) fn try_sql(&mut self, sql: &str) -> Result<String, String> {
        self.try_run(&format!("db.execute({sql:?}).fetchall()"))
    }

    /// The bytes of the database as SQLite reads them at this moment.
    #[track_caller]
    pub(super) fn image(&mut self) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        self.run(&format!("image(db, {:?})", file.path()));
        std::fs::read(file.path()).unwrap()
    }

    /// Ends it as a crash does.
    pub(super) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.wait());
    }
}
