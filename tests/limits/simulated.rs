//! Each limit by itself, on a simulated disk.

use std::time::Duration;

use stillfs::database::{DatabaseError, OnFull, PinOptions};
use stillfs::engine::error::ErrorKind;
use stillfs::os::Disk;
use stillfs::shadow::EndReason;

use crate::rig::{MIB, PAGE_BYTES, Rig, free, is_over, whole};

/// L1: a `break` pin ends at its limit, visibly, and the checkpoint goes through at once.
#[test]
fn break_pin_ends_at_its_limit_and_delays_nothing() {
    let rig = Rig::filled(1, 400);
    let (pin, expected) = rig.pin(OnFull::Break, Some(50));
    let (other, _) = rig.pin(OnFull::Break, None);
    rig.put(0..20, 2);
    assert!(!rig.database.checkpoint().expect("a checkpoint").is_held);
    assert_eq!(whole(&pin).expect("within its limit"), expected);
    assert!(pin.counts().shadowed_pages <= 50);
    rig.put(0..400, 3);
    let report = rig.database.checkpoint().expect("a checkpoint");
    assert!(!report.is_held && report.pages_written >= 200);
    assert_eq!(pin.ended(), Some(EndReason::ShadowFull));
    assert!(is_over(&pin));
    assert_eq!(whole(&other).expect("it has no such limit"), expected);
}

/// L1, L2: a `hold` pin at its limit keeps its bytes; checkpoints wait and say so, commits and new pins
/// do not, and all goes on when it is released.
#[test]
fn hold_pin_at_its_limit_holds_checkpoints_and_nothing_else() {
    let rig = Rig::filled(2, 400);
    let (pin, expected) = rig.pin(OnFull::Hold, Some(50));
    let mut later = Vec::new();
    for round in 2..6 {
        rig.put(0..400, round);
        assert!(rig.database.checkpoint().expect("no error").is_held);
        let before = rig.live();
        assert!(rig.database.checkpoint().expect("no error").is_held);
        assert!(rig.live() == before, "nothing is overwritten");
        assert_eq!(whole(&pin).expect("it lasts"), expected);
        assert!(pin.counts().shadowed_pages <= 50);
        later.push(rig.pin(OnFull::Break, None));
    }
    for (later, expected) in &later {
        assert_eq!(&whole(later).expect("taken while held"), expected);
    }
    drop(pin);
    let report = rig.database.checkpoint().expect("a checkpoint");
    assert!(!report.is_held && report.pages_written > 0);
    for (later, expected) in &later {
        assert_eq!(&whole(later).expect("it lasts"), expected);
    }
}

/// L3: the log grows up to its limit while a pin holds; then the pin ends, and no writer fails.
#[test]
fn hold_pin_ends_when_the_log_is_at_its_limit() {
    let rig = Rig::new(3, 4 * MIB);
    rig.put(0..100, 1);
    rig.database.checkpoint().expect("a checkpoint");
    let (pin, expected) = rig.pin(OnFull::Hold, Some(10));
    let (other, _) = rig.pin(OnFull::Break, None);
    rig.put(0..100, 2);
    assert!(rig.database.checkpoint().expect("no error").is_held);
    let mut longest = 0;
    let mut key = 1000;
    while pin.ended().is_none() {
        rig.put(key..key + 100, 1);
        longest = longest.max(rig.database.stats().engine.wal_bytes);
        assert_eq!(whole(&other).expect("it held nothing up"), expected);
        key += 100;
        assert!(key < 20_000, "it has to end: {longest}");
    }
    assert_eq!(pin.ended(), Some(EndReason::LogFull));
    assert!(is_over(&pin));
    assert!((4 * MIB..5 * MIB).contains(&longest), "{longest}");
    // But for what is kept of it to be used again.
    let log = rig.database.stats().engine;
    assert!(
        log.wal_bytes - log.log_reusable_bytes < MIB,
        "the log went with it"
    );
    assert!(!rig.database.checkpoint().expect("a checkpoint").is_held);
    assert_eq!(whole(&other).expect("it held nothing up"), expected);
}

/// L3: a pin that held an earlier try up and has room again is not what holds checkpoints up now.
#[test]
fn pin_that_holds_no_more_lasts_when_the_log_is_at_its_limit() {
    let rig = Rig::new(15, 2 * MIB);
    rig.put(0..100, 1);
    rig.database.checkpoint().expect("a checkpoint");
    let (first, expected) = rig.pin(OnFull::Hold, None);
    rig.machine.clock.advance(Duration::from_secs(1));
    let (second, _) = rig.pin(OnFull::Hold, Some(10));
    rig.put(0..100, 2);
    rig.leave_free(MIB);
    assert!(rig.database.checkpoint().expect("no error").is_held);
    rig.machine.disk.set_capacity(None);
    assert!(rig.database.checkpoint().expect("no error").is_held);
    let mut key = 1000;
    while second.ended().is_none() {
        rig.put(key..key + 100, 1);
        key += 100;
        assert!(key < 20_000, "it has to end");
    }
    assert_eq!(second.ended(), Some(EndReason::LogFull));
    assert_eq!(whole(&first).expect("it held nothing up"), expected);
}

/// L2: a log whose changes are overtaken by newer ones gets shorter though a pin holds: the limit is not
/// reached, and the pin lasts.
#[test]
fn changes_of_the_same_pages_do_not_fill_the_log() {
    let rig = Rig::new(14, 2 * MIB);
    rig.put(0..100, 1);
    rig.database.checkpoint().expect("a checkpoint");
    let (pin, expected) = rig.pin(OnFull::Hold, Some(10));
    for round in 2..200 {
        rig.put(0..100, round);
        // As the checkpointer does.
        assert!(rig.database.checkpoint().expect("no error").is_held || round < 3);
    }
    assert_eq!(pin.ended(), None);
    assert_eq!(whole(&pin).expect("it lasts"), expected);
    assert!(rig.database.stats().engine.wal_bytes < MIB);
    let crashed = rig.machine.process_crash();
    let database = Rig::reopen(&crashed);
    let read = database.begin_read().expect("a read");
    assert_eq!(read.entry_count("t").expect("a count"), 100);
    let value = read
        .get("t", &7_u32.to_be_bytes())
        .expect("a read")
        .expect("a value");
    assert_eq!(value.get(4..8), Some(&199_u32.to_le_bytes()[..]));
}

/// L1, L4: below the floor `break` pins end, the oldest first and no more than needed; what they took is
/// free again.
#[test]
fn floor_ends_the_oldest_break_pin_first_and_gives_its_space_back() {
    let rig = Rig::filled(4, 400);
    let (oldest, _) = rig.pin(OnFull::Break, None);
    rig.put(0..200, 2);
    rig.database.checkpoint().expect("a checkpoint");
    rig.machine.clock.advance(Duration::from_secs(1));
    let (younger, expected) = rig.pin(OnFull::Break, None);
    let (held, _) = rig.pin(OnFull::Hold, None);
    rig.leave_free(2 * MIB);
    rig.put(200..400, 2);
    let before = free(&rig.machine.disk);
    assert!(before > MIB, "commits alone do not reach the floor");
    rig.leave_free(MIB + 10 * PAGE_BYTES);
    assert!(!rig.database.checkpoint().expect("a checkpoint").is_held);
    assert_eq!(oldest.ended(), Some(EndReason::DiskFull));
    assert!(is_over(&oldest));
    for pin in [&younger, &held] {
        assert_eq!(whole(pin).expect("it lasts"), expected);
    }
    assert!(free(&rig.machine.disk) >= MIB);
}

/// L1, L2: below the floor a `hold` pin holds, and goes on when there is space again.
#[test]
fn floor_holds_a_hold_pin_until_space_returns() {
    let rig = Rig::filled(5, 400);
    let (pin, expected) = rig.pin(OnFull::Hold, None);
    rig.put(0..400, 2);
    rig.leave_free(MIB);
    for _ in 0..3 {
        assert!(rig.database.checkpoint().expect("no error").is_held);
        assert_eq!(whole(&pin).expect("it lasts"), expected);
    }
    rig.leave_free(4 * MIB);
    assert!(!rig.database.checkpoint().expect("a checkpoint").is_held);
    assert_eq!(whole(&pin).expect("it lasts"), expected);
    assert_eq!(pin.ended(), None);
}

/// L1: a pin that would need space below the floor is refused, and says why; the others stay.
#[test]
fn pin_below_the_floor_is_refused() {
    let rig = Rig::filled(6, 400);
    let (pin, expected) = rig.pin(OnFull::Break, None);
    rig.put(0..400, 2);
    rig.leave_free(MIB - 1);
    let error = rig.database.pin().expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("make room, or start the engine with a lower floor"),
        "{text}"
    );
    assert_eq!(whole(&pin).expect("it lasts"), expected);
    assert_eq!(rig.database.stats().pins, 1);
    rig.leave_free(8 * MIB);
    rig.database.pin().expect("there is room again");
}

/// L1: a limit below what a pin takes at the start refuses the pin, and says what helps.
#[test]
fn pin_whose_spill_is_larger_than_its_limit_is_refused() {
    let rig = Rig::filled(7, 400);
    rig.put(0..400, 2);
    let options = PinOptions {
        shadow_limit_bytes: Some(20 * PAGE_BYTES),
        ..PinOptions::default()
    };
    let error = rig.database.pin_with(&options).expect_err("too little");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("allow the pin more"), "{error}");
    assert_eq!(rig.database.stats().shadow_slots, 0);
    rig.database.checkpoint().expect("a checkpoint");
    rig.database.pin_with(&options).expect("less has changed");
}

/// The default limit is what the spill took and half of what is free above the floor.
#[test]
fn default_limit_leaves_room_for_another_pin() {
    let rig = Rig::filled(8, 400);
    rig.leave_free(MIB + 200 * PAGE_BYTES);
    let (pin, _) = rig.pin(OnFull::Break, None);
    let limit = pin.limits().shadow_limit_bytes.expect("there is a default");
    let pages = limit / PAGE_BYTES;
    assert!((95..=102).contains(&pages), "{pages}");
    assert_eq!(pin.limits().max_age, Some(PinOptions::MAX_AGE_DEFAULT));
}

/// L4: a commit on a full disk takes the space of pins: `break` before `hold`, each kind from the oldest
/// on; and goes on.
#[test]
fn full_disk_ends_break_pins_first_then_hold_pins() {
    let rig = Rig::filled(9, 400);
    let mut pins = Vec::new();
    for (round, on_full) in [OnFull::Hold, OnFull::Break, OnFull::Hold, OnFull::Break]
        .into_iter()
        .enumerate()
    {
        rig.machine.clock.advance(Duration::from_secs(1));
        pins.push(rig.pin(on_full, None).0);
        rig.put(0..400, 2 + u32::try_from(round).expect("small"));
        rig.database.checkpoint().expect("a checkpoint");
    }
    rig.leave_free(4 * PAGE_BYTES);
    let mut order = Vec::new();
    for round in 10..1000 {
        rig.put(0..50, round);
        for (at, pin) in pins.iter().enumerate() {
            if pin.ended().is_some() && !order.contains(&at) {
                assert_eq!(pin.ended(), Some(EndReason::DiskFull));
                order.push(at);
            }
        }
        if order.len() == pins.len() {
            break;
        }
    }
    assert_eq!(order, [1, 3, 0, 2]);
    assert_eq!(rig.database.stats().shadow_bytes, 0);
    let mut write = rig.database.begin_write().expect("a transaction");
    let failed = (0..4000_u32)
        .find_map(|key| write.put("t", &key.to_be_bytes(), &[9; 3000]).err())
        .or_else(|| write.commit().err());
    let error = failed.expect("nothing is left to give");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    rig.machine.disk.set_capacity(None);
    rig.put(0..400, 1000);
    rig.database.checkpoint().expect("space is back");
}

/// L5: slots between those of a held pin are given back as holes, and the pin reads as before.
#[test]
fn holes_between_held_slots_are_given_back_and_never_read() {
    let rig = Rig::filled(10, 400);
    let (first, _) = rig.pin(OnFull::Break, None);
    rig.put((0..400).filter(|key| key % 8 < 2), 2);
    rig.database.checkpoint().expect("a checkpoint");
    rig.machine.clock.advance(Duration::from_secs(1));
    let (second, expected) = rig.pin(OnFull::Hold, None);
    rig.put(0..400, 3);
    rig.database.checkpoint().expect("a checkpoint");
    let before = rig.database.stats();
    rig.leave_free(0);
    rig.put_until(|| first.ended().is_some());
    assert_eq!(first.ended(), Some(EndReason::DiskFull));
    let after = rig.database.stats();
    assert!(after.shadow_bytes < before.shadow_bytes);
    assert_eq!(
        after.shadow_bytes,
        after.shadow_slots * PAGE_BYTES,
        "no slot is idle"
    );
    assert_eq!(whole(&second).expect("it lasts"), expected);
    rig.machine.disk.set_capacity(None);
    let (third, third_expected) = rig.pin(OnFull::Break, None);
    rig.put(0..400, 5);
    rig.database.checkpoint().expect("holes are used again");
    assert_eq!(whole(&second).expect("it lasts"), expected);
    assert_eq!(whole(&third).expect("it lasts"), third_expected);
    assert_eq!(second.view().counts().failed_checks, 0);
}

/// A file system that cannot punch keeps what it has, and pins end all the same.
#[test]
fn file_system_without_holes_only_keeps_its_space() {
    use stillfs::os::sim::{Fault, Faults, Operation};
    let rig = Rig::filled(11, 400);
    let (first, _) = rig.pin(OnFull::Break, None);
    rig.put(0..200, 2);
    rig.database.checkpoint().expect("a checkpoint");
    rig.machine.clock.advance(Duration::from_secs(1));
    let (second, expected) = rig.pin(OnFull::Hold, None);
    rig.put(0..400, 3);
    rig.database.checkpoint().expect("a checkpoint");
    let cannot = Fault::errno(Operation::Punch, libc::EOPNOTSUPP).times(u64::MAX);
    rig.machine.disk.set_faults(Faults::none().with(cannot));
    rig.leave_free(MIB);
    rig.put(0..10, 4);
    assert_eq!((first.ended(), second.ended()), (None, None));
    assert_eq!(whole(&second).expect("it lasts"), expected);
    rig.leave_free(0);
    rig.put_until(|| first.ended().is_some());
    assert_eq!(second.ended(), None);
}

/// The maximum age of a pin in this process is kept too.
#[test]
fn pin_ends_at_its_maximum_age() {
    let rig = Rig::filled(12, 10);
    let options = PinOptions {
        max_age: Duration::from_secs(60),
        on_full: OnFull::Hold,
        ..PinOptions::default()
    };
    let pin = rig.database.pin_with(&options).expect("a pin");
    rig.machine.clock.advance(Duration::from_secs(60));
    rig.database.tend();
    assert_eq!(pin.ended(), None);
    rig.machine.clock.advance(Duration::from_millis(1));
    rig.database.tend();
    assert_eq!(pin.ended(), Some(EndReason::Expired));
    assert!(is_over(&pin));
}

/// What no pin can have is refused by the engine, whoever asks.
#[test]
fn options_out_of_bounds_are_refused() {
    let rig = Rig::filled(13, 10);
    let default = PinOptions::default();
    let day = Duration::from_secs(24 * 60 * 60);
    for max_age in [Duration::ZERO, Duration::from_millis(999), day * 367] {
        let options = PinOptions { max_age, ..default };
        let error = rig.database.pin_with(&options).expect_err("out of bounds");
        assert!(matches!(error, DatabaseError::MaxAge { found } if found == max_age));
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    for limit in [0, 1, 2 * PAGE_BYTES - 1] {
        let options = PinOptions {
            shadow_limit_bytes: Some(limit),
            ..default
        };
        let error = rig.database.pin_with(&options).expect_err("out of bounds");
        assert!(matches!(error, DatabaseError::ShadowLimit { found, .. } if found == limit));
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    assert_eq!(
        rig.machine.disk.list("/db/shadow".as_ref()).expect("names"),
        ["slots"]
    );
}
