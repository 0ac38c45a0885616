//! W11: old segments that become the next ones.

use std::sync::Arc;

use super::watch::{Watch, watched};
use super::*;
use crate::engine::EngineOptions;
use crate::engine::error::EngineError;
use crate::engine::wal::segment::SegmentHeader;
use crate::os::SimulatedHost;
use crate::os::sim::{Fault, Faults, Operation};

fn spare_path() -> PathBuf {
    Path::new(DIR).join("spare")
}

pub(super) fn is_spare_there(disk: &dyn Disk) -> bool {
    disk.open(&spare_path(), OpenMode::Read).is_ok()
}

pub(super) fn file_len(disk: &dyn Disk, path: &Path) -> u64 {
    disk.open(path, OpenMode::Read).unwrap().len().unwrap()
}

fn header_of(disk: &dyn Disk, sequence: u64) -> SegmentHeader {
    let bytes = file_bytes(disk, &segment_path(sequence));
    SegmentHeader::decode(&bytes[..512]).unwrap().unwrap()
}

fn is_reused(disk: &dyn Disk, sequence: u64) -> bool {
    file_len(disk, &segment_path(sequence)) > 512
}

impl Writer {
    /// As the engine has it.
    pub(super) fn reusing(mut self) -> Self {
        self.log.write_zeros_ahead();
        self.log = self.log.with_spare(&EngineOptions::default());
        self
    }

    /// A commit of more than one block.
    pub(super) fn large(&mut self, fill: u8) -> Result<Commit> {
        let commit = self.commit_bodies(&[(3, fill, 4000), (4, fill, 4000), (5, fill, 3000)])?;
        self.log.flush(commit.point.lsn)?;
        Ok(commit)
    }

    /// What a checkpoint does to the log; gives where it starts then.
    pub(super) fn checkpoint(&mut self) -> Result<Lsn> {
        let start = self.log.rotate()?;
        self.log.remove_before(start)?;
        Ok(start)
    }
}

/// A log whose next segment is made of the first one, which has `first` in it.
pub(super) fn with_spare(machine: &SimulatedHost) -> (Writer, Lsn, Commit) {
    let mut writer = Writer::new(&machine.host).reusing();
    writer.large(1).unwrap();
    let start = writer.checkpoint().unwrap();
    assert!(is_spare_there(&machine.disk));
    let second = writer.large(2).unwrap();
    (writer, start, second)
}

/// W11, W4: each segment has a salt of its own; behind its end there are whole records of another one.
#[test]
fn next_segment_is_an_old_one_and_reads_as_if_it_were_none() {
    let machine = Host::simulated(1);
    let (mut writer, _, _) = with_spare(&machine);
    let mut salts = vec![header_of(&machine.disk, 2).salt];
    for round in 3..8 {
        let old = file_len(&machine.disk, &spare_path());
        let start = writer.checkpoint().unwrap();
        assert_eq!(segment_paths(&machine.disk).len(), 2, "a segment, a spare");
        let path = segment_path(u64::from(round));
        assert_eq!(file_len(&machine.disk, &path), old);
        let read = || read_from(&machine.disk, start, MissingLog::IsError);
        assert_eq!(read().unwrap().0, []);
        let first = writer.durable_commit(&[(3, round)]).unwrap();
        assert_eq!(file_len(&machine.disk, &path), old, "it did not grow");
        let rest = file_bytes(&machine.disk, &path).split_off(8192);
        assert!(rest.iter().any(|byte| *byte != 0), "there is an old rest");
        assert_eq!(read().unwrap().0, std::slice::from_ref(&first));
        let second = writer.large(round).unwrap();
        assert_eq!(read().unwrap().0, [first, second]);
        let salt = header_of(&machine.disk, u64::from(round)).salt;
        assert_eq!(salt, writer.log.salt());
        assert!(!salts.contains(&salt), "each segment draws a salt");
        salts.push(salt);
    }
}

/// W4: were an old record to have the LSN of its place, the salt would tell. Such LSNs come again where a crash
/// has cut a log.
#[test]
fn old_records_with_the_right_lsn_are_not_taken_for_new_ones() {
    let machine = Host::simulated(1);
    let (mut writer, _, _) = with_spare(&machine);
    let old_salt = writer.log.salt();
    let start = writer.checkpoint().unwrap();
    let commit = writer.durable_commit(&[(3, 3)]).unwrap();
    let forge = |salt| {
        let mut pages = [(PageNo(3), page(3, 9, 64))];
        let mut changes: Vec<_> = pages.iter_mut().map(full_image).collect();
        let end = writer.log.end();
        let later = Lsn(end.0 + 8);
        encode_commit(&mut changes, &fields(9, later), end, salt).0
    };
    let file = machine.disk.open(&segment_path(3), OpenMode::ReadWrite);
    let file = file.unwrap();
    let end = 512 + writer.log.end().0 - start.0;
    let read = || read_from(&machine.disk, start, MissingLog::IsError);
    write_all_at(&*file, &forge(old_salt), end).unwrap();
    assert_eq!(read().unwrap().0, std::slice::from_ref(&commit));
    // Nor by a look ahead (W5).
    write_all_at(&*file, &[0; 8], end).unwrap();
    assert_eq!(read().unwrap().0, std::slice::from_ref(&commit));
    write_all_at(&*file, &forge(writer.log.salt()), end).unwrap();
    assert_eq!(read().unwrap().0.len(), 2, "only the salt told them apart");
    write_all_at(&*file, &[0; 8], end).unwrap();
    assert!(matches!(log_fault(read()), LogFault::BeforeSynced { .. }));
}

/// What a run did until its machine stopped.
#[derive(Debug, Default)]
struct Story {
    /// A durable header says so.
    log_start: Lsn,
    done: Vec<Commit>,
    tried: Option<Commit>,
}

impl Story {
    fn commit(&mut self, writer: &mut Writer, number: u8) -> Result<()> {
        let commit = match number % 2 {
            0 => writer.commit(&[(3, number), (6, number)])?,
            _ => writer.commit_bodies(&[(3, number, 4000), (4, number, 4000), (5, number, 900)])?,
        };
        self.tried = Some(commit.clone());
        writer.log.flush(commit.point.lsn)?;
        self.done.push(commit);
        self.tried = None;
        Ok(())
    }

    /// Every third commit is followed by a checkpoint, amid which another one is made.
    fn go_on(&mut self, writer: &mut Writer, first: u8) -> Result<()> {
        for number in first..first + 9 {
            self.commit(writer, number)?;
            if number % 3 == 0 {
                let start = writer.log.rotate()?;
                self.commit(writer, number + 100)?;
                self.log_start = start;
                writer.log.remove_before(start)?;
            }
        }
        Ok(())
    }

    /// Every commit that was acknowledged is there, and nothing else but the one that was tried.
    fn assert_found(&self, disk: &dyn Disk, at: &str) -> (Vec<Commit>, Scan) {
        let missing = match self.log_start {
            // The first segment may not have been made.
            Lsn::ZERO => MissingLog::MeansClean,
            _ => MissingLog::IsError,
        };
        let (found, scan) = read_from(disk, self.log_start, missing)
            .unwrap_or_else(|error| panic!("{at}: {error}"));
        let after = |commit: &&Commit| commit.point.lsn > self.log_start;
        let mut possible: Vec<Commit> = self.done.iter().filter(after).cloned().collect();
        let acknowledged = possible.len();
        possible.extend(self.tried.clone());
        assert!(found.len() >= acknowledged, "{at}");
        assert!(possible.starts_with(&found), "{at}");
        (found, scan)
    }
}

/// The first incarnation of a story.
fn begin(machine: &SimulatedHost) -> Story {
    let mut story = Story::default();
    let outcome = Writer::start(&machine.host, Vec::new(), 1, Lsn::ZERO, 0)
        .and_then(|writer| story.go_on(&mut writer.reusing(), 1));
    drop(outcome);
    story
}

/// The next one.
fn resume(machine: &SimulatedHost, story: &mut Story, at: &str) {
    let (found, scan) = story.assert_found(&machine.disk, at);
    let newest = found.last().or(story.done.last());
    let newest = newest.map_or(0, |last| last.point.timestamp.0);
    scan.cut_rest();
    scan.sync(&machine.disk, Path::new(DIR)).unwrap();
    let (sealed, sequence) = (scan.sealed(), scan.next_sequence);
    let start = scan.end;
    drop(scan);
    story.done = found;
    story.tried = None;
    let writer = Writer::start(&machine.host, sealed, sequence, start, newest);
    let writer = &mut writer.unwrap().reusing();
    assert!(!is_spare_there(&machine.disk), "{at}: it was removed");
    story.go_on(writer, 40).unwrap();
}

/// W11: whenever the machine or the process stops, a crash finds every acknowledged commit and nothing else; and
/// so does the next one, after an incarnation that used old segments again.
#[test]
fn crashes_amid_segments_that_are_used_again_lose_nothing_and_bring_nothing_back() {
    let machine = Host::simulated(1);
    let whole = begin(&machine);
    assert_eq!(whole.done.len(), 12);
    assert!(is_spare_there(&machine.disk) && is_reused(&machine.disk, 4));
    for number in 5..machine.disk.change_count() {
        for (stop, faults) in [
            ("power off", Faults::power_off_before_change(number)),
            ("kill", Faults::kill_before_change(number)),
        ] {
            let machine = Host::simulated(1);
            machine.disk.set_faults(faults);
            let story = begin(&machine);
            machine.disk.set_faults(Faults::none());
            for seed in 0..6 {
                let at = format!("{stop} {number}, disk {seed}");
                let image = match (stop, seed) {
                    // The last one, since it goes on with the same disk.
                    ("kill", 5) => machine.process_crash(),
                    _ => machine.with_disk(machine.disk.image_after_crash(seed)),
                };
                let names = image.disk.list(Path::new(DIR));
                if names.unwrap_or_default().is_empty() {
                    assert!(story.done.is_empty(), "{at}");
                    continue;
                }
                let mut story = Story {
                    log_start: story.log_start,
                    done: story.done.clone(),
                    tried: story.tried.clone(),
                };
                resume(&image, &mut story, &at);
                for seed in 0..3 {
                    let again = image.disk.image_after_crash(seed);
                    story.assert_found(&again, &format!("{at}, and {seed}"));
                }
            }
        }
    }
}

/// W11, W6: whatever fails while an old segment is made the next one, no commit is lost, and the log goes on.
#[test]
fn failures_amid_the_making_of_a_segment_from_an_old_one_lose_nothing() {
    let fail = |operation| Fault::errno(operation, EIO);
    let plan = |fault: Fault| Faults::none().with(fault);
    let no_remove = || fail(Operation::Remove).times(u64::MAX);
    let plans = [
        ("open", plan(fail(Operation::Open).on("spare"))),
        ("header write", plan(fail(Operation::Write).on("spare"))),
        ("header sync", plan(fail(Operation::SyncData).on("spare"))),
        ("rename", plan(fail(Operation::Rename))),
        ("folder sync", plan(fail(Operation::SyncDir).on("wal"))),
        (
            "header write, and the file stays",
            plan(fail(Operation::Write).on("spare")).with(no_remove()),
        ),
        (
            "folder sync, and the file stays",
            plan(fail(Operation::SyncDir).on("wal")).with(no_remove()),
        ),
    ];
    for (what, plan) in plans {
        let machine = Host::simulated(1);
        let (mut writer, start, second) = with_spare(&machine);
        let mut expected = vec![second];
        machine.disk.set_faults(plan);
        let rotated = writer.log.rotate();
        machine.disk.set_faults(Faults::none());
        // All else is made up for by a new file.
        assert_eq!(
            rotated.is_err(),
            what.starts_with("folder sync"),
            "{what}: {rotated:?}"
        );
        for fill in 3..5 {
            expected.push(writer.large(fill).unwrap());
        }
        let check = |disk: &dyn Disk, expected: &[Commit], at: &str| {
            let read = read_from(disk, start, MissingLog::IsError);
            let (found, _) = read.unwrap_or_else(|error| panic!("{at}: {error}"));
            assert_eq!(found, expected, "{at}");
        };
        for seed in 0..20 {
            let disk = machine.disk.image_after_crash(seed);
            check(&disk, &expected, &format!("{what}, {seed}"));
            if what.starts_with("folder sync") {
                rotation::assert_earlier_builds_pass_over(&disk, 3);
            }
        }
        writer.log.rotate().unwrap();
        expected.push(writer.durable_commit(&[(5, 3)]).unwrap());
        for seed in 0..20 {
            let disk = machine.disk.image_after_crash(seed);
            check(&disk, &expected, &format!("{what}, later, {seed}"));
        }
    }
}

/// W11: a segment that cannot be made, nor be seen to be none, would end the log there.
#[test]
fn segment_that_can_neither_be_made_nor_cut_poisons() {
    let machine = Host::simulated(1);
    let (mut writer, start, second) = with_spare(&machine);
    let plan = Faults::none()
        .with(Fault::errno(Operation::SyncDir, EIO))
        .with(Fault::errno(Operation::SetLen, EIO).times(u64::MAX));
    machine.disk.set_faults(plan);
    writer.log.rotate().unwrap_err();
    machine.disk.set_faults(Faults::none());
    append::assert_poisoned(&mut writer);
    for seed in 0..20 {
        let disk = machine.disk.image_after_crash(seed);
        let (found, _) = read_from(&disk, start, MissingLog::IsError).unwrap();
        assert_eq!(found, std::slice::from_ref(&second), "{seed}");
    }
}

/// W1, W11: a failed append takes the rest of the old segment along.
#[test]
fn failed_append_over_old_records_leaves_nothing() {
    let machine = Host::simulated(1);
    let (mut writer, _, _) = with_spare(&machine);
    let start = writer.checkpoint().unwrap();
    let mut expected = vec![writer.durable_commit(&[(3, 1)]).unwrap()];
    let end = writer.log.end();
    let plan = Faults::none()
        .with(Fault::short_write(300))
        .with(Fault::errno(Operation::Write, EIO).after(1));
    machine.disk.set_faults(plan);
    writer.commit(&[(3, 2), (4, 2)]).unwrap_err();
    machine.disk.set_faults(Faults::none());
    let path = segment_path(3);
    assert_eq!(file_len(&machine.disk, &path), 512 + end.0 - start.0);
    expected.push(writer.durable_commit(&[(5, 5)]).unwrap());
    for seed in 0..20 {
        let disk = machine.disk.image_after_crash(seed);
        let (found, _) = read_from(&disk, start, MissingLog::IsError).unwrap();
        assert_eq!(found, expected);
    }
}

/// W10, W11: what is left of the old segment goes before the next one is made.
#[test]
fn segment_that_was_an_old_one_is_sealed_with_its_exact_length() {
    let machine = Host::simulated(1);
    let (mut writer, _, _) = with_spare(&machine);
    let start = writer.checkpoint().unwrap();
    writer.durable_commit(&[(3, 1)]).unwrap();
    let next = writer.log.rotate().unwrap();
    for seed in 0..10 {
        let disk = machine.disk.image_after_crash(seed);
        let sealed = file_len(&disk, &segment_path(3));
        assert_eq!(sealed, 512 + next.0 - start.0);
    }
}

/// W11: what somebody may read goes as ever: log of an earlier incarnation, and log where there is an archive.
#[test]
fn segment_that_somebody_may_read_is_not_used_again() {
    let machine = Host::simulated(1);
    Writer::new(&machine.host).large(1).unwrap();
    let (writer, _) = Writer::reopen(&machine.host).unwrap();
    let mut writer = writer.reusing();
    writer.checkpoint().unwrap();
    assert!(!is_spare_there(&machine.disk), "an earlier incarnation's");
    writer.large(2).unwrap();
    writer.checkpoint().unwrap();
    assert!(is_spare_there(&machine.disk));

    let archive = |archived| {
        let cursor = ArchiveCursor {
            database: DATABASE,
            history: HISTORY,
            archived,
            wall_ns: 0,
        };
        cursor
            .write(&machine.host, Path::new("/"), [1; 16])
            .unwrap();
    };
    let options = EngineOptions::default();
    writer.log = writer.log.kept_for_archives(Path::new("/"), &options);
    writer.large(3).unwrap();
    archive(writer.log.end());
    writer.checkpoint().unwrap();
    assert!(!is_spare_there(&machine.disk), "there is an archive");
}

/// The spare is a part of the log's space, is bounded, and goes where there is none.
#[test]
fn spare_is_bounded_counted_and_given_back() {
    let machine = Host::simulated(1);
    let (mut writer, _, _) = with_spare(&machine);
    let on_disk = |writer: &Writer| {
        let paths = segment_paths(&machine.disk);
        let sizes = paths.iter().map(|path| file_len(&machine.disk, path));
        // Zeros ahead do not count.
        let end = writer.log.end().0;
        (sizes.sum::<u64>(), end)
    };
    writer.checkpoint().unwrap();
    let (bytes, _) = on_disk(&writer);
    assert_eq!(writer.log.bytes(), bytes);
    writer.large(4).unwrap();
    writer.checkpoint().unwrap();
    assert_eq!(segment_paths(&machine.disk).len(), 2);
    let before = writer.log.bytes();
    assert!(writer.log.shed_kept(), "there was a spare");
    assert!(writer.log.bytes() < before && !is_spare_there(&machine.disk));
    assert!(!writer.log.shed_kept());
    writer.large(5).unwrap();
    writer.checkpoint().unwrap();
    assert!(!is_spare_there(&machine.disk), "the disk was full");

    let machine = Host::simulated(2);
    let mut writer = Writer::new(&machine.host).reusing();
    let small = |checkpoint_bytes| EngineOptions {
        checkpoint_bytes,
        ..EngineOptions::default()
    };
    writer.log = writer.log.with_spare(&small(10_000));
    writer.large(1).unwrap();
    writer.checkpoint().unwrap();
    assert_eq!(writer.log.bytes(), 512, "a shorter one saves nothing");
    writer.log = writer.log.with_spare(&small(18_000));
    writer.large(2).unwrap();
    writer.checkpoint().unwrap();
    assert_eq!(writer.log.bytes(), 512 + 9000, "it was cut");
    assert_eq!(writer.log.reusable_bytes(), 9000);
    let start = writer.checkpoint().unwrap();
    assert_eq!(writer.log.bytes(), 9000);
    let second = writer.large(3).unwrap();
    let found = read_from(&machine.disk, start, MissingLog::IsError);
    assert_eq!(found.unwrap().0, [second]);
}

/// A killed engine leaves its spare, and so does a copy: the next open removes it, whatever it is.
#[test]
fn spare_that_was_left_is_removed_and_foreign_things_are_in_nobodys_way() {
    let machine = Host::simulated(1);
    let (mut writer, _, _) = with_spare(&machine);
    let start = writer.checkpoint().unwrap();
    let commit = writer.durable_commit(&[(3, 3)]).unwrap();
    for content in [None, Some(&b""[..]), Some(&[7; 9000])] {
        let machine = machine.with_disk(machine.disk.image_after_crash(1));
        if let Some(content) = content {
            set_file(&machine.disk, &spare_path(), content);
        }
        assert!(is_spare_there(&machine.disk));
        let read = read_from(&machine.disk, start, MissingLog::IsError);
        let (found, scan) = read.unwrap();
        assert_eq!(found, std::slice::from_ref(&commit));
        let (sealed, sequence) = (scan.sealed(), scan.next_sequence);
        Writer::start(&machine.host, sealed, sequence, scan.end, 3).unwrap();
        assert!(!is_spare_there(&machine.disk));
        // Nor does it keep the folder from being made anew where it holds no segment (W6).
        for path in segment_paths(&machine.disk) {
            machine.disk.remove(&path).unwrap();
        }
        set_file(&machine.disk, &spare_path(), b"");
        let made = machine.disk.count(Operation::Remove);
        Writer::start(&machine.host, Vec::new(), 1, Lsn::ZERO, 0).unwrap();
        assert_eq!(machine.disk.count(Operation::Remove), made + 2);
        assert_eq!(segment_paths(&machine.disk), [segment_path(1)]);
    }
    let machine = Host::simulated(3);
    machine.disk.create_dir(Path::new(DIR)).unwrap();
    machine.disk.create_dir(&spare_path()).unwrap();
    let mut writer = Writer::new(&machine.host).reusing();
    let mut expected = Vec::new();
    for fill in 1..4 {
        expected.push(writer.large(fill).unwrap());
        writer.checkpoint().unwrap();
        assert_eq!(segment_paths(&machine.disk).len(), 2);
    }
}

/// Makes other segments of those that are there, amid the first read of records.
#[derive(Debug)]
struct Amid(parking_lot::Mutex<Option<Writer>>);

impl Watch for Amid {
    fn read(&self, bytes: usize, _file_bytes: u64) {
        let writer = self.0.lock().take_if(|_| bytes > 512);
        if let Some(mut writer) = writer {
            writer.checkpoint().unwrap();
            writer.large(2).unwrap();
            writer.checkpoint().unwrap();
            writer.large(3).unwrap();
        }
    }
}

/// LA1, W11: who reads a segment while it is made another one hears that it is gone, and takes nothing else for it.
#[test]
fn reader_of_a_segment_that_becomes_another_one_hears_of_it() {
    for is_checked in [true, false] {
        let read = |segment: &LogSegment, disk: &dyn Disk| match is_checked {
            true => segment.read(disk, Lsn::ZERO, 600).map(drop),
            false => segment.read_bytes(disk, Lsn::ZERO, Lsn(9000)).map(drop),
        };
        let machine = Host::simulated(1);
        let mut writer = Writer::new(&machine.host).reusing();
        writer.large(1).unwrap();
        let (ids, end) = ((DATABASE, HISTORY), writer.log.end());
        let listed = durable_segments(&machine.disk, Path::new(DIR), ids, page_size(), end);
        let listed = &listed.unwrap()[0];
        read(listed, &machine.disk).unwrap();
        let amid = Arc::new(Amid(parking_lot::Mutex::new(Some(writer))));
        let held = watched(&machine.host, amid);
        let gone = read(listed, &*held.disk).unwrap_err();
        let EngineError::Io { source, .. } = &gone else {
            panic!("{gone}");
        };
        assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        assert!(is_reused(&machine.disk, 3));
    }
}

/// BK12: the mark changes with every commit, whatever lies behind the end of the log.
#[test]
fn every_commit_into_an_old_segment_changes_the_mark() {
    let machine = Host::simulated(1);
    let (mut writer, _, _) = with_spare(&machine);
    for fill in 0..40 {
        writer.large(fill).unwrap();
    }
    let mark = || write_mark(&machine.disk, Path::new(DIR)).unwrap();
    let mut marks = vec![mark()];
    writer.checkpoint().unwrap();
    writer.large(1).unwrap();
    writer.checkpoint().unwrap();
    assert!(file_len(&machine.disk, &segment_path(4)) > 300_000);
    for fill in 0..60 {
        marks.push(mark());
        assert_eq!(marks.last(), Some(&mark()));
        match fill % 3 {
            0 => writer.large(fill).unwrap(),
            _ => writer.durable_commit(&[(3, fill)]).unwrap(),
        };
    }
    let all = marks.len();
    marks.sort_unstable();
    marks.dedup();
    assert_eq!(marks.len(), all);
}
