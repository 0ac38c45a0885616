//! Trees of real databases, with applications that go on writing in other processes.

#![allow(clippy::disallowed_methods)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::database::{Database, EngineOptions, PinServing};
use crate::os::Host;
use crate::os::readiness::StopSignal;
use crate::source::fixture::{Sql, StopAtEnd, has_python};
use crate::source::{
    self, Instant, LeaseView, PinAs, PinnedSource, SourceError, TreeOptions, Unpinned,
};
use crate::view::tree::{Content, Node, NodeId};

/// Adds one to the value of each database, in one transaction over all.
const ADD_TO_ALL: &str = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
names = ["main"]
for number, path in enumerate(sys.argv[2:]):
    db.execute("ATTACH ? AS d%d" % number, (path,))
    names.append("d%d" % number)
print("ready", flush=True)
while True:
    try:
        db.execute("BEGIN IMMEDIATE")
        for name in names:
            db.execute("UPDATE %s.t SET v = v + 1" % name)
        db.execute("COMMIT")
    except sqlite3.OperationalError:
        if db.in_transaction:
            db.execute("ROLLBACK")
"#;

/// Says the value of each database whose path it is told.
const READ: &str = r#"
import sqlite3, sys
for line in sys.stdin:
    db = sqlite3.connect(line.rstrip("\n"))
    ok = db.execute("PRAGMA integrity_check").fetchone()[0]
    print(db.execute("SELECT v FROM t").fetchone()[0] if ok == "ok" else ok, flush=True)
    db.close()
"#;

/// Opens many databases, and keeps them open.
const OPEN_MANY: &str = r#"
import os, sqlite3, sys
held = []
for number in range(int(os.path.basename(sys.argv[2]))):
    path = os.path.join(sys.argv[1], "%02d" % (number % 10), "%d.db" % number)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=%s" % ("delete" if number % 10 == 0 else "wal"))
    db.execute("CREATE TABLE t(v)")
    db.execute("INSERT INTO t VALUES(?)", (number,))
    held.append(db)
print("ready", flush=True)
sys.stdin.read()
"#;

fn pin_with(dir: &Path, tree: TreeOptions) -> Result<PinnedSource, SourceError> {
    let pin_as = PinAs {
        tree,
        ..PinAs::plain("a test")
    };
    source::pin(&Host::system(), dir, &pin_as)
}

fn pin(dir: &Path) -> PinnedSource {
    pin_with(dir, TreeOptions::default()).unwrap()
}

fn node<'a>(source: &'a PinnedSource, path: &str) -> &'a Node {
    let mut at = NodeId::ROOT;
    for part in Path::new(path) {
        let found = source.tree.lookup(at, part);
        at = found.unwrap_or_else(|| panic!("no {path}")).id;
    }
    source.tree.node(at).unwrap()
}

fn content(source: &PinnedSource, path: &str) -> Vec<u8> {
    let node = node(source, path);
    let mut out = vec![0; usize::try_from(node.size()).unwrap()];
    assert_eq!(source.tree.read(node, 0, &mut out).unwrap(), out.len());
    out
}

/// A database with one value, open in an application that goes on.
fn database(path: &Path, journal: &str, value: u64) -> Sql {
    let mut sql = Sql::start(path);
    sql.run(&format!("PRAGMA journal_mode={journal}"));
    sql.run("CREATE TABLE t(v)");
    sql.run(&format!("INSERT INTO t VALUES({value})"));
    sql
}

/// The value of each database, read by stock SQLite from a copy.
fn values(reader: &mut Sql, source: &PinnedSource, paths: &[String]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let read = |path: &String| {
        let copy = dir.path().join("copy");
        fs::write(&copy, content(source, path)).unwrap();
        reader.run(copy.to_str().unwrap())
    };
    paths.iter().map(read).collect()
}

/// T6: a transaction over several databases is in all of them or in none.
fn assert_sets_are_whole(journals: &[&str], sets: u32) {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..journals.len())
        .map(|number| format!("{number}.db"))
        .collect();
    let paths: Vec<PathBuf> = names.iter().map(|name| dir.path().join(name)).collect();
    let opened = paths.iter().zip(journals);
    let _open: Vec<Sql> = opened
        .map(|(path, journal)| database(path, journal, 0))
        .collect();
    let arguments: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let mut writers: Vec<Sql> = (0..2)
        .map(|_| Sql::start_script(ADD_TO_ALL, &arguments))
        .collect();
    for writer in &mut writers {
        assert_eq!(writer.line(), "ready");
    }
    let mut reader = Sql::start_script(READ, &[]);
    let mut seen = std::collections::BTreeSet::new();
    for set in 0..sets {
        let tree = TreeOptions {
            instant: Instant::Same,
            ..TreeOptions::default()
        };
        let source = pin_with(dir.path(), tree).unwrap();
        let found = values(&mut reader, &source, &names);
        let first = found[0]
            .parse::<u64>()
            .unwrap_or_else(|_| panic!("{found:?}"));
        assert!(
            found.iter().all(|value| *value == found[0]),
            "set {set}: {found:?}"
        );
        assert!(source.facts.skew.is_zero());
        seen.insert(first);
    }
    println!("{} states in {sets} sets", seen.len());
    assert!(seen.len() > 1, "the application goes on");
}

#[test]
fn set_of_logs_is_of_one_instant() {
    assert_sets_are_whole(&["wal", "wal", "wal", "wal"], 60);
}

#[test]
fn set_of_logs_and_journals_is_of_one_instant() {
    assert_sets_are_whole(&["wal", "delete", "wal"], 20);
}

#[test]
fn set_of_journals_is_of_one_instant() {
    assert_sets_are_whole(&["delete", "truncate", "persist"], 30);
}

/// The test of sets notices when the writers go on: in a process of its own, since a bug is switched on for
/// all of it.
#[test]
#[cfg(feature = "faults")]
fn set_is_torn_if_writers_go_on() {
    if !has_python() || std::env::var_os("STILLFS_FAULT").is_some() {
        return;
    }
    let run = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["set_of_logs_is_of_one_instant", "--nocapture"])
            .env("STILLFS_FAULT", "writers-not-stopped")
            .output()
            .unwrap()
    };
    let is_caught = (0..5).any(|_| {
        let output = run();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        !output.status.success() && said.contains("set ")
    });
    assert!(is_caught, "five runs noticed nothing");
}

#[test]
fn a_hundred_databases_are_pinned_close_together() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut application = Sql::start_script(OPEN_MANY, &[dir.path(), Path::new("300")]);
    assert_eq!(application.line(), "ready");
    let mut source = pin(dir.path());
    let clock = Host::system().clock;
    let begun = clock.monotonic();
    for _ in 0..10 {
        assert_eq!(source.lease.watch(Duration::ZERO, None), LeaseView::Held);
    }
    let round = (clock.monotonic() - begun) / 10;
    println!("skew {:?}, {round:?} to look after some", source.facts.skew);
    let members = source.reads.members();
    assert_eq!(members.len(), 300);
    assert!(
        members
            .iter()
            .all(|one| one.kind == "sqlite" && one.state != "ended")
    );
    let mut reader = Sql::start_script(READ, &[]);
    for number in [0, 1, 37, 50, 99] {
        let path = format!("{:02}/{number}.db", number % 10);
        assert_eq!(values(&mut reader, &source, &[path]), [number.to_string()]);
    }
    let json: serde_json::Value =
        serde_json::from_slice(&content(&source, ".stillfs/snapshot.json")).unwrap();
    assert_eq!(json["kind"], "tree");
    assert_eq!(json["databases"].as_array().unwrap().len(), 300);
    assert_eq!(json["databases"][0]["path"], "00/0.db");
    assert_eq!(json["files"], "live");
}

/// However many there are, the end of each is seen within a few rounds, and stays seen.
#[test]
fn end_of_one_of_many_is_seen() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut application = Sql::start_script(OPEN_MANY, &[dir.path(), Path::new("130")]);
    assert_eq!(application.line(), "ready");
    let mut source = pin(dir.path());
    assert_eq!(source.lease.watch(Duration::ZERO, None), LeaseView::Held);
    // Whoever unmounts does not wait for the next round.
    let stop = StopSignal::new().unwrap();
    stop.raise();
    let clock = Host::system().clock;
    let begun = clock.monotonic();
    let view = source.lease.watch(Duration::from_secs(60), Some(&stop));
    assert_eq!(view, LeaseView::Held);
    assert!(clock.monotonic() - begun < Duration::from_secs(30));
    // Among the last that are looked after.
    fs::remove_file(dir.path().join("09/129.db-wal")).unwrap();
    let views: Vec<_> = (0..8)
        .map(|_| source.lease.watch(Duration::ZERO, None))
        .collect();
    let seen = views.iter().position(|view| *view == LeaseView::Lost);
    assert!(seen.is_some_and(|seen| seen < 4), "{views:?}");
    assert!(views[4..].iter().all(|view| *view == LeaseView::Lost));
}

/// T5: one that somebody has for himself fails the tree, or is left out with all that is beside it.
#[test]
fn database_that_cannot_be_pinned_is_left_out_if_asked_for() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let _good = database(&at("good.db"), "wal", 5);
    let mut bad = Sql::start(&at("bad.db"));
    bad.run("PRAGMA locking_mode=EXCLUSIVE");
    bad.run("PRAGMA journal_mode=WAL");
    bad.run("CREATE TABLE t(v)");
    let error = pin_with(dir.path(), TreeOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("bad.db cannot be pinned"), "{error}");
    let source = pin_with(
        dir.path(),
        TreeOptions {
            unpinned: Unpinned::LeftOut,
            ..TreeOptions::default()
        },
    )
    .unwrap();
    assert_eq!(source.left_out.len(), 1);
    assert_eq!(source.left_out[0].path, Path::new("bad.db"));
    for name in ["bad.db", "bad.db-wal", "good.db-wal", "good.db-shm"] {
        assert!(
            source.tree.lookup(NodeId::ROOT, name.as_ref()).is_none(),
            "{name}"
        );
    }
    let mut reader = Sql::start_script(READ, &[]);
    assert_eq!(values(&mut reader, &source, &["good.db".into()]), ["5"]);
}

/// A file with two names is one database, opened by the name that its log has.
#[test]
fn database_with_two_names_is_pinned_by_that_of_its_log() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut application = database(&dir.path().join("named.db"), "delete", 1);
    fs::hard_link(dir.path().join("named.db"), dir.path().join("again.db")).unwrap();
    application.run("PRAGMA journal_mode=WAL");
    application.run("UPDATE t SET v = 2");
    let source = pin(dir.path());
    let (one, two) = (node(&source, "named.db"), node(&source, "again.db"));
    assert_eq!(one.id, two.id);
    assert_eq!(source.tree.name_count(one.id), 2);
    assert_eq!(source.reads.members().len(), 1);
    let mut reader = Sql::start_script(READ, &[]);
    assert_eq!(values(&mut reader, &source, &["again.db".into()]), ["2"]);
    fs::write(dir.path().join("again.db-wal"), b"another log").unwrap();
    let error = pin_with(dir.path(), TreeOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("must have one name"), "{error}");
}

/// T3, G31: a database that is found at its name when it is pinned is shown, whatever was there before; never
/// one that is somewhere else.
#[test]
fn database_that_is_replaced_all_the_time_is_one_of_its_own() {
    if !has_python() {
        return;
    }
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name);
    drop(database(&at("app.db"), "delete", 1));
    // It must be recovered before it is pinned, which nobody may be asked to do.
    drop(database(&outside.path().join("app.db"), "wal", 666));
    let helper = outside.path().join("helper");
    let script = format!("#!/bin/sh\npwd >>{}/asked\n", outside.path().display());
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let mut pin_as = PinAs::plain("a test");
    pin_as.sqlite.helper = Some(helper);
    fs::create_dir(at("inside")).unwrap();
    fs::rename(at("app.db"), at("inside/app.db")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            symlink(outside.path(), at("trap")).unwrap();
            let swap = |from: &str, to: &str| fs::rename(at(from), at(to)).unwrap();
            while !stop.load(Ordering::Relaxed) {
                swap("inside", "away");
                swap("trap", "inside");
                swap("inside", "trap");
                swap("away", "inside");
            }
        });
        let _stop = StopAtEnd(&stop);
        let mut reader = Sql::start_script(READ, &[]);
        let (mut shown, mut refused) = (0, 0);
        for _ in 0..400 {
            match source::pin(&Host::system(), dir.path(), &pin_as) {
                Ok(source) => {
                    for name in ["inside/app.db", "away/app.db", "trap/app.db"] {
                        let part = Path::new(name).parent().unwrap().as_os_str();
                        let folder = source.tree.lookup(NodeId::ROOT, part);
                        let is_folder = folder.is_some_and(Node::is_directory);
                        let has_file = is_folder
                            && source
                                .tree
                                .lookup(folder.unwrap().id, "app.db".as_ref())
                                .is_some();
                        if has_file {
                            assert_eq!(values(&mut reader, &source, &[name.into()]), ["1"]);
                            shown += 1;
                        }
                    }
                }
                Err(_) => refused += 1,
            }
        }
        println!("shown {shown} times, refused {refused} times");
        assert!(shown > 0);
    });
    let asked = fs::read_to_string(outside.path().join("asked"));
    assert!(asked.is_err(), "nobody opens it for us: {asked:?}");
}

/// A native database in a tree is shown as it is shown by itself.
#[test]
fn native_database_in_a_tree_is_pinned_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("sub/native");
    fs::create_dir_all(&below).unwrap();
    let database = Database::open(&below, &EngineOptions::default(), PinServing::On).unwrap();
    let mut write = database.begin_write().unwrap();
    write.put("t", b"key", b"value").unwrap();
    write.commit().unwrap();
    let source = pin(dir.path());
    let folder = node(&source, "sub/native");
    let Content::Directory(children) = &folder.content else {
        panic!("a directory");
    };
    let names: Vec<_> = children.keys().collect();
    assert_eq!(names, ["data.pages", "snapshot.json"]);
    let alone = source::pin(&Host::system(), &below, &PinAs::plain("a test")).unwrap();
    let bytes = content(&source, "sub/native/data.pages");
    assert!(bytes == content(&alone, "data.pages"));
    assert_eq!(source.reads.members()[0].path, "sub/native");
    assert_eq!(database.stats().pins, 2);
    source.lease.release().unwrap();
    assert_eq!(database.stats().pins, 1);
}

/// A file by itself, under its own name, in a directory that is its owner's.
#[test]
fn single_file_is_shown_by_its_name() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o775)).unwrap();
    let _application = database(&dir.path().join("app.db"), "wal", 3);
    symlink("app.db", dir.path().join("link")).unwrap();
    let (source, again) = (
        pin(&dir.path().join("link")),
        pin(&dir.path().join("app.db")),
    );
    let root = source.tree.node(NodeId::ROOT).unwrap();
    assert_eq!(root.attributes.mode, 0o755);
    let found = fs::metadata(dir.path().join("app.db")).unwrap();
    assert_eq!(node(&source, "app.db").id.0, found.ino());
    assert_eq!(
        root.xattrs["user.stillfs.kind".as_ref() as &std::ffi::OsStr],
        b"sqlite"
    );
    let facts = |source: &PinnedSource| content(source, ".stillfs/snapshot.json");
    assert_eq!(facts(&source), facts(&again), "nothing of the pin itself");
    let json: serde_json::Value = serde_json::from_slice(&facts(&source)).unwrap();
    assert_eq!(json["databases"][0]["path"], "app.db");
    let bytes = content(&source, "app.db").len();
    assert_eq!(json["databases"][0]["bytes"], bytes);
    let mut reader = Sql::start_script(READ, &[]);
    assert_eq!(values(&mut reader, &source, &["app.db".into()]), ["3"]);
}
