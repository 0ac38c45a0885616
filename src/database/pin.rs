//! A pin held by this process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::database::error::DatabaseError;
use crate::database::pin_options::PinOptions;
use crate::database::pinning::{self, NativeHeader, PinTimes};
use crate::database::state::State;
use crate::database::still_pages::StillPages;
use crate::engine::{Engine, Snapshot};
use crate::id::{DatabaseId, PinId};
use crate::lsn::{Lsn, Timestamp};
use crate::os::Host;
use crate::shadow::index::OnFull;
use crate::shadow::{EndReason, HeldPin, PinCounts, lock_held};
use crate::view::{PinnedFile, ViewFile};

/// What bounds a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinLimits {
    /// After how long it ends by itself.
    pub max_age: Option<Duration>,
    /// What happens when it may keep no more.
    pub on_full: OnFull,
    /// Bytes of page images that it may keep.
    pub shadow_limit_bytes: Option<u64>,
}

/// The right to read one committed state for as long as this is held, whatever is written.
///
/// Dropping it releases it; [`Pin::release`] also says whether that went well.
pub struct Pin {
    state: Arc<State>,
    held: Arc<HeldPin>,
    view: Arc<PinnedFile>,
    times: PinTimes,
    token: [u8; 32],
    is_handed_over: bool,
}

/// A pin whose life hangs on the lock on its index, as one of another process does: it lasts as long
/// as `view` does, over the end of the engine too.
#[derive(Debug)]
pub struct HandedOver {
    /// The pin.
    pub id: PinId,
    /// Of which database.
    pub database: DatabaseId,
    /// The secret by which it is reclaimed.
    pub token: [u8; 32],
    /// The still page file. It holds the lock.
    pub view: Arc<PinnedFile>,
}

impl Pin {
    pub(super) fn take(
        state: &Arc<State>,
        options: &PinOptions,
    ) -> Result<(Self, Snapshot), DatabaseError> {
        let taken = pinning::take(state, options)?;
        match pinning::open_view(state, &taken.held) {
            Ok(view) => {
                let pin = Self {
                    state: state.clone(),
                    held: taken.held,
                    view: Arc::new(view),
                    times: taken.times,
                    token: taken.token,
                    is_handed_over: false,
                };
                Ok((pin, taken.snapshot))
            }
            Err(error) => {
                state.shadow.end(&taken.held, EndReason::Refused)?;
                Err(error)
            }
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> PinId {
        self.view.header().pin
    }

    /// The pinned commit.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.view.header().timestamp
    }

    /// The pinned commit's LSN.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.view.header().lsn
    }

    /// The still page file: what a mount shows as `data.pages`.
    #[must_use]
    pub fn view(&self) -> &Arc<PinnedFile> {
        &self.view
    }

    /// The still page file, which also knows its commit and what changed since an older one: for a backup.
    #[must_use]
    pub fn content(&self) -> Arc<StillPages> {
        let engine = &self.state.engine;
        let disk = engine.host().disk.clone();
        Arc::new(StillPages::new(disk, engine.directory(), self.view.clone()))
    }

    /// Opens the still page file as a database of its own, for reading.
    ///
    /// Errors: `Engine`. The pin must be held as long as it is read.
    pub fn open(&self, cache_bytes: u64) -> Result<Engine, DatabaseError> {
        let file = Arc::new(ViewFile::new(self.view.clone()));
        Ok(Engine::open_still(
            self.state.engine.host(),
            file,
            cache_bytes,
        )?)
    }

    /// What taking it cost.
    #[must_use]
    pub fn times(&self) -> PinTimes {
        self.times
    }

    /// What keeping it cost so far.
    #[must_use]
    pub fn counts(&self) -> PinCounts {
        self.held.counts()
    }

    /// What bounds it; the limit of its shadow is that of the default where none was asked for.
    #[must_use]
    pub fn limits(&self) -> PinLimits {
        let header = self.held.header();
        PinLimits {
            max_age: header.max_age,
            on_full: header.on_full,
            shadow_limit_bytes: header.shadow_limit_bytes,
        }
    }

    /// Why it ended by itself, if it did.
    #[must_use]
    pub fn ended(&self) -> Option<EndReason> {
        self.held.ended()
    }

    /// Gives it to `holder`, who is on the same machine and may be another process: its files are opened
    /// there, and from here on its life hangs on the lock on its index, not on this handle.
    /// [`crate::Database::tend`] then notices its end.
    ///
    /// Errors: `Io`, `Moved`, `View`, `Shadow`; the pin is then released.
    pub fn hand_over(mut self, holder: &Host) -> Result<HandedOver, DatabaseError> {
        let handed_over = HandedOver::new(&self.state, &self.held, self.token, holder)?;
        self.is_handed_over = true;
        Ok(handed_over)
    }

    /// Gives it up: every later read of its view fails.
    ///
    /// Errors: `Shadow` if the end could not be made visible; the pin then lasts until the database
    /// is opened again.
    pub fn release(self) -> Result<(), DatabaseError> {
        Ok(self.state.shadow.end(&self.held, EndReason::Released)?)
    }
}

impl HandedOver {
    /// Opens the files of a pin at its holder's, with the lock.
    pub(super) fn new(
        state: &State,
        held: &HeldPin,
        token: [u8; 32],
        holder: &Host,
    ) -> Result<Self, DatabaseError> {
        let [live, slots, index] = pinning::open_files(state, &*holder.disk, held)?;
        lock_held(&*index)?;
        let view = PinnedFile::open(live, slots, index, Arc::new(NativeHeader))?;
        held.leave_to_lock();
        let header = view.header();
        Ok(Self {
            id: header.pin,
            database: header.database,
            token,
            view: Arc::new(view),
        })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.is_handed_over {
            return;
        }
        if let Err(error) = self.state.shadow.end(&self.held, EndReason::Released) {
            tracing::error!(%error, pin = %self.id(), "cannot end a pin visibly");
        }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin")
            .field("id", &self.id())
            .field("timestamp", &self.timestamp())
            .finish()
    }
}
