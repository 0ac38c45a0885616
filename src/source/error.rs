//! Why a source cannot be pinned or read.

use std::io;
use std::path::PathBuf;

use crate::engine::error::EngineError;
use crate::pin::PinError;
use crate::view::tree::ReadError;

/// Any failure of a source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Nothing is there.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// Nothing that this build can pin is there.
    #[error("{} is not a stillfs database: it has no data.pages that begins like one", path.display())]
    NotASource {
        /// The path.
        path: PathBuf,
    },
    /// A file that is no page file.
    #[error("{} is not a stillfs database: it does not begin like a data.pages file", path.display())]
    NotAPageFile {
        /// The path.
        path: PathBuf,
    },
    /// It is a database, but no engine runs on it.
    #[error("no engine runs on {}", path.display())]
    NotRunning {
        /// The path.
        path: PathBuf,
    },
    /// No engine runs on it, and without one a pin must be written into the directory.
    #[error("no engine runs on {}, and without one a mount must write to {}/shadow, which fails: {source}; mount as the user who owns it, start an engine, or copy the directory as it is, since nobody writes it", path.display(), path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A pin without an engine could not be taken.
    #[error(transparent)]
    Database(crate::database::DatabaseError),
    /// An engine runs, but serves no pins to other processes.
    #[error("the engine that runs on {} serves no pins to other processes: open it with PinServing::On", path.display())]
    NoPinServer {
        /// The path.
        path: PathBuf,
    },
    /// The engine has another file open than the one at the path.
    #[error("{} is not the file that the engine has open: it was moved or replaced under it", path.display())]
    Moved {
        /// The path.
        path: PathBuf,
    },
    /// The engine refused, or did not answer.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The view cannot be read.
    #[error(transparent)]
    View(#[from] ReadError),
    /// The content cannot be understood.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The operating system refused.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl SourceError {
    pub(super) fn io(op: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }
}
