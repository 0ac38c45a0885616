//! A tree as FUSE sees it: every request of the kernel is answered here.
//!
//! Runs in the mount daemon, on its session threads. The one place that implements
//! `fuser::Filesystem`; what is answered is decided by small functions beside it, which know no reply.
//!
//! Invariants M1 to M4, M8 and M9 of [`super`] are kept here. No lock is held while content is read.

mod attributes;
mod capability;
mod directory;
mod ended;
#[cfg(test)]
mod fixture;
mod live;
mod open_file;
mod opening;
mod read;
mod reply_buffer;
mod seek;
mod xattr;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BackingId, BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, Filesystem,
    Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use self::attributes::{BLOCK_BYTES, Figures};
pub(super) use self::capability::THREADS;
use self::capability::{Wanted, configure};
use self::directory::{Filled, Listing, OpenListings, Room};
pub(super) use self::ended::{EndedNodes, spawn_invalidator};
pub(super) use self::live::LateNotifier;
use self::live::{ASKED_TTL, NAMED_TTL, live};
use self::open_file::OpenFiles;
use self::reply_buffer::ReplyBuffers;
pub use self::xattr::StatusSource;
use self::xattr::XattrAnswer;
use super::MountOptions;
use super::errno::{Refusal, errno};
use super::options::{Audience, Permissions};
use crate::view::tree::{Content, Node, NodeId, Tree};

/// How long the kernel may keep attributes and names, absent names too: they never change (M1), but for
/// the attributes of live files (M8).
const TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// Longest name of a file, as statfs says.
const NAME_BYTES_MAX: u32 = 255;
/// A node number belongs to one file for as long as the mount lives.
const GENERATION: Generation = Generation(0);

/// A still tree behind `/dev/fuse`.
#[derive(Debug)]
pub(super) struct TreeFilesystem {
    tree: Arc<Tree>,
    figures: Figures,
    options: MountOptions,
    status: StatusSource,
    listings: OpenListings,
    files: OpenFiles<BackingId>,
    buffers: ReplyBuffers,
    ended: EndedNodes,
    notifier: LateNotifier,
}

impl TreeFilesystem {
    /// Serves `tree`; nodes whose pin is found ended are reported through `ended`.
    pub(super) fn new(
        tree: Arc<Tree>,
        options: MountOptions,
        status: StatusSource,
        ended: EndedNodes,
        notifier: LateNotifier,
    ) -> Self {
        Self {
            figures: Figures::of(&tree),
            tree,
            options,
            status,
            listings: OpenListings::default(),
            files: OpenFiles::new(),
            buffers: ReplyBuffers::default(),
            ended,
            notifier,
        }
    }

    fn node(&self, ino: INodeNo) -> Result<&Node, Refusal<'static>> {
        self.tree.node(NodeId(ino.0)).ok_or(Refusal::UnknownName)
    }

    /// How long the attributes of a node count that are told together with its name. While it is open
    /// they do not count at all, lest whoever lists a directory makes a reader's file older.
    fn named_ttl(&self, node: &Node) -> Duration {
        match live(node) {
            None => TTL,
            Some(_) if self.files.of_node(node.id).is_some() => ASKED_TTL,
            Some(_) => NAMED_TTL,
        }
    }

    fn listing(&self, handle: FileHandle) -> Result<Arc<Listing>, Refusal<'static>> {
        let list = |directory| Listing::of(&self.tree, self.tree.node(directory)?);
        let listing = self.listings.get(handle.0, list);
        listing.ok_or(Refusal::BadHandle)
    }

    /// What access(2) says where the kernel does not compare modes itself.
    fn may_access(&self, ino: INodeNo, mask: AccessFlags) -> Result<(), Refusal<'static>> {
        let node = self.node(ino)?;
        if mask.contains(AccessFlags::W_OK) {
            return Err(Refusal::Write);
        }
        if mask.contains(AccessFlags::X_OK) && self.attr_of(node).perm & 0o111 == 0 {
            return Err(Refusal::Denied);
        }
        Ok(())
    }

    /// What is asked of the kernel for this tree and mount.
    fn wanted(&self) -> Wanted {
        let Figures {
            has_live, has_held, ..
        } = self.figures;
        Wanted {
            has_live,
            has_descriptors: has_live || has_held,
            has_permissions: self.options.permissions == Permissions::Checked
                || self.options.audience == Audience::Everybody,
        }
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
        if configure(config, self.wanted()) {
            self.files.allow_backing();
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let parent_node = match self.node(parent) {
            Ok(node) => node,
            Err(refusal) => return reply.error(errno(&refusal)),
        };
        // The kernel passes on names that are longer than what statfs says.
        if name.len() > NAME_BYTES_MAX as usize {
            return reply.error(errno(&Refusal::LongName));
        }
        match self.tree.lookup(NodeId(parent.0), name) {
            Some(node) => {
                let (ttl, attr) = (self.named_ttl(node), self.attr_of(node));
                reply.entry_with_ttls(&ttl, &TTL, &attr, GENERATION);
            }
            // Node 0 means "there is none", and lets the kernel remember that: SQLite asks for its
            // journal at every read transaction.
            None => {
                let ino = INodeNo(0);
                let attr = self.attr_of(parent_node);
                reply.entry(&TTL, &FileAttr { ino, ..attr }, GENERATION);
            }
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino) {
            Ok(node) => {
                let ttl = if live(node).is_some() { ASKED_TTL } else { TTL };
                reply.attr(&ttl, &self.attr_of(node));
            }
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
        match self.open_file(ino, flags, |fd| reply.open_backing(fd)) {
            Ok((handle, open, flags)) => {
                let backing = open.as_ref().and_then(|open| open.backing.as_ref());
                match backing {
                    Some(backing) => reply.opened_passthrough(FileHandle(handle), flags, backing),
                    None => reply.opened(FileHandle(handle), flags),
                }
            }
            Err(refusal) => reply.error(errno(&refusal)),
        }
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.remove(fh.0);
        reply.ok();
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let answer = |answer: Result<&[u8], Refusal<'_>>| match answer {
            Ok(bytes) => reply.data(bytes),
            Err(refusal) => reply.error(errno(&refusal)),
        };
        read::with_bytes(self, NodeId(ino.0), fh.0, offset, size, answer);
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.seek(ino, fh, offset, whence) {
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
            Ok((handle, flags)) => reply.opened(handle, flags),
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
            let (ttl, attr) = (self.named_ttl(node), self.attr_of(node));
            let full = reply.add(attr.ino, next, &entry.name, &ttl, &attr, GENERATION);
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
        let Figures { blocks, nodes, .. } = self.figures;
        // Nothing is free: what cannot be written to has no room. Live files count as they were listed.
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

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let answer = self.node(ino);
        let answer = answer.and_then(|node| xattr::list(node, req.uid(), size));
        send_xattr(reply, answer);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino).map(|node| &node.content) {
            Ok(Content::Link(target)) => reply.data(target.as_bytes()),
            Ok(_) => reply.error(errno(&Refusal::NotLink)),
            Err(refusal) => reply.error(errno(&refusal)),
        }
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
