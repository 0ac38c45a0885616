//! Taking a pin: the four steps of docs/design.md, joined here because engine and shadow do not
//! know each other.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::database::error::DatabaseError;
use crate::database::pin_options::PinOptions;
use crate::database::state::State;
use crate::engine::header::HEADER_BYTES;
use crate::engine::{Engine, Header, Snapshot};
use crate::fault::{self, Fault};
use crate::id::PinId;
use crate::lsn::{Lsn, Timestamp};
use crate::os::{Disk, File, OpenMode};
use crate::page::PageNo;
use crate::shadow::index::IndexHeader;
use crate::shadow::{EndReason, HeldPin};
use crate::view::{LiveHeader, LiveIdentity, PinnedFile};

/// What taking a pin cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinTimes {
    /// Time under the commit lock: all that a writer can feel of a pin.
    pub commit_lock: Duration,
    /// Time from the closing of the gate to its opening: all that a checkpoint can feel.
    pub gate_closed: Duration,
    /// Time until the log was durable through the pin's commit.
    pub total: Duration,
}

/// A pin that was taken: granted, active, and held by whoever has this.
#[derive(Debug)]
pub(super) struct TakenPin {
    pub(super) held: Arc<HeldPin>,
    pub(super) token: [u8; 32],
    pub(super) times: PinTimes,
    /// The reader at S that kept its versions during the spill.
    pub(super) snapshot: Snapshot,
}

/// Takes a pin at the newest commit.
///
/// Errors: `MaxAge`, `ShadowLimit`, `Shadow` or `Engine`; the pin is then ended, and nothing is left of
/// it.
pub(super) fn take(state: &State, options: &PinOptions) -> Result<TakenPin, DatabaseError> {
    let refuses_pins = state.refuses_pins.read();
    if *refuses_pins {
        return Err(DatabaseError::Exchanging);
    }
    options.check(state.engine.page_size())?;
    let token = random_32(&state.engine)?;
    let held = prepare(state, token, options)?;
    let taken = spill_and_grant(state, &held);
    match taken {
        Ok((times, snapshot)) => {
            tracing::info!(
                pin = %held.header().pin,
                commit_lock_ns = times.commit_lock.as_nanos(),
                gate_closed_ns = times.gate_closed.as_nanos(),
                total_ns = times.total.as_nanos(),
                "took a pin"
            );
            Ok(TakenPin {
                held,
                token,
                times,
                snapshot,
            })
        }
        Err(error) => {
            state.shadow.end(&held, EndReason::Refused)?;
            Err(error)
        }
    }
}

/// Step 0: the index file, with no lock that a commit needs.
fn prepare(
    state: &State,
    token: [u8; 32],
    options: &PinOptions,
) -> Result<Arc<HeldPin>, DatabaseError> {
    let id = random_32(&state.engine)?;
    let mut pin = [0; 16];
    pin.copy_from_slice(&id[..16]);
    let identity = state.engine.identity();
    let header = IndexHeader {
        page_size: state.engine.page_size(),
        database: identity.database,
        history: identity.history,
        pin: PinId(pin),
        token_digest: Sha256::digest(token).into(),
        accepted_epochs: state.epochs,
        timestamp: Timestamp(0),
        lsn: Lsn::ZERO,
        page_count: 0,
        wall_ns: 0,
        live: state.live,
        granted: false,
        on_full: options.on_full,
        slots: state.shadow.slots_identity()?,
        taken: state.engine.host().clock.monotonic(),
        max_age: Some(options.max_age),
        shadow_limit_bytes: options.shadow_limit_bytes,
        live_sequence: 0,
    };
    Ok(state.shadow.prepare(header)?)
}

/// Steps 1 to 3.
fn spill_and_grant(
    state: &State,
    held: &Arc<HeldPin>,
) -> Result<(PinTimes, Snapshot), DatabaseError> {
    let clock = &state.engine.host().clock;
    let begun = clock.monotonic();
    let frozen = state.engine.freeze();
    let closed = clock.monotonic();
    // Step 1, D1: the commit, the reader that keeps its versions, and the capture, at one moment.
    let (snapshot, commit_lock) = frozen.snapshot(|point| {
        held.fix(|header| {
            header.timestamp = point.timestamp;
            header.lsn = point.lsn;
            header.page_count = point.page_count;
            header.wall_ns = point.wall_ns;
        });
        state.shadow.activate(held);
    });
    state.engine.note_pinned(snapshot.point());
    // Step 2, D2: every page whose version at S is not the live one.
    let header = state.engine.header();
    held.fix(|facts| facts.live_sequence = header.sequence);
    state.shadow.write_header(held)?;
    let header = header.of_view(snapshot.point());
    let copies = match fault::is(Fault::HeaderNotSpilled) {
        true => &[][..],
        false => &[PageNo(0), PageNo(1)],
    };
    for &copy in copies {
        state.shadow.spill(held, copy, &header.encode(copy))?;
    }
    let at = if fault::is(Fault::SpillNewest) {
        Lsn::MAX
    } else {
        snapshot.point().lsn
    };
    let missed = usize::from(fault::is(Fault::SpillMissesPage));
    for page in snapshot.unwritten_pages().into_iter().skip(missed) {
        if let Some(image) = snapshot.unwritten(page, at)? {
            state.shadow.spill(held, page, &image)?;
        }
    }
    drop(frozen);
    let opened = clock.monotonic();
    // Step 3: nobody may see a commit that a crash could take away.
    // A commit that was durable before a sync failed is no ground for a pin after it: nobody knows
    // what the live file holds. The pin is active, so a failure from here on ends it.
    state.engine.settle(snapshot.point())?;
    state.shadow.sync_index(held)?;
    state.shadow.bound(held);
    held.grant();
    state.shadow.write_header(held)?;
    let total = clock.monotonic().saturating_sub(begun);
    let times = PinTimes {
        commit_lock,
        gate_closed: opened.saturating_sub(closed),
        total,
    };
    Ok((times, snapshot))
}

fn random_32(engine: &Engine) -> Result<[u8; 32], DatabaseError> {
    let mut bytes = [0; 32];
    engine
        .host()
        .random
        .fill(&mut bytes)
        .map_err(|source| DatabaseError::Io {
            op: "draw random numbers for",
            what: "a pin",
            source,
        })?;
    Ok(bytes)
}

/// The three files of a pin, opened anew for reading only: live file, slots, index.
///
/// Errors: `Io`; `Moved` if a path leads to another file than the engine has open.
pub(super) fn open_files(
    state: &State,
    disk: &dyn Disk,
    held: &HeldPin,
) -> Result<[Arc<dyn File>; 3], DatabaseError> {
    let open = |path: &std::path::Path, what: &'static str, expected: crate::os::FileIdentity| {
        let failed = |source| DatabaseError::Io {
            op: "open",
            what,
            source,
        };
        let file = disk.open(path, OpenMode::Read).map_err(failed)?;
        if file.identity().map_err(failed)? == expected {
            Ok(file)
        } else {
            Err(DatabaseError::Moved {
                what,
                path: path.to_owned(),
            })
        }
    };
    let slots = state.shadow.slots_identity()?;
    let index = held.identity()?;
    Ok([
        open(state.engine.data_path(), "data.pages", state.live)?,
        open(&state.shadow.slots_path(), "shadow/slots", slots)?,
        open(held.path(), "the pin's index", index)?,
    ])
}

/// The view of a pin in this process.
pub(super) fn open_view(state: &State, held: &HeldPin) -> Result<PinnedFile, DatabaseError> {
    let disk = state.engine.host().disk.clone();
    let [live, slots, index] = open_files(state, &*disk, held)?;
    Ok(PinnedFile::open(
        live,
        slots,
        index,
        Arc::new(NativeHeader),
    )?)
}

/// How the merged read understands the header of a native live file.
#[derive(Clone, Copy, Debug)]
pub struct NativeHeader;

impl LiveHeader for NativeHeader {
    fn decode(&self, bytes: &[u8]) -> Option<LiveIdentity> {
        let Header {
            database,
            history,
            epoch,
            sequence,
            ..
        } = Header::decode(bytes).ok()?;
        Some(LiveIdentity {
            database,
            history,
            epoch,
            sequence,
        })
    }

    fn bytes(&self) -> usize {
        HEADER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Database, EngineOptions};
    use crate::engine::error::EngineError;
    use crate::os::sim::{Fault as DiskFault, Faults, Operation};
    use crate::os::{Host, SimulatedHost};

    const EIO: i32 = 5;

    /// A database with one commit.
    fn committed(seed: u64) -> (SimulatedHost, Database) {
        let simulated = Host::simulated(seed);
        let database =
            Database::open_on(&simulated.host, "/db", &EngineOptions::default()).unwrap();
        let mut write = database.begin_write().unwrap();
        write.put("t", b"key", b"value").unwrap();
        write.commit().unwrap();
        (simulated, database)
    }

    /// E8, D4: after a failed sync of the live file its pages may fall back to what the disk holds,
    /// so a pin that relies on them is refused, although its commit was durable long before.
    #[test]
    fn pin_is_refused_after_a_failed_sync_of_the_live_file() {
        let (simulated, database) = committed(11);
        let held = database.pin().unwrap();
        let fault = DiskFault::errno(Operation::SyncData, EIO).on("data.pages");
        simulated.disk.set_faults(Faults::none().with(fault));
        database.checkpoint().unwrap_err();
        assert_eq!(held.ended(), Some(EndReason::Poisoned));
        let refused = database.pin().unwrap_err();
        assert!(
            matches!(refused, DatabaseError::Engine(EngineError::Poisoned { .. })),
            "{refused}"
        );
        assert_eq!(database.stats().pins, 0);
    }

    /// D2: an entry of the spill that the kernel could lose would show an older page that is valid in
    /// itself; so a pin whose index cannot be made durable is refused.
    #[test]
    fn pin_is_refused_if_its_index_cannot_be_synced() {
        let (simulated, database) = committed(14);
        // The log is durable through the commit, so the next sync is that of the index.
        let fault = DiskFault::errno(Operation::SyncData, EIO);
        simulated.disk.set_faults(Faults::none().with(fault));
        let refused = database.pin().unwrap_err();
        assert!(matches!(refused, DatabaseError::Shadow(_)), "{refused}");
        assert_eq!(database.stats().pins, 0);
        assert_eq!(database.stats().shadow_slots, 0);
        database.pin().unwrap();
    }

    /// S3: where nobody knows whether an index is cut, nothing makes it long again: its entries would
    /// be zeros, and zeros say that the live page is the pinned one.
    #[test]
    fn index_that_may_be_cut_is_not_written_again() {
        let simulated = Host::simulated(13);
        let database =
            Database::open_on(&simulated.host, "/db", &EngineOptions::default()).unwrap();
        let shadow = database.handle.state.shadow.clone();
        let held = prepare(&database.handle.state, [7; 32], &PinOptions::default()).unwrap();
        shadow.activate(&held);
        shadow.write_header(&held).unwrap();
        let fault = DiskFault::errno(Operation::SetLen, EIO);
        simulated.disk.set_faults(Faults::none().with(fault));
        shadow.end(&held, EndReason::Broken).unwrap_err();
        assert_eq!(held.ended(), None, "the end is not visible yet");
        held.grant();
        shadow.write_header(&held).unwrap_err();
        shadow.spill(&held, PageNo(0), &[0; 8192]).unwrap_err();
        shadow.end(&held, EndReason::Broken).unwrap();
        assert_eq!(held.ended(), Some(EndReason::Broken));
        assert_eq!(shadow.slot_counts().0, 0, "no slot is lost by it");
    }

    /// E8: a failed sync of the log ends every pin, also when it is the checkpoint's own sync.
    #[test]
    fn failed_sync_of_a_sealed_segment_ends_the_pins() {
        let (simulated, database) = committed(12);
        let held = database.pin().unwrap();
        // The commit is durable, so the first sync that follows is the one that seals the segment.
        let fault = DiskFault::errno(Operation::SyncData, EIO);
        simulated.disk.set_faults(Faults::none().with(fault));
        database.checkpoint().unwrap_err();
        assert!(database.engine().is_poisoned());
        assert_eq!(held.ended(), Some(EndReason::Poisoned));
    }

    /// D4: a commit that a crash could take away is no ground for a pin, however complete the spill is.
    #[test]
    fn pin_of_a_commit_that_cannot_be_made_durable_is_refused() {
        let simulated = Host::simulated(15);
        let database =
            Database::open_on(&simulated.host, "/db", &EngineOptions::default()).unwrap();
        let put = |value: &[u8]| {
            let mut write = database.begin_write().unwrap();
            write.put("t", b"key", value).unwrap();
            write
        };
        put(b"value").commit().unwrap();
        put(b"other").commit_unsynced();
        let fault = DiskFault::errno(Operation::SyncData, EIO).on("0000000000000001.wal");
        simulated.disk.set_faults(Faults::none().with(fault));
        let refused = database.pin().unwrap_err();
        assert!(
            matches!(refused, DatabaseError::Engine(EngineError::Poisoned { .. })),
            "{refused}"
        );
        assert_eq!(database.stats().pins, 0);
    }
}
