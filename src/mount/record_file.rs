//! The files of the registry and of the kernel's own file systems: every file that `mount` touches
//! by name, except `/dev/fuse`, goes through here.
//!
//! Records live on a tmpfs or are worth nothing after a reboot, so nothing is synced.

#![allow(
    clippy::disallowed_methods,
    reason = "records need O_NOFOLLOW, hard links and their directory's owner; one file to re-route"
)]

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::os::process::effective_user;

/// Most bytes that a record may have; a longer one is not ours.
pub(super) const RECORD_BYTES_MAX: u64 = 64 << 10;

/// What is wrong with a directory that should be private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirFault {
    /// A link, or no directory at all.
    NotDirectory,
    /// It belongs to somebody else.
    Owner(u32),
    /// Others may look or write.
    Mode(u32),
}

/// Makes `dir` with mode 0700 unless it exists; then says what is wrong with it, if anything.
pub(super) fn private_dir(dir: &Path) -> io::Result<Option<DirFault>> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    dir_fault(dir)
}

/// What is wrong with `dir`, which should be private, if anything.
pub(super) fn dir_fault(dir: &Path) -> io::Result<Option<DirFault>> {
    // The directory itself is looked at, not what a link in a shared /tmp may point to.
    let metadata = fs::symlink_metadata(dir)?;
    let mode = metadata.mode() & 0o7777;
    Ok(if !metadata.is_dir() {
        Some(DirFault::NotDirectory)
    } else if metadata.uid() != effective_user() {
        Some(DirFault::Owner(metadata.uid()))
    } else if mode & 0o077 != 0 {
        Some(DirFault::Mode(mode))
    } else {
        None
    })
}

/// Whether `dir` is a directory of this user's, no link to one.
pub(super) fn is_own_dir(dir: &Path) -> bool {
    fs::symlink_metadata(dir)
        .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == effective_user())
}

/// Makes a file of mode 0600 with `bytes` in it, locked exclusively; on a full disk none is left.
///
/// Errors: `AlreadyExists`; the system's.
pub(super) fn create_held(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let filled = file.try_lock().map_err(io::Error::from);
    if let Err(error) = filled.and_then(|()| file.write_all(bytes)) {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}

/// Everything in a directory, in no order.
pub(super) fn paths(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect()
}

/// Opens a record for reading; `None` if there is none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The content of a record, as far as a record may be long.
pub(super) fn content(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether somebody else holds the lock of the file exclusively, right now.
pub(super) fn is_held(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// What came of removing a record that seems dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// It is gone, or was gone already.
    Gone,
    /// Somebody holds it; whoever only looks lets go at once.
    Held,
}

/// Removes the record at `path` unless it is held. Whoever removes a name holds the exclusive lock
/// of the very file that has it, so that a record published meanwhile is never removed.
pub(super) fn remove_unheld(path: &Path) -> io::Result<Removal> {
    let Some(file) = open(path)? else {
        return Ok(Removal::Gone);
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(Removal::Held),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    remove_own(path, &file).map(|()| Removal::Gone)
}

/// Removes the name `path` if it still is that of `file`, whose exclusive lock the caller holds.
pub(super) fn remove_own(path: &Path, file: &File) -> io::Result<()> {
    let held = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => {
            fs::remove_file(path)
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives the file at `from` the name `to` as well. Errors: `AlreadyExists`.
pub(super) fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)
}

/// Removes a name that only this process knows.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// Writes a value to a file of `/sys`.
pub(super) fn write_kernel_file(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

/// Opens a device for reading and writing.
pub(super) fn open_device(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}
