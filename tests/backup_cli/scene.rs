//! A folder with sources and repositories, and the program run in it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::rig::{Client, Served, code, expect_problem, stdout, stillfs};

/// See the head of the file.
pub(crate) struct Scene {
    root: TempDir,
    environment: Vec<(String, String)>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let environment = Vec::new();
        Self { root, environment }
    }

    /// What commands find in their environment from here on.
    #[allow(dead_code, reason = "scenes with an object store only")]
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(name)
    }

    /// `stillfs WORDS...`, run in the folder.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = stillfs();
        command.args(words).current_dir(self.root.path());
        command.env_remove("STILLFS_REPO");
        for name in ["KEY_FILE", "PASSPHRASE_FILE"] {
            command.env_remove(format!("STILLFS_{name}"));
            command.env_remove(format!("STILLFS_FROM_{name}"));
        }
        command.envs(self.environment.iter().cloned());
        command
    }

    /// What it says when it succeeds.
    #[track_caller]
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        stdout(&self.run(words))
    }

    /// Expects that it exits with `exit`, and says `parts`.
    #[track_caller]
    pub(crate) fn fails(&self, exit: i32, words: &[&str], parts: &[&str]) {
        let output = self.run(words);
        assert!(exit != 0 && code(&output) == exit, "{words:?}: {output:?}");
        expect_problem(&output, exit, parts);
    }

    /// The last line of JSON, whatever the exit code, which must be the same.
    #[track_caller]
    pub(crate) fn last(&self, words: &[&str]) -> Value {
        let output = self.run(words);
        let last = lines(&output).pop().unwrap_or_else(|| panic!("{output:?}"));
        assert_eq!(last["exit"], code(&output), "{output:?}");
        last
    }

    /// The facts of a backup that succeeds.
    #[track_caller]
    pub(crate) fn backup(&self, words: &[&str]) -> Value {
        let words = [&["backup", "--json"], words].concat();
        let summary = self.last(&words);
        assert_eq!(summary["message_type"], "summary", "{summary}");
        assert_eq!(summary["exit"], 0, "{summary}");
        summary["backup"].clone()
    }

    /// One JSON object.
    #[track_caller]
    pub(crate) fn object(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(words)).unwrap()
    }

    /// The digest of the whole content of a stillfs database, running or not.
    #[track_caller]
    pub(crate) fn digest(&self, name: &str) -> String {
        self.ok(&["dump", "--digest", name])
    }
}

/// The lines of JSON on standard output.
pub(crate) fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line:?}")))
        .collect()
}

pub(crate) fn id(facts: &Value) -> &str {
    facts["id"].as_str().unwrap()
}

pub(crate) fn number(facts: &Value, name: &str) -> u64 {
    let found = facts["statistics"][name].as_u64();
    found.unwrap_or_else(|| panic!("{name}: {facts}"))
}

/// Everything below a folder: names, kinds, modes, times, and the bytes of files.
pub(crate) fn content(top: &Path) -> Vec<(PathBuf, String)> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(top).unwrap().to_owned();
            let what = if about.is_dir() {
                folders.push(path);
                "directory".to_owned()
            } else if about.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else if !about.is_file() {
                format!("{:?}", about.file_type())
            } else {
                let bytes = fs::read(&path).unwrap();
                let time = (about.mtime(), about.mtime_nsec());
                let links = about.nlink();
                format!("{time:?} {links} {}", bytes.escape_ascii())
            };
            found.push((name, format!("{:o} {what}", about.mode())));
        }
    }
    found.sort();
    found
}

/// `stillfs serve`, and a client that writes all the time: the key `n` says how many keys `k0`, `k1` ...
/// there are, in one transaction with each.
pub(crate) struct LoadedEngine {
    pub(crate) served: Served,
    stop: Arc<AtomicBool>,
    writer: Option<JoinHandle<u64>>,
}

impl LoadedEngine {
    /// Shape: `large` keys of a kilobyte are there before anything else.
    pub(crate) fn start(dir: &Path, large: usize) -> Self {
        Self::with(Served::start(dir), large)
    }

    /// The same of one that is served already.
    pub(crate) fn with(served: Served, large: usize) -> Self {
        let mut client = served.connect();
        for number in 0..large {
            let value: Vec<u8> = (0..1000).map(|at| (at * number).to_le_bytes()[0]).collect();
            client.set(format!("large{number}").as_bytes(), &value);
        }
        let mut engine = Self {
            served,
            stop: Arc::default(),
            writer: None,
        };
        engine.go_on(0);
        engine
    }

    fn go_on(&mut self, from: u64) {
        let (mut client, stop) = (self.served.connect(), self.stop.clone());
        stop.store(false, Ordering::SeqCst);
        self.writer = Some(std::thread::spawn(move || {
            let mut count = from;
            while !stop.load(Ordering::SeqCst) {
                write_one(&mut client, count);
                count += 1;
            }
            count
        }));
    }

    /// Ends the writing, not the engine; how many were written.
    pub(crate) fn rest(&mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.writer.take().unwrap().join().unwrap()
    }

    pub(crate) fn stop(mut self) {
        if self.writer.is_some() {
            self.rest();
        }
        assert_eq!(self.served.stop(), 0);
    }
}

fn write_one(client: &mut Client, count: u64) {
    let (key, next) = (format!("k{count}"), (count + 1).to_string());
    assert_eq!(client.ask(&[b"MULTI"]), "+OK");
    assert_eq!(client.ask(&[b"SET", key.as_bytes(), b"v"]), "+QUEUED");
    assert_eq!(client.ask(&[b"SET", b"n", next.as_bytes()]), "+QUEUED");
    assert_eq!(client.ask(&[b"EXEC"]), "*2");
    for _ in 0..2 {
        assert_eq!(client.line().unwrap(), "+OK");
    }
}

/// What the writer's transactions promise, of a restored database: one commit, neither more nor less.
#[track_caller]
pub(crate) fn expect_whole(dir: &Path, large: usize) -> u64 {
    let served = Served::start(dir);
    let mut client = served.connect();
    assert!(client.ask(&[b"GET", b"n"]).starts_with('$'));
    let count: u64 = client.line().unwrap().parse().unwrap();
    let keys = client.ask(&[b"DBSIZE"]);
    assert_eq!(keys, format!(":{}", count + 1 + large as u64));
    assert_eq!(served.stop(), 0);
    count
}

/// Python, with `db` open on the path.
pub(crate) fn python(path: &Path, script: &str) -> Command {
    let head = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                db.execute('PRAGMA busy_timeout=60000')\n";
    let mut command = Command::new("python3");
    command.args(["-c", &format!("{head}{script}")]).arg(path);
    command
}

/// Runs it, and gives what it prints.
#[track_caller]
pub(crate) fn sql(path: &Path, script: &str) -> String {
    stdout(&python(path, script).output().unwrap())
        .trim()
        .to_owned()
}

/// An SQLite application: a table, a counter of its rows, and a megabyte that nobody changes.
pub(crate) fn make_sqlite(path: &Path, mode: &str) {
    let script = format!(
        "db.executescript('PRAGMA journal_mode={mode}; CREATE TABLE t (a INTEGER PRIMARY KEY, b);\
         CREATE TABLE n (count); INSERT INTO n VALUES (0); CREATE TABLE large (a)')\n\
         db.execute('BEGIN')\n\
         db.executemany('INSERT INTO large VALUES (?)', ((str(i * 7919) * 100,) for i in range(2000)))\n\
         db.execute('COMMIT')"
    );
    sql(path, &script);
}

/// One transaction of the application, in Python.
pub(crate) const STEP: &str = "db.execute('BEGIN IMMEDIATE')\n\
    db.execute('INSERT INTO t (b) VALUES (?)', ('x' * 100,))\n\
    db.execute('UPDATE n SET count = count + 1')\n\
    db.execute('COMMIT')\n";

/// How many rows there are, if SQLite and the counter agree with that.
#[track_caller]
pub(crate) fn expect_sqlite(path: &Path) -> u64 {
    let script = "row = db.execute('SELECT (SELECT count(*) FROM t), (SELECT count FROM n), \
        (SELECT count(*) FROM large)').fetchone()\n\
        print(db.execute('PRAGMA integrity_check').fetchone()[0], *row)";
    let said = sql(path, script);
    let words: Vec<&str> = said.split(' ').collect();
    assert_eq!(words[0], "ok", "{said}");
    assert_eq!((words[1], words[3]), (words[2], "2000"), "{said}");
    words[1].parse().unwrap()
}

/// The application with the database open, committing all the time.
pub(crate) struct SqliteWriter(Child);

impl SqliteWriter {
    pub(crate) fn start(path: &Path) -> Self {
        let step = STEP.replace('\n', "\n    ");
        let script = format!(
            "import time\ni = 0\nwhile True:\n    {step}i += 1\n    time.sleep(0.001)\n    \
             if i == 20: print('ready', flush=True)"
        );
        let child = python(path, &script).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    /// Whether it goes on.
    pub(crate) fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for SqliteWriter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command with `--json` that takes long.
pub(crate) struct Slow {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Slow {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// The next line.
    pub(crate) fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line:?}"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// The last line, and the exit code.
    pub(crate) fn end(mut self) -> (Value, Option<i32>) {
        let rest = self.stdout.by_ref().lines().map(Result::unwrap).last();
        let status = self.child.wait().unwrap();
        let last = rest.map(|line| serde_json::from_str(&line).unwrap());
        (last.unwrap_or_default(), status.code())
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let text = |name: &OsStr| name.to_str().unwrap().to_owned();
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| text(&entry.unwrap().file_name()))
        .collect();
    names.sort();
    names
}
