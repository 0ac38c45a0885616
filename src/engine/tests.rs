//! The engine against a model, over the simulated disk: crashes, checkpoints, readers.
#![allow(clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::engine::error::EngineError;
use crate::os::random::SeededRandom;
use crate::os::sim::Faults;
use crate::page::PageNo;

mod changes;
mod clock;
mod crash_large;
mod header_copies;
mod large;
mod lost_writes;
mod overwrite;
mod refused;

const DIR: &str = "/db";
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const ENOLCK: i32 = 37;
const EDQUOT: i32 = 122;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> EngineOptions {
    EngineOptions {
        page_size: PageSize::new(4096).unwrap(),
        cache_bytes: 1 << 18,
        checkpoint_bytes: u64::MAX,
        ..EngineOptions::default()
    }
}

fn open(host: &Host) -> Result<Engine, EngineError> {
    Engine::open(host, Path::new(DIR), &options(), None)
}

fn contents(read: &ReadTransaction) -> Model {
    read.range("t", ..).unwrap().map(Result::unwrap).collect()
}

fn below(random: &SeededRandom, bound: u64) -> u64 {
    random.next() % bound
}

/// Puts and deletes of one transaction.
struct Plan(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Plan {
    fn draw(random: &SeededRandom) -> Self {
        let step = |_| {
            let key = format!("key {:04}", below(random, 300)).into_bytes();
            let length = if below(random, 12) == 0 { 30_000 } else { 300 };
            let value = vec![below(random, 256) as u8; below(random, length) as usize];
            (key, (below(random, 4) > 0).then_some(value))
        };
        Self((0..=below(random, 12)).map(step).collect())
    }

    fn on_model(&self, model: &Model) -> Model {
        let mut next = model.clone();
        for (key, value) in &self.0 {
            match value {
                Some(value) => drop(next.insert(key.clone(), value.clone())),
                None => drop(next.remove(key)),
            }
        }
        next
    }

    fn on_engine(&self, write: &mut WriteTransaction) -> Result<(), EngineError> {
        for (key, value) in &self.0 {
            match value {
                Some(value) => write.put("t", key, value)?,
                None => drop(write.delete("t", key)?),
            }
        }
        Ok(())
    }
}

fn assert_sound(engine: &Engine) {
    let report = engine.check().unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
}

/// E1, E7, E9, E10, W2, W5, E6: after a crash of the machine at any moment exactly the acknowledged
/// commits are there, or one whole commit more that was under way.
#[test]
fn acknowledged_commits_survive_crashes_of_the_machine() {
    let mut crashed = 0;
    for seed in 0..80 {
        let random = SeededRandom::new(seed);
        let mut simulated = Host::simulated(seed);
        let mut model = Model::new();
        for round in 0..6 {
            let stop = below(&random, 150);
            simulated
                .disk
                .set_faults(Faults::power_off_before_change(stop));
            let mut under_way = model.clone();
            if let Ok(engine) = open(&simulated.host) {
                for _ in 0..40 {
                    if below(&random, 6) == 0 && engine.checkpoint().is_err() {
                        break;
                    }
                    let plan = Plan::draw(&random);
                    let Ok(mut write) = engine.begin_write() else {
                        break;
                    };
                    if plan.on_engine(&mut write).is_err() {
                        break;
                    }
                    if below(&random, 8) == 0 {
                        write.rollback();
                        continue;
                    }
                    under_way = plan.on_model(&model);
                    if write.commit().is_err() {
                        crashed += 1;
                        break;
                    }
                    model = under_way.clone();
                }
            }
            simulated = simulated.crash(seed * 77 + round);
            simulated.disk.set_faults(Faults::none());
            let engine =
                open(&simulated.host).unwrap_or_else(|e| panic!("seed {seed}, {round}: {e}"));
            assert_sound(&engine);
            let found = contents(&engine.begin_read());
            assert!(
                found == model || found == under_way,
                "seed {seed}, round {round}"
            );
            model = found;
            if round % 2 == 0 {
                engine.close().unwrap();
            }
            simulated = simulated.process_crash();
        }
    }
    assert!(
        crashed > 50,
        "the crashes must hit commits, but only {crashed} did"
    );
}

/// E3, E4, E5: a reader sees its state whatever is committed and written back after it began.
#[test]
fn readers_keep_their_state_through_commits_and_checkpoints() {
    for seed in 0..20 {
        let random = SeededRandom::new(seed);
        let simulated = Host::simulated(seed);
        let engine = open(&simulated.host).unwrap();
        let mut model = Model::new();
        let mut readers: Vec<(ReadTransaction, Model)> = Vec::new();
        for _ in 0..150 {
            let plan = Plan::draw(&random);
            let mut write = engine.begin_write().unwrap();
            plan.on_engine(&mut write).unwrap();
            assert_eq!(
                write.entry_count("t").unwrap(),
                plan.on_model(&model).len() as u64
            );
            write.commit().unwrap();
            model = plan.on_model(&model);
            if below(&random, 5) == 0 {
                engine.checkpoint().unwrap();
            }
            if below(&random, 6) == 0 {
                readers.push((engine.begin_read(), model.clone()));
            }
            if !readers.is_empty() && below(&random, 8) == 0 {
                let index = below(&random, readers.len() as u64) as usize;
                let (reader, expected) = readers.swap_remove(index);
                assert_eq!(contents(&reader), expected);
            }
        }
        for (reader, expected) in readers.drain(..) {
            assert_eq!(contents(&reader), expected, "seed {seed}");
            let backwards: Vec<_> = reader
                .range("t", ..)
                .unwrap()
                .rev()
                .map(Result::unwrap)
                .collect();
            assert!(
                backwards.iter().rev().eq(expected
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect::<Vec<_>>()
                    .iter())
            );
        }
        assert_sound(&engine);
    }
}

/// Freed pages are used again: rewriting the same data does not make the file grow without end.
#[test]
fn freed_pages_are_used_again() {
    let simulated = Host::simulated(1);
    let engine = open(&simulated.host).unwrap();
    let mut after_first = 0;
    for round in 0..20u8 {
        let mut write = engine.begin_write().unwrap();
        write.clear("t").unwrap();
        for key in 0..50u32 {
            write
                .put("t", &key.to_be_bytes(), &vec![round; 20_000])
                .unwrap();
        }
        write.commit().unwrap();
        engine.checkpoint().unwrap();
        let pages = engine.stats().page_count;
        if round == 1 {
            after_first = pages;
        }
        assert!(
            round < 2 || pages <= after_first + 4,
            "{pages} pages after {after_first}"
        );
    }
    assert_sound(&engine);
}

/// A clean stop leaves a page file that needs no log, and the next open finds everything.
#[test]
fn clean_stop_leaves_no_log() {
    let simulated = Host::simulated(2);
    let engine = open(&simulated.host).unwrap();
    let mut write = engine.begin_write().unwrap();
    write.put("t", b"k", b"v").unwrap();
    let timestamp = write.commit().unwrap();
    engine.close().unwrap();
    drop(engine);
    assert_eq!(
        simulated.host.disk.list(Path::new("/db/wal")).unwrap(),
        Vec::<std::ffi::OsString>::new()
    );
    let copy = Engine::open_read_only(&simulated.host, Path::new(DIR), 0).unwrap();
    assert_eq!(
        copy.begin_read().get("t", b"k").unwrap().as_deref(),
        Some(&b"v"[..])
    );
    drop(copy);
    let engine = open(&simulated.host).unwrap();
    assert_eq!(engine.begin_read().timestamp(), timestamp);
}

/// E7: a log that the header asks for and that is missing is an error, not an empty database.
#[test]
fn missing_log_is_an_error() {
    let simulated = Host::simulated(3);
    let engine = open(&simulated.host).unwrap();
    let mut write = engine.begin_write().unwrap();
    write.put("t", b"k", b"v").unwrap();
    write.commit().unwrap();
    drop(engine);
    let simulated = simulated.process_crash();
    for name in simulated.host.disk.list(Path::new("/db/wal")).unwrap() {
        simulated
            .host
            .disk
            .remove(&Path::new("/db/wal").join(name))
            .unwrap();
    }
    let error = open(&simulated.host).unwrap_err();
    assert_eq!(error.kind(), error::ErrorKind::Corrupt, "{error}");
}

/// W1: an append for which there is no space is undone, and writing goes on when space returns.
#[test]
fn full_disk_undoes_the_commit_and_nothing_else() {
    let simulated = Host::simulated(5);
    let engine = open(&simulated.host).unwrap();
    let put = |key: &[u8], bytes: usize| {
        let mut write = engine.begin_write().unwrap();
        write.put("t", key, &vec![7; bytes])?;
        write.commit()
    };
    put(b"first", 10).unwrap();
    simulated.disk.set_capacity(Some(200_000));
    let error = put(b"large", 1_000_000).unwrap_err();
    assert_eq!(error.kind(), error::ErrorKind::NoSpace, "{error}");
    put(b"small", 10).unwrap();
    simulated.disk.set_capacity(None);
    put(b"large", 1_000_000).unwrap();
    assert_sound(&engine);
    drop(engine);
    let engine = open(&simulated.crash(1).host).unwrap();
    assert_eq!(engine.begin_read().entry_count("t").unwrap(), 3);
}

/// B5: what is half done must not be committed; the state before it is untouched.
#[test]
fn broken_transaction_can_only_be_rolled_back() {
    use crate::os::sim::{Fault, Operation};
    let simulated = Host::simulated(6);
    let engine = open(&simulated.host).unwrap();
    let mut write = engine.begin_write().unwrap();
    for key in 0..2000_u32 {
        write.put("t", &key.to_be_bytes(), &[1; 50]).unwrap();
    }
    write.commit().unwrap();
    engine.close().unwrap();
    drop(engine);
    let engine = open(&simulated.host).unwrap();
    let before = contents(&engine.begin_read());
    drop(engine);
    let engine = open(&simulated.host).unwrap();
    let mut write = engine.begin_write().unwrap();
    write.put("t", b"first", b"v").unwrap();
    let unreadable = Fault::kind(Operation::Read, std::io::ErrorKind::Other).on("data.pages");
    simulated
        .disk
        .set_faults(Faults::none().with(unreadable.times(u64::MAX)));
    assert!(write.put("t", &500_u32.to_be_bytes(), b"v").is_err());
    simulated.disk.set_faults(Faults::none());
    assert!(matches!(
        write.put("t", b"other", b"v"),
        Err(EngineError::Aborted)
    ));
    assert!(matches!(write.commit(), Err(EngineError::Aborted)));
    assert_eq!(contents(&engine.begin_read()), before);
    assert_sound(&engine);
}

/// E7: a checkpoint that failed is taken up again where it was, without a segment for each try; what
/// was committed meanwhile is in the live file too once it is stopped cleanly.
#[test]
fn failing_checkpoint_is_taken_up_again_and_loses_nothing() {
    use crate::os::sim::{Fault, Operation};
    let simulated = Host::simulated(6);
    let engine = open(&simulated.host).unwrap();
    let put = |key: &[u8]| {
        let mut write = engine.begin_write().unwrap();
        write.put("t", key, &[7; 100]).unwrap();
        write.commit().unwrap();
    };
    put(b"before");
    let segments = || {
        simulated
            .host
            .disk
            .list(Path::new("/db/wal"))
            .unwrap()
            .len()
    };
    let bad = Fault::errno(Operation::Write, 5)
        .on("data.pages")
        .times(u64::MAX);
    simulated.disk.set_faults(Faults::none().with(bad));
    assert!(engine.checkpoint().is_err());
    let after_one = segments();
    for _ in 0..5 {
        put(b"meanwhile");
        assert!(engine.checkpoint().is_err());
    }
    assert_eq!(segments(), after_one);
    simulated.disk.set_faults(Faults::none());
    put(b"after");
    engine.close().unwrap();
    drop(engine);
    let engine = open(&simulated.host).unwrap();
    assert_eq!(engine.begin_read().entry_count("t").unwrap(), 3);
    assert_sound(&engine);
}

/// Somebody who only reads a stopped database does not keep its engine from starting.
#[test]
fn engine_waits_for_those_who_only_look() {
    let simulated = Host::simulated(7);
    open(&simulated.host).unwrap().close().unwrap();
    let looker = Engine::open_read_only(&simulated.host, Path::new(DIR), 0).unwrap();
    simulated.clock.set_sleep(crate::os::clock::SimSleep::Yield);
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| open(&simulated.host));
        drop(looker);
        assert!(starting.join().unwrap().is_ok());
    });
    let second = open(&simulated.process_crash().host);
    assert!(
        second.is_ok(),
        "the engine of before is gone with its process"
    );
}

/// Somebody else's engine starts whenever this clock's owner sleeps.
#[derive(Debug)]
struct Interrupted {
    machine: crate::os::SimulatedHost,
    looker: std::sync::Mutex<Option<Engine>>,
    others: std::sync::Mutex<Vec<Result<Engine, EngineError>>>,
}

impl crate::os::Clock for Interrupted {
    fn wall_ns(&self) -> u64 {
        self.machine.clock.wall_ns()
    }

    fn monotonic(&self) -> std::time::Duration {
        self.machine.clock.monotonic()
    }

    fn sleep(&self, duration: std::time::Duration) {
        if self.looker.lock().unwrap().take().is_some() {
            let other = open(&self.machine.host);
            self.others.lock().unwrap().push(other);
        }
        self.machine.clock.sleep(duration);
    }
}

/// One that waits for a looker holds nothing meanwhile: of two that wait, none would ever start.
#[test]
fn engine_that_waits_keeps_no_other_from_starting() {
    let machine = Host::simulated(9);
    open(&machine.host).unwrap().close().unwrap();
    let looker = Engine::open_read_only(&machine.host, Path::new(DIR), 0).unwrap();
    let clock = Arc::new(Interrupted {
        machine: machine.clone(),
        looker: Some(looker).into(),
        others: Vec::new().into(),
    });
    let waiting = Host {
        clock: clock.clone(),
        ..machine.host.clone()
    };
    let late = open(&waiting);
    let others = std::mem::take(&mut *clock.others.lock().unwrap());
    assert!(matches!(others[..], [Ok(_)]), "{others:?}");
    assert!(matches!(late, Err(EngineError::InUse { .. })), "{late:?}");
}

/// Takes its time to end what it keeps, and sees who does not wait for that.
#[derive(Debug, Default)]
struct SlowEnd {
    is_begun: AtomicBool,
    is_told_early: AtomicBool,
    has_other_returned: AtomicBool,
}

impl PreImageSink for SlowEnd {
    fn before_overwrite(&self, _: &[PageNo], _: &dyn File) -> Result<Keep, CaptureFailure> {
        Ok(Keep::Kept)
    }

    fn passed(&self) {}

    fn relieve(&self, _: Pressure) -> bool {
        false
    }

    fn poisoned(&self) {
        self.is_begun.store(true, Ordering::SeqCst);
        let pause = std::time::Duration::from_millis(100);
        Host::system().clock.sleep(pause);
        let is_early = self.has_other_returned.load(Ordering::SeqCst);
        self.is_told_early.store(is_early, Ordering::SeqCst);
    }
}

/// E8: nobody hears that nothing is written any more before the pins have ended, also not the second of
/// two who waited for the same sync.
#[test]
fn nobody_hears_of_the_poison_before_the_pins_end() {
    let machine = Host::simulated(10);
    let sink = Arc::new(SlowEnd::default());
    let given = sink.clone();
    let mut prepare = |_: &_| Ok(given.clone() as Arc<dyn PreImageSink>);
    let engine = Engine::open(
        &machine.host,
        Path::new(DIR),
        &options(),
        Some(&mut prepare),
    );
    let shared = engine.unwrap().shared.clone();
    shared.log().unwrap().poison("a sync failed");
    let hear = || shared.hear_poison(shared.log().unwrap().refuse_if_poisoned());
    std::thread::scope(|scope| {
        scope.spawn(|| hear().unwrap_err());
        while !sink.is_begun.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        hear().unwrap_err();
        sink.has_other_returned.store(true, Ordering::SeqCst);
    });
    assert!(!sink.is_told_early.load(Ordering::SeqCst));
}

/// A page file that was moved away is not written, also by a checkpoint that failed before: the log
/// would be let go for a file that is not there any more.
#[test]
fn moved_page_file_is_not_written_by_a_checkpoint_taken_up_again() {
    use crate::os::sim::{Fault, Operation};
    let simulated = Host::simulated(8);
    let disk = &simulated.host.disk;
    let engine = open(&simulated.host).unwrap();
    let mut write = engine.begin_write().unwrap();
    write.put("t", b"k", b"v").unwrap();
    write.commit().unwrap();
    let bad = Fault::errno(Operation::Write, 5).on("data.pages");
    simulated.disk.set_faults(Faults::none().with(bad));
    assert!(engine.checkpoint().is_err());
    simulated.disk.set_faults(Faults::none());
    let (home, away) = (Path::new("/db/data.pages"), Path::new("/db/away"));
    disk.rename(home, away).unwrap();
    let moved = engine.checkpoint().unwrap_err();
    assert!(matches!(moved, EngineError::Moved { .. }), "{moved}");
    disk.rename(away, home).unwrap();
    assert!(engine.checkpoint().unwrap().pages_written > 0);
}

/// Who asks only for the length must not pay for the value.
#[test]
fn the_length_of_a_value_is_known_without_reading_it() {
    let machine = Host::simulated(7);
    let engine = open(&machine.host).unwrap();
    let mut write = engine.begin_write().unwrap();
    for length in [0_usize, 1, 900, 5_000, 100_000] {
        let key = format!("key {length}").into_bytes();
        write.put("t", &key, &vec![7; length]).unwrap();
        assert_eq!(write.value_bytes("t", &key).unwrap(), Some(length as u64));
    }
    assert_eq!(write.value_bytes("t", b"none").unwrap(), None);
    assert_eq!(write.value_bytes("none", b"k").unwrap(), None);
    write.commit().unwrap();
    let read = engine.begin_read();
    for length in [0_usize, 1, 900, 5_000, 100_000] {
        let key = format!("key {length}").into_bytes();
        assert_eq!(read.value_bytes("t", &key).unwrap(), Some(length as u64));
    }
    assert_eq!(read.value_bytes("t", b"none").unwrap(), None);
    // Who is told the length before the value can still refuse it.
    let refused = EngineError::Exhausted { what: "memory" };
    let mut told = 0;
    let got = read.get_admitted("t", b"key 100000", |bytes| {
        told = bytes;
        Err(refused)
    });
    assert!(matches!(got, Err(EngineError::Exhausted { what: "memory" })) && told == 100_000);
    let got = read.get_admitted::<EngineError>("t", b"key 900", |_| Ok(()));
    assert_eq!(got.unwrap(), Some(vec![7; 900]));
}
