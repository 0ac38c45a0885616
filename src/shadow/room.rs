//! How much the slot file may grow before free space on its file system is at the floor.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::fault::{self, Fault};
use crate::os::Disk;

/// Growth between two looks at the file system, at most.
const LOOK_BYTES: u64 = 1 << 20;

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Room {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    floor_bytes: u64,
    /// What may still be taken without another look.
    budget: Mutex<u64>,
}

impl Room {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, floor_bytes: u64) -> Self {
        Self {
            disk,
            dir,
            floor_bytes,
            budget: Mutex::default(),
        }
    }

    pub(super) fn floor_bytes(&self) -> u64 {
        self.floor_bytes
    }

    /// Whether the slot file may grow by `bytes`, which then count as used. Cost: a look at the file
    /// system for each [`LOOK_BYTES`], and for each refusal.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let mut budget = self.budget.lock();
        if *budget < bytes {
            *budget = self.above_floor().min(LOOK_BYTES.max(bytes));
        }
        match budget.checked_sub(bytes) {
            Some(left) => *budget = left,
            None => return false,
        }
        true
    }

    /// What was seen is old: the next growth looks again.
    pub(super) fn forget(&self) {
        *self.budget.lock() = 0;
    }

    /// Free bytes above the floor. Where the file system does not say, there is no floor: a disk that is
    /// full says so by itself.
    pub(super) fn above_floor(&self) -> u64 {
        let free = self.free_bytes().unwrap_or(u64::MAX);
        match fault::is(Fault::FloorIgnored) {
            true => free,
            false => free.saturating_sub(self.floor_bytes),
        }
    }

    /// Free bytes of the file system; `None` where it does not say.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let mut found = self.disk.free_bytes(&self.dir);
        if matches!(&found, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            // Somebody removed the folder; its files are still open.
            let parent = self.dir.parent();
            found = parent.map_or(found, |parent| self.disk.free_bytes(parent));
        }
        found
            .inspect_err(|error| {
                tracing::warn!(%error, dir = %self.dir.display(), "cannot tell the free space");
            })
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::os::sim::{Fault, Faults, Operation, SimDisk};

    const FLOOR: u64 = 10 << 20;

    fn room(disk: &SimDisk) -> Room {
        disk.create_dir(Path::new("/db")).unwrap();
        disk.create_dir(Path::new("/db/shadow")).unwrap();
        Room::new(Arc::new(disk.clone()), "/db/shadow".into(), FLOOR)
    }

    /// L1: not a byte more than what is free above the floor, though it is not looked at each time.
    #[test]
    fn growth_ends_at_the_floor_and_seldom_looks() {
        let disk = SimDisk::new(1);
        let room = room(&disk);
        disk.set_capacity(Some(FLOOR + (5 << 20) + 100));
        let mut taken = 0;
        while room.take(4096) {
            taken += 4096;
            // As if it had been written.
            disk.set_capacity(Some(FLOOR + (5 << 20) + 100 - taken));
        }
        assert_eq!(taken, 5 << 20);
        assert!(disk.count(Operation::FreeBytes) < 12, "of 1280 pages");
        disk.set_capacity(Some(FLOOR + 4096));
        assert!(room.take(4096), "space that returns is seen at once");
        disk.set_capacity(Some(FLOOR - 1));
        assert!(!room.take(4096));
    }

    /// A folder that somebody removed, or a file system that does not answer, ends no pin.
    #[test]
    fn unknown_free_space_is_no_floor() {
        let disk = SimDisk::new(1);
        let room = Room::new(Arc::new(disk.clone()), "/db/shadow".into(), FLOOR);
        disk.create_dir(Path::new("/db")).unwrap();
        assert!(room.free_bytes().is_some(), "of the folder above");
        let failing = Fault::kind(Operation::FreeBytes, io::ErrorKind::Other).times(u64::MAX);
        disk.set_faults(Faults::none().with(failing));
        assert!(room.take(4096));
        assert_eq!(room.free_bytes(), None);
    }
}
