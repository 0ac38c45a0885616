//! The files of one database in WAL mode, held open: each an open file of its own, with locks of its own.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use crate::os::File;
use crate::os::folder::Folder;
use crate::os::path::{Metadata, metadata_of};
use crate::source::sqlite::site::Site;
use crate::source::sqlite::wal_index::IndexFile;

/// The names of a database's files, all in one directory.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) folder: Arc<Folder>,
    pub(super) database: OsString,
    pub(super) log: OsString,
    pub(super) index: OsString,
}

impl Names {
    /// Those of the database at `site`.
    pub(super) fn of(site: &Site) -> Self {
        let database = site.name();
        let beside = |suffix: &str| {
            let mut name = database.to_owned();
            name.push(suffix);
            name
        };
        Self {
            folder: Arc::clone(site.folder()),
            database: database.to_owned(),
            log: beside("-wal"),
            index: beside("-shm"),
        }
    }

    /// Whether `name` leads to `file`. Errors: the system's.
    pub(super) fn leads_to(&self, name: &OsStr, file: &dyn File) -> io::Result<bool> {
        let found = self.folder.metadata(name)?;
        Ok(found.map(|found| found.identity) == Some(file.identity()?))
    }
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct LiveFiles {
    pub(super) names: Names,
    pub(super) database: Arc<dyn File>,
    pub(super) log: Arc<dyn File>,
    pub(super) index: IndexFile,
}

/// What became of the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NamesSeen {
    /// Whoever opens the database by a name of its finds the log and the index that we have.
    Good,
    /// Whoever opens it finds others, or makes them, and does not see our locks.
    Parted,
}

impl LiveFiles {
    /// Whether everybody who can get at the database file sees our locks (Q6). Errors: the system's.
    pub(super) fn look_at_names(&self) -> io::Result<NamesSeen> {
        let names = &self.names;
        let is_good = if names.leads_to(&names.database, &*self.database)? {
            names.leads_to(&names.index, &*self.index.file)?
                && names.leads_to(&names.log, &*self.log)?
        } else {
            // Nobody new can open a file without a name, and who has it open has our index too.
            facts(&*self.database)?.link_count == 0
        };
        Ok(if is_good {
            NamesSeen::Good
        } else {
            NamesSeen::Parted
        })
    }
}

/// What `fstat` says. Errors: the system's; `Unsupported` for a simulated file.
pub(super) fn facts(file: &dyn File) -> io::Result<Metadata> {
    metadata_of(file.as_fd().ok_or(io::ErrorKind::Unsupported)?)
}
