//! A backup restored for a look at it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::os::beneath::OpenDir;
use crate::os::dir_removal::remove_dir_all;
use crate::os::path::create_dir_all;
use crate::repository::backup_id::BackupId;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::Manifest;
use crate::repository::progress::Control;
use crate::repository::restore::{Existing, ReadBack, RestoreOptions, restore};
use crate::repository::verify::RestoreTest;

/// Restores the backup `id` into a folder of its own, has its databases walked, and removes all that again.
/// Returns what was found to be wrong with the backup.
///
/// Errors: what is wrong and is not the backup's: `NoSpace`, `TargetExists`, `TargetInUse`, `Target`,
/// `Cancelled`; `Io` of the scratch folder.
pub(super) fn run(
    repository: &Repository,
    id: &BackupId,
    test: RestoreTest<'_>,
    control: &Control,
) -> Result<Option<String>> {
    let scratch = Scratch::new(test.scratch, id)?;
    let tested = restored_and_walked(repository, id, &scratch.target(), test, control);
    let removed = scratch.remove();
    match tested {
        Ok(()) => removed.map(|()| None),
        Err(
            error @ (RepositoryError::NoSpace { .. }
            | RepositoryError::TargetExists { .. }
            | RepositoryError::TargetInUse { .. }
            | RepositoryError::Target { .. }
            | RepositoryError::Store { .. }
            | RepositoryError::Cancelled),
        ) => Err(error),
        Err(error) => {
            removed?;
            Ok(Some(format!("it does not stand a restore test: {error}")))
        }
    }
}

fn restored_and_walked(
    repository: &Repository,
    id: &BackupId,
    target: &Path,
    test: RestoreTest<'_>,
    control: &Control,
) -> Result<()> {
    let options = RestoreOptions {
        existing: Existing::Refused,
        read_back: ReadBack::Yes,
    };
    let manifest = repository.manifest(id)?;
    let part = control.of_part();
    restore(repository, id, target, options, test.examine, &part)?;
    for database in &manifest.facts.databases {
        let path = match manifest.facts.source.kind.as_str() {
            // The backup of a single file is restored as one.
            "sqlite" => target.to_owned(),
            _ => target.join(path_of(&manifest, &database.path)),
        };
        control.refuse_if_cancelled()?;
        test.examine.walk(&path, database)?;
    }
    Ok(())
}

/// The path of the entry that facts call `name`: they are text, and paths need not be.
fn path_of(manifest: &Manifest, name: &str) -> PathBuf {
    let mut paths = manifest.entries.iter().map(|entry| entry.path.as_slice());
    let path = paths.find(|path| String::from_utf8_lossy(path) == name);
    PathBuf::from(OsStr::from_bytes(path.unwrap_or(name.as_bytes())))
}

/// A folder for one restore.
struct Scratch {
    parent: OpenDir,
    name: OsString,
    path: PathBuf,
}

impl Scratch {
    /// Makes it in `parent`; what an interrupted test of the same backup left there goes.
    fn new(parent: &Path, id: &BackupId) -> Result<Self> {
        let name = OsString::from(format!("stillfs-verify-{id}"));
        let path = parent.join(&name);
        let error = || RepositoryError::io("make the scratch folder", path.display().to_string());
        create_dir_all(parent, 0o700).map_err(error())?;
        let parent = OpenDir::open(parent).map_err(error())?;
        remove_dir_all(&parent, &name).map_err(error())?;
        parent.make_dir(&name).map_err(error())?;
        Ok(Self { parent, name, path })
    }

    fn target(&self) -> PathBuf {
        self.path.join("restored")
    }

    fn remove(self) -> Result<()> {
        let object = self.path.display().to_string();
        remove_dir_all(&self.parent, &self.name)
            .map_err(RepositoryError::io("remove the scratch folder", object))
    }
}
