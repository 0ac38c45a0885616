//! More than memory holds: transactions, versions, recovery, values.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::engine::error::ErrorKind;
use crate::engine::sink::{CaptureFailure, Keep, Pressure};
use crate::os::File;
use crate::os::sim::{Fault, Operation};
use crate::page::PageNo;

/// Images of the page table that [`small`] allows: two in each of 64 shards.
const TABLE_IMAGES: u64 = 128;

/// As little memory as there can be.
fn small() -> EngineOptions {
    EngineOptions {
        cache_bytes: 0,
        ..options()
    }
}

fn open_small(host: &Host) -> Engine {
    Engine::open(host, Path::new(DIR), &small(), None).unwrap()
}

/// E13: nothing stays in memory beyond the bound.
fn assert_bounded(engine: &Engine) {
    let stats = engine.stats();
    let images = (stats.version_bytes + stats.cache_bytes) / stats.page_size;
    assert!(images <= TABLE_IMAGES, "{images} images in memory");
}

/// Puts `count` entries of about 1.4 KB, in an order that touches pages again and again.
fn put_many(engine: &Engine, model: &mut Model, round: u64, count: u64) {
    let mut write = engine.begin_write().unwrap();
    for number in 0..count {
        let key = format!("key {:05}", number * 7919 % count).into_bytes();
        let value = format!("round {round}, number {number}; ").repeat(60);
        write.put("t", &key, value.as_bytes()).unwrap();
        model.insert(key, value.into_bytes());
    }
    write.commit().unwrap();
}

/// Keeps every pre-image, or none and says so.
#[derive(Debug, Default)]
struct Holding(AtomicBool);

impl PreImageSink for Holding {
    fn before_overwrite(&self, _: &[PageNo], _: &dyn File) -> Result<Keep, CaptureFailure> {
        match self.0.load(Ordering::SeqCst) {
            true => Err("held".into()),
            false => Ok(Keep::Kept),
        }
    }

    fn passed(&self) {}

    fn relieve(&self, _: Pressure) -> bool {
        false
    }

    fn poisoned(&self) {}
}

/// E13, E14: a transaction of many times the memory commits, reads its own writes, and survives both
/// kinds of crash; its space in the spool is given back.
#[test]
fn transaction_larger_than_memory_commits_and_survives() {
    let simulated = Host::simulated(21);
    let engine = open_small(&simulated.host);
    let mut model = Model::new();
    put_many(&engine, &mut model, 1, 2000);
    assert!(engine.stats().spool_bytes > 1 << 20, "{:?}", engine.stats());
    assert_bounded(&engine);
    assert!(contents(&engine.begin_read()) == model);
    assert_bounded(&engine);
    let mut write = engine.begin_write().unwrap();
    for number in 0..2000 {
        let key = format!("key {number:05}").into_bytes();
        let value = vec![number as u8; 900];
        write.put("t", &key, &value).unwrap();
        model.insert(key, value);
    }
    let own: Model = write.range("t", ..).unwrap().map(Result::unwrap).collect();
    assert!(own == model);
    write.commit().unwrap();
    assert_sound(&engine);
    let image = simulated.with_disk(simulated.disk.image_after_crash(3));
    for host in [&image.host, &simulated.process_crash().host] {
        let engine = open_small(host);
        assert_eq!(engine.stats().spool_bytes, 0, "images stay in the log");
        assert!(contents(&engine.begin_read()) == model);
        assert_sound(&engine);
        assert_bounded(&engine);
        engine.checkpoint().unwrap();
        assert!(contents(&engine.begin_read()) == model);
        engine.close().unwrap();
    }
}

/// E13: clean pages take what the transaction does not need of its quarter, and no more.
#[test]
fn readers_use_the_memory_of_a_transaction_that_needs_none() {
    const IMAGES: u64 = 1024;
    let simulated = Host::simulated(24);
    let options = EngineOptions {
        cache_bytes: IMAGES * 4096,
        ..options()
    };
    let engine = Engine::open(&simulated.host, Path::new(DIR), &options, None).unwrap();
    let mut model = Model::new();
    put_many(&engine, &mut model, 1, 4000);
    engine.checkpoint().unwrap();
    let images_after_reading = || {
        assert!(contents(&engine.begin_read()) == model);
        let stats = engine.stats();
        (stats.version_bytes + stats.cache_bytes) / stats.page_size
    };
    let most = images_after_reading();
    assert!(most > IMAGES * 7 / 8 && most <= IMAGES, "{most}");
    let mut write = engine.begin_write().unwrap();
    for number in 0..4000 {
        let key = format!("key {number:05}").into_bytes();
        write.put("t", &key, &[1; 1400]).unwrap();
    }
    let least = images_after_reading();
    assert!(least <= IMAGES * 3 / 4, "{least}");
    write.rollback();
    assert_eq!(images_after_reading(), most);
    assert_sound(&engine);
}

/// E12: what a rolled back transaction and a checkpoint free in the spool is free on the disk too.
#[test]
fn space_of_the_spool_is_given_back() {
    let simulated = Host::simulated(22);
    let engine = open_small(&simulated.host);
    put_many(&engine, &mut Model::new(), 1, 10);
    engine.checkpoint().unwrap();
    let free = || simulated.host.disk.free_bytes(Path::new(DIR)).unwrap();
    simulated.disk.set_capacity(Some(64 << 20));
    let before = free();
    let mut write = engine.begin_write().unwrap();
    for number in 0..2000_u32 {
        let key = number.to_be_bytes();
        write.put("t", &key, &[7; 1000]).unwrap();
    }
    assert!(free() < before - (1 << 20), "the spool is in use");
    write.rollback();
    assert_eq!(free(), before);
    put_many(&engine, &mut Model::new(), 2, 1000);
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().spool_bytes, 0);
    let stats = engine.stats();
    let pages = stats.page_count * stats.page_size;
    assert!(
        free() > (64 << 20) - pages - stats.wal_bytes - (64 << 10),
        "pages and log only"
    );
}

/// E13: while checkpoints are held, commits go on in bounded memory, readers keep their states, and
/// the log keeps everything.
#[test]
fn versions_of_a_held_checkpoint_and_of_readers_stay_in_bounded_memory() {
    let simulated = Host::simulated(23);
    let sink = Arc::new(Holding::default());
    let mut prepare = |_: &OpenFacts| {
        let sink: Arc<dyn PreImageSink> = sink.clone();
        Ok(sink)
    };
    let engine = Engine::open(
        &simulated.host,
        Path::new(DIR),
        &small(),
        Some(&mut prepare),
    )
    .unwrap();
    let mut model = Model::new();
    put_many(&engine, &mut model, 0, 400);
    engine.checkpoint().unwrap();
    sink.0.store(true, Ordering::SeqCst);
    let mut readers = Vec::new();
    for round in 1..12 {
        put_many(&engine, &mut model, round, 400);
        readers.push((engine.begin_read(), model.clone()));
        assert!(engine.checkpoint().is_err());
        assert_bounded(&engine);
    }
    assert!(engine.stats().spool_bytes > 4 << 20);
    sink.0.store(false, Ordering::SeqCst);
    engine.checkpoint().unwrap();
    for (reader, expected) in &readers {
        assert!(contents(reader) == *expected);
        assert_bounded(&engine);
    }
    drop(readers);
    put_many(&engine, &mut model, 99, 400);
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().spool_bytes, 0);
    assert!(contents(&engine.begin_read()) == model);
    assert_sound(&engine);
}

/// E13: a log of many small changes is replayed with few positions in memory: the pages go to the
/// spool in between. What comes out is the same.
#[test]
fn recovery_of_many_deltas_goes_through_the_spool() {
    let simulated = Host::simulated(24);
    let engine = open_small(&simulated.host);
    let mut model = Model::new();
    for number in 0..6000_u32 {
        let mut write = engine.begin_write().unwrap();
        for part in 0..6_u32 {
            let key = format!("key {:03}", (number * 31 + part * 77) % 500).into_bytes();
            let value = format!("value {number:06}").into_bytes();
            write.put("t", &key, &value).unwrap();
            model.insert(key, value);
        }
        write.commit().unwrap();
    }
    drop(engine);
    let engine = open_small(&simulated.process_crash().host);
    assert!(engine.stats().spool_bytes > 0, "{:?}", engine.stats());
    assert!(contents(&engine.begin_read()) == model);
    assert_sound(&engine);
    engine.close().unwrap();
}

/// E13: when the spool is full, committed versions stay, new transactions are told so instead of
/// memory growing on, and everything goes on when space returns.
#[test]
fn full_spool_refuses_transactions_and_loses_nothing() {
    for code in [ENOSPC, EIO] {
        let simulated = Host::simulated(25);
        let sink = Arc::new(Holding::default());
        let mut prepare = |_: &OpenFacts| {
            let sink: Arc<dyn PreImageSink> = sink.clone();
            Ok(sink)
        };
        let dir = Path::new(DIR);
        let engine = Engine::open(&simulated.host, dir, &small(), Some(&mut prepare)).unwrap();
        sink.0.store(true, Ordering::SeqCst);
        let full = Fault::errno(Operation::Write, code)
            .on("db")
            .times(u64::MAX);
        simulated.disk.set_faults(Faults::none().with(full));
        let mut model = Model::new();
        let mut refused = None;
        for number in 0..2000_u32 {
            let key = number.to_be_bytes().to_vec();
            let mut write = match engine.begin_write() {
                Ok(write) => write,
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            };
            write.put("t", &key, &[number as u8; 900]).unwrap();
            write.commit().unwrap();
            model.insert(key, vec![number as u8; 900]);
        }
        let refused = refused.expect("memory is bounded");
        let is_full = refused.kind() == ErrorKind::NoSpace;
        assert_eq!(is_full, code == ENOSPC, "{refused}");
        assert!(contents(&engine.begin_read()) == model);
        assert!(!engine.is_poisoned());
        sink.0.store(false, Ordering::SeqCst);
        let mut write = engine.begin_write().expect("a checkpoint needs no spool");
        for number in 0..2000_u32 {
            if let Err(error) = write.put("u", &number.to_be_bytes(), &[1; 900]) {
                assert_eq!(error.kind() == ErrorKind::NoSpace, code == ENOSPC);
                break;
            }
        }
        assert!(matches!(write.commit(), Err(EngineError::Aborted)));
        assert!(contents(&engine.begin_read()) == model);
        simulated.disk.set_faults(Faults::none());
        put_many(&engine, &mut model, 1, 1000);
        assert!(contents(&engine.begin_read()) == model);
        assert_sound(&engine);
        let engine = open_small(&simulated.process_crash().host);
        assert!(contents(&engine.begin_read()) == model);
    }
}

/// E12: a page that cannot be read back from the spool is an error for whoever needs it, uncommitted
/// or committed, and not other bytes; nothing that was committed is lost by it.
#[test]
fn spool_that_cannot_be_read_fails_what_needs_it() {
    let simulated = Host::simulated(26);
    let engine = open_small(&simulated.host);
    let mut model = Model::new();
    put_many(&engine, &mut model, 1, 1000);
    let bad = || Fault::errno(Operation::Read, EIO).on("db").times(u64::MAX);
    simulated.disk.set_faults(Faults::none().with(bad()));
    let read = engine.begin_read();
    assert!(read.range("t", ..).unwrap().any(|item| item.is_err()));
    assert!(engine.checkpoint().is_err());
    simulated.disk.set_faults(Faults::none());
    let mut write = engine.begin_write().unwrap();
    for number in 0..1000_u32 {
        write.put("u", &number.to_be_bytes(), &[3; 900]).unwrap();
    }
    let end = engine.stats().wal_bytes;
    simulated.disk.set_faults(Faults::none().with(bad()));
    assert!(write.commit().is_err());
    simulated.disk.set_faults(Faults::none());
    assert_eq!(engine.stats().wal_bytes, end, "W1: the part is taken back");
    assert!(contents(&engine.begin_read()) == model);
    put_many(&engine, &mut model, 2, 1000);
    engine.checkpoint().unwrap();
    assert!(contents(&engine.begin_read()) == model);
    assert_sound(&engine);
}

/// The longest value goes in, out and through recovery with little memory for pages.
#[test]
fn longest_value_is_written_read_and_recovered() {
    let simulated = Host::simulated(27);
    let options = EngineOptions {
        page_size: PageSize::new(65536).unwrap(),
        ..small()
    };
    let open = |host: &Host| Engine::open(host, Path::new(DIR), &options, None).unwrap();
    let engine = open(&simulated.host);
    let length = usize::try_from(VALUE_BYTES_MAX).unwrap();
    let value: Vec<u8> = (0..length).map(|at| (at / 4096 + at) as u8).collect();
    let mut write = engine.begin_write().unwrap();
    let too_long = write.put("t", b"k", &vec![0; length + 1]).unwrap_err();
    assert_eq!(too_long.kind(), ErrorKind::Invalid);
    write.put("t", b"k", &value).unwrap();
    assert!(write.get("t", b"k").unwrap().as_deref() == Some(&value));
    write.commit().unwrap();
    assert_bounded(&engine);
    let engine = open(&simulated.process_crash().host);
    assert!(engine.begin_read().get("t", b"k").unwrap() == Some(value));
    assert_bounded(&engine);
    engine.close().unwrap();
}
