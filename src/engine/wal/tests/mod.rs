//! The log against disks that lose, damage, refuse and take their time.
#![allow(clippy::cast_possible_truncation)]

mod append;
mod changes;
mod codec;
mod crash;
mod damage;
mod faults;
mod flush;
mod foreign;
mod names;
mod reserve;
mod rest;
mod rotation;
mod spare;
mod tail;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{LogFault, Result};
use crate::engine::page_io::FreeList;
use crate::engine::wal::record::push_record;
use crate::engine::wal::segment::segment_name;
use crate::engine::wal::*;
use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::{Lsn, Timestamp};
use crate::os::{Disk, Host, OpenMode, read_exact_at, write_all_at};
use crate::page::{PageBuf, PageKind, PageNo, PageSize};

const DIR: &str = "/wal";
const DATABASE: DatabaseId = DatabaseId([1; 16]);
const HISTORY: HistoryId = HistoryId([2; 16]);
const ENOSPC: i32 = libc::ENOSPC;
const EIO: i32 = libc::EIO;

fn page_size() -> PageSize {
    PageSize::new(4096).unwrap()
}

/// Of an incarnation of its own.
fn identity() -> LogIdentity {
    static EPOCHS: AtomicU64 = AtomicU64::new(1);
    LogIdentity {
        database: DATABASE,
        history: HISTORY,
        epoch: Epoch(EPOCHS.fetch_add(1, Ordering::Relaxed)),
        page_size: page_size(),
    }
}

/// A leaf with a few bytes in its body, so that its record is short.
fn page(number: u64, fill: u8, body_bytes: usize) -> PageBuf {
    let mut page = PageBuf::formatted(page_size(), PageNo(number), PageKind::Leaf);
    page[32..32 + body_bytes].fill(fill);
    page
}

/// A commit: as it was made, or as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Commit {
    point: CommitPoint,
    pages: Vec<(PageNo, PageBuf)>,
}

/// Writes commits as the engine does, by one thread.
#[derive(Debug)]
struct Writer {
    log: Log,
    newest: u64,
}

impl Writer {
    /// Starts the log of a new database.
    fn new(host: &Host) -> Self {
        Self::start(host, Vec::new(), 1, Lsn::ZERO, 0).unwrap()
    }

    fn start(
        host: &Host,
        sealed: Vec<SealedSegment>,
        sequence: u64,
        start: Lsn,
        newest: u64,
    ) -> Result<Self> {
        let log = Log::start(host, Path::new(DIR), identity(), sealed, sequence, start)?;
        Ok(Self { log, newest })
    }

    /// Goes on after what is on the disk, as an open does.
    fn reopen(host: &Host) -> Result<(Self, Vec<Commit>)> {
        let (commits, scan) = read_all(&*host.disk)?;
        scan.cut_rest();
        scan.sync(&*host.disk, Path::new(DIR))?;
        let newest = commits.last().map_or(0, |last| last.point.timestamp.0);
        let (sealed, sequence) = (scan.sealed(), scan.next_sequence);
        let writer = Self::start(host, sealed, sequence, scan.end, newest)?;
        Ok((writer, commits))
    }

    /// Appends a commit of these pages, in which 64 bytes of the body are filled.
    fn commit(&mut self, pages: &[(u64, u8)]) -> Result<Commit> {
        let pages = pages.iter().map(|&(number, fill)| (number, fill, 64));
        self.commit_bodies(&pages.collect::<Vec<_>>())
    }

    /// Appends a commit of these pages: number, filling, filled bytes.
    fn commit_bodies(&mut self, pages: &[(u64, u8, usize)]) -> Result<Commit> {
        let pages = pages.iter().map(|&(number, fill, bytes)| {
            let image = page(number, fill, bytes);
            (PageNo(number), image)
        });
        let mut pages: Vec<_> = pages.collect();
        let mut changes: Vec<_> = pages.iter_mut().map(full_image).collect();
        let fields = fields(self.newest + 1, self.log.durable());
        let (records, point) =
            encode_commit(&mut changes, &fields, self.log.end(), self.log.salt());
        append(&self.log, &records, pages.iter().map(|(number, _)| *number))?;
        self.newest += 1;
        Ok(Commit { point, pages })
    }

    /// A commit that is acknowledged.
    fn durable_commit(&mut self, pages: &[(u64, u8)]) -> Result<Commit> {
        let commit = self.commit(pages)?;
        self.log.flush(commit.point.lsn)?;
        Ok(commit)
    }
}

/// One page of a commit.
#[derive(Debug)]
struct PageChange<'a> {
    page: PageNo,
    /// The committed image that a delta may refer to; `None` asks for a full image.
    before: Option<&'a PageBuf>,
    after: &'a mut PageBuf,
}

/// Seals the pages and encodes a commit as it stands in the log from `start` on.
fn encode_commit(
    changes: &mut [PageChange<'_>],
    record: &CommitRecord,
    start: Lsn,
    salt: u64,
) -> (Vec<u8>, CommitPoint) {
    let forms: Vec<Form> = changes
        .iter()
        .map(|change| Form::of(change.before, change.after, Extent::Anywhere))
        .collect();
    let pages = forms.iter().zip(changes.iter());
    let bytes: u64 = pages
        .map(|(form, change)| form.record_bytes(change.after.len()))
        .sum();
    let end = Lsn(start.0 + bytes + commit_record_bytes());
    let mut out = Vec::new();
    for (change, form) in changes.iter_mut().zip(&forms) {
        change.after.seal(end);
        let (kind, payload) = form.encode(change.page, change.after);
        let at = Lsn(start.0 + out.len() as u64);
        push_record(&mut out, salt, at, kind, &payload);
    }
    let at = Lsn(start.0 + out.len() as u64);
    push_record(&mut out, salt, at, RecordKind::Commit, &record.encode());
    assert_eq!(start.0 + out.len() as u64, end.0);
    (out, record.point(end))
}

/// Appends whole records, which touch `pages`.
fn append(log: &Log, records: &[u8], pages: impl IntoIterator<Item = PageNo>) -> Result<Lsn> {
    let mut appending = log.begin_append(records.len() as u64)?;
    appending.push_framed(records);
    appending.finish(pages, 0)
}

fn full_image((number, after): &mut (PageNo, PageBuf)) -> PageChange<'_> {
    PageChange {
        page: *number,
        before: None,
        after,
    }
}

fn fields(timestamp: u64, synced: Lsn) -> CommitRecord {
    CommitRecord {
        timestamp: Timestamp(timestamp),
        wall_ns: 1000 + timestamp,
        synced,
        page_count: 100,
        free: FreeList::default(),
    }
}

/// What the log on `disk` holds from `from` on.
fn read_from(disk: &dyn Disk, from: Lsn, missing: MissingLog) -> Result<(Vec<Commit>, Scan)> {
    let mut found: Vec<(CommitPoint, Vec<ScannedPage>)> = Vec::new();
    let ids = (DATABASE, HISTORY);
    let dir = Path::new(DIR);
    let scan = scan(disk, dir, ids, page_size(), from, missing, &mut |commit| {
        found.push((commit.point, commit.pages.to_vec()));
        Ok(())
    })?;
    let mut commits = Vec::new();
    for (point, scanned) in found {
        let mut pages = Vec::new();
        for page in scanned {
            let payload = scan.read_page(page.position)?;
            assert!(payload.is_image, "only images are written here");
            let image = decode_image(&payload.bytes, page_size()).unwrap();
            pages.push((page.page, image));
        }
        commits.push(Commit { point, pages });
    }
    Ok((commits, scan))
}

/// What the log on `disk` holds, from the beginning.
fn read_all(disk: &dyn Disk) -> Result<(Vec<Commit>, Scan)> {
    read_from(disk, Lsn::ZERO, MissingLog::IsError)
}

/// The commits on `disk`.
fn commits(disk: &dyn Disk) -> Vec<Commit> {
    read_all(disk).unwrap().0
}

fn segment_path(sequence: u64) -> PathBuf {
    Path::new(DIR).join(segment_name(sequence))
}

fn segment_paths(disk: &dyn Disk) -> Vec<PathBuf> {
    let names = disk.list(Path::new(DIR)).unwrap();
    names.iter().map(|name| Path::new(DIR).join(name)).collect()
}

fn file_bytes(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    read_exact_at(&*file, &mut bytes, 0).unwrap();
    bytes
}

/// Makes `bytes` the content of the file, which is made if need be.
fn set_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    let file = disk
        .open(path, OpenMode::ReadWrite)
        .or_else(|_| disk.open(path, OpenMode::CreateNew))
        .unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    write_all_at(&*file, bytes, 0).unwrap();
}

/// The fault that a scan ends with.
fn log_fault(result: Result<(Vec<Commit>, Scan)>) -> LogFault {
    match result {
        Err(crate::engine::error::EngineError::Log { fault, .. }) => fault,
        Err(other) => panic!("another error: {other}"),
        Ok((commits, _)) => panic!("{} commits and no error", commits.len()),
    }
}
