//! Nodes whose pin was found ended, and the thread that drops the kernel's cache of them.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use fuser::{INodeNo, Notifier};
use parking_lot::RwLock;

use crate::view::tree::NodeId;

/// Which nodes have ended (M4). An end is final, so a node is never taken out again.
#[derive(Debug)]
pub(crate) struct EndedNodes {
    ended: RwLock<BTreeSet<NodeId>>,
    stale: Sender<NodeId>,
}

impl EndedNodes {
    /// An empty set, and where the nodes come out whose cache is to be dropped, each once.
    pub(crate) fn new() -> (Self, Receiver<NodeId>) {
        let (stale, nodes) = channel();
        let ended = RwLock::default();
        (Self { ended, stale }, nodes)
    }

    /// Whether `node` has ended.
    pub(super) fn contains(&self, node: NodeId) -> bool {
        self.ended.read().contains(&node)
    }

    /// Remembers that `node` has ended, and asks for its cache to be dropped if that is news.
    pub(super) fn insert(&self, node: NodeId) {
        if self.ended.write().insert(node) {
            // Without a receiver the session is over, and its cache with it.
            let _ = self.stale.send(node);
        }
    }
}

/// Drops the kernel's cache of each node that comes, until the file system is gone.
///
/// It needs its own thread: the kernel waits for the pages that are being read, and the thread that
/// found the end is about to answer just such a read.
pub(crate) fn spawn_invalidator(
    nodes: Receiver<NodeId>,
    notifier: Notifier,
) -> io::Result<JoinHandle<()>> {
    let invalidate = move || {
        for node in nodes {
            if let Err(error) = notifier.inval_inode(INodeNo(node.0), 0, 0) {
                tracing::debug!(node = node.0, %error, "cannot drop the kernel's cache of a node");
            }
        }
    };
    thread::Builder::new()
        .name("stillfs-inval".to_owned())
        .spawn(invalidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_ends_once_and_for_ever() {
        let (ended, nodes) = EndedNodes::new();
        assert!(!ended.contains(NodeId(7)));
        ended.insert(NodeId(7));
        ended.insert(NodeId(7));
        ended.insert(NodeId(8));
        assert!(ended.contains(NodeId(7)) && ended.contains(NodeId(8)));
        assert!(!ended.contains(NodeId(9)));
        drop(ended);
        assert_eq!(nodes.iter().collect::<Vec<_>>(), [NodeId(7), NodeId(8)]);
    }
}
