//! Segments that follow each other, and those that go.

use super::*;
use crate::engine::error::EngineError;
use crate::engine::wal::record::{RECORD_HEADER_BYTES, RecordHead, decode_summary, framed_bytes};
use crate::os::sim::{Fault, Faults, Operation};

#[test]
fn commits_go_on_in_the_next_segment() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let first = writer.commit(&[(3, 1)]).unwrap();
    let start = writer.log.rotate().unwrap();
    assert!(start > first.point.lsn, "the summary comes first");
    assert_eq!((writer.log.end(), writer.log.durable()), (start, start));
    let second = writer.commit(&[(3, 2)]).unwrap();
    assert!(second.point.lsn > start);
    assert_eq!(commits(&machine.disk), [first, second.clone()]);
    let (found, _) = read_from(&machine.disk, start, MissingLog::IsError).unwrap();
    assert_eq!(found, [second]);
}

/// W2: the rotation has synced the old segment, so a flush of what is in it has nothing to do; one
/// of the new segment's commits syncs the new file.
#[test]
fn flush_of_an_lsn_in_the_old_segment_returns_at_once() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let first = writer.commit(&[(3, 1)]).unwrap();
    writer.log.rotate().unwrap();
    let second = writer.commit(&[(4, 2)]).unwrap();
    let syncs = machine.disk.count(Operation::SyncData);
    writer.log.flush(first.point.lsn).unwrap();
    assert_eq!(machine.disk.count(Operation::SyncData), syncs);
    for seed in 0..10 {
        let found = commits(&machine.disk.image_after_crash(seed));
        assert_eq!(found.first(), Some(&first), "seed {seed}");
    }
    writer.log.flush(second.point.lsn).unwrap();
    for seed in 0..10 {
        assert_eq!(commits(&machine.disk.image_after_crash(seed)).len(), 2);
    }
}

/// Everything that can fail while a segment is made. What is left of it may come back in a crash.
fn failing_rotations() -> Vec<(&'static str, Faults)> {
    let new = "0000000000000002.wal";
    let fail = |operation| Fault::errno(operation, EIO);
    let plan = |fault: Fault| Faults::none().with(fault);
    let header_write = || fail(Operation::Write).on(new);
    let header_sync = || fail(Operation::SyncData).on(new);
    let dir_sync = || fail(Operation::SyncDir).on("wal");
    let no_remove = || fail(Operation::Remove).times(u64::MAX);
    vec![
        (
            "create",
            plan(Fault::errno(Operation::Open, ENOSPC).on(new)),
        ),
        ("header write", plan(header_write())),
        (
            "half a header",
            plan(Fault::short_write(300).on(new)).with(header_write().after(1)),
        ),
        ("header sync", plan(header_sync())),
        ("folder sync", plan(dir_sync())),
        (
            "header write, and the file stays",
            plan(header_write()).with(no_remove()),
        ),
        (
            "header sync, and the file stays",
            plan(header_sync()).with(no_remove()),
        ),
        (
            "folder sync, and the file stays",
            plan(dir_sync()).with(no_remove()),
        ),
    ]
}

/// Earlier builds count a segment with a header whose salt is not that of the segment before.
pub(super) fn assert_earlier_builds_pass_over(disk: &dyn Disk, sequence: u64) {
    let mut paths = segment_paths(disk).into_iter();
    let there = paths.find(|path| *path == segment_path(sequence));
    let bytes = there.map(|path| file_bytes(disk, &path));
    let header = bytes.and_then(|bytes| SegmentHeader::decode(&bytes));
    assert_eq!(header, None);
}

/// The old segment goes on as if nothing had been tried, and a crash of the machine or the process
/// finds every commit, though it may find the half-made segment too.
#[test]
fn failed_rotation_leaves_the_old_segment_going_on() {
    for (what, plan) in failing_rotations() {
        let machine = Host::simulated(1);
        let mut writer = Writer::new(&machine.host);
        let mut expected = vec![writer.durable_commit(&[(3, 1)]).unwrap()];
        machine.disk.set_faults(plan);
        let error = writer.log.rotate().unwrap_err();
        assert!(matches!(error, EngineError::Io { .. }), "{what}: {error}");
        machine.disk.set_faults(Faults::none());
        for fill in 2..4 {
            expected.push(writer.durable_commit(&[(3, fill)]).unwrap());
        }
        let images = (0..20).map(|seed| machine.with_disk(machine.disk.image_after_crash(seed)));
        for (seed, image) in images.enumerate() {
            assert_earlier_builds_pass_over(&image.disk, 2);
            let (mut after, found) = Writer::reopen(&image.host).unwrap();
            assert_eq!(found, expected, "{what}, {seed}");
            let more = after.durable_commit(&[(9, 9)]).unwrap();
            let found = commits(&image.disk.image_after_crash(1));
            assert_eq!(found.last(), Some(&more), "{what}, {seed}");
            assert_eq!(found.len(), 4, "{what}, {seed}");
        }
        assert_eq!(commits(&machine.disk), expected, "{what}");
    }
}

/// The rotation that succeeds after one that failed: the half-made segment lies between the two, and
/// the log reads over it.
#[test]
fn rotation_succeeds_after_one_that_failed() {
    for (what, plan) in failing_rotations() {
        let machine = Host::simulated(1);
        let mut writer = Writer::new(&machine.host);
        let mut expected = vec![writer.durable_commit(&[(3, 1)]).unwrap()];
        machine.disk.set_faults(plan);
        writer.log.rotate().unwrap_err();
        machine.disk.set_faults(Faults::none());
        expected.push(writer.commit(&[(4, 2)]).unwrap());
        let start = writer.log.rotate().unwrap();
        expected.push(writer.durable_commit(&[(5, 3)]).unwrap());
        for seed in 0..20 {
            let disk = machine.disk.image_after_crash(seed);
            assert_eq!(commits(&disk), expected, "{what}, {seed}");
            let (found, _) = read_from(&disk, start, MissingLog::IsError).unwrap();
            assert_eq!(found, expected[2..], "{what}, {seed}");
            let (_, scan) = read_all(&disk).unwrap();
            let ends: Vec<Lsn> = scan.sealed().iter().map(|one| one.end).collect();
            assert_eq!(
                ends[0], start,
                "{what}, {seed}: the first goes on past the other"
            );
            assert!(ends.is_sorted(), "{what}, {seed}: {ends:?}");
        }
        let found = summaries_of(&machine.disk, 1, Lsn::ZERO, start);
        let all: Vec<u64> = found.last().unwrap().1.iter().map(|page| page.0).collect();
        assert_eq!(all, [3, 4], "{what}: a summary covers the whole segment");
    }
}

/// W5 holds beside a half-made segment too: damage after its start is not the end of the log.
#[test]
fn half_made_segment_hides_no_damage() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    writer.durable_commit(&[(3, 1)]).unwrap();
    let (_, plan) = failing_rotations().pop().unwrap();
    machine.disk.set_faults(plan);
    writer.log.rotate().unwrap_err();
    machine.disk.set_faults(Faults::none());
    let start = writer.log.end();
    let second = writer.durable_commit(&[(3, 2)]).unwrap();
    writer.durable_commit(&[(3, 3)]).unwrap();
    assert_eq!(segment_paths(&machine.disk).len(), 2);
    let mut bytes = file_bytes(&machine.disk, &segment_path(1));
    bytes[512 + start.0 as usize] ^= 1;
    set_file(&machine.disk, &segment_path(1), &bytes);
    let synced = second.point.lsn;
    assert_eq!(
        log_fault(read_all(&machine.disk)),
        LogFault::BeforeSynced { synced }
    );
}

/// A sync that fails says that nobody knows what the old segment holds.
#[test]
fn rotation_that_cannot_sync_the_old_segment_poisons() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    writer.commit(&[(3, 1)]).unwrap();
    let fault = Fault::errno(Operation::SyncData, EIO);
    machine.disk.set_faults(Faults::none().with(fault));
    writer.log.rotate().unwrap_err();
    append::assert_poisoned(&mut writer);
    assert_eq!(writer.log.durable(), Lsn::ZERO);
}

/// A rotation for whose summary there is no space changes nothing.
#[test]
fn rotation_without_space_for_its_summary_changes_nothing() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let first = writer.commit(&[(3, 1)]).unwrap();
    let end = writer.log.end();
    let fault = Fault::errno(Operation::Write, ENOSPC);
    machine.disk.set_faults(Faults::none().with(fault));
    writer.log.rotate().unwrap_err();
    machine.disk.set_faults(Faults::none());
    assert_eq!(writer.log.end(), end);
    let second = writer.commit(&[(3, 2)]).unwrap();
    assert_eq!(commits(&machine.disk), [first, second]);
    assert_eq!(segment_paths(&machine.disk), [segment_path(1)]);
}

/// Four segments, with a commit in each: where they start, and the commits.
fn four_segments(writer: &mut Writer) -> (Vec<Lsn>, Vec<Commit>) {
    let mut starts = vec![Lsn::ZERO];
    let mut expected = vec![writer.commit(&[(3, 1)]).unwrap()];
    for fill in 2..5 {
        starts.push(writer.log.rotate().unwrap());
        expected.push(writer.commit(&[(3, fill)]).unwrap());
    }
    (starts, expected)
}

#[test]
fn segments_before_an_lsn_go_and_the_others_stay() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let (starts, expected) = four_segments(&mut writer);
    let all = writer.log.bytes();
    let on_disk = |disk: &dyn Disk| -> u64 {
        let files = segment_paths(disk);
        files
            .iter()
            .map(|path| file_bytes(disk, path).len() as u64)
            .sum()
    };
    assert_eq!(all, on_disk(&machine.disk));
    // An LSN inside the second segment keeps it.
    writer.log.remove_before(Lsn(starts[2].0 - 1)).unwrap();
    assert_eq!(segment_paths(&machine.disk), [2, 3, 4].map(segment_path));
    writer.log.remove_before(starts[2]).unwrap();
    assert_eq!(segment_paths(&machine.disk), [3, 4].map(segment_path));
    assert_eq!(writer.log.bytes(), on_disk(&machine.disk));
    let (found, _) = read_from(&machine.disk, starts[2], MissingLog::IsError).unwrap();
    assert_eq!(found, expected[2..]);
    let missing = LogFault::Missing { wanted: Lsn::ZERO };
    assert_eq!(log_fault(read_all(&machine.disk)), missing);
    // The open one is never removed, whatever is asked.
    writer.log.remove_before(Lsn::MAX).unwrap();
    assert_eq!(segment_paths(&machine.disk), [segment_path(4)]);
    writer.commit(&[(3, 5)]).unwrap();
}

/// What could not be removed is removed the next time, and a name that is gone already is fine.
#[test]
fn failed_removal_is_tried_again() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let (starts, _) = four_segments(&mut writer);
    let fault = Fault::errno(Operation::Remove, EIO).after(1);
    machine.disk.set_faults(Faults::none().with(fault));
    writer.log.remove_before(starts[3]).unwrap_err();
    machine.disk.set_faults(Faults::none());
    assert_eq!(segment_paths(&machine.disk), [2, 3, 4].map(segment_path));
    machine.disk.remove(&segment_path(2)).unwrap();
    writer.log.remove_before(starts[3]).unwrap();
    assert_eq!(segment_paths(&machine.disk), [segment_path(4)]);
}

#[test]
fn nothing_is_left_and_nothing_goes_on_after_all_is_removed() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    four_segments(&mut writer);
    writer.log.remove_all().unwrap();
    assert!(segment_paths(&machine.disk).is_empty());
    append::assert_poisoned(&mut writer);
    for seed in 0..10 {
        let image = machine.disk.image_after_crash(seed);
        assert!(segment_paths(&image).is_empty(), "the removal is durable");
    }
}

/// The summaries in a segment's file: base and pages.
fn summaries_of(disk: &dyn Disk, sequence: u64, start: Lsn, end: Lsn) -> Vec<(Lsn, Vec<PageNo>)> {
    let bytes = file_bytes(disk, &segment_path(sequence));
    let mut found = Vec::new();
    let mut at = 512;
    while at < 512 + (end.0 - start.0) as usize {
        let head = RecordHead::new(bytes[at..at + RECORD_HEADER_BYTES].try_into().unwrap());
        assert_eq!(head.lsn().0, start.0 + at as u64 - 512);
        if bytes[at + 8] == RecordKind::PageSummary as u8 {
            let payload = &bytes[at + RECORD_HEADER_BYTES..][..head.payload_bytes()];
            found.push(decode_summary(payload).unwrap());
        }
        at += framed_bytes(head.payload_bytes());
    }
    found
}

/// An incremental backup trusts the summaries: a page that is missing in them would be missing in it.
#[test]
fn summaries_name_exactly_the_pages_of_their_segment() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let mut start = Lsn::ZERO;
    let segments: [&[&[u64]]; 3] = [&[&[70, 3], &[3, 9]], &[&[99, 98, 3]], &[]];
    for (index, commits) in segments.iter().enumerate() {
        let mut expected = std::collections::BTreeSet::new();
        for pages in *commits {
            expected.extend(pages.iter().map(|&page| PageNo(page)));
            let pages: Vec<_> = pages.iter().map(|&page| (page, index as u8)).collect();
            writer.commit(&pages).unwrap();
        }
        // A commit that failed touched nothing.
        let fault = Fault::errno(Operation::Write, ENOSPC);
        machine.disk.set_faults(Faults::none().with(fault));
        writer.commit(&[(50, 1)]).unwrap_err();
        let end = writer.log.rotate().unwrap();
        let found = summaries_of(&machine.disk, index as u64 + 1, start, end);
        assert!(found.iter().all(|(base, _)| *base == start));
        let found: Vec<PageNo> = found.into_iter().flat_map(|(_, pages)| pages).collect();
        assert_eq!(found, Vec::from_iter(expected), "segment {index}");
        start = end;
    }
}

/// Many pages: several summaries, none of which is large.
#[test]
fn summaries_of_many_pages_are_cut_in_parts() {
    let machine = Host::simulated(1);
    let writer = Writer::new(&machine.host);
    let pages: Vec<PageNo> = (0..10_000).map(|page| PageNo(page * 3)).collect();
    append(&writer.log, &[], pages.iter().copied()).unwrap();
    let end = writer.log.rotate().unwrap();
    let found = summaries_of(&machine.disk, 1, Lsn::ZERO, end);
    assert_eq!(found.len(), 3);
    let found: Vec<PageNo> = found.into_iter().flat_map(|(_, pages)| pages).collect();
    assert_eq!(found, pages);
    let (commits, scan) = read_all(&machine.disk).unwrap();
    assert_eq!((commits.len(), scan.end), (0, end));
}

/// W6: a number whose file is there is passed over.
#[test]
fn segment_name_that_is_taken_is_passed_over() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let first = writer.commit(&[(3, 1)]).unwrap();
    set_file(&machine.disk, &segment_path(2), &[0; 100]);
    writer.log.rotate().unwrap_err();
    assert_eq!(file_bytes(&machine.disk, &segment_path(2)), [0; 100]);
    writer.log.rotate().unwrap();
    let second = writer.commit(&[(3, 2)]).unwrap();
    assert_eq!(commits(&machine.disk), [first, second]);
    assert_eq!(segment_paths(&machine.disk), [1, 2, 3].map(segment_path));
}
