//! Why a source cannot be pinned or read.

use std::io;
use std::path::PathBuf;

use crate::engine::error::EngineError;
use crate::os::process::is_out_of_files;
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
    #[error("{} is no database that stillfs knows: neither a stillfs directory nor an SQLite file; an encrypted one that shows nothing is named with mount --sqlite", path.display())]
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
    /// An SQLite database that cannot be pinned.
    #[error("{} cannot be pinned: {reason}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why, and what helps.
        reason: crate::source::sqlite::Unpinnable,
    },
    /// A directory tree in which nothing would be still.
    #[error("{} holds no database that stillfs knows, so that nothing of it would be still; name what cannot be recognised with --sqlite, or show clones of its files with -o files=clone", path.display())]
    NoDatabase {
        /// The tree.
        path: PathBuf,
    },
    /// Databases or other parts of a tree that cannot be had, and that may be left out.
    #[error("{first}; {}", advice(*others))]
    Members {
        /// The first of them.
        first: Box<SourceError>,
        /// How many others there are.
        others: usize,
    },
    /// Something below a tree that cannot be had, and that is no database.
    #[error("{} {reason}", path.display())]
    Part {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A plain file of a tree cannot be cloned.
    #[error("cannot clone {}: {source}; -o files=clone needs a file system that shares blocks between files, as XFS and btrfs do", path.display())]
    NoClone {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Holding clones of the files of a tree takes more descriptors than there may be.
    #[error(
        "-o files=clone keeps a descriptor for each of {files} files, and {limit} may be open: raise the limit (ulimit -n)"
    )]
    TooManyFiles {
        /// How many files there are.
        files: usize,
        /// How many may be open.
        limit: u64,
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
    #[error("cannot {op} {}: {source}{}", path.display(), advice_on(source))]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// What helps a tree of which this one and so many others cannot be had.
fn advice(others: usize) -> String {
    match others {
        0 => "--skip-unpinnable shows the tree without it".to_owned(),
        _ => format!(
            "and so it is with {others} more; --skip-unpinnable shows the tree without them"
        ),
    }
}

fn advice_on(error: &io::Error) -> &'static str {
    match is_out_of_files(error) {
        true => "; raise the limit of open files (ulimit -n)",
        false => "",
    }
}

impl SourceError {
    pub(super) fn io(op: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }
}
