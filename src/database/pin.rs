//! A pin held by this process.

use std::fmt;
use std::sync::Arc;

use crate::database::error::DatabaseError;
use crate::database::pinning::{self, PinTimes};
use crate::database::state::State;
use crate::engine::{Engine, Snapshot};
use crate::id::PinId;
use crate::lsn::{Lsn, Timestamp};
use crate::shadow::{EndReason, HeldPin, PinCounts};
use crate::view::{PinnedFile, ViewFile};

/// The right to read one committed state for as long as this is held, whatever is written.
///
/// Dropping it releases it; [`Pin::release`] also says whether that went well.
pub struct Pin {
    state: Arc<State>,
    held: Arc<HeldPin>,
    view: Arc<PinnedFile>,
    times: PinTimes,
}

impl Pin {
    pub(super) fn take(state: &Arc<State>) -> Result<(Self, Snapshot), DatabaseError> {
        let taken = pinning::take(state)?;
        match pinning::open_view(state, &taken.held) {
            Ok(view) => {
                let (held, view, times) = (taken.held, Arc::new(view), taken.times);
                Ok((
                    Self {
                        state: state.clone(),
                        held,
                        view,
                        times,
                    },
                    taken.snapshot,
                ))
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

    /// Why it ended by itself, if it did.
    #[must_use]
    pub fn ended(&self) -> Option<EndReason> {
        self.held.ended()
    }

    /// Gives it up: every later read of its view fails.
    ///
    /// Errors: `Shadow` if the end could not be made visible; the pin then lasts until the database
    /// is opened again.
    pub fn release(self) -> Result<(), DatabaseError> {
        Ok(self.state.shadow.end(&self.held, EndReason::Released)?)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
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
