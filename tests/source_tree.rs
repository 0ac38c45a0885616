//! Sources: what their trees show, what stays the same from pin to pin, and that the formats say so.

#![allow(clippy::disallowed_methods)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use stillfs::database::{Database, EngineOptions, PinServing};
use stillfs::os::Host;
use stillfs::source::{self, PinAs, PinnedSource};
use stillfs::view::tree::{Node, NodeId};

fn put(database: &Database, value: &[u8]) {
    let mut write = database.begin_write().expect("a transaction");
    write.put("t", b"key", value).expect("a put");
    write.commit().expect("a commit");
}

fn pin(dir: &Path) -> PinnedSource {
    let pin_as = PinAs::plain("a test");
    source::pin(&Host::system(), dir, &pin_as).expect("a pinned source")
}

fn node<'a>(source: &'a PinnedSource, name: &str) -> &'a Node {
    let found = source.tree.lookup(NodeId::ROOT, name.as_ref());
    found.expect("a node of that name")
}

fn content(source: &PinnedSource, name: &str) -> Vec<u8> {
    let node = node(source, name);
    let mut out = vec![0; usize::try_from(node.size()).expect("small")];
    let count = source.tree.read(node, 0, &mut out).expect("its content");
    assert_eq!(count, out.len());
    out
}

/// A1, A3: one committed state, and none of the engine's own files.
#[test]
fn tree_has_the_pinned_pages_and_the_facts_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let database = Database::open(dir.path(), &EngineOptions::default(), PinServing::On);
    let database = database.expect("a new database");
    put(&database, b"pinned");
    let source = pin(dir.path());
    let before = content(&source, "data.pages");
    put(&database, b"later");
    database.checkpoint().expect("a checkpoint");
    assert!(content(&source, "data.pages") == before);
    assert_eq!(source.tree.node_count(), 3, "the root and two files");
    let json: serde_json::Value =
        serde_json::from_slice(&content(&source, "snapshot.json")).expect("an object");
    assert_eq!(json["timestamp"], 1);
    assert_eq!(json["lsn"], source.facts.lsn.expect("an LSN").0);
    let document = include_str!("../docs/formats.md");
    for field in json.as_object().expect("an object").keys() {
        let is_said = document.contains(&format!("`{field}`"));
        assert!(is_said, "docs/formats.md says nothing of {field}");
    }
    for name in node(&source, "data.pages").xattrs.keys() {
        let name = name.to_str().expect("a plain name");
        let short = name.strip_prefix("user.stillfs").expect("our prefix");
        let is_said = document.contains(&format!("`{short}`")) || document.contains(name);
        assert!(is_said, "docs/formats.md says nothing of {name}");
    }
}

/// A2: a copy tool that remembers sizes and times copies an unchanged database once, and a changed one
/// again.
#[test]
fn attributes_are_equal_for_one_commit_and_differ_for_two() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let database = Database::open(dir.path(), &EngineOptions::default(), PinServing::On);
    let database = database.expect("a new database");
    put(&database, b"one");
    let (first, second) = (pin(dir.path()), pin(dir.path()));
    for name in ["data.pages", "snapshot.json"] {
        let (one, two) = (node(&first, name), node(&second, name));
        assert_eq!((one.id, &one.attributes), (two.id, &two.attributes));
        assert_eq!(one.size(), two.size());
        assert!(content(&first, name) == content(&second, name));
    }
    put(&database, b"two");
    let third = pin(dir.path());
    let (old, new) = (node(&first, "data.pages"), node(&third, "data.pages"));
    assert_eq!(old.id, new.id);
    assert!(old.attributes.changed_ns < new.attributes.changed_ns);
}

/// A4: what a pin kept is given back when its lease is.
#[test]
fn given_up_lease_leaves_no_pin() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let database = Database::open(dir.path(), &EngineOptions::default(), PinServing::On);
    let database = database.expect("a new database");
    put(&database, b"one");
    let source = pin(dir.path());
    assert_eq!(database.stats().pins, 1);
    source.lease.release().expect("the engine is there");
    assert_eq!(database.stats().pins, 0);
    assert_eq!(database.stats().shadow_slots, 0);
}

/// An application of SQLite that has `wal.db` and `old.db` open. Dropping it ends it.
struct Application(Child);

impl Application {
    /// `None`, and a printed reason, without Python.
    fn start(dir: &Path) -> Option<Self> {
        const CODE: &str = "
import sqlite3, sys
def made(name, mode):
    db = sqlite3.connect(sys.argv[1] + '/' + name, isolation_level=None)
    db.execute('PRAGMA journal_mode=' + mode)
    db.execute('CREATE TABLE t(v)')
    db.execute('INSERT INTO t VALUES(1)')
    return db
kept = [made('wal.db', 'wal'), made('old.db', 'delete')]
print('ready', flush=True)
sys.stdin.read()
";
        let started = Command::new("python3")
            .args(["-c", CODE])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = started.ok()?;
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let application = Self(child);
        if line.trim_end() == "ready" {
            return Some(application);
        }
        println!("SKIPPED: needs python3 with sqlite3");
        None
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn facts(source: &PinnedSource) -> serde_json::Value {
    let dir = node(source, ".stillfs").id;
    let file = source.tree.lookup(dir, "snapshot.json".as_ref());
    let file = file.expect("the facts");
    let mut out = vec![0; usize::try_from(file.size()).expect("small")];
    source.tree.read(file, 0, &mut out).expect("its content");
    serde_json::from_slice(&out).expect("an object")
}

/// What a copy can be told by: each state of a database has its own facts, and the formats name them all.
#[test]
fn facts_of_sqlite_databases_tell_their_states() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let Some(_application) = Application::start(dir.path()) else {
        return;
    };
    let document = include_str!("../docs/formats.md");
    let require = |name: &str| {
        let is_said = document.contains(&format!("`{name}`"));
        assert!(is_said, "docs/formats.md says nothing of {name}");
    };
    for path in [dir.path().to_owned(), dir.path().join("wal.db")] {
        let source = pin(&path);
        let json = facts(&source);
        json.as_object()
            .expect("an object")
            .keys()
            .for_each(|name| require(name));
        let databases = json["databases"].as_array().expect("a list").iter();
        for database in databases {
            let fields = database.as_object().expect("an object");
            fields.keys().for_each(|name| require(name));
            let name = database["path"].as_str().expect("a path");
            let xattr = |short: &str| {
                let name_of = format!("user.stillfs.{short}");
                let value = node(&source, name)
                    .xattrs
                    .get(name_of.as_ref() as &std::ffi::OsStr);
                value.map(|value| String::from_utf8(value.clone()).expect("a text"))
            };
            assert_eq!(database["page_size"], 4096);
            assert_eq!(xattr("page_size").expect("an attribute"), "4096");
            assert_eq!(xattr("page_count").expect("an attribute"), "2");
            assert_eq!(database["page_count"], 2);
            match name {
                "wal.db" => {
                    let log = std::fs::read(dir.path().join("wal.db-wal")).expect("a log");
                    let salts: String = log[16..24].iter().map(|b| format!("{b:02x}")).collect();
                    let frames = (log.len() - 32) / (4096 + 24);
                    assert_eq!(database["journal"], "wal");
                    assert_eq!(database["wal_salts"], salts);
                    assert_eq!(database["wal_frames"], frames);
                    assert_eq!(xattr("wal_salts"), Some(salts));
                    assert_eq!(xattr("wal_frames"), Some(frames.to_string()));
                }
                _ => {
                    assert_eq!(database["journal"], "rollback");
                    assert!(database.get("wal_salts").is_none() && xattr("wal_salts").is_none());
                }
            }
        }
        let nodes = source.tree.nodes();
        for name in nodes.flat_map(|node| node.xattrs.keys()) {
            let name = name.to_str().expect("a plain name");
            let short = name.strip_prefix("user.stillfs").expect("our prefix");
            let is_said = document.contains(&format!("`{short}`")) || document.contains(name);
            assert!(is_said, "docs/formats.md says nothing of {name}");
        }
    }
}
