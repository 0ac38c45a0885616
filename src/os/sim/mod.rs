//! A disk in memory that loses what was not synced.
//!
//! Only tests run it. Everything that happens on it follows from its seed, the calls and the plan of
//! faults; with one thread, a run repeats exactly.
//!
//! ```text
//!  process A: SimDisk, SimFile --+                  +-- page cache   what every call sees
//!  process B: SimDisk, SimFile --+-- World (mutex) -+-- pending      what a crash may lose
//!                                                   +-- durable      what a crash leaves
//! ```
//!
//! * X1 What was synced survives every crash. A sync of a file covers its data and size, not its name;
//!   a sync of a directory covers the names in it, not what they name.
//! * X2 Of what was not synced, each sector of 512 bytes, each change of a size and each change of a
//!   name is on the disk or not, whatever the others are, and in any order. A sector is never torn; a
//!   rename is never half done, and one file's changes of name stay in order, as a journal keeps them.
//! * X3 After a sync that failed, each change that it should have covered is on the disk or lost for
//!   good: a later sync does not bring it back, though reads go on to show it. `EINTR` loses nothing.
//! * X4 A process that is killed loses its handles and locks, and no data.
//! * X5 Handles of a machine or process that is gone fail, and cannot change what comes after.
//!
//! One mutex guards a disk; nothing waits while it holds it. There are no symbolic links, no hard
//! links, no descriptors, no owners and no times; `..` in a path is refused.

mod content;
mod fault;
mod file;
mod names;
mod world;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use parking_lot::{Mutex, MutexGuard};

pub use self::fault::{Fault, Faults, Operation};
use self::file::{Access, SimFile};
use self::world::{Node, ProcessId, Stopped, World};
use crate::os::{Disk, File, OpenMode};

/// A simulated disk, as one process sees it. Clones belong to the same process.
#[derive(Clone, Debug)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    process: ProcessId,
}

impl SimDisk {
    /// An empty disk without limit, with its first process.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::of_world(World::new(seed))
    }

    fn of_world(mut world: World) -> Self {
        let process = world.start_process();
        Self {
            world: Arc::new(Mutex::new(world)),
            process,
        }
    }

    /// The same disk, seen by a process that lives and dies by itself.
    #[must_use]
    pub fn another_process(&self) -> Self {
        let process = self.world.lock().start_process();
        Self {
            world: Arc::clone(&self.world),
            process,
        }
    }

    /// Kills this process, as `kill -9` does; returns the disk for the process that comes after it.
    #[must_use]
    pub fn process_crash(&self) -> Self {
        self.world.lock().kill(self.process);
        self.another_process()
    }

    /// Stops the machine; returns the disk that it finds when it starts again.
    ///
    /// Every seed gives one of the states that X2 allows. The plan of faults is gone.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        let mut world = self.world.lock();
        world.power_off();
        Self::of_world(world.crashed(seed))
    }

    /// The disk that would be found if the machine stopped here; the machine goes on.
    #[must_use]
    pub fn image_after_crash(&self, seed: u64) -> Self {
        Self::of_world(self.world.lock().crashed(seed))
    }

    /// Whether `error` says that the simulated machine or process is gone.
    #[must_use]
    pub fn is_stopped(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
    }

    /// Replaces the plan of what goes wrong; it counts from now.
    pub fn set_faults(&self, faults: Faults) {
        self.world.lock().faults = faults;
    }

    /// Limits what files may occupy, in bytes (blocks of 4096 are counted), or lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world.lock().set_capacity(bytes);
    }

    /// How often any process made such a call since the disk was made, failed ones included.
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        self.world
            .lock()
            .counts
            .get(&operation)
            .copied()
            .unwrap_or(0)
    }

    /// How many changes (see [`Faults::power_off_before_change`]) were made since the disk was made.
    #[must_use]
    pub fn change_count(&self) -> u64 {
        self.world.lock().changes
    }

    fn begin(
        &self,
        operation: Operation,
        path: &Path,
        is_change: bool,
    ) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.world.lock();
        let name = path.file_name().unwrap_or(OsStr::new("/"));
        world.begin(self.process, operation, name, is_change)?;
        Ok(world)
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut world = self.begin(Operation::Open, path, mode == OpenMode::CreateNew)?;
        let (inode, access) = match mode {
            OpenMode::CreateNew => {
                let at = world.place(path)?;
                (
                    world.link(at, Node::File(content::FileContent::default()))?,
                    Access::ReadWrite,
                )
            }
            OpenMode::Directory => (world.directory(path)?, Access::Directory),
            OpenMode::Read | OpenMode::ReadWrite => {
                let inode = world.node(path)?;
                if world.is_directory(inode) {
                    return Err(Errno::EISDIR.into());
                }
                let access = if mode == OpenMode::Read {
                    Access::Read
                } else {
                    Access::ReadWrite
                };
                (inode, access)
            }
        };
        let handle = world.open(inode, self.process);
        Ok(Arc::new(SimFile::new(
            self.clone(),
            inode,
            handle,
            access,
            path,
        )))
    }

    fn unnamed(&self, dir: &Path) -> io::Result<Arc<dyn File>> {
        let mut world = self.begin(Operation::Unnamed, dir, false)?;
        world.directory(dir)?;
        let inode = world.make(Node::File(content::FileContent::default()));
        let handle = world.open(inode, self.process);
        Ok(Arc::new(SimFile::new(
            self.clone(),
            inode,
            handle,
            Access::ReadWrite,
            dir,
        )))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.begin(Operation::CreateDir, path, true)?;
        let at = world.place(path)?;
        world.link(at, Node::Directory).map(drop)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.begin(Operation::Remove, path, true)?;
        let at = world.place(path)?;
        world.unlink(at)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.begin(Operation::Remove, path, true)?;
        let at = world.place(path)?;
        world.unlink_dir(at)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.begin(Operation::Rename, to, true)?;
        let (from, to) = (world.place(from)?, world.place(to)?);
        world.rename(from, to)
    }

    fn link(&self, file: &Path, name: &Path) -> io::Result<()> {
        let mut world = self.begin(Operation::Link, name, true)?;
        let (file, name) = (world.place(file)?, world.place(name)?);
        world.link_again(file, name)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let world = self.begin(Operation::List, dir, false)?;
        Ok(world.list(world.directory(dir)?))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        let name = dir.file_name().unwrap_or(OsStr::new("/"));
        let verdict = world.begin(self.process, Operation::SyncDir, name, true);
        if let Err(error) = verdict {
            if loses_changes(&error)
                && let Ok(inode) = world.directory(dir)
            {
                world.fail_sync_of_names(inode);
            }
            return Err(error);
        }
        let inode = world.directory(dir)?;
        world.sync_names(inode);
        Ok(())
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let world = self.begin(Operation::FreeBytes, path, false)?;
        world.node(path)?;
        Ok(world.free_bytes())
    }
}

/// Whether a sync that fails so has dropped what it could not write.
fn loses_changes(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::Interrupted && !SimDisk::is_stopped(error)
}

#[cfg(test)]
mod tests;
