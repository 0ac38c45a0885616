//! A tree as FUSE sees it: every request of the kernel is answered here.
//!
//! Runs in the mount daemon, on its 2 to 4 session threads. The one place that implements
//! `fuser::Filesystem`; what is answered is decided by small functions beside it, which know no reply.
//!
//! Invariants M1 to M4 of [`super`] are kept here. No lock is held while content is read.

mod attributes;
mod directory;
mod ended;
#[cfg(test)]
mod fixture;
mod read;
mod seek;
mod xattr;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use self::attributes::{BLOCK_BYTES, Totals, file_attr};
use self::directory::{Filled, Listing, OpenListings, Room};
pub(super) use self::ended::{EndedNodes, spawn_invalidator};
pub use self::xattr::StatusSource;
use self::xattr::XattrAnswer;
use super::errno::{Refusal, errno};
use super::options::Caching;
use crate::view::tree::{Node, NodeId, Tree};

/// How long the kernel may keep attributes and names, absent names too: they never change (M1).
const TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// Requests that the kernel may have under way on its own account, read-ahead above all.
const BACKGROUND_REQUESTS_MAX: u16 = 64;
/// Largest request; the kernel derives the size of reads from the size of writes.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Longest name of a file, as statfs says.
const NAME_BYTES_MAX: u32 = 255;
/// A node number belongs to one file for as long as the mount lives.
const GENERATION: Generation = Generation(0);

/// What is asked of the kernel if it offers it.
///
/// Not `ABORT_ERROR`: without it a session that was aborted ends like one that was unmounted. Not
/// `AUTO_INVAL_DATA`: nothing is invalidated unless a pin ends, and then explicitly.
const CAPABILITIES: [InitFlags; 7] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// A still tree behind `/dev/fuse`.
#[derive(Debug)]
pub(super) struct TreeFilesystem {
    tree: Arc<Tree>,
    totals: Totals,
    caching: Caching,
    status: StatusSource,
    listings: OpenListings,
    ended: EndedNodes,
}

impl TreeFilesystem {
    /// Serves `tree`; nodes whose pin is found ended are reported through `ended`.
    pub(super) fn new(
        tree: Arc<Tree>,
        caching: Caching,
        status: StatusSource,
        ended: EndedNodes,
    ) -> Self {
        Self {
            totals: Totals::of(&tree),
            tree,
            caching,
            status,
            listings: OpenListings::default(),
            ended,
        }
    }

    fn node(&self, ino: INodeNo) -> Result<&Node, Refusal<'static>> {
        self.tree.node(NodeId(ino.0)).ok_or(Refusal::UnknownName)
    }

    fn attr(&self, ino: INodeNo) -> Result<FileAttr, Refusal<'static>> {
        Ok(file_attr(&self.tree, self.node(ino)?))
    }

    /// How a file is opened: for reading only (M3).
    fn open_flags(&self, ino: INodeNo, flags: OpenFlags) -> Result<FopenFlags, Refusal<'static>> {
        let node = self.node(ino)?;
        if node.is_directory() {
            return Err(Refusal::IsDirectory);
        }
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            return Err(Refusal::Write);
        }
        // After the end a cache that reads under way may have filled again must not be kept.
        let caching = match self.caching {
            Caching::Direct => FopenFlags::FOPEN_DIRECT_IO,
            Caching::PageCache if self.ended.contains(node.id) => FopenFlags::empty(),
            Caching::PageCache => FopenFlags::FOPEN_KEEP_CACHE,
        };
        Ok(caching | FopenFlags::FOPEN_NOFLUSH)
    }

    fn open_listing(&self, ino: INodeNo) -> Result<FileHandle, Refusal<'static>> {
        let listing = Listing::of(&self.tree, self.node(ino)?).ok_or(Refusal::NotDirectory)?;
        Ok(FileHandle(self.listings.insert(listing)))
    }

    fn listing(&self, handle: FileHandle) -> Result<Arc<Listing>, Refusal<'static>> {
        self.listings.get(handle.0).ok_or(Refusal::BadHandle)
    }

    /// What access(2) says where the kernel does not compare modes itself.
    fn may_access(&self, ino: INodeNo, mask: AccessFlags) -> Result<(), Refusal<'static>> {
        let node = self.node(ino)?;
        if mask.contains(AccessFlags::W_OK) {
            return Err(Refusal::Write);
        }
        if mask.contains(AccessFlags::X_OK) && node.attributes.mode & 0o111 == 0 {
            return Err(Refusal::Denied);
        }
        Ok(())
    }
}

/// Asks for what helps and is offered.
fn configure(config: &mut KernelConfig) {
    for capability in CAPABILITIES {
        if config.add_capabilities(capability).is_err() {
            tracing::debug!(?capability, "the kernel does not offer a capability");
        }
    }
    // Each of these gives the nearest value that is possible, where the wanted one is not.
    if let Err(nearest) = config.set_max_background(BACKGROUND_REQUESTS_MAX) {
        let _ = config.set_max_background(nearest);
    }
    if let Err(nearest) = config.set_max_write(REQUEST_BYTES_MAX) {
        let _ = config.set_max_write(nearest);
    }
    if let Err(nearest) = config.set_max_readahead(REQUEST_BYTES_MAX) {
        let _ = config.set_max_readahead(nearest);
    }
}

fn send_xattr(reply: ReplyXattr, answer: Result<XattrAnswer, Refusal<'_>>) {
    match answer {
        Ok(XattrAnswer::Size(bytes)) => reply.size(bytes),
        Ok(XattrAnswer::Data(data)) => reply.data(&data),
        Err(refusal) => reply.error(errno(&refusal)),
    }
}

impl Filesystem for TreeFilesystem {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        configure(config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Err(refusal) = self.node(parent) {
            return reply.error(errno(&refusal));
        }
        // The kernel passes on names that are longer than what statfs says.
        if name.len() > NAME_BYTES_MAX as usize {
            return reply.error(errno(&Refusal::LongName));
        }
        match self.tree.lookup(NodeId(parent.0), name) {
            Some(node) => reply.entry(&TTL, &file_attr(&self.tree, node), GENERATION),
            // Node 0 means "there is none", and lets the kernel remember that: SQLite asks for its
            // journal at every read transaction.
            None => match self.attr(parent) {
                Ok(attr) => {
                    let ino = INodeNo(0);
                    reply.entry(&TTL, &FileAttr { ino, ..attr }, GENERATION);
                }
                Err(refusal) => reply.error(errno(&refusal)),
            },
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(refusal) => reply.error(errno(&refusal)),
        }
    }

    fn access(&self, _req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        match self.may_access(ino, mask) {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(errno(&refusal)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_flags(ino, flags) {
            Ok(flags) => reply.opened(FileHandle(0), flags),
            Err(refusal) => reply.error(errno(&refusal)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        read::with_bytes(self, NodeId(ino.0), offset, size, |answer| match answer {
            Ok(bytes) => reply.data(bytes),
            Err(refusal) => reply.error(errno(&refusal)),
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let found = self
            .node(ino)
            .and_then(|node| seek::seek(node.size(), offset, whence));
        match found {
            Ok(offset) => reply.offset(offset),
            Err(refusal) => reply.error(errno(&refusal)),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.open_listing(ino) {
            Ok(handle) => reply.opened(
                handle,
                FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(refusal) => reply.error(errno(&refusal)),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listing = match self.listing(fh) {
            Ok(listing) => listing,
            Err(refusal) => return reply.error(errno(&refusal)),
        };
        let filled = listing.fill(offset, |entry, next| {
            let full = reply.add(INodeNo(entry.id.0), next, entry.kind, &entry.name);
            if full { Room::Full } else { Room::Added }
        });
        match filled {
            Filled::Answer => reply.ok(),
            Filled::TooSmall => reply.error(errno(&Refusal::BadArgument)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let listing = match self.listing(fh) {
            Ok(listing) => listing,
            Err(refusal) => return reply.error(errno(&refusal)),
        };
        let filled = listing.fill(offset, |entry, next| {
            let Some(node) = self.tree.node(entry.id) else {
                return Room::Added;
            };
            let attr = file_attr(&self.tree, node);
            let full = reply.add(attr.ino, next, &entry.name, &TTL, &attr, GENERATION);
            if full { Room::Full } else { Room::Added }
        });
        match filled {
            Filled::Answer => reply.ok(),
            Filled::TooSmall => reply.error(errno(&Refusal::BadArgument)),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.remove(fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let block_bytes = u32::try_from(BLOCK_BYTES).expect("a block has 512 bytes");
        let Totals { blocks, nodes } = self.totals;
        // Nothing is free: what cannot be written to has no room.
        reply.statfs(
            blocks,
            0,
            0,
            nodes,
            0,
            block_bytes,
            NAME_BYTES_MAX,
            block_bytes,
        );
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let answer = self
            .node(ino)
            .and_then(|node| xattr::get(node, name, size, &self.status));
        send_xattr(reply, answer);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        send_xattr(
            reply,
            self.node(ino).and_then(|node| xattr::list(node, size)),
        );
    }

    fn readlink(&self, _req: &Request, _ino: INodeNo, reply: ReplyData) {
        reply.error(errno(&Refusal::NotLink));
    }

    // Without these the kernel does what it does for file systems that know nothing of them.

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: fuser::IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(errno(&Refusal::Unsupported));
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: fuser::PollNotifier,
        _events: fuser::PollEvents,
        _flags: fuser::PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(errno(&Refusal::Unsupported));
    }

    fn bmap(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _blocksize: u32,
        _idx: u64,
        reply: fuser::ReplyBmap,
    ) {
        reply.error(errno(&Refusal::Unsupported));
    }

    // From here on every operation would change something (M3).

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(errno(&Refusal::Write));
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(errno(&Refusal::Write));
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(errno(&Refusal::Write));
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(errno(&Refusal::Write));
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(&Refusal::Write));
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(&Refusal::Write));
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _link_name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(errno(&Refusal::Write));
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(&Refusal::Write));
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(errno(&Refusal::Write));
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(errno(&Refusal::Write));
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(&Refusal::Write));
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(errno(&Refusal::Write));
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(errno(&Refusal::Write));
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(&Refusal::Write));
    }
}
