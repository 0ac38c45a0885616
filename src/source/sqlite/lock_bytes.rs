//! Where SQLite locks what, and the locks that a pin takes there.
//!
//! ```text
//! database   0x40000000 PENDING   + 1 RESERVED   + 2 .. + 512 SHARED
//! -shm       120 WRITE   121 CHECKPOINT   122 RECOVER   123 .. 128 READ(0) .. READ(4)   128 dead man's switch
//! ```
//!
//! Source: SQLite's `os_unix.c` (`unixLock`) and `wal.c`.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::os::range_lock::{ByteRange, RangeHolder, obstacle, try_lock, unlock};
use crate::os::{Clock, File, LockKind, lock_table};
use crate::source::sqlite::format::PENDING_BYTE;

/// Who wants a SHARED lock passes through here, and who wants an EXCLUSIVE one keeps it.
pub(super) const PENDING: ByteRange = ByteRange::byte(PENDING_BYTE);
/// Held by whoever is about to write in rollback mode.
pub(super) const RESERVED: ByteRange = ByteRange::byte(PENDING_BYTE + 1);
/// Held shared by everybody who has the database open in WAL mode.
pub(super) const SHARED: ByteRange = ByteRange {
    start: PENDING_BYTE + 2,
    bytes: 510,
};
/// Held by the one writer.
pub(super) const WRITE: ByteRange = ByteRange::byte(120);
/// Held shared by everybody who uses the index: whoever finds it free makes the index anew.
pub(super) const DEAD_MAN: ByteRange = ByteRange::byte(128);

/// The lock of a read mark.
pub(super) fn read_mark(slot: usize) -> ByteRange {
    ByteRange::byte(123 + slot as u64)
}

/// The first pause of somebody who waits for a lock.
const PAUSE_MIN: Duration = Duration::from_micros(20);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// Pauses that grow, until patience is over.
#[derive(Debug)]
pub(super) struct BackOff<'a> {
    clock: &'a dyn Clock,
    until: Duration,
    pause: Duration,
}

impl<'a> BackOff<'a> {
    pub(super) fn new(clock: &'a dyn Clock, patience: Duration) -> Self {
        let until = clock.monotonic().saturating_add(patience);
        let pause = PAUSE_MIN;
        Self {
            clock,
            until,
            pause,
        }
    }

    /// Pauses; `false` if patience is over.
    pub(super) fn pause(&mut self) -> bool {
        if self.clock.monotonic() >= self.until {
            return false;
        }
        self.clock.sleep(self.pause);
        self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
        true
    }
}

/// Somebody who holds a lock, as far as that can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    process: Option<u32>,
}

impl Holder {
    /// The process, unless it is in another container or holds its lock by an open file.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.process
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(process) = self.process else {
            return f.write_str("a process that cannot be told (in another container perhaps)");
        };
        match lock_table::command_line(process) {
            Some(command) => write!(f, "process {process} ({})", command.escape_debug()),
            None => write!(f, "process {process}"),
        }
    }
}

/// Whoever is in the way of a lock of `kind`; `None` if nobody is any more. Errors: the system's.
pub(super) fn holder(
    file: &dyn File,
    kind: LockKind,
    range: ByteRange,
) -> io::Result<Option<Holder>> {
    let found = obstacle(file, kind, range)?;
    Ok(found.map(|RangeHolder { process, .. }| Holder { process }))
}

/// Takes the SHARED lock of the database as SQLite does, and waits for it up to `patience`. Gives who
/// was in the way if that was not enough; nothing is then locked.
///
/// Errors: the system's; nothing is locked.
pub(super) fn take_shared(
    database: &dyn File,
    clock: &dyn Clock,
    patience: Duration,
) -> io::Result<Option<Holder>> {
    let mut back_off = BackOff::new(clock, patience);
    loop {
        if try_shared(database)? {
            return Ok(None);
        }
        let found = match holder(database, LockKind::Shared, SHARED)? {
            None => holder(database, LockKind::Shared, PENDING)?,
            found => found,
        };
        if !back_off.pause() {
            return Ok(Some(found.unwrap_or(Holder { process: None })));
        }
    }
}

/// The way through PENDING keeps new readers from starving a writer that waits.
fn try_shared(database: &dyn File) -> io::Result<bool> {
    if !try_lock(database, LockKind::Shared, PENDING)? {
        return Ok(false);
    }
    let taken = try_lock(database, LockKind::Shared, SHARED);
    unlock(database, PENDING)?;
    taken
}

/// Gives the SHARED lock up. Errors: the system's.
pub(super) fn drop_shared(database: &dyn File) -> io::Result<()> {
    unlock(database, SHARED)
}
