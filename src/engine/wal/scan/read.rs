//! Records and bytes of one segment, read and checked.

#![deny(clippy::indexing_slicing)]

use std::io;
use std::ops::Range;

use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::wal::record::{RECORD_HEADER_BYTES, RecordHead, RecordKind, framed_bytes};
use crate::engine::wal::segment::{SegmentFile, SegmentHeader};
use crate::engine::wal::window::Window;
use crate::lsn::Lsn;
use crate::os;

/// Bytes that are looked through at a time for a record after a bad one.
const CANDIDATE_WINDOW_BYTES: usize = 1 << 20;

/// One record, in the window that it was read with.
pub(super) struct Record<'a> {
    pub(super) kind: RecordKind,
    pub(super) payload: &'a [u8],
    /// With its frame.
    pub(super) bytes: u64,
}

/// Reads `segment` in pieces of about `bytes` bytes, or of what it has.
pub(super) fn window_of(segment: &SegmentFile, bytes: usize) -> Window<'_> {
    let length = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
    Window::new(&*segment.file, bytes.min(length))
}

/// The record at `offset`, if a valid one with that LSN is there.
///
/// Errors: `Io`; `Log` for a valid record of an unknown kind. Allocates no more than the file has.
pub(super) fn read_record<'a>(
    window: &'a mut Window<'_>,
    segment: &SegmentFile,
    header: &SegmentHeader,
    offset: u64,
    at: Lsn,
) -> Result<Option<Record<'a>>> {
    let failed = || EngineError::io_at("read", FileRole::WalSegment, &segment.path);
    let head = window.get(offset, RECORD_HEADER_BYTES).map_err(failed())?;
    let Some(head) = head.and_then(|head| head.try_into().ok()) else {
        return Ok(None);
    };
    let head = RecordHead::new(head);
    let framed = framed_bytes(head.payload_bytes());
    let bytes = framed as u64;
    let fits = offset
        .checked_add(bytes)
        .is_some_and(|end| end <= segment.bytes);
    if head.lsn() != at || !fits {
        return Ok(None);
    }
    let record = window.get(offset, framed).map_err(failed())?;
    let payload = record
        .and_then(|record| record.get(RECORD_HEADER_BYTES..))
        .and_then(|rest| rest.get(..head.payload_bytes()));
    let Some(payload) = payload else {
        return Ok(None);
    };
    match head.check(header.salt, payload) {
        None => Ok(None),
        Some(Ok(kind)) => Ok(Some(Record {
            kind,
            payload,
            bytes,
        })),
        Some(Err(fault)) => Err(EngineError::Log {
            segment: segment.path.clone(),
            at,
            fault,
        }),
    }
}

/// The next position after `at` where something says that it is the record of that position.
///
/// Errors: `Io`. Reads the segment in windows: a torn tail can be as long as a large commit.
pub(super) fn next_candidate(
    segment: &SegmentFile,
    header: &SegmentHeader,
    at: Lsn,
) -> Result<Option<Lsn>> {
    // No more than the file has.
    let length = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
    let mut window = vec![0; CANDIDATE_WINDOW_BYTES.min(length)];
    let mut next = at.checked_add(8);
    while let Some(start) = next {
        let offset = segment.offset_of(header.start, start);
        let found = os::read_up_to(&*segment.file, &mut window, offset).map_err(
            EngineError::io_at("read", FileRole::WalSegment, &segment.path),
        )?;
        let Some(last) = found.checked_sub(RECORD_HEADER_BYTES) else {
            break;
        };
        let bytes = window.get(..found).unwrap_or_default();
        for step in (0..=last).step_by(8) {
            let position = start.checked_add(step as u64);
            if position.map(|lsn| lsn.0) == RecordHead::lsn_in(bytes, step) {
                return Ok(position);
            }
        }
        next = start.checked_add((last / 8 * 8 + 8) as u64);
    }
    Ok(None)
}

/// Writes the bytes of `range` as they were read. After a sync that failed, the kernel shows bytes
/// that the disk does not have and that no later sync writes, unless they are written again.
pub(super) fn write_again(segment: &SegmentFile, range: Range<u64>) -> io::Result<()> {
    const PIECE_BYTES: u64 = 1 << 20;
    let mut at = range.start;
    while at < range.end {
        let bytes = PIECE_BYTES.min(range.end - at);
        let mut piece = vec![0; usize::try_from(bytes).unwrap_or_default()];
        os::read_exact_at(&*segment.file, &mut piece, at)?;
        os::write_all_at(&*segment.file, &piece, at)?;
        at += bytes;
    }
    Ok(())
}
