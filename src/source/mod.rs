//! Sources: what can be mounted, behind one contract. A source is recognised by its content, pins a
//! moment of it, and yields the tree that a mount shows.
//!
//! Runs in the mount daemon and in the commands that read (`check`, `dump`).
//!
//! ```text
//! path --recognise--> Kind --pin--> PinnedSource { tree, facts, lease }
//! ```
//!
//! A source's obligations, which `conformance` asks of each:
//!
//! * A1 What its tree gives is one committed state of each database, or an error.
//! * A2 Names, sizes, inode numbers, owners, modes and times are fixed at the pin, the same for every
//!   pin of an unchanged database, and strictly different in time whenever content differs.
//! * A3 Nothing of the engine's own helper files is in the tree.
//! * A4 Giving up the lease lets the engine go on as if there had been no pin.
//!
//! Not here: FUSE, processes, exit codes.

#[cfg(test)]
mod conformance;
mod error;
mod facts;
#[cfg(test)]
mod fixture;
pub mod native;
mod native_lease;
mod options;
pub mod sqlite;
pub mod still;
pub mod tree;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::PinId;
use crate::lsn::{Lsn, Timestamp};
use crate::os::path::{FileType, canonical, metadata};
use crate::os::readiness::{Deadline, StopSignal};
use crate::os::{Clock, Host};
use crate::view::ReadCounts;
use crate::view::tree::Tree;

pub use error::SourceError;
pub use options::{
    Files, HeaderShown, Instant, Keeping, PinAs, Recovery, SqliteOptions, TreeOptions, Unpinned,
    WalFull,
};

/// What is known of a pinned source.
#[derive(Clone, Debug)]
pub struct SourceFacts {
    /// Kind of the source.
    pub kind: &'static str,
    /// The pin.
    pub pin: PinId,
    /// The pinned commit, where the source numbers its commits.
    pub timestamp: Option<Timestamp>,
    /// Its LSN, likewise.
    pub lsn: Option<Lsn>,
    /// The moment that the view shows, nanoseconds since 1970.
    pub wall_ns: u64,
    /// Between the first and the last pin of a set of databases; zero for a single one.
    pub skew: Duration,
    /// How long the pin may last.
    pub max_age: Duration,
}

/// How a lease is, for people: whether a read is right is told by the read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseView {
    /// Held.
    Held,
    /// The engine ended the pin, and says why.
    Ended(crate::pin::EndReason),
    /// No engine has run since the pin was taken; the next one is asked for it.
    NoEngine,
    /// The engine is gone; the view stands, and the next engine is asked for the pin.
    EngineGone,
    /// An engine started that did not take the pin over: reads fail by the fence.
    PassedOver,
    /// It is lost, and what reads it says why.
    Lost,
}

/// What keeps a pin. Dropping it gives the pin up.
pub trait SourceLease: Send + fmt::Debug {
    /// Waits until something happens to the pin, or `timeout` is over, or `stop` is raised.
    fn watch(&mut self, timeout: Duration, stop: Option<&StopSignal>) -> LeaseView;
    /// How often the pin was given back by an engine that started.
    fn reconnects(&self) -> u64;
    /// Gives the pin up and waits until that is done.
    ///
    /// Errors: `Pin`; the pin is given up all the same.
    fn release(self: Box<Self>) -> Result<(), SourceError>;
}

/// Waits for `duration`, or until `stop` is raised; whether it was.
fn rest(clock: &dyn Clock, duration: Duration, stop: Option<&StopSignal>) -> bool {
    let waited = stop.map(|stop| stop.wait(Deadline::after(duration)));
    match waited {
        Some(Ok(is_raised)) => is_raised,
        // Whoever cannot be woken asks again as often as without a signal.
        Some(Err(_)) | None => {
            clock.sleep(duration);
            false
        }
    }
}

/// One pinned source.
#[derive(Debug)]
pub struct PinnedSource {
    /// What a mount shows.
    pub tree: Arc<Tree>,
    /// What is known of it.
    pub facts: SourceFacts,
    /// What reading it cost so far.
    pub reads: Arc<dyn ReadMeter>,
    /// What keeps it.
    pub lease: Box<dyn SourceLease>,
    /// Databases that could not be pinned and are not in the tree.
    pub left_out: Vec<LeftOut>,
}

/// A database that a mount does not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Where it is, relative to the source.
    pub path: PathBuf,
    /// Why it could not be pinned.
    pub reason: String,
}

/// How one database of a mount is, for people and for programs: the names are stable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Where it is, relative to the source; empty for the source itself.
    pub path: String,
    /// `sqlite` or `stillfs`.
    pub kind: String,
    /// `held`: a lock in the live database keeps it; `kept`: a copy of our own does; `ended`.
    pub state: String,
    /// Why it ended, if it did.
    pub reason: Option<String>,
    /// What is read: `wal` (log and file), `file` (a checkpointed file), `copy`, `clone`, `pages`.
    pub how: String,
    /// Bytes of a page; 0 where unknown.
    pub page_size: u64,
    /// Pages of the view; 0 where unknown.
    pub page_count: u64,
    /// Bytes of log that cannot be reused while the pin is held.
    pub held_wal_bytes: u64,
    /// How fast that grows, over the last minutes.
    pub growth_bytes_per_second: u64,
    /// Where it must end.
    pub wal_limit_bytes: Option<u64>,
    /// Bytes of a private copy.
    pub scratch_bytes: u64,
    /// For how long writers were kept from committing while it was copied, in microseconds; 0 in WAL mode.
    pub lock_held_us: u64,
    /// What is to be told of it.
    pub warning: Option<String>,
    /// How the shown file is opened in place: `immutable=1` or plainly.
    pub open_with: String,
}

/// Counts what was read of a view, and looks whether it still stands.
pub trait ReadMeter: Send + Sync + fmt::Debug {
    /// What reading cost so far.
    fn counts(&self) -> ReadCounts;
    /// The last read that failed while the pin held, if one did.
    fn last_failure(&self) -> Option<String>;
    /// Makes every later read fail: the pin is at its maximum age.
    fn expire(&self);
    /// How each database is, where that is known one by one.
    fn members(&self) -> Vec<MemberStatus> {
        Vec::new()
    }
    /// Whether the pin holds at this moment. Errors: any of a read.
    fn look(&self) -> Result<(), crate::view::tree::ReadError>;
}

/// What kind of thing can be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory of the native engine.
    Native,
    /// An SQLite database.
    Sqlite,
    /// A directory of other files, with databases among them: whether there are any is seen at the pin.
    Tree,
}

/// What is at `path`, of which nothing but its first bytes, and those of what is beside it, is read. A
/// regular file that `sqlite_files` names is an SQLite database whatever is in it.
///
/// Errors: `Missing`, `NotASource`, `Io`.
pub fn kind_of(host: &Host, path: &Path, sqlite_files: &[PathBuf]) -> Result<Kind, SourceError> {
    let found = metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SourceError::Missing {
            path: path.to_owned(),
        },
        _ => SourceError::io("look at", path)(error),
    })?;
    match found.file_type {
        FileType::Directory => match native::recognise(host, path) {
            Ok(()) => Ok(Kind::Native),
            Err(SourceError::NotASource { .. }) => Ok(Kind::Tree),
            Err(error) => Err(error),
        },
        FileType::File => {
            let path = canonical(path).map_err(SourceError::io("look at", path))?;
            let is_path = |named: &PathBuf| canonical(named).is_ok_and(|named| named == path);
            match sqlite_files.iter().any(is_path) || sqlite::recognise(host, &path)? {
                true => Ok(Kind::Sqlite),
                false => Err(SourceError::NotASource { path }),
            }
        }
        _ => Err(SourceError::NotASource {
            path: path.to_owned(),
        }),
    }
}

/// Whether there is something at `path` that can be pinned.
///
/// Errors: `Missing`, `NotASource`, `Io`.
pub fn recognise(host: &Host, path: &Path) -> Result<(), SourceError> {
    kind_of(host, path, &[]).map(drop)
}

/// Recognises what is at `path` and pins it.
///
/// Errors: any [`SourceError`]; nothing is then pinned.
pub fn pin(host: &Host, path: &Path, pin_as: &PinAs<'_>) -> Result<PinnedSource, SourceError> {
    match kind_of(host, path, &pin_as.tree.sqlite_files)? {
        Kind::Native => native::pin(host, path, pin_as),
        Kind::Sqlite => tree::pin_file(host, path, pin_as),
        Kind::Tree => tree::pin(host, path, pin_as),
    }
}

/// A number for a pin that no engine numbers.
fn draw_pin_id(host: &Host) -> Result<PinId, SourceError> {
    let mut id = [0; 16];
    let drawn = host.random.fill(&mut id);
    drawn.map_err(SourceError::io("draw a number for", Path::new("the pin")))?;
    Ok(PinId(id))
}
