//! Reading a log for whoever archives it: segments, and runs of whole, checked records.

#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, FileRole, LogFault, Result};
use crate::engine::wal::record::{
    CommitRecord, RECORD_HEADER_BYTES, RecordHead, RecordKind, framed_bytes,
};
use crate::engine::wal::scan::usable_segments;
use crate::engine::wal::segment::{SECTOR, SEGMENT_HEADER_BYTES, SegmentHeader, header_of};
use crate::id::{DatabaseId, HistoryId};
use crate::lsn::Lsn;
use crate::os::{self, Disk, File, OpenMode};
use crate::page::PageSize;

/// A segment, as far as it is durable. Its file is open only while it is read: the engine may remove it, and
/// its room is to be free then.
#[derive(Clone, Debug)]
pub(crate) struct LogSegment {
    pub(crate) header: SegmentHeader,
    /// The durable part of its records ends here.
    pub(crate) end: Lsn,
    /// Whether nothing more comes.
    pub(crate) is_sealed: bool,
    path: PathBuf,
}

/// Whole records, one after the other.
#[derive(Debug, Default)]
pub(crate) struct LogRecords {
    pub(crate) bytes: Vec<u8>,
    /// The commits that end in them.
    pub(crate) commits: Vec<CommitPoint>,
}

/// The segments of one history in `log_dir`, oldest first, as far as they lie before `durable`; the last is that
/// of the newest incarnation, which may have no records yet.
///
/// Errors: `Log`, `ForeignLog`, `FutureVersion`; `Io`, also for one that is removed meanwhile.
pub(crate) fn durable_segments(
    disk: &dyn Disk,
    log_dir: &Path,
    ids: (DatabaseId, HistoryId),
    page_size: PageSize,
    durable: Lsn,
) -> Result<Vec<LogSegment>> {
    let found = usable_segments(disk, log_dir, ids, page_size)?;
    let nexts = found.iter().skip(1).map(|(_, header)| Some(header.start));
    let nexts: Vec<Option<Lsn>> = nexts.chain([None]).collect();
    let segments = found.into_iter().zip(nexts);
    let segments = segments.map(|((segment, header), next)| LogSegment {
        end: next.unwrap_or(durable).min(durable),
        is_sealed: next.is_some_and(|next| next <= durable),
        header,
        path: segment.path,
    });
    Ok(segments.collect())
}

impl LogSegment {
    /// The records from `from` on, where one starts, about `bytes_max` bytes of them at most: as many as
    /// fit, and one at least.
    ///
    /// Errors: `Log` for what is not whole although it is durable; `Io`, `NotFound` if it was removed meanwhile.
    pub(crate) fn read(&self, disk: &dyn Disk, from: Lsn, bytes_max: u64) -> Result<LogRecords> {
        let file = self.open(disk)?;
        let wanted = self.end.0.saturating_sub(from.0);
        let slack = RECORD_BYTES_MAX as u64;
        let length = wanted.min(bytes_max.saturating_add(slack));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        let offset = from
            .0
            .saturating_sub(self.header.start.0)
            .saturating_add(SEGMENT_HEADER_BYTES);
        let found = os::read_up_to(&*file, &mut bytes, offset).map_err(EngineError::io_at(
            "read",
            FileRole::WalSegment,
            &self.path,
        ))?;
        self.refuse_other(&*file)?;
        let limit = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let (count, commits) = match found == length {
            true => whole_records(&self.header, from, &bytes, limit),
            false => (0, Vec::new()),
        };
        if count == 0 {
            return Err(EngineError::Log {
                segment: self.path.clone(),
                at: from,
                fault: LogFault::Gap { next: self.end },
            });
        }
        bytes.truncate(count);
        Ok(LogRecords { bytes, commits })
    }

    /// Its bytes from `from` on and before `until`, unchecked.
    ///
    /// Errors: `Log` if they are not there; `Io`, `NotFound` if it was removed meanwhile.
    pub(crate) fn read_bytes(&self, disk: &dyn Disk, from: Lsn, until: Lsn) -> Result<Vec<u8>> {
        let file = self.open(disk)?;
        let count = usize::try_from(until.0.saturating_sub(from.0)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; count];
        let into = from.0.saturating_sub(self.header.start.0);
        let found = os::read_up_to(
            &*file,
            &mut bytes,
            into.saturating_add(SEGMENT_HEADER_BYTES),
        );
        let failed = EngineError::io_at("read", FileRole::WalSegment, &self.path);
        let found = found.map_err(failed)?;
        self.refuse_other(&*file)?;
        match found == count {
            true => Ok(bytes),
            false => Err(EngineError::Log {
                segment: self.path.clone(),
                at: from,
                fault: LogFault::Gap { next: self.end },
            }),
        }
    }

    fn open(&self, disk: &dyn Disk) -> Result<Arc<dyn File>> {
        let failed = |op| EngineError::io_at(op, FileRole::WalSegment, &self.path);
        let file = disk.open(&self.path, OpenMode::Read);
        let file = file.map_err(failed("open"))?;
        match header_of(&*file).map_err(failed("read"))? {
            Some(header) if header == self.header => Ok(file),
            // It was made another one after it was opened (W11).
            Some(header) if header.sequence != self.header.sequence => {
                Err(failed("open")(io::ErrorKind::NotFound.into()))
            }
            _ => Err(EngineError::Log {
                segment: self.path.clone(),
                at: self.header.start,
                fault: LogFault::SegmentHeader,
            }),
        }
    }

    /// Whether what was read from `file` is of this segment. The engine may have let it go since it was opened, and
    /// made another one of its file, the header first (W11).
    ///
    /// Errors: `Io`, `NotFound` if so.
    fn refuse_other(&self, file: &dyn File) -> Result<()> {
        let header = header_of(file).and_then(|header| match header == Some(self.header.clone()) {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        });
        header.map_err(EngineError::io_at("read", FileRole::WalSegment, &self.path))
    }

    /// Whether any of its records are durable.
    pub(crate) fn has_records(&self) -> bool {
        self.header.start < self.end
    }

    /// Its header, as it is in the file.
    pub(crate) fn header_bytes(&self) -> [u8; SECTOR] {
        self.header.encode()
    }
}

/// Longer than any record.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// How many bytes of `bytes`, which start at `from` in the segment of `header`, are whole records; no more
/// than `limit`, but for the first of them. And the commits that end in them.
pub(crate) fn whole_records(
    header: &SegmentHeader,
    from: Lsn,
    bytes: &[u8],
    limit: usize,
) -> (usize, Vec<CommitPoint>) {
    let (mut at, mut commits) = (0, Vec::new());
    while let Some(rest) = bytes.get(at..) {
        let lsn = Lsn(from.0.saturating_add(at as u64));
        let Some((kind, payload, framed)) = record_in(header, lsn, rest) else {
            break;
        };
        if at > 0 && at + framed > limit {
            break;
        }
        let end = Lsn(lsn.0.saturating_add(framed as u64));
        if kind == RecordKind::Commit {
            let Ok(commit) = CommitRecord::decode(payload) else {
                break;
            };
            commits.push(commit.point(end));
        }
        at += framed;
    }
    (at, commits)
}

/// The record at the start of `bytes`, if a whole one is there: kind, payload, bytes with its frame.
fn record_in<'a>(
    header: &SegmentHeader,
    lsn: Lsn,
    bytes: &'a [u8],
) -> Option<(RecordKind, &'a [u8], usize)> {
    let head = RecordHead::new(bytes.get(..RECORD_HEADER_BYTES)?.try_into().ok()?);
    let payload_bytes = head.payload_bytes();
    if head.lsn() != lsn || payload_bytes > RECORD_BYTES_MAX - RECORD_HEADER_BYTES - 8 {
        return None;
    }
    let framed = framed_bytes(payload_bytes);
    bytes.get(..framed)?;
    let payload = bytes.get(RECORD_HEADER_BYTES..)?.get(..payload_bytes)?;
    let kind = head.check(header.salt, payload)?.ok()?;
    Some((kind, payload, framed))
}
