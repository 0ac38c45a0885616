//! How a file is opened, and where its data is: by whom its bytes are read follows from that.
//!
//! ```text
//! pinned pages, bytes   no descriptor   the daemon reads; the kernel keeps what it has read
//! file of our own       one each        the kernel reads if it can, else as above
//! live file             one each        the kernel reads if it can, else the daemon, kept until the next open
//! ... if it is small    one each        the kernel reads if it can, else the daemon, and nothing is kept
//! ```

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use fuser::{BackingId, FileHandle, FopenFlags, INodeNo, OpenAccMode, OpenFlags};

use super::super::errno::Refusal;
use super::super::options::Caching;
use super::live::{ask, live};
use super::open_file::{OpenFile, Size};
use super::{TreeFilesystem, seek};
use crate::os::File;
use crate::view::tree::{Content, Node};

/// What an open is answered with: a handle, and the file where there is one behind it.
pub(super) type Opened = (u64, Option<Arc<OpenFile<BackingId>>>, FopenFlags);

impl TreeFilesystem {
    /// Opens a file for reading only (M3). `register` tells the kernel of a file that it can read itself.
    pub(super) fn open_file(
        &self,
        ino: INodeNo,
        flags: OpenFlags,
        register: impl FnOnce(BorrowedFd<'_>) -> io::Result<BackingId>,
    ) -> Result<Opened, Refusal<'static>> {
        let node = self.node(ino)?;
        if node.is_directory() {
            return Err(Refusal::IsDirectory);
        }
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            return Err(Refusal::Write);
        }
        let file: Arc<dyn File> = match &node.content {
            Content::Live(file) => {
                let file = ask(node, || file.open())?;
                // Whoever opens it sees what it is then, and not up to a second before.
                self.notifier.forget_attributes(node.id);
                file
            }
            Content::Held(held) => held.file.clone(),
            Content::Directory(_)
            | Content::Paged(_)
            | Content::Bytes(_)
            | Content::Link(_)
            | Content::Special(_) => return Ok((0, None, self.daemon_flags(node))),
        };
        let size = Size::of(file.as_ref());
        let (handle, open) = self.files.insert(node.id, file, size, register);
        let flags = match (&open.backing, open.size) {
            // The kernel takes no word about its cache here, which it does not use.
            (Some(_), _) => FopenFlags::FOPEN_NOFLUSH,
            // To fill the cache, and to ask whether it still counts, takes longer than to read.
            (None, Size::Small) if live(node).is_some() => {
                FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH
            }
            (None, _) => self.daemon_flags(node),
        };
        Ok((handle, Some(open), flags))
    }

    /// Opens a directory for listing.
    pub(super) fn open_listing(
        &self,
        ino: INodeNo,
    ) -> Result<(FileHandle, FopenFlags), Refusal<'static>> {
        let node = self.node(ino)?;
        let Content::Directory(children) = &node.content else {
            return Err(Refusal::NotDirectory);
        };
        // The kernel may keep names for ever. But whoever lists live files asks for their attributes next,
        // which a listing from here tells of hundreds at a time, and one from its cache of none.
        let mut nodes = children.values().filter_map(|id| self.tree.node(*id));
        let has_live = self.figures.has_live && nodes.any(|node| live(node).is_some());
        let flags = match has_live {
            true => FopenFlags::empty(),
            false => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
        };
        Ok((FileHandle(self.listings.insert(node.id)), flags))
    }

    /// How the kernel treats a file that is read through the daemon.
    fn daemon_flags(&self, node: &Node) -> FopenFlags {
        // After the end a cache that reads under way may have filled again must not be kept. Nor is that
        // of a live file, of which every open shows what it is then.
        let is_still = live(node).is_none() && !self.ended.contains(node.id);
        let caching = match self.options.caching {
            Caching::Direct => FopenFlags::FOPEN_DIRECT_IO,
            Caching::PageCache if is_still => FopenFlags::FOPEN_KEEP_CACHE,
            Caching::PageCache => FopenFlags::empty(),
        };
        caching | FopenFlags::FOPEN_NOFLUSH
    }

    /// Where the next data or hole is in an open file.
    pub(super) fn seek(
        &self,
        ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
    ) -> Result<i64, Refusal<'static>> {
        let node = self.node(ino)?;
        match &node.content {
            Content::Held(held) => seek::seek_in(held.file.as_ref(), offset, whence),
            Content::Live(_) => {
                let open = self.files.get(handle.0).ok_or(Refusal::BadHandle)?;
                seek::seek_in(open.file.as_ref(), offset, whence)
            }
            Content::Paged(_) | Content::Bytes(_) => seek::seek(node.size(), offset, whence),
            Content::Directory(_) | Content::Link(_) | Content::Special(_) => {
                Err(Refusal::BadArgument)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};

    use super::super::super::options::MountOptions;
    use super::super::{EndedNodes, LateNotifier, StatusSource, fixture};
    use super::*;
    use crate::os::path::Metadata;
    use crate::view::tree::{LiveError, LiveFile, NodeId};

    #[derive(Debug)]
    struct Gone;

    impl LiveFile for Gone {
        fn stat(&self) -> Result<Metadata, LiveError> {
            Err(LiveError::Gone)
        }

        fn open(&self) -> Result<Arc<dyn File>, LiveError> {
            Err(LiveError::Gone)
        }

        fn xattr_names(&self) -> Result<Vec<OsString>, LiveError> {
            Err(LiveError::Gone)
        }

        fn xattr(&self, _name: &OsStr) -> Result<Option<Vec<u8>>, LiveError> {
            Err(LiveError::Gone)
        }
    }

    /// M8: a listing from the kernel's cache has no attributes, and each file is then asked for alone.
    #[test]
    fn only_listings_without_live_files_are_kept_by_the_kernel() {
        let mut tree = fixture::tree();
        fixture::put_content(&mut tree, "live", 50, Content::Live(Arc::new(Gone)));
        let empty = tree.lookup(NodeId::ROOT, "empty".as_ref()).unwrap().id;
        let (ended, _stale) = EndedNodes::new();
        let status = StatusSource::new(String::new);
        let (options, late) = (MountOptions::default(), LateNotifier::default());
        let filesystem = TreeFilesystem::new(Arc::new(tree), options, status, ended, late);
        let is_kept = |id: u64| {
            let (_, flags) = filesystem.open_listing(INodeNo(id)).unwrap();
            flags.contains(FopenFlags::FOPEN_CACHE_DIR)
        };
        assert!(is_kept(empty.0));
        assert!(!is_kept(NodeId::ROOT.0));
        let file = filesystem.open_listing(INodeNo(50));
        assert!(matches!(file, Err(Refusal::NotDirectory)));
    }
}
