//! The folder beside the target in which a restore is made, and found again.
//!
//! ```text
//! .NAME.stillfs-restore/     for its owner only, locked by the restore that works in it
//!   record.json              which backup it is of
//!   tree/                    what is restored
//!   out/                     the same, about to be exchanged; then what was at the target
//!   old/                     names of an SQLite database and its log while they are replaced
//! ```
//!
//! One of another backup is emptied: nothing is lost by it but time.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::os::beneath::OpenDir;
use crate::os::dir_removal::{empty_dir, remove_dir_all};
use crate::os::path::{FileType, Metadata};
use crate::os::{File, read_up_to, trust, write_all_at};
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::Manifest;
use crate::repository::restore::target::{Target, hidden_name};

const END: &str = ".stillfs-restore";
const RECORD: &str = "record.json";
const RECORD_BYTES_MAX: usize = 4096;
/// What is restored.
pub(super) const TREE: &str = "tree";
/// See the head of the file.
pub(super) const OUT: &str = "out";
/// See the head of the file.
pub(super) const OLD: &str = "old";

/// Where the link that stands for an old database leads to.
pub(super) fn way_to_old(name: &OsStr) -> OsString {
    let way = Path::new(&name_for(name)).join(OLD).join(name);
    way.into_os_string()
}

/// What the workspace of a target called `name` is called.
pub(super) fn name_for(name: &OsStr) -> OsString {
    hidden_name(name, END)
}

/// Which backup a workspace is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    repository: String,
    backup: String,
    digest: String,
}

impl Record {
    pub(super) fn of(repository: &Repository, manifest: &Manifest) -> Self {
        use std::fmt::Write as _;
        let mut id = String::new();
        for byte in repository.id() {
            write!(id, "{byte:02x}").expect("writing to a String does not fail");
        }
        Self {
            repository: id,
            backup: manifest.facts.id.to_string(),
            digest: manifest.facts.digest.to_string(),
        }
    }
}

/// A workspace that is ours.
#[derive(Debug)]
pub(super) struct Workspace {
    /// Its folder.
    pub(super) dir: OpenDir,
    /// Its name beside the target.
    pub(super) name: OsString,
    /// What is restored.
    pub(super) tree: OpenDir,
    /// Whether an interrupted restore of the same backup left it.
    pub(super) resumes: bool,
    _lock: Arc<dyn File>,
}

/// What is at the place of a workspace, looked at without changing it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outlook {
    /// Whether a restore of the same backup was interrupted.
    pub(super) resumes: bool,
    /// Bytes of the file system that it takes.
    pub(super) allocated_bytes: u64,
}

/// Errors: `Target` if it is not ours; `Io`.
pub(super) fn look(target: &Target, record: &Record) -> Result<Outlook> {
    let name = name_for(&target.name);
    let Some(found) = target.beside(&name)? else {
        return Ok(Outlook::default());
    };
    refuse_foreign(target, &found)?;
    let failed = || target.failed("look at the workspace of");
    let dir = target.parent.dir(Path::new(&name)).map_err(failed())?;
    Ok(Outlook {
        resumes: read_record(&dir).as_ref() == Some(record),
        allocated_bytes: allocated_bytes(&dir).map_err(failed())?,
    })
}

/// Another user could write into a workspace of his own, or watch it.
fn refuse_foreign(target: &Target, found: &Metadata) -> Result<()> {
    const OTHERS_READ_OR_WRITE: u32 = 0o066;
    let is_ours = found.file_type == FileType::Directory
        && found.mode & OTHERS_READ_OR_WRITE == 0
        && found.uid == crate::os::process::effective_user()
        && trust::is_trusted_user(found.uid);
    match is_ours {
        true => Ok(()),
        false => Err(RepositoryError::Target {
            path: target.path.with_file_name(name_for(&target.name)),
            why: "what is there is no workspace of this user: remove it",
        }),
    }
}

/// Space that is taken by the files in `dir`, except by old ones that have other names too.
fn allocated_bytes(dir: &OpenDir) -> io::Result<u64> {
    const BLOCK_BYTES: u64 = 512;
    let mut bytes = 0_u64;
    let mut folders = vec![std::path::PathBuf::new()];
    while let Some(below) = folders.pop() {
        // What cannot be read counts for nothing.
        let Ok(folder) = dir.dir(&below) else {
            continue;
        };
        for name in folder.names()? {
            let found = match folder.look(&name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                found => found?.metadata,
            };
            match found.file_type {
                FileType::Directory if below.as_os_str().is_empty() && name == OLD => {}
                FileType::Directory => folders.push(below.join(&name)),
                _ => bytes += found.blocks * BLOCK_BYTES / found.link_count.max(1),
            }
        }
    }
    Ok(bytes)
}

fn read_record(dir: &OpenDir) -> Option<Record> {
    let file = dir.file(OsStr::new(RECORD)).ok()?;
    let mut text = vec![0; RECORD_BYTES_MAX];
    let count = read_up_to(&*file, &mut text, 0).ok()?;
    serde_json::from_slice(text.get(..count)?).ok()
}

impl Workspace {
    /// Makes the workspace of `target`, or takes over the one that was left.
    ///
    /// Errors: `Target` if it is not ours; `TargetInUse` while another restore works there; `Io`.
    pub(super) fn open(target: &Target, record: &Record) -> Result<Self> {
        let name = name_for(&target.name);
        let (dir, lock) = lock(target, &name)?;
        let failed = || target.failed("make the workspace of");
        dir.set_own_mode(0o700).map_err(failed())?;
        let resumes = read_record(&dir).as_ref() == Some(record);
        if resumes {
            for leftover in [OLD, OUT] {
                remove_dir_all(&dir, OsStr::new(leftover)).map_err(failed())?;
            }
        } else {
            empty_dir(&dir).map_err(failed())?;
            write_record(&dir, record).map_err(failed())?;
            target.parent.sync().map_err(failed())?;
        }
        match dir.make_dir(OsStr::new(TREE)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed())?,
        }
        let tree = dir.dir(Path::new(TREE)).map_err(failed())?;
        tree.set_own_mode(0o700).map_err(failed())?;
        Ok(Self {
            dir,
            name,
            tree,
            resumes,
            _lock: lock,
        })
    }

    /// Removes it with all that is in it. Errors: the system's.
    pub(super) fn remove(self, target: &Target) -> io::Result<()> {
        empty_dir(&self.dir)?;
        target.parent.remove_dir(&self.name)?;
        target.parent.sync()
    }
}

fn write_record(dir: &OpenDir, record: &Record) -> io::Result<()> {
    let file = dir.writable_file(OsStr::new(RECORD))?;
    write_all_at(&*file, &serde_json::to_vec(record)?, 0)?;
    file.sync_data()?;
    dir.sync()
}

/// The folder `name` beside `target`, made if need be, and its lock.
///
/// Errors: as for [`Workspace::open`].
pub(super) fn lock(target: &Target, name: &OsStr) -> Result<(OpenDir, Arc<dyn File>)> {
    let failed = || target.failed("make the workspace of");
    loop {
        match target.parent.make_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed())?,
        }
        let Some(found) = target.beside(name)? else {
            continue;
        };
        refuse_foreign(target, &found)?;
        let dir = target.parent.dir(Path::new(name)).map_err(failed())?;
        let lock = dir.try_lock().map_err(failed())?;
        let lock = lock.ok_or_else(|| RepositoryError::TargetInUse {
            path: target.path.clone(),
            user: "another restore".to_owned(),
        })?;
        // Whoever had it before may have removed it meanwhile, and what is open may be another one.
        let ours = dir.metadata().map_err(failed())?;
        refuse_foreign(target, &ours)?;
        if target.beside(name)?.map(|found| found.identity) == Some(ours.identity) {
            return Ok((dir, lock));
        }
    }
}
