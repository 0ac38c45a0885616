//! SQLite databases: how they are, who has them open, and what he does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::application::Application;
use crate::consultation::{Namespace, doctor_of, expect, expect_well, find, follow, understood};
use crate::process::{stillfs, succeed};
use crate::rig::{Rig, mount_status, umount};

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

    /// A database in the journal mode, with one row.
    fn database(&self, mode: &str) -> PathBuf {
        let path = self.path("app.db");
        let script = format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 2)"
        );
        succeed(Command::new("sqlite3").arg(&path).arg(script));
        path
    }
}

/// A shared lock of the open file, which names no process.
fn lock_open_file(file: &fs::File, byte: i64) {
    let lock = libc::flock {
        l_type: i16::try_from(libc::F_RDLCK).unwrap(),
        l_whence: 0,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
}

fn sqlite3(path: &Path, statement: &str) {
    succeed(Command::new("sqlite3").arg(path).arg(statement));
}

/// What is said of the process that is `pid`.
#[track_caller]
fn of_process(findings: &[Value], id: &str, pid: u32) -> Value {
    let word = format!("process {pid}");
    let is_it = |one: &&Value| {
        let said = format!("{} {}", one["subject"], one["message"]);
        one["id"] == id && said.contains(&word)
    };
    let found = findings.iter().find(is_it);
    found
        .unwrap_or_else(|| panic!("no {id} of {pid}: {findings:#?}"))
        .clone()
}

fn message(finding: &Value) -> &str {
    finding["message"].as_str().unwrap()
}

/// Finding: database
#[test]
fn a_database_is_told_with_its_mode_and_one_by_one_in_a_directory() {
    let scene = Scene::new();
    let path = scene.database("WAL");
    let found = doctor_of(&path);
    expect(&found, "source", "app.db", "ok", "is an SQLite database");
    expect(
        &found,
        "database",
        "app.db",
        "ok",
        "in WAL mode, 2 pages of 4096",
    );
    assert_eq!(find(&found, "engine", ""), None);
    fs::create_dir(scene.path("deep")).unwrap();
    sqlite3(&scene.path("deep/other"), "CREATE TABLE t (a)");
    let found = doctor_of(&scene.path(""));
    expect(&found, "source", "", "ok", "2 SQLite databases");
    expect(
        &found,
        "database",
        "deep/other",
        "ok",
        "rollback journal mode",
    );
    expect(&found, "database", "app.db", "ok", "in WAL mode");
}

/// Opening it would lose the log for good.
///
/// Finding: database
#[test]
fn an_empty_file_with_a_log_is_a_problem() {
    let scene = Scene::new();
    let path = scene.database("WAL");
    Application::start(&path, "db.execute('INSERT INTO t VALUES (3, 4)')").crash();
    fs::write(&path, "").unwrap();
    // Nothing in it says what it is: the directory has another one.
    sqlite3(&scene.path("other"), "CREATE TABLE t (a)");
    let found = doctor_of(&path);
    if find(&found, "database", "app.db").is_none() {
        println!("SKIPPED: this build does not know an empty database by its log");
        return;
    }
    let found = expect(&found, "database", "app.db", "problem", "is empty");
    assert!(follow(&found).status.success());
    assert!(scene.path("app.db-wal.old").exists());
}

/// Finding: database_user
#[test]
fn who_has_it_open_is_told_with_what_he_does() {
    let scene = Scene::new();
    let path = scene.database("WAL");
    let idle = Application::start(&path, "db.execute('SELECT * FROM t').fetchall()");
    let reader = Application::start(
        &path,
        "db.execute('BEGIN')\ndb.execute('SELECT * FROM t').fetchall()",
    );
    let writer = Application::start(&path, "db.execute('BEGIN IMMEDIATE')");
    let found = doctor_of(&path);
    for (one, word) in [
        (&idle, "does nothing"),
        (&reader, "reads"),
        (&writer, "writes (WRITE)"),
    ] {
        let user = of_process(&found, "database_user", one.pid());
        assert_eq!(user["level"], "ok");
        assert!(message(&user).contains(word), "{user}");
        assert!(message(&user).contains("python3"), "{user}");
    }
    drop((idle, reader, writer));
    assert_eq!(find(&doctor_of(&path), "database_user", ""), None);

    let path = scene.path("other");
    sqlite3(&path, "CREATE TABLE t (a)");
    let writer = Application::start(&path, "db.execute('BEGIN IMMEDIATE')");
    let user = of_process(&doctor_of(&path), "database_user", writer.pid());
    assert!(
        message(&user).contains("has begun to write (RESERVED)"),
        "{user}"
    );
}

/// A lock of an open file names no process.
///
/// Finding: database_user
#[test]
fn a_lock_without_a_name_is_warned_of() {
    let scene = Scene::new();
    let path = scene.database("WAL");
    let _application = Application::start(&path, "db.execute('SELECT * FROM t').fetchall()");
    let index = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(scene.path("app.db-shm"));
    lock_open_file(&index.unwrap(), 124);
    // The descriptor is closed by now, and with it the lock.
    assert!(find(&doctor_of(&path), "database_user", "").is_some());
    let index = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(scene.path("app.db-shm"));
    let index = index.unwrap();
    lock_open_file(&index, 124);
    let found = doctor_of(&path);
    let is_nameless = |one: &&Value| one["id"] == "database_user" && one["level"] == "warning";
    let nameless = found.iter().find(is_nameless).expect("a warning");
    assert!(
        message(nameless).contains("reads as of frame"),
        "{nameless}"
    );
}

/// A view takes such locks, and says so: no warning. One that it has not taken is still warned of.
///
/// Finding: database_user
#[test]
fn locks_of_a_view_are_told_as_that_view() {
    let Some(rig) = Rig::without_engine() else {
        return;
    };
    let path = rig.source.join("app.db");
    let _application = Application::start(
        &path,
        "db.execute('PRAGMA journal_mode=WAL')\ndb.execute('CREATE TABLE t (a)')",
    );
    let point = rig.dir("view");
    for source in [&path, &rig.source] {
        succeed(stillfs().arg("mount").arg(source).arg(&point));
        let found = doctor_of(&path);
        let users = found.iter().filter(|one| one["id"] == "database_user");
        let (known, named): (Vec<_>, Vec<_>) =
            users.partition(|one| message(one).starts_with("process "));
        assert!(known.len() == 1 && named.len() == 1, "{found:#?}");
        assert_eq!(named[0]["level"], "ok", "{}", named[0]);
        let process = mount_status(&point)["process_id"].clone();
        let said = format!("the view at {} (process {process}) reads", point.display());
        assert!(message(named[0]).starts_with(&said), "{}", named[0]);

        let index = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(rig.source.join("app.db-shm"));
        let index = index.unwrap();
        lock_open_file(&index, 128);
        let is_warning = |one: &&Value| one["id"] == "database_user" && one["level"] == "warning";
        let found = doctor_of(&path);
        let warning = found.iter().find(is_warning).expect("a warning");
        assert!(message(warning).contains("does not name"), "{warning}");
        umount(&point);
    }
}

/// Finding: sqlite_library
#[test]
fn a_library_with_a_known_bug_is_warned_of_in_wal_mode() {
    let scene = Scene::new();
    let script = "import sqlite3; print(sqlite3.sqlite_version)";
    let version = succeed(Command::new("python3").args(["-c", script]));
    let version = version.trim();
    let numbers: Vec<u32> = version
        .split('.')
        .map(|part| part.parse().unwrap())
        .collect();
    let is_mended = numbers >= vec![3, 51, 3]
        || (numbers[1] == 50 && numbers[2] >= 7)
        || (numbers[1] == 44 && numbers[2] >= 6);
    for mode in ["DELETE", "WAL"] {
        let path = scene.database(mode);
        let application = Application::start(&path, "db.execute('SELECT * FROM t').fetchall()");
        let found = doctor_of(&path);
        let library = of_process(&found, "sqlite_library", application.pid());
        assert!(
            message(&library).contains(&format!("runs SQLite {version} of 2")),
            "{library}"
        );
        if mode == "DELETE" || is_mended {
            assert_eq!(library["level"], "ok", "{library}");
        } else {
            assert_eq!(library["level"], "warning", "{library}");
            assert!(message(&library).contains("mended in 3.51.3"), "{library}");
        }
        drop(application);
        fs::remove_file(path).unwrap();
    }
}

/// Finding: held_checkpoint
#[test]
fn a_reader_that_keeps_the_log_is_named() {
    let scene = Scene::new();
    let path = scene.database("WAL");
    let writer = Application::start(&path, "db.execute('INSERT INTO t VALUES (3, 4)')");
    let reader = Application::start(
        &path,
        "db.execute('BEGIN')\ndb.execute('SELECT * FROM t').fetchall()",
    );
    let more = "db.execute('BEGIN')\n\
        for i in range(1500): db.execute('INSERT INTO t VALUES (?, zeroblob(4000))', (i,))\n\
        db.execute('COMMIT')";
    let other = Application::start(&path, more);
    let found = expect(
        &doctor_of(&path),
        "held_checkpoint",
        "app.db",
        "warning",
        "of frame 1 of",
    );
    assert!(
        message(&found).contains(&format!("process {}", reader.pid())),
        "{found}"
    );
    assert!(follow(&found).out.contains("python3"));
    drop(reader);
    expect_well(&doctor_of(&path), "held_checkpoint", "");
    drop((writer, other));
}

/// Finding: exclusive_lock
#[test]
fn an_exclusive_holder_is_named() {
    let scene = Scene::new();
    let path = scene.database("WAL");
    let holder = Application::start(
        &path,
        "db.execute('PRAGMA locking_mode=EXCLUSIVE')\ndb.execute('INSERT INTO t VALUES (3, 4)')",
    );
    let found = expect(
        &doctor_of(&path),
        "exclusive_lock",
        "app.db",
        "problem",
        "locking_mode",
    );
    assert!(
        message(&found).contains(&format!("process {}", holder.pid())),
        "{found}"
    );
    // It has an index of its own, in memory: that nobody uses the file beside it means nothing.
    expect_well(&doctor_of(&path), "stale_index", "");
    drop(holder);
    expect_well(&doctor_of(&path), "exclusive_lock", "");
}

/// Finding: stale_index
#[test]
fn a_log_that_a_crash_left_is_told_of() {
    let scene = Scene::new();
    let path = scene.database("WAL");
    Application::start(&path, "db.execute('INSERT INTO t VALUES (3, 4)')").crash();
    expect(
        &doctor_of(&path),
        "stale_index",
        "app.db",
        "warning",
        "nobody has the database open",
    );
    sqlite3(&path, "SELECT * FROM t");
    expect_well(&doctor_of(&path), "stale_index", "");
}

/// Finding: hot_journal
#[test]
fn a_journal_that_nobody_writes_is_told_of() {
    let scene = Scene::new();
    let path = scene.database("DELETE");
    let writer = Application::start(
        &path,
        "db.execute('PRAGMA cache_size=5')\ndb.execute('BEGIN')\n\
         for i in range(500): db.execute('INSERT INTO t VALUES (?, zeroblob(500))', (i,))",
    );
    assert!(scene.path("app.db-journal").exists());
    expect_well(&doctor_of(&path), "hot_journal", "");
    writer.crash();
    expect(
        &doctor_of(&path),
        "hot_journal",
        "app.db-journal",
        "warning",
        "half of it",
    );
    sqlite3(&path, "SELECT * FROM t");
    expect_well(&doctor_of(&path), "hot_journal", "");
}

/// Finding: file_access
#[test]
fn what_a_pin_may_not_do_is_told() {
    let Some(inside) = Namespace::new() else {
        return;
    };
    let scene = Scene::new();
    let path = scene.database("WAL");
    Application::start(&path, "db.execute('INSERT INTO t VALUES (3, 4)')").crash();
    inside.must(&format!(
        "cp -a {} /run/d && chmod 755 /run/d && chmod 644 /run/d/* && \
         cp \"$(command -v stillfs)\" /run/stillfs-of-all",
        scene.path("").display()
    ));
    let look = "setpriv --reuid 65534 --regid 65534 --clear-groups /run/stillfs-of-all doctor --json \
                /run/d/app.db";
    let found = understood(&inside.run(look));
    expect(
        &found,
        "file_access",
        "app.db-shm",
        "problem",
        "may not write",
    );
    // A mark of the application can be shared.
    let with_application = format!(
        "mkfifo /run/in; sqlite3 /run/d/app.db < /run/in > /run/said & app=$!; exec 3> /run/in; \
         echo 'SELECT count(*) FROM t;' >&3; until [ -s /run/said ]; do sleep 0.05; done; \
         {look}; code=$?; kill -9 $app; exit $code"
    );
    let found = understood(&inside.run(&with_application));
    expect(&found, "file_access", "app.db-shm", "warning", "share");
    inside.must("chmod 666 /run/d/app.db-shm");
    expect_well(&understood(&inside.run(look)), "file_access", "");
}

/// Any descriptor of a file that a process closes takes all of its locks on that file along.
///
/// Finding: unlocked_user
#[test]
fn a_process_that_lost_its_locks_is_named() {
    let scene = Scene::new();
    let path = scene.database("WAL");
    for file in ["path + '-shm'", "path"] {
        let script =
            format!("db.execute('SELECT * FROM t').fetchall()\nopen({file}, 'rb').close()");
        let careless = Application::start(&path, &script);
        let found = doctor_of(&path);
        let found = expect(
            &found,
            "unlocked_user",
            "app.db",
            "problem",
            "locks are gone",
        );
        assert!(
            message(&found).contains(&format!("process {}", careless.pid())),
            "{found}"
        );
        drop(careless);
        expect_well(&doctor_of(&path), "unlocked_user", "");
    }
}
