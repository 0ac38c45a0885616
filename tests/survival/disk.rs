//! A disk with a write cache that forgets: a FUSE file system with one file, for a loop device.
//!
//! What was written is on the medium only after a flush. When the power goes, of what was written since
//! the last flush each sector of 512 bytes is there or not, as a seed has it, in whatever order it was
//! written; from then on everything fails until the power is back.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use parking_lot::Mutex;

use crate::load::Random;

/// Name of the file.
pub const IMAGE: &str = "image";
/// The least that a disk writes or loses.
const SECTOR: usize = 512;
/// How content is kept in memory; blocks that were never written are zeros and not there.
const BLOCK: u64 = 4096;
const INODE: INodeNo = INodeNo(2);
const FOR_EVER: Duration = Duration::from_secs(3600);

/// The bytes of a disk.
#[derive(Clone)]
pub struct Medium {
    blocks: Vec<Option<Box<[u8]>>>,
}

impl Medium {
    pub fn new(bytes: u64) -> Self {
        let count = usize::try_from(bytes / BLOCK).unwrap();
        Self {
            blocks: vec![None; count],
        }
    }

    fn bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK
    }

    fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let block = &mut self.blocks[usize::try_from(offset / BLOCK).unwrap()];
            let block = block.get_or_insert_with(|| vec![0; 4096].into_boxed_slice());
            let at = usize::try_from(offset % BLOCK).unwrap();
            let count = bytes.len().min(block.len() - at);
            block[at..at + count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            offset += count as u64;
        }
    }

    fn read(&self, offset: u64, count: usize) -> Vec<u8> {
        let end = self.bytes().min(offset + count as u64);
        let mut out = Vec::with_capacity(count);
        let mut at = offset;
        while at < end {
            let within = usize::try_from(at % BLOCK).unwrap();
            let count = usize::try_from((BLOCK - at % BLOCK).min(end - at)).unwrap();
            match &self.blocks[usize::try_from(at / BLOCK).unwrap()] {
                Some(block) => out.extend_from_slice(&block[within..within + count]),
                None => out.resize(out.len() + count, 0),
            }
            at += count as u64;
        }
        out
    }
}

/// What happens to what was written and not flushed when the power goes.
#[derive(Clone, Copy, Debug)]
pub enum Unflushed {
    /// It is lost.
    Lost,
    /// Each write is there or not.
    Writes,
    /// Each sector is there or not.
    Sectors,
    /// The first so many of a hundred writes are there, and a part of the next.
    Begun(u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    Off,
}

/// What a flush does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Brings everything to the medium.
    Honest,
    /// Says so.
    Lying,
}

/// When the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// At once.
    Now,
    /// When so many writes are in the cache.
    Cached(usize),
    /// Instead of the flush after so many.
    Flush(u64),
}

struct State {
    power: Power,
    plan: Option<(Moment, Unflushed, Random)>,
    /// Writes that were in the cache when the power went.
    at_risk: usize,
    flush: Flush,
    /// What survives.
    medium: Medium,
    /// What is read: the medium and the cache.
    seen: Medium,
    /// The write cache, in the order of the writes.
    unflushed: Vec<(u64, Box<[u8]>)>,
    flushes: u64,
}

impl State {
    fn cut(&mut self, unflushed: Unflushed, mut random: Random) {
        let count = self.unflushed.len();
        for (number, (offset, bytes)) in self.unflushed.drain(..).enumerate() {
            let whole = match unflushed {
                Unflushed::Lost => Some(false),
                Unflushed::Writes => Some(random.below(2) == 0),
                Unflushed::Sectors => None,
                Unflushed::Begun(percent) => {
                    let edge = count * usize::try_from(percent).unwrap() / 100;
                    (number != edge).then_some(number < edge)
                }
            };
            for (sector, bytes) in bytes.chunks(SECTOR).enumerate() {
                if whole.unwrap_or_else(|| random.below(2) == 0) {
                    let offset = offset + (sector * SECTOR) as u64;
                    self.medium.write(offset, bytes);
                }
            }
        }
        self.seen = self.medium.clone();
        self.power = Power::Off;
        self.at_risk = count;
    }

    /// Lets the power go if this is the moment.
    fn cut_as_planned(&mut self) {
        if let Some((_, unflushed, random)) = self.plan.take() {
            self.cut(unflushed, random);
        }
    }
}

/// The handle by which a test holds the plug.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    pub fn new(medium: Medium) -> Self {
        Self(Arc::new(Mutex::new(State {
            power: Power::On,
            plan: None,
            at_risk: 0,
            flush: Flush::Honest,
            seen: medium.clone(),
            medium,
            unflushed: Vec::new(),
            flushes: 0,
        })))
    }

    /// Serves it as the file `image` in `point`.
    pub fn mount(&self, point: &Path) -> std::io::Result<BackgroundSession> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("forgetful-disk".to_owned())];
        config.n_threads = Some(2);
        fuser::spawn_mount(FuseDisk(self.clone()), point, &config)
    }

    /// Lets the power go at a moment to come.
    pub fn plan_cut(&self, moment: Moment, unflushed: Unflushed, random: Random) {
        self.0.lock().plan = Some((moment, unflushed, random));
    }

    pub fn is_off(&self) -> bool {
        self.0.lock().power == Power::Off
    }

    /// The power goes, if it has not gone as planned. Gives how many writes were in the cache.
    pub fn cut(&self, unflushed: Unflushed, random: Random) -> usize {
        let mut state = self.0.lock();
        if state.power == Power::On {
            let (_, unflushed, random) =
                state
                    .plan
                    .take()
                    .unwrap_or((Moment::Now, unflushed, random));
            state.cut(unflushed, random);
        }
        state.at_risk
    }

    /// The power is back.
    pub fn restore(&self) {
        self.0.lock().power = Power::On;
    }

    pub fn set_flush(&self, flush: Flush) {
        self.0.lock().flush = flush;
    }

    /// How often it was flushed.
    pub fn flushes(&self) -> u64 {
        self.0.lock().flushes
    }

    fn read(&self, offset: u64, count: usize) -> Option<Vec<u8>> {
        let state = self.0.lock();
        (state.power == Power::On).then(|| state.seen.read(offset, count))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Option<()> {
        let mut state = self.0.lock();
        let end = offset.checked_add(bytes.len() as u64)?;
        if state.power == Power::Off || end > state.seen.bytes() {
            return None;
        }
        state.seen.write(offset, bytes);
        state.unflushed.push((offset, bytes.into()));
        let cached = state.unflushed.len();
        if matches!(state.plan, Some((Moment::Cached(most), ..)) if cached >= most) {
            state.cut_as_planned();
        }
        Some(())
    }

    fn flush(&self) -> Option<()> {
        let mut state = self.0.lock();
        let state = &mut *state;
        match &mut state.plan {
            Some((Moment::Flush(0), ..)) => state.cut_as_planned(),
            Some((Moment::Flush(left), ..)) => *left -= 1,
            _ => {}
        }
        if state.power == Power::Off {
            return None;
        }
        state.flushes += 1;
        if state.flush == Flush::Honest {
            for (offset, bytes) in state.unflushed.drain(..) {
                state.medium.write(offset, &bytes);
            }
        }
        Some(())
    }

    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_root = inode == INodeNo::ROOT;
        let size = if is_root {
            0
        } else {
            self.0.lock().seen.bytes()
        };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_root {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if is_root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

struct FuseDisk(Disk);

impl Filesystem for FuseDisk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == IMAGE {
            reply.entry(&FOR_EVER, &self.0.attributes(INODE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOR_EVER, &self.0.attributes(inode));
    }

    /// The kernel keeps nothing of it: what is lost is not to be seen.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.read(offset, size as usize) {
            Some(bytes) => reply.data(&bytes),
            None => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.write(offset, data) {
            Some(()) => reply.written(u32::try_from(data.len()).unwrap()),
            None => reply.error(Errno::EIO),
        }
    }

    /// Somebody closes the file: that is no promise.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.0.flush() {
            Some(()) => reply.ok(),
            None => reply.error(Errno::EIO),
        }
    }
}
