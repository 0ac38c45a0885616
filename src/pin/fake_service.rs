//! A database that is none: three real files, and a record of what became of each pin.

#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tempfile::TempDir;

use super::frame::{FrameFault, FrameSocket, IncomingDescriptors, Patience};
use super::messages::*;
use super::service::*;
use super::wire::{self, Name, WirePath};
use crate::id::{DatabaseId, Epoch, HistoryId, PinId};
use crate::lsn::{Lsn, Timestamp};
use crate::os::readiness::Deadline;
use crate::os::unix_socket::{PeerCredentials, connect};
use crate::page::PageSize;

/// Long enough that only a hang reaches it.
pub(super) const HANG: Duration = Duration::from_secs(60);

/// What became of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Alive,
    EndedByEngine(EndReason),
    Released,
    Left,
}

/// How `pin` behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PinMood {
    Grant,
    /// Waits until the mood is another.
    Dawdle,
    GrantWritable,
    Refuse,
    Panic,
}

#[derive(Debug)]
struct Record {
    mood: PinMood,
    calls: u64,
    tendings: u64,
    fates: BTreeMap<PinId, Fate>,
}

#[derive(Debug)]
struct Book {
    record: Mutex<Record>,
    changed: Condvar,
}

impl Book {
    fn update(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock());
        self.changed.notify_all();
    }

    fn wait_until(&self, what: &str, is_true: impl Fn(&Record) -> bool) -> MutexGuard<'_, Record> {
        let mut record = self.record.lock();
        while !is_true(&record) {
            let waited = self.changed.wait_for(&mut record, HANG);
            assert!(!waited.timed_out(), "{what}: still {record:?}");
        }
        record
    }
}

#[derive(Debug)]
pub(super) struct FakeService {
    dir: TempDir,
    book: Arc<Book>,
}

struct FakeLease {
    book: Arc<Book>,
    pin_id: PinId,
}

impl FakeLease {
    fn settle(&self, fate: Fate) {
        self.book.update(|record| {
            let entry = record.fates.get_mut(&self.pin_id).unwrap();
            if *entry == Fate::Alive {
                *entry = fate;
            }
        });
    }
}

impl PinLease for FakeLease {
    fn release(self: Box<Self>) {}

    fn leave(self: Box<Self>) {
        self.settle(Fate::Left);
    }

    fn ended(&self) -> Option<EndReason> {
        match self.book.record.lock().fates[&self.pin_id] {
            Fate::EndedByEngine(reason) => Some(reason),
            _ => None,
        }
    }
}

impl Drop for FakeLease {
    fn drop(&mut self) {
        self.settle(Fate::Released);
    }
}

impl FakeService {
    pub(super) fn new() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        for name in ["live", "shadow", "index"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let record = Record {
            mood: PinMood::Grant,
            calls: 0,
            tendings: 0,
            fates: BTreeMap::new(),
        };
        let book = Arc::new(Book {
            record: Mutex::new(record),
            changed: Condvar::new(),
        });
        Arc::new(Self { dir, book })
    }

    pub(super) fn socket_path(&self) -> PathBuf {
        self.path("control.sock")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn open(&self, name: &str) -> OwnedFd {
        File::open(self.path(name)).unwrap().into()
    }

    pub(super) fn set_mood(&self, mood: PinMood) {
        self.book.update(|record| record.mood = mood);
    }

    /// Waits until `pin` has been called so often.
    pub(super) fn await_calls(&self, calls: u64) {
        drop(
            self.book
                .wait_until("calls of pin", |record| record.calls >= calls),
        );
    }

    /// Waits until the service was asked so often to look after the pins.
    pub(super) fn await_tendings(&self, tendings: u64) {
        let is_done = |record: &Record| record.tendings >= tendings;
        drop(self.book.wait_until("calls of tend", is_done));
    }

    pub(super) fn end(&self, pin_id: PinId, reason: EndReason) {
        self.book.update(|record| {
            record.fates.insert(pin_id, Fate::EndedByEngine(reason));
        });
    }

    pub(super) fn fate(&self, pin_id: PinId) -> Fate {
        self.book.record.lock().fates[&pin_id]
    }

    pub(super) fn await_fate(&self, pin_id: PinId, fate: Fate) {
        drop(
            self.book
                .wait_until("fate", |record| record.fates.get(&pin_id) == Some(&fate)),
        );
    }

    fn files(&self, mood: PinMood) -> PinFiles {
        let index = if mood == PinMood::GrantWritable {
            File::options()
                .read(true)
                .write(true)
                .open(self.path("index"))
                .unwrap()
                .into()
        } else {
            self.open("index")
        };
        PinFiles {
            live: self.open("live"),
            shadow: self.open("shadow"),
            index,
        }
    }

    pub(super) fn facts(&self, pin_id: PinId) -> PinFacts {
        let live = fs::metadata(self.path("live")).unwrap();
        PinFacts {
            database_id: DatabaseId([1; 16]),
            history_id: HistoryId([2; 16]),
            pin_id,
            token: PinToken([3; 32]),
            timestamp: Timestamp(7),
            lsn: Lsn(70_000),
            page_size: PageSize::DEFAULT,
            page_count: 12,
            wall_ns: 1_700_000_000_000_000_000,
            epochs: [Epoch(9); 2],
            live_device: live.dev(),
            live_inode: live.ino(),
            source_directory: WirePath::new(self.dir.path()).unwrap(),
            max_age_ms: 86_400_000,
        }
    }
}

/// The id of the `call`th pin, counted from 1.
pub(super) fn nth_pin(call: u64) -> PinId {
    PinId(u128::from(call).to_le_bytes())
}

impl PinService for FakeService {
    fn welcome(&self) -> WelcomeFacts {
        WelcomeFacts {
            database_id: DatabaseId([1; 16]),
            history_id: HistoryId([2; 16]),
            version: Name::cut("fake"),
        }
    }

    fn pin(&self, _: &PinRequest, peer: &PeerCredentials) -> Result<GrantedPin, PinRefusal> {
        assert!(peer.pid > 0);
        let mut call = 0;
        self.book.update(|record| {
            record.calls += 1;
            call = record.calls;
        });
        let record = self
            .book
            .wait_until("mood", |record| record.mood != PinMood::Dawdle);
        let mood = record.mood;
        drop(record);
        match mood {
            PinMood::Panic => panic!("the service panics, as the test wants"),
            PinMood::Refuse => return Err(PinRefusal::new(RefusalKind::NoSpace, "disk full")),
            PinMood::Grant | PinMood::GrantWritable | PinMood::Dawdle => {}
        }
        let pin_id = nth_pin(call);
        self.book.update(|record| {
            record.fates.insert(pin_id, Fate::Alive);
        });
        let lease = Box::new(FakeLease {
            book: Arc::clone(&self.book),
            pin_id,
        });
        Ok(GrantedPin {
            facts: self.facts(pin_id),
            files: self.files(mood),
            lease,
        })
    }

    /// The pin whose token begins with its number can be had back.
    fn reclaim(
        &self,
        request: &ReclaimRequest,
        _: &PeerCredentials,
    ) -> Result<ReclaimedPin, PinRefusal> {
        let pin_id = request.pin_id;
        if request.token.0[..16] != pin_id.0 {
            return Err(PinRefusal::new(RefusalKind::UnknownPin, "no such pin"));
        }
        self.book.update(|record| {
            record.fates.insert(pin_id, Fate::Alive);
        });
        let facts = ReclaimedFacts {
            pin_id,
            age_ms: 7,
            max_age_ms: 70,
        };
        let book = Arc::clone(&self.book);
        let lease = Box::new(FakeLease { book, pin_id });
        Ok(ReclaimedPin { facts, lease })
    }

    fn tend(&self) {
        self.book.update(|record| record.tendings += 1);
    }

    /// Every pin that there ever was, with the longest texts that it can have.
    fn status(&self) -> StatusReport {
        let ids: Vec<PinId> = self.book.record.lock().fates.keys().copied().collect();
        let pins = ids.into_iter().map(longest_pin_status).collect();
        StatusReport {
            engine: longest_engine_status(),
            pins,
        }
    }
}

pub(super) fn longest_pin_status(pin_id: PinId) -> PinStatus {
    PinStatus {
        pin_id,
        holder: Name::cut(&"h".repeat(255)),
        mount_point: longest_path(),
        timestamp: Timestamp(u64::MAX),
        lsn: Lsn::MAX,
        age_ms: u64::MAX,
        max_age_ms: u64::MAX,
        captured_pages: u64::MAX,
        spilled_pages: u64::MAX,
        shared_slots: u64::MAX,
        shadow_bytes: u64::MAX,
        state: PinState::Ended {
            reason: EndReason::Unclaimed,
        },
        peer_process_id: i32::MIN,
        on_full: OnShadowFull::Hold,
        shadow_limit_bytes: u64::MAX,
        growth_bytes_per_second: u64::MAX,
        forecast: Some(Forecast {
            bound: Bound::Log,
            in_ms: u64::MAX,
        }),
        holding_ms: Some(u64::MAX),
    }
}

pub(super) fn longest_engine_status() -> EngineStatus {
    EngineStatus {
        database_id: DatabaseId([1; 16]),
        history_id: HistoryId([2; 16]),
        epoch: Epoch(u64::MAX),
        version: Name::cut(&"v".repeat(255)),
        process_id: i32::MIN,
        source_directory: longest_path(),
        uptime_ms: u64::MAX,
        state: EngineState::Poisoned,
        page_size: PageSize::DEFAULT,
        page_count: u64::MAX,
        timestamp: Timestamp(u64::MAX),
        lsn: Lsn::MAX,
        wal_bytes: u64::MAX,
        shadow_bytes: u64::MAX,
        wal_bytes_max: u64::MAX,
        free_bytes: Some(u64::MAX),
        free_floor_bytes: u64::MAX,
        log_durable: Lsn::MAX,
        log_kept_bytes: u64::MAX,
    }
}

fn longest_path() -> WirePath {
    WirePath::new(Path::new(&"p".repeat(wire::PATH_BYTES_MAX))).unwrap()
}

pub(super) fn request() -> PinRequest {
    PinRequest {
        max_age_ms: None,
        on_full: OnShadowFull::Break,
        shadow_limit_bytes: Some(1 << 30),
        holder: Name::cut("a test"),
        mount_point: WirePath::default(),
    }
}

/// A client that says what it likes.
pub(super) struct RawClient(pub(super) FrameSocket);

pub(super) fn patience() -> Patience<'static> {
    Patience {
        deadline: Deadline::after(HANG),
        stop: None,
    }
}

impl RawClient {
    pub(super) fn connect(socket_path: &Path) -> Self {
        let stream = connect(socket_path).unwrap();
        Self(FrameSocket::new(stream, IncomingDescriptors::Take).unwrap())
    }

    /// A client that has greeted and was welcomed.
    pub(super) fn greet(socket_path: &Path) -> Self {
        let mut raw = Self::connect(socket_path);
        let client = Name::cut("raw");
        raw.say(&ClientMessage::Hello {
            protocol_version: PROTOCOL_VERSION,
            client,
        });
        assert!(matches!(raw.hear(), Ok(ServerMessage::Welcome { .. })));
        raw
    }

    pub(super) fn say(&mut self, message: &ClientMessage) {
        self.0
            .send(&wire::encode(message), &[], patience())
            .unwrap();
    }

    pub(super) fn hear(&mut self) -> Result<ServerMessage, FrameFault> {
        self.0
            .receive(patience())
            .map(|frame| wire::decode(&frame.payload).unwrap())
    }

    /// Asks for a pin and gets it.
    pub(super) fn pin(&mut self) -> PinId {
        self.say(&ClientMessage::Pin { request: request() });
        match self.hear().unwrap() {
            ServerMessage::Granted { facts } => facts.pin_id,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the server has closed the connection.
    pub(super) fn await_end(&mut self) {
        loop {
            match self.hear() {
                Ok(_) => {}
                Err(FrameFault::Closed | FrameFault::Truncated) => return,
                Err(fault) => panic!("{fault}"),
            }
        }
    }
}
