//! Pins whose surroundings fail: full disks, failing syncs, unreadable pages, damaged files. Each
//! gives the right bytes or an error, and the writer goes on.

use std::path::Path;

use super::*;
use crate::lsn::Lsn;
use crate::os::sim::{Fault, Faults, Operation};
use crate::os::{self, OpenMode, SimulatedHost};
use crate::page::{PageNo, PageSize};
use crate::shadow::EndReason;
use crate::view::tree::{EndSeen, RangeRead, ReadError};

const PAGE: u64 = 4096;

fn options() -> EngineOptions {
    EngineOptions {
        page_size: PageSize::new(PAGE).unwrap(),
        checkpoint_bytes: u64::MAX,
        ..EngineOptions::default()
    }
}

fn database(seed: u64) -> (SimulatedHost, Database) {
    let simulated = Host::simulated(seed);
    let database = Database::open_on(&simulated.host, "/db", &options()).unwrap();
    (simulated, database)
}

/// Overwrites all keys, so that nearly every page changes.
fn fill(database: &Database, byte: u8) {
    let mut write = database.begin_write().unwrap();
    for key in 0..200u32 {
        write.put("t", &key.to_be_bytes(), &[byte; 100]).unwrap();
    }
    write.commit().unwrap();
}

/// A database whose live file holds `fill(1)`, a pin of it, and the whole of its view.
fn pinned(seed: u64) -> (SimulatedHost, Database, Pin, Vec<u8>) {
    let (simulated, database) = database(seed);
    fill(&database, 1);
    database.checkpoint().unwrap();
    let pin = database.pin().unwrap();
    let whole = read_all(&pin).unwrap();
    (simulated, database, pin, whole)
}

fn read_all(pin: &Pin) -> Result<Vec<u8>, ReadError> {
    let mut out = vec![0; usize::try_from(pin.view().size()).unwrap()];
    pin.view().read_range(0, &mut out)?;
    Ok(out)
}

fn end_seen(outcome: Result<Vec<u8>, ReadError>) -> EndSeen {
    match outcome {
        Err(ReadError::PinEnded { reason }) => reason,
        other => panic!(
            "the pin should have ended: {:?}",
            other.map(|bytes| bytes.len())
        ),
    }
}

/// S1: the view stays as it was while everything under it is overwritten.
#[test]
fn view_stays_through_overwrites() {
    let (_simulated, database, pin, whole) = pinned(1);
    for byte in 2..6 {
        fill(&database, byte);
        database.checkpoint().unwrap();
    }
    assert!(pin.counts().captured_pages > 0);
    assert_eq!(read_all(&pin).unwrap(), whole);
    assert_eq!(pin.view().counts().failed_checks, 0);
}

/// S6: no room for a pre-image ends the pin visibly, and the checkpoint and the writer go on.
#[test]
fn full_shadow_breaks_the_pin_and_not_the_writer() {
    let (simulated, database, pin, _) = pinned(2);
    fill(&database, 2);
    let full = Fault::kind(Operation::Write, std::io::ErrorKind::StorageFull).on("slots");
    simulated
        .disk
        .set_faults(Faults::none().with(full.times(u64::MAX)));
    database.checkpoint().unwrap();
    simulated.disk.set_faults(Faults::none());
    assert_eq!(pin.ended(), Some(EndReason::DiskFull));
    assert_eq!(end_seen(read_all(&pin)), EndSeen::IndexCut);
    fill(&database, 3);
    assert_eq!(database.stats().shadow_slots, 0);
}

/// S6: an index entry that cannot be written ends the pin, and no slot is lost by it.
#[test]
fn full_index_breaks_the_pin_and_gives_every_slot_back() {
    let (simulated, database, pin, _) = pinned(12);
    fill(&database, 2);
    let index = format!("{}.pin", pin.id());
    let full = Fault::kind(Operation::Write, std::io::ErrorKind::StorageFull).on(index);
    simulated
        .disk
        .set_faults(Faults::none().with(full.times(u64::MAX)));
    database.checkpoint().unwrap();
    simulated.disk.set_faults(Faults::none());
    assert_eq!(pin.ended(), Some(EndReason::DiskFull));
    assert_eq!(database.stats().shadow_slots, 0);
    assert_eq!(database.stats().shadow_bytes, 0);
}

/// S1, S6: of two pins that need the same pages one whose index fails ends, and the other keeps its bytes.
#[test]
fn failing_index_ends_its_own_pin_only() {
    for failing in 0..2 {
        let (simulated, database, first, whole) = pinned(13);
        let pins = [first, database.pin().unwrap()];
        fill(&database, 2);
        let index = format!("{}.pin", pins[failing].id());
        let bad = Fault::errno(Operation::Write, 5).on(index);
        let faults = Faults::none().with(bad.times(u64::MAX));
        simulated.disk.set_faults(faults);
        database.checkpoint().unwrap();
        simulated.disk.set_faults(Faults::none());
        assert_eq!(pins[failing].ended(), Some(EndReason::Broken));
        assert_eq!(end_seen(read_all(&pins[failing])), EndSeen::IndexCut);
        fill(&database, 3);
        database.checkpoint().unwrap();
        assert_eq!(read_all(&pins[1 - failing]).unwrap(), whole);
        let stats = database.stats();
        assert_eq!(stats.shadow_slots * PAGE, stats.shadow_bytes);
    }
}

/// S1, S5: what a pin adds to a checkpoint is a few calls for a batch, not some for each page.
#[test]
fn pages_of_a_batch_are_kept_by_few_calls() {
    let (simulated, database, _, _) = pinned(14);
    let change = |byte: u8| {
        let mut write = database.begin_write().unwrap();
        for key in 0..1000u32 {
            write.put("t", &key.to_be_bytes(), &[byte; 100]).unwrap();
        }
        write.commit().unwrap();
        let calls = || {
            let count = |operation| simulated.disk.count(operation);
            count(Operation::Read) + count(Operation::Write)
        };
        let before = calls();
        database.checkpoint().unwrap();
        calls() - before
    };
    change(2);
    let pin = database.pin().unwrap();
    let whole = read_all(&pin).unwrap();
    let (first, second) = (change(3), change(4));
    let captured = pin.counts().captured_pages;
    assert!(captured > 20, "{captured}");
    assert!(first < second + captured, "{first}, {second}, {captured}");
    assert_eq!(read_all(&pin).unwrap(), whole);
}

/// S3, S6: if even the end cannot be made visible, nothing is overwritten, and the pin still reads.
#[test]
fn nothing_is_overwritten_while_a_broken_pin_cannot_be_ended() {
    let (simulated, database, pin, whole) = pinned(3);
    fill(&database, 2);
    let index = format!("{}.pin", pin.id());
    let forever = |fault: Fault| fault.times(u64::MAX);
    simulated.disk.set_faults(
        Faults::none()
            .with(forever(
                Fault::kind(Operation::Write, std::io::ErrorKind::StorageFull).on("slots"),
            ))
            .with(forever(Fault::errno(Operation::SetLen, 5).on(index))),
    );
    assert!(database.checkpoint().is_err());
    simulated.disk.set_faults(Faults::none());
    assert_eq!(read_all(&pin).unwrap(), whole);
    // Nobody knows whether the index is cut: the pin ends as soon as that can be made visible.
    database.checkpoint().unwrap();
    assert_eq!(pin.ended(), Some(EndReason::Broken));
    assert_eq!(end_seen(read_all(&pin)), EndSeen::IndexCut);
}

/// A page that cannot be read when it is captured fails for the reader, and the writer goes on.
#[test]
fn unreadable_page_fails_its_reader_only() {
    let (simulated, database, pin, whole) = pinned(4);
    fill(&database, 2);
    // The row that is read at once, and then the first page of it.
    let bad = Fault::errno(Operation::Read, 5).on("data.pages").times(2);
    simulated.disk.set_faults(Faults::none().with(bad));
    database.checkpoint().unwrap();
    simulated.disk.set_faults(Faults::none());
    let mut failed = 0;
    for page in 0..pin.view().size() / PAGE {
        let mut out = vec![0; 4096];
        match pin.view().read_range(page * PAGE, &mut out) {
            Ok(()) => {
                let at = usize::try_from(page * PAGE).unwrap();
                assert_eq!(out, whole[at..at + 4096], "page {page}");
            }
            Err(ReadError::Unreadable { .. }) => failed += 1,
            Err(error) => panic!("page {page}: {error}"),
        }
    }
    assert_eq!(failed, 1);
}

/// E8: a failed sync ends every pin before anything else, and the error says so.
#[test]
fn poisoned_engine_ends_its_pins() {
    let (simulated, database, pin, _) = pinned(5);
    let bad = Fault::errno(Operation::SyncData, 5).times(u64::MAX);
    simulated.disk.set_faults(Faults::none().with(bad));
    let mut write = database.begin_write().unwrap();
    write.put("t", b"k", b"v").unwrap();
    assert!(write.commit().is_err());
    assert_eq!(pin.ended(), Some(EndReason::Poisoned));
    assert_eq!(end_seen(read_all(&pin)), EndSeen::IndexCut);
    assert!(matches!(
        database.pin(),
        Err(DatabaseError::Engine(EngineError::Poisoned { .. }))
    ));
}

/// E8, E7: what a failed sync of the live file lost, no later sync brings back. A checkpoint that is
/// tried again must not name a log start past it: the log is all that is left of those pages.
#[test]
fn checkpoint_after_a_failed_sync_vouches_for_nothing() {
    let (simulated, database) = database(14);
    fill(&database, 1);
    let bad = Fault::errno(Operation::SyncData, 5).on("data.pages");
    simulated.disk.set_faults(Faults::none().with(bad));
    assert!(database.checkpoint().is_err());
    assert!(database.checkpoint().is_err());
    assert!(database.close().is_err());
    for seed in 0..20 {
        let image = simulated.with_disk(simulated.disk.image_after_crash(seed));
        let found = Database::open_on(&image.host, "/db", &options()).unwrap();
        let read = found.begin_read().unwrap();
        for key in 0..200_u32 {
            let value = read.get("t", &key.to_be_bytes()).unwrap();
            assert_eq!(value, Some(vec![1; 100]), "seed {seed}, key {key}");
        }
    }
}

/// D4: a pin whose commit cannot be made durable is refused, and nothing of it is left.
#[test]
fn pin_that_cannot_be_prepared_leaves_nothing() {
    let (simulated, database) = database(6);
    fill(&database, 1);
    for operation in [Operation::Open, Operation::Write, Operation::SetLen] {
        simulated
            .disk
            .set_faults(Faults::none().with(Fault::errno(operation, 5)));
        assert!(database.pin().is_err(), "{operation:?}");
        simulated.disk.set_faults(Faults::none());
        assert_eq!(database.stats().pins, 0, "{operation:?}");
        assert_eq!(database.stats().shadow_slots, 0, "{operation:?}");
    }
    let pin = database.pin().unwrap();
    assert!(read_all(&pin).is_ok());
}

/// D5, N3: the next incarnation ends the pins of the one before; until then their readers go on.
#[test]
fn next_incarnation_ends_the_pins_of_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let database = Database::open(&path, &options(), PinServing::Off).unwrap();
    fill(&database, 1);
    let pin = database.pin().unwrap();
    let whole = read_all(&pin).unwrap();
    // The reader's files, as another process would hold them.
    let disk = os::real_disk::RealDisk;
    let open = |name: String| os::Disk::open(&disk, &path.join(name), OpenMode::Read).unwrap();
    let index = open(format!("shadow/{}.pin", pin.id()));
    let (live, slots) = (open("data.pages".into()), open("shadow/slots".into()));
    let header = Arc::new(NativeHeader);
    let reader = crate::view::PinnedFile::open(live, slots, index, header).unwrap();
    let read = || {
        let mut out = vec![0; whole.len()];
        reader.read_range(0, &mut out).map(|()| out)
    };
    // The engine's process ends without a word: its locks go, its files stay.
    std::mem::forget(pin);
    let engine_dir = os::Disk::open(&disk, &path, OpenMode::Directory).unwrap();
    assert!(
        !engine_dir.try_lock(os::LockKind::Exclusive).unwrap(),
        "the engine holds it"
    );
    database.close().unwrap();
    assert_eq!(read().unwrap(), whole, "a stopped engine writes nothing");
    drop(engine_dir);
    let copy = dir.path().join("copy");
    copy_dir(&path, &copy);
    let next = Database::open(&copy, &options(), PinServing::Off).unwrap();
    assert_eq!(next.stats().pins, 0);
    assert_eq!(next.stats().shadow_slots, 0);
    assert_eq!(
        read().unwrap(),
        whole,
        "a copy's engine does not touch the original"
    );
}

#[allow(clippy::disallowed_methods)]
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_dir(&source, &target);
        } else {
            std::fs::copy(&source, &target).unwrap();
        }
    }
}

/// N3: another engine's epoch in the live header fences the pin, and a lost header does.
#[test]
fn foreign_epoch_and_lost_header_fence_the_pin() {
    let (simulated, database, pin, whole) = pinned(8);
    let path = Path::new("/db/data.pages");
    let file = simulated.host.disk.open(path, OpenMode::ReadWrite).unwrap();
    let header = database.engine().header();
    let mut saved = vec![0; 2 * 4096];
    os::read_exact_at(&*file, &mut saved, 0).unwrap();
    let fenced = Header {
        epoch: crate::id::Epoch(99),
        ..header.clone()
    };
    let other = Header {
        history: crate::id::HistoryId([9; 16]),
        ..header.clone()
    };
    let put = |header: &Header, copy: u64| {
        let page = header.encode(PageNo(copy));
        os::write_all_at(&*file, &page, copy * PAGE).unwrap();
    };
    put(&fenced, 1);
    assert_eq!(
        end_seen(read_all(&pin)),
        EndSeen::Fenced,
        "one copy is enough"
    );
    put(&other, 1);
    assert_eq!(end_seen(read_all(&pin)), EndSeen::OtherDatabase);
    os::write_all_at(&*file, &[0xff; 4096], PAGE).unwrap();
    assert_eq!(
        read_all(&pin).unwrap(),
        whole,
        "one torn copy is no reason to fail"
    );
    os::write_all_at(&*file, &[0xff; 4096], 0).unwrap();
    assert_eq!(end_seen(read_all(&pin)), EndSeen::HeaderLost);
    os::write_all_at(&*file, &saved, 0).unwrap();
    assert_eq!(read_all(&pin).unwrap(), whole);
}

/// N1, N4: whatever is wrong with a live page, a slot or an entry, the read fails and names it.
#[test]
fn damaged_pages_slots_and_entries_fail_the_read() {
    let (simulated, database, pin, whole) = pinned(9);
    fill(&database, 2);
    database.checkpoint().unwrap();
    assert_eq!(read_all(&pin).unwrap(), whole);
    let damage = |path: &str, offset: u64, check: &dyn Fn(ReadError)| {
        let file = simulated
            .host
            .disk
            .open(Path::new(path), OpenMode::ReadWrite)
            .unwrap();
        let mut saved = [0; 8];
        os::read_exact_at(&*file, &mut saved, offset).unwrap();
        os::write_all_at(&*file, &saved.map(|byte| !byte), offset).unwrap();
        check(read_all(&pin).expect_err("damage is found"));
        os::write_all_at(&*file, &saved, offset).unwrap();
        assert_eq!(read_all(&pin).unwrap(), whole);
    };
    damage("/db/shadow/slots", 100, &|error| {
        assert!(
            matches!(
                error,
                ReadError::Page {
                    file: "shadow/slots",
                    ..
                }
            ),
            "{error}"
        );
    });
    let index = format!("/db/shadow/{}.pin", pin.id());
    damage(&index, 4096 + 3 * 8, &|error| {
        let is_named = matches!(error, ReadError::Entry { .. } | ReadError::Page { .. });
        assert!(is_named, "{error}");
    });
    // A header that is half written is no end of the pin: that would be for ever.
    damage(&index, 504, &|error| {
        assert!(matches!(error, ReadError::IndexHeader), "{error}");
    });
}

/// D2: live pages that a checkpoint has written and not synced are synced before a pin relies on them;
/// if that fails, nobody knows what the live file holds, and the pin is refused.
#[test]
fn pin_is_refused_on_live_pages_that_may_fall_back() {
    let (simulated, database) = database(13);
    fill(&database, 1);
    // The first run of live pages is written, the second fails: no sync follows.
    let stop = Fault::errno(Operation::Write, 5)
        .on("data.pages")
        .after(1)
        .times(u64::MAX);
    simulated.disk.set_faults(Faults::none().with(stop));
    let mut write = database.begin_write().unwrap();
    for key in 0..3000u32 {
        write.put("t", &key.to_be_bytes(), &[2; 300]).unwrap();
    }
    write.commit().unwrap();
    assert!(database.checkpoint().is_err());
    let lost = Fault::errno(Operation::SyncData, 5).on("data.pages");
    simulated.disk.set_faults(Faults::none().with(lost));
    let refused = database.pin().unwrap_err();
    assert!(matches!(refused, DatabaseError::Engine(_)), "{refused}");
    assert!(database.engine().is_poisoned());
    assert_eq!(database.stats().pins, 0);
}

/// Ranges that are not inside the file are refused, odd ones inside are exact.
#[test]
fn odd_ranges_are_exact_and_outer_ones_refused() {
    let (_simulated, _database, pin, whole) = pinned(10);
    let size = pin.view().size();
    for (offset, length) in [
        (0, 1),
        (1, 4095),
        (4095, 2),
        (5000, 9000),
        (size - 1, 1),
        (size, 0),
    ] {
        let mut out = vec![0; length];
        pin.view().read_range(offset, &mut out).unwrap();
        let start = usize::try_from(offset).unwrap();
        assert_eq!(out, whole[start..start + length]);
    }
    for (offset, length) in [(size, 1), (size - 1, 2), (u64::MAX, 1)] {
        let outcome = pin.view().read_range(offset, &mut vec![0; length]);
        assert!(matches!(outcome, Err(ReadError::Range { .. })));
    }
}

/// BK6, W8: a pin knows its commit and which pages changed since an older one, through checkpoints and a
/// clean stop; of anything else it says that it does not know.
#[test]
fn pin_knows_which_pages_changed_since_an_older_one() {
    let (simulated, database, pin, old) = pinned(11);
    let content = pin.content();
    let version = content.version().unwrap();
    assert_eq!(
        (version.lsn, version.timestamp),
        (pin.lsn(), pin.timestamp())
    );
    assert_eq!(version.history, database.engine().identity().history);
    assert_eq!(content.page_bytes(), Some(4096));
    assert_eq!(content.changed_since(pin.lsn()), Some(Vec::new()));
    let epoch = database.engine().identity().epoch;
    assert_eq!(content.incarnation_of(pin.lsn()), Some(epoch));
    drop(pin);

    let put = |database: &Database, byte: u8| {
        let mut write = database.begin_write().unwrap();
        write.put("t", &7_u32.to_be_bytes(), &[byte; 100]).unwrap();
        write.put("other", b"a new table", &[byte; 9000]).unwrap();
        write.commit().unwrap();
        database.checkpoint().unwrap();
    };
    put(&database, 2);
    database.close().unwrap();
    drop(database);
    let database = Database::open_on(&simulated.host, "/db", &options()).unwrap();
    put(&database, 3);

    let pin = database.pin().unwrap();
    let new = read_all(&pin).unwrap();
    let page = |bytes: &[u8], number: u64| {
        let start = usize::try_from(number * PAGE).unwrap();
        bytes.get(start..).map(|rest| rest[..4096].to_vec())
    };
    let page_count = new.len() as u64 / PAGE;
    // Its log is gone, and another incarnation works.
    assert_eq!(pin.content().incarnation_of(version.lsn), Some(epoch));
    let later = database.engine().identity().epoch;
    assert_ne!(later, epoch);
    assert_eq!(pin.content().incarnation_of(pin.lsn()), Some(later));
    let changed = pin.content().changed_since(version.lsn).unwrap();
    let named: Vec<u64> = changed.into_iter().flatten().collect();
    let differs = |number: &u64| {
        let old = (number * PAGE < old.len() as u64).then(|| page(&old, *number));
        old != Some(page(&new, *number))
    };
    let must: Vec<u64> = (0..page_count).filter(differs).collect();
    assert_eq!(named, must, "of {page_count}");
    assert!((must.len() as u64) < page_count);
    let content = pin.content();
    assert_eq!(
        content.changed_since(Lsn(pin.lsn().0 + 8)),
        None,
        "not there yet"
    );
    for name in simulated.host.disk.list(Path::new("/db/changes")).unwrap() {
        let path = Path::new("/db/changes").join(name);
        simulated.host.disk.remove(&path).unwrap();
    }
    assert_eq!(content.changed_since(version.lsn), None);
    assert_eq!(content.incarnation_of(version.lsn), None);
}
