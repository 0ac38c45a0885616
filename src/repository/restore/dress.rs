//! Directories, links and attributes: all of a tree but the content of files.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::os::beneath::OpenDir;
use crate::os::dir_removal::remove_dir_all;
use crate::os::path::FileType;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::{Entry, EntryContent};
use crate::repository::restore::content::{folder_of, sync_file};
use crate::repository::restore::outline::{Form, Outline, damaged, is_directory, place_of, split};

/// Up to so many entries are synced one by one; more, by a sync of the whole file system, which costs one
/// flush instead of one each.
pub(super) const SYNCED_SINGLY_MAX: usize = 256;
/// What is the owner's in a mode: without it he cannot exchange a directory.
const OWNER_ALL: u32 = 0o700;
const SET_ID: u32 = 0o6000;

fn failed(op: &'static str, entry: &Entry) -> impl FnOnce(io::Error) -> RepositoryError + use<> {
    RepositoryError::io(op, String::from_utf8_lossy(&entry.path).into_owned())
}

/// Makes the directories that are missing and, where a restore is gone on with, removes everything that
/// has no place in it. Errors: `Io`.
pub(super) fn make_directories(tree: &OpenDir, outline: &Outline<'_>, resumes: bool) -> Result<()> {
    if resumes {
        sweep(tree, outline)?;
    }
    for entry in outline.entries.iter().filter(|entry| is_directory(entry)) {
        if entry.path.is_empty() {
            continue;
        }
        let (folder, name) = folder_of(tree, entry)?;
        match folder.make_dir(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let opened = folder.dir(Path::new(name));
                opened.map_err(failed("open", entry))?;
            }
            made => made.map_err(failed("make", entry))?,
        }
    }
    Ok(())
}

/// Names by the folder that they are in.
fn names_by_folder<'m>(outline: &Outline<'m>) -> HashMap<&'m Path, HashMap<&'m OsStr, &'m Entry>> {
    let mut folders: HashMap<&Path, HashMap<&OsStr, &Entry>> = HashMap::new();
    for entry in &outline.entries {
        if let Some((folder, name)) = place_of(entry) {
            folders.entry(folder).or_default().insert(name, entry);
        }
    }
    folders
}

/// What an interrupted restore left stays if it is a directory or a file where there must be one; links
/// are made anew. What the modes keep their owner from is opened to him again.
fn sweep(tree: &OpenDir, outline: &Outline<'_>) -> Result<()> {
    let mut folders = names_by_folder(outline);
    for entry in outline.entries.iter().filter(|entry| is_directory(entry)) {
        let path = Path::new(OsStr::from_bytes(&entry.path));
        let wanted = folders.remove(path).unwrap_or_default();
        let opened = tree.dir(path);
        let folder = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(failed("open", entry))?,
        };
        for name in folder.names().map_err(failed("list", entry))? {
            let found = folder.look(&name).map_err(failed("look into", entry))?;
            let wanted = wanted.get(name.as_os_str()).map(|entry| &entry.content);
            let swept = match (wanted, found.metadata.file_type) {
                (Some(EntryContent::Directory), FileType::Directory) => {
                    folder.set_mode(&name, OWNER_ALL)
                }
                (Some(EntryContent::File(_)), FileType::File) => Ok(()),
                (_, FileType::Directory) => remove_dir_all(&folder, &name),
                _ => folder.remove_file(&name),
            };
            swept.map_err(failed("tidy", entry))?;
        }
    }
    Ok(())
}

/// Makes symbolic links and further names of files, none of which is there. Errors: `Damaged` for one of
/// something that has no other names; `Io`.
pub(super) fn make_links(tree: &OpenDir, outline: &Outline<'_>) -> Result<()> {
    for entry in &outline.entries {
        match &entry.content {
            EntryContent::Directory | EntryContent::File(_) => {}
            EntryContent::Link(to) => {
                let (folder, name) = folder_of(tree, entry)?;
                let made = folder.make_link(name, OsStr::from_bytes(to));
                made.map_err(failed("make the link", entry))?;
            }
            EntryContent::HardLink(first) => {
                let (folder, name) = folder_of(tree, entry)?;
                let broken = || damaged(outline.manifest, "a hard link of it leads away");
                let (of, other) = split(first).ok_or_else(broken)?;
                let of = tree.dir(of).map_err(failed("find the file of", entry))?;
                let made = folder.make_hard_link(name, &of, other);
                made.map_err(failed("make the hard link", entry))?;
            }
        }
    }
    Ok(())
}

/// Compares names and kinds of what is there with what must be, and nothing else (BK8, BK9).
///
/// Errors: `Unsound`, `Io`.
pub(super) fn compare_names(tree: &OpenDir, outline: &Outline<'_>) -> Result<()> {
    let mut folders = names_by_folder(outline);
    for entry in outline.entries.iter().filter(|entry| is_directory(entry)) {
        let path = Path::new(OsStr::from_bytes(&entry.path));
        let wanted = folders.remove(path).unwrap_or_default();
        let folder = tree.dir(path).map_err(failed("open", entry))?;
        let names = folder.names().map_err(failed("list", entry))?;
        let unsound = |name: &OsStr, what: &str| RepositoryError::Unsound {
            path: path.join(name).display().to_string(),
            what: what.to_owned(),
        };
        for name in &names {
            let Some(wanted) = wanted.get(name.as_os_str()) else {
                return Err(unsound(name, "it is not in the backup"));
            };
            if !is_same(&folder, name, wanted).map_err(failed("look into", entry))? {
                return Err(unsound(name, "it is something else than in the backup"));
            }
        }
        if names.len() != wanted.len() {
            return Err(unsound(OsStr::new(""), "names are missing in it"));
        }
    }
    Ok(())
}

fn is_same(folder: &OpenDir, name: &OsString, wanted: &Entry) -> io::Result<bool> {
    let found = folder.look(name)?.metadata;
    Ok(match &wanted.content {
        EntryContent::Directory => found.file_type == FileType::Directory,
        EntryContent::File(content) => {
            found.file_type == FileType::File && found.size == content.bytes
        }
        EntryContent::Link(to) => {
            found.file_type == FileType::SymbolicLink
                && folder.link_target(name)?.as_bytes() == to.as_slice()
        }
        EntryContent::HardLink(_) => found.link_count > 1,
    })
}

/// Sets owners, modes and times, of directories after what is in them; the root's mode stays the owner's
/// until it is where it belongs. What cannot be set and spoils no byte is a note.
///
/// Errors: `Io`.
pub(super) fn dress(tree: &OpenDir, outline: &Outline<'_>, notes: &mut Vec<String>) -> Result<()> {
    let mut foreign_owners = 0_u64;
    let is_inner = |entry: &&&Entry| !entry.path.is_empty();
    let (folders, others): (Vec<&Entry>, Vec<&Entry>) =
        (outline.entries.iter().filter(is_inner)).partition(|entry| is_directory(entry));
    for entry in others.into_iter().chain(folders.into_iter().rev()) {
        if matches!(entry.content, EntryContent::HardLink(_)) {
            continue;
        }
        let (folder, name) = folder_of(tree, entry)?;
        let is_owned = set_owner(folder.set_owner(name, entry.uid, entry.gid));
        let is_owned =
            is_owned.map_err(failed("set the owner of", entry))? || owner_is(&folder, name, entry);
        foreign_owners += u64::from(!is_owned);
        if !matches!(entry.content, EntryContent::Link(_)) {
            let set = folder.set_mode(name, mode_of(entry, is_owned));
            set.map_err(failed("set the mode of", entry))?;
        }
        let set = folder.set_mtime(name, entry.mtime_ns);
        set.map_err(failed("set the time of", entry))?;
    }
    // Of a file the folder that it was in is not restored.
    if let Some(root) = outline.entries.first()
        && outline.form == Form::Folder
    {
        let is_owned = set_owner(tree.set_own_owner(root.uid, root.gid));
        foreign_owners += u64::from(!is_owned.map_err(failed("set the owner of", root))?);
        dress_root(tree, root, OWNER_ALL)?;
    }
    if foreign_owners > 0 {
        notes.push(format!(
            "the owners of {foreign_owners} files and folders could not be set: that needs root"
        ));
    }
    Ok(())
}

/// Sets the root's mode, with `more`, and its time. Errors: `Io`.
pub(super) fn dress_root(tree: &OpenDir, root: &Entry, more: u32) -> Result<()> {
    let set = tree.set_own_mode(u32::from(root.mode) | more);
    set.map_err(failed("set the mode of", root))?;
    let set = tree.set_own_mtime(root.mtime_ns);
    set.map_err(failed("set the time of", root))
}

/// `false` where that needs root.
fn set_owner(set: io::Result<()>) -> io::Result<bool> {
    match set {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        // An owner that a user namespace does not know.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

fn owner_is(folder: &OpenDir, name: &OsStr, entry: &Entry) -> bool {
    let found = folder.look(name);
    found.is_ok_and(|found| (found.metadata.uid, found.metadata.gid) == (entry.uid, entry.gid))
}

/// A program that ran as its owner must not run as whoever restored it.
fn mode_of(entry: &Entry, is_owned: bool) -> u32 {
    let mode = u32::from(entry.mode) & 0o7777;
    match is_owned || is_directory(entry) {
        true => mode,
        false => mode & !SET_ID,
    }
}

/// Makes everything durable, names and attributes too. Errors: `Io`.
pub(super) fn sync(tree: &OpenDir, outline: &Outline<'_>) -> Result<()> {
    let whole = || {
        let synced = tree.sync_file_system();
        synced.map_err(RepositoryError::io("sync", "the file system of the target"))
    };
    if outline.entries.len() > SYNCED_SINGLY_MAX {
        return whole();
    }
    match sync_singly(tree, outline) {
        // The modes of some keep their owner from opening them.
        Err(RepositoryError::Io { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            whole()
        }
        synced => synced,
    }
}

fn sync_singly(tree: &OpenDir, outline: &Outline<'_>) -> Result<()> {
    for (entry, _) in outline.contents() {
        sync_file(tree, entry)?;
    }
    for entry in outline.entries.iter().filter(|entry| is_directory(entry)) {
        let folder = tree.dir(Path::new(OsStr::from_bytes(&entry.path)));
        let synced = folder.and_then(|folder| folder.sync());
        synced.map_err(failed("sync", entry))?;
    }
    Ok(())
}
