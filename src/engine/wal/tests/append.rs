//! W1: appends that fail.

use super::*;
use crate::engine::error::{EngineError, ErrorKind};
use crate::os::sim::{Fault, Faults, Operation};

/// What goes wrong in the middle of an append that is written in several pieces.
fn failing_writes() -> Vec<(&'static str, Faults)> {
    let write = |code| Fault::errno(Operation::Write, code);
    let short = |bytes| Fault::short_write(bytes);
    let mut plans = vec![
        ("no space at all", Faults::none().with(write(ENOSPC))),
        ("an error of the disk", Faults::none().with(write(EIO))),
        ("nothing is taken", Faults::none().with(short(0))),
    ];
    for bytes in [1, 23, 24, 100, 200, 300] {
        let part = short(bytes);
        let error = if bytes % 2 == 0 { ENOSPC } else { EIO };
        plans.push((
            "a part",
            Faults::none().with(part).with(write(error).after(1)),
        ));
    }
    plans
}

/// W1: the failed append leaves nothing, the ones before and after it are there, whatever a crash
/// then takes of what was not flushed.
#[test]
fn failed_appends_are_cut_back_and_the_others_survive_crashes() {
    for (what, plan) in failing_writes() {
        let machine = Host::simulated(1);
        let mut writer = Writer::new(&machine.host);
        let mut expected = vec![writer.durable_commit(&[(3, 1)]).unwrap()];
        let end = writer.log.end();
        machine.disk.set_faults(plan);
        let error = writer.commit(&[(3, 2), (4, 2)]).unwrap_err();
        assert!(matches!(error, EngineError::Io { .. }), "{what}: {error}");
        machine.disk.set_faults(Faults::none());
        assert_eq!(writer.log.end(), end, "{what}");
        let file = machine.disk.open(&segment_path(1), OpenMode::Read).unwrap();
        assert_eq!(file.len().unwrap(), 512 + end.0, "{what}");
        for fill in 3..6 {
            expected.push(writer.commit(&[(3, fill), (5, fill)]).unwrap());
        }
        assert_eq!(commits(&machine.disk), expected, "{what}");
        let flushed = expected.len();
        writer.log.flush(expected[flushed - 1].point.lsn).unwrap();
        expected.push(writer.commit(&[(6, 6)]).unwrap());
        for seed in 0..20 {
            let found = commits(&machine.disk.image_after_crash(seed));
            assert!(
                found.len() >= flushed,
                "{what}, {seed}: {} commits",
                found.len()
            );
            assert!(found == expected[..found.len()], "{what}, {seed}");
        }
    }
}

/// A short write is no failure: the rest follows.
#[test]
fn short_and_interrupted_writes_go_on() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let interrupted = Fault::kind(Operation::Write, std::io::ErrorKind::Interrupted).after(3);
    let plan = Faults::none()
        .with(Fault::short_write(7).times(9))
        .with(interrupted);
    machine.disk.set_faults(plan);
    let commit = writer.commit(&[(3, 2), (4, 2)]).unwrap();
    assert_eq!(commits(&machine.disk), [commit]);
}

#[test]
fn append_without_space_says_so() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    machine.disk.set_capacity(Some(4096));
    writer.commit(&[(3, 1)]).unwrap();
    let error = writer
        .commit_bodies(&[(3, 2, 4000), (4, 2, 4000)])
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    writer.commit(&[(3, 3)]).unwrap();
    machine.disk.set_capacity(None);
    writer.commit_bodies(&[(3, 4, 4000), (4, 4, 4000)]).unwrap();
    assert_eq!(commits(&machine.disk).len(), 3);
}

/// W1: what is left of a failed append has the salt and the LSNs of what comes next. Unless the cut is
/// durable first, a crash may keep a page's record of the one and the commit record of the other.
#[test]
fn crash_never_mixes_a_failed_append_with_the_next() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    // A record of 512 bytes begins on a sector's edge; the next sector begins with the next record.
    let body_bytes = 512 - 24 - 16 - 32;
    let plan = Faults::none()
        .with(Fault::short_write(1024))
        .with(Fault::errno(Operation::Write, ENOSPC).after(1));
    machine.disk.set_faults(plan);
    writer
        .commit_bodies(&[(3, 0xaa, body_bytes), (4, 0xaa, body_bytes)])
        .unwrap_err();
    machine.disk.set_faults(Faults::none());
    let next = writer
        .commit_bodies(&[(3, 0xbb, body_bytes), (4, 0xbb, body_bytes)])
        .unwrap();
    assert_eq!(next.point.lsn, Lsn(2 * 512 + 72));
    let mut whole = 0;
    for seed in 0..2000 {
        let found = commits(&machine.disk.image_after_crash(seed));
        match found.as_slice() {
            [] => {}
            [found] => {
                assert!(*found == next, "seed {seed}: {:x?}", found.pages[0].1[40]);
                whole += 1;
            }
            _ => panic!("{} commits", found.len()),
        }
    }
    assert!(whole > 0, "the crashes must keep the commit now and then");
}

/// If the cut fails nobody knows what the file holds.
#[test]
fn failed_cut_poisons() {
    for failing in [Operation::SetLen, Operation::SyncData] {
        let machine = Host::simulated(1);
        let mut writer = Writer::new(&machine.host);
        let first = writer.durable_commit(&[(3, 1)]).unwrap();
        let plan = Faults::none()
            .with(Fault::short_write(30))
            .with(Fault::errno(Operation::Write, ENOSPC).after(1))
            .with(Fault::errno(failing, EIO));
        machine.disk.set_faults(plan);
        let error = writer.commit(&[(3, 2)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        machine.disk.set_faults(Faults::none());
        assert_poisoned(&mut writer);
        writer
            .log
            .flush(first.point.lsn)
            .expect("it was durable before");
        let image = machine.disk.image_after_crash(1);
        assert_eq!(commits(&image), [first]);
    }
}

/// W3: nothing is appended or synced any more.
pub(super) fn assert_poisoned(writer: &mut Writer) {
    let is_poisoned = |result: Result<()>| matches!(result, Err(EngineError::Poisoned { .. }));
    assert!(is_poisoned(writer.commit(&[(3, 9)]).map(drop)));
    assert!(is_poisoned(
        writer
            .log
            .append_note(RecordKind::CheckpointEnd, &[0; 8])
            .map(drop)
    ));
    assert!(is_poisoned(writer.log.rotate().map(drop)));
    assert!(is_poisoned(
        writer.log.flush(Lsn(writer.log.durable().0 + 1))
    ));
}

/// The log cannot be numbered further: refused before a byte is written.
#[test]
fn append_past_the_last_lsn_is_refused() {
    let machine = Host::simulated(1);
    let start = Lsn(u64::MAX - 7);
    let writer = Writer::start(&machine.host, Vec::new(), 1, start, 0).unwrap();
    let error = append(&writer.log, &[0; 16], []).unwrap_err();
    assert!(matches!(error, EngineError::Exhausted { .. }), "{error}");
    assert_eq!(file_bytes(&machine.disk, &segment_path(1)).len(), 512);
}
