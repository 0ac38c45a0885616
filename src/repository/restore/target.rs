//! Where a restore goes, and what is there.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::os::beneath::OpenDir;
use crate::os::path::{FileType, Metadata, canonical, metadata, symlink_metadata};
use crate::os::{FileIdentity, OpenMode, mount_table};
use crate::repository::catalog::Repository;
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::restore::outline::{Form, SIDECAR_ENDS};
use crate::repository::restore::{Existing, workspace};

/// A place, its folder held open.
#[derive(Debug)]
pub(super) struct Target {
    /// Absolute, without links but perhaps in the last part.
    pub(super) path: PathBuf,
    /// Its folder.
    pub(super) parent: OpenDir,
    /// Its name there.
    pub(super) name: OsString,
    /// What is there.
    pub(super) found: Option<Metadata>,
}

impl Target {
    /// Errors: `Target` for a path that cannot be one; `Io`.
    pub(super) fn at(path: &Path) -> Result<Self> {
        let refused = |why| RepositoryError::Target {
            path: path.to_owned(),
            why,
        };
        let name = path.file_name();
        let name = name.ok_or_else(|| refused("it has no name of its own: give its whole path"))?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let missing = "the folder that it is to be in does not exist";
        let folder = match canonical(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(refused(missing)),
            result => result.map_err(RepositoryError::io("find", folder.display().to_string())),
        }?;
        let opened = OpenDir::open(&folder);
        let parent = opened.map_err(RepositoryError::io("open", folder.display().to_string()))?;
        let mut target = Self {
            path: folder.join(name),
            parent,
            name: name.to_owned(),
            found: None,
        };
        target.look()?;
        Ok(target)
    }

    /// Looks anew what is there. Errors: `Io`.
    pub(super) fn look(&mut self) -> Result<()> {
        self.found = self.beside(&self.name)?;
        Ok(())
    }

    /// What is called `name` in its folder. Errors: `Io`.
    pub(super) fn beside(&self, name: &OsStr) -> Result<Option<Metadata>> {
        match self.parent.look(name) {
            Ok(found) => Ok(Some(found.metadata)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("look at")(error)),
        }
    }

    /// For `map_err`.
    pub(super) fn failed(
        &self,
        op: &'static str,
    ) -> impl FnOnce(std::io::Error) -> RepositoryError + use<> {
        RepositoryError::io(op, self.path.display().to_string())
    }

    /// It cannot be the target.
    pub(super) fn refused(&self, why: &'static str) -> RepositoryError {
        let path = self.path.clone();
        RepositoryError::Target { path, why }
    }

    /// The names of what SQLite would replay over a database here, that exist.
    ///
    /// Errors: `Target` for one that is no file; `Io`.
    pub(super) fn sidecars(&self) -> Result<Vec<(OsString, Metadata)>> {
        let mut sidecars = Vec::new();
        for end in SIDECAR_ENDS {
            let mut name = self.name.clone();
            name.push(end);
            let Some(found) = self.beside(&name)? else {
                continue;
            };
            if found.file_type == FileType::Directory {
                return Err(self.refused("a folder beside it has the name of its log"));
            }
            sidecars.push((name, found));
        }
        Ok(sidecars)
    }

    /// Refuses what `form` may not replace; says whether anything is replaced.
    ///
    /// Errors: `TargetExists`, `Target`, `Io`.
    pub(super) fn check(&self, form: Form, existing: Existing) -> Result<bool> {
        let file_type = self.found.map(|found| found.file_type);
        let mut replaces = match (form, file_type) {
            (_, None) => false,
            (Form::Folder, Some(FileType::Directory)) => {
                self.refuse_mounts()?;
                !self.is_empty_folder()?
            }
            (Form::File, Some(FileType::File)) => true,
            (Form::File, Some(FileType::SymbolicLink)) if self.leads_to_old()? => true,
            (_, Some(FileType::SymbolicLink)) => {
                return Err(self.refused("it is a symbolic link: name what it leads to"));
            }
            (Form::File, Some(FileType::Directory)) => {
                let why = "it is a folder, and the backup is of one file: name a file in it";
                return Err(self.refused(why));
            }
            (Form::Folder, Some(_)) => {
                return Err(self.refused("it is no folder, and the backup is of one"));
            }
            (Form::File, Some(_)) => return Err(self.refused("it is no regular file")),
        };
        let mut in_the_way = self.path.clone();
        let sidecars = match form == Form::File && !replaces {
            true => self.sidecars()?,
            false => Vec::new(),
        };
        if let Some((name, _)) = sidecars.first() {
            in_the_way.set_file_name(name);
            replaces = true;
        }
        match replaces && existing == Existing::Refused {
            true => Err(RepositoryError::TargetExists { path: in_the_way }),
            false => Ok(replaces),
        }
    }

    fn is_empty_folder(&self) -> Result<bool> {
        let below = Path::new(&self.name);
        let names = self.parent.dir(below).and_then(|dir| dir.names());
        Ok(names.map_err(self.failed("list"))?.is_empty())
    }

    /// Neither can a mount point be renamed, nor is what is mounted ours to remove.
    fn refuse_mounts(&self) -> Result<()> {
        let mounts = mount_table::entries();
        let mounts = mounts.map_err(self.failed("look for mounts in"))?;
        match mounts
            .iter()
            .any(|mount| mount.mount_point.starts_with(&self.path))
        {
            true => Err(self
                .refused("something is mounted there: unmount it, or restore into a folder below")),
            false => Ok(()),
        }
    }

    /// Whether it is the link that stands for the old database while the new one is put in its place.
    pub(super) fn leads_to_old(&self) -> Result<bool> {
        let is_link = self
            .found
            .is_some_and(|found| found.file_type == FileType::SymbolicLink);
        if !is_link {
            return Ok(false);
        }
        let to = self
            .parent
            .link_target(&self.name)
            .map_err(self.failed("read"))?;
        Ok(to == workspace::way_to_old(&self.name))
    }

    /// Refuses a target in the repository, and one that the repository is in.
    ///
    /// Errors: `Target`, `Io`.
    pub(super) fn refuse_repository(&self, repository: &Repository) -> Result<()> {
        let place = PathBuf::from(repository.store().place());
        let Some(home) = identity_on_machine(repository, &place) else {
            // No folder of this machine.
            return Ok(());
        };
        for above in self.path.ancestors() {
            if identity(above) == Some(home) {
                return Err(self.refused("it lies in the repository itself"));
            }
        }
        let Some(ours) = self.found.map(|found| found.identity) else {
            return Ok(());
        };
        let place = canonical(&place).map_err(self.failed("find the repository of"))?;
        match place.ancestors().any(|above| identity(above) == Some(ours)) {
            true => Err(self.refused("the repository lies in it")),
            false => Ok(()),
        }
    }
}

fn identity(path: &Path) -> Option<FileIdentity> {
    Some(symlink_metadata(path).ok()?.identity)
}

/// The folder of a repository whose disk is this machine's and not a simulated one.
fn identity_on_machine(repository: &Repository, place: &Path) -> Option<FileIdentity> {
    let place = canonical(place).ok()?;
    let folder = repository
        .host()
        .disk
        .open(&place, OpenMode::Directory)
        .ok()?;
    folder.as_fd()?;
    Some(metadata(&place).ok()?.identity)
}

/// The longest name that Linux takes.
const NAME_BYTES_MAX: usize = 255;

/// `.NAME.end`, or something shorter where that is no name any more.
pub(super) fn hidden_name(name: &OsStr, end: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(end);
    if hidden.len() <= NAME_BYTES_MAX {
        return hidden;
    }
    let digest = Digest::of(name.as_encoded_bytes()).to_string();
    let short: String = digest.chars().take(32).collect();
    OsString::from(format!(".{short}{end}"))
}
