//! A disk between the log and the simulated one, through which a test sees and steers the calls.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use crate::os::{Disk, File, FileIdentity, Host, LockKind, OpenMode};

/// What a test does at the calls of interest.
pub(super) trait Watch: Send + Sync + fmt::Debug {
    /// A read of so many bytes is asked for, of a file that has `file_bytes`.
    fn read(&self, _bytes: usize, _file_bytes: u64) {}
    /// A write has returned; the file holds what was written up to `end`.
    fn wrote(&self, _end: u64) {}
    /// Syncs a file.
    fn sync(&self, file: &dyn File) -> io::Result<()> {
        file.sync_data()
    }
}

/// `host` with its disk watched.
pub(super) fn watched(host: &Host, watch: Arc<dyn Watch>) -> Host {
    let inner = host.disk.clone();
    Host {
        disk: Arc::new(WatchedDisk { inner, watch }),
        ..host.clone()
    }
}

#[derive(Debug)]
struct WatchedDisk {
    inner: Arc<dyn Disk>,
    watch: Arc<dyn Watch>,
}

#[derive(Debug)]
struct WatchedFile {
    inner: Arc<dyn File>,
    watch: Arc<dyn Watch>,
}

impl Disk for WatchedDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let (inner, watch) = (self.inner.open(path, mode)?, self.watch.clone());
        Ok(Arc::new(WatchedFile { inner, watch }))
    }
    fn unnamed(&self, dir: &Path) -> io::Result<Arc<dyn File>> {
        self.inner.unnamed(dir)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn link(&self, file: &Path, name: &Path) -> io::Result<()> {
        self.inner.link(file, name)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.inner.free_bytes(path)
    }
}

impl File for WatchedFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.watch.read(out.len(), self.inner.len()?);
        self.inner.read_at(out, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let written = self.inner.write_at(bytes, offset)?;
        self.watch.wrote(offset + written as u64);
        Ok(written)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.watch.sync(&*self.inner)
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn identity(&self) -> io::Result<FileIdentity> {
        self.inner.identity()
    }
    fn try_lock(&self, kind: LockKind) -> io::Result<bool> {
        self.inner.try_lock(kind)
    }
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.as_fd()
    }
}
