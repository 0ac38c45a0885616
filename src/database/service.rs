//! What the pin server asks of a database.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::database::error::DatabaseError;
use crate::database::outlook::shadow_bytes;
use crate::database::pin_options::PinOptions;
use crate::database::pinning::{self, TakenPin};
use crate::database::state::{PinNote, State};
use crate::engine::error::{EngineError, ErrorKind};
use crate::os::File;
use crate::os::real_disk::{RealFile, reopen_read_only};
use crate::os::unix_socket::PeerCredentials;
use crate::pin::{
    EndReason, EngineState, EngineStatus, GrantedPin, Name, OnShadowFull, PinFacts, PinFiles,
    PinLease, PinRefusal, PinRequest, PinService, PinState, PinStatus, PinToken, ReclaimRequest,
    ReclaimedFacts, ReclaimedPin, RefusalKind, StatusReport, WelcomeFacts, WirePath,
};
use crate::shadow::index::OnFull;
use crate::shadow::{self, HeldPin, Tenure};

/// The database, as the pin server sees it. The server goes before the database does.
#[derive(Debug)]
pub(super) struct Service {
    state: Weak<State>,
    welcome: WelcomeFacts,
}

impl Service {
    pub(super) fn new(state: &Arc<State>) -> Self {
        let identity = state.engine.identity();
        let welcome = WelcomeFacts {
            database_id: identity.database,
            history_id: identity.history,
            version: Name::cut(env!("CARGO_PKG_VERSION")),
        };
        Self {
            state: Arc::downgrade(state),
            welcome,
        }
    }
}

impl PinService for Service {
    fn welcome(&self) -> WelcomeFacts {
        self.welcome.clone()
    }

    fn pin(&self, request: &PinRequest, peer: &PeerCredentials) -> Result<GrantedPin, PinRefusal> {
        let stopping = PinRefusal::new(RefusalKind::Stopping, "the engine is stopping");
        let state = self.state.upgrade().ok_or(stopping)?;
        let taken = pinning::take(&state, &options(request)).map_err(|error| refusal(&error))?;
        let held = taken.held.clone();
        grant(&state, taken, request, peer).map_err(|error| {
            let ended = state.shadow.end(&held, shadow::EndReason::Refused);
            refusal(&ended.map_or_else(DatabaseError::from, |()| error))
        })
    }

    fn reclaim(
        &self,
        request: &ReclaimRequest,
        peer: &PeerCredentials,
    ) -> Result<ReclaimedPin, PinRefusal> {
        let stopping = PinRefusal::new(RefusalKind::Stopping, "the engine is stopping");
        let state = self.state.upgrade().ok_or(stopping)?;
        let (database, pin) = (request.database_id, request.pin_id);
        let held = state
            .reclaim(database, pin, &request.token.0, Tenure::Handle)
            .map_err(|error| refusal(&error))?;
        let note = PinNote {
            holder: request.holder.clone(),
            mount_point: request.mount_point.clone(),
            peer_process_id: peer.pid,
        };
        state.notes.lock().insert(pin, note);
        tracing::info!(%pin, holder = %request.holder, "a pin was reclaimed");
        let header = held.header();
        let now = state.engine.host().clock.monotonic();
        let facts = ReclaimedFacts {
            pin_id: pin,
            age_ms: millis(now.saturating_sub(header.taken)),
            max_age_ms: header.max_age.map_or(u64::MAX, millis),
        };
        let lease = Box::new(Lease {
            state: Arc::downgrade(&state),
            held,
            is_left: false,
        });
        Ok(ReclaimedPin { facts, lease })
    }

    fn tend(&self) {
        if let Some(state) = self.state.upgrade() {
            state.tend();
        }
    }

    fn status(&self) -> StatusReport {
        match self.state.upgrade() {
            Some(state) => status(&state),
            None => StatusReport {
                engine: gone(&self.welcome),
                pins: Vec::new(),
            },
        }
    }
}

fn grant(
    state: &Arc<State>,
    taken: TakenPin,
    request: &PinRequest,
    peer: &PeerCredentials,
) -> Result<GrantedPin, DatabaseError> {
    let facts = facts_of(state, &taken);
    let files = open_descriptors(state, &taken.held)?;
    let note = PinNote {
        holder: request.holder.clone(),
        mount_point: request.mount_point.clone(),
        peer_process_id: peer.pid,
    };
    state.notes.lock().insert(facts.pin_id, note);
    let lease = Box::new(Lease {
        state: Arc::downgrade(state),
        held: taken.held,
        is_left: false,
    });
    Ok(GrantedPin {
        facts,
        files,
        lease,
    })
}

/// What whoever gets the pin is told.
pub(super) fn facts_of(state: &State, taken: &TakenPin) -> PinFacts {
    let header = taken.held.header();
    PinFacts {
        database_id: header.database,
        history_id: header.history,
        pin_id: header.pin,
        token: PinToken(taken.token),
        timestamp: header.timestamp,
        lsn: header.lsn,
        page_size: header.page_size,
        page_count: header.page_count,
        wall_ns: header.wall_ns,
        epochs: header.accepted_epochs,
        live_device: header.live.device,
        live_inode: header.live.inode,
        source_directory: source_directory(state),
        max_age_ms: header.max_age.map_or(u64::MAX, millis),
    }
}

/// What a request asks for, with the defaults.
pub(super) fn options(request: &PinRequest) -> PinOptions {
    let max_age = request.max_age_ms.map(Duration::from_millis);
    PinOptions {
        max_age: max_age.unwrap_or(PinOptions::MAX_AGE_DEFAULT),
        on_full: match request.on_full {
            OnShadowFull::Break => OnFull::Break,
            OnShadowFull::Hold => OnFull::Hold,
        },
        shadow_limit_bytes: request.shadow_limit_bytes,
    }
}

/// Live file, slots and index, opened anew for reading only; the index with the lock that shows
/// that the pin is held.
pub(super) fn open_descriptors(state: &State, held: &HeldPin) -> Result<PinFiles, DatabaseError> {
    let open = |file: &dyn File, what| {
        reopen_read_only(file).map_err(|source| DatabaseError::Io {
            op: "open",
            what,
            source,
        })
    };
    let index = open(&**held.file(), "the pin's index")?;
    let lock_on =
        |fd: &OwnedFd| -> std::io::Result<RealFile> { fd.try_clone().map(RealFile::from_fd) };
    let twin = lock_on(&index).map_err(|source| DatabaseError::Io {
        op: "duplicate",
        what: "the pin's index",
        source,
    })?;
    // The lock belongs to the open file, which the twin shares with what is sent.
    shadow::lock_held(&twin)?;
    Ok(PinFiles {
        live: open(&**state.engine.live_file(), "data.pages")?,
        shadow: open(&**state.shadow.slots_file(), "shadow/slots")?,
        index,
    })
}

fn refusal(error: &DatabaseError) -> PinRefusal {
    let kind = match error {
        DatabaseError::Engine(EngineError::Poisoned { .. }) => RefusalKind::Poisoned,
        DatabaseError::NotReclaimable { .. } => RefusalKind::UnknownPin,
        DatabaseError::Exchanging => RefusalKind::Stopping,
        error if error.kind() == ErrorKind::NoSpace => RefusalKind::NoSpace,
        error if error.kind() == ErrorKind::Invalid => RefusalKind::Invalid,
        _ => RefusalKind::Internal,
    };
    PinRefusal::new(kind, &error.to_string())
}

fn source_directory(state: &State) -> WirePath {
    WirePath::new(state.engine.directory()).unwrap_or_default()
}

fn status(state: &State) -> StatusReport {
    let identity = state.engine.identity();
    let stats = state.engine.stats();
    let now = state.engine.host().clock.monotonic();
    let mut trends = state.trends.lock();
    let outlook = trends.observe(&stats, state.log_bytes_max, &state.shadow, now);
    let engine = EngineStatus {
        database_id: identity.database,
        history_id: identity.history,
        epoch: identity.epoch,
        version: Name::cut(env!("CARGO_PKG_VERSION")),
        process_id: i32::try_from(std::process::id()).unwrap_or_default(),
        source_directory: source_directory(state),
        uptime_ms: millis(now.saturating_sub(state.opened)),
        state: if state.engine.is_poisoned() {
            EngineState::Poisoned
        } else {
            EngineState::Running
        },
        page_size: state.engine.page_size(),
        page_count: stats.page_count,
        timestamp: crate::lsn::Timestamp(stats.timestamp),
        lsn: crate::lsn::Lsn(stats.lsn),
        wal_bytes: stats.wal_bytes,
        shadow_bytes: state.shadow.slot_counts().1,
        wal_bytes_max: state.log_bytes_max,
        free_bytes: outlook.free_bytes,
        free_floor_bytes: outlook.floor_bytes,
        log_durable: crate::lsn::Lsn(stats.log_durable),
        log_kept_bytes: stats.log_kept_bytes,
    };
    let notes = state.notes.lock();
    let pins = state.shadow.pins();
    let pins = pins.iter().map(|held| {
        let (growth, forecast) = trends.of_pin(&outlook, held);
        PinStatus {
            growth_bytes_per_second: growth,
            forecast,
            ..pin_status(held, notes.get(&held.header().pin), now)
        }
    });
    StatusReport {
        engine,
        pins: pins.collect(),
    }
}

fn pin_status(held: &HeldPin, note: Option<&PinNote>, now: Duration) -> PinStatus {
    let header = held.header();
    let counts = held.counts();
    let state = match (held.ended(), header.granted) {
        (Some(reason), _) => PinState::Ended {
            reason: reason_of(reason),
        },
        (None, true) if matches!(held.tenure(), Tenure::Unclaimed { .. }) => PinState::Adopted,
        (None, true) if held.holding_since().is_some() => PinState::Holding,
        (None, true) => PinState::Granted,
        (None, false) => PinState::Spilling,
    };
    PinStatus {
        pin_id: header.pin,
        holder: note.map_or_else(
            || match held.tenure() {
                Tenure::Handle => Name::cut("the engine's own process"),
                Tenure::Lock | Tenure::Unclaimed { .. } => Name::cut("another process"),
            },
            |note| note.holder.clone(),
        ),
        mount_point: note
            .map(|note| note.mount_point.clone())
            .unwrap_or_default(),
        timestamp: header.timestamp,
        lsn: header.lsn,
        age_ms: millis(now.saturating_sub(header.taken)),
        max_age_ms: header.max_age.map_or(0, millis),
        captured_pages: counts.captured_pages,
        spilled_pages: counts.spilled_pages,
        shared_slots: counts.shadowed_pages.saturating_sub(counts.written_pages),
        shadow_bytes: shadow_bytes(held),
        state,
        peer_process_id: note.map_or(0, |note| note.peer_process_id),
        on_full: match header.on_full {
            OnFull::Break => OnShadowFull::Break,
            OnFull::Hold => OnShadowFull::Hold,
        },
        shadow_limit_bytes: header.shadow_limit_bytes.unwrap_or(0),
        growth_bytes_per_second: 0,
        forecast: None,
        holding_ms: held
            .holding_since()
            .map(|since| millis(now.saturating_sub(since))),
    }
}

/// The engine that is no more; only a client that asks during the stop sees this.
fn gone(welcome: &WelcomeFacts) -> EngineStatus {
    EngineStatus {
        database_id: welcome.database_id,
        history_id: welcome.history_id,
        epoch: crate::id::Epoch(0),
        version: welcome.version.clone(),
        process_id: 0,
        source_directory: WirePath::default(),
        uptime_ms: 0,
        state: EngineState::Poisoned,
        page_size: crate::page::PageSize::DEFAULT,
        page_count: 0,
        timestamp: crate::lsn::Timestamp(0),
        lsn: crate::lsn::Lsn::ZERO,
        wal_bytes: 0,
        shadow_bytes: 0,
        wal_bytes_max: 0,
        free_bytes: None,
        free_floor_bytes: 0,
        log_durable: crate::lsn::Lsn::ZERO,
        log_kept_bytes: 0,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn reason_of(reason: shadow::EndReason) -> EndReason {
    match reason {
        shadow::EndReason::Released | shadow::EndReason::Refused => EndReason::Released,
        shadow::EndReason::Broken => EndReason::CaptureFailed,
        shadow::EndReason::Expired => EndReason::Expired,
        shadow::EndReason::ShadowFull => EndReason::ShadowFull,
        shadow::EndReason::DiskFull => EndReason::DiskFull,
        shadow::EndReason::LogFull => EndReason::LogFull,
        shadow::EndReason::Poisoned => EndReason::Poisoned,
        shadow::EndReason::Stopped => EndReason::Stopped,
        shadow::EndReason::Unclaimed => EndReason::Unclaimed,
    }
}

/// A pin that a client holds.
struct Lease {
    state: Weak<State>,
    held: Arc<HeldPin>,
    is_left: bool,
}

impl Lease {
    fn end(&self, reason: shadow::EndReason) {
        let Some(state) = self.state.upgrade() else {
            return;
        };
        let id = self.held.header().pin;
        match state.shadow.end(&self.held, reason) {
            Ok(()) => drop(state.notes.lock().remove(&id)),
            // The pin lasts, and so does what it needs; the next checkpoint tries again to end it.
            Err(error) => tracing::error!(%error, pin = %id, "cannot end a pin visibly"),
        }
    }
}

impl PinLease for Lease {
    fn release(self: Box<Self>) {
        self.end(shadow::EndReason::Released);
    }

    fn leave(mut self: Box<Self>) {
        self.is_left = true;
    }

    fn ended(&self) -> Option<EndReason> {
        self.held.ended().map(reason_of)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.is_left {
            self.end(shadow::EndReason::Released);
        }
    }
}
