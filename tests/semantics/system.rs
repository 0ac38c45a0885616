//! System calls that neither std nor nix offers here.

#![allow(
    clippy::host_endian_bytes,
    reason = "what the kernel writes into memory"
)]

use std::ffi::{CString, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// Memory whose address is a multiple of 4096.
pub struct Aligned {
    bytes: Vec<u8>,
    from: usize,
    count: usize,
}

impl Aligned {
    pub fn new(count: usize) -> Self {
        let bytes = vec![0; count + 4096];
        let from = bytes.as_ptr().align_offset(4096);
        Self { bytes, from, count }
    }

    pub fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.count]
    }
}

/// A mapping of a whole file.
pub struct Mapping {
    start: *mut c_void,
    count: usize,
}

impl Mapping {
    pub fn new(file: &File, count: usize, protection: c_int, flags: c_int) -> io::Result<Self> {
        let fd = file.as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(ptr::null_mut(), count, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, count })
    }

    /// Copied out, so that nothing is compared that changes meanwhile.
    pub fn bytes(&self) -> Vec<u8> {
        (0..self.count).map(|at| self.byte(at)).collect()
    }

    pub fn byte(&self, at: usize) -> u8 {
        assert!(at < self.count);
        let at = self.start.cast::<u8>().wrapping_add(at);
        // SAFETY: inside of the mapping, which lasts as long as self; a fault is what is tested.
        unsafe { ptr::read_volatile(at) }
    }

    pub fn set(&self, at: usize, byte: u8) {
        assert!(at < self.count);
        let at = self.start.cast::<u8>().wrapping_add(at);
        // SAFETY: inside of a private mapping that nobody else sees.
        unsafe { ptr::write_volatile(at, byte) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by us, and nobody uses it any more.
        unsafe { libc::munmap(self.start, self.count) };
    }
}

/// Names and the offsets after them, from one call with a buffer of `room` bytes.
pub fn getdents(directory: &File, room: usize) -> io::Result<Vec<(Vec<u8>, i64)>> {
    let mut buffer = vec![0_u8; room];
    // SAFETY: the kernel writes at most `room` bytes into the buffer.
    let count = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            buffer.as_mut_ptr(),
            room,
        )
    };
    let count = checked(isize::try_from(count).unwrap())?;
    let mut entries = Vec::new();
    let mut at = 0;
    while at < count {
        let offset = i64::from_ne_bytes(buffer[at + 8..at + 16].try_into().unwrap());
        let length = u16::from_ne_bytes(buffer[at + 16..at + 18].try_into().unwrap());
        let end = at + usize::from(length);
        let name = buffer[at + 19..end]
            .split(|byte| *byte == 0)
            .next()
            .unwrap();
        entries.push((name.to_vec(), offset));
        at = end;
    }
    Ok(entries)
}

pub fn sendfile(to: &File, from: &File, count: usize) -> io::Result<usize> {
    // SAFETY: both descriptors are open, and no offset is given.
    checked(unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), ptr::null_mut(), count) })
}

pub fn splice(from: &impl AsRawFd, to: &impl AsRawFd, count: usize) -> io::Result<usize> {
    let none = ptr::null_mut();
    // SAFETY: both descriptors are open, and no offset is given.
    checked(unsafe { libc::splice(from.as_raw_fd(), none, to.as_raw_fd(), none, count, 0) })
}

pub fn copy_file_range(from: &File, to: &File, count: usize) -> io::Result<usize> {
    let none = ptr::null_mut();
    // SAFETY: both descriptors are open, and no offset is given.
    checked(unsafe {
        libc::copy_file_range(from.as_raw_fd(), none, to.as_raw_fd(), none, count, 0)
    })
}

/// The value, or with no room its size.
pub fn getxattr(path: &Path, name: &str, room: usize) -> io::Result<(usize, Vec<u8>)> {
    let (path, name) = (text(path), CString::new(name).unwrap());
    let mut value = vec![0_u8; room];
    let into = value.as_mut_ptr().cast();
    // SAFETY: the strings end in zero, and the buffer has `room` bytes.
    let count = checked(unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), into, room) })?;
    value.truncate(count);
    Ok((count, value))
}

/// The names, or with no room their size.
pub fn listxattr(path: &Path, room: usize) -> io::Result<(usize, Vec<u8>)> {
    let path = text(path);
    let mut names = vec![0_u8; room];
    // SAFETY: the path ends in zero, and the buffer has `room` bytes.
    let count = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), room) };
    let count = checked(count)?;
    names.truncate(count);
    Ok((count, names))
}

pub fn setxattr(path: &Path, name: &str) -> io::Result<usize> {
    let (path, name) = (text(path), CString::new(name).unwrap());
    let value = b"1".as_ptr().cast();
    // SAFETY: the strings end in zero, and the value has one byte.
    let result = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value, 1, 0) };
    checked(result as isize)
}

pub fn fallocate(file: &File) -> io::Result<usize> {
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, 4096) } as isize)
}

/// A watch of `path` for every event; reads of it never wait.
pub fn inotify(path: &Path) -> OwnedFd {
    let path = text(path);
    // SAFETY: gives a new descriptor, or none.
    let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: the path ends in zero.
    let watched = unsafe { libc::inotify_add_watch(fd, path.as_ptr(), libc::IN_ALL_EVENTS) };
    assert!(watched >= 0);
    // SAFETY: nobody else owns the new descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The masks of all events that have come so far, as one.
pub fn events(watch: &OwnedFd) -> u32 {
    let mut mask = 0;
    let mut buffer = [0_u8; 4096];
    loop {
        let into = buffer.as_mut_ptr().cast();
        // SAFETY: the buffer has 4096 bytes.
        let count = unsafe { libc::read(watch.as_raw_fd(), into, buffer.len()) };
        let Ok(count) = usize::try_from(count) else {
            return mask;
        };
        let mut at = 0;
        while at < count {
            mask |= u32::from_ne_bytes(buffer[at + 4..at + 8].try_into().unwrap());
            let name = u32::from_ne_bytes(buffer[at + 12..at + 16].try_into().unwrap());
            at += 16 + usize::try_from(name).unwrap();
        }
    }
}

/// A lock of the kind that belongs to the open file (`F_OFD_SETLK`).
pub fn lock_region(file: &File, kind: c_int) -> io::Result<usize> {
    // SAFETY: zeros are a valid flock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(kind).unwrap();
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap();
    // SAFETY: the descriptor is open, and the lock outlives the call.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } as isize)
}
