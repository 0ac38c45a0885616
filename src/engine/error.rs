//! What can go wrong in the engine, as facts.

use std::io;
use std::path::{Path, PathBuf};

use crate::id::{DatabaseId, HistoryId};
use crate::lsn::{Lsn, Timestamp};
use crate::os::trust::Distrust;
use crate::page::{PageFault, PageNo};

/// Which of an engine's files is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileRole {
    /// `data.pages`.
    PageFile,
    /// A segment below `wal/`.
    WalSegment,
    /// A cursor in `archive/`.
    ArchiveCursor,
    /// The engine's directory itself.
    Directory,
    /// A private spool file.
    Spool,
    /// `shadow/slots`.
    ShadowSlots,
    /// `shadow/*.pin`.
    PinIndex,
    /// A file below `changes/`.
    Summary,
    /// No file: a page image that the engine was about to write.
    Memory,
}

impl std::fmt::Display for FileRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PageFile => "data.pages",
            Self::WalSegment => "a log segment",
            Self::ArchiveCursor => "an archive's cursor",
            Self::Directory => "the database directory",
            Self::Spool => "the spool file",
            Self::ShadowSlots => "shadow/slots",
            Self::PinIndex => "a pin's index",
            Self::Summary => "a summary of changed pages",
            Self::Memory => "the engine's memory",
        })
    }
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Try again later; nothing is wrong.
    Retry,
    /// The pin is gone; take a new one.
    PinLost,
    /// Data on disk is not what was written; restore it.
    Corrupt,
    /// Make room, then go on.
    NoSpace,
    /// Somebody else holds it.
    Busy,
    /// The caller asked for something that cannot be.
    Invalid,
    /// This build or this place cannot do it.
    Unsupported,
    /// The operating system or the engine failed.
    Internal,
}

/// Any failure of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The operating system refused.
    #[error("cannot {op} {}: {source}", file_at(*file, path.as_deref()))]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        file: FileRole,
        /// Its path, where it is known.
        path: Option<PathBuf>,
        /// What it said.
        source: io::Error,
    },
    /// A page is not the one that it should be.
    #[error("{file} is damaged at page {page}: {fault}")]
    Page {
        /// The file.
        file: FileRole,
        /// The page.
        page: PageNo,
        /// What is wrong.
        fault: PageFault,
    },
    /// The spool gave back other bytes than were put there. What is committed is in the log.
    #[error(
        "the spool file gave page {page} back damaged ({fault}); nothing that was committed is lost: open the database again, and look after the disk"
    )]
    Spool {
        /// The page.
        page: PageNo,
        /// What is wrong.
        fault: PageFault,
    },
    /// A page is whole, but its content breaks a rule of its structure.
    #[error("data.pages is damaged at page {page}: expected {expected}, found {found}")]
    Structure {
        /// The page.
        page: PageNo,
        /// The rule.
        expected: &'static str,
        /// The value that breaks it.
        found: u64,
    },
    /// Both copies of the header are damaged, or the file is no page file at all.
    #[error("{} is not a stillfs page file, or both copies of its header are damaged ({fault}); if it was one, restore it from a backup", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with the better copy.
        fault: HeaderFault,
    },
    /// The log has a bad record before commits that are known to have been synced, or a gap.
    #[error("the log is damaged at LSN {at} in {}: {fault}", segment.display())]
    Log {
        /// The segment.
        segment: PathBuf,
        /// Where.
        at: Lsn,
        /// What is wrong.
        fault: LogFault,
    },
    /// A log segment of another database or history lies in the directory.
    #[error("{} belongs to {what} {found}, but data.pages has {expected}; move the file away if it does not belong here", segment.display())]
    ForeignLog {
        /// The segment.
        segment: PathBuf,
        /// "database" or "history".
        what: &'static str,
        /// The id in data.pages.
        expected: String,
        /// The id in the segment.
        found: String,
    },
    /// Made by a later version of stillfs.
    #[error("{} has format version {found}; this build reads up to {known}: use a newer stillfs", path.display())]
    FutureVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that this build knows.
        known: u32,
    },
    /// The directory is in use.
    #[error("{} is in use by another process{}", dir.display(), holder.as_ref().map(|h| format!(" ({h})")).unwrap_or_default())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who, as far as it said.
        holder: Option<String>,
    },
    /// There is no database at the path.
    #[error("{} is not a stillfs database: {missing} is missing", dir.display())]
    NotADatabase {
        /// The directory.
        dir: PathBuf,
        /// The file that should be there.
        missing: &'static str,
    },
    /// The file system gives no locks or no coherence that an engine could rely on.
    #[error("{} is on a {kind} file system, which is not supported: use a local disk", path.display())]
    RemoteFileSystem {
        /// Where.
        path: PathBuf,
        /// Its kind.
        kind: &'static str,
    },
    /// Somebody else could exchange the files that the engine works on.
    #[error("refusing to work in {}: {source}", dir.display())]
    Untrusted {
        /// The database's directory.
        dir: PathBuf,
        /// Who could, and where.
        source: Distrust,
    },
    /// A sync failed before; nothing more is written until the database is opened again.
    #[error(
        "the engine stopped writing after an earlier failure ({cause}); open the database again"
    )]
    Poisoned {
        /// What failed.
        cause: String,
    },
    /// A key, value, table name or option outside the limits.
    #[error("{what} is {found}; the limit is {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The database was opened for reading only.
    #[error("the database is open read-only")]
    ReadOnly,
    /// A commit would reach past what the formats can number.
    #[error("the database is full: {what} cannot grow further")]
    Exhausted {
        /// What.
        what: &'static str,
    },
    /// The page file was moved away or replaced under the engine.
    #[error("{} is not the file that the engine has open: it was moved or replaced; put it back, until then the log keeps every commit", path.display())]
    Moved {
        /// Where it should be.
        path: PathBuf,
    },
    /// An earlier operation of the transaction failed halfway.
    #[error("an earlier operation of this transaction failed: roll it back and begin again")]
    Aborted,
    /// What keeps pre-images could not be prepared, so the database was not opened.
    #[error("cannot prepare for pins: {source}")]
    Sink {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The hook that keeps pre-images refused, so the live page was not overwritten.
    #[error("cannot keep the pre-image of page {page}: {source}")]
    Capture {
        /// The page.
        page: PageNo,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A file with its path, which says by itself which file it is where it ends with that one's name.
fn file_at(file: FileRole, path: Option<&Path>) -> String {
    match path {
        None => file.to_string(),
        Some(path) if path.ends_with(file.to_string()) => path.display().to_string(),
        Some(path) => format!("{file} ({})", path.display()),
    }
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// The file is too short to hold one.
    #[error("the file has only {0} bytes")]
    Short(u64),
    /// The magic bytes are not there.
    #[error("the magic bytes are missing")]
    Magic,
    /// The checksum is wrong.
    #[error("checksum {found:08x} where the content has {expected:08x}")]
    Checksum {
        /// Computed.
        expected: u32,
        /// Stored.
        found: u32,
    },
    /// A field has a value that it cannot have.
    #[error("field {field} is {found}")]
    Field {
        /// Which.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

/// What is wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogFault {
    /// A bad record, and after it one that says that the bad one had been synced.
    #[error("a record is bad, but a later commit says that the log was synced up to LSN {synced}")]
    BeforeSynced {
        /// What the later commit claims.
        synced: Lsn,
    },
    /// The log that the header asks for is not there.
    #[error(
        "the log must start at LSN {wanted}, but no segment covers it; acknowledged commits are missing: put the segments back, or restore a backup"
    )]
    Missing {
        /// Where the header says that it starts.
        wanted: Lsn,
    },
    /// One segment ends before the next begins.
    #[error("the next segment starts at LSN {next}: commits between are missing")]
    Gap {
        /// The start of the next segment.
        next: Lsn,
    },
    /// A segment's header is damaged although later segments follow.
    #[error("the segment's header is damaged")]
    SegmentHeader,
    /// A record is whole but says something that cannot be.
    #[error("the record's {field} is {found}")]
    Record {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// A replay is to stop at a moment that the log at hand does not cover.
    #[error(
        "the moment that is wanted is not between the commits at hand; the nearest is number {nearest}"
    )]
    Outside {
        /// The commit next to it.
        nearest: Timestamp,
    },
    /// A page delta does not fit the page that it is for.
    #[error("a delta of page {page} does not fit the page before it")]
    Delta {
        /// The page.
        page: PageNo,
    },
}

impl EngineError {
    /// An I/O failure without a path.
    pub(crate) fn io(op: &'static str, file: FileRole) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            op,
            file,
            path: None,
            source,
        }
    }

    /// An I/O failure of the file at `path`.
    pub(crate) fn io_at(
        op: &'static str,
        file: FileRole,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = Some(path.into());
        move |source| Self::Io {
            op,
            file,
            path,
            source,
        }
    }

    /// A log of the wrong history.
    pub(crate) fn foreign_history(segment: PathBuf, expected: HistoryId, found: HistoryId) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self::ForeignLog {
            segment,
            what: "history",
            expected,
            found,
        }
    }

    /// A log of the wrong database.
    pub(crate) fn foreign_database(
        segment: PathBuf,
        expected: DatabaseId,
        found: DatabaseId,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Self::ForeignLog {
            segment,
            what: "database",
            expected,
            found,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                _ => ErrorKind::Internal,
            },
            Self::Page { .. }
            | Self::Moved { .. }
            | Self::Structure { .. }
            | Self::Header { .. }
            | Self::Log { .. } => ErrorKind::Corrupt,
            Self::InUse { .. } => ErrorKind::Busy,
            Self::FutureVersion { .. } | Self::RemoteFileSystem { .. } => ErrorKind::Unsupported,
            Self::ForeignLog { .. }
            | Self::NotADatabase { .. }
            | Self::Limit { .. }
            | Self::ReadOnly
            | Self::Untrusted { .. }
            | Self::Aborted
            | Self::Exhausted { .. } => ErrorKind::Invalid,
            Self::Poisoned { .. }
            | Self::Spool { .. }
            | Self::Capture { .. }
            | Self::Sink { .. } => ErrorKind::Internal,
        }
    }
}

/// Shorthand.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_said_once() {
        let text = |file, path: &str| {
            EngineError::io_at("read", file, path)(io::Error::other("no")).to_string()
        };
        let page_file = |path| text(FileRole::PageFile, path);
        assert_eq!(page_file("/d/data.pages"), "cannot read /d/data.pages: no");
        assert_eq!(page_file("copy"), "cannot read data.pages (copy): no");
        let segment = text(FileRole::WalSegment, "/d/wal/1.wal");
        assert_eq!(segment, "cannot read a log segment (/d/wal/1.wal): no");
    }
}
