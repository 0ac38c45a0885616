//! Why an SQLite database cannot be pinned, and what helps.

use std::time::Duration;

use crate::amount::Bytes;
use crate::os::file_system::RefusedFileSystem;

pub use crate::source::sqlite::scratch::ScratchError;

pub use crate::source::sqlite::lock_bytes::Holder;

/// See the head of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unpinnable {
    /// It lacks something that SQLite would make at its next start, and that was forbidden.
    #[error(
        "it must be recovered by SQLite first, which -o no_recover forbids: open it once with its application"
    )]
    NeedsRecovery,
    /// Its header is to be shown changed, and cannot be seen.
    #[error(
        "its header cannot be shown changed, because the file is encrypted: leave -o sqlite_header=rollback out"
    )]
    HeaderUnreadable,
    /// A clone was asked for, and cannot be made.
    #[error(
        "it cannot be cloned: {0}; leave -o clone out, or keep the database on a file system that shares blocks (xfs, btrfs)"
    )]
    NoClone(#[source] ScratchError),
    /// SQLite could not recover it.
    #[error(transparent)]
    Recovery(#[from] crate::source::sqlite::RecoveryError),
    /// SQLite recovered it, and it still is as it was.
    #[error(
        "SQLite opened it and left it without a usable -shm file: try again, or look at it with its application"
    )]
    NotRecovered,
    /// Locks do not reach everybody there.
    #[error("{0}: SQLite's locks and logs are not safe there; mount where the database runs")]
    FileSystem(#[source] RefusedFileSystem),
    /// Somebody has the database for himself.
    #[error(
        "it is locked by {by}: that application uses PRAGMA locking_mode=EXCLUSIVE, or a commit takes long; take the snapshot when it has stopped, or let it use locking_mode=NORMAL"
    )]
    Locked {
        /// Who.
        by: Holder,
    },
    /// A transaction did not end in time.
    #[error("{by} has been writing to it for too long: try again, or without --atomic-set")]
    Writing {
        /// Who.
        by: Holder,
    },
    /// The index of the log did not hold still.
    #[error("no read mark in its -shm file could be had in time: try again")]
    NoMark,
    /// The index cannot be written by this user, and the application holds no mark that would do.
    #[error(
        "its -shm file is not writable by this user, and no mark in it can be shared: mount as the owner of the database or as root"
    )]
    IndexNotWritable,
    /// Somebody uses the file with another log.
    #[error(
        "{by} has it open in WAL mode with another -wal and -shm than those of this name: mount it by the name that its application uses, or, if those files were removed or replaced, stop and start the application"
    )]
    OtherIndex {
        /// Who.
        by: Holder,
    },
    /// Another file took its name while it was opened.
    #[error("another file took its place while it was opened: try again")]
    Replaced,
    /// The log or its index is no plain file of one name.
    #[error(
        "{file} is no plain file with one name: remove the other name, or what is in its place"
    )]
    StrangeFile {
        /// Which: `-wal` or `-shm`.
        file: &'static str,
    },
    /// The application runs, and its log has no name.
    #[error("its -wal file was removed while its application runs: stop and start the application")]
    LogRemoved,
    /// Two logs.
    #[error(
        "it uses two logs (journal_mode=WAL2), which this version cannot pin: use journal_mode=WAL"
    )]
    TwoLogs,
    /// Nothing is in the file, and a log is beside it.
    #[error(
        "the file is empty and has a -wal file beside it, which SQLite would delete: move one of them away"
    )]
    EmptyBesideLog,
    /// It cannot be locked, and others may write it.
    #[error(
        "it is on a read-only mount of a file system that others may write: mount it where it can be locked"
    )]
    OthersMayWrite,
    /// It must be rolled back, and cannot be.
    #[error(
        "it has a hot journal and is on read-only media: copy it and its -journal to where SQLite can roll it back"
    )]
    HotJournalOnReadOnlyMedia,
    /// Something in it cannot be.
    #[error("{what}: check it with its application (PRAGMA integrity_check)")]
    Damaged {
        /// What.
        what: &'static str,
    },
    /// It was written while it was read without locks.
    #[error("it changed on what looked like read-only media: try again")]
    Changed,
    /// A copy in rollback mode would keep writers waiting for too long.
    #[error(
        "it is in rollback-journal mode and is written too often: copying its {} would keep writers waiting for about {} ms, and --max-lock allows {} ms; let its application use PRAGMA journal_mode=WAL (once, it stays), put it on a file system that shares blocks (xfs, btrfs), or raise --max-lock",
        Bytes(*bytes), estimate.as_millis(), max_lock.as_millis()
    )]
    CopyTooLong {
        /// Bytes of the database.
        bytes: u64,
        /// How long it takes, measured or seen.
        estimate: Duration,
        /// How long it may take.
        max_lock: Duration,
    },
    /// A journal stays hot.
    #[error("SQLite opened it and left its -journal as it was: look at it with its application")]
    StaysHot,
    /// It is in WAL mode by now.
    #[error("its application changed its journal mode to WAL at this moment: try again")]
    ModeChanged,
    /// It was written under our lock.
    #[error("it was written by somebody who does not heed its locks: stop that")]
    LockIgnored,
    /// There is no private copy of it.
    #[error("it is in rollback-journal mode and must be copied: {0}")]
    NoCopy(#[source] ScratchError),
    /// The log is at the limit already.
    #[error(
        "its log has {} already, where --source-wal-limit would end the view: raise it, or let the application make a checkpoint first", Bytes(*limit_bytes)
    )]
    LogAtLimit {
        /// The limit.
        limit_bytes: u64,
    },
}
