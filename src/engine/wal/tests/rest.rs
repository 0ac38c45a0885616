//! W10, W11: what lies past the end of the log takes no room that somebody needs, and nothing goes with it.

use super::spare::{file_len, is_spare_there, with_spare};
use super::*;
use crate::engine::EngineOptions;
use crate::os::SimulatedHost;
use crate::os::sim::{Fault, Faults, Operation};

/// A log whose open segment, the third, has a commit and then the rest of an old one. Gives its start, too.
fn with_rest(machine: &SimulatedHost) -> (Writer, Lsn, Commit) {
    let (mut writer, _, _) = with_spare(machine);
    let start = writer.checkpoint().unwrap();
    let commit = writer.durable_commit(&[(3, 1)]).unwrap();
    assert!(file_len(&machine.disk, &segment_path(3)) > file_end(&writer, start));
    (writer, start, commit)
}

/// Where the log of `writer` ends in its open segment.
fn file_end(writer: &Writer, start: Lsn) -> u64 {
    512 + writer.log.end().0 - start.0
}

/// After a crash, too, the log has its exact length before the next incarnation begins.
#[test]
fn open_gives_back_what_lies_past_the_end() {
    let machine = Host::simulated(1);
    let (writer, start, commit) = with_rest(&machine);
    let end = file_end(&writer, start);
    for seed in 0..10 {
        let disk = machine.disk.image_after_crash(seed);
        let read = || read_from(&disk, start, MissingLog::IsError).unwrap();
        let (found, scan) = read();
        assert_eq!(found, std::slice::from_ref(&commit));
        scan.cut_rest();
        scan.sync(&disk, Path::new(DIR)).unwrap();
        assert_eq!(scan.sealed().last().unwrap().bytes, end);
        for seed in 0..3 {
            let later = disk.image_after_crash(seed);
            assert_eq!(file_len(&later, &segment_path(3)), end);
        }
        assert_eq!(read().0, found);
    }
}

/// A segment without a record yet has nothing but its header then, and the one before stays whole.
#[test]
fn open_after_a_crash_behind_a_rotation_cuts_the_new_segment_only() {
    let machine = Host::simulated(1);
    let (mut writer, first, commit) = with_spare(&machine);
    let start = writer.log.rotate().unwrap();
    for seed in 0..10 {
        let disk = machine.disk.image_after_crash(seed);
        let (found, scan) = read_from(&disk, first, MissingLog::IsError).unwrap();
        assert_eq!(
            (&found[..], scan.end),
            (std::slice::from_ref(&commit), start)
        );
        scan.cut_rest();
        scan.sync(&disk, Path::new(DIR)).unwrap();
        assert_eq!(file_len(&disk, &segment_path(3)), 512);
        assert_eq!(file_len(&disk, &segment_path(2)), 512 + start.0 - first.0);
    }
    writer.large(3).unwrap();
}

/// Room is given back beside an append that has begun, of which nothing goes.
#[test]
fn rest_goes_amid_an_append_and_takes_nothing_of_it_along() {
    let machine = Host::simulated(1);
    let (mut writer, start, first) = with_rest(&machine);
    let mut pages = [(PageNo(4), page(4, 9, 64)), (PageNo(5), page(5, 9, 64))];
    let mut changes: Vec<_> = pages.iter_mut().map(full_image).collect();
    let at = writer.log.end();
    let fields = fields(writer.newest + 1, writer.log.durable());
    let (records, point) = encode_commit(&mut changes, &fields, at, writer.log.salt());
    let mut appending = writer.log.begin_append(records.len() as u64).unwrap();
    let (head, rest) = records.split_at(records.len() / 2);
    appending.push_framed(head);
    appending.write_piece().unwrap();
    writer.log.forgo_spare();
    let path = segment_path(3);
    let cut = file_len(&machine.disk, &path);
    assert_eq!(cut, (512 + point.lsn.0 - start.0).next_multiple_of(4096));
    appending.push_framed(rest);
    appending.finish([PageNo(4), PageNo(5)], 0).unwrap();
    writer.newest += 1;
    writer.log.flush(point.lsn).unwrap();
    let second = Commit {
        point,
        pages: pages.to_vec(),
    };
    let mut expected = vec![first, second];
    // Until its end, and past it.
    while writer.log.end().0 - start.0 < 3 * 4096 {
        expected.push(writer.durable_commit(&[(6, 6)]).unwrap());
    }
    for seed in 0..10 {
        let disk = machine.disk.image_after_crash(seed);
        let (found, _) = read_from(&disk, start, MissingLog::IsError).unwrap();
        assert_eq!(found, expected);
    }
}

/// L3: at the limit of the log it goes before anything is ended for the limit.
#[test]
fn limit_of_the_log_takes_the_spare_and_the_rest() {
    let machine = Host::simulated(1);
    let (mut writer, start, _) = with_rest(&machine);
    let options = EngineOptions {
        log_bytes_max: writer.log.segment_bytes(),
        ..EngineOptions::default()
    };
    writer.log = writer.log.kept_for_archives(Path::new("/"), &options);
    assert!(is_spare_there(&machine.disk) && writer.log.bytes() > options.log_bytes_max);
    writer.log.shed_above_limit().unwrap();
    assert_eq!(writer.log.bytes(), options.log_bytes_max);
    assert!(!is_spare_there(&machine.disk));
    let end = file_end(&writer, start);
    assert_eq!(file_len(&machine.disk, &segment_path(3)), end);
}

/// O3: a sync of the folder that failed may have been the one to hear that a name was lost.
#[test]
fn no_old_segment_is_kept_once_a_sync_of_the_folder_has_failed() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host).reusing();
    writer.large(1).unwrap();
    let failing = Fault::errno(Operation::SyncDir, EIO).on("wal");
    machine.disk.set_faults(Faults::none().with(failing));
    writer.log.rotate().unwrap_err();
    machine.disk.set_faults(Faults::none());
    for fill in 2..5 {
        writer.large(fill).unwrap();
        writer.checkpoint().unwrap();
        assert!(!is_spare_there(&machine.disk));
        assert_eq!(segment_paths(&machine.disk).len(), 1);
    }
}

/// LA3: log that an archive lacks stays over a clean stop; what lies past its end does not.
#[test]
fn clean_stop_with_an_archive_that_lags_leaves_no_rest() {
    let machine = Host::simulated(1);
    let (mut writer, start, _) = with_rest(&machine);
    let cursor = ArchiveCursor {
        database: DATABASE,
        history: HISTORY,
        archived: Lsn::ZERO,
        wall_ns: 0,
    };
    cursor
        .write(&machine.host, Path::new("/"), [1; 16])
        .unwrap();
    let options = EngineOptions::default();
    writer.log = writer.log.kept_for_archives(Path::new("/"), &options);
    let end = file_end(&writer, start);
    writer.log.remove_all().unwrap();
    assert_eq!(segment_paths(&machine.disk), [segment_path(3)]);
    assert_eq!(file_len(&machine.disk, &segment_path(3)), end);
}
