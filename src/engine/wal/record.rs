//! Records: frame and payloads, encoded and decoded with checks.

#![deny(clippy::indexing_slicing)]

use crate::codec;
use crate::engine::commit_point::CommitPoint;
use crate::engine::error::LogFault;
use crate::engine::page_io::FreeList;
use crate::fault::{self, Fault};
use crate::lsn::{Lsn, Timestamp};
use crate::page::{PageBuf, PageNo, PageSize};

/// Bytes of a record's header.
pub(crate) const RECORD_HEADER_BYTES: usize = 24;
const ALIGNMENT: usize = 8;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    PageImage = 1,
    PageDelta = 2,
    Commit = 3,
    CheckpointBegin = 4,
    CheckpointEnd = 5,
    PageSummary = 6,
}

impl RecordKind {
    fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::PageImage,
            2 => Self::PageDelta,
            3 => Self::Commit,
            4 => Self::CheckpointBegin,
            5 => Self::CheckpointEnd,
            6 => Self::PageSummary,
            _ => return None,
        })
    }
}

/// Bytes that a record with such a payload takes in the log.
pub(crate) fn framed_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(ALIGNMENT)
}

fn record_crc(salt: u64, head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    if !fault::is(Fault::SaltNotMixed) {
        hasher.update(&salt.to_le_bytes());
    }
    hasher.update(head.get(4..RECORD_HEADER_BYTES).unwrap_or_default());
    hasher.update(payload);
    hasher.finalize()
}

/// Appends a record that starts at `at` to `out`.
///
/// # Panics
/// If the payload has 4 GiB or more, which no kind of record can have.
pub(crate) fn push_record(out: &mut Vec<u8>, salt: u64, at: Lsn, kind: RecordKind, payload: &[u8]) {
    let mut head = [0; RECORD_HEADER_BYTES];
    let bytes = u32::try_from(payload.len()).expect("payloads are pages and lists of pages");
    codec::put(&mut head, 4, &bytes.to_le_bytes());
    codec::put(&mut head, 8, &[kind as u8]);
    codec::put(&mut head, 16, &at.0.to_le_bytes());
    let crc = record_crc(salt, &head, payload);
    codec::put(&mut head, 0, &crc.to_le_bytes());
    let end = out.len() + framed_bytes(payload.len());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    out.resize(end, 0);
}

/// A record's header, with its length not yet believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordHead {
    head: [u8; RECORD_HEADER_BYTES],
}

impl RecordHead {
    pub(crate) fn new(head: [u8; RECORD_HEADER_BYTES]) -> Self {
        Self { head }
    }

    /// The LSN that a header at `offset` of `bytes` says it is at, if there are enough bytes.
    pub(crate) fn lsn_in(bytes: &[u8], offset: usize) -> Option<u64> {
        codec::get_u64(bytes, offset.checked_add(16)?)
    }

    /// Bytes of the payload, as claimed.
    pub(crate) fn payload_bytes(&self) -> usize {
        codec::get_u32(&self.head, 4).unwrap_or_default() as usize
    }

    /// The LSN at which the record says that it starts.
    pub(crate) fn lsn(&self) -> Lsn {
        Lsn(codec::get_u64(&self.head, 16).unwrap_or_default())
    }

    /// The kind of a record whose checksum is right. Errors: `None` if the checksum is wrong;
    /// `Record` for a kind that this build does not know.
    pub(crate) fn check(&self, salt: u64, payload: &[u8]) -> Option<Result<RecordKind, LogFault>> {
        let kind = self.head.get(8).copied().unwrap_or_default();
        let is_delta = kind == RecordKind::PageDelta as u8;
        let is_believed = fault::is(Fault::TornDeltaAccepted) && is_delta;
        if codec::get_u32(&self.head, 0) != Some(record_crc(salt, &self.head, payload))
            && !is_believed
        {
            return None;
        }
        let unknown = LogFault::Record {
            field: "kind",
            found: u64::from(kind),
        };
        Some(RecordKind::from_u8(kind).ok_or(unknown))
    }
}

/// A Commit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitRecord {
    pub(crate) timestamp: Timestamp,
    pub(crate) wall_ns: u64,
    /// The log was known to be synced up to here when this was written.
    pub(crate) synced: Lsn,
    pub(crate) page_count: u64,
    pub(crate) free: FreeList,
}

/// Bytes of a Commit record's payload.
pub(crate) const COMMIT_BYTES: usize = 48;

impl CommitRecord {
    pub(crate) fn encode(&self) -> [u8; COMMIT_BYTES] {
        let mut out = [0; COMMIT_BYTES];
        let fields = [
            self.timestamp.0,
            self.wall_ns,
            self.synced.0,
            self.page_count,
            self.free.head.0,
            self.free.count,
        ];
        for (index, field) in fields.into_iter().enumerate() {
            codec::put(&mut out, index * 8, &field.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, LogFault> {
        if payload.len() != COMMIT_BYTES {
            let found = payload.len() as u64;
            return Err(LogFault::Record {
                field: "commit length",
                found,
            });
        }
        let field = |index: usize| codec::get_u64(payload, index * 8).unwrap_or_default();
        Ok(Self {
            timestamp: Timestamp(field(0)),
            wall_ns: field(1),
            synced: Lsn(field(2)),
            page_count: field(3),
            free: FreeList {
                head: PageNo(field(4)),
                count: field(5),
            },
        })
    }

    /// The state that this commit leaves, `end` being the end of its record.
    pub(crate) fn point(&self, end: Lsn) -> CommitPoint {
        CommitPoint {
            timestamp: self.timestamp,
            wall_ns: self.wall_ns,
            lsn: end,
            page_count: self.page_count,
            free: self.free,
        }
    }
}

/// A PageDelta record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeltaRecord<'a> {
    pub(crate) page: PageNo,
    /// LSN of the page before.
    pub(crate) base: Lsn,
    /// Checksum in the header of the page after.
    pub(crate) result_crc: u32,
    /// Where in the page, and what comes there.
    pub(crate) ranges: Vec<(u32, &'a [u8])>,
}

/// Bytes of a PageImage payload before the page.
pub(crate) const IMAGE_HEAD_BYTES: usize = 16;
/// Bytes of a PageDelta payload before its ranges.
pub(crate) const DELTA_HEAD_BYTES: usize = 24;
/// Bytes of a range before its bytes.
pub(crate) const RANGE_HEAD_BYTES: usize = 8;

/// The payload of a PageImage record of a sealed page, without the run of zeros at `hole`.
pub(crate) fn encode_image(page: PageNo, image: &[u8], hole: std::ops::Range<usize>) -> Vec<u8> {
    let offset = u32::try_from(hole.start).expect("a page has at most 64 KiB");
    let bytes = u32::try_from(hole.len()).expect("a page has at most 64 KiB");
    let mut out = Vec::with_capacity(IMAGE_HEAD_BYTES + image.len() - hole.len());
    out.extend_from_slice(&page.0.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(image.get(..hole.start).unwrap_or_default());
    out.extend_from_slice(image.get(hole.end..).unwrap_or_default());
    out
}

/// The page of a PageImage or PageDelta payload.
pub(crate) fn page_of(payload: &[u8]) -> Option<PageNo> {
    codec::get_u64(payload, 0).map(PageNo)
}

/// Decodes a PageImage payload. Errors: `Record` if it is not a page of `size`.
pub(crate) fn decode_image(payload: &[u8], size: PageSize) -> Result<PageBuf, LogFault> {
    let wrong = |field, found| LogFault::Record { field, found };
    let offset = codec::get_u32(payload, 8).unwrap_or_default() as usize;
    let bytes = codec::get_u32(payload, 12).unwrap_or_default() as usize;
    let kept = payload.get(IMAGE_HEAD_BYTES..).unwrap_or_default();
    if kept.len().checked_add(bytes) != Some(size.bytes()) || offset > kept.len() {
        return Err(wrong("image length", payload.len() as u64));
    }
    let mut page = PageBuf::zeroed(size);
    let (front, back) = kept.split_at(offset);
    codec::put(&mut page, 0, front);
    codec::put(&mut page, offset + bytes, back);
    Ok(page)
}

/// Decodes a PageDelta payload. Errors: `Record` if a range leaves the page.
pub(crate) fn decode_delta(payload: &[u8], size: PageSize) -> Result<DeltaRecord<'_>, LogFault> {
    let wrong = |field, found| LogFault::Record { field, found };
    let short = || wrong("delta length", payload.len() as u64);
    let page = page_of(payload).ok_or_else(short)?;
    let base = Lsn(codec::get_u64(payload, 8).ok_or_else(short)?);
    let result_crc = codec::get_u32(payload, 16).ok_or_else(short)?;
    let count = codec::get_u32(payload, 20).ok_or_else(short)?;
    let mut at = DELTA_HEAD_BYTES;
    let mut ranges = Vec::new();
    for _ in 0..count {
        let offset = codec::get_u32(payload, at).ok_or_else(short)?;
        let bytes = codec::get_u32(payload, at + 4).ok_or_else(short)? as usize;
        at += RANGE_HEAD_BYTES;
        let content = at.checked_add(bytes).and_then(|end| payload.get(at..end));
        let content = content.ok_or_else(short)?;
        let end = (offset as usize).saturating_add(bytes);
        if offset < 4 || end > size.bytes() {
            return Err(wrong("delta offset", u64::from(offset)));
        }
        ranges.push((offset, content));
        at += bytes;
    }
    Ok(DeltaRecord {
        page,
        base,
        result_crc,
        ranges,
    })
}

/// The payloads of the PageSummary records for `pages` (ascending), each of bounded length.
pub(crate) fn encode_summaries(base: Lsn, pages: &[PageNo]) -> Vec<Vec<u8>> {
    let encode = |part: &[PageNo]| {
        let count = u32::try_from(part.len()).expect("parts are bounded");
        let mut out = base.0.to_le_bytes().to_vec();
        out.extend_from_slice(&count.to_le_bytes());
        let mut last = 0;
        for page in part {
            let mut rest = page.0 - last;
            last = page.0;
            while rest >= 0x80 {
                out.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
                rest >>= 7;
            }
            out.push(u8::try_from(rest).expect("seven bits"));
        }
        out
    };
    pages.chunks(SUMMARY_PAGES_MAX).map(encode).collect()
}

const SUMMARY_PAGES_MAX: usize = 4096;

/// Decodes a PageSummary payload: its base, and the pages that the segment touched.
///
/// Errors: `Record` if it is cut or not ascending.
pub(crate) fn decode_summary(payload: &[u8]) -> Result<(Lsn, Vec<PageNo>), LogFault> {
    let wrong = || LogFault::Record {
        field: "summary length",
        found: payload.len() as u64,
    };
    let base = Lsn(codec::get_u64(payload, 0).ok_or_else(wrong)?);
    let count = codec::get_u32(payload, 8).ok_or_else(wrong)?;
    let mut rest = payload.get(12..).ok_or_else(wrong)?.iter();
    let mut pages = Vec::new();
    let mut last = 0u64;
    for _ in 0..count {
        let mut step = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *rest.next().ok_or_else(wrong)?;
            step |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if step == 0 && !pages.is_empty() {
            return Err(wrong());
        }
        last = last.checked_add(step).ok_or_else(wrong)?;
        pages.push(PageNo(last));
    }
    if rest.next().is_some() {
        return Err(wrong());
    }
    Ok((base, pages))
}
