//! The native engine's directory as a source: what its tree shows, and what stays the same from pin to pin.

#![allow(clippy::disallowed_methods)]

use std::path::Path;

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
    let holder = "a test";
    let pin_as = PinAs {
        holder,
        mount_point: None,
        options: stillfs::database::PinOptions::default(),
    };
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
    assert_eq!(json["lsn"], source.facts.lsn.0);
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
