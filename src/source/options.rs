//! What somebody who pins asks for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::database::PinOptions;

/// What somebody who pins says of himself, and asks for.
#[derive(Clone, Debug)]
pub struct PinAs<'a> {
    /// Who holds the pin, as `status` shows it.
    pub holder: &'a str,
    /// Where it will be mounted, if anywhere.
    pub mount_point: Option<&'a Path>,
    /// What bounds the pin; the maximum age counts for every source.
    pub options: PinOptions,
    /// What is asked of SQLite databases.
    pub sqlite: SqliteOptions,
    /// What is asked of directory trees.
    pub tree: TreeOptions,
}

impl<'a> PinAs<'a> {
    /// A pin that asks for nothing special.
    #[must_use]
    pub fn plain(holder: &'a str) -> Self {
        Self {
            holder,
            mount_point: None,
            options: PinOptions::default(),
            sqlite: SqliteOptions::default(),
            tree: TreeOptions::default(),
        }
    }
}

/// What bytes 18 and 19 of a shown SQLite file say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderShown {
    /// What they say in the database: a restored application finds its journal mode.
    #[default]
    AsItIs,
    /// Rollback mode, so that stock SQLite opens the file in place on a read-only mount.
    Rollback,
}

/// Whether what an application would do at its next start may be done for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// SQLite, in a process of its own, rebuilds the index of a log and rolls a hot journal back.
    #[default]
    Allowed,
    /// Such a database is refused.
    Refused,
}

/// What the view of a database in WAL mode is kept by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeping {
    /// A read mark in the live database.
    #[default]
    Mark,
    /// A clone of its files, made at the pin; the mark is let go at once.
    Clone,
}

/// What happens when the log of a database in WAL mode reaches its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalFull {
    /// The pin ends.
    #[default]
    Break,
    /// What the view still needs is copied to a private file, and the mark is let go.
    Spill,
}

/// What is asked of SQLite databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteOptions {
    /// What the header says.
    pub header: HeaderShown,
    /// Whether SQLite may recover a database that nobody has open.
    pub recovery: Recovery,
    /// What keeps a view.
    pub keeping: Keeping,
    /// Bytes of log at which `wal_full` happens; `None` for no limit.
    pub wal_limit_bytes: Option<u64>,
    /// What happens there.
    pub wal_full: WalFull,
    /// How long a lock that stops writers may be held while a database in rollback mode is copied.
    pub max_lock: Duration,
    /// Where private copies are made that are no clones; `None` for the system's place.
    pub scratch: Option<PathBuf>,
    /// The program whose `sqlite` command runs SQLite; `None` for the running one.
    pub helper: Option<PathBuf>,
}

impl SqliteOptions {
    /// How long writers are stopped at most, unless asked otherwise.
    pub const MAX_LOCK_DEFAULT: Duration = Duration::from_millis(50);
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            header: HeaderShown::default(),
            recovery: Recovery::default(),
            keeping: Keeping::default(),
            wal_limit_bytes: None,
            wal_full: WalFull::default(),
            max_lock: Self::MAX_LOCK_DEFAULT,
            scratch: None,
            helper: None,
        }
    }
}

/// How the plain files of a tree are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Files {
    /// As they are when they are read.
    #[default]
    Live,
    /// As they were at the pin: each is cloned, which the file system must be able to do.
    Clone,
}

/// When the databases of a tree are pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Instant {
    /// One right after the other.
    #[default]
    Close,
    /// All at one moment at which none of them is written: a transaction over several is whole.
    Same,
}

/// What becomes of a database that cannot be pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unpinned {
    /// The mount fails.
    #[default]
    Refused,
    /// It is left out and reported.
    LeftOut,
}

/// What is asked of directory trees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeOptions {
    /// How plain files are shown.
    pub files: Files,
    /// Files that are SQLite databases although nothing in them says so; absolute.
    pub sqlite_files: Vec<PathBuf>,
    /// When databases are pinned.
    pub instant: Instant,
    /// What becomes of a database that cannot be pinned.
    pub unpinned: Unpinned,
}
