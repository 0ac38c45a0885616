//! How a file is opened, and where its data is: by whom its bytes are read follows from that.
//!
//! ```text
//! pinned pages, bytes   no descriptor   the daemon reads; the kernel keeps what it has read
//! file of our own       one each        the kernel reads if it can, else as above
//! live file             one each        the kernel reads if it can, else the daemon, kept until the next open
//! ... if it is small    one each        the daemon reads, and nothing is kept
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
