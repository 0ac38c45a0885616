//! A piece of a segment whose records are all right, one by one.

#![deny(clippy::indexing_slicing)]

use std::path::PathBuf;

use crate::codec;
use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, LogFault, Result};
use crate::engine::wal::{
    CommitRecord, LOG_DIR, RECORD_HEADER_BYTES, RecordHead, RecordKind, SEGMENT_VERSION,
    SegmentHeader, framed_bytes, segment_name,
};
use crate::lsn::Lsn;

/// Records of one segment, checked (RP1).
#[derive(Debug)]
pub struct LogPart {
    header: SegmentHeader,
    first: Lsn,
    bytes: Vec<u8>,
    records: Vec<Place>,
}

/// Where a record is in the part.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u32,
    payload_bytes: u32,
    kind: RecordKind,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartRecord<'a> {
    pub(super) kind: RecordKind,
    pub(super) at: Lsn,
    pub(super) end: Lsn,
    pub(super) payload: &'a [u8],
}

impl LogPart {
    /// Checks `bytes`, whole records from `first` on, of the segment with the header `segment`.
    ///
    /// Errors: `Log` naming the first record that is not right; `FutureVersion`. Any thread may; what it
    /// allocates is bounded by the bytes, at most half of them.
    pub fn check(segment: &[u8], first: Lsn, bytes: Vec<u8>) -> Result<Self> {
        let damaged = |fault| EngineError::Log {
            segment: PathBuf::from(LOG_DIR),
            at: first,
            fault,
        };
        let header = match SegmentHeader::decode(segment) {
            Some(Ok(header)) if header.start <= first => header,
            Some(Err(found)) => {
                return Err(EngineError::FutureVersion {
                    path: PathBuf::from(LOG_DIR),
                    found,
                    known: SEGMENT_VERSION,
                });
            }
            _ => return Err(damaged(LogFault::SegmentHeader)),
        };
        let mut part = Self {
            header,
            first,
            bytes,
            records: Vec::new(),
        };
        part.records = part.places()?;
        Ok(part)
    }

    fn places(&self) -> Result<Vec<Place>> {
        let mut places = Vec::new();
        let mut offset = 0_usize;
        while offset < self.bytes.len() {
            let wrong = |field, found| {
                let at = self.first.checked_add(offset as u64).unwrap_or(Lsn::MAX);
                self.fault(at, LogFault::Record { field, found })
            };
            let head = codec::get_array(&self.bytes, offset).map(RecordHead::new);
            let head = head.ok_or_else(|| wrong("header", offset as u64))?;
            let at = self.first.checked_add(offset as u64);
            if at != Some(head.lsn()) {
                return Err(wrong("LSN", head.lsn().0));
            }
            let begin = offset.saturating_add(RECORD_HEADER_BYTES);
            let payload_end = begin.saturating_add(head.payload_bytes());
            let end = offset.saturating_add(framed_bytes(head.payload_bytes()));
            let payload = self.bytes.get(begin..payload_end);
            let payload = payload.filter(|_| end <= self.bytes.len());
            let payload = payload.ok_or_else(|| wrong("length", head.payload_bytes() as u64))?;
            let kind = match head.check(self.header.salt, payload) {
                None => {
                    return Err(wrong(
                        "checksum, wrong in a record of bytes",
                        (end - offset) as u64,
                    ));
                }
                Some(kind) => kind.map_err(|fault| self.fault(head.lsn(), fault))?,
            };
            let small = |value: usize| u32::try_from(value).ok();
            let (Some(offset_u32), Some(payload_bytes)) = (small(offset), small(payload.len()))
            else {
                return Err(wrong("offset", offset as u64));
            };
            places.push(Place {
                offset: offset_u32,
                payload_bytes,
                kind,
            });
            offset = end;
        }
        Ok(places)
    }

    /// The last commit in it whose records end at `until` or before.
    #[must_use]
    pub fn last_commit(&self, until: Lsn) -> Option<CommitPoint> {
        let records = (0..self.count())
            .rev()
            .filter_map(|index| self.record(index));
        let mut ended = records.filter(|record| record.end <= until);
        let last = ended.find(|record| record.kind == RecordKind::Commit)?;
        let commit = CommitRecord::decode(last.payload).ok()?;
        Some(commit.point(last.end))
    }

    /// Bytes of log in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(super) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    pub(super) fn first(&self) -> Lsn {
        self.first
    }

    pub(super) fn count(&self) -> usize {
        self.records.len()
    }

    pub(super) fn record(&self, index: usize) -> Option<PartRecord<'_>> {
        let place = self.records.get(index)?;
        let begin = place.offset as usize + RECORD_HEADER_BYTES;
        let payload_bytes = place.payload_bytes as usize;
        let at = self.first.checked_add(u64::from(place.offset))?;
        Some(PartRecord {
            kind: place.kind,
            at,
            end: at.checked_add(framed_bytes(payload_bytes) as u64)?,
            payload: self.bytes.get(begin..begin + payload_bytes)?,
        })
    }

    /// What its segment is called in the database.
    pub(super) fn name(&self) -> String {
        format!("{LOG_DIR}/{}", segment_name(self.header.sequence))
    }

    pub(super) fn fault(&self, at: Lsn, fault: LogFault) -> EngineError {
        EngineError::Log {
            segment: PathBuf::from(self.name()),
            at,
            fault,
        }
    }
}
