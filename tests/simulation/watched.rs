//! A disk that lets somebody else act between two calls: one thread, every interleaving of I/O.
//!
//! Engine and reader share nothing but files, so what a reader can see of an engine is decided between
//! two calls to the disk. A hook that runs there is as good as a second thread, and repeats exactly.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use stillfs::os::{Disk, File, FileIdentity, LockKind, OpenMode};

/// What is about to happen on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Change,
    /// A change of a file of the shadow: no lock that a commit needs is held then.
    ShadowChange,
}

type Hook = Box<dyn FnMut(Call) + Send>;

/// Where a hook is hung up. What the hook itself does on the disk calls no hook.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<Option<Hook>>>);

impl Watch {
    /// Runs `act` with `hook` in place.
    pub(crate) fn during<T>(
        &self,
        hook: impl FnMut(Call) + Send + 'static,
        act: impl FnOnce() -> T,
    ) -> T {
        *self.0.lock() = Some(Box::new(hook));
        let outcome = act();
        // It may own a pin, whose end calls the disk: it goes with nothing locked.
        let hook = self.0.lock().take();
        drop(hook);
        outcome
    }

    fn call(&self, call: Call) {
        let Some(mut hook) = self.0.lock().take() else {
            return;
        };
        hook(call);
        *self.0.lock() = Some(hook);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct WatchedDisk<D> {
    pub(crate) disk: D,
    pub(crate) watch: Watch,
}

#[derive(Debug)]
struct WatchedFile {
    file: Arc<dyn File>,
    is_of_shadow: bool,
    watch: Watch,
}

impl<D> WatchedDisk<D> {
    fn wrap(&self, file: Arc<dyn File>, path: &Path) -> Arc<dyn File> {
        Arc::new(WatchedFile {
            file,
            is_of_shadow: path.parent().is_some_and(|dir| dir.ends_with("shadow")),
            watch: self.watch.clone(),
        })
    }

    fn before_change(&self) -> &D {
        self.watch.call(Call::Change);
        &self.disk
    }
}

impl<D: Disk> Disk for WatchedDisk<D> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        if mode == OpenMode::CreateNew {
            self.watch.call(Call::Change);
        }
        Ok(self.wrap(self.disk.open(path, mode)?, path))
    }

    fn unnamed(&self, dir: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(self.disk.unnamed(dir)?, dir))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.before_change().create_dir(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.before_change().remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.before_change().remove_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.before_change().rename(from, to)
    }

    fn link(&self, file: &Path, name: &Path) -> io::Result<()> {
        self.before_change().link(file, name)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.before_change().sync_dir(dir)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path)
    }
}

impl WatchedFile {
    fn before_change(&self) -> &dyn File {
        self.watch.call(if self.is_of_shadow {
            Call::ShadowChange
        } else {
            Call::Change
        });
        &*self.file
    }
}

impl File for WatchedFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.watch.call(Call::Read);
        self.file.read_at(out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.before_change().write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.before_change().sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.before_change().set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.file.identity()
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<bool> {
        self.file.try_lock(kind)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
