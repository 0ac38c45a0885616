//! Logs that lie, that lack something, and that do not fit into memory. What is right is held against a model
//! in `repository::restore`.
#![allow(clippy::cast_possible_truncation)]

use std::sync::atomic::{AtomicU64, Ordering as Atomic};

use super::*;
use crate::engine::page_io::FreeList;
use crate::engine::wal::{
    LOG_DIR, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, push_record, whole_records,
};
use crate::engine::{Engine, EngineOptions, PAGE_FILE};
use crate::id::DatabaseId;
use crate::os::{Host, OpenMode, SimulatedHost};
use crate::page::{PageBuf, PageKind, PageSize};

const DIR: &str = "/db";
const NEW: &str = "/new";

/// A database that made some commits: its page file before them, its log, and its page file after them.
struct Past {
    machine: SimulatedHost,
    base: Vec<u8>,
    segment: SegmentHeader,
    log: Vec<u8>,
    commits: Vec<CommitPoint>,
    newest: Vec<u8>,
}

fn bytes_of(machine: &SimulatedHost, path: &str) -> Vec<u8> {
    let file = machine
        .host
        .disk
        .open(Path::new(path), OpenMode::Read)
        .unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    os::read_exact_at(&*file, &mut bytes, 0).unwrap();
    bytes
}

fn view(engine: &Engine) -> Vec<u8> {
    let read = engine.begin_read();
    let point = read.snapshot().point();
    let header = engine.header().of_view(point);
    let copies = [header.encode(PageNo(0)), header.encode(PageNo(1))];
    let mut bytes = [&copies[0][..], &copies[1]].concat();
    for page in 2..point.page_count {
        bytes.extend_from_slice(&read.snapshot().page(PageNo(page)).unwrap());
    }
    bytes
}

impl Past {
    fn new(commits: usize, value_bytes: usize) -> Self {
        let machine = Host::simulated(9);
        let options = EngineOptions {
            page_size: PageSize::new(4096).unwrap(),
            checkpoint_bytes: u64::MAX,
            ..EngineOptions::default()
        };
        let engine = Engine::open(&machine.host, Path::new(DIR), &options, None).unwrap();
        let base = view(&engine);
        for number in 0..commits {
            let mut write = engine.begin_write().unwrap();
            write
                .put(
                    "t",
                    &[number as u8 % 3],
                    &vec![1 + number as u8; value_bytes],
                )
                .unwrap();
            write.commit().unwrap();
        }
        let newest = view(&engine);
        let names = machine
            .host
            .disk
            .list(&Path::new(DIR).join(LOG_DIR))
            .unwrap();
        let [name] = names.as_slice() else {
            panic!("{names:?}")
        };
        let path = Path::new(DIR).join(LOG_DIR).join(name);
        let mut log = bytes_of(&machine, path.to_str().unwrap());
        let segment = SegmentHeader::decode(&log).unwrap().unwrap();
        log.drain(..SEGMENT_HEADER_BYTES);
        let (whole, commits) = whole_records(&segment, segment.start, &log, usize::MAX);
        log.truncate(whole);
        Self {
            machine,
            base,
            segment,
            log,
            commits,
            newest,
        }
    }

    /// The parts of the log between these positions, each of a whole number of records.
    fn parts(&self, limit: usize) -> Vec<LogPart> {
        let mut at = 0;
        let mut parts = Vec::new();
        while at < self.log.len() {
            let first = Lsn(self.segment.start.0 + at as u64);
            let (count, _) = whole_records(&self.segment, first, &self.log[at..], limit);
            parts.push(self.part(first, self.log[at..at + count].to_vec()).unwrap());
            at += count;
        }
        parts
    }

    fn part(&self, first: Lsn, bytes: Vec<u8>) -> Result<LogPart> {
        LogPart::check(&self.segment.encode(), first, bytes)
    }

    fn last(&self) -> ReplayTarget {
        ReplayTarget::Timestamp(self.commits.last().unwrap().timestamp)
    }

    fn file(&self) -> Arc<dyn File> {
        let disk = &self.machine.host.disk;
        let path = Path::new(NEW);
        let _ = disk.remove(path);
        let file = disk.open(path, OpenMode::CreateNew).unwrap();
        os::write_all_at(&*file, &self.base, 0).unwrap();
        file
    }

    fn replay(&self, target: ReplayTarget, parts: &[LogPart]) -> Result<Replayed> {
        self.replay_into(&*self.file(), target, parts)
    }

    fn replay_into(
        &self,
        file: &dyn File,
        target: ReplayTarget,
        parts: &[LogPart],
    ) -> Result<Replayed> {
        let disk = &self.machine.host.disk;
        let scratch = || disk.unnamed(Path::new("/"));
        let room = ReplayRoom {
            cache_bytes: 0,
            scratch: &scratch,
        };
        let mut replay = Replay::begin(file, Path::new(PAGE_FILE), target, room)?;
        for part in parts {
            replay.apply(part, self.segment.history, Lsn::MAX)?;
        }
        replay.finish(Proof::ReadBack)
    }

    /// A log that says what it likes, with the right checksums.
    fn forged(&self, records: &[(RecordKind, Vec<u8>)]) -> LogPart {
        let (start, salt) = (self.segment.start.0, self.segment.salt);
        let mut bytes = Vec::new();
        for (kind, payload) in records {
            let at = Lsn(start + bytes.len() as u64);
            push_record(&mut bytes, salt, at, *kind, payload);
        }
        self.part(self.segment.start, bytes).unwrap()
    }

    fn commit_after_base(&self, change: impl FnOnce(&mut CommitRecord)) -> Vec<u8> {
        let base = header_of(&self.base).point;
        let mut commit = CommitRecord {
            timestamp: base.timestamp.next().unwrap(),
            wall_ns: base.wall_ns + 1,
            synced: Lsn::ZERO,
            page_count: base.page_count,
            free: base.free,
        };
        change(&mut commit);
        commit.encode().to_vec()
    }

    /// RP4: whatever was tried, the headers are those of before.
    #[track_caller]
    fn refuses(&self, parts: &[LogPart], wanted: &str) {
        let file = self.file();
        let target = ReplayTarget::Timestamp(Timestamp(1));
        let error = self
            .replay_into(&*file, target, parts)
            .unwrap_err()
            .to_string();
        assert!(error.contains(wanted), "{error}");
        let mut header = vec![0; 8192];
        os::read_exact_at(&*file, &mut header, 0).unwrap();
        assert_eq!(header, self.base[..8192]);
    }
}

fn header_of(bytes: &[u8]) -> Header {
    Header::decode(bytes).unwrap()
}

fn image(page: PageNo, lsn: Lsn) -> Vec<u8> {
    let mut image = PageBuf::formatted(PageSize::new(4096).unwrap(), page, PageKind::Free);
    image.seal(lsn);
    [&page.0.to_le_bytes(), &[0; 8], &image[..]].concat()
}

/// RP1: no bit of a log can be turned unseen, and no cut within a record; what has no meaning, between two
/// records, changes nothing.
#[test]
fn turned_bits_and_cuts_are_found() {
    let past = Past::new(6, 300);
    let start = past.segment.start;
    for at in (0..past.log.len()).step_by(5) {
        let mut log = past.log.clone();
        log[at] ^= 1 << (at % 8);
        let Ok(part) = past.part(start, log) else {
            continue;
        };
        let file = past.file();
        past.replay_into(&*file, past.last(), &[part]).unwrap();
        assert!(bytes_of(&past.machine, NEW) == past.newest, "byte {at}");
    }
    for cut in (1..past.log.len()).step_by(3) {
        let log = past.log[..cut].to_vec();
        let (whole, _) = whole_records(&past.segment, start, &log, usize::MAX);
        assert_eq!(past.part(start, log).is_ok(), whole == cut, "cut at {cut}");
    }
    for at in 0..SEGMENT_HEADER_BYTES {
        let mut segment = past.segment.encode();
        segment[at] ^= 4;
        assert!(
            LogPart::check(&segment, start, past.log.clone()).is_err(),
            "byte {at}"
        );
    }
}

/// RP1: another database's log, another history's, or one of other pages is none of ours.
#[test]
fn foreign_logs_are_refused() {
    let past = Past::new(2, 10);
    let refused = |change: &dyn Fn(&mut SegmentHeader), wanted: &str| {
        let mut other = Past::new(0, 0);
        other.segment = past.segment.clone();
        change(&mut other.segment);
        let part = other.forged(&[(RecordKind::Commit, past.commit_after_base(|_| {}))]);
        past.refuses(&[part], wanted);
    };
    refused(
        &|header| header.database = DatabaseId([5; 16]),
        "belongs to database",
    );
    refused(
        &|header| header.history = HistoryId([5; 16]),
        "belongs to history",
    );
    refused(&|header| header.page_size = 8192, "page size");
}

/// RP2, RP3: records whose checksums are right and that say what cannot be.
#[test]
fn records_that_lie_are_refused() {
    let past = Past::new(3, 500);
    let count = header_of(&past.base).point.page_count;
    let commit_with = |change: &dyn Fn(&mut CommitRecord)| {
        past.forged(&[(RecordKind::Commit, past.commit_after_base(change))])
    };
    let refused =
        |change: &dyn Fn(&mut CommitRecord), wanted| past.refuses(&[commit_with(change)], wanted);
    refused(&|commit| commit.timestamp = Timestamp(2), "timestamp is 2");
    refused(&|commit| commit.timestamp = Timestamp(0), "timestamp is 0");
    refused(&|commit| commit.wall_ns = 5, "wall clock is 5");
    refused(&|commit| commit.page_count = 1 << 50, "page count");
    refused(&|commit| commit.page_count += 1, "page count");
    refused(&|commit| commit.page_count -= 1, "page count");
    let list = FreeList {
        head: PageNo(1 << 40),
        count: 1,
    };
    refused(&|commit| commit.free = list, "free list");

    let with_page = |kind, payload: Vec<u8>| {
        past.forged(&[
            (kind, payload),
            (RecordKind::Commit, past.commit_after_base(|_| {})),
        ])
    };
    let refused = |kind, payload, wanted| past.refuses(&[with_page(kind, payload)], wanted);
    for page in [0, 1, count, u64::MAX] {
        refused(
            RecordKind::PageImage,
            image(PageNo(page), Lsn(1)),
            "page is",
        );
    }
    refused(RecordKind::PageImage, image(PageNo(2), Lsn(1)), "not valid");
    refused(RecordKind::PageImage, Vec::new(), "page is 0");
    refused(
        RecordKind::PageImage,
        image(PageNo(2), Lsn(1))[..900].to_vec(),
        "image length",
    );
    let delta = |page: u64, base: u64, ranges: u32, more: &[u8]| {
        let fields = [
            &page.to_le_bytes()[..],
            &base.to_le_bytes(),
            &[7; 4],
            &ranges.to_le_bytes(),
        ];
        [&fields.concat(), more].concat()
    };
    refused(RecordKind::PageDelta, delta(2, 99, 0, &[]), "does not fit");
    refused(RecordKind::PageDelta, delta(2, 0, 0, &[]), "does not fit");
    refused(
        RecordKind::PageDelta,
        delta(2, 0, u32::MAX, &[]),
        "delta length",
    );
    refused(RecordKind::PageDelta, delta(2, 0, 1, &[0xff; 8]), "delta");
}

/// RP2: what is missing is missed, at the start, in a commit, and at the end (RP5); parts that come twice
/// change nothing.
#[test]
fn missing_parts_are_missed_and_double_ones_passed_over() {
    let past = Past::new(8, 6000);
    let count = past.parts(4500).len();
    assert!(count > 12);
    for missing in 0..count {
        let mut parts = past.parts(4500);
        parts.remove(missing);
        let error = past.replay(past.last(), &parts).unwrap_err();
        assert!(
            matches!(error, EngineError::Log { .. }),
            "without {missing}: {error}"
        );
    }
    let parts: Vec<LogPart> = past
        .parts(4500)
        .into_iter()
        .chain(past.parts(9000))
        .collect();
    past.replay(past.last(), &parts).unwrap();
    assert!(bytes_of(&past.machine, NEW) == past.newest);
    let beyond = ReplayTarget::Timestamp(Timestamp(9));
    let error = past.replay(beyond, &parts).unwrap_err().to_string();
    assert!(error.contains("nearest is number 8"), "{error}");
}

/// RP2: a log that has another commit where the page file stands is of another past.
#[test]
fn the_log_of_another_past_is_refused() {
    let mut past = Past::new(5, 700);
    let middle = past.commits[2];
    let target = ReplayTarget::Timestamp(middle.timestamp);
    past.replay(target, &past.parts(usize::MAX)).unwrap();
    past.base = bytes_of(&past.machine, NEW);
    past.replay(past.last(), &past.parts(usize::MAX)).unwrap();
    assert!(bytes_of(&past.machine, NEW) == past.newest);

    let mut other = header_of(&past.base);
    other.point.wall_ns += 1;
    for page in [0, 1] {
        let at = page as usize * 4096;
        past.base[at..at + 4096].copy_from_slice(&other.encode(PageNo(page)));
    }
    let error = past
        .replay(past.last(), &past.parts(usize::MAX))
        .unwrap_err();
    assert!(
        error.to_string().contains("not the one of the page file"),
        "{error}"
    );
    let before = ReplayTarget::Lsn(past.commits[1].lsn);
    assert!(
        past.replay(before, &[]).is_err(),
        "the page file is after it"
    );
}

/// RP2: so is one that is in the middle of a commit where the one of the page file ends.
#[test]
fn the_log_of_another_past_is_refused_in_the_middle_of_its_commit() {
    let mut past = Past::new(5, 700);
    let middle = past.commits[2];
    let target = ReplayTarget::Timestamp(middle.timestamp);
    past.replay(target, &past.parts(usize::MAX)).unwrap();
    past.base = bytes_of(&past.machine, NEW);
    let before = (middle.lsn.0 - past.segment.start.0) as usize - RECORD_HEADER_BYTES;
    let target = ReplayTarget::Timestamp(middle.timestamp.next().unwrap());
    for kind in [RecordKind::PageImage, RecordKind::PageSummary] {
        let part = past.forged(&[
            (kind, vec![0; before]),
            (RecordKind::Commit, past.commit_after_base(|_| {})),
        ]);
        let error = past.replay(target, &[part]).unwrap_err().to_string();
        let wanted = "not the commit of the page file";
        assert!(error.contains(wanted), "{error}");
    }
}

/// A commit that is larger than what is carried in memory goes through a file, whatever parts it comes in.
#[test]
fn commit_that_is_larger_than_memory_is_replayed() {
    let past = Past::new(2, 9 << 20);
    let parts = past.parts(1 << 20);
    assert!(parts.len() > 12);
    let replayed = past.replay(past.last(), &parts).unwrap();
    assert_eq!(replayed.commits, 2);
    assert!(bytes_of(&past.machine, NEW) == past.newest);
}

/// A file whose write of that number gets lost though it succeeds.
#[derive(Debug)]
struct Forgetful {
    inner: Arc<dyn File>,
    writes: AtomicU64,
    forgotten: u64,
}

impl File for Forgetful {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(out, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self.writes.fetch_add(1, Atomic::Relaxed) == self.forgotten {
            true => Ok(bytes.len()),
            false => self.inner.write_at(bytes, offset),
        }
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn identity(&self) -> io::Result<os::FileIdentity> {
        self.inner.identity()
    }
    fn try_lock(&self, kind: os::LockKind) -> io::Result<bool> {
        self.inner.try_lock(kind)
    }
    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

/// RP4: a write of a page that the disk lost, and said nothing of, is found before the result counts.
#[test]
fn pages_that_the_disk_forgets_are_found() {
    let past = Past::new(30, 40_000);
    let parts = past.parts(60_000);
    let forgetful = |forgotten| Forgetful {
        inner: past.file(),
        writes: AtomicU64::new(0),
        forgotten,
    };
    let honest = forgetful(u64::MAX);
    past.replay_into(&honest, past.last(), &parts).unwrap();
    let writes = honest.writes.load(Atomic::Relaxed);
    assert!(writes > 6);
    let (mut found, mut written_again) = (0, 0);
    // The last two are the headers.
    for forgotten in 0..writes - 2 {
        let file = forgetful(forgotten);
        match past.replay_into(&file, past.last(), &parts) {
            Err(_) => found += 1,
            Ok(_) => {
                assert!(
                    bytes_of(&past.machine, NEW) == past.newest,
                    "write {forgotten}"
                );
                written_again += 1;
            }
        }
    }
    assert!(found > 0, "{found} found, {written_again} written again");
}

/// RP1: lengths that a record claims are not believed.
#[test]
fn lengths_that_lie_are_refused() {
    let past = Past::new(1, 10);
    for length in [0, 1, 40, 1 << 20, u32::MAX] {
        let mut log = past.log.clone();
        log[4..8].copy_from_slice(&length.to_le_bytes());
        assert!(past.part(past.segment.start, log).is_err(), "{length}");
    }
    assert!(
        past.part(past.segment.start, vec![0; RECORD_HEADER_BYTES - 1])
            .is_err()
    );
    assert!(past.part(Lsn(u64::MAX), past.log.clone()).is_err());
    assert!(past.part(past.segment.start, Vec::new()).is_ok());
}
