//! What the segments said of pages, after they are gone.

use std::ops::Range;

use super::*;
use crate::engine::wal::segment::Touched;
use crate::engine::wal::summary::{CHANGES_DIR, SummaryFolder};
use crate::os::sim::{Fault, Faults, Operation};

const FOLDER: &str = "/changes";

fn ask(disk: &dyn Disk, since: Lsn, until: Lsn) -> Option<Vec<Range<u64>>> {
    changed_pages(disk, Path::new("/"), DATABASE, HISTORY, since, until).unwrap()
}

/// Single pages, with the copies of the header.
fn pages(numbers: &[u64]) -> Option<Vec<Range<u64>>> {
    let ranges = numbers.iter().map(|&page| page..page + 1);
    Some(std::iter::once(0..2).chain(ranges).collect())
}

fn files(disk: &dyn Disk) -> Vec<PathBuf> {
    let names = disk.list(Path::new(FOLDER)).unwrap_or_default();
    names
        .iter()
        .map(|name| Path::new(FOLDER).join(name))
        .collect()
}

/// What the folder keeps of a log whose segments are all gone: three of them, with a commit in each.
fn three_kept(machine: &crate::os::SimulatedHost) -> Vec<Lsn> {
    let mut writer = Writer::new(&machine.host);
    let mut ends = vec![Lsn::ZERO];
    for page in [5, 8, 12] {
        ends.push(writer.durable_commit(&[(page, 1)]).unwrap().point.lsn);
        let start = writer.log.rotate().unwrap();
        writer.log.remove_before(start).unwrap();
    }
    writer.log.remove_all().unwrap();
    assert!(segment_paths(&machine.disk).is_empty());
    ends
}

/// The answer is exact: from the segments, from the summaries, and from both, with commits that begin
/// and end inside of a segment.
#[test]
fn answer_is_the_same_whether_the_segments_are_there_or_not() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let mut ends = vec![Lsn::ZERO];
    for page in [4, 6, 9] {
        ends.push(writer.durable_commit(&[(page, 1)]).unwrap().point.lsn);
        if page == 6 {
            writer.log.rotate().unwrap();
        }
    }
    let disk = &machine.disk;
    let expect_all = |inside: &[u64]| {
        assert_eq!(ask(disk, ends[0], ends[3]), pages(&[4, 6, 9]));
        assert_eq!(ask(disk, ends[0], ends[2]), pages(&[4, 6]));
        assert_eq!(ask(disk, ends[1], ends[2]), pages(inside));
        assert_eq!(ask(disk, ends[1], ends[1]), Some(Vec::new()));
        assert_eq!(ask(disk, ends[2], ends[1]), None);
        assert_eq!(ask(disk, ends[2], Lsn(ends[3].0 + 8)), None);
    };
    expect_all(&[6]);
    writer.log.remove_before(ends[3]).unwrap();
    assert_eq!(segment_paths(disk).len(), 1);
    expect_all(&[4, 6]);
    writer.log.remove_all().unwrap();
    assert!(segment_paths(disk).is_empty());
    expect_all(&[4, 6]);
    let other = HistoryId([9; 16]);
    let found = changed_pages(disk, Path::new("/"), DATABASE, other, ends[0], ends[3]).unwrap();
    assert_eq!(found, None, "of another history nothing is known");
}

/// W7: wherever the machine stops while segments go, what they touched is known after it.
#[test]
fn summary_is_durable_before_its_segment_goes() {
    let mut stop = 0;
    loop {
        let machine = Host::simulated(stop);
        let mut writer = Writer::new(&machine.host);
        writer.durable_commit(&[(7, 1)]).unwrap();
        writer.log.rotate().unwrap();
        let last = writer.durable_commit(&[(9, 1), (11, 1)]).unwrap().point.lsn;
        machine
            .disk
            .set_faults(Faults::power_off_before_change(stop));
        let removed = writer
            .log
            .remove_before(last)
            .and_then(|()| writer.log.remove_all());
        for seed in 0..12 {
            let image = machine.disk.image_after_crash(seed);
            let found = ask(&image, Lsn::ZERO, last);
            assert_eq!(found, pages(&[7, 9, 11]), "stop {stop}, seed {seed}");
        }
        if removed.is_ok() {
            break;
        }
        stop += 1;
    }
    assert!(stop > 8, "only {stop} changes of the disk");
}

/// W7: a full or failing disk costs what is known of the segment, no checkpoint; and the hole is seen.
#[test]
fn summary_that_cannot_be_written_leaves_a_hole_and_fails_nothing() {
    let sum = |number: u64| format!("{number:016x}.sum");
    let fail = |operation, code| Fault::errno(operation, code);
    // Which of the segments is lost.
    let plans = [
        (1, fail(Operation::CreateDir, ENOSPC).on(CHANGES_DIR)),
        (1, fail(Operation::Open, ENOSPC).on(sum(1))),
        (1, fail(Operation::Write, ENOSPC).on(sum(1))),
        (2, fail(Operation::Write, EIO).on(sum(1)).after(1)),
        (1, fail(Operation::SyncData, EIO).on(sum(1))),
        (2, fail(Operation::SyncData, EIO).on(sum(1)).after(1)),
        (1, fail(Operation::SyncDir, EIO).on(CHANGES_DIR)),
        (1, fail(Operation::List, EIO).on(CHANGES_DIR)),
    ];
    let mut seen = 0;
    for (number, (lost, plan)) in plans.into_iter().enumerate() {
        let machine = Host::simulated(1);
        let mut writer = Writer::new(&machine.host);
        machine.disk.set_faults(Faults::none().with(plan));
        let mut ends = vec![Lsn::ZERO];
        for page in [3, 5, 7, 9] {
            ends.push(writer.durable_commit(&[(page, 1)]).unwrap().point.lsn);
            let start = writer.log.rotate().unwrap();
            writer.log.remove_before(start).unwrap();
        }
        assert_eq!(segment_paths(&machine.disk).len(), 1, "{number}");
        machine.disk.set_faults(Faults::none());
        let crashed = machine.disk.image_after_crash(7);
        for disk in [&machine.disk, &crashed] {
            for (from, end) in ends[..4].iter().enumerate() {
                let found = ask(disk, *end, ends[4]);
                // A commit ends before its segment does, with notes after it.
                let is_lost = from <= lost && found.is_none();
                seen += u32::from(is_lost);
                let first = 3 + 2 * from as u64;
                let all: Vec<u64> = (first..10).step_by(2).collect();
                assert!(
                    is_lost || found == pages(&all),
                    "{number}, {from}: {found:?}"
                );
            }
        }
    }
    assert!(seen > 20, "{seen}");
}

/// W8: no damage of a summary makes an answer smaller.
#[test]
fn damaged_summary_gives_no_answer_or_the_right_one() {
    let machine = Host::simulated(1);
    let ends = three_kept(&machine);
    let (disk, right) = (&machine.disk, pages(&[5, 8, 12]));
    assert_eq!(ask(disk, Lsn::ZERO, ends[3]), right);
    let [file] = &files(disk)[..] else {
        panic!("several small entries go into one file");
    };
    let whole = file_bytes(disk, file);
    let mut refused = 0;
    for at in 0..whole.len() {
        for bit in [0, 3, 7] {
            let mut bad = whole.clone();
            bad[at] ^= 1 << bit;
            set_file(disk, file, &bad);
            let found = ask(disk, Lsn::ZERO, ends[3]);
            assert!(found.is_none() || found == right, "byte {at}: {found:?}");
            refused += u32::from(found.is_none());
        }
        set_file(disk, file, &whole[..at]);
        assert_ne!(
            ask(disk, Lsn::ZERO, ends[3]).map(|found| found.len()),
            Some(1),
            "cut at {at}"
        );
    }
    assert!(refused > 100, "{refused}");
    set_file(disk, file, &whole);
    let garbage: Vec<u8> = (0..5000_u32).map(|at| ((at * at) >> 3) as u8).collect();
    set_file(
        disk,
        &Path::new(FOLDER).join("0000000000000009.sum"),
        &garbage,
    );
    set_file(disk, &Path::new(FOLDER).join("notes.txt"), &garbage);
    assert_eq!(ask(disk, Lsn::ZERO, ends[3]), right);
}

/// W7: nothing goes behind an end that is in doubt, and what comes after it counts.
#[test]
fn torn_summary_is_not_appended_to() {
    let machine = Host::simulated(1);
    let ends = three_kept(&machine);
    let (disk, file) = (&machine.disk, files(&machine.disk).remove(0));
    let whole = file_bytes(disk, &file);
    set_file(disk, &file, &whole[..whole.len() - 1]);
    let last = ends[3].0 + 1000;
    let mut writer = Writer::start(&machine.host, Vec::new(), 9, Lsn(last), 50).unwrap();
    let end = writer.durable_commit(&[(20, 1)]).unwrap().point.lsn;
    writer.log.remove_all().unwrap();
    assert_eq!(files(disk).len(), 2);
    assert_eq!(ask(disk, Lsn(last), end), pages(&[20]));
    assert_eq!(
        ask(disk, ends[3], end),
        None,
        "between the two nothing is known"
    );
}

/// The segments of an engine that was killed say what they touched by their records; a commit that is not
/// whole, and what the next incarnation wrote over it, are told apart.
#[test]
fn segments_of_a_killed_incarnation_are_read_before_they_go() {
    let machine = Host::simulated(3);
    let mut writer = Writer::new(&machine.host);
    writer.durable_commit(&[(3, 1)]).unwrap();
    writer.log.rotate().unwrap();
    writer.durable_commit(&[(4, 1)]).unwrap();
    let tail = segment_path(2);
    let mut bytes = file_bytes(&machine.disk, &tail);
    writer.durable_commit(&[(66, 1), (67, 1)]).unwrap();
    let torn = file_bytes(&machine.disk, &tail);
    bytes.extend_from_slice(&torn[bytes.len()..torn.len() - 100]);
    drop(writer);
    let machine = machine.process_crash();
    set_file(&machine.disk, &tail, &bytes);
    let (mut writer, found) = Writer::reopen(&machine.host).unwrap();
    assert_eq!(found.len(), 2);
    let last = writer.durable_commit(&[(5, 1)]).unwrap().point.lsn;
    let expected = pages(&[3, 4, 5]).map(|_| vec![0..2, 3..6]);
    assert_eq!(ask(&machine.disk, Lsn::ZERO, last), expected);
    writer.log.remove_all().unwrap();
    assert!(segment_paths(&machine.disk).is_empty());
    assert_eq!(ask(&machine.disk, Lsn::ZERO, last), expected);
}

fn folder(host: &Host, epoch: u64) -> SummaryFolder {
    let identity = LogIdentity {
        epoch: Epoch(epoch),
        ..identity()
    };
    SummaryFolder::new(host, Path::new(DIR), identity)
}

fn segment(start: u64, end: u64, page: u64) -> SealedSegment {
    let touched = Touched {
        start: Lsn(start),
        last_commit: Lsn(end),
        marks: Vec::new(),
        pages: vec![PageNo(page)],
    };
    SealedSegment {
        path: segment_path(1),
        end: Lsn(end),
        bytes: 0,
        touched: Some(touched),
        is_noted: false,
        is_own: false,
    }
}

/// W8: two incarnations that claim the same bytes of the log are of a directory whose past was put back;
/// the same segment twice is of a crash between summary and removal.
#[test]
fn log_that_was_written_twice_gives_no_answer() {
    let machine = Host::simulated(1);
    folder(&machine.host, 1).keep(&[segment(0, 100, 5), segment(100, 200, 6)]);
    folder(&machine.host, 1).keep(&[segment(100, 200, 6), segment(100, 160, 6)]);
    folder(&machine.host, 2).keep(&[segment(200, 300, 7)]);
    assert_eq!(files(&machine.disk).len(), 1);
    let ask = |since, until| ask(&machine.disk, Lsn(since), Lsn(until));
    assert_eq!(ask(0, 300), Some(vec![0..2, 5..8]));
    assert_eq!(ask(120, 140), pages(&[6]));
    folder(&machine.host, 3).keep(&[segment(160, 260, 8)]);
    assert_eq!(ask(0, 100), pages(&[5]));
    for (since, until) in [(0, 300), (120, 250), (170, 190), (220, 240)] {
        assert_eq!(ask(since, until), None, "{since}..{until}");
    }
}

/// However long an engine runs, the folder stays small; the oldest goes first.
#[test]
fn folder_is_bounded_and_loses_the_oldest() {
    let machine = Host::simulated(1);
    folder(&machine.host, 1).keep(&[segment(0, 100, 5)]);
    for number in 2..30 {
        let path = Path::new(FOLDER).join(format!("{number:016x}.sum"));
        set_file(&machine.disk, &path, &vec![1; 4 << 20]);
    }
    folder(&machine.host, 1).keep(&[segment(100, 200, 6)]);
    let left = files(&machine.disk);
    let total: u64 = left
        .iter()
        .map(|path| {
            machine
                .disk
                .open(path, OpenMode::Read)
                .unwrap()
                .len()
                .unwrap()
        })
        .sum();
    assert!(
        total <= 64 << 20 && left.len() == 16,
        "{total} {}",
        left.len()
    );
    let ask = |since, until| ask(&machine.disk, Lsn(since), Lsn(until));
    assert_eq!(ask(100, 200), pages(&[6]));
    assert_eq!(ask(0, 200), None);
}
