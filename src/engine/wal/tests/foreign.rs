//! Segments that belong elsewhere: other databases, histories, versions, page sizes, places.

use super::*;
use crate::engine::error::EngineError;
use crate::engine::wal::segment::SegmentHeader;
use crate::os::SimulatedHost;

/// A machine with a commit in segment 1, and a copy of its header.
fn with_one_commit() -> (SimulatedHost, Commit, SegmentHeader) {
    let machine = Host::simulated(1);
    let commit = Writer::new(&machine.host).commit(&[(3, 1)]).unwrap();
    let bytes = file_bytes(&machine.disk, &segment_path(1));
    let header = SegmentHeader::decode(&bytes[..512]).unwrap().unwrap();
    (machine, commit, header)
}

/// What a scan says when segment 2 has the header that `change` makes of the first one's.
fn scan_with(change: impl FnOnce(&mut SegmentHeader)) -> Result<Vec<Commit>> {
    let (machine, commit, mut header) = with_one_commit();
    header.sequence = 2;
    header.salt += 1;
    header.start = commit.point.lsn;
    change(&mut header);
    set_file(&machine.disk, &segment_path(2), &header.encode());
    read_all(&machine.disk).map(|(commits, _)| commits)
}

#[test]
fn well_made_next_segment_is_no_error() {
    assert_eq!(scan_with(|_| ()).unwrap().len(), 1);
}

#[test]
fn segment_of_another_database_is_refused_and_both_ids_are_named() {
    let error = scan_with(|header| header.database = DatabaseId([9; 16])).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(
            error,
            EngineError::ForeignLog {
                what: "database",
                ..
            }
        ),
        "{text}"
    );
    assert!(
        text.contains(&DATABASE.to_string()) && text.contains(&DatabaseId([9; 16]).to_string())
    );
    assert!(text.contains("0000000000000002.wal"), "{text}");
}

#[test]
fn segment_of_another_history_is_refused_and_both_ids_are_named() {
    let error = scan_with(|header| header.history = HistoryId([9; 16])).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(
            error,
            EngineError::ForeignLog {
                what: "history",
                ..
            }
        ),
        "{text}"
    );
    assert!(text.contains(&HISTORY.to_string()) && text.contains(&HistoryId([9; 16]).to_string()));
}

/// Foreign segments are neither replayed nor deleted, also where no log is needed.
#[test]
fn foreign_segment_is_refused_also_by_a_clean_page_file() {
    let (machine, commit, _) = with_one_commit();
    let ids = (DATABASE, HistoryId([9; 16]));
    let (dir, from) = (Path::new(DIR), commit.point.lsn);
    let missing = MissingLog::MeansClean;
    let result = scan(
        &machine.disk,
        dir,
        ids,
        page_size(),
        from,
        missing,
        &mut |_| Ok(()),
    );
    assert!(matches!(result, Err(EngineError::ForeignLog { .. })));
    assert_eq!(segment_paths(&machine.disk), [segment_path(1)]);
}

#[test]
fn segment_of_another_page_size_is_an_error() {
    let Err(EngineError::Log { fault, .. }) = scan_with(|header| header.page_size = 8192) else {
        panic!("no error of the log");
    };
    let (field, found) = ("page size", 8192);
    assert_eq!(fault, LogFault::Record { field, found });
}

/// Later commits would be passed over, or earlier ones replayed twice.
#[test]
fn segments_with_a_gap_or_out_of_order_are_errors() {
    let (_, commit, _) = with_one_commit();
    let end = commit.point.lsn;
    let gap = scan_with(|header| header.start = Lsn(end.0 + 8));
    let next = Lsn(end.0 + 8);
    assert!(
        matches!(gap, Err(EngineError::Log { fault: LogFault::Gap { next: found }, .. }) if found == next)
    );
    // It would begin in the middle of a record of the segment before.
    let inside = scan_with(|header| {
        header.start = Lsn(8);
        header.epoch.0 += 1;
    });
    assert!(matches!(
        inside,
        Err(EngineError::Log {
            fault: LogFault::Record { field: "end", .. },
            ..
        })
    ));
    let (machine, _, mut header) = with_one_commit();
    header.sequence = 0;
    header.start = Lsn(8);
    set_file(&machine.disk, &segment_path(0), &header.encode());
    let fault = log_fault(read_all(&machine.disk));
    assert!(
        matches!(fault, LogFault::Record { field: "start", .. }),
        "{fault}"
    );
}

/// A segment in the middle was lost: its commits, and with them those after it.
#[test]
fn missing_segment_between_two_others_is_an_error() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    writer.commit(&[(3, 1)]).unwrap();
    writer.log.rotate().unwrap();
    writer.commit(&[(3, 2)]).unwrap();
    let third_start = writer.log.rotate().unwrap();
    writer.commit(&[(3, 3)]).unwrap();
    assert_eq!(commits(&machine.disk).len(), 3);
    machine.disk.remove(&segment_path(2)).unwrap();
    let next = third_start;
    assert_eq!(log_fault(read_all(&machine.disk)), LogFault::Gap { next });
}

#[test]
fn segment_of_a_later_version_is_refused_by_name_and_version() {
    let (machine, commit, mut header) = with_one_commit();
    header.sequence = 2;
    header.start = commit.point.lsn;
    let mut bytes = header.encode();
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..508]);
    bytes[508..].copy_from_slice(&crc.to_le_bytes());
    set_file(&machine.disk, &segment_path(2), &bytes);
    match read_all(&machine.disk).map(drop) {
        Err(EngineError::FutureVersion { path, found, known }) => {
            assert_eq!((path, found, known), (segment_path(2), 2, 1));
        }
        other => panic!("{other:?}"),
    }
}
