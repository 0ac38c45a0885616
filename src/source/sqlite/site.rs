//! Where a database is: a directory that is held, and a name in it.
//!
//! Whoever may exchange directories above a file can make its path lead to another one from one moment to
//! the next. Everything beside a database is therefore reached from its directory as it was found once;
//! the path is for people.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::os::folder::Folder;

/// See the head of the file. Shape: the name is no link, or opening it fails.
#[derive(Clone, Debug)]
pub(in crate::source) struct Site {
    path: PathBuf,
    folder: Arc<Folder>,
    name: OsString,
}

impl Site {
    /// The site of `path`, which is canonical. Errors: the system's.
    pub(in crate::source) fn of(path: &Path) -> io::Result<Self> {
        let dir = path.parent().ok_or_else(not_a_file)?;
        Self::within(Folder::open(dir)?, path)
    }

    /// The site in `folder`, of the name that `path` ends with. Errors: `IsADirectory` if it has none.
    pub(in crate::source) fn within(folder: Folder, path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            folder: Arc::new(folder),
            name: path.file_name().ok_or_else(not_a_file)?.to_owned(),
        })
    }

    /// Where it is, for people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory.
    pub(super) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// Its name there.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// A path that leads to it for as long as the site is there, for this process only.
    pub(super) fn way(&self) -> PathBuf {
        self.folder.way().join(&self.name)
    }
}

fn not_a_file() -> io::Error {
    io::ErrorKind::IsADirectory.into()
}
