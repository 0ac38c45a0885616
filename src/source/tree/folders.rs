//! The directories of a walked tree, each by its number: paths are put together when they are needed.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::os::beneath::OpenDir;

/// The number of the tree's own directory.
pub(super) const TOP: u32 = 0;

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Folders {
    root: OpenDir,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    parent: u32,
    name: Box<OsStr>,
}

impl Folders {
    /// With nothing but the tree's own directory.
    pub(super) fn new(root: OpenDir) -> Self {
        let name = OsString::new().into_boxed_os_str();
        let rows = vec![Row { parent: TOP, name }];
        Self { root, rows }
    }

    /// The open directory of the tree.
    pub(super) fn root(&self) -> &OpenDir {
        &self.root
    }

    /// Adds the directory `name` in `parent`; `None` if there are too many.
    pub(super) fn add(&mut self, parent: u32, name: &OsStr) -> Option<u32> {
        let number = u32::try_from(self.rows.len()).ok()?;
        let name = name.into();
        self.rows.push(Row { parent, name });
        Some(number)
    }

    /// Where a directory is, relative to the tree.
    pub(super) fn path(&self, folder: u32) -> PathBuf {
        let mut parts: Vec<&OsStr> = Vec::new();
        let mut at = folder;
        while at != TOP {
            let Some(row) = self.rows.get(at as usize) else {
                break;
            };
            parts.push(&row.name);
            at = row.parent;
        }
        parts.iter().rev().collect()
    }

    /// Where `name` in a directory is, relative to the tree.
    pub(super) fn path_of(&self, folder: u32, name: &OsStr) -> PathBuf {
        let mut path = self.path(folder);
        path.push(Path::new(name));
        path
    }
}
