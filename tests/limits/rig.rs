//! A database on a simulated machine, with many pages of few entries.

use stillfs::database::{Database, EngineOptions, OnFull, Pin, PinOptions};
use stillfs::os::sim::SimDisk;
use stillfs::os::{Disk, Host, OpenMode, SimulatedHost, read_exact_at};
use stillfs::page::PageSize;
use stillfs::view::tree::{RangeRead, ReadError};

pub(crate) const PAGE_BYTES: u64 = 4096;
pub(crate) const MIB: u64 = 1 << 20;

/// A machine with a database whose floor is 1 MiB.
pub(crate) struct Rig {
    pub(crate) machine: SimulatedHost,
    pub(crate) database: Database,
}

impl Rig {
    /// `log_bytes_max` bounds the log; checkpoints run when they are asked for.
    pub(crate) fn new(seed: u64, log_bytes_max: u64) -> Self {
        let machine = Host::simulated(seed);
        let database = open(&machine, log_bytes_max);
        Self { machine, database }
    }

    /// The database as the next process finds it.
    pub(crate) fn reopen(machine: &SimulatedHost) -> Database {
        open(machine, u64::MAX)
    }

    /// One with `keys` entries in the live file.
    pub(crate) fn filled(seed: u64, keys: u32) -> Self {
        let rig = Self::new(seed, u64::MAX);
        rig.put(0..keys, 1);
        rig.database.checkpoint().expect("a checkpoint");
        rig
    }

    /// Sets the entries with these keys; two share a page.
    pub(crate) fn put(&self, keys: impl IntoIterator<Item = u32>, round: u32) {
        let mut write = self.database.begin_write().expect("a transaction");
        for key in keys {
            let value = [key, round].map(u32::to_le_bytes).concat().repeat(150);
            write.put("t", &key.to_be_bytes(), &value).expect("a put");
        }
        write
            .commit()
            .expect("a commit never fails for a pin's sake");
    }

    pub(crate) fn pin(&self, on_full: OnFull, limit_pages: Option<u64>) -> (Pin, Vec<u8>) {
        let options = PinOptions {
            on_full,
            shadow_limit_bytes: limit_pages.map(|pages| pages * PAGE_BYTES),
            ..PinOptions::default()
        };
        let pin = self.database.pin_with(&options).expect("a pin");
        let whole = whole(&pin).expect("its view");
        (pin, whole)
    }

    /// Commits until `is_over`: on a full disk what the log keeps to be used again goes before any pin.
    pub(crate) fn put_until(&self, is_over: impl Fn() -> bool) {
        for round in 1000..2000 {
            if is_over() {
                return;
            }
            self.put(0..10, round);
        }
        panic!("it does not end");
    }

    /// Leaves `bytes` free on the disk.
    pub(crate) fn leave_free(&self, bytes: u64) {
        let disk = &self.machine.disk;
        disk.set_capacity(Some(1 << 40));
        let used = (1 << 40) - free(disk);
        disk.set_capacity(Some(used + bytes));
        assert_eq!(free(disk), bytes);
    }

    pub(crate) fn live(&self) -> Vec<u8> {
        let path = std::path::Path::new("/db/data.pages");
        let file = self
            .machine
            .disk
            .open(path, OpenMode::Read)
            .expect("a file");
        let mut out = vec![0; usize::try_from(file.len().expect("a size")).expect("small")];
        read_exact_at(&*file, &mut out, 0).expect("its bytes");
        out
    }
}

fn open(machine: &SimulatedHost, log_bytes_max: u64) -> Database {
    let options = EngineOptions {
        page_size: PageSize::new(PAGE_BYTES).expect("a valid size"),
        checkpoint_bytes: u64::MAX,
        log_bytes_max,
        free_floor_bytes: Some(MIB),
        ..EngineOptions::default()
    };
    Database::open_on(&machine.host, "/db", &options).expect("a database")
}

pub(crate) fn free(disk: &SimDisk) -> u64 {
    disk.free_bytes("/db".as_ref()).expect("the free space")
}

pub(crate) fn whole(pin: &Pin) -> Result<Vec<u8>, ReadError> {
    let mut out = vec![0; usize::try_from(pin.view().size()).expect("small")];
    pin.view().read_range(0, &mut out)?;
    Ok(out)
}

pub(crate) fn is_over(pin: &Pin) -> bool {
    matches!(whole(pin), Err(ReadError::PinEnded { .. }))
}
