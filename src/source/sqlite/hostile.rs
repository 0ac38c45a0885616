//! For tests and fuzzers: a database in WAL mode whose three files are bytes of a stranger's choice, in
//! use by somebody who heeds locks, pinned and read to its end.

#![allow(clippy::disallowed_methods)]

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::os::range_lock::try_lock;
use crate::os::{Host, LockKind, OpenMode};
use crate::source::sqlite::format::{
    Checksum, FRAME_HEADER_BYTES, INDEX_HEADER_BYTES, IndexHeader, WAL_HEADER_BYTES, WalHeader,
};
use crate::source::sqlite::lock_bytes::DEAD_MAN;
use crate::source::sqlite::media_prepared::MediaPrepared;
use crate::source::sqlite::{Prepared, recognise};
use crate::source::{Recovery, SourceError, SqliteOptions};
use crate::view::tree::{RangeRead, ReadError};

/// The most that is read of a view.
const READ_BYTES_MAX: u64 = 1 << 20;

/// The files of a database.
#[derive(Clone, Debug, Default)]
pub struct Bytes {
    /// The database file.
    pub database: Vec<u8>,
    /// The log.
    pub log: Vec<u8>,
    /// The index.
    pub index: Vec<u8>,
}

impl Bytes {
    /// Makes every checksum right, and the last frame that of the index, so that nothing else stops a
    /// reader.
    pub fn mend(&mut self) {
        let frames = self.mend_log();
        if let Some(start) = self.index.get_mut(..2 * INDEX_HEADER_BYTES) {
            let frame_count = start.get(16..20).map_or(0, native);
            let last = usize::try_from(frame_count).unwrap_or(0).checked_sub(1);
            if let Some(checksum) = last.and_then(|last| frames.get(last)) {
                put(start, 24, &checksum.native_bytes());
            }
            let checksum = Checksum::default().add_native(&start[..40]);
            put(start, 40, &checksum.native_bytes());
            let (first, second) = start.split_at_mut(INDEX_HEADER_BYTES);
            second.copy_from_slice(first);
        }
    }

    /// Gives the checksum up to each frame.
    fn mend_log(&mut self) -> Vec<Checksum> {
        let mut sums = Vec::new();
        let Some((head, frames)) = self.log.split_at_mut_checked(WAL_HEADER_BYTES) else {
            return sums;
        };
        let Some((order, page_bytes)) = WalHeader::mend(head) else {
            return sums;
        };
        let mut sum = Checksum::default().add(order, &head[..24]);
        for frame in frames.chunks_exact_mut(FRAME_HEADER_BYTES + page_bytes) {
            let (head, page) = frame.split_at_mut(FRAME_HEADER_BYTES);
            sum = sum.add(order, &head[..8]).add(order, page);
            put(head, 16, &sum.big_bytes());
            sums.push(sum);
        }
        sums
    }

    /// The state that the index claims, if it is whole.
    #[must_use]
    pub fn claims(&self) -> Option<(u32, u32)> {
        let header = IndexHeader::parse(&self.index)?;
        Some((header.frame_count, header.page_count))
    }
}

fn native(bytes: &[u8]) -> u32 {
    crate::source::sqlite::format::page_numbers(bytes)
        .next()
        .unwrap_or(0)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// What came of a look at such files.
pub enum Shown {
    /// The bytes of the view, at most the first MiB.
    Bytes(Vec<u8>),
    /// It was not pinned.
    Refused(SourceError),
    /// It was, and could not be read.
    Unread(ReadError),
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Refused(error) => write!(f, "refused: {error}"),
            Self::Unread(error) => write!(f, "not read: {error}"),
        }
    }
}

/// Puts the files into `dir`, which is empty or was given before, pins the database as one that is in use
/// and reads it.
///
/// Errors: the system's, in writing the files.
pub fn show(dir: &Path, bytes: &Bytes) -> io::Result<Shown> {
    let path = dir.join("app.db");
    let host = Host::system();
    put_files(&path, bytes)?;
    let user = host
        .disk
        .open(&beside(&path, "-shm"), OpenMode::ReadWrite)?;
    assert!(try_lock(&*user, LockKind::Shared, DEAD_MAN)?);
    drop(recognise(&host, &path));
    let options = SqliteOptions {
        recovery: Recovery::Refused,
        ..SqliteOptions::default()
    };
    let pinned = Prepared::open(&host, &path, &options).and_then(|mut prepared| {
        prepared.pin()?;
        prepared.finish()
    });
    Ok(match pinned {
        Err(error) => Shown::Refused(error),
        Ok(pinned) => read(&*pinned.view),
    })
}

/// The same as if nobody could write there: the log is read without its index.
///
/// Errors: the system's, in writing the files.
pub fn show_on_media(dir: &Path, bytes: &Bytes) -> io::Result<Shown> {
    let path = dir.join("app.db");
    let host = Host::system();
    put_files(&path, bytes)?;
    let database = host.disk.open(&path, OpenMode::Read)?;
    let log = host.disk.open(&beside(&path, "-wal"), OpenMode::Read)?;
    let media = MediaPrepared::new(&path, database, Some(log));
    Ok(match media.finish(&*host.clock) {
        Err(error) => Shown::Refused(error),
        Ok((pin, _)) => read(&pin),
    })
}

trait Shows {
    fn bytes(&self) -> u64;
    fn fill(&self, out: &mut [u8]) -> Result<(), ReadError>;
}

impl Shows for crate::source::sqlite::SqliteView {
    fn bytes(&self) -> u64 {
        self.size()
    }

    fn fill(&self, out: &mut [u8]) -> Result<(), ReadError> {
        self.read_range(0, out)
    }
}

impl Shows for crate::source::sqlite::wal_pin::WalPin {
    fn bytes(&self) -> u64 {
        self.shape().bytes
    }

    fn fill(&self, out: &mut [u8]) -> Result<(), ReadError> {
        self.read_range(0, out).map(drop)
    }
}

fn read(view: &impl Shows) -> Shown {
    let count = view.bytes().min(READ_BYTES_MAX);
    let mut out = vec![0; usize::try_from(count).unwrap_or(0)];
    match view.fill(&mut out) {
        Ok(()) => Shown::Bytes(out),
        Err(error) => Shown::Unread(error),
    }
}

fn put_files(path: &Path, bytes: &Bytes) -> io::Result<()> {
    std::fs::write(path, &bytes.database)?;
    std::fs::write(beside(path, "-wal"), &bytes.log)?;
    std::fs::write(beside(path, "-shm"), &bytes.index)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", path.display()))
}
