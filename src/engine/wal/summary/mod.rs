//! Which pages the log touched, kept after its segments are gone: so a backup that has an older commit
//! learns which pages it must look at.
//!
//! The engine's process writes it, one entry per segment that goes; whoever may read the directory reads
//! it, while an engine runs or not ([`changed_pages`]).
//!
//! File `changes/<sequence, 16 hex digits>.sum`, header:
//!
//! ```text
//! offset size
//!      0    8  magic "SFSSUM\0\x01"
//!      8    4  format version, 2
//!     12    4  page size in bytes
//!     16   16  database id
//!     32   16  history id
//!     48    8  sequence
//!     56    4  reserved, 0
//!     60    4  crc32 of bytes 0 .. 60
//! ```
//!
//! Then entries, each padded with zeros to a multiple of 8 bytes:
//!
//! ```text
//! offset size
//!      0    4  crc32 of bytes 4 .. 48
//!      4    4  payload bytes
//!      8    8  start LSN
//!     16    8  end LSN
//!     24    8  epoch of the segment
//!     32    4  runs of pages
//!     36    4  crc32 of the payload
//!     40    8  LSN of the end of its last commit; the start LSN if there is none
//!     48    4  marks of commits
//!     52    4  bytes of the marks, at the end of the payload
//!     56       payload: per run, as LEB128, the pages between it and the run before, and its pages; then
//!              per mark its LSN and its wall clock, less those of the mark before: the start LSN, and 0
//! ```
//!
//! * W7 An entry names every page that a commit between its two LSNs touched, and perhaps more. It is
//!   about bytes of the log that cannot change any more, and is durable, content and name, before the
//!   name of its segment goes. One that cannot be written fails nothing else: its range is missing.
//! * W8 An answer is given only if entries and whole, checked records of one database and history cover
//!   the log between the two commits without a hole, and no two incarnations claim the same bytes of it.
//!
//! * W9 For each commit that was pinned, and the last one of its segment, an entry keeps a mark: its wall
//!   clock. Where a mark is missing, nobody says of a commit that it is of this past.
//!
//! Nothing is appended behind an entry that is not known to be whole. What is read is believed by its
//! checksum, which an attacker can make: whoever may write the directory may change the database too.
//!
//! Locking: one mutex for the file at hand; the log's are never held with it.

mod file;
mod folder;
mod format;
mod query;
mod runs;
mod walk;

/// Name of the folder of summaries in a database's directory.
pub const CHANGES_DIR: &str = "changes";

pub(crate) use folder::SummaryFolder;
pub use query::{changed_pages, commit_at, incarnation_of};
