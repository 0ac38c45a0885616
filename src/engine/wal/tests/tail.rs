//! W4: what lies after the end of the log, and segments that were never finished.

use super::*;
use crate::engine::error::EngineError;
use crate::engine::wal::segment::SegmentHeader;
use crate::os::sim::SimDisk;

/// Appends `bytes` to the segment's file, past what the log wrote.
fn add_to_file(disk: &SimDisk, sequence: u64, bytes: &[u8]) {
    let file = disk
        .open(&segment_path(sequence), OpenMode::ReadWrite)
        .unwrap();
    let end = file.len().unwrap();
    write_all_at(&*file, bytes, end).unwrap();
}

/// The bytes of a commit of page 3 at `start`.
fn commit_bytes(timestamp: u64, fill: u8, start: Lsn, salt: u64) -> Vec<u8> {
    let mut pages = [(PageNo(3), page(3, fill, 64))];
    let mut changes: Vec<_> = pages.iter_mut().map(full_image).collect();
    encode_commit(&mut changes, &fields(timestamp, start), start, salt).0
}

/// A file system may hand out blocks with an old log in them: right in every field but the salt.
#[test]
fn old_records_after_the_end_are_not_taken_for_new_ones() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let first = writer.commit(&[(3, 1)]).unwrap();
    let (end, salt) = (writer.log.end(), writer.log.salt());
    add_to_file(&machine.disk, 1, &commit_bytes(2, 2, end, salt ^ 1));
    let (found, scan) = read_all(&machine.disk).unwrap();
    assert_eq!((found, scan.end), (vec![first.clone()], end));
    // With the right salt the same bytes are a commit: only the salt told them apart.
    let file = machine
        .disk
        .open(&segment_path(1), OpenMode::ReadWrite)
        .unwrap();
    file.set_len(512 + end.0).unwrap();
    add_to_file(&machine.disk, 1, &commit_bytes(2, 2, end, salt));
    assert_eq!(commits(&machine.disk).len(), 2);
}

/// The next segment starts where the whole commits end, and the torn ones of before, of another
/// salt, stay where they are without being read.
#[test]
fn torn_tail_is_left_behind_by_the_next_segment() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let first = writer.commit(&[(3, 1)]).unwrap();
    let torn = commit_bytes(2, 2, writer.log.end(), writer.log.salt());
    add_to_file(&machine.disk, 1, &torn[..torn.len() - 8]);
    let (mut writer, found) = Writer::reopen(&machine.host).unwrap();
    assert_eq!(found, std::slice::from_ref(&first));
    assert_eq!(writer.log.end(), first.point.lsn);
    let second = writer.commit(&[(4, 4)]).unwrap();
    assert_eq!(commits(&machine.disk), [first, second]);
}

/// Pages without their commit are no part of the log, however whole their records are.
#[test]
fn pages_without_their_commit_do_not_move_the_end() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let first = writer.commit(&[(3, 1)]).unwrap();
    let torn = commit_bytes(2, 2, writer.log.end(), writer.log.salt());
    let commit_record = 24 + 48;
    add_to_file(&machine.disk, 1, &torn[..torn.len() - commit_record]);
    let (found, scan) = read_all(&machine.disk).unwrap();
    assert_eq!((found, scan.end), (vec![first.clone()], first.point.lsn));
}

/// Opens that crash before their first commit start at one LSN, again and again.
#[test]
fn opens_without_commits_start_at_one_lsn() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let mut expected = vec![writer.commit(&[(3, 1)]).unwrap()];
    let mut salts = vec![writer.log.salt()];
    for _ in 0..3 {
        let (writer, found) = Writer::reopen(&machine.host).unwrap();
        assert_eq!(found, expected);
        assert_eq!(writer.log.end(), expected[0].point.lsn);
        assert!(
            !salts.contains(&writer.log.salt()),
            "each open draws a salt"
        );
        salts.push(writer.log.salt());
    }
    let (mut writer, _) = Writer::reopen(&machine.host).unwrap();
    expected.push(writer.commit(&[(5, 5)]).unwrap());
    assert_eq!(commits(&machine.disk), expected);
    assert_eq!(segment_paths(&machine.disk).len(), 5);
}

fn header_bytes(sequence: u64, start: Lsn) -> [u8; 512] {
    let header = SegmentHeader {
        page_size: page_size().get(),
        database: DATABASE,
        history: HISTORY,
        sequence,
        start,
        salt: 77,
        epoch: Epoch(9),
        created_ns: 5,
    };
    header.encode()
}

/// What a machine that goes down while it makes a segment may leave of it.
fn unfinished_files() -> Vec<Vec<u8>> {
    let header = header_bytes(2, Lsn(160));
    let lengths = (0..512).map(|length| header[..length].to_vec());
    let holes = [0, 1, 508, 511].map(|at| {
        let mut bytes = header;
        bytes[at] ^= 0x80;
        bytes.to_vec()
    });
    lengths.chain(holes).chain([vec![0; 512]]).collect()
}

/// The header is durable before anything follows it, so a file that has no more than one and no
/// valid one was being made. It goes with the segments before it.
#[test]
fn unfinished_segment_is_passed_over_and_removed_later() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let first = writer.durable_commit(&[(3, 1)]).unwrap();
    for unfinished in unfinished_files() {
        let machine = machine.with_disk(machine.disk.image_after_crash(1));
        set_file(&machine.disk, &segment_path(2), &unfinished);
        let (mut writer, found) = Writer::reopen(&machine.host).unwrap();
        assert_eq!(found, std::slice::from_ref(&first));
        assert_eq!(
            segment_paths(&machine.disk).len(),
            3,
            "its number is not used again"
        );
        let second = writer.commit(&[(4, 2)]).unwrap();
        assert_eq!(commits(&machine.disk), [first.clone(), second.clone()]);
        let start = writer.log.rotate().unwrap();
        writer.log.remove_before(start).unwrap();
        assert_eq!(segment_paths(&machine.disk), [segment_path(4)]);
        assert_eq!(start, writer.log.end());
    }
}

#[test]
fn damaged_header_of_a_longer_segment_is_an_error() {
    for length in [513, 536, 600] {
        let machine = Host::simulated(1);
        Writer::new(&machine.host).commit(&[(3, 1)]).unwrap();
        let mut bytes = header_bytes(2, Lsn(160)).to_vec();
        bytes[100] ^= 1;
        bytes.resize(length, 0);
        set_file(&machine.disk, &segment_path(2), &bytes);
        assert_eq!(log_fault(read_all(&machine.disk)), LogFault::SegmentHeader);
    }
}

/// A file under another segment's name is not that segment, however whole it is.
#[test]
fn segment_under_another_name_is_an_error() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let commit = writer.commit(&[(3, 1)]).unwrap();
    machine
        .disk
        .rename(&segment_path(1), &segment_path(2))
        .unwrap();
    assert_eq!(log_fault(read_all(&machine.disk)), LogFault::SegmentHeader);
    machine
        .disk
        .rename(&segment_path(2), &segment_path(1))
        .unwrap();
    assert_eq!(commits(&machine.disk), [commit]);
}

#[test]
fn files_that_are_no_segments_are_passed_over() {
    let machine = Host::simulated(1);
    let commit = Writer::new(&machine.host).commit(&[(3, 1)]).unwrap();
    for name in [
        "notes",
        "2.wal",
        "0000000000000002.wal.bak",
        "zzzzzzzzzzzzzzzz.wal",
        ".wal",
    ] {
        set_file(&machine.disk, &Path::new(DIR).join(name), b"something");
    }
    let (found, scan) = read_all(&machine.disk).unwrap();
    assert_eq!((found, scan.next_sequence), (vec![commit], 2));
}

/// Where the header asks for a log, a log that begins later or is not there is an error; where it
/// does not, only a later log is.
#[test]
fn missing_start_is_an_error_unless_the_page_file_is_clean() {
    let machine = Host::simulated(1);
    machine.disk.create_dir(Path::new(DIR)).unwrap();
    let missing = |wanted| LogFault::Missing { wanted };
    let disk = &machine.disk;
    assert_eq!(log_fault(read_all(disk)), missing(Lsn::ZERO));
    let (found, scan) = read_from(disk, Lsn(800), MissingLog::MeansClean).unwrap();
    assert_eq!((found, scan.end, scan.next_sequence), (vec![], Lsn(800), 1));

    let mut writer = Writer::start(&machine.host, Vec::new(), 7, Lsn(800), 0).unwrap();
    let commit = writer.commit(&[(3, 1)]).unwrap();
    for how in [MissingLog::IsError, MissingLog::MeansClean] {
        assert_eq!(log_fault(read_from(disk, Lsn(792), how)), missing(Lsn(792)));
        assert_eq!(
            read_from(disk, Lsn(800), how).unwrap().0,
            std::slice::from_ref(&commit)
        );
    }
    // Past the end: the log does not reach where it should go on.
    let after = Lsn(commit.point.lsn.0 + 8);
    assert_eq!(
        log_fault(read_from(disk, after, MissingLog::IsError)),
        missing(after)
    );
    let (found, scan) = read_from(disk, after, MissingLog::MeansClean).unwrap();
    assert_eq!((found, scan.end, scan.next_sequence), (vec![], after, 8));
}

/// A crash after a clean stop may leave a segment that is shorter than it was. The log goes on where
/// the page file says, and nothing of the old segment is wanted, not even to be synced again.
#[test]
fn short_segment_before_a_clean_start_is_left_alone() {
    let machine = Host::simulated(1);
    let commit = Writer::new(&machine.host).commit(&[(3, 1)]).unwrap();
    let (disk, dir) = (&machine.disk, Path::new(DIR));
    let from = Lsn(commit.point.lsn.0 + 32);
    let (found, scan) = read_from(disk, from, MissingLog::MeansClean).unwrap();
    assert_eq!((found, scan.end), (vec![], from));
    scan.sync(disk, dir).unwrap();
    let mut writer = Writer::start(&machine.host, scan.sealed(), 2, from, 1).unwrap();
    for expected in 0..2 {
        let (found, scan) = read_from(disk, from, MissingLog::IsError).unwrap();
        assert_eq!(found.len(), expected);
        scan.sync(disk, dir).unwrap();
        writer.commit(&[(4, 2)]).unwrap();
    }
}

/// A folder that is not there is a log without segments, and nothing else is.
#[test]
fn log_folder_that_cannot_be_listed_is_an_error() {
    use crate::os::sim::{Fault, Faults, Operation};
    let machine = Host::simulated(1);
    assert!(read_from(&machine.disk, Lsn(8), MissingLog::MeansClean).is_ok());
    let fault = Fault::errno(Operation::List, EIO);
    machine.disk.set_faults(Faults::none().with(fault));
    let error = read_from(&machine.disk, Lsn(8), MissingLog::MeansClean).unwrap_err();
    assert!(matches!(error, EngineError::Io { .. }), "{error}");
}
