//! W10: zeros past the end of the log.

use super::*;
use crate::os::sim::{Fault, Faults, Operation};

impl Writer {
    /// As the engine has it.
    fn writing_ahead(mut self) -> Self {
        self.log.write_zeros_ahead();
        self
    }
}

fn file_len(machine: &crate::os::SimulatedHost, sequence: u64) -> u64 {
    let file = machine.disk.open(&segment_path(sequence), OpenMode::Read);
    file.unwrap().len().unwrap()
}

/// W10: most commits change no size, so their sync has nothing but data to write.
#[test]
fn small_commits_only_replace_zeros_and_large_ones_write_none() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host).writing_ahead();
    let (mut sizes, mut expected) = (Vec::new(), Vec::new());
    for fill in 1..200 {
        expected.push(writer.durable_commit(&[(3, fill)]).unwrap());
        sizes.push(file_len(&machine, 1));
        assert!(512 + writer.log.end().0 <= file_len(&machine, 1));
    }
    sizes.dedup();
    assert!(sizes.len() <= 4, "{sizes:?}");
    assert_eq!(commits(&machine.disk), expected);
    let large: Vec<_> = (10..60).map(|number| (number, 1, 4000)).collect();
    expected.push(writer.commit_bodies(&large).unwrap());
    assert_eq!(file_len(&machine, 1), 512 + writer.log.end().0);
    assert_eq!(commits(&machine.disk), expected);
}

/// W10: a segment has its exact length before the next one is made, so nothing is between the two; and
/// nothing of what was acknowledged is lost, wherever the machine stops.
#[test]
fn crashes_between_zeros_rotations_and_commits_lose_nothing_acknowledged() {
    let run = |machine: &crate::os::SimulatedHost| {
        let mut done: Vec<Commit> = Vec::new();
        let mut tried = None;
        let outcome = (|| -> Result<()> {
            let log = Log::start(
                &machine.host,
                Path::new(DIR),
                identity(),
                vec![],
                1,
                Lsn::ZERO,
            )?;
            let mut writer = Writer { log, newest: 0 }.writing_ahead();
            for fill in 1..=9 {
                if fill % 3 == 0 {
                    writer.log.rotate()?;
                }
                let commit = writer.commit(&[(3, fill), (4, fill)])?;
                tried = Some(commit.clone());
                writer.log.flush(commit.point.lsn)?;
                done.push(commit);
            }
            Ok(())
        })();
        (done, tried, outcome)
    };
    let machine = Host::simulated(1);
    let (all, _, outcome) = run(&machine);
    outcome.unwrap();
    assert_eq!(file_len(&machine, 1), 512 + segment_start(&machine, 2).0);
    for number in 3..machine.disk.change_count() {
        let machine = Host::simulated(1);
        machine
            .disk
            .set_faults(Faults::power_off_before_change(number));
        let (done, tried, _) = run(&machine);
        machine.disk.set_faults(Faults::none());
        for seed in 0..8 {
            let image = machine.with_disk(machine.disk.image_after_crash(seed));
            if image
                .disk
                .list(Path::new(DIR))
                .unwrap_or_default()
                .is_empty()
            {
                assert!(done.is_empty());
                continue;
            }
            let Ok((found, scan)) = read_from(&image.disk, Lsn::ZERO, MissingLog::MeansClean)
            else {
                panic!("power off {number}, disk {seed}");
            };
            assert!(found.len() >= done.len(), "power off {number}, disk {seed}");
            let mut possible = done.clone();
            possible.extend(tried.clone().filter(|one| !done.contains(one)));
            assert!(possible.starts_with(&found) || all.starts_with(&found));
            // What comes after the recovery is found by the next one.
            scan.sync(&image.disk, Path::new(DIR)).unwrap();
            let (sealed, sequence) = (scan.sealed(), scan.next_sequence);
            let newest = found.last().map_or(0, |last| last.point.timestamp.0);
            let start = Writer::start(&image.host, sealed, sequence, scan.end, newest);
            let mut writer = start.unwrap().writing_ahead();
            let mut expected = found;
            expected.push(writer.durable_commit(&[(7, 77)]).unwrap());
            let again = image.disk.image_after_crash(seed);
            assert_eq!(commits(&again), expected, "power off {number}, disk {seed}");
        }
    }
}

fn segment_start(machine: &crate::os::SimulatedHost, sequence: u64) -> Lsn {
    let bytes = file_bytes(&machine.disk, &segment_path(sequence));
    SegmentHeader::decode(&bytes[..512]).unwrap().unwrap().start
}

/// W1, W10: what a failed append left goes together with the zeros behind it, durably, before the next.
#[test]
fn failed_append_among_zeros_leaves_nothing() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host).writing_ahead();
    let mut expected = vec![writer.durable_commit(&[(3, 1)]).unwrap()];
    let end = writer.log.end();
    let plan = Faults::none()
        .with(Fault::short_write(300))
        .with(Fault::errno(Operation::Write, EIO).after(1));
    machine.disk.set_faults(plan);
    writer.commit(&[(3, 2), (4, 2)]).unwrap_err();
    machine.disk.set_faults(Faults::none());
    assert_eq!(file_len(&machine, 1), 512 + end.0);
    expected.push(writer.durable_commit(&[(5, 5)]).unwrap());
    for seed in 0..20 {
        assert_eq!(commits(&machine.disk.image_after_crash(seed)), expected);
    }
}

/// Where there is no space for zeros there may be some for commits.
#[test]
fn zeros_that_find_no_space_give_it_back_and_fail_nothing() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host).writing_ahead();
    machine.disk.set_capacity(Some(8192));
    let mut expected = Vec::new();
    for fill in 1..=20 {
        expected.push(writer.durable_commit(&[(3, fill)]).unwrap());
    }
    assert_eq!(file_len(&machine, 1), 512 + writer.log.end().0);
    machine.disk.set_capacity(None);
    expected.push(writer.durable_commit(&[(3, 99)]).unwrap());
    assert_eq!(commits(&machine.disk), expected);
}

/// W10: a rotation that cannot take the zeros away fails, and the old segment goes on.
#[test]
fn rotation_that_cannot_shorten_its_segment_fails() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host).writing_ahead();
    let mut expected = vec![writer.durable_commit(&[(3, 1)]).unwrap()];
    let fault = Fault::errno(Operation::SetLen, EIO);
    machine.disk.set_faults(Faults::none().with(fault));
    writer.log.rotate().unwrap_err();
    machine.disk.set_faults(Faults::none());
    expected.push(writer.durable_commit(&[(3, 2)]).unwrap());
    assert_eq!(segment_paths(&machine.disk).len(), 1);
    writer.log.rotate().unwrap();
    expected.push(writer.durable_commit(&[(3, 3)]).unwrap());
    assert_eq!(commits(&machine.disk), expected);
    assert_eq!(file_len(&machine, 1), 512 + segment_start(&machine, 2).0);
}

/// W10, E7: the segment that a header's log start names is gone. Neither the end of the one before nor the zeros
/// behind it are taken for it: that would be fewer commits, and no error.
#[test]
fn newest_segment_that_was_removed_is_missed() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host).writing_ahead();
    writer.durable_commit(&[(3, 1)]).unwrap();
    let start = writer.log.rotate().unwrap();
    let commit = writer.durable_commit(&[(3, 2)]).unwrap();
    let read = || read_from(&machine.disk, start, MissingLog::IsError);
    assert_eq!(read().unwrap().0, [commit]);
    machine.disk.remove(&segment_path(2)).unwrap();
    assert_eq!(log_fault(read()), LogFault::Missing { wanted: start });
    // As a kill leaves the segment before.
    let bytes = file_bytes(&machine.disk, &segment_path(1)).len();
    let before = machine.disk.open(&segment_path(1), OpenMode::ReadWrite);
    before.unwrap().set_len(bytes as u64 + (1 << 16)).unwrap();
    assert_eq!(log_fault(read()), LogFault::Missing { wanted: start });
    // A page file that stands by itself needs nothing of it.
    let clean = read_from(&machine.disk, start, MissingLog::MeansClean);
    assert_eq!(clean.unwrap().0, []);
}
