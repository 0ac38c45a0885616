//! Segment files: names and headers.

#![deny(clippy::indexing_slicing)]

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec;
use crate::engine::error::{EngineError, FileRole, Result};
use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::Lsn;
use crate::os::{self, Disk, File, OpenMode};
use crate::page::PageNo;

/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 512;
/// The same as the size of an array.
pub(crate) const SECTOR: usize = 512;
const MAGIC: [u8; 8] = *b"SFSWAL\0\x01";
/// Version of the format of segments.
pub(crate) const SEGMENT_VERSION: u32 = 1;

/// A segment's header, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) page_size: u32,
    pub(crate) database: DatabaseId,
    pub(crate) history: HistoryId,
    pub(crate) sequence: u64,
    pub(crate) start: Lsn,
    pub(crate) salt: u64,
    pub(crate) epoch: Epoch,
    pub(crate) created_ns: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SECTOR] {
        let mut out = [0; SECTOR];
        codec::put(&mut out, 0, &MAGIC);
        codec::put(&mut out, 8, &SEGMENT_VERSION.to_le_bytes());
        codec::put(&mut out, 12, &self.page_size.to_le_bytes());
        codec::put(&mut out, 16, &self.database.0);
        codec::put(&mut out, 32, &self.history.0);
        for (offset, value) in [
            (48, self.sequence),
            (56, self.start.0),
            (64, self.salt),
            (72, self.epoch.0),
            (80, self.created_ns),
        ] {
            codec::put(&mut out, offset, &value.to_le_bytes());
        }
        let crc = crc32fast::hash(out.get(..508).unwrap_or_default());
        codec::put(&mut out, 508, &crc.to_le_bytes());
        out
    }

    /// Errors: `None` if it is damaged or cut; `Some(Err(version))` if a later build wrote it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Result<Self, u32>> {
        if codec::get_array(bytes, 0) != Some(MAGIC)
            || codec::get_u32(bytes, 508)? != crc32fast::hash(bytes.get(..508)?)
        {
            return None;
        }
        let version = codec::get_u32(bytes, 8)?;
        if version != SEGMENT_VERSION {
            return Some(Err(version));
        }
        Some(Ok(Self {
            page_size: codec::get_u32(bytes, 12)?,
            database: DatabaseId(codec::get_array(bytes, 16)?),
            history: HistoryId(codec::get_array(bytes, 32)?),
            sequence: codec::get_u64(bytes, 48)?,
            start: Lsn(codec::get_u64(bytes, 56)?),
            salt: codec::get_u64(bytes, 64)?,
            epoch: Epoch(codec::get_u64(bytes, 72)?),
            created_ns: codec::get_u64(bytes, 80)?,
        }))
    }
}

/// An open segment of a log that is being read.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) bytes: u64,
    /// `None` if it is damaged.
    pub(crate) header: Option<SegmentHeader>,
    /// From its name.
    pub(crate) sequence: u64,
}

impl SegmentFile {
    /// Position of `lsn` in the file. Shape: not before the start.
    pub(crate) fn offset_of(&self, start: Lsn, lsn: Lsn) -> u64 {
        lsn.0
            .saturating_sub(start.0)
            .saturating_add(SEGMENT_HEADER_BYTES)
    }
}

/// A segment that is not written any more.
#[derive(Clone, Debug)]
pub(crate) struct SealedSegment {
    pub(crate) path: PathBuf,
    /// Where the next one starts, as far as is known.
    pub(crate) end: Lsn,
    pub(crate) bytes: u64,
    /// What it touched, if this incarnation wrote it; otherwise its records say so.
    pub(crate) touched: Option<Touched>,
    /// Whether that was noted elsewhere, as far as it could be (W7).
    pub(crate) is_noted: bool,
    /// Whether this incarnation wrote it: then nobody has it open for pages that are only there.
    pub(crate) is_own: bool,
}

/// The pages that the records of a segment touch.
#[derive(Clone, Debug)]
pub(crate) struct Touched {
    pub(crate) start: Lsn,
    /// The end of the last commit; the start if there is none.
    pub(crate) last_commit: Lsn,
    /// Ascending.
    pub(crate) pages: Vec<PageNo>,
    /// Of commits that somebody may ask for, ascending: those that were pinned, and the last one.
    pub(crate) marks: Vec<CommitMark>,
}

/// What tells a commit from one of another past that ends at the same LSN: its wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitMark {
    /// The end of its records.
    pub(crate) lsn: Lsn,
    /// Nanoseconds since 1970.
    pub(crate) wall_ns: u64,
}

/// So many marks are kept of one segment; the newest.
pub(crate) const MARKS_MAX: usize = 1 << 15;

/// The header of the segment in `file`; `None` if it is damaged, cut, or of a later build.
///
/// Errors: the system's.
pub(crate) fn header_of(file: &dyn File) -> io::Result<Option<SegmentHeader>> {
    let mut head = [0; SECTOR];
    let found = os::read_up_to(file, &mut head, 0)?;
    let header = SegmentHeader::decode(head.get(..found).unwrap_or_default());
    Ok(header.and_then(std::result::Result::ok))
}

/// The name of a segment.
pub(crate) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

/// The sequence in a segment's name, if it is one's.
pub(crate) fn sequence_of_segment(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".wal")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Opens the segments in `dir` by ascending sequence; none where there is no such folder.
///
/// Errors: `FutureVersion`, `Io`. Names that are no segment's are passed over.
pub(crate) fn open_segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<SegmentFile>> {
    let names = match disk.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(EngineError::io_at("list", FileRole::WalSegment, dir)(error)),
    };
    let mut segments = Vec::new();
    for name in names {
        if let Some(sequence) = sequence_of_segment(&name) {
            segments.push(open_segment(disk, dir.join(&name), sequence)?);
        }
    }
    segments.sort_unstable_by_key(|segment| segment.sequence);
    Ok(segments)
}

fn is_read_only(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

fn open_segment(disk: &dyn Disk, path: PathBuf, sequence: u64) -> Result<SegmentFile> {
    let failed = |op| EngineError::io_at(op, FileRole::WalSegment, &path);
    let file = match disk.open(&path, OpenMode::ReadWrite) {
        // A copy or a mount is read without being written.
        Err(error) if is_read_only(&error) => disk.open(&path, OpenMode::Read),
        opened => opened,
    };
    let file = file.map_err(failed("open"))?;
    let mut head = [0; SECTOR];
    let found = os::read_up_to(&*file, &mut head, 0).map_err(failed("read"))?;
    let bytes = file.len().map_err(failed("look at"))?;
    let header = match SegmentHeader::decode(head.get(..found).unwrap_or_default()) {
        Some(Err(found)) => {
            return Err(EngineError::FutureVersion {
                path,
                found,
                known: SEGMENT_VERSION,
            });
        }
        Some(Ok(header)) if header.sequence == sequence => Some(header),
        _ => None,
    };
    Ok(SegmentFile {
        path,
        file,
        bytes,
        header,
        sequence,
    })
}
