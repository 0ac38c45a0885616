//! What the parts of an open database share.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use sha2::{Digest, Sha256};

use crate::database::SHADOW_DIR;
use crate::database::error::DatabaseError;
use crate::database::outlook::Trends;
use crate::database::sink::ShadowSink;
use crate::engine::{DirLock, Engine, EngineOptions, OpenFacts, PreImageSink};
use crate::id::{DatabaseId, Epoch, PinId};
use crate::os::{FileIdentity, Host};
use crate::pin::{Name, WirePath};
use crate::shadow::{HeldPin, Shadow, Takeover, Tenure};

/// Clean pages that are kept while a pin is taken without an engine: it reads hardly any.
const OFFLINE_CACHE_BYTES: u64 = 1 << 20;

/// What is known of a pin beside its state, for `status`.
#[derive(Clone, Debug)]
pub(super) struct PinNote {
    pub(super) holder: Name,
    pub(super) mount_point: WirePath,
    pub(super) peer_process_id: i32,
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct State {
    pub(super) engine: Engine,
    pub(super) shadow: Arc<Shadow>,
    pub(super) live: FileIdentity,
    /// What the valid copies of the live header carry.
    pub(super) epochs: [Epoch; 2],
    pub(super) opened: Duration,
    pub(super) notes: Mutex<HashMap<PinId, PinNote>>,
    pub(super) trends: Mutex<Trends>,
    pub(super) log_bytes_max: u64,
    /// Whether pins are refused; held for reading while one is taken.
    pub(super) refuses_pins: RwLock<bool>,
}

impl State {
    /// What a pin needs of a database on which no engine runs. Holds the directory's lock.
    pub(super) fn offline(host: &Host, dir: &Path) -> Result<Self, DatabaseError> {
        let mut opened = None;
        let options = EngineOptions {
            cache_bytes: OFFLINE_CACHE_BYTES,
            ..EngineOptions::default()
        };
        let floor = options.floor_bytes();
        let mut prepare = |facts: &OpenFacts| prepare_sink(host, dir, facts, floor, &mut opened);
        let engine = Engine::open_offline(host, dir, options.cache_bytes, &mut prepare)?;
        Ok(Self::joined(host, engine, &options, opened))
    }

    /// Ends the pins whose time is over, and forgets what was known of those that ended.
    pub(super) fn tend(&self) {
        let now = self.engine.host().clock.monotonic();
        self.shadow.tend(now);
        let stats = self.engine.stats();
        let mut trends = self.trends.lock();
        trends.observe(&stats, self.log_bytes_max, &self.shadow, now);
        drop(trends);
        let pins = self.shadow.pins();
        let is_there = |id: &PinId| pins.iter().any(|pin| pin.header().pin == *id);
        self.notes.lock().retain(|id, _| is_there(id));
    }

    /// Gives an adopted pin back to whoever knows its token.
    ///
    /// Errors: `NotReclaimable`, whatever the reason: who guesses learns nothing.
    pub(super) fn reclaim(
        &self,
        database: DatabaseId,
        pin: PinId,
        token: &[u8; 32],
        tenure: Tenure,
    ) -> Result<Arc<HeldPin>, DatabaseError> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let pins = self.shadow.pins();
        let found = pins.into_iter().find(|held| held.header().pin == pin);
        let is_right = |held: &Arc<HeldPin>| {
            let header = held.header();
            is_same(&header.token_digest, &digest) && header.database == database
        };
        found
            .filter(|held| is_right(held) && held.claim(tenure))
            .ok_or(DatabaseError::NotReclaimable { pin })
    }

    pub(super) fn open(
        host: &Host,
        dir: &Path,
        options: &EngineOptions,
        lock: DirLock,
    ) -> Result<Arc<Self>, DatabaseError> {
        let mut opened = None;
        let floor = options.floor_bytes();
        let mut prepare = |facts: &OpenFacts| prepare_sink(host, dir, facts, floor, &mut opened);
        let engine = Engine::open_locked(host, dir, options, Some(&mut prepare), lock)?;
        Ok(Arc::new(Self::joined(host, engine, options, opened)))
    }

    fn joined(
        host: &Host,
        engine: Engine,
        options: &EngineOptions,
        opened: Option<(Arc<Shadow>, OpenFacts)>,
    ) -> Self {
        let (shadow, facts) = opened.expect("an engine that opened has prepared its sink");
        Self {
            engine,
            shadow,
            live: facts.live,
            epochs: facts.next.map_or(facts.carried, |next| [next; 2]),
            opened: host.clock.monotonic(),
            notes: Mutex::default(),
            trends: Mutex::default(),
            log_bytes_max: options.log_bytes_max,
            refuses_pins: RwLock::new(false),
        }
    }
}

/// D5, D7: pins of earlier incarnations are taken over, ended, or left to be fenced.
fn prepare_sink(
    host: &Host,
    dir: &Path,
    facts: &OpenFacts,
    floor_bytes: u64,
    opened: &mut Option<(Arc<Shadow>, OpenFacts)>,
) -> Result<Arc<dyn PreImageSink>, Box<dyn std::error::Error + Send + Sync>> {
    let takeover = takeover(facts, host.clock.monotonic());
    let shadow = Shadow::open(host, &dir.join(SHADOW_DIR), &takeover, floor_bytes)?;
    let shadow = Arc::new(shadow);
    *opened = Some((shadow.clone(), *facts));
    let clock = host.clock.clone();
    Ok(Arc::new(ShadowSink { shadow, clock }))
}

/// What the shadow must know of an engine that starts, or of a mount without one.
fn takeover(facts: &OpenFacts, now: Duration) -> Takeover {
    Takeover {
        database: facts.identity.database,
        history: facts.identity.history,
        live: facts.live,
        live_sequence: facts.live_sequence,
        page_size: facts.page_size,
        carried: facts.carried,
        next: facts.next,
        timestamp: facts.point.timestamp,
        lsn: facts.point.lsn,
        page_count: facts.point.page_count,
        now,
    }
}

/// Takes the same time wherever the two differ.
fn is_same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let differing = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differing) == 0
}
