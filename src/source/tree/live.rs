//! A plain file of a tree, looked at again whenever it is asked for.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::folders::Folders;
use super::sidecar::log_and_index;
use super::walk::is_database_by_start;
use crate::os::beneath::{Held, leads_away};
use crate::os::path::{FileType, Metadata};
use crate::os::{File, Host, xattr};
use crate::source::sqlite;
use crate::view::tree::{LiveError, LiveFile};

/// What all plain files of a tree share.
#[derive(Debug)]
pub(super) struct LiveTree {
    pub(super) host: Host,
    pub(super) source: PathBuf,
    pub(super) folders: Folders,
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) tree: Arc<LiveTree>,
    pub(super) folder: u32,
    pub(super) name: Box<OsStr>,
    /// What was found at the walk.
    pub(super) listed: Metadata,
}

fn refused(op: &'static str) -> impl FnOnce(io::Error) -> LiveError {
    move |source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => LiveError::Gone,
        _ if leads_away(&source) => LiveError::Replaced,
        _ => LiveError::Io { op, source },
    }
}

impl Live {
    /// Takes hold of the file, if it still is the one that was listed.
    fn hold(&self) -> Result<Held, LiveError> {
        let folders = &self.tree.folders;
        let path = folders.path_of(self.folder, &self.name);
        let held = folders.root().hold(&path).map_err(refused("look at"))?;
        let found = &held.found.metadata;
        if found.identity != self.listed.identity || found.file_type != FileType::File {
            return Err(LiveError::Replaced);
        }
        Ok(held)
    }

    /// By its first bytes, and by what is beside it.
    fn has_become_database(&self, file: &dyn File) -> Result<bool, LiveError> {
        if is_database_by_start(file).map_err(refused("read"))? {
            return Ok(true);
        }
        let folders = &self.tree.folders;
        let has_log = log_and_index(&self.name).iter().any(|name| {
            let path = folders.path_of(self.folder, name);
            folders.root().hold(&path).is_ok()
        });
        if !has_log {
            return Ok(false);
        }
        let path = self
            .tree
            .source
            .join(folders.path_of(self.folder, &self.name));
        let recognised = sqlite::recognise_opened(&self.tree.host, &path, file);
        recognised.map_err(refused("look at"))
    }
}

impl LiveFile for Live {
    fn stat(&self) -> Result<Metadata, LiveError> {
        Ok(self.hold()?.found.metadata)
    }

    fn listed(&self) -> Option<Metadata> {
        Some(self.listed)
    }

    fn open(&self) -> Result<Arc<dyn File>, LiveError> {
        let file = self.hold()?.read().map_err(refused("open"))?;
        match self.has_become_database(file.as_ref())? {
            true => Err(LiveError::BecameDatabase),
            false => Ok(file),
        }
    }

    fn xattr_names(&self) -> Result<Vec<OsString>, LiveError> {
        xattr::names(&self.hold()?.way()).map_err(refused("list the attributes of"))
    }

    fn xattr(&self, name: &OsStr) -> Result<Option<Vec<u8>>, LiveError> {
        match xattr::get(&self.hold()?.way(), name, xattr::VALUE_BYTES_MAX) {
            Ok(value) => Ok(Some(value)),
            Err(error) if xattr::is_missing(&error) => Ok(None),
            Err(error) => Err(refused("read an attribute of")(error)),
        }
    }
}
