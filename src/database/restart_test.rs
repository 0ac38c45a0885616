//! Pins that last by the lock on their index: handed over in a running engine, and over its restarts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::os::{Disk, File, OpenMode, SimulatedHost, read_exact_at, write_all_at};
use crate::page::PageSize;
use crate::view::PinnedFile;
use crate::view::tree::{RangeRead, ReadError};

const PAGE: u64 = 4096;

pub(super) fn open(host: &Host) -> Database {
    let options = EngineOptions {
        page_size: PageSize::new(PAGE).unwrap(),
        checkpoint_bytes: u64::MAX,
        ..EngineOptions::default()
    };
    Database::open_on(host, "/db", &options).unwrap()
}

/// Overwrites all keys, so that nearly every page changes.
pub(super) fn fill(database: &Database, round: u8) {
    let mut write = database.begin_write().unwrap();
    for key in 0..200_u32 {
        write.put("t", &key.to_be_bytes(), &[round; 100]).unwrap();
    }
    write.commit().unwrap();
}

pub(super) fn read_all(view: &PinnedFile) -> Result<Vec<u8>, ReadError> {
    let mut out = vec![0; usize::try_from(view.size()).unwrap()];
    view.read_range(0, &mut out)?;
    Ok(out)
}

/// A pin that another process of the same machine holds, and what it shows.
pub(super) fn handed_over(machine: &SimulatedHost, database: &Database) -> (HandedOver, Vec<u8>) {
    let other = machine.with_disk(machine.disk.another_process());
    let pin = database.pin().unwrap().hand_over(&other.host).unwrap();
    let whole = read_all(&pin.view).unwrap();
    (pin, whole)
}

/// A holder that is gone leaves no trace but its lock, which is no more.
#[test]
fn handed_over_pin_lasts_as_long_as_its_view() {
    let machine = Host::simulated(1);
    let database = open(&machine.host);
    fill(&database, 1);
    let (pin, whole) = handed_over(&machine, &database);
    for round in 2..5 {
        fill(&database, round);
        database.checkpoint().unwrap();
        database.tend();
        assert_eq!(read_all(&pin.view).unwrap(), whole);
    }
    let second = Arc::clone(&pin.view);
    drop(pin);
    database.tend();
    assert_eq!(read_all(&second).unwrap(), whole);
    drop(second);
    database.tend();
    assert_eq!(database.stats().pins, 0);
    assert_eq!(database.stats().shadow_slots, 0);
}

/// Only a pin that was adopted waits for anybody: one that has its holder is nobody else's.
#[test]
fn pin_of_a_running_engine_cannot_be_reclaimed() {
    let machine = Host::simulated(2);
    let database = open(&machine.host);
    fill(&database, 1);
    let (pin, whole) = handed_over(&machine, &database);
    let refused = database.reclaim(pin.database, pin.id, &pin.token);
    assert!(matches!(
        refused,
        Err(DatabaseError::NotReclaimable { pin: id }) if id == pin.id
    ));
    machine.clock.advance(Duration::from_secs(3600));
    database.tend();
    assert_eq!(read_all(&pin.view).unwrap(), whole);
}

/// A pin of one commit, handed over; the engine killed; and the machine for the next one.
pub(super) struct Restarted {
    pub(super) machine: SimulatedHost,
    pub(super) pin: HandedOver,
    pub(super) whole: Vec<u8>,
}

impl Restarted {
    /// Some of the pages are in slots by the spill, some by a capture, and some in the live file only.
    pub(super) fn new(seed: u64) -> Self {
        let machine = Host::simulated(seed);
        let database = open(&machine.host);
        fill(&database, 1);
        database.checkpoint().unwrap();
        put_one(&database, 2);
        let (pin, whole) = handed_over(&machine, &database);
        put_one(&database, 3);
        database.checkpoint().unwrap();
        put_one(&database, 4);
        assert_eq!(read_all(&pin.view).unwrap(), whole);
        let machine = machine.process_crash();
        Self {
            machine,
            pin,
            whole,
        }
    }

    pub(super) fn shadow(&self) -> PathBuf {
        PathBuf::from("/db/shadow")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.shadow().join(format!("{}.pin", self.pin.id))
    }

    pub(super) fn file(&self, path: impl AsRef<Path>) -> Arc<dyn File> {
        let disk = &self.machine.disk;
        disk.open(path.as_ref(), OpenMode::ReadWrite).unwrap()
    }

    /// Opens, overwrites everything, and fails if the view gives anything but its bytes.
    pub(super) fn assert_adopted(&self) -> Database {
        let database = open(&self.machine.host);
        assert_eq!(database.stats().pins, 1);
        self.assert_stays(&database);
        database
    }

    pub(super) fn assert_stays(&self, database: &Database) {
        for round in 5..8 {
            fill(database, round);
            database.checkpoint().unwrap();
            assert_eq!(read_all(&self.pin.view).unwrap(), self.whole);
        }
        assert_eq!(self.pin.view.counts().failed_checks, 0);
    }

    /// Opens, and fails unless every read of the view fails from then on.
    pub(super) fn assert_fenced(&self) -> Database {
        let database = open(&self.machine.host);
        assert_eq!(database.stats().pins, 0);
        for round in 5..8 {
            let read = read_all(&self.pin.view).map(drop);
            let is_refused = matches!(
                read,
                Err(ReadError::PinEnded { .. } | ReadError::IndexHeader)
            );
            assert!(is_refused, "{read:?}");
            fill(&database, round);
            database.checkpoint().unwrap();
        }
        database
    }
}

pub(super) fn put_one(database: &Database, round: u8) {
    let mut write = database.begin_write().unwrap();
    write.put("t", &[0, 0, 0, round], &[round; 100]).unwrap();
    write.commit().unwrap();
}

/// D5, S7: the readers of a dead engine's pin go on under the next one, whatever that writes.
#[test]
fn held_pin_is_adopted_and_gone_on_with() {
    let restarted = Restarted::new(10);
    assert_eq!(read_all(&restarted.pin.view).unwrap(), restarted.whole);
    let database = restarted.assert_adopted();
    assert!(database.stats().shadow_slots > 0);
    let (machine, whole) = (restarted.machine.process_crash(), restarted.whole);
    drop(database);
    let again = Restarted {
        machine,
        whole,
        pin: restarted.pin,
    };
    let database = again.assert_adopted();
    drop(again.pin);
    database.tend();
    let stats = database.stats();
    assert_eq!(
        (stats.pins, stats.shadow_slots, stats.shadow_bytes),
        (0, 0, 0)
    );
}

/// P9: an adopted pin waits for its holder for a while, and is given back once, for its token.
#[test]
fn adopted_pin_is_given_back_once_and_only_for_its_token() {
    let Restarted { machine, pin, .. } = Restarted::new(11);
    let database = open(&machine.host);
    let other = DatabaseId([9; 16]);
    let refusals = [
        database.reclaim(pin.database, pin.id, &[0; 32]),
        database.reclaim(pin.database, PinId([0; 16]), &pin.token),
        database.reclaim(other, pin.id, &pin.token),
    ];
    assert!(refusals.iter().all(Result::is_err), "{refusals:?}");
    database.reclaim(pin.database, pin.id, &pin.token).unwrap();
    database
        .reclaim(pin.database, pin.id, &pin.token)
        .unwrap_err();
    machine.clock.advance(Duration::from_secs(3600));
    database.tend();
    read_all(&pin.view).unwrap();
}

/// P9: a holder that never comes back must not hold up the disk for ever.
#[test]
fn adopted_pin_that_nobody_reclaims_ends() {
    let Restarted { machine, pin, .. } = Restarted::new(12);
    let database = open(&machine.host);
    machine.clock.advance(Duration::from_secs(60));
    database.tend();
    read_all(&pin.view).unwrap();
    machine.clock.advance(Duration::from_millis(1));
    database.tend();
    read_all(&pin.view).unwrap_err();
    assert_eq!(database.stats().pins, 0);
}

/// D5: where nobody holds an index any more, nothing is gone on with.
#[test]
fn pin_whose_holder_died_with_the_engine_is_ended() {
    let Restarted { machine, pin, .. } = Restarted::new(13);
    drop(pin);
    let database = open(&machine.host);
    assert_eq!(database.stats().pins, 0);
    let names = machine.disk.list(Path::new("/db/shadow")).unwrap();
    assert_eq!(names, ["slots"]);
}

/// What was done by hand to the files, and the pin is then fenced: never wrong bytes.
#[test]
fn pin_whose_files_were_changed_is_left_alone_and_fenced() {
    type Change = fn(&Restarted);
    let changes: [(&str, Change); 9] = [
        ("index removed", |it| {
            it.machine.disk.remove(&it.index()).unwrap()
        }),
        ("slots removed", |it| {
            it.machine.disk.remove(&it.shadow().join("slots")).unwrap();
        }),
        ("slots replaced", |it| {
            replace(it, &it.shadow().join("slots"))
        }),
        ("index replaced", |it| replace(it, &it.index())),
        ("index renamed", |it| {
            let other = it.shadow().join(format!("{}.pin", PinId([7; 16])));
            it.machine.disk.rename(&it.index(), &other).unwrap();
        }),
        ("header flipped", |it| flip(&*it.file(it.index()), 100)),
        ("entry flipped", |it| flip(&*it.file(it.index()), 4096)),
        ("index cut short", |it| {
            let index = it.file(it.index());
            index.set_len(index.len().unwrap() - 1).unwrap();
        }),
        ("slots cut", |it| {
            let slots = it.file(it.shadow().join("slots"));
            slots.set_len(slots.len().unwrap() - 1).unwrap();
        }),
    ];
    for (seed, (what, change)) in (20..).zip(changes) {
        println!("{what}");
        let restarted = Restarted::new(seed);
        change(&restarted);
        let database = restarted.assert_fenced();
        drop(restarted.pin);
        database.tend();
        let names = restarted.machine.disk.list(Path::new("/db/shadow"));
        assert_eq!(names.unwrap(), ["slots"], "{what}");
    }
}

/// Puts a copy of a file in its place.
fn replace(restarted: &Restarted, path: &Path) {
    let disk = &restarted.machine.disk;
    let old = restarted.file(path);
    let mut bytes = vec![0; usize::try_from(old.len().unwrap()).unwrap()];
    read_exact_at(&*old, &mut bytes, 0).unwrap();
    let copy = path.with_extension("copy");
    let new = disk.open(&copy, OpenMode::CreateNew).unwrap();
    write_all_at(&*new, &bytes, 0).unwrap();
    disk.rename(&copy, path).unwrap();
}

pub(super) fn flip(file: &dyn File, offset: u64) {
    let mut byte = [0];
    read_exact_at(file, &mut byte, offset).unwrap();
    write_all_at(file, &[byte[0] ^ 1], offset).unwrap();
}

/// What the live header, the log and the slots hold, in bytes.
fn written(machine: &SimulatedHost) -> (Vec<u8>, Vec<u8>) {
    let read = |path: PathBuf| {
        let file = machine.disk.open(&path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        read_exact_at(&*file, &mut bytes, 0).unwrap();
        bytes
    };
    let names = machine.disk.list(Path::new("/db/wal")).unwrap();
    let log = names
        .iter()
        .map(|name| read(Path::new("/db/wal").join(name)));
    (read("/db/data.pages".into()), log.flatten().collect())
}

fn take_offline(machine: &SimulatedHost) -> (SimulatedHost, HandedOver, Vec<u8>) {
    let holder = machine.with_disk(machine.disk.another_process());
    let pin = hand_over_offline(&machine.host, Path::new("/db"), &holder.host).unwrap();
    let whole = read_all(&pin.view).unwrap();
    (holder, pin, whole)
}

/// D7: of a killed engine, also one killed in a checkpoint, and beside a pin that is held already.
#[test]
fn pin_without_an_engine_is_of_the_newest_commit_and_is_adopted() {
    let mut kill = 0;
    let mut is_over = false;
    while !is_over {
        let machine = Host::simulated(30);
        let database = open(&machine.host);
        fill(&database, 1);
        database.checkpoint().unwrap();
        let (early, early_whole) = handed_over(&machine, &database);
        fill(&database, 2);
        put_one(&database, 3);
        let (_, newest) = handed_over(&machine, &database);
        machine
            .disk
            .set_faults(crate::os::sim::Faults::kill_before_change(kill));
        is_over = database.checkpoint().is_ok();
        let machine = machine.process_crash();
        machine.disk.set_faults(crate::os::sim::Faults::none());

        let before = written(&machine);
        let (holder, pin, whole) = take_offline(&machine);
        let (_, same, again) = take_offline(&machine);
        assert_eq!(written(&machine), before);
        assert!(whole == newest && again == newest, "{kill}");
        assert_eq!(read_all(&early.view).unwrap(), early_whole);
        drop(same);
        let index = pin.view.index_identity().unwrap();
        clean_up_pin(&holder.host, Path::new("/db"), PinId([3; 16]), index).unwrap_err();

        let restarted = Restarted {
            machine,
            pin,
            whole,
        };
        let database = open(&restarted.machine.host);
        assert_eq!(database.stats().pins, 2);
        restarted.assert_stays(&database);
        assert_eq!(read_all(&early.view).unwrap(), early_whole);
        kill += 3;
    }
    assert!(kill > 10, "{kill}");
}

/// S7: without an engine nothing is fenced, so the slots of a pin that cannot be understood stay as they are.
#[test]
fn pin_without_an_engine_spares_the_slots_of_one_that_is_not_understood() {
    let restarted = Restarted::new(31);
    // The last entry is of a page that is never read below: all others are still right.
    let pages = restarted.pin.view.header().page_count;
    let last = crate::shadow::index::entry_offset(crate::page::PageNo(pages - 1)).unwrap();
    write_all_at(&*restarted.file(restarted.index()), &[1; 8], last).unwrap();
    let mut rest = vec![0; restarted.whole.len() - usize::try_from(PAGE).unwrap()];
    restarted.pin.view.read_range(0, &mut rest).unwrap();
    let (_, pin, whole) = take_offline(&restarted.machine);
    let mut after = rest.clone();
    restarted.pin.view.read_range(0, &mut after).unwrap();
    assert_eq!(after, rest);
    assert_eq!(read_all(&pin.view).unwrap(), whole);
}

/// S7: a slot file as long as its slots can be numbered has none to give, and none is given twice.
#[test]
fn slot_file_of_all_numbers_is_exhausted() {
    let restarted = Restarted::new(33);
    write_all_at(&*restarted.file(restarted.index()), &[1; 8], 4096).unwrap();
    let slots = restarted.file(restarted.shadow().join("slots"));
    slots.set_len(u64::from(u32::MAX) * PAGE).unwrap();
    let refused = hand_over_offline(
        &restarted.machine.host,
        Path::new("/db"),
        &restarted.machine.host,
    );
    let exhausted = DatabaseError::Shadow(crate::shadow::ShadowError::Exhausted);
    assert_eq!(refused.unwrap_err().to_string(), exhausted.to_string());
}

/// D7: a crash between the two header copies leaves two epochs, and the pin accepts both.
#[test]
fn pin_without_an_engine_accepts_both_epochs_of_a_broken_takeover() {
    for kill in 0..40 {
        let restarted = Restarted::new(32);
        let faults = crate::os::sim::Faults::kill_before_change(kill);
        restarted.machine.disk.set_faults(faults);
        let options = EngineOptions::default();
        let is_open = Database::open_on(&restarted.machine.host, "/db", &options).is_ok();
        let machine = restarted.machine.process_crash();
        machine.disk.set_faults(crate::os::sim::Faults::none());
        let (_, pin, whole) = take_offline(&machine);
        let restarted = Restarted {
            machine,
            pin,
            whole,
        };
        let database = open(&restarted.machine.host);
        restarted.assert_stays(&database);
        if is_open {
            return;
        }
    }
    panic!("no takeover came to its end");
}

/// Nobody takes a pin under a running engine's feet.
#[test]
fn pin_without_an_engine_is_refused_while_one_runs() {
    let machine = Host::simulated(33);
    let database = open(&machine.host);
    let refused = hand_over_offline(&machine.host, Path::new("/db"), &machine.host);
    assert!(matches!(
        refused,
        Err(DatabaseError::Engine(EngineError::InUse { .. }))
    ));
    drop(database);
}

/// P9 over the socket: neither a guess nor the token of a pin that has its holder gets anybody a pin; and a
/// database that is dropped leaves held pins as a crash does.
#[test]
fn socket_gives_a_pin_back_to_its_holder_and_to_nobody_else() {
    use crate::pin::{
        LeaseState, Name, OnShadowFull, PinClient, PinError, PinRequest, PinToken, ReclaimRequest,
        RefusalKind, WirePath,
    };
    let dir = tempfile::tempdir().unwrap();
    let start = || Database::open(dir.path(), &EngineOptions::default(), PinServing::On).unwrap();
    let connect = || PinClient::connect(&dir.path().join(SOCKET_FILE), "test").unwrap();
    let database = start();
    fill(&database, 1);
    let request = PinRequest {
        max_age_ms: None,
        on_full: OnShadowFull::Break,
        shadow_limit_bytes: None,
        holder: Name::cut("test"),
        mount_point: WirePath::default(),
    };
    let mut pin = connect().pin(&request).unwrap();
    let right = ReclaimRequest {
        database_id: pin.facts.database_id,
        pin_id: pin.facts.pin_id,
        token: pin.facts.token,
        holder: Name::cut("test"),
        mount_point: WirePath::default(),
    };
    let assert_refused = |request: &ReclaimRequest| {
        let refused = connect().reclaim(request).unwrap_err();
        let is_unknown = matches!(
            refused,
            PinError::Refused {
                kind: RefusalKind::UnknownPin,
                ..
            }
        );
        assert!(is_unknown, "{refused}");
    };
    assert_refused(&right);
    drop(database);
    let ended = pin.lease.wait_end(Duration::from_secs(60)).unwrap();
    assert_eq!(ended, LeaseState::EngineGone);

    let database = start();
    assert_eq!(database.stats().pins, 1);
    let mut wrong = right.clone();
    wrong.token = PinToken([0; 32]);
    assert_refused(&wrong);
    let mut other = right.clone();
    other.database_id = DatabaseId([9; 16]);
    assert_refused(&other);
    let (facts, lease) = connect().reclaim(&right).unwrap();
    assert_eq!(facts.pin_id, right.pin_id);
    assert_eq!(facts.max_age_ms, pin.facts.max_age_ms);
    assert_refused(&right);
    assert_eq!(database.stats().pins, 1);
    lease.release().unwrap();
    assert_eq!(database.stats().pins, 0);
}
