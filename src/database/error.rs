//! What can go wrong with a database as an application opens it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::amount::{Bytes, Many};
use crate::engine::error::{EngineError, ErrorKind};
use crate::id::PinId;
use crate::shadow::{EndReason, ShadowError};
use crate::view::tree::ReadError;

/// Any failure of a [`crate::Database`] that is not the engine's alone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The engine's.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The shadow's.
    #[error("cannot keep the pin: {0}")]
    Shadow(#[from] ShadowError),
    /// A read of a view.
    #[error("cannot read the view: {0}")]
    View(#[from] ReadError),
    /// The pin server's.
    #[error("cannot serve pins: {0}")]
    Pin(#[from] crate::pin::PinError),
    /// The operating system refused.
    #[error("cannot {op} {what}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A maximum age that no pin can have.
    #[error("a pin's maximum age is from 1 s to 366 days, not {} ms", found.as_millis())]
    MaxAge {
        /// What was asked for.
        found: Duration,
    },
    /// A shadow limit that no pin can keep.
    #[error("a shadow limit of {} is less than every pin takes, {}", Bytes(*found), Bytes(*min))]
    ShadowLimit {
        /// What was asked for.
        found: u64,
        /// The least.
        min: u64,
    },
    /// Nobody may have that pin back.
    #[error("no adopted pin {pin} waits to be reclaimed with that token")]
    NotReclaimable {
        /// The pin that was asked for.
        pin: PinId,
    },
    /// What is held would be of a database that is no more.
    #[error("the database has {}: end what `stillfs status` lists first", Many(*pins as u64, "pin"))]
    Pinned {
        /// How many pins.
        pins: usize,
    },
    /// Nothing can be pinned that is about to be another one.
    #[error("the database is being exchanged for one from a backup: try again when that is over")]
    Exchanging,
    /// Somebody else's files lie where a restore works.
    #[error("{} has something in it that no restore makes: move it elsewhere", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// The database that a restore has put in its place was in use, and does not open any more.
    #[error(
        "{source}; the database that it took the place of is kept in {}: to go back to it, move its data.pages \
         over the other one, and the next start brings the rest",
        old.display()
    )]
    Restored {
        /// Where the old one is.
        old: PathBuf,
        /// Why it does not open.
        source: Box<DatabaseError>,
    },
    /// A checkpoint was held up, so that the page file needs its log.
    #[error("the database cannot be exchanged: its log could not be emptied into the page file")]
    LogNeeded,
    /// A file was moved away or replaced under a running engine.
    #[error("{} is not the file that the engine has open as {what}: put it back", path.display())]
    Moved {
        /// Which file.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
    },
}

impl DatabaseError {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Engine(error) => error.kind(),
            Self::Shadow(
                ShadowError::NoRoom { .. }
                | ShadowError::AtLimit { .. }
                | ShadowError::Ended(EndReason::ShadowFull | EndReason::DiskFull),
            ) => ErrorKind::NoSpace,
            Self::Shadow(ShadowError::Ended(_)) => ErrorKind::PinLost,
            Self::Shadow(ShadowError::Io { source, .. }) | Self::Io { source, .. } => {
                match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                    _ => ErrorKind::Internal,
                }
            }
            Self::View(ReadError::PinEnded { .. }) | Self::NotReclaimable { .. } => {
                ErrorKind::PinLost
            }
            Self::MaxAge { .. } | Self::ShadowLimit { .. } | Self::Occupied { .. } => {
                ErrorKind::Invalid
            }
            Self::Restored { source, .. } => source.kind(),
            Self::Moved { .. } => ErrorKind::Corrupt,
            Self::Pinned { .. } | Self::Exchanging | Self::LogNeeded => ErrorKind::Busy,
            Self::Shadow(_) | Self::View(_) | Self::Pin(_) => ErrorKind::Internal,
        }
    }
}
