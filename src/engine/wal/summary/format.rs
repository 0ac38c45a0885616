//! The bytes of a summary file.

#![deny(clippy::indexing_slicing)]

use crate::codec;
use crate::engine::wal::segment::{CommitMark, MARKS_MAX};
use crate::engine::wal::summary::runs::{PageRuns, push_leb128, take_leb128};
use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::Lsn;

pub(super) const FILE_HEADER_BYTES: usize = 64;
pub(super) const ENTRY_HEAD_BYTES: usize = 56;
/// Longest runs of pages of an entry.
pub(super) const RUNS_BYTES_MAX: usize = 2 << 20;
/// Longest payload of one: a mark takes 20 bytes at most.
pub(super) const PAYLOAD_BYTES_MAX: usize = RUNS_BYTES_MAX + 20 * MARKS_MAX;
const ALIGNMENT: usize = 8;
const MAGIC: [u8; 8] = *b"SFSSUM\0\x01";
const VERSION: u32 = 2;

/// Whose log a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) page_size: u32,
    pub(super) database: DatabaseId,
    pub(super) history: HistoryId,
    pub(super) sequence: u64,
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut out = [0; FILE_HEADER_BYTES];
        codec::put(&mut out, 0, &MAGIC);
        codec::put(&mut out, 8, &VERSION.to_le_bytes());
        codec::put(&mut out, 12, &self.page_size.to_le_bytes());
        codec::put(&mut out, 16, &self.database.0);
        codec::put(&mut out, 32, &self.history.0);
        codec::put(&mut out, 48, &self.sequence.to_le_bytes());
        let crc = crc32fast::hash(out.get(..60).unwrap_or_default());
        codec::put(&mut out, 60, &crc.to_le_bytes());
        out
    }

    /// Errors: `None` if it is damaged, or of a version that this build does not know: what it says is
    /// then not known.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let is_whole = codec::get_array(bytes, 0)? == MAGIC
            && codec::get_u32(bytes, 60)? == crc32fast::hash(bytes.get(..60)?)
            && codec::get_u32(bytes, 8)? == VERSION;
        is_whole.then_some(())?;
        Some(Self {
            page_size: codec::get_u32(bytes, 12)?,
            database: DatabaseId(codec::get_array(bytes, 16)?),
            history: HistoryId(codec::get_array(bytes, 32)?),
            sequence: codec::get_u64(bytes, 48)?,
        })
    }
}

/// A range of the log, and who wrote it: two of one incarnation with the same start are of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogRange {
    pub(super) start: Lsn,
    pub(super) end: Lsn,
    pub(super) epoch: Epoch,
    /// Where the last commit in it ends: after that nothing was touched. The start if there is none.
    pub(super) last_commit: Lsn,
}

/// The head of an entry, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryHead {
    pub(super) range: LogRange,
    pub(super) payload_bytes: usize,
    run_count: u32,
    payload_crc: u32,
    mark_count: u32,
    mark_bytes: usize,
}

impl EntryHead {
    /// Errors: `None` if it is damaged.
    pub(super) fn decode(head: &[u8]) -> Option<Self> {
        let found = crc32fast::hash(head.get(4..ENTRY_HEAD_BYTES)?);
        let range = LogRange {
            start: Lsn(codec::get_u64(head, 8)?),
            end: Lsn(codec::get_u64(head, 16)?),
            epoch: Epoch(codec::get_u64(head, 24)?),
            last_commit: Lsn(codec::get_u64(head, 40)?),
        };
        let payload_bytes = codec::get_u32(head, 4)? as usize;
        let is_whole = codec::get_u32(head, 0)? == found
            && range.start < range.end
            && (range.start..=range.end).contains(&range.last_commit)
            && payload_bytes <= PAYLOAD_BYTES_MAX;
        is_whole.then_some(Self {
            range,
            payload_bytes,
            run_count: codec::get_u32(head, 32)?,
            payload_crc: codec::get_u32(head, 36)?,
            mark_count: codec::get_u32(head, 48)?,
            mark_bytes: codec::get_u32(head, 52)? as usize,
        })
    }

    /// Bytes of the entry in the file.
    pub(super) fn framed_bytes(&self) -> u64 {
        (ENTRY_HEAD_BYTES + self.payload_bytes).next_multiple_of(ALIGNMENT) as u64
    }

    /// The pages, and the marks of commits. Errors: `None` if it is damaged.
    pub(super) fn decode_payload(&self, payload: &[u8]) -> Option<(PageRuns, Vec<CommitMark>)> {
        if crc32fast::hash(payload) != self.payload_crc {
            return None;
        }
        let run_bytes = payload.len().checked_sub(self.mark_bytes)?;
        let (runs, marks) = payload.split_at_checked(run_bytes)?;
        let pages = PageRuns::decode(runs, self.run_count)?;
        Some((pages, self.decode_marks(marks)?))
    }

    fn decode_marks(&self, marks: &[u8]) -> Option<Vec<CommitMark>> {
        let mut bytes = marks.iter().copied();
        let mut last = CommitMark {
            lsn: self.range.start,
            wall_ns: 0,
        };
        let mut found = Vec::new();
        for _ in 0..self.mark_count {
            let lsn = last.lsn.checked_add(take_leb128(&mut bytes)?)?;
            let wall_ns = last.wall_ns.wrapping_add(take_leb128(&mut bytes)?);
            if lsn == last.lsn || lsn > self.range.end {
                return None;
            }
            last = CommitMark { lsn, wall_ns };
            found.push(last);
        }
        bytes.next().is_none().then_some(found)
    }
}

/// A whole entry. `marks` are in the range, ascending; of too many the newest are in it.
pub(super) fn encode_entry(range: LogRange, pages: &PageRuns, marks: &[CommitMark]) -> Vec<u8> {
    let (mut payload, run_count) = pages.encode(RUNS_BYTES_MAX);
    let run_bytes = payload.len();
    let marks = marks.get(marks.len().saturating_sub(MARKS_MAX)..);
    let marks = marks.unwrap_or_default();
    let (mut lsn, mut wall_ns) = (range.start, 0_u64);
    for mark in marks {
        push_leb128(&mut payload, mark.lsn.0.saturating_sub(lsn.0));
        push_leb128(&mut payload, mark.wall_ns.wrapping_sub(wall_ns));
        (lsn, wall_ns) = (mark.lsn, mark.wall_ns);
    }
    let number = |count: usize| u32::try_from(count).expect("a payload is bounded");
    let mut out = vec![0; ENTRY_HEAD_BYTES];
    codec::put(&mut out, 4, &number(payload.len()).to_le_bytes());
    for (offset, value) in [
        (8, range.start.0),
        (16, range.end.0),
        (24, range.epoch.0),
        (40, range.last_commit.0),
    ] {
        codec::put(&mut out, offset, &value.to_le_bytes());
    }
    codec::put(&mut out, 32, &number(run_count).to_le_bytes());
    codec::put(&mut out, 36, &crc32fast::hash(&payload).to_le_bytes());
    codec::put(&mut out, 48, &number(marks.len()).to_le_bytes());
    codec::put(
        &mut out,
        52,
        &number(payload.len() - run_bytes).to_le_bytes(),
    );
    let crc = crc32fast::hash(out.get(4..).unwrap_or_default());
    codec::put(&mut out, 0, &crc.to_le_bytes());
    out.extend_from_slice(&payload);
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

/// The name of a file.
pub(super) fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}.sum")
}

/// The sequence in a file's name, if it is one of ours.
pub(super) fn sequence_of(name: &std::ffi::OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".sum")?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (file_name(sequence) == name.to_str()?).then_some(sequence)
}
