//! Live files: what is asked of them, each time anew (M8).

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{FileAttr, INodeNo, Notifier};

use super::super::errno::Refusal;
use super::TreeFilesystem;
use super::attributes::{file_attr, live_attr};
use crate::os::path::{self, FileType, Metadata};
use crate::view::tree::{Content, LiveError, LiveFile, Node, NodeId};

/// How long the kernel may keep the attributes of a live file that it got with its name: long enough for
/// a tool that lists a directory and then asks for each name in it, and no longer.
pub(super) const NAMED_TTL: Duration = Duration::from_secs(1);
/// How long it may keep those that somebody asked for by themselves: not at all. A tool that compares
/// what an open file is before and after it read it has to see every change.
pub(super) const ASKED_TTL: Duration = Duration::ZERO;

/// Tells the kernel to ask for attributes again, as soon as there is a session.
#[derive(Clone, Debug, Default)]
pub(crate) struct LateNotifier(Arc<OnceLock<Notifier>>);

impl LateNotifier {
    /// There is a session.
    pub(crate) fn set(&self, notifier: Notifier) {
        // There is one session for each file system.
        let _ = self.0.set(notifier);
    }

    /// The attributes of `node` that the kernel has are old. Waits for nothing: content stays.
    pub(super) fn forget_attributes(&self, node: NodeId) {
        let Some(notifier) = self.0.get() else {
            return;
        };
        let attributes_only = -1;
        if let Err(error) = notifier.inval_inode(INodeNo(node.0), attributes_only, 0) {
            tracing::debug!(node = node.0, %error, "cannot drop the kernel's attributes of a node");
        }
    }
}

/// Asks a live file for something. A source that panics must not take a thread from the session.
pub(super) fn ask<T>(
    node: &Node,
    question: impl FnOnce() -> Result<T, LiveError>,
) -> Result<T, Refusal<'static>> {
    match panic::catch_unwind(AssertUnwindSafe(question)) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::debug!(node = node.id.0, %error, "a live file cannot be had");
            Err(Refusal::Live(error))
        }
        Err(_) => {
            tracing::error!(node = node.id.0, "a live file panicked");
            Err(Refusal::BrokenReader)
        }
    }
}

impl TreeFilesystem {
    /// The attributes of a node at this moment. A live file that is gone, replaced or cannot be asked is
    /// shown as it was listed, since its name is still listed: opening it is what fails. One that is open
    /// is what is open, also after it has lost its name.
    pub(super) fn attr_of(&self, node: &Node) -> FileAttr {
        let asked = live(node).and_then(|file| {
            let of_open = self.metadata_of_open(node.id);
            of_open.or_else(|| ask(node, || file.stat()).ok())
        });
        match asked.filter(|metadata| metadata.file_type == FileType::File) {
            Some(metadata) => live_attr(&self.tree, node, &metadata),
            None => file_attr(&self.tree, &self.figures, node),
        }
    }

    fn metadata_of_open(&self, node: NodeId) -> Option<Metadata> {
        let open = self.files.of_node(node)?;
        path::metadata_of(open.file.as_fd()?).ok()
    }
}

/// The live file of a node.
pub(super) fn live(node: &Node) -> Option<&dyn LiveFile> {
    match &node.content {
        Content::Live(file) => Some(file.as_ref()),
        Content::Directory(_)
        | Content::Paged(_)
        | Content::Bytes(_)
        | Content::Held(_)
        | Content::Link(_)
        | Content::Special(_) => None,
    }
}
