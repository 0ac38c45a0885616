//! The files that are open by a descriptor: one descriptor for each, however often it is open.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::os::File;
use crate::view::tree::NodeId;

/// One open file. `B` is what the kernel knows it by, if it reads it itself; dropping that takes the
/// knowledge away.
#[derive(Debug)]
pub(super) struct OpenFile<B> {
    /// The descriptor.
    pub(super) file: Arc<dyn File>,
    /// `None` if what is read goes through the daemon.
    pub(super) backing: Option<B>,
    /// Whether it was small when it was opened first.
    pub(super) size: Size,
}

/// Whether a file is worth keeping in the kernel's cache, where it is read through the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// It is read with one or two requests, which is less than asking whether what is kept still counts.
    Small,
    /// It is not.
    Large,
}

impl Size {
    /// Files below this are small.
    const LARGE_BYTES: u64 = 64 << 10;

    /// How large `file` is. One that cannot tell is small.
    pub(super) fn of(file: &dyn File) -> Self {
        match file.len() {
            Ok(bytes) if bytes >= Self::LARGE_BYTES => Self::Large,
            _ => Self::Small,
        }
    }
}

/// All open files (M9).
#[derive(Debug)]
pub(super) struct OpenFiles<B> {
    table: Mutex<Table<B>>,
    is_backing_possible: AtomicBool,
}

#[derive(Debug)]
struct Table<B> {
    last: u64,
    handles: BTreeMap<u64, NodeId>,
    nodes: BTreeMap<NodeId, OpenNode<B>>,
}

#[derive(Debug)]
struct OpenNode<B> {
    handles: u64,
    file: Arc<OpenFile<B>>,
}

impl<B> OpenFiles<B> {
    /// Nothing is open, and the kernel reads nothing by itself.
    pub(super) fn new() -> Self {
        let table = Table {
            last: 0,
            handles: BTreeMap::new(),
            nodes: BTreeMap::new(),
        };
        Self {
            table: Mutex::new(table),
            is_backing_possible: AtomicBool::new(false),
        }
    }

    /// From here on it is tried to let the kernel read files by itself.
    pub(super) fn allow_backing(&self) {
        self.is_backing_possible.store(true, Ordering::Relaxed);
    }

    /// Keeps one more open of `node`, and returns its handle. If the node is open already, the descriptor
    /// that is open is used, since the kernel refuses a second way for one file (M9); `file` is then
    /// closed. Else `register` tells the kernel of it, which takes less than one request to read it.
    pub(super) fn insert(
        &self,
        node: NodeId,
        file: Arc<dyn File>,
        size: Size,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<B>,
    ) -> (u64, Arc<OpenFile<B>>) {
        let mut table = self.table.lock();
        table.last += 1;
        let handle = table.last;
        table.handles.insert(handle, node);
        if let Some(open) = table.nodes.get_mut(&node) {
            open.handles += 1;
            return (handle, open.file.clone());
        }
        let backing = self.back(file.as_ref(), register);
        let file = Arc::new(OpenFile {
            file,
            backing,
            size,
        });
        let open = OpenNode {
            handles: 1,
            file: file.clone(),
        };
        table.nodes.insert(node, open);
        (handle, file)
    }

    /// What the kernel knows a file by, where it can read it itself and we may tell it so.
    fn back(
        &self,
        file: &dyn File,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<B>,
    ) -> Option<B> {
        if !self.is_backing_possible.load(Ordering::Relaxed) {
            return None;
        }
        match register(file.as_fd()?) {
            Ok(backing) => Some(backing),
            Err(error) => {
                // Who may not do it once may not do it later. Anything else is about this file: one on a
                // file system that stands on another, for example.
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.is_backing_possible.store(false, Ordering::Relaxed);
                }
                tracing::debug!(%error, "a file is read through the daemon");
                None
            }
        }
    }

    /// The open file of a handle.
    pub(super) fn get(&self, handle: u64) -> Option<Arc<OpenFile<B>>> {
        let table = self.table.lock();
        let node = table.handles.get(&handle)?;
        table.nodes.get(node).map(|open| open.file.clone())
    }

    /// What is open of a node, if anything is.
    pub(super) fn of_node(&self, node: NodeId) -> Option<Arc<OpenFile<B>>> {
        let table = self.table.lock();
        table.nodes.get(&node).map(|open| open.file.clone())
    }

    /// Forgets a handle; the last one of a node closes its file.
    pub(super) fn remove(&self, handle: u64) {
        let mut table = self.table.lock();
        let Some(node) = table.handles.remove(&handle) else {
            return;
        };
        let Some(open) = table.nodes.get_mut(&node) else {
            return;
        };
        open.handles -= 1;
        if open.handles == 0 {
            let closed = table.nodes.remove(&node);
            // Closing asks the file system below, which may take its time.
            drop(table);
            drop(closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::real_disk::RealFile;

    fn file() -> Arc<dyn File> {
        Arc::new(RealFile::from_fd(tempfile::tempfile().unwrap().into()))
    }

    fn identity(open: &OpenFile<Arc<()>>) -> u64 {
        open.file.identity().unwrap().inode
    }

    /// M9: the kernel answers EIO to whoever opens a file in another way than others have it open.
    #[test]
    fn all_opens_of_a_node_share_one_descriptor_and_one_backing() {
        let files = OpenFiles::new();
        files.allow_backing();
        let backing = Arc::new(());
        let registered = backing.clone();
        let (first, one) = files.insert(NodeId(7), file(), Size::Large, |_| Ok(registered));
        let (second, two) = files.insert(NodeId(7), file(), Size::Large, |_| {
            panic!("it is registered")
        });
        assert_ne!(first, second);
        assert_eq!(identity(&one), identity(&two));
        drop((one, two));
        files.remove(first);
        assert!(files.get(first).is_none());
        assert!(files.get(second).unwrap().backing.is_some());
        assert_eq!(Arc::strong_count(&backing), 2);
        files.remove(second);
        assert_eq!(Arc::strong_count(&backing), 1, "the last one takes it away");
        files.remove(second);
    }

    /// M9, the other way round: what began through the daemon goes on so until everybody has closed it.
    #[test]
    fn a_file_that_the_kernel_cannot_read_itself_goes_through_the_daemon() {
        let files = OpenFiles::<()>::new();
        let refused = |_: BorrowedFd<'_>| -> io::Result<()> { panic!("nothing is offered") };
        let (early, _) = files.insert(NodeId(1), file(), Size::Large, refused);
        files.allow_backing();
        let (_, same) = files.insert(NodeId(1), file(), Size::Large, |_| Ok(()));
        assert!(same.backing.is_none());
        files.remove(early);
        let stacked = |_: BorrowedFd<'_>| Err(io::Error::from_raw_os_error(libc::ELOOP));
        let (_, other) = files.insert(NodeId(2), file(), Size::Large, stacked);
        assert!(other.backing.is_none());
        let (_, next) = files.insert(NodeId(3), file(), Size::Large, |_| Ok(()));
        assert!(next.backing.is_some(), "one file says nothing of another");
    }

    /// M9: it is how large a file was when it was opened first that counts.
    #[test]
    fn a_small_file_that_goes_through_the_daemon_stays_small_for_all() {
        let files = OpenFiles::<()>::new();
        let no = |_: BorrowedFd<'_>| -> io::Result<()> { panic!("nothing is offered") };
        let (_, first) = files.insert(NodeId(1), file(), Size::Small, no);
        files.allow_backing();
        let (_, second) = files.insert(NodeId(1), file(), Size::Large, no);
        assert!(first.backing.is_none() && second.size == Size::Small);
        let (_, other) = files.insert(NodeId(2), file(), Size::Small, |_| Ok(()));
        assert!(other.backing.is_some(), "the kernel reads small files too");
        let grown = file();
        assert_eq!(Size::of(grown.as_ref()), Size::Small);
        grown.set_len(Size::LARGE_BYTES).unwrap();
        assert_eq!(Size::of(grown.as_ref()), Size::Large);
    }

    #[test]
    fn without_the_right_it_is_tried_once() {
        let files = OpenFiles::<()>::new();
        files.allow_backing();
        let denied = |_: BorrowedFd<'_>| Err(io::Error::from_raw_os_error(libc::EPERM));
        let (_, first) = files.insert(NodeId(1), file(), Size::Large, denied);
        assert!(first.backing.is_none());
        let (_, second) =
            files.insert(NodeId(2), file(), Size::Large, |_| panic!("it was refused"));
        assert!(second.backing.is_none());
    }
}
