//! One walk over a tree: what is where, and which of it is a database.
//!
//! One look and one short read for each regular file. Nothing of it recurses, and each directory is open
//! only while it is read.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::folders::{Folders, TOP};
use super::sidecar::{Sidecars, log_and_index};
use super::xattrs_of;
use crate::database::{PAGE_FILE, looks_like_database};
use crate::os::beneath::{OpenDir, leads_away};
use crate::os::file_system::{foreign_name, refuse_foreign};
use crate::os::path::{FileType, Metadata, canonical};
use crate::os::{File, FileIdentity, Host, mount_table, read_up_to};
use crate::source::facts::FACTS_DIR;
use crate::source::{LeftOut, PinAs, SourceError, Unpinned, sqlite};
use crate::view::tree::Special;

/// What a walk found.
#[derive(Debug)]
pub(super) struct Walked {
    pub(super) folders: Folders,
    /// By the number of the directory.
    pub(super) of_folders: Vec<FolderFacts>,
    pub(super) plain: Vec<Plain>,
    pub(super) others: Vec<Other>,
    pub(super) databases: Vec<Candidate>,
    /// Directories that are native databases.
    pub(super) native: Vec<u32>,
    pub(super) left_out: Vec<LeftOut>,
}

/// A directory as it was found.
#[derive(Debug)]
pub(super) struct FolderFacts {
    pub(super) parent: u32,
    pub(super) name: Box<OsStr>,
    pub(super) metadata: Metadata,
    pub(super) xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// A plain file.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) folder: u32,
    pub(super) name: Box<OsStr>,
    pub(super) metadata: Metadata,
}

/// What is neither a directory nor a regular file.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) folder: u32,
    pub(super) name: Box<OsStr>,
    pub(super) metadata: Metadata,
    pub(super) what: OtherKind,
}

#[derive(Debug)]
pub(super) enum OtherKind {
    Link(OsString),
    Special(Special),
}

/// A database to be pinned.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) folder: u32,
    pub(super) name: Box<OsStr>,
    pub(super) identity: FileIdentity,
    pub(super) link_count: u64,
    /// Whether a log or its index is beside it.
    pub(super) has_log: bool,
    /// Where it is, relative to the tree.
    pub(super) path: PathBuf,
}

/// A directory that was seen and not yet read.
struct Pending {
    parent: u32,
    name: OsString,
}

struct Walk<'a> {
    host: &'a Host,
    source: &'a Path,
    pin_as: &'a PinAs<'a>,
    found: Walked,
    pending: Vec<Pending>,
    /// Files that were named as databases, relative to the tree.
    named: BTreeSet<PathBuf>,
    /// Mounts that are not entered, by the directory that they are in: names and kinds.
    closed: BTreeMap<PathBuf, BTreeMap<OsString, OsString>>,
}

/// Walks the tree at `source`, which is canonical.
///
/// Errors: `Part`, `Io`.
pub(super) fn walk(host: &Host, source: &Path, pin_as: &PinAs<'_>) -> Result<Walked, SourceError> {
    let io = |op| SourceError::io(op, source);
    let root = OpenDir::open(source).map_err(io("open"))?;
    let metadata = root.metadata().map_err(io("look at"))?;
    let of_root = FolderFacts {
        parent: TOP,
        name: OsString::new().into_boxed_os_str(),
        metadata,
        xattrs: xattrs_of(&root.way()),
    };
    let mut walk = Walk {
        host,
        source,
        pin_as,
        found: Walked {
            folders: Folders::new(root),
            of_folders: vec![of_root],
            plain: Vec::new(),
            others: Vec::new(),
            databases: Vec::new(),
            native: Vec::new(),
            left_out: Vec::new(),
        },
        pending: Vec::new(),
        named: named_files(source, pin_as)?,
        closed: closed_mounts(source),
    };
    let top = walk.found.folders.root().dir(Path::new(""));
    walk.read(TOP, &top.map_err(io("open"))?)?;
    while let Some(next) = walk.pending.pop() {
        walk.enter(&next)?;
    }
    match walk.named.pop_first() {
        Some(path) => Err(SourceError::Part {
            path: source.join(path),
            reason: "is named as a database, and there is no regular file of that name".to_owned(),
        }),
        None => {
            walk.found.add_other_names();
            Ok(walk.found)
        }
    }
}

impl Walked {
    /// A file that is a database by one name is one by every other, by which it may not be known: nothing in
    /// an encrypted one tells.
    fn add_other_names(&mut self) {
        let databases = self.databases.iter().filter(|one| one.link_count > 1);
        let known: HashSet<FileIdentity> = databases.map(|one| one.identity).collect();
        if known.is_empty() {
            return;
        }
        let is_known = |plain: &Plain| known.contains(&plain.metadata.identity);
        let (other_names, plain) = std::mem::take(&mut self.plain)
            .into_iter()
            .partition(is_known);
        self.plain = plain;
        for Plain {
            folder,
            name,
            metadata,
        } in other_names
        {
            let path = self.folders.path_of(folder, &name);
            self.databases.push(Candidate {
                folder,
                name,
                identity: metadata.identity,
                link_count: metadata.link_count,
                has_log: false,
                path,
            });
        }
    }
}

/// Errors: `Part` for a file that is not below.
fn named_files(source: &Path, pin_as: &PinAs<'_>) -> Result<BTreeSet<PathBuf>, SourceError> {
    let relative = |path: &PathBuf| {
        let whole = canonical(path).unwrap_or_else(|_| path.clone());
        match whole.strip_prefix(source) {
            Ok(relative) => Ok(relative.to_owned()),
            Err(_) => Err(SourceError::Part {
                path: path.clone(),
                reason: format!(
                    "is named as a database, and is not below {}",
                    source.display()
                ),
            }),
        }
    };
    pin_as.tree.sqlite_files.iter().map(relative).collect()
}

/// The mounts below that are not entered. They are not even looked at: what serves them may hang.
fn closed_mounts(source: &Path) -> BTreeMap<PathBuf, BTreeMap<OsString, OsString>> {
    let mut closed: BTreeMap<PathBuf, BTreeMap<OsString, OsString>> = BTreeMap::new();
    let entries = mount_table::entries().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot tell what is mounted below the source");
        Vec::new()
    });
    for entry in entries {
        let Ok(below) = entry.mount_point.strip_prefix(source) else {
            continue;
        };
        let (Some(dir), Some(name)) = (below.parent(), below.file_name()) else {
            continue;
        };
        // One that covers another comes after it.
        let in_dir = closed.entry(dir.to_owned()).or_default();
        match foreign_name(&entry.file_system) {
            true => in_dir.insert(name.to_owned(), entry.file_system.clone()),
            false => in_dir.remove(name),
        };
    }
    closed
}

impl Walk<'_> {
    /// Leaves a part of the tree out, or refuses the tree for it.
    fn leave_out(&mut self, path: PathBuf, reason: String) -> Result<(), SourceError> {
        if self.pin_as.tree.unpinned == Unpinned::Refused {
            let path = self.source.join(path);
            let first = Box::new(SourceError::Part { path, reason });
            return Err(SourceError::Members { first, others: 0 });
        }
        self.found.left_out.push(LeftOut { path, reason });
        Ok(())
    }

    /// Opens and reads one directory; one that is gone is not there.
    fn enter(&mut self, next: &Pending) -> Result<(), SourceError> {
        let path = self.found.folders.path_of(next.parent, &next.name);
        let opened = self.found.folders.root().dir(&path);
        let opened = opened.and_then(|folder| folder.metadata().map(|metadata| (folder, metadata)));
        let (folder, metadata) = match opened {
            Ok(opened) => opened,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return self.leave_out(path, format!("cannot be read: {error}")),
        };
        let of_parent = self.found.of_folders.get(next.parent as usize);
        let is_mount = of_parent
            .is_some_and(|parent| parent.metadata.identity.device != metadata.identity.device);
        if is_mount && let Err(error) = refuse_foreign(&folder) {
            self.close(next, error.to_string());
            return Ok(());
        }
        let xattrs = xattrs_of(&folder.way());
        let Some(number) = self.add_folder(next, metadata, xattrs) else {
            return self.leave_out(path, "is one directory too many".to_owned());
        };
        self.read(number, &folder)
    }

    fn add_folder(
        &mut self,
        next: &Pending,
        metadata: Metadata,
        xattrs: BTreeMap<OsString, Vec<u8>>,
    ) -> Option<u32> {
        let number = self.found.folders.add(next.parent, &next.name)?;
        self.found.of_folders.push(FolderFacts {
            parent: next.parent,
            name: next.name.as_os_str().into(),
            metadata,
            xattrs,
        });
        Some(number)
    }

    /// Shows a mount that is not entered as an empty directory. What is on it was not looked at, so that
    /// it has the attributes of the directory that it is in.
    fn close(&mut self, next: &Pending, reason: String) {
        let path = self.found.folders.path_of(next.parent, &next.name);
        let of_parent = self.found.of_folders.get(next.parent as usize);
        if let Some(metadata) = of_parent.map(|parent| parent.metadata) {
            self.add_folder(next, metadata, BTreeMap::new());
        }
        self.found.left_out.push(LeftOut { path, reason });
    }

    /// Sorts what is in a directory.
    fn read(&mut self, number: u32, folder: &OpenDir) -> Result<(), SourceError> {
        let path = self.found.folders.path(number);
        let names = match folder.names() {
            Ok(names) => names,
            Err(error) => return self.leave_out(path, format!("cannot be read: {error}")),
        };
        let has_pages = names.binary_search(&OsString::from(PAGE_FILE)).is_ok();
        if number != TOP && has_pages && looks_like_database(self.host, &self.source.join(&path)) {
            self.found.native.push(number);
            return Ok(());
        }
        let closed = self.closed.remove(&path).unwrap_or_default();
        let mut sidecars = Sidecars::default();
        let below_before = self.pending.len();
        for name in &names {
            let next = || Pending {
                parent: number,
                name: name.clone(),
            };
            if number == TOP && *name == FACTS_DIR {
                let (path, reason) = (PathBuf::from(name), "has the name of our own facts");
                let reason = reason.to_owned();
                self.found.left_out.push(LeftOut { path, reason });
            } else if let Some(kind) = closed.get(name) {
                self.close(
                    &next(),
                    format!("is a mount of {} and is not entered", kind.display()),
                );
            } else {
                self.look(number, folder, name, &names, &mut sidecars)?;
            }
        }
        // The last that is pushed is read first: so it goes by names.
        if let Some(below) = self.pending.get_mut(below_before..) {
            below.reverse();
        }
        Ok(())
    }

    fn look(
        &mut self,
        number: u32,
        folder: &OpenDir,
        name: &OsStr,
        names: &[OsString],
        sidecars: &mut Sidecars,
    ) -> Result<(), SourceError> {
        let found = match folder.look(name) {
            Ok(found) => found,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => {
                let path = self.found.folders.path_of(number, name);
                return self.leave_out(path, format!("cannot be looked at: {error}"));
            }
        };
        let metadata = found.metadata;
        // T2. Nothing of SQLite's is a directory.
        if metadata.file_type != FileType::Directory && sidecars.contains(name) {
            return Ok(());
        }
        let what = match metadata.file_type {
            FileType::Directory => {
                let (parent, name) = (number, name.to_owned());
                self.pending.push(Pending { parent, name });
                return Ok(());
            }
            FileType::File => {
                self.sort_file((number, folder, name), metadata, (names, sidecars));
                return Ok(());
            }
            FileType::SymbolicLink => match folder.link_target(name) {
                Ok(target) => OtherKind::Link(target),
                // It is gone, or something else already.
                Err(_) => return Ok(()),
            },
            kind => OtherKind::Special(Special {
                kind,
                device: found.device_number,
            }),
        };
        self.found.others.push(Other {
            folder: number,
            name: name.into(),
            metadata,
            what,
        });
        Ok(())
    }

    /// A regular file is a database or a plain one.
    fn sort_file(
        &mut self,
        (number, folder, name): (u32, &OpenDir, &OsStr),
        metadata: Metadata,
        (names, sidecars): (&[OsString], &mut Sidecars),
    ) {
        let is_there = |beside: &OsString| names.binary_search(beside).is_ok();
        let has_log = log_and_index(name).iter().any(is_there);
        match self.is_database(number, folder, name, &metadata, has_log) {
            Some(path) => {
                sidecars.add(name);
                self.found.databases.push(Candidate {
                    folder: number,
                    name: name.into(),
                    identity: metadata.identity,
                    link_count: metadata.link_count,
                    has_log,
                    path,
                });
            }
            None => self.found.plain.push(Plain {
                folder: number,
                name: name.into(),
                metadata,
            }),
        }
    }

    /// Where the file is, relative to the tree, if it is a database.
    fn is_database(
        &mut self,
        number: u32,
        folder: &OpenDir,
        name: &OsStr,
        metadata: &Metadata,
        has_log: bool,
    ) -> Option<PathBuf> {
        let path = || self.found.folders.path_of(number, name);
        if !self.named.is_empty() {
            let path = path();
            if self.named.remove(&path) {
                return Some(path);
            }
        }
        if metadata.size == 0 && !has_log {
            return None;
        }
        // One that may not be read cannot be told; it is shown, and opening it fails as it does there.
        let file = folder.file(name).ok()?;
        let is_database = match is_database_by_start(file.as_ref()) {
            Ok(false) if has_log => {
                let path = self.source.join(path());
                sqlite::recognise_opened(self.host, &path, file.as_ref())
            }
            told => told,
        };
        is_database.unwrap_or(false).then(path)
    }
}

/// Whether a file's first bytes are those of an SQLite database. Errors: the system's.
pub(super) fn is_database_by_start(file: &dyn File) -> io::Result<bool> {
    let mut start = [0; sqlite::FIRST_BYTES];
    let count = read_up_to(file, &mut start, 0)?;
    let first = sqlite::First::of(start.get(..count).unwrap_or_default());
    Ok(first == sqlite::First::Database)
}

/// Whether what was listed is not there any more, or has become something else.
pub(super) fn is_gone(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) || leads_away(error)
}
