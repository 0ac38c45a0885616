//! A database as an application opens it: engine, shadow and pin server as one.
//!
//! Runs in the application's process, or in `stillfs serve`.
//!
//! ```text
//! Database --- Engine ---- writeback ----> live file
//!    |            ^ gate, snapshot  | before_overwrite
//!    +- Shadow <--+-----------------+
//!    +- PinServer (control.sock): hands pins to other processes
//! ```
//!
//! A pin is taken in four steps (`pinning.rs`):
//!
//! * D1 Commit, registered reader and active capture are fixed at one moment, under the commit lock,
//!   with the writeback gate closed. What happens there is O(1).
//! * D2 With the gate still closed every page whose version at S is not the live one is spilled; so
//!   when the gate opens, "the shadow's entry, else the live page" is the state at S.
//! * D3 A view's header pages depend on the database and S alone: two views of one S are equal to
//!   the byte.
//! * D4 A pin is granted only when the log is durable through its commit.
//! * D5 Before the live header carries this incarnation's epoch, the index of each pin that it adopts
//!   accepts that epoch and the one before. A pin that nobody holds is ended visibly. Any other is left
//!   as it is: the epoch fences it.
//! * D6 What an index says is believed as far as live file, log and slot file bear it out. If anything
//!   in it is not borne out, the pin is not adopted.
//! * D7 A pin without an engine (`offline.rs`) is of the durable committed state, and accepts the epochs
//!   of all valid copies of the live header. Nothing is written but its index and slots that no held
//!   pin may use.
//!
//! Locking: none of its own across a call; a pin waits for the gate, never a commit for a pin.

mod error;
mod exchange;
#[cfg(test)]
mod exchange_test;
#[cfg(test)]
mod fencing_test;
mod offline;
mod outlook;
mod pin;
mod pin_options;
mod pinning;
#[cfg(test)]
mod restart_test;
mod service;
mod sink;
mod state;
mod still_pages;
#[cfg(test)]
mod takeover_test;
#[cfg(test)]
mod tests;
pub(crate) mod text;
mod trend;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::engine::DirLock;
use crate::engine::error::EngineError;
use crate::engine::error::Result as EngineResult;
pub use crate::engine::{
    CHANGES_DIR, CheckReport, CheckpointReport, CommitPoint, Create, Engine, EngineOptions,
    EngineStats, FREE_ABOVE_LOG, Finding, Header, Identity, KEY_BYTES_MAX, Keys, LOCK_FILE,
    LOG_DIR, PAGE_FILE, Problem, Range, ReadTransaction, SNAPSHOT_FILE, Snapshot, Totals,
    VALUE_BYTES_MAX, WriteTransaction, is_held_by_engine, looks_like_database,
};
use crate::id::{DatabaseId, PinId};
use crate::os::Host;
use crate::pin::{EndPins, PinServer, PinServerLimits};

use crate::shadow::Tenure;
pub use crate::shadow::index::OnFull;
pub use error::DatabaseError;
pub use exchange::{EXCHANGE_DIR, Exchanged, PinsRefused};
pub use offline::{OfflinePin, clean_up_pin, hand_over_offline, pin_offline};
pub use pin::{HandedOver, Pin, PinLimits};
pub use pin_options::PinOptions;
pub use pinning::{NativeHeader, PinTimes};
use state::State;
pub use still_pages::StillPages;
pub use text::{Expected, FieldFault, LoadError, Loaded, TextError, load_text};
pub(crate) use trend::{Trend, used_up_in};

/// Name of the pin server's socket in a database's directory.
pub const SOCKET_FILE: &str = "control.sock";
/// Name of the folder of pins and pre-images in a database's directory.
pub const SHADOW_DIR: &str = "shadow";

/// Whether other processes can ask for pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinServing {
    /// Over `control.sock` in the database's directory.
    On,
    /// Not at all: only this process pins.
    Off,
}

/// An open database; clones are handles of the same one.
///
/// Dropping the last handle without [`Database::close`] is like a crash: nothing acknowledged is
/// lost, and the next open replays the log.
#[derive(Clone, Debug)]
pub struct Database {
    handle: Arc<Handle>,
}

/// What the handles of one database share. The server goes first: its threads look at the state, and
/// the last of them must not be the one to drop it.
#[derive(Debug)]
struct Handle {
    pin_server: Mutex<Option<PinServer>>,
    state: Arc<State>,
}

impl Drop for Handle {
    /// As in a crash, what other processes hold is left to the engine that comes next.
    fn drop(&mut self) {
        if let Some(server) = self.pin_server.get_mut().take() {
            server.stop(EndPins::No);
        }
    }
}

/// What a database holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DatabaseStats {
    /// The engine's part.
    #[serde(flatten)]
    pub engine: EngineStats,
    /// Active pins.
    pub pins: u64,
    /// Slots of the shadow in use.
    pub shadow_slots: u64,
    /// Bytes of the shadow's slot file.
    pub shadow_bytes: u64,
}

impl Database {
    /// Opens the database in `dir` on this machine, making it if `options` say so.
    ///
    /// Errors: `Engine` (in use, damaged, of a later version ...); `Pin` if the socket cannot be had.
    pub fn open(
        dir: impl AsRef<Path>,
        options: &EngineOptions,
        serving: PinServing,
    ) -> Result<Self, DatabaseError> {
        let database = Self::open_on(&Host::system(), dir, options)?;
        if serving == PinServing::On {
            database.serve_pins()?;
        }
        Ok(database)
    }

    /// Opens the database in `dir` on `host`, which may be simulated; serves no pins.
    ///
    /// Errors: `Engine`; `Restored`.
    pub fn open_on(
        host: &Host,
        dir: impl AsRef<Path>,
        options: &EngineOptions,
    ) -> Result<Self, DatabaseError> {
        let dir = dir.as_ref();
        let lock = Engine::lock(host, dir, options.create)?;
        let found = exchange::settle(host, dir)?;
        let open = |lock| Self::open_locked(host, dir, options, lock);
        let database = open(lock.clone()).or_else(|error| {
            exchange::fall_back(host, dir, found, error)?;
            open(lock)
        })?;
        exchange::clear(host, dir);
        Ok(database)
    }

    fn open_locked(
        host: &Host,
        dir: &Path,
        options: &EngineOptions,
        lock: DirLock,
    ) -> Result<Self, DatabaseError> {
        let state = State::open(host, dir, options, lock)?;
        let pin_server = Mutex::default();
        Ok(Self {
            handle: Arc::new(Handle { pin_server, state }),
        })
    }

    /// Starts to hand pins to other processes.
    ///
    /// Errors: `Pin`.
    pub fn serve_pins(&self) -> Result<(), DatabaseError> {
        let socket = self.directory().join(SOCKET_FILE);
        let service = Arc::new(service::Service::new(&self.handle.state));
        let server = PinServer::start(&socket, service, PinServerLimits::default())?;
        *self.handle.pin_server.lock() = Some(server);
        Ok(())
    }

    /// Starts a read at the newest durable commit.
    ///
    /// Errors: none in this version; callers must be ready for `Io`.
    pub fn begin_read(&self) -> EngineResult<ReadTransaction> {
        Ok(self.handle.state.engine.begin_read())
    }

    /// Starts the one write transaction; waits while another lasts.
    ///
    /// Errors: `Poisoned`; those of a checkpoint, if one had to run because the log is full.
    pub fn begin_write(&self) -> EngineResult<WriteTransaction> {
        self.handle.state.engine.begin_write()
    }

    /// Copies what the log holds into the live file and lets the log go.
    ///
    /// Errors: `Poisoned`, `Capture`, `Io`.
    pub fn checkpoint(&self) -> EngineResult<CheckpointReport> {
        self.handle.state.engine.checkpoint()
    }

    /// Pins the newest commit in this process; its view is what a mount would show.
    ///
    /// Errors: `Shadow`, `Engine`, `Io`, `Moved`; nothing is then left of the pin.
    pub fn pin(&self) -> Result<Pin, DatabaseError> {
        self.pin_with(&PinOptions::default())
    }

    /// Pins the newest commit in this process, with limits of its own.
    ///
    /// Errors: `MaxAge`, `ShadowLimit`; as for [`Database::pin`].
    pub fn pin_with(&self, options: &PinOptions) -> Result<Pin, DatabaseError> {
        Ok(Pin::take(&self.handle.state, options)?.0)
    }

    /// Pins the newest commit, and starts a read of the very same one.
    ///
    /// Errors: as for [`Database::pin`].
    pub fn pin_and_read(&self) -> Result<(Pin, ReadTransaction), DatabaseError> {
        let (pin, snapshot) = Pin::take(&self.handle.state, &PinOptions::default())?;
        Ok((pin, snapshot.into()))
    }

    /// Ends what is over by the passing of time: pins over their age, handed-over pins whose holder is
    /// gone, adopted pins that nobody reclaims. The pin server calls it about once a second, and
    /// writeback does; whoever serves no pins may.
    pub fn tend(&self) {
        self.handle.state.tend();
    }

    /// Gives an adopted pin back to its holder; from here on its life hangs on the lock on its index.
    ///
    /// Errors: `NotReclaimable` for another database, an unknown pin, one that nobody lost, and a wrong
    /// token alike.
    pub fn reclaim(
        &self,
        database: DatabaseId,
        pin: PinId,
        token: &[u8; 32],
    ) -> Result<(), DatabaseError> {
        let state = &self.handle.state;
        state.reclaim(database, pin, token, Tenure::Lock).map(drop)
    }

    /// Sets how long an adopted pin waits for its holder before it ends; 60 s unless set.
    pub fn set_claim_patience(&self, patience: Duration) {
        self.handle.state.shadow.set_claim_patience(patience);
    }

    /// Walks every structure at the newest durable commit.
    ///
    /// Errors: none in this version; damage is in the report.
    pub fn check(&self) -> EngineResult<CheckReport> {
        self.handle.state.engine.check()
    }

    /// What it holds and did.
    #[must_use]
    pub fn stats(&self) -> DatabaseStats {
        let (shadow_slots, shadow_bytes) = self.handle.state.shadow.slot_counts();
        DatabaseStats {
            engine: self.handle.state.engine.stats(),
            pins: self.handle.state.shadow.pins().len() as u64,
            shadow_slots,
            shadow_bytes,
        }
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.handle.state.engine.directory()
    }

    /// The engine, for what only a few need.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.handle.state.engine
    }

    /// Stops cleanly: pins are left as they are (their readers go on as long as nobody writes the
    /// file), everything goes to the live file, and no log is needed any more.
    ///
    /// Errors: those of a checkpoint; the next open then replays the log, and nothing is lost.
    pub fn close(&self) -> Result<(), EngineError> {
        if let Some(server) = self.handle.pin_server.lock().take() {
            server.stop(EndPins::No);
        }
        self.handle.state.engine.close()
    }
}
