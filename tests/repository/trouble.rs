//! What goes wrong while a repository works, at each call in turn.

use std::collections::BTreeMap;

use stillfs::os::Disk;
use stillfs::os::sim::{Fault, Faults, Operation, SimDisk};

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The call with this number fails; and all after it, or not.
    Error {
        operation: Operation,
        number: u64,
        errno: i32,
        times: u64,
    },
    /// The machine of the repository stops before the change with this number.
    PowerOff(u64),
    /// The process is killed before the change with this number.
    Kill(u64),
    /// Somebody cancels at the call with this number.
    Cancel(u64),
    /// The disk has so many bytes left.
    Room(u64),
}

pub(crate) const EIO: i32 = 5;
pub(crate) const ENOSPC: i32 = 28;

/// Calls that a repository makes.
const OPERATIONS: &[Operation] = &[
    Operation::Open,
    Operation::Unnamed,
    Operation::Read,
    Operation::Write,
    Operation::SetLen,
    Operation::Punch,
    Operation::SyncData,
    Operation::Lock,
    Operation::CreateDir,
    Operation::Remove,
    Operation::Rename,
    Operation::List,
    Operation::SyncDir,
    Operation::FreeBytes,
];

/// Calls that can find no space.
const NEED_SPACE: &[Operation] = &[
    Operation::Open,
    Operation::Write,
    Operation::SetLen,
    Operation::SyncData,
    Operation::CreateDir,
    Operation::Rename,
    Operation::SyncDir,
];

/// How many calls of each kind a job makes.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    operations: BTreeMap<Operation, u64>,
    changes: u64,
}

impl Calls {
    /// Those that were made on `disk` so far.
    pub(crate) fn so_far(disk: &SimDisk) -> Self {
        let count = |operation: &Operation| (*operation, disk.count(*operation));
        Self {
            operations: OPERATIONS.iter().map(count).collect(),
            changes: disk.change_count(),
        }
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        let operations = self.operations.iter();
        Self {
            operations: operations
                .map(|(operation, count)| (*operation, count - before.operations[operation]))
                .collect(),
            changes: self.changes - before.changes,
        }
    }

    fn total(&self) -> u64 {
        self.operations.values().sum()
    }

    /// EIO once and for ever at each call, ENOSPC from each call on that can find none.
    pub(crate) fn errors(&self) -> Vec<Trouble> {
        let mut all = Vec::new();
        for (operation, count) in &self.operations {
            for number in 0..*count {
                let error = |errno, times| Trouble::Error {
                    operation: *operation,
                    number,
                    errno,
                    times,
                };
                all.push(error(EIO, if number % 2 == 0 { 1 } else { u64::MAX }));
                if NEED_SPACE.contains(operation) {
                    all.push(error(ENOSPC, u64::MAX));
                }
            }
        }
        all.extend((0..8).map(|pages| Trouble::Room(pages * pages * 4096)));
        all
    }

    /// The machine and the process stop before each change.
    pub(crate) fn stops(&self) -> Vec<Trouble> {
        let both = |number| [Trouble::PowerOff(number), Trouble::Kill(number)];
        (0..self.changes).flat_map(both).collect()
    }

    /// Somebody cancels at each call.
    pub(crate) fn cancels(&self) -> Vec<Trouble> {
        (0..self.total()).map(Trouble::Cancel).collect()
    }
}

impl Trouble {
    /// Has it happen on `disk`.
    pub(crate) fn prepare(self, disk: &SimDisk) {
        match self {
            Self::Error {
                operation,
                number,
                errno,
                times,
            } => {
                let fault = Fault::errno(operation, errno).after(number).times(times);
                disk.set_faults(Faults::none().with(fault));
            }
            Self::PowerOff(number) => disk.set_faults(Faults::power_off_before_change(number)),
            Self::Kill(number) => disk.set_faults(Faults::kill_before_change(number)),
            Self::Cancel(_) => {}
            Self::Room(bytes) => {
                let large = 1 << 32;
                disk.set_capacity(Some(large));
                let free = disk.free_bytes("/".as_ref()).expect("a size");
                disk.set_capacity(Some(large - free + bytes));
            }
        }
    }
}
