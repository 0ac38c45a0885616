//! The shadow: pre-images of pages that some pin still needs, and each pin's index of them.
//!
//! Runs in the engine's process. The mount daemon only reads what is written here, through
//! descriptors of its own (see `view`).
//!
//! ```text
//! shadow/slots          one image per slot, shared by all pins, keyed by (page, LSN)
//! shadow/<pin id>.pin   one u64 per page: 0 = not shadowed, else slot + 1 and the image's crc32
//! ```
//!
//! * S1 Before a live page is overwritten, every pin that needs its content has it: image written to
//!   a slot, fence, entry published in the index, fence; only then the overwrite. The last fence comes
//!   even where no pin is left: the end of one on another thread comes before the overwrite too.
//! * S2 A published entry never changes while its pin lasts.
//! * S3 The end of a pin is made visible (its index is cut to 0 bytes) before a slot of it is given
//!   to anybody else and before a live page is overwritten uncaptured for its sake. An index whose
//!   cut failed is never written again.
//! * S4 The engine decides from its own private copy of an index, never from what it reads back.
//! * S5 Slots are keyed by (page, LSN): an image is stored once, spilled or captured, for however many
//!   pins.
//! * S6 A pin that cannot be kept (no space, a failing disk) is ended visibly; if even that fails,
//!   nothing is overwritten.
//! * S7 A slot that a held pin of an earlier incarnation may use is filled anew only after that pin was
//!   adopted and ended. One that was not adopted keeps its slots until the slot file is made anew: the
//!   epoch fences its readers, but not those of a live file that was moved away.
//!
//! * L1 A pin keeps no more than its limit, and the slot file does not grow while free space on its file
//!   system is below the floor.
//! * L2 What a `hold` pin lacks is not overwritten until it has it or has ended; a checkpoint waits for
//!   it, and nobody else does.
//! * L3 At the log's limit the `hold` pins that hold a checkpoint up end, one by one, until it goes
//!   through: no writer waits for a pin.
//! * L4 On a full disk pins end one by one until there is space: those of `break` first, the oldest
//!   first, then those of `hold`.
//! * L5 A slot is cut or punched only while no pin holds it: it is held from before its entry is
//!   published until after the end of its last pin is visible (S3). So a reader of a held pin never
//!   finds a hole, and one of an ended pin learns of the end by its last look.
//!
//! Locking: the list of pins, then one pin's state, then the slot store. Nothing here waits for a
//! client, and no lock of it is taken by a commit, except the list's for one push when a pin
//! becomes active.
//!
//! Not here: the merged read (`view`), when to spill (`database`), the socket (`pin`).

mod adopt;
mod batch;
pub mod capture;
mod held;
pub mod index;
mod limit;
mod room;
mod slots;
mod tend;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use parking_lot::Mutex;

use crate::amount::Bytes;
use crate::fault::{self, Fault};
use crate::os::{Clock, Disk, File, FileIdentity, Host, LockKind, OpenMode};
use crate::page::{PageNo, PageSize};

pub use adopt::Takeover;
use adopt::{Candidate, Survey};
use batch::Batch;
pub use held::{EndReason, HeldPin, PinCounts, Tenure};
use index::{Entry, IndexHeader};
pub use limit::{Kept, Shortage};
use room::Room;
use slots::{FreeSlots, SlotStore};
pub use tend::CLAIM_PATIENCE;

/// What can go wrong with the shadow.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShadowError {
    /// The operating system refused.
    #[error("cannot {op} {file}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        file: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The pin has ended meanwhile.
    #[error("the pin ended ({0})")]
    Ended(EndReason),
    /// The pin's end was tried and could not be made visible; it must be tried again.
    #[error("the pin is ending, and its index could not be cut yet")]
    Ending,
    /// Free space is below the floor.
    #[error(
        "free space is {}, and pins leave {} free for commits: make room, or start the engine with a lower floor (serve --free-space-floor)",
        free_bytes.map_or("unknown".to_owned(), |free| Bytes(free).to_string()), Bytes(*floor_bytes)
    )]
    NoRoom {
        /// What is free.
        free_bytes: Option<u64>,
        /// What must stay free.
        floor_bytes: u64,
    },
    /// The pin has as many pages in the shadow as it may.
    #[error(
        "the shadow limit of {} is reached: allow the pin more (--shadow-limit), or pin when less has changed since the last checkpoint",
        Bytes(*limit_bytes)
    )]
    AtLimit {
        /// The limit.
        limit_bytes: u64,
    },
    /// A pin holds a checkpoint up.
    #[error("a pin has no room for a page and holds the checkpoint up")]
    Held,
    /// There are as many slots as entries can number.
    #[error("the shadow has no slot numbers left")]
    Exhausted,
}

impl ShadowError {
    fn io(op: &'static str, file: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { op, file, source }
    }
}

/// The shadow of one engine incarnation.
#[derive(Debug)]
pub struct Shadow {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    page_size: PageSize,
    slots: SlotStore,
    room: Room,
    clock: Arc<dyn Clock>,
    pins: Mutex<Vec<Arc<HeldPin>>>,
    tending: tend::Tending,
    /// The old pages of a batch, one behind the other; kept from one batch of a checkpoint to the next.
    old_pages: Mutex<Vec<u8>>,
    /// Publications that the injected fault holds back until the overwrite is done.
    late: Mutex<Vec<(Arc<HeldPin>, PageNo, Entry)>>,
}

impl Shadow {
    /// Opens the shadow in `dir` (made if missing) for a new incarnation: pins that are still held and
    /// qualify are gone on with, those that nobody holds are ended visibly, and any other is left as it
    /// is, for the epoch to fence (D5). Of the file system `floor_bytes` stay free.
    ///
    /// Errors: `Io`; then the live header must not carry the new epoch, because some index may accept it.
    pub fn open(
        host: &Host,
        dir: &Path,
        takeover: &Takeover,
        floor_bytes: u64,
    ) -> Result<Self, ShadowError> {
        let disk = host.disk.clone();
        match disk.create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(ShadowError::io("make", "shadow/")(error));
            }
            _ => {}
        }
        let Survey {
            candidates,
            strangers,
            slots: found,
        } = adopt::survey(&*disk, dir, takeover).map_err(ShadowError::io("list", "shadow/"))?;
        let mut pins = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            pins.extend(take_over(&*disk, candidate, takeover)?);
        }
        if fault::is(Fault::AdoptionSkipped) {
            pins.clear();
        }
        // S7: nothing tells of which live file a stranger is.
        let is_kept = !strangers.is_empty();
        let is_gone_on_with = !pins.is_empty() || is_kept && takeover.next.is_none();
        let slots = match found {
            Some(found) if is_gone_on_with => {
                let tail = if is_kept {
                    FreeSlots::None
                } else {
                    FreeSlots::Unclaimed
                };
                let owners = match fault::is(Fault::SlotsNotRebuilt) {
                    true => &[],
                    false => &pins[..],
                };
                SlotStore::restored(found, takeover.page_size, owners, tail)
            }
            _ => SlotStore::new(make_slots(&*disk, dir)?, takeover.page_size),
        };
        if !pins.is_empty() {
            tracing::info!(pins = pins.len(), "took over pins that are still held");
        }
        Ok(Self {
            room: Room::new(disk.clone(), dir.to_owned(), floor_bytes),
            clock: host.clock.clone(),
            disk,
            dir: dir.to_owned(),
            page_size: takeover.page_size,
            slots,
            pins: Mutex::new(pins),
            tending: tend::Tending::new(strangers),
            old_pages: Mutex::default(),
            late: Mutex::default(),
        })
    }

    /// Step 0 of a pin: makes its index file, not granted and not active, with a shared lock on it.
    ///
    /// Errors: `Io`.
    pub fn prepare(&self, header: IndexHeader) -> Result<Arc<HeldPin>, ShadowError> {
        self.room.forget();
        let path = self.dir.join(format!("{}.pin", header.pin));
        let create = || self.disk.open(&path, OpenMode::CreateNew);
        let file = create().or_else(|error| match error.kind() {
            // Somebody removed the folder: the pins of before have their files open.
            io::ErrorKind::NotFound => self.disk.create_dir(&self.dir).and_then(|()| create()),
            _ => Err(error),
        });
        let file = file.map_err(ShadowError::io("create", "a pin's index in shadow/"))?;
        Ok(Arc::new(HeldPin::new(file, path, header)))
    }

    /// Makes a pin active: from here on writeback captures for it. One push.
    pub fn activate(&self, pin: &Arc<HeldPin>) {
        self.pins.lock().push(pin.clone());
    }

    /// Stores the image of `page` at the pin's commit (step 2 of a pin).
    ///
    /// Errors: `NoRoom`, `AtLimit`, `Io`, `Exhausted`, `Ended`; the caller then ends the pin.
    pub fn spill(&self, pin: &HeldPin, page: PageNo, image: &[u8]) -> Result<(), ShadowError> {
        pin.refuse_beyond_limit(1)?;
        let (entry, _) = self.slots.acquire(page, image, &self.room)?;
        pin.count_spilled();
        self.put(pin, &[(page, entry)])
    }

    /// Publishes entries, or gives their slots back if the pin has ended meanwhile. After any other
    /// failure half of them may stand in the index: the pin keeps the slots until its end is visible.
    fn put(&self, pin: &HeldPin, entries: &[(PageNo, Entry)]) -> Result<(), ShadowError> {
        pin.publish(entries).inspect_err(|error| {
            if matches!(error, ShadowError::Ended(_) | ShadowError::Ending) {
                self.slots
                    .release(entries.iter().map(|(_, entry)| *entry).collect());
            }
        })
    }

    /// Writes the index header of a pin, granted or not, and makes the index long enough.
    pub fn write_header(&self, pin: &HeldPin) -> Result<(), ShadowError> {
        pin.write_header()
    }

    /// Makes the entries of the spill durable; before the pin is granted.
    ///
    /// Errors: `Io`; the caller then ends the pin.
    pub fn sync_index(&self, pin: &HeldPin) -> Result<(), ShadowError> {
        pin.sync()
    }

    /// Ends a pin by the one visible act (S3) and gives its slots back. Idempotent.
    ///
    /// Errors: `Io` if the index could not be cut; the pin then lasts, and so do its slots.
    pub fn end(&self, pin: &Arc<HeldPin>, reason: EndReason) -> Result<(), ShadowError> {
        struct Steps<'a>(&'a Shadow, &'a Arc<HeldPin>, EndReason);
        impl capture::EndSteps for Steps<'_> {
            type Freed = Vec<Entry>;
            type Error = ShadowError;
            fn cut_index(&self) -> Result<Vec<Entry>, ShadowError> {
                self.1.cut(self.2)
            }
            fn fence(&self) {
                fence(Ordering::SeqCst);
            }
            fn free_slots(&self, freed: Vec<Entry>) {
                if fault::is(Fault::SlotsReusedEarly) {
                    return;
                }
                self.0.slots.release(freed);
            }
        }
        if fault::is(Fault::SlotsReusedEarly) && pin.ended().is_none() {
            self.slots.release(pin.entries());
            fault::linger(Fault::SlotsReusedEarly);
        }
        let first = pin.ended().is_none();
        capture::end_pin(&Steps(self, pin, reason))?;
        self.pins.lock().retain(|other| !Arc::ptr_eq(other, pin));
        if first {
            tell_end(&pin.header(), reason);
            // The name is a convenience: the cut index is what counts.
            let _ = self.disk.remove(pin.path());
        }
        Ok(())
    }

    /// Ends every pin. Errors: the first `Io`; the others are ended all the same.
    pub fn end_all(&self, reason: EndReason) -> Result<(), ShadowError> {
        let pins = self.pins.lock().clone();
        pins.iter()
            .map(|pin| self.end(pin, reason))
            .fold(Ok(()), Result::and)
    }

    /// Keeps the pre-images of `pages` for every pin that needs them (S1). After `All` they may be
    /// overwritten.
    ///
    /// Errors: `Io` if a pin could be neither served nor ended.
    pub fn before_overwrite(&self, pages: &[PageNo], live: &dyn File) -> Result<Kept, ShadowError> {
        for (pin, page, entry) in self.late.lock().drain(..) {
            let _ = pin.publish(&[(page, entry)]);
        }
        if fault::is(Fault::CaptureOff) {
            return Ok(Kept::All);
        }
        let pins = self.pins.lock().clone();
        self.room.forget();
        let batch = Batch {
            shadow: self,
            live,
            pins: &pins,
            old_pages: RefCell::new(self.old_pages.lock()),
        };
        match capture::capture(&batch, pages) {
            Ok(()) => Ok(Kept::All),
            Err(ShadowError::Held) => Ok(Kept::NotYet),
            Err(error) => Err(error),
        }
    }

    /// The active pins.
    #[must_use]
    pub fn pins(&self) -> Vec<Arc<HeldPin>> {
        self.pins.lock().clone()
    }

    /// Slots in use, and bytes of the slot file.
    #[must_use]
    pub fn slot_counts(&self) -> (u64, u64) {
        self.slots.counts()
    }

    /// The path of the slot file, for handing it to a pin's holder.
    #[must_use]
    pub fn slots_path(&self) -> PathBuf {
        self.dir.join("slots")
    }

    /// Which file the slot file is.
    ///
    /// Errors: `Io`.
    pub fn slots_identity(&self) -> Result<FileIdentity, ShadowError> {
        let identity = self.slots.file().identity();
        identity.map_err(ShadowError::io("look at", "shadow/slots"))
    }

    /// The slot file itself.
    #[must_use]
    pub fn slots_file(&self) -> &Arc<dyn File> {
        self.slots.file()
    }
}

/// An end that nobody asked for is never silent.
fn tell_end(header: &IndexHeader, reason: EndReason) {
    let pin = header.pin;
    match reason {
        EndReason::Released | EndReason::Refused | EndReason::Stopped => {
            tracing::debug!(%pin, %reason, "a pin ended");
        }
        _ => tracing::warn!(%pin, %reason, "a pin ended: every further read of it fails"),
    }
}

/// Lets an index accept the epoch that is to come, and makes it a pin of ours. Where that fails nobody
/// knows what the index accepts, so the pin ends visibly; `None` then.
///
/// Errors: `Io` if even that fails: then the epoch must not come.
fn take_over(
    disk: &dyn Disk,
    candidate: Candidate,
    takeover: &Takeover,
) -> Result<Option<Arc<HeldPin>>, ShadowError> {
    let pin = Arc::new(HeldPin::adopted(candidate, takeover.now));
    let Some(next) = takeover.next else {
        return Ok(Some(pin));
    };
    let [carried, _] = takeover.carried;
    let Err(error) = pin.accept([carried, next]) else {
        return Ok(Some(pin));
    };
    tracing::error!(%error, pin = %pin.header().pin, "cannot take a pin over");
    pin.cut(EndReason::Broken)?;
    // The name is a convenience: the cut index is what counts.
    let _ = disk.remove(pin.path());
    Ok(None)
}

/// A new, empty slot file. Whoever still reads the old one keeps it.
fn make_slots(disk: &dyn Disk, dir: &Path) -> Result<Arc<dyn File>, ShadowError> {
    let path = dir.join("slots");
    match disk.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(ShadowError::io("remove", "shadow/slots")(error));
        }
        _ => {}
    }
    disk.open(&path, OpenMode::CreateNew)
        .map_err(ShadowError::io("create", "shadow/slots"))
}

/// Takes the lock that shows that a pin is held; it lasts as long as the descriptor of `index`.
///
/// Errors: `Io`; also if somebody holds the index exclusively.
pub fn lock_held(index: &dyn File) -> Result<(), ShadowError> {
    match index.try_lock(LockKind::Shared) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ShadowError::io("lock", "a pin's index")(
            io::ErrorKind::WouldBlock.into(),
        )),
        Err(error) => Err(ShadowError::io("lock", "a pin's index")(error)),
    }
}
