//! The one seam to the operating system: files, directories, clock, randomness, sockets, mounts.
//!
//! Both processes use it. Everything that touches a file of an engine, a shadow or a pin goes through
//! [`Disk`] and [`File`], so that the same code runs on the real disk and on the simulated one, which
//! loses what was not synced. System calls and `unsafe` stay inside this folder.
//!
//! * O1 A successful `write_all_at` is seen by every later read, and survives a crash of the machine
//!   only after `sync_data` of that file returned.
//! * O2 A name made, renamed or removed survives a crash only after `sync_dir` of its folder.
//! * O3 After a failed sync nothing is known of what was written since the last good one.
//!
//! Nothing here waits for another process, except where a function says so.

pub mod beneath;
pub mod cache;
pub mod clock;
pub mod confinement;
pub mod descriptor;
pub mod dir_edit;
pub mod dir_removal;
pub mod event_queue;
pub mod extent;
pub mod file_system;
pub mod file_times;
pub mod file_user;
pub mod folder;
pub mod large_pages;
pub mod lock_table;
pub mod machine;
pub mod media;
pub mod mount_table;
pub mod mounting;
pub mod path;
pub mod priority;
pub mod process;
pub mod process_map;
pub mod random;
pub mod range_lock;
pub mod readiness;
pub mod real_disk;
pub mod record_lock;
pub mod reflink;
pub mod secret_file;
pub mod sim;
pub mod trust;
pub mod unix_socket;
mod write_back;
pub mod xattr;

#[cfg(test)]
mod conformance;
mod host;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use self::host::SimulatedHost;

/// Device and inode of a file: what "the same file" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// How a file is opened. All are close-on-exec; none follows a symbolic link in the last part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Reading; the file must exist.
    Read,
    /// Reading and writing; the file must exist.
    ReadWrite,
    /// Reading and writing; the file must not exist and is made with mode 0600.
    CreateNew,
    /// A directory, for its lock only.
    Directory,
}

/// A whole-file advisory lock, bound to the open file and not to the process (`flock`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// Many holders at once.
    Shared,
    /// One holder.
    Exclusive,
}

/// An open file. Reads and writes are positioned; many threads may use one handle.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `out.len()` bytes; fewer at the end of the file or by the kernel's whim.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Reads what lies in a row into several buffers, one after the other, at once; fewer bytes as by
    /// [`Self::read_at`]. Errors: `Unsupported` where that cannot be done.
    fn read_vectored_at(&self, _out: &mut [IoSliceMut<'_>], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Writes up to `bytes.len()` bytes, growing the file as needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes content and size durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Has `bytes` bytes from `offset` on go to the disk now, and waits for it, where that can be done. They
    /// are no more durable for it (O1); a later `sync_data` has less to do. After an error as after one
    /// of `sync_data` (O3).
    fn write_back(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
    /// Has `bytes` bytes from `offset` on go to the disk from now on, where that can be done, and waits only
    /// where the disk has no room for more requests. Nothing of it counts before a `sync_data`. After an error
    /// as after one of `sync_data` (O3): it may be told here alone.
    fn start_write_back(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
    /// Cuts or grows the file to `bytes`.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Gives the space of `bytes` bytes from `offset` on back to the file system: they read as zeros
    /// until they are written again, and the size stays. Errors: `Unsupported` where the file system
    /// cannot; the file is then as before.
    fn punch(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The size in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the size is 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Which file this is.
    fn identity(&self) -> io::Result<FileIdentity>;
    /// Takes a lock without waiting; `false` if somebody else holds one that excludes it.
    ///
    /// The lock ends with the last descriptor of this open file, in whatever process.
    fn try_lock(&self, kind: LockKind) -> io::Result<bool>;
    /// The descriptor, where there is one; a simulated file has none.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A file system.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens `path`.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// A private file in `dir` that has no name and goes with its last handle.
    fn unnamed(&self, dir: &Path) -> io::Result<Arc<dyn File>>;
    /// Makes a directory with mode 0700. Errors: `AlreadyExists`.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory. Errors: `DirectoryNotEmpty`, `NotADirectory`.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Renames a file over `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name. Errors: `AlreadyExists`; where the file system has no such names.
    fn link(&self, file: &Path, name: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    /// Makes the names of a directory durable (`fsync` of the directory).
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that an unprivileged writer may still use on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// Time. Wall time is for people and for mtimes; durations come from the monotonic clock.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Nanoseconds since 1970-01-01 UTC.
    fn wall_ns(&self) -> u64;
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
    /// What the calling thread has had of the processors; nothing where time is simulated.
    fn thread_cpu(&self) -> Duration {
        Duration::ZERO
    }
    /// Blocks the calling thread.
    fn sleep(&self, duration: Duration);
}

/// Unpredictable bytes.
pub trait Random: Send + Sync + fmt::Debug {
    /// Fills `out`. Errors: the system's.
    fn fill(&self, out: &mut [u8]) -> io::Result<()>;
}

/// The machine that an engine runs on: real, or simulated from a seed.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its file system.
    pub disk: Arc<dyn Disk>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its randomness.
    pub random: Arc<dyn Random>,
}

/// Reads until `out` is full or the file ends; returns how many bytes are there.
///
/// Errors: the first that is not `Interrupted`.
pub fn read_up_to(file: &dyn File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads exactly `out.len()` bytes. Errors: `UnexpectedEof` where the file ends before.
pub fn read_exact_at(file: &dyn File, out: &mut [u8], offset: u64) -> io::Result<()> {
    if read_up_to(file, out, offset)? == out.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Writes all of `bytes`. Errors: the first that is not `Interrupted`; a part may then be written.
pub fn write_all_at(file: &dyn File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
