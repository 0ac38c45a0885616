//! The manifest: everything that one backup is, without a look at any other.
//!
//! ```text
//! offset size
//!      0    8  magic "SFSMANI\x01"
//!      8    4  format version, 1
//!     12    4  flags, 0
//!     16    4  facts bytes f
//!     20    4  crc32 of bytes 0 .. 20 and the facts
//!     24    8  body bytes b
//!     32    f  facts: JSON
//!   32+f    b  body
//!    end    4  crc32 of all bytes before
//! ```
//!
//! The facts can be read without the body. The body is written with `v`, a number of seven bits per byte,
//! lowest first, all but the last byte with the highest bit (LEB128), as short as it can be; and with
//! bytes(x), which is v: their number, then they. Its fields, in order:
//!
//! ```text
//! v number of packs, 16 bytes for each
//! v number of entries, then for each entry:
//!   1 kind: 1 directory, 2 file, 3 symbolic link, 4 hard link
//!   bytes(path), v mode, v owner, v group, 8 time of change
//!   file: v bytes, v bytes of a unit, 32 digest,
//!         1 version: 0 none; 1: 16 database id, 16 history id, 8 LSN,
//!         v number of extents, then for each: v units, v pack + 1, 0 for zeros; v slot, not with zeros
//!   symbolic link: bytes(where it leads)
//!   hard link: bytes(path of the first name)
//! ```
//!
//! Nothing follows. See `check.rs` for what must be true of it besides.

mod check;
mod decode;
mod encode;

use serde::{Deserialize, Serialize};

use crate::id::{DatabaseId, HistoryId};
use crate::lsn::Lsn;
use crate::repository::backup_id::BackupId;
use crate::repository::digest::Digest;
use crate::repository::pack::PackId;

/// How a backup was made; what it holds is complete in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// Everything was read.
    Full,
    /// What changed since the newest backup was read.
    Incremental,
    /// What changed since the newest full backup was read.
    Differential,
}

/// One backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What is known of it as a whole.
    pub facts: BackupFacts,
    /// The packs that its extents name by their place in this list.
    pub packs: Vec<PackId>,
    /// The tree: the root first, every directory before what is in it.
    pub entries: Vec<Entry>,
}

/// What is known of a backup as a whole; the text at the head of its manifest. The names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFacts {
    /// Its name.
    pub id: BackupId,
    /// How it was made.
    pub kind: BackupKind,
    /// The backup that it was compared with; nothing of that is needed to read this one.
    pub parent: Option<BackupId>,
    /// The full backup at the start of the parents; of a full one itself.
    pub full: BackupId,
    /// What was backed up.
    pub source: SourceName,
    /// The user's word for it.
    pub tag: Option<String>,
    /// Version of the stillfs that made it.
    pub stillfs: String,
    /// When it began, nanoseconds since 1970.
    pub begun_ns: u64,
    /// When it was finished.
    pub finished_ns: u64,
    /// The moment that it shows.
    pub moment_ns: u64,
    /// The databases in it.
    pub databases: Vec<DatabaseFacts>,
    /// Digest of all entries: what `verify` and `restore` compare.
    pub digest: Digest,
    /// What it took.
    pub statistics: Statistics,
    /// What is not in it, and why.
    pub left_out: Vec<LeftOutFact>,
    /// Position of a cluster's log that it shows.
    pub log_index: Option<u64>,
    /// Term of that position.
    pub term: Option<u64>,
}

/// What was backed up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceName {
    /// `stillfs`, `sqlite` or `tree`.
    pub kind: String,
    /// Its path, canonical.
    pub path: String,
    /// The machine that it was on.
    pub host: String,
}

/// One database of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// Where its file is in the backup.
    pub path: String,
    /// `stillfs` or `sqlite`.
    pub kind: String,
    /// Bytes of a page; 0 where unknown.
    pub page_bytes: u32,
    /// Pages.
    pub page_count: u64,
    /// Of a native database: its id, in hexadecimal.
    pub database: Option<String>,
    /// Of a native database: the history that it was pinned in.
    pub history: Option<String>,
    /// Of a native database: the LSN of the pinned commit.
    pub lsn: Option<u64>,
    /// Of a native database: the number of the pinned commit.
    pub timestamp: Option<u64>,
    /// Of a native database: the incarnation of the engine that wrote that commit, in hexadecimal, where
    /// it is known. A past that was put back goes on in another.
    #[serde(default)]
    pub epoch: Option<String>,
    /// Of a native database: the wall clock of that commit, nanoseconds since 1970, where it tells the commit
    /// from any other. A machine that was put back with its memory goes on as the same incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ns: Option<u64>,
    /// Digest of the file.
    pub digest: Digest,
}

/// What is not in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutFact {
    /// Where it is in the source.
    pub path: String,
    /// Why it was left out.
    pub reason: String,
    /// Whether somebody asked for that (`--exclude`, `--max-size`).
    pub is_wanted: bool,
}

/// What a backup took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Files, directories not counted.
    pub files: u64,
    /// Units of content in it: pages, or blocks of plain files.
    pub units: u64,
    /// Units that had to be read.
    pub units_read: u64,
    /// Units that the repository did not have.
    pub units_new: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes of the units that the repository did not have, before compression.
    pub bytes_new: u64,
    /// Bytes that were stored, manifest included.
    pub bytes_stored: u64,
    /// From the begin to the end, nanoseconds.
    pub duration_ns: u64,
}

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Names from the root on, bytes, separated by `/`; empty for the root.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content was changed: nanoseconds since 1970, negative before.
    pub mtime_ns: i64,
    /// What it is.
    pub content: EntryContent,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryContent {
    /// A directory.
    Directory,
    /// A file.
    File(FileContent),
    /// A symbolic link and where it leads.
    Link(Vec<u8>),
    /// One more name of the file whose first name is this path.
    HardLink(Vec<u8>),
}

/// The content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileContent {
    /// Size.
    pub bytes: u64,
    /// Bytes of a unit; the last may be shorter.
    pub unit_bytes: u32,
    /// See [`Digest::of_units`].
    pub digest: Digest,
    /// Where its units are, in order.
    pub extents: Vec<Extent>,
    /// Of a native page file: which commit of which line it shows.
    pub version: Option<FileVersion>,
}

impl FileContent {
    /// Number of units.
    #[must_use]
    pub fn unit_count(&self) -> u64 {
        self.bytes.div_ceil(u64::from(self.unit_bytes.max(1)))
    }
}

/// Which commit a native page file shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    /// The database.
    pub database: DatabaseId,
    /// The history that it was pinned in.
    pub history: HistoryId,
    /// The pinned commit.
    pub lsn: Lsn,
}

/// A run of units: `count` slots from `slot` on of pack `pack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Units; at least 1.
    pub count: u32,
    /// Place in [`Manifest::packs`], or [`Extent::ZEROS`].
    pub pack: u32,
    /// First slot; 0 for zeros.
    pub slot: u32,
}

impl Extent {
    /// In place of a pack: units of nothing but zeros, which no pack holds.
    pub const ZEROS: u32 = u32::MAX;
}

/// Newest version of the format.
const MANIFEST_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"SFSMANI\x01";
const HEAD_BYTES: usize = 32;
const CRC_BYTES: usize = 4;
/// Larger files are in no backup: no disk has them, and to go through what one says of its zeros takes
/// for ever.
const FILE_BYTES_MAX: u64 = 1 << 60;
/// The facts have at most so many bytes.
const FACTS_BYTES_MAX: u32 = 64 << 20;
/// The body has at most so many bytes.
const BODY_BYTES_MAX: u64 = 4 << 30;

impl Manifest {
    /// The object that the manifest of `id` is.
    #[must_use]
    pub fn object(id: &BackupId) -> String {
        format!("backups/{id}")
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(super) use tests::sample;
