//! The hidden `stillfs sqlite` command on real databases, which other processes made and left.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests use the machine directly"
)]

#[path = "doctor/application.rs"]
mod application;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::application::Application;

const NOBODY: u32 = 65_534;

/// The command, and what it said first.
struct Helper {
    child: Child,
    output: BufReader<ChildStdout>,
    report: Value,
}

impl Helper {
    fn start(path: &Path) -> Self {
        Self::start_in(Path::new("/"), path)
    }

    fn start_in(dir: &Path, path: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_stillfs"))
            .args(["sqlite", "open", "--"])
            .arg(path)
            .current_dir(dir)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let report = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        Self {
            child,
            output,
            report,
        }
    }

    fn state(&self) -> &str {
        self.report["state"].as_str().unwrap()
    }

    /// Ends its input, and waits for its end.
    fn end(mut self) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        assert!(self.child.wait().unwrap().success());
    }
}

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// A database in a rollback mode whose application crashed in the middle of writing it.
    fn hot(&self) -> PathBuf {
        let path = self.path("app.db");
        Application::start(
            &path,
            "db.executescript('PRAGMA cache_size=5; CREATE TABLE t (a, b)')\n\
             db.execute('BEGIN')\n\
             for i in range(500): db.execute('INSERT INTO t VALUES (?, zeroblob(500))', (i,))\n\
             db.execute('COMMIT')\n\
             db.execute('BEGIN')\n\
             db.execute('UPDATE t SET a = a + 1, b = randomblob(500)')",
        )
        .crash();
        path
    }

    /// A database in WAL mode whose application crashed: 100 rows, of which the last change is only in
    /// the log, and no page 1 is.
    fn crashed(&self) -> PathBuf {
        let path = self.path("app.db");
        Application::start(
            &path,
            "db.executescript('PRAGMA journal_mode=WAL; CREATE TABLE t (a INTEGER, b)')\n\
             db.execute('BEGIN')\n\
             for i in range(100): db.execute('INSERT INTO t VALUES (?, zeroblob(500))', (i,))\n\
             db.execute('COMMIT')\n\
             db.execute('PRAGMA wal_checkpoint(TRUNCATE)')\n\
             db.execute('UPDATE t SET a = a + 1000 WHERE a < 10')",
        )
        .crash();
        path
    }
}

/// What the sqlite3 command line prints; it removes log and index at its end.
fn ask(path: &Path, statement: &str) -> String {
    let output = Command::new("sqlite3").arg(path).arg(statement).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Whether somebody holds a lock on byte 128 of the index: it is alive. The table of locks is read in
/// pieces and changes meanwhile, so that one look can miss it.
fn is_index_alive(index: &Path) -> bool {
    let inode = fs::metadata(index).unwrap().ino();
    let end = format!(":{inode} 128 128");
    (0..5).any(|_| {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.ends_with(&end))
    })
}

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        println!("SKIPPED: needs root");
    }
    is_root
}

/// SH5: it works in the directory that it is started in, on what has that name itself.
#[test]
fn name_in_the_directory_is_opened_and_no_link() {
    let scene = Scene::new();
    scene.crashed();
    fs::remove_file(scene.path("app.db-shm")).unwrap();
    let outside = Scene::new();
    let other = outside.crashed();
    fs::remove_file(outside.path("app.db-shm")).unwrap();
    std::os::unix::fs::symlink(&other, scene.path("link.db")).unwrap();
    let helper = Helper::start_in(scene.dir.path(), Path::new("./app.db"));
    assert_eq!(helper.state(), "open", "{:?}", helper.report);
    assert!(scene.path("app.db-shm").exists());
    helper.end();
    let helper = Helper::start_in(scene.dir.path(), Path::new("./link.db"));
    assert_eq!(helper.state(), "unreadable", "{:?}", helper.report);
    assert!(!outside.path("app.db-shm").exists());
    helper.end();
}

/// SH1, SH3: the index is rebuilt and held; database and log stay byte for byte, also at the end.
#[test]
fn index_of_a_crashed_application_is_rebuilt_and_nothing_is_checkpointed() {
    let scene = Scene::new();
    let path = scene.crashed();
    let (data, log) = (scene.bytes("app.db"), scene.bytes("app.db-wal"));
    assert!(!log.is_empty());
    let index = scene.path("app.db-shm");
    for has_index in [true, false] {
        if !has_index {
            fs::remove_file(&index).unwrap();
        }
        let helper = Helper::start(&path);
        assert_eq!(helper.state(), "open", "{}", helper.report);
        assert_eq!(helper.report["is_read_only"], false);
        assert!(is_index_alive(&index));
        assert_eq!(scene.bytes("app.db-wal"), log);
        helper.end();
        assert!(!is_index_alive(&index));
        assert_eq!(scene.bytes("app.db"), data);
        assert_eq!(scene.bytes("app.db-wal"), log);
        assert_eq!(scene.bytes("app.db-shm").len(), 32 << 10);
    }
    assert_eq!(ask(&path, "SELECT sum(a) FROM t"), "14950");
    assert_eq!(ask(&path, "PRAGMA integrity_check"), "ok");
}

/// SH3: even if whoever started it is killed.
#[test]
fn helper_ends_with_whoever_started_it() {
    let scene = Scene::new();
    let path = scene.crashed();
    let program = env!("CARGO_BIN_EXE_stillfs");
    let script = "import subprocess, sys\n\
        p = subprocess.Popen([sys.argv[1], 'sqlite', 'open', '--', sys.argv[2]],\n\
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n\
        print(p.stdout.readline().decode(), flush=True)\np.wait()";
    let mut starter = Command::new("python3")
        .args(["-c", script, program])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(starter.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert!(line.contains("open"), "{line}");
    assert!(is_index_alive(&scene.path("app.db-shm")));
    starter.kill().unwrap();
    starter.wait().unwrap();
    while is_index_alive(&scene.path("app.db-shm")) {
        std::thread::yield_now();
    }
}

/// SH1: as the next start of the application would.
#[test]
fn hot_journal_is_rolled_back() {
    let scene = Scene::new();
    let path = scene.hot();
    assert!(scene.path("app.db-journal").exists());
    let helper = Helper::start(&path);
    assert_eq!(helper.state(), "open", "{}", helper.report);
    assert!(!scene.path("app.db-journal").exists());
    helper.end();
    assert_eq!(ask(&path, "SELECT sum(a) FROM t"), "124750");
    assert_eq!(ask(&path, "PRAGMA integrity_check"), "ok");
}

/// SH2, G28: root looks, and what SQLite makes is the owner's, with the mode of the database.
#[test]
fn what_appears_beside_the_database_belongs_to_its_owner() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let path = scene.crashed();
    fs::remove_file(scene.path("app.db-shm")).unwrap();
    for name in ["", "app.db", "app.db-wal"] {
        chown(scene.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let helper = Helper::start(&path);
    assert_eq!(helper.state(), "open", "{}", helper.report);
    let process = fs::metadata(format!("/proc/{}/task", helper.child.id()));
    let status = fs::read_to_string(format!("/proc/{}/status", helper.child.id())).unwrap();
    process.unwrap();
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "Groups:\t \n",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let made = fs::metadata(scene.path("app.db-shm")).unwrap();
    assert_eq!((made.uid(), made.gid()), (NOBODY, NOBODY));
    assert_eq!(made.mode() & 0o7777, 0o640);
    helper.end();

    // Made anew by root's hand: the log too.
    assert_eq!(ask(&path, "SELECT sum(a) FROM t"), "14950");
    assert!(!scene.path("app.db-wal").exists());
    Helper::start(&path).end();
    for name in ["app.db-wal", "app.db-shm"] {
        let made = fs::metadata(scene.path(name)).unwrap();
        assert_eq!(
            (made.uid(), made.mode() & 0o7777),
            (NOBODY, 0o640),
            "{name}"
        );
    }
}

/// G28: root's own file in a user's directory is worked on with the user's rights: he could have put there
/// another file, and a journal for it.
#[test]
fn owner_who_cannot_reach_his_file_is_told_of() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let path = scene.crashed();
    chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(scene.path(""), PermissionsExt::from_mode(0o700)).unwrap();
    let helper = Helper::start(&path);
    assert_eq!(helper.state(), "unreachable", "{}", helper.report);
    assert_eq!(helper.report["uid"], NOBODY);
    helper.end();

    chown(&path, Some(0), Some(0)).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    chown(scene.path(""), Some(NOBODY), Some(NOBODY)).unwrap();
    let helper = Helper::start(&path);
    assert_eq!(helper.state(), "failed", "{}", helper.report);
    assert_eq!(helper.report["code"], 14);
    helper.end();
}

/// Whoever owns a directory on the way could exchange what lies below it between two looks: root's rights
/// are laid down for his, however deep root's own directory and file lie in it.
#[test]
fn directory_of_a_user_on_the_way_makes_the_work_his() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.crashed();
    fs::create_dir(scene.path("deep")).unwrap();
    for ending in ["", "-wal", "-shm"] {
        let to = scene.path(&format!("deep/app.db{ending}"));
        fs::rename(scene.path(&format!("app.db{ending}")), &to).unwrap();
        fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).unwrap();
    }
    let path = scene.path("deep/app.db");
    fs::set_permissions(scene.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    Helper::start(&path).end();
    chown(scene.path(""), Some(NOBODY), Some(NOBODY)).unwrap();
    let helper = Helper::start(&path);
    assert_eq!(helper.state(), "failed", "{}", helper.report);
    assert_eq!(helper.report["code"], 14);
    helper.end();
}

/// An encrypted file is none to SQLite, but its log is as any: pages are told from others only later.
#[test]
fn log_of_an_encrypted_file_is_opened_all_the_same() {
    let scene = Scene::new();
    let path = scene.crashed();
    let mut data = scene.bytes("app.db");
    data[..100].fill(0xa5);
    fs::write(&path, &data).unwrap();
    let index = scene.path("app.db-shm");
    fs::remove_file(&index).unwrap();
    let log = scene.bytes("app.db-wal");
    let helper = Helper::start(&path);
    assert_eq!(helper.state(), "unreadable", "{}", helper.report);
    assert!(is_index_alive(&index));
    helper.end();
    assert_eq!(scene.bytes("app.db-wal"), log);
}

#[test]
fn database_that_somebody_keeps_is_busy() {
    let scene = Scene::new();
    let path = scene.path("app.db");
    let _application = Application::start(
        &path,
        "db.executescript('CREATE TABLE t (a); BEGIN EXCLUSIVE')",
    );
    let helper = Helper::start(&path);
    assert_eq!(helper.state(), "failed");
    assert_eq!(helper.report["code"], 5, "{}", helper.report);
    helper.end();
}

/// SQLite itself would remove that log, or read the pipe for ever.
#[test]
fn what_is_no_database_is_left_alone() {
    let scene = Scene::new();
    let path = scene.crashed();
    fs::write(&path, "").unwrap();
    let log = scene.bytes("app.db-wal");
    let helper = Helper::start(&path);
    assert_eq!(helper.state(), "log_of_nothing", "{}", helper.report);
    helper.end();
    assert_eq!(scene.bytes("app.db-wal"), log);

    let pipe = scene.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(scene.path("text"), "no database\n".repeat(1000)).unwrap();
    for (name, state) in [
        ("pipe", "unreadable"),
        ("text", "unreadable"),
        ("none", "unreachable"),
    ] {
        let helper = Helper::start(&scene.path(name));
        assert_eq!(helper.state(), state, "{}", helper.report);
        helper.end();
    }
    assert_eq!(fs::read_dir(scene.path("")).unwrap().count(), 5);
}
