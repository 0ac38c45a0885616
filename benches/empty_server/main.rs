//! A FUSE server that reads nothing: what the kernel leaves to any server, for `scripts/bench`.
//!
//! ```text
//! empty_server MOUNT_POINT BYTES [direct]   mounts a folder with one file `data.pages` of zeros
//! ```
//!
//! It asks of the kernel what `stillfs mount` does, with as many threads, and serves until it is unmounted.

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry,
    ReplyOpen, Request,
};

const TTL: Duration = Duration::from_secs(3600);
const NAME: &str = "data.pages";
const FILE: INodeNo = INodeNo(2);
const REQUEST_BYTES_MAX: u32 = 1 << 20;
const BACKGROUND_REQUESTS_MAX: u16 = 64;

#[derive(Debug)]
struct EmptyServer {
    file_bytes: u64,
    flags: FopenFlags,
    zeros: Vec<u8>,
}

impl EmptyServer {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let is_file = ino == FILE;
        let size = if is_file { self.file_bytes } else { 0 };
        FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: match is_file {
                true => FileType::RegularFile,
                false => FileType::Directory,
            },
            perm: if is_file { 0o444 } else { 0o555 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 8192,
            flags: 0,
        }
    }
}

impl Filesystem for EmptyServer {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ] {
            // What a kernel does not offer, stillfs goes without too.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        if let Err(nearest) = config.set_max_readahead(REQUEST_BYTES_MAX) {
            let _ = config.set_max_readahead(nearest);
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == NAME {
            true => reply.entry(&TTL, &self.attr(FILE), Generation(0)),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), self.flags);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.file_bytes.saturating_sub(offset);
        let bytes = usize::try_from(left.min(u64::from(size))).unwrap_or(0);
        match self.zeros.get(..bytes) {
            Some(zeros) => reply.data(zeros),
            None => reply.error(Errno::EINVAL),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `cargo test --benches` passes nothing.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (point, file_bytes, flags) = match &arguments[..] {
        [point, bytes] => (point, bytes, FopenFlags::FOPEN_KEEP_CACHE),
        [point, bytes, word] if word == "direct" => (point, bytes, FopenFlags::FOPEN_DIRECT_IO),
        _ => {
            println!("usage: scripts/bench");
            return Ok(());
        }
    };
    let server = EmptyServer {
        file_bytes: file_bytes.parse()?,
        flags,
        zeros: vec![0; REQUEST_BYTES_MAX as usize],
    };
    let mut config = Config::default();
    // As many as a session of `stillfs mount` has.
    config.n_threads = Some(4);
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoAtime,
        MountOption::FSName("empty_server".to_owned()),
    ];
    Ok(fuser::mount(server, point, &config)?)
}
