//! Everything that can go wrong while an engine takes over what its predecessor left: whatever it is, a
//! held pin gives its bytes or an error.

use super::restart_test::{Restarted, fill, flip, handed_over, open, put_one, read_all};
use super::*;
use crate::os::sim::{Fault, Faults, Operation};
use crate::os::{Disk, File, OpenMode, read_exact_at, write_all_at};
use crate::page::PageNo;
use crate::shadow::index::{Entry, INDEX_SECTOR_BYTES, IndexHeader, entry_offset};
use crate::view::tree::{EndSeen, ReadError};

const PAGES: &str = "/db/data.pages";

fn try_open(host: &Host) -> Result<Database, DatabaseError> {
    let options = EngineOptions {
        checkpoint_bytes: u64::MAX,
        ..EngineOptions::default()
    };
    Database::open_on(host, "/db", &options)
}

/// Changes that a restart of `restarted` makes.
fn changes_of_a_restart(seed: u64) -> u64 {
    let restarted = Restarted::new(seed);
    let before = restarted.machine.disk.change_count();
    drop(open(&restarted.machine.host));
    restarted.machine.disk.change_count() - before
}

/// D5, E10, E11: whoever is killed between any two steps leaves what the next one can go on with, also
/// if that one is killed too; and readers see their bytes all the time.
#[test]
fn takeover_that_is_killed_anywhere_is_taken_up_again() {
    let changes = changes_of_a_restart(40);
    assert!(changes > 5, "{changes}");
    for first in 0..changes {
        for second in [
            None,
            Some(0),
            Some(changes / 2),
            Some(changes - 2),
            Some(changes - 1),
        ] {
            let mut restarted = Restarted::new(40);
            for kill in [Some(first), second].into_iter().flatten() {
                let disk = &restarted.machine.disk;
                disk.set_faults(Faults::kill_before_change(kill));
                drop(try_open(&restarted.machine.host));
                restarted.machine = restarted.machine.process_crash();
                restarted.machine.disk.set_faults(Faults::none());
                let read = read_all(&restarted.pin.view);
                assert_eq!(read.unwrap(), restarted.whole, "{first}, {second:?}");
            }
            restarted.assert_adopted();
        }
    }
}

/// S6, D5: whatever fails, each index accepts the new epoch only if its pin is gone on with.
#[test]
fn takeover_with_a_failing_disk_gives_bytes_or_errors() {
    let operations = [
        Operation::Open,
        Operation::Read,
        Operation::Write,
        Operation::SetLen,
        Operation::SyncData,
        Operation::SyncDir,
        Operation::Remove,
        Operation::List,
        Operation::Lock,
    ];
    let mut ended = 0;
    for operation in operations {
        for skipped in 0..40 {
            for faults in [
                Faults::none().with(Fault::errno(operation, 5).after(skipped)),
                // Whatever follows on an index fails too, such as its cut.
                Faults::none()
                    .with(Fault::errno(operation, 5).after(skipped))
                    .with(Fault::errno(Operation::SetLen, 5).times(u64::MAX)),
            ] {
                ended += u64::from(!survives(faults, &format!("{operation:?} {skipped}")));
            }
        }
    }
    assert!(ended > 0, "no fault met a pin");
}

/// Whether the pin survived a restart with these faults and one without.
fn survives(faults: Faults, what: &str) -> bool {
    let mut restarted = Restarted::new(41);
    restarted.machine.disk.set_faults(faults);
    let database = try_open(&restarted.machine.host);
    restarted.machine.disk.set_faults(Faults::none());
    let check = |it: &Restarted| match read_all(&it.pin.view) {
        Ok(read) => assert_eq!(read, it.whole, "{what}"),
        Err(ReadError::PinEnded { .. }) => {}
        Err(error) => panic!("{what}: {error}"),
    };
    check(&restarted);
    if let Ok(database) = database {
        for round in 5..7 {
            fill(&database, round);
            database.checkpoint().unwrap();
            check(&restarted);
        }
    }
    restarted.machine = restarted.machine.process_crash();
    let database = open(&restarted.machine.host);
    fill(&database, 9);
    database.checkpoint().unwrap();
    check(&restarted);
    read_all(&restarted.pin.view).is_ok()
}

/// S1, S4: what a killed engine had captured and not published, or published and not overwritten, is as if
/// it had not been begun.
#[test]
fn engine_killed_in_a_checkpoint_leaves_pins_that_can_be_adopted() {
    let mut kill = 0;
    loop {
        let machine = Host::simulated(42);
        let database = open(&machine.host);
        fill(&database, 1);
        database.checkpoint().unwrap();
        put_one(&database, 2);
        let (pin, whole) = handed_over(&machine, &database);
        fill(&database, 3);
        machine.disk.set_faults(Faults::kill_before_change(kill));
        let is_over = database.checkpoint().is_ok();
        let machine = machine.process_crash();
        machine.disk.set_faults(Faults::none());
        assert_eq!(read_all(&pin.view).unwrap(), whole, "{kill}");
        let restarted = Restarted {
            machine,
            pin,
            whole,
        };
        restarted.assert_adopted();
        if is_over {
            break;
        }
        kill += 1;
    }
    assert!(kill > 15, "{kill}");
}

/// The live file is clean then and needs no log; held pins need what they needed before.
#[test]
fn clean_stop_leaves_held_pins_as_a_crash_does() {
    let machine = Host::simulated(43);
    let database = open(&machine.host);
    fill(&database, 1);
    let (pin, whole) = handed_over(&machine, &database);
    fill(&database, 2);
    database.close().unwrap();
    drop(database);
    assert_eq!(read_all(&pin.view).unwrap(), whole);
    let restarted = Restarted {
        machine,
        pin,
        whole,
    };
    restarted.assert_adopted();
}

/// S5: pins of one commit and of others share slots before and after, and the end of one takes nothing
/// from the rest.
#[test]
fn shared_slots_stay_shared_over_a_restart() {
    let machine = Host::simulated(44);
    let database = open(&machine.host);
    fill(&database, 1);
    let (first, whole) = handed_over(&machine, &database);
    let (second, same) = handed_over(&machine, &database);
    assert_eq!(whole, same);
    put_one(&database, 2);
    let (third, newer) = handed_over(&machine, &database);
    fill(&database, 3);
    database.checkpoint().unwrap();
    let slots = database.stats().shadow_slots;
    let machine = machine.process_crash();
    drop(database);
    let database = open(&machine.host);
    assert_eq!(database.stats().shadow_slots, slots);
    assert_eq!(database.stats().pins, 3);
    drop(first);
    database.tend();
    assert_eq!(database.stats().pins, 2);
    for round in 4..7 {
        fill(&database, round);
        database.checkpoint().unwrap();
        assert_eq!(read_all(&second.view).unwrap(), whole);
        assert_eq!(read_all(&third.view).unwrap(), newer);
    }
    drop(second);
    database.tend();
    fill(&database, 8);
    database.checkpoint().unwrap();
    assert_eq!(read_all(&third.view).unwrap(), newer);
}

/// N3: another file in its place is another inode; another content is of another history, or older.
#[test]
fn replaced_live_file_is_never_read_as_the_pinned_one() {
    let restarted = Restarted::new(45);
    // A copy of the view, put over the live file as a restore would do it: a new history.
    write_all_at(&*restarted.file(PAGES), &restarted.whole, 0).unwrap();
    let reason = end_seen(&restarted);
    assert_eq!(reason, EndSeen::OtherDatabase);
    for name in restarted.machine.disk.list(Path::new("/db/wal")).unwrap() {
        let path = Path::new("/db/wal").join(name);
        restarted.machine.disk.remove(&path).unwrap();
    }
    restarted.assert_fenced();

    let restarted = Restarted::new(46);
    let disk = &restarted.machine.disk;
    let live = restarted.file(PAGES);
    let copy = disk.open(Path::new("/copy"), OpenMode::CreateNew).unwrap();
    write_all_at(&*copy, &content(&*live), 0).unwrap();
    disk.rename(Path::new("/copy"), Path::new(PAGES)).unwrap();
    // The reader has the old file, which nobody writes any more: its bytes stay right.
    let database = open(&restarted.machine.host);
    assert_eq!(database.stats().pins, 0);
    fill(&database, 5);
    database.checkpoint().unwrap();
    assert_eq!(read_all(&restarted.pin.view).unwrap(), restarted.whole);
}

/// S7: the readers of a file that was moved away are not fenced by the epoch of the one in its place, so
/// their slots stay as they are, also where a pin of the new file was stored behind them and is adopted.
#[test]
fn slots_of_a_pin_of_a_replaced_file_stay_beside_those_of_an_adopted_pin() {
    let restarted = Restarted::new(48);
    let disk = &restarted.machine.disk;
    let copy = disk.open(Path::new("/copy"), OpenMode::CreateNew).unwrap();
    write_all_at(&*copy, &content(&*restarted.file(PAGES)), 0).unwrap();
    disk.rename(Path::new("/copy"), Path::new(PAGES)).unwrap();
    let holder = restarted.machine.with_disk(disk.another_process());
    let machine = &restarted.machine.host;
    let pin = hand_over_offline(machine, Path::new("/db"), &holder.host).unwrap();
    let whole = read_all(&pin.view).unwrap();

    let database = open(machine);
    assert_eq!(database.stats().pins, 1);
    for round in 5..8 {
        fill(&database, round);
        database.checkpoint().unwrap();
        database.tend();
        assert_eq!(read_all(&pin.view).unwrap(), whole);
        assert_eq!(read_all(&restarted.pin.view).unwrap(), restarted.whole);
    }
    assert_eq!(restarted.pin.view.counts().failed_checks, 0);
}

/// N3: pages of before S are valid in themselves, so only the header tells that they are too old.
#[test]
fn older_copy_put_over_the_live_file_is_told_by_its_header() {
    let machine = Host::simulated(47);
    let database = open(&machine.host);
    fill(&database, 1);
    database.checkpoint().unwrap();
    let read_live = || machine.disk.open(Path::new(PAGES), OpenMode::Read).unwrap();
    let old = content(&*read_live());
    fill(&database, 2);
    database.checkpoint().unwrap();
    let (pin, whole) = handed_over(&machine, &database);
    let machine = machine.process_crash();
    let restarted = Restarted {
        machine,
        pin,
        whole,
    };
    write_all_at(&*restarted.file(PAGES), &old, 0).unwrap();
    assert_eq!(end_seen(&restarted), EndSeen::OlderFile);
}

/// S3, E10: without its folder a pin lasts as long as its engine, and not under the next.
#[test]
fn shadow_removed_under_a_running_engine_ends_pins_with_it() {
    let machine = Host::simulated(48);
    let database = open(&machine.host);
    fill(&database, 1);
    let (pin, whole) = handed_over(&machine, &database);
    let shadow = Path::new("/db/shadow");
    for name in machine.disk.list(shadow).unwrap() {
        machine.disk.remove(&shadow.join(name)).unwrap();
    }
    machine.disk.remove(shadow).unwrap_or_default();
    fill(&database, 2);
    database.checkpoint().unwrap();
    assert_eq!(read_all(&pin.view).unwrap(), whole);
    let machine = machine.process_crash();
    drop(database);
    let restarted = Restarted {
        machine,
        pin,
        whole,
    };
    restarted.assert_fenced();
}

/// D6: what an index says is borne out by the files, or the pin is not adopted.
#[test]
fn index_that_lies_is_not_adopted() {
    type Lie = fn(&mut IndexHeader);
    let lies: [(&str, Lie); 8] = [
        ("not granted", |it| it.granted = false),
        ("another database", |it| it.database = DatabaseId([9; 16])),
        ("another history", |it| {
            it.history = crate::id::HistoryId([9; 16])
        }),
        ("another file", |it| it.live.inode += 1),
        ("other slots", |it| it.slots.inode += 1),
        ("beyond the log", |it| it.lsn.0 += 1 << 40),
        ("a later commit", |it| it.timestamp.0 += 1000),
        ("more pages than there are", |it| it.page_count = 1 << 40),
    ];
    for (seed, (what, lie)) in (50..).zip(lies) {
        println!("{what}");
        let restarted = Restarted::new(seed);
        let index = restarted.file(restarted.index());
        let mut bytes = [0; INDEX_SECTOR_BYTES];
        read_exact_at(&*index, &mut bytes, 0).unwrap();
        let mut header = IndexHeader::decode(&bytes).unwrap();
        lie(&mut header);
        write_all_at(&*index, &header.encode(), 0).unwrap();
        let bytes = content(&*index);
        let database = open(&restarted.machine.host);
        assert_eq!(database.stats().pins, 0, "{what}");
        assert_eq!(content(&*index), bytes, "a held index is left as it is");
        fill(&database, 5);
        database.checkpoint().unwrap();
        read_all(&restarted.pin.view).unwrap_err();
    }
}

/// D6: two pages cannot be in one slot, and an image is of one page.
#[test]
fn entry_that_leads_to_another_pages_slot_is_not_adopted() {
    let restarted = Restarted::new(60);
    let index = restarted.file(restarted.index());
    let mut entry = [0; 8];
    read_exact_at(&*index, &mut entry, entry_offset(PageNo(0)).unwrap()).unwrap();
    let Some(Entry::Slot { .. }) = Entry::decode(u64::from_le_bytes(entry)) else {
        panic!("the header of a view is in a slot");
    };
    write_all_at(&*index, &entry, entry_offset(PageNo(1)).unwrap()).unwrap();
    let database = open(&restarted.machine.host);
    assert_eq!(database.stats().pins, 0);
}

/// S7: an index that nobody can open is somebody's all the same, and keeps no engine from starting.
#[test]
fn folder_in_the_place_of_an_index_keeps_no_engine_from_starting() {
    let restarted = Restarted::new(61);
    let odd = restarted.shadow().join(format!("{}.pin", PinId([7; 16])));
    restarted.machine.disk.create_dir(&odd).unwrap();
    let other = restarted.shadow().join("other.pin");
    let empty = restarted.machine.disk.open(&other, OpenMode::CreateNew);
    flip_first(&*empty.unwrap());
    restarted.assert_adopted();
}

fn flip_first(file: &dyn File) {
    write_all_at(file, &[0; 5000], 0).unwrap();
    flip(file, 0);
}

fn end_seen(restarted: &Restarted) -> EndSeen {
    match read_all(&restarted.pin.view) {
        Err(ReadError::PinEnded { reason }) => reason,
        read => panic!("{read:?}"),
    }
}

fn content(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    read_exact_at(file, &mut bytes, 0).unwrap();
    bytes
}
