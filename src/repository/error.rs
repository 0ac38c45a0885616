//! What can go wrong with a repository, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::engine::error::EngineError;
use crate::repository::BackupId;
use crate::repository::digest::Digest;
use crate::repository::restore::CoveredRange;
use crate::repository::store_fault::StoreFault;
use crate::view::tree::{LiveError, ReadError};

/// Why something with a repository did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// Nothing that is a repository is there.
    #[error("there is no repository at {place}; `stillfs backup SOURCE --repo {place}` makes one")]
    NoRepository {
        /// Where it was looked for.
        place: String,
    },
    /// Something else is there.
    #[error("{place} is neither a repository nor an empty folder")]
    NotARepository {
        /// Where.
        place: String,
    },
    /// A format of a later version.
    #[error(
        "{object} has format {found}, and this stillfs reads up to {known}: use a newer stillfs"
    )]
    Version {
        /// What was read.
        object: String,
        /// Its version.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// Another writer is at work.
    #[error("another process writes to the repository at {place}; wait for it, or end it")]
    Locked {
        /// Where.
        place: String,
    },
    /// Another archiver is at work on the same log.
    #[error("another process archives this log to the repository at {place}; one is enough")]
    LineLocked {
        /// Where.
        place: String,
    },
    /// The archive of a log went on with another copy of the database.
    #[error(
        "{} is not what was archived last: another copy of the database, or a later state of it, is archived in the same repository; archive each copy in a repository of its own, or start the engine here anew to go on from this one",
        dir.display()
    )]
    OtherCopy {
        /// The directory of the database.
        dir: PathBuf,
    },
    /// The log of a database cannot be read.
    #[error("cannot archive the log of {}: {source}", dir.display())]
    Log {
        /// The directory of the database.
        dir: PathBuf,
        /// Why.
        source: EngineError,
    },
    /// An object that should not be there is.
    #[error("{object} exists already")]
    Exists {
        /// Its name.
        object: String,
    },
    /// An object is not there.
    #[error("{object} is missing in the repository")]
    Missing {
        /// Its name.
        object: String,
    },
    /// An object is listed, and is not there whenever it is read.
    #[error(
        "{object} is listed in the repository, and gone whenever it is read: do it once more; if it stays so, remove that name"
    )]
    Unsteady {
        /// Its name.
        object: String,
    },
    /// An object is shorter than it must be.
    #[error("{object} ends at {bytes} bytes, and {needed} are needed")]
    Cut {
        /// Its name.
        object: String,
        /// Its size.
        bytes: u64,
        /// What is needed of it.
        needed: u64,
    },
    /// An object is damaged.
    #[error("{object} is damaged: {what}")]
    Damaged {
        /// Its name.
        object: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Content that is not what was backed up.
    #[error("{object}: content has digest {found}, and {expected} was backed up")]
    OtherContent {
        /// Where it is.
        object: String,
        /// What the digest must be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// No backup has this name.
    #[error("there is no backup {name} in the repository; `stillfs backups` lists them")]
    NoBackup {
        /// The name.
        name: String,
    },
    /// Several backups begin with this name.
    #[error("{name} is not one backup but {count}: give more of its name")]
    ManyBackups {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// An incremental or differential backup needs one to compare with.
    #[error(
        "there is no {needed} backup of {source_place} to build on: take a full one first, or --type auto"
    )]
    NoBase {
        /// What is backed up.
        source_place: String,
        /// What kind it needs.
        needed: &'static str,
    },
    /// The backup is held.
    #[error("backup {backup} is held; `stillfs hold REPO {backup} --release` lets it go")]
    Held {
        /// Which.
        backup: BackupId,
    },
    /// There is not enough room.
    #[error("no space left in {place}: {needed} bytes are needed and {free} are free")]
    NoSpace {
        /// Where.
        place: String,
        /// What is needed.
        needed: u64,
        /// What is there.
        free: u64,
    },
    /// A point in time that no backup and log lead to.
    #[error(
        "{moment} is not covered on the line of history {history}; {}{}",
        ranges(covered),
        elsewhere(others)
    )]
    NotCovered {
        /// What was asked for.
        moment: String,
        /// On which line it was looked for.
        history: String,
        /// What is covered there, oldest first.
        covered: Vec<CoveredRange>,
        /// Other histories of the database.
        others: Vec<String>,
    },
    /// Nobody can say on which line a point in time is looked for.
    #[error("{why}{}", elsewhere(known))]
    NoMoments {
        /// Why not.
        why: &'static str,
        /// The histories that there are.
        known: Vec<String>,
    },
    /// A restore would overwrite something.
    #[error("{} exists and is not empty; --force replaces it", path.display())]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// Somebody has the target open.
    #[error("{} is in use by {user}: stop it first", path.display())]
    TargetInUse {
        /// The target.
        path: PathBuf,
        /// Who.
        user: String,
    },
    /// The target cannot be what the backup is.
    #[error("{} cannot be the target: {why}", path.display())]
    Target {
        /// The target.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// What was restored does not stand its test.
    #[error("restored {path} is not sound: {what}")]
    Unsound {
        /// Which file or database.
        path: String,
        /// What was found.
        what: String,
    },
    /// Reading the view failed.
    #[error("cannot read {path} of the view: {source}")]
    View {
        /// Which file.
        path: String,
        /// Why.
        source: ReadError,
    },
    /// A plain file could not be read.
    #[error("cannot read {path}: {source}")]
    Live {
        /// Which file.
        path: String,
        /// Why.
        source: LiveError,
    },
    /// Somebody cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// A thread of a job ended without an answer: a bug.
    #[error("a worker of the backup ended without an answer; what it was doing is in the log")]
    WorkerLost,
    /// The operating system refused.
    #[error("cannot {op} {object}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// With what.
        object: String,
        /// What it said.
        source: io::Error,
    },
    /// An object store did not do what it was asked.
    #[error("cannot {op} {object} in {place}: {fault}{}", tried(*tries))]
    Store {
        /// What was tried.
        op: &'static str,
        /// With what.
        object: String,
        /// Where.
        place: String,
        /// Why not.
        fault: StoreFault,
        /// How often it was asked.
        tries: u32,
    },
    /// Backups are to be forgotten by rules, and there is no rule that keeps any.
    #[error("no rule keeps a backup, so that all would go: give at least one, as --keep-last 3")]
    NothingKept,
    /// A backup is to go, and nobody knows whether it is held.
    #[error(
        "whether backup {backup} is held cannot be read: {source}; `stillfs hold REPO {backup} --release` says that it is not"
    )]
    HoldUnknown {
        /// Which.
        backup: BackupId,
        /// Why not.
        source: Box<RepositoryError>,
    },
    /// A backup has a mark and no manifest.
    #[error(
        "the manifest of backup {backup} is lost, and nobody knows what it needs; forget it by its name to give it up"
    )]
    LostManifest {
        /// Which.
        backup: BackupId,
    },
    /// A repository is to be copied into itself.
    #[error("{place} is the repository itself, or a copy of its files: copy into another one")]
    SameRepository {
        /// Where the copy was to go.
        place: String,
    },
    /// The repository is encrypted, and nothing was given to open it with.
    #[error(
        "the repository at {place} is encrypted: give a key by --key-file or --passphrase-file, or by STILLFS_KEY_FILE or STILLFS_PASSPHRASE_FILE"
    )]
    KeyNeeded {
        /// Where.
        place: String,
    },
    /// What was given does not open it.
    #[error("the key that was given does not open the repository at {place}: it is for other keys")]
    WrongKey {
        /// Where.
        place: String,
    },
    /// A key was given, and nothing is encrypted.
    #[error(
        "a key was given, and the repository at {place} is not encrypted: give none if that is meant; `stillfs init` makes an encrypted one"
    )]
    NotEncrypted {
        /// Where.
        place: String,
    },
    /// A key was given, and there is no repository: one that is made now would not be encrypted.
    #[error(
        "a key was given, and there is no repository at {place}: `stillfs init {place}` makes an encrypted one"
    )]
    NoEncrypted {
        /// Where.
        place: String,
    },
    /// Somebody changed the keys meanwhile.
    #[error("the keys of the repository at {place} were changed meanwhile: do it once more")]
    KeysChanged {
        /// Where.
        place: String,
    },
    /// Nobody of this name holds the keys.
    #[error("{name} holds no keys of the repository; `stillfs key list` shows who does")]
    NoHolder {
        /// Who.
        name: String,
    },
    /// Nobody could open it any more.
    #[error(
        "nobody else holds the keys of the repository at {place}, so that it would be lost: add somebody first"
    )]
    LastHolder {
        /// Where.
        place: String,
    },
    /// There are as many keys as there can be.
    #[error("there are {limit} already, and a repository can have no more: copy it into a new one")]
    KeyLimit {
        /// How many.
        limit: usize,
    },
}

fn ranges(covered: &[CoveredRange]) -> String {
    let shown: Vec<String> = covered.iter().map(ToString::to_string).collect();
    let newest = covered.iter().map(|range| range.last.timestamp).max();
    match newest {
        None => "nothing is covered there: it needs a backup at or before the moment".to_owned(),
        Some(newest) => format!(
            "covered is {}; the newest commit of it is had by --to-timestamp {newest}",
            shown.join("; ")
        ),
    }
}

fn elsewhere(histories: &[String]) -> String {
    match histories.is_empty() {
        true => String::new(),
        false => format!("; other lines, by --history: {}", histories.join(", ")),
    }
}

fn tried(tries: u32) -> String {
    match tries {
        0 | 1 => String::new(),
        tries => format!(" (tried {tries} times)"),
    }
}

impl RepositoryError {
    /// For `map_err`: what was tried with what.
    pub(super) fn io(
        op: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Self {
        let object = object.into();
        move |source| Self::Io { op, object, source }
    }

    /// What is wrong with the object that was asked for. Errors: this, where a store did not answer: that
    /// says nothing of what it has, and the next object would be waited for as long.
    pub(super) fn of_object(self) -> Result<Self> {
        match self {
            error @ Self::Store { .. } => Err(error),
            error => Ok(error),
        }
    }
}

/// Short for results of this module.
pub(super) type Result<T, E = RepositoryError> = std::result::Result<T, E>;
