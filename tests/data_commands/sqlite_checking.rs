//! `stillfs check` on SQLite files.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::rig::{code, expect_problem, run, stdout};

const PAGE_BYTES: usize = 4096;

fn python(script: &str, path: &Path) -> Command {
    let mut command = Command::new("python3");
    let head = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\n";
    command.args(["-c", &format!("{head}{script}")]).arg(path);
    command
}

/// A closed database with an index, some hundred rows, and a row that breaks a foreign key.
fn closed(root: &Path, journal_mode: &str) -> PathBuf {
    let path = root.join("app.db");
    let script = format!(
        "db.executescript('PRAGMA journal_mode={journal_mode}; CREATE TABLE p (a INTEGER PRIMARY KEY);\
         CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, p REFERENCES p (a)); CREATE INDEX i ON t (b)')\n\
         db.executemany('INSERT INTO t VALUES (?, ?, NULL)', ((i, 'x%d' % (i * 7919 % 500) * 20)\
         for i in range(500)))\n\
         db.execute('UPDATE t SET p = 7 WHERE a = 3')\ndb.close()"
    );
    assert!(python(&script, &path).status().unwrap().success());
    path
}

fn report(path: &Path) -> (i32, Value) {
    let output = run("check", path, &["--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert_eq!(json["exit"], code(&output), "{output:?}");
    (code(&output), json)
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// A copy is checked where it lies, and neither it nor its directory changes; a file in WAL mode too.
#[test]
fn copy_is_checked_in_place_and_left_as_it_is() {
    for (mode, open_with) in [("WAL", "immutable=1"), ("DELETE", "plainly")] {
        let root = tempfile::tempdir().unwrap();
        let path = closed(root.path(), mode);
        let before = fs::metadata(&path).unwrap();
        let directory = fs::metadata(root.path()).unwrap();
        let (exit, json) = report(&path);
        assert_eq!((exit, json["kind"].as_str()), (0, Some("file")), "{json}");
        assert_eq!(json["ok"], true);
        assert_eq!(json["page_size"], PAGE_BYTES);
        let pages = usize::try_from(json["page_count"].as_u64().unwrap()).unwrap();
        assert_eq!(pages * PAGE_BYTES, usize::try_from(before.len()).unwrap());
        assert_eq!(json["findings"], Value::Array(Vec::new()));
        assert_eq!(json["databases"][0]["open_with"], open_with);
        // SQLite lets an application do that, so it is no damage.
        let note = json["notes"][0].as_str().unwrap();
        assert!(note.ends_with("1 row of t -> p refer to no row"), "{note}");
        let text = stdout(&run("check", &path, &[]));
        assert!(
            text.ends_with("\nok\n") && text.contains("opens in place"),
            "{text}"
        );
        let after = fs::metadata(&path).unwrap();
        assert_eq!(
            (after.mtime_nsec(), after.ctime_nsec()),
            (before.mtime_nsec(), before.ctime_nsec())
        );
        let now = fs::metadata(root.path()).unwrap();
        assert_eq!(
            (now.mtime(), now.mtime_nsec()),
            (directory.mtime(), directory.mtime_nsec())
        );
        assert_eq!(names(root.path()), ["app.db"]);
    }
}

/// In every third page a run of bytes is turned over: SQLite finds it, or does not mind.
#[test]
fn damaged_pages_are_found_and_named() {
    let root = tempfile::tempdir().unwrap();
    let path = closed(root.path(), "WAL");
    let sound = fs::read(&path).unwrap();
    let (mut found, mut tried) = (0, 0);
    for page in (1..sound.len() / PAGE_BYTES).step_by(3) {
        tried += 1;
        let mut damaged = sound.clone();
        damaged[page * PAGE_BYTES..][..16].fill(0xff);
        fs::write(&path, &damaged).unwrap();
        let (exit, json) = report(&path);
        assert!([0, 12].contains(&exit), "{json}");
        assert_eq!(json["finding_count"], json["databases"][0]["finding_count"]);
        let findings = json["findings"].as_array().unwrap();
        let named = findings.iter().any(|finding| finding["page"] == page + 1);
        found += usize::from(exit == 12 && named);
    }
    assert!(found * 2 > tried, "{found} of {tried}");

    let mut damaged = sound.clone();
    damaged[100..116].fill(0xff);
    fs::write(&path, &damaged).unwrap();
    let (exit, json) = report(&path);
    assert_eq!((exit, &json["ok"]), (12, &Value::Bool(false)), "{json}");
    fs::write(&path, &sound[..sound.len() - PAGE_BYTES]).unwrap();
    assert_eq!(report(&path).0, 12);
    fs::write(&path, &sound).unwrap();
    assert_eq!(report(&path).0, 0);
}

#[test]
fn file_that_is_no_database_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("text");
    fs::write(&path, "no database\n".repeat(1000)).unwrap();
    expect_problem(&run("check", &path, &[]), 1, &["is not a stillfs database"]);
}

/// An application with the database open in WAL mode that commits all the time.
struct Writer(Child);

impl Writer {
    fn start(path: &Path) -> Self {
        let script = "db.execute('PRAGMA journal_mode=WAL')\ni = 0\n\
            while True:\n    db.execute('UPDATE t SET b = ? WHERE a = ?', ('y%d' % i * 20, i % 500))\n    \
            i += 1\n    if i == 100: print('ready', flush=True)";
        let child = python(script, path).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Through a view of its own, which is gone afterwards; the writer goes on.
#[test]
fn running_database_is_checked_by_a_view_of_the_moment() {
    if !Path::new("/dev/fuse").exists() {
        println!("SKIPPED: no /dev/fuse");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = closed(root.path(), "WAL");
    let mut writer = Writer::start(&path);
    let (exit, json) = report(&path);
    assert_eq!((exit, json["kind"].as_str()), (0, Some("pinned")), "{json}");
    assert_eq!(json["databases"][0]["path"], path.to_str().unwrap());
    // The path is that of the live file, which must not be opened like a view.
    assert_eq!(json["databases"][0]["open_with"], Value::Null);
    let text = stdout(&run("check", &path, &[]));
    assert!(!text.contains("opens in place"), "{text}");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(root.path().to_str().unwrap()), "{mounts}");
    assert!(writer.0.try_wait().unwrap().is_none());
}

/// A crash left an encrypted database with its log. SQLite recovers the log without the key, the view is
/// pinned, and only its own application can check it.
#[test]
fn encrypted_database_is_left_out() {
    if !Path::new("/dev/fuse").exists() {
        println!("SKIPPED: no /dev/fuse");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = closed(root.path(), "WAL");
    // The change leaves page 1 out of the log.
    let crash = "import os\ndb.execute('UPDATE t SET p = 8 WHERE a = 3')\nos.kill(os.getpid(), 9)";
    assert!(!python(crash, &path).status().unwrap().success());
    assert!(root.path().join("app.db-wal").metadata().unwrap().len() > 0);
    let mut data = fs::read(&path).unwrap();
    data[..100].fill(0xa5);
    fs::write(&path, &data).unwrap();
    fs::remove_file(root.path().join("app.db-shm")).unwrap();
    let (exit, json) = report(&path);
    assert_eq!((exit, json["kind"].as_str()), (3, Some("pinned")), "{json}");
    assert_eq!(json["finding_count"], 0);
    let note = json["notes"][0].as_str().unwrap();
    assert!(
        note.contains("it is encrypted, or no SQLite database"),
        "{note}"
    );
}

/// A mount is checked as a whole, and file by file; a copy of the mount is as sound.
#[test]
fn mount_of_a_database_is_checked_there() {
    if !Path::new("/dev/fuse").exists() {
        println!("SKIPPED: no /dev/fuse");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = closed(root.path(), "WAL");
    let _writer = Writer::start(&path);
    let mount = root.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    let mounted = Mounted::new(&path, &mount);
    for place in [&mount, &mount.join("app.db")] {
        let (exit, json) = report(place);
        assert_eq!(exit, 0, "{json}");
        assert_eq!(json["databases"][0]["ok"], true);
        assert_ne!(json["kind"], "pinned");
    }
    // The log is removed under it: the pin has ended.
    fs::remove_file(root.path().join("app.db-wal")).unwrap();
    fs::remove_file(root.path().join("app.db-shm")).unwrap();
    expect_problem(&run("check", &mount, &[]), 13, &["has ended"]);
    drop(mounted);
}

struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(source: &Path, at: &'a Path) -> Self {
        stdout(&run("mount", source, &[at.to_str().unwrap()]));
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        run("umount", self.0, &[]);
    }
}
