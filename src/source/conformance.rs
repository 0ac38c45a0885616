//! What every source owes, asked of each: A1 to A4 of the head of the module above.

#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use super::fixture::{Sql, has_python};
use super::*;
use crate::database::{Database, EngineOptions, PinServing};
use crate::view::tree::{Attributes, Content, Node, NodeId, Times};

/// A database that goes on while it is pinned.
trait Rig: Debug {
    /// What is pinned.
    fn source(&self) -> PathBuf;
    /// Where in the mount the database is.
    fn shown_as(&self) -> &'static str;
    /// Commits `value`.
    fn commit(&mut self, value: u64);
    /// Commits much more, and lets the engine tidy up.
    fn go_on(&mut self);
    /// Reads the value back out of a copy of what was shown.
    fn value_of(&self, shown: &[u8]) -> u64;
    /// Whether the engine is free to do what a pin keeps it from.
    fn is_free(&mut self) -> bool;
}

#[derive(Debug)]
struct Native {
    dir: tempfile::TempDir,
    database: Database,
}

impl Native {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = EngineOptions::default();
        let database = Database::open(dir.path(), &options, PinServing::On).unwrap();
        Self { dir, database }
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        let mut write = self.database.begin_write().unwrap();
        write.put("t", key, value).unwrap();
        write.commit().unwrap();
    }
}

impl Rig for Native {
    fn source(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn shown_as(&self) -> &'static str {
        "data.pages"
    }

    fn commit(&mut self, value: u64) {
        self.put(b"value", &value.to_le_bytes());
    }

    fn go_on(&mut self) {
        for number in 0..50_u64 {
            self.put(&number.to_le_bytes(), &[7; 3000]);
        }
        self.database.checkpoint().unwrap();
    }

    fn value_of(&self, shown: &[u8]) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("data.pages"), shown).unwrap();
        let options = EngineOptions::default();
        let copy = Database::open(dir.path(), &options, PinServing::Off).unwrap();
        let value = copy.begin_read().unwrap().get("t", b"value").unwrap();
        u64::from_le_bytes(value.unwrap()[..].try_into().unwrap())
    }

    fn is_free(&mut self) -> bool {
        self.database.stats().pins == 0
    }
}

/// One SQLite file; its application is another process.
#[derive(Debug)]
struct Sqlite {
    dir: tempfile::TempDir,
    application: Sql,
    journal: &'static str,
}

impl Sqlite {
    fn new(journal: &'static str) -> Option<Self> {
        has_python().then(|| Self::below(tempfile::tempdir().unwrap(), journal))
    }

    fn below(dir: tempfile::TempDir, journal: &'static str) -> Self {
        let mut application = Sql::start(&dir.path().join("app.db"));
        application.run(&format!("PRAGMA journal_mode={journal}"));
        application.run("PRAGMA wal_autocheckpoint=50");
        application.run("CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
        Self {
            dir,
            application,
            journal,
        }
    }
}

impl Rig for Sqlite {
    fn source(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn shown_as(&self) -> &'static str {
        "app.db"
    }

    fn commit(&mut self, value: u64) {
        self.application
            .run(&format!("INSERT OR REPLACE INTO t VALUES(0, {value})"));
    }

    fn go_on(&mut self) {
        for number in 1..100 {
            let text = format!("INSERT OR REPLACE INTO t VALUES({number}, randomblob(5000))");
            self.application.run(&text);
        }
        self.application.run("DELETE FROM t WHERE k > 50");
        self.application.run("PRAGMA wal_checkpoint(PASSIVE)");
    }

    fn value_of(&self, shown: &[u8]) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy.db");
        std::fs::write(&path, shown).unwrap();
        let mut copy = Sql::start(&path);
        assert_eq!(copy.run("PRAGMA integrity_check"), "[[\"ok\"]]");
        let value = copy.run("SELECT v FROM t WHERE k = 0");
        value.trim_matches(['[', ']']).parse().unwrap()
    }

    fn is_free(&mut self) -> bool {
        match self.journal {
            "wal" => self.application.run("PRAGMA wal_checkpoint(TRUNCATE)") == "[[0, 0, 0]]",
            _ => self.application.run("BEGIN EXCLUSIVE; COMMIT") == "[]",
        }
    }
}

/// The same in a folder, with another database and plain files beside it.
#[derive(Debug)]
struct Tree {
    inner: Sqlite,
    _native: Native,
    _other: Sql,
}

impl Tree {
    fn new() -> Option<Self> {
        if !has_python() {
            return None;
        }
        let inner = Sqlite::below(tempfile::tempdir().unwrap(), "wal");
        let top = inner.dir.path();
        std::fs::create_dir(top.join("sub")).unwrap();
        std::fs::write(top.join("sub/plain"), b"plain").unwrap();
        let mut other = Sql::start(&top.join("sub/other.sqlite"));
        other.run("CREATE TABLE t(v)");
        let dir = tempfile::tempdir_in(top).unwrap();
        let options = EngineOptions::default();
        let database = Database::open(dir.path(), &options, PinServing::On).unwrap();
        let native = Native { dir, database };
        native.put(b"key", b"value");
        Some(Self {
            inner,
            _native: native,
            _other: other,
        })
    }
}

impl Rig for Tree {
    fn source(&self) -> PathBuf {
        self.inner.dir.path().to_owned()
    }

    fn shown_as(&self) -> &'static str {
        self.inner.shown_as()
    }

    fn commit(&mut self, value: u64) {
        self.inner.commit(value);
    }

    fn go_on(&mut self) {
        self.inner.go_on();
    }

    fn value_of(&self, shown: &[u8]) -> u64 {
        self.inner.value_of(shown)
    }

    fn is_free(&mut self) -> bool {
        self.inner.is_free() && self._native.is_free()
    }
}

fn rigs() -> Vec<Box<dyn Rig>> {
    let mut rigs: Vec<Box<dyn Rig>> = vec![Box::new(Native::new())];
    let journals = ["wal", "delete", "truncate"];
    rigs.extend(
        journals
            .iter()
            .filter_map(|journal| Some(Box::new(Sqlite::new(journal)?) as _)),
    );
    rigs.extend(Tree::new().map(|tree| Box::new(tree) as _));
    rigs
}

fn pinned(rig: &dyn Rig) -> PinnedSource {
    pin(&Host::system(), &rig.source(), &PinAs::plain("a test"))
        .unwrap_or_else(|error| panic!("{rig:?}: {error}"))
}

fn content(source: &PinnedSource, node: &Node) -> Option<Vec<u8>> {
    if let Content::Directory(_) | Content::Live(_) | Content::Link(_) | Content::Special(_) =
        &node.content
    {
        return None;
    }
    let mut out = vec![0; usize::try_from(node.size()).unwrap()];
    let count = source.tree.read(node, 0, &mut out).unwrap();
    assert_eq!(count, out.len());
    Some(out)
}

fn shown(source: &PinnedSource, rig: &dyn Rig) -> Vec<u8> {
    let node = source.tree.lookup(NodeId::ROOT, rig.shown_as().as_ref());
    content(source, node.unwrap()).unwrap()
}

/// Everything that is listed, by its path.
fn listed(source: &PinnedSource) -> BTreeMap<PathBuf, &Node> {
    let mut found = BTreeMap::new();
    let mut left = vec![(PathBuf::new(), NodeId::ROOT)];
    while let Some((path, id)) = left.pop() {
        let node = source.tree.node(id).unwrap();
        if let Content::Directory(children) = &node.content {
            let children = children.iter().map(|(name, id)| (path.join(name), *id));
            left.extend(children.filter(|(path, _)| path != Path::new(".stillfs")));
        }
        found.insert(path, node);
    }
    found
}

/// A1: one committed state, whatever the engine does afterwards.
#[test]
fn what_is_read_is_the_pinned_commit() {
    for mut rig in rigs() {
        rig.commit(1);
        let one = pinned(&*rig);
        let before = shown(&one, &*rig);
        rig.commit(2);
        let two = pinned(&*rig);
        rig.go_on();
        assert!(shown(&one, &*rig) == before, "{rig:?}");
        assert_eq!(rig.value_of(&before), 1);
        assert_eq!(rig.value_of(&shown(&two, &*rig)), 2);
        one.reads.look().unwrap();
        assert_eq!(one.reads.last_failure(), None);
        assert!(one.reads.counts().served_bytes >= 2 * before.len() as u64);
    }
}

/// A2: what is of the pin alone is not shown: neither in what is marked nor in the facts, listed or not.
#[test]
fn nothing_that_is_shown_differs_between_two_pins_of_one_state() {
    for mut rig in rigs() {
        rig.commit(1);
        let (first, second) = (pinned(&*rig), pinned(&*rig));
        let seen = |source: &PinnedSource| -> Vec<_> {
            let of = |node: &Node| {
                let (attributes, xattrs) = (node.attributes.clone(), node.xattrs.clone());
                let times = source.tree.times(node);
                (node.id, attributes, times, xattrs, content(source, node))
            };
            source.tree.nodes().map(of).collect()
        };
        let (one, two) = (seen(&first), seen(&second));
        assert_eq!(one.len(), two.len(), "{rig:?}");
        for (one, two) in one.iter().zip(&two) {
            assert!(one == two, "{rig:?}: {one:?}, {two:?}");
        }
    }
}

/// A2: a tool that remembers numbers and times copies what was unchanged once, and what changed again.
#[test]
fn attributes_differ_if_and_only_if_the_content_does() {
    type Seen = (NodeId, Attributes, Times, u64, Option<Vec<u8>>);
    let seen = |source: &PinnedSource| -> BTreeMap<PathBuf, Seen> {
        let of = |node: &Node| {
            let times = source.tree.times(node);
            let (attributes, size) = (node.attributes.clone(), node.size());
            (node.id, attributes, times, size, content(source, node))
        };
        let listed = listed(source).into_iter();
        listed.map(|(path, node)| (path, of(node))).collect()
    };
    for mut rig in rigs() {
        rig.commit(1);
        let (first, second) = (pinned(&*rig), pinned(&*rig));
        let (one, two) = (seen(&first), seen(&second));
        assert!(one.keys().eq(two.keys()), "{rig:?}");
        for (path, was) in &one {
            let is = &two[path];
            let is_same = (was.0, &was.1, was.2, was.3) == (is.0, &is.1, is.2, is.3);
            assert!(is_same && was.4 == is.4, "{rig:?}: {}", path.display());
        }
        let path = Path::new(rig.shown_as());
        let mut last = one[path].clone();
        for value in 2..10 {
            rig.commit(value);
            let now = seen(&pinned(&*rig))[path].clone();
            assert_eq!(now.0, last.0, "{rig:?}");
            assert!(now.4 != last.4, "{rig:?}");
            assert!(now.1.changed_ns > last.1.changed_ns, "{rig:?}: {value}");
            last = now;
        }
    }
}

/// A3: what an engine keeps for itself is no part of an application's data.
#[test]
fn nothing_of_an_engines_own_files_is_shown() {
    for mut rig in rigs() {
        rig.commit(1);
        let source = pinned(&*rig);
        for path in listed(&source).keys() {
            let name = path.file_name().unwrap_or_default().to_str().unwrap();
            let ends = ["-wal", "-shm", "-journal", ".sock", ".pin"];
            assert!(
                !ends.iter().any(|end| name.ends_with(end)),
                "{rig:?}: {name}"
            );
            assert!(!["shadow", "log", "wal"].contains(&name), "{rig:?}: {name}");
        }
    }
}

/// A4: given up, it is as if there had been none; and nothing is read any more.
#[test]
fn given_up_pin_leaves_nothing_behind() {
    for mut rig in rigs() {
        rig.commit(1);
        let source = pinned(&*rig);
        rig.go_on();
        let PinnedSource {
            tree, lease, reads, ..
        } = source;
        lease.release().unwrap();
        assert!(rig.is_free(), "{rig:?}");
        let node = tree.lookup(NodeId::ROOT, rig.shown_as().as_ref()).unwrap();
        tree.read(node, 0, &mut [0; 512]).unwrap_err();
        reads.look().unwrap_err();
    }
}

/// A4: a lease that is dropped gives up as well.
#[test]
fn dropped_pin_leaves_nothing_behind() {
    for mut rig in rigs() {
        rig.commit(1);
        drop(pinned(&*rig));
        rig.go_on();
        // The engine may see the end of a connection a moment later.
        let is_free = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            rig.is_free()
        });
        assert!(is_free, "{rig:?}");
    }
}

/// What is at its maximum age is not read any more, whichever member it is of.
#[test]
fn expired_view_fails_as_a_whole() {
    for mut rig in rigs() {
        rig.commit(1);
        let source = pinned(&*rig);
        source.reads.expire();
        for (path, node) in listed(&source) {
            if let Content::Paged(_) = node.content {
                let read = source.tree.read(node, 0, &mut [0; 512]);
                assert!(read.is_err(), "{rig:?}: {}", path.display());
            }
        }
    }
}
