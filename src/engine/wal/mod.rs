//! The write-ahead log: redo only, framed, checked, in segments.
//!
//! The engine's process writes it; opening a database reads it. An LSN is a byte position in the
//! endless log of one history. A segment's header is not counted: position in file = 512 + (LSN -
//! start LSN). All numbers are little endian; records start at multiples of 8 bytes.
//!
//! Segment `wal/<sequence, 16 hex digits>.wal`, header:
//!
//! ```text
//! offset size
//!      0    8  magic "SFSWAL\0\x01"
//!      8    4  format version, 1
//!     12    4  page size in bytes
//!     16   16  database id
//!     32   16  history id
//!     48    8  sequence
//!     56    8  start LSN
//!     64    8  salt: random, drawn for each segment
//!     72    8  epoch
//!     80    8  wall clock of the creation, nanoseconds since 1970
//!     88  420  reserved, 0
//!    508    4  crc32 of bytes 0 .. 508
//! ```
//!
//! Record: a header of 24 bytes, the payload, zeros to the next multiple of 8:
//!
//! ```text
//! offset size
//!      0    4  crc32 of: salt (8 bytes), bytes 4 .. 24 of the record, the payload
//!      4    4  payload bytes
//!      8    1  kind
//!      9    7  reserved, 0
//!     16    8  LSN of this record's first byte
//! ```
//!
//! ```text
//! kind                payload
//! 1 PageImage         page 8, hole offset 4, hole bytes 4, then the page without the hole (zeros)
//! 2 PageDelta         page 8, LSN of the page before 8, crc32 of the page after 4, ranges 4,
//!                     then per range: offset 4, bytes 4, the bytes; ranges lie in 4 .. page size
//! 3 Commit            timestamp 8, wall clock ns 8, LSN known synced 8, page count 8,
//!                     free list head 8, free list count 8
//! 4 CheckpointBegin   LSN of the target 8
//! 5 CheckpointEnd     LSN of the target 8
//! 6 PageSummary       base LSN 8, pages 4, then per page the difference to the one before it as
//!                     LEB128; written when a segment is sealed: the pages that it touched
//! ```
//!
//! Every page of a commit carries the LSN of the end of its Commit record.
//!
//! * W1 An append that fails is cut back before the next, and the cut synced; if that fails, the log is
//!   poisoned.
//! * W2 No LSN counts as durable before the sync that covers it has returned, and before the
//!   directory entry of its segment is synced.
//! * W3 After a failed sync nothing is appended or synced any more. One sync of the log runs at a time,
//!   so that the one that lost something is the one that hears of it; and the next open writes again
//!   what it reads past the last LSN known to be synced.
//! * W4 A segment starts with a salt that no older record was made with, so that an old tail is never
//!   taken for new records.
//! * W5 A bad record ends the log, unless a later valid commit says that the bad one had been synced:
//!   then it is an error.
//! * W6 After a failed sync of a folder nothing rests on a name, or on its absence, that did not change
//!   since: the folder of the log is made anew when it holds no segment, and no segment gets a number
//!   below one that may come back.
//!
//! What the segments say of pages outlives them: W7 to W9 in `summary`. W10 is in `log/reserve.rs`, W11 in
//! `log/spare.rs`.
//!
//! Locking: `needless`, the tail, and then the flush or the names, in this order; the sync of a flush is made
//! outside all, by the one that has the lead. Not here: which
//! pages to log (`transaction`), what to do with what was read (`recovery`).

/// Name of the folder of log segments in a database's directory.
pub const LOG_DIR: &str = "wal";

mod append;
mod archive;
mod delta;
mod encode;
mod export;
mod log;
mod mark;
mod record;
mod scan;
mod segment;
mod summary;
#[cfg(test)]
mod tests;
mod window;

pub(crate) use append::Appending;
pub use archive::{ARCHIVE_DIR, ArchiveCursor};
pub(crate) use delta::{PageReplay, apply_delta};
pub(crate) use encode::{Change, Extent, Form, Hole, commit_record_bytes, longest_zeros};
pub(crate) use export::{LogSegment, durable_segments, whole_records};
pub(crate) use log::{Log, LogIdentity};
pub use mark::write_mark;
#[cfg(test)]
pub(crate) use record::push_record;
pub(crate) use record::{
    CommitRecord, RECORD_HEADER_BYTES, RecordHead, RecordKind, decode_delta, decode_image,
    framed_bytes, page_of,
};
pub(crate) use scan::{
    MissingLog, PagePayload, RecordPosition, Scan, ScannedPage, ScannedVisit, scan,
};
pub(crate) use segment::{
    CommitMark, SECTOR as SEGMENT_HEADER_BYTES, SEGMENT_VERSION, SealedSegment, SegmentHeader,
    segment_name,
};
pub use summary::{CHANGES_DIR, changed_pages, commit_at, incarnation_of};
