//! An open file of a simulated disk.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;

use super::fault::Operation;
use super::names::Inode;
use super::world::HandleId;
use super::{SimDisk, loses_changes};
use crate::os::{File, FileIdentity, LockKind};

/// The device of every simulated disk; a disk keeps it over crashes, as a disk in its slot does.
const DEVICE: u64 = 0x51;

/// What a handle may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    ReadWrite,
    Directory,
}

/// An open file description; its lock goes when it is dropped.
#[derive(Debug)]
pub(super) struct SimFile {
    disk: SimDisk,
    inode: Inode,
    handle: HandleId,
    access: Access,
    name: OsString,
}

impl SimFile {
    pub(super) fn new(
        disk: SimDisk,
        inode: Inode,
        handle: HandleId,
        access: Access,
        path: &Path,
    ) -> Self {
        let name = path.file_name().unwrap_or(OsStr::new("/")).to_owned();
        Self {
            disk,
            inode,
            handle,
            access,
            name,
        }
    }

    fn require_writable(&self, refusal: Errno) -> io::Result<()> {
        if self.access == Access::ReadWrite {
            Ok(())
        } else {
            Err(refusal.into())
        }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.world.lock().close(self.handle);
    }
}

impl File for SimFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.world.lock();
        let bytes_max = world.begin(self.disk.process, Operation::Read, &self.name, false)?;
        let length = out.len().min(bytes_max);
        Ok(world
            .file(self.inode)?
            .read(out.get_mut(..length).unwrap_or_default(), offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.world.lock();
        let bytes_max = world.begin(self.disk.process, Operation::Write, &self.name, true)?;
        self.require_writable(Errno::EBADF)?;
        if i64::try_from(offset).is_err() {
            return Err(Errno::EINVAL.into());
        }
        let bytes = bytes.get(..bytes_max).unwrap_or(bytes);
        if bytes.is_empty() {
            return Ok(0);
        }
        if i64::try_from(offset.saturating_add(bytes.len() as u64)).is_err() {
            return Err(Errno::EFBIG.into());
        }
        let free_blocks = world.free_blocks();
        let file = world.file(self.inode)?;
        let length = file.bytes_that_fit(offset, bytes.len(), free_blocks);
        if length == 0 {
            return Err(Errno::ENOSPC.into());
        }
        file.write(bytes.get(..length).unwrap_or(bytes), offset);
        Ok(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world.lock();
        let verdict = world.begin(self.disk.process, Operation::SyncData, &self.name, true);
        match (verdict, self.access) {
            (Ok(_), Access::Directory) => world.sync_names(self.inode),
            (Ok(_), _) => world.file(self.inode)?.sync(),
            (Err(error), access) => {
                match access {
                    _ if !loses_changes(&error) => {}
                    Access::Directory => world.fail_sync_of_names(self.inode),
                    _ => world.fail_sync_of_data(self.inode),
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// A start that fails loses what a failed sync would; one that does not makes nothing durable.
    fn start_write_back(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        let mut world = self.disk.world.lock();
        let operation = Operation::StartWriteBack;
        let verdict = world.begin(self.disk.process, operation, &self.name, false);
        if verdict.as_ref().is_err_and(loses_changes) {
            world.fail_sync_of_data(self.inode);
        }
        verdict.map(drop)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut world = self.disk.world.lock();
        world.begin(self.disk.process, Operation::SetLen, &self.name, true)?;
        self.require_writable(Errno::EINVAL)?;
        if i64::try_from(bytes).is_err() {
            return Err(Errno::EINVAL.into());
        }
        world.file(self.inode)?.set_len(bytes);
        Ok(())
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let mut world = self.disk.world.lock();
        world.begin(self.disk.process, Operation::Punch, &self.name, true)?;
        self.require_writable(Errno::EBADF)?;
        if bytes == 0 || i64::try_from(offset).is_err() || i64::try_from(bytes).is_err() {
            return Err(Errno::EINVAL.into());
        }
        world.file(self.inode)?.punch(offset, bytes);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut world = self.disk.world.lock();
        world.require_running(self.disk.process)?;
        Ok(world.file(self.inode)?.size())
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.disk.world.lock().require_running(self.disk.process)?;
        Ok(FileIdentity {
            device: DEVICE,
            inode: self.inode.0,
        })
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<bool> {
        let mut world = self.disk.world.lock();
        world.begin(self.disk.process, Operation::Lock, &self.name, false)?;
        world.try_lock(self.handle, kind)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
