//! A small tree for the tests of this folder.

use std::collections::BTreeMap;

use crate::view::tree::{Attributes, Content, Node, NodeId, Tree};

/// mtime of every node.
pub(super) const CHANGED_NS: u64 = 1_700_000_000_123_456_789;
/// Content of the unlisted file.
pub(super) const FACTS: &[u8] = b"{}";

fn attributes(mode: u16) -> Attributes {
    Attributes {
        mode,
        uid: 1000,
        gid: 1001,
        changed_ns: CHANGED_NS,
    }
}

fn node(id: u64, parent: NodeId, mode: u16, content: Content) -> Node {
    Node {
        id: NodeId(id),
        parent,
        attributes: attributes(mode),
        content,
        xattrs: BTreeMap::new(),
    }
}

/// `tiny` (513 bytes), `empty/`, and `.stillfs/snapshot.json`.
pub(super) fn tree() -> Tree {
    let xattrs = BTreeMap::from([("user.stillfs.pin".into(), b"beef".to_vec())]);
    let mut tree = Tree::new(attributes(0o755), xattrs);
    let tiny = Content::Bytes(vec![7; 513].into());
    tree.insert("tiny".as_ref(), node(10, NodeId::ROOT, 0o640, tiny));
    for (name, id) in [("empty", 11), (".stillfs", 12)] {
        let content = Content::Directory(BTreeMap::new());
        tree.insert(name.as_ref(), node(id, NodeId::ROOT, 0o700, content));
    }
    let facts = Content::Bytes(FACTS.into());
    tree.insert("snapshot.json".as_ref(), node(13, NodeId(12), 0o600, facts));
    tree
}

/// Adds an empty file to the root.
pub(super) fn put(tree: &mut Tree, name: &str, id: u64) {
    put_content(tree, name, id, Content::Bytes(Vec::new().into()));
}

/// Adds something to the root.
pub(super) fn put_content(tree: &mut Tree, name: &str, id: u64, content: Content) {
    tree.insert(name.as_ref(), node(id, NodeId::ROOT, 0o600, content));
}
