//! What must be true of a manifest, so that whoever uses one can rely on it.

use std::collections::{HashMap, HashSet};

use super::{Entry, EntryContent, Extent, FILE_BYTES_MAX, FileContent, Manifest};
use crate::repository::pack::UNIT_BYTES_MAX;

/// What is wrong.
type Fault = &'static str;

/// Longer paths, and longer targets of links, are on no system.
const PATH_BYTES_MAX: usize = 1 << 16;

/// What a path that came before is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Other,
}

impl Manifest {
    /// Whether it can be believed: called for each that is decoded, and worth a call before one is stored.
    ///
    /// * The first entry is the root, a directory; every other path is clean (no empty part, `.`, `..` or
    ///   NUL), is there once, and stands in a directory that came before.
    /// * The first name of a hard link is a file that came before.
    /// * The extents of a file have as many units as its size needs, each in a pack of the table. No pack
    ///   is in the table twice.
    /// * The databases of the facts are files of the tree.
    ///
    /// Errors: what is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        let packs: HashSet<_> = self.packs.iter().collect();
        if packs.len() != self.packs.len() || u32::try_from(packs.len()).is_err() {
            return Err("a pack is named twice");
        }
        let mut seen: HashMap<&[u8], Kind> = HashMap::with_capacity(self.entries.len());
        for entry in &self.entries {
            check_place(entry, &seen)?;
            let kind = self.check_content(entry, &seen)?;
            if seen.insert(&entry.path, kind).is_some() {
                return Err("a path is there twice");
            }
        }
        if seen.is_empty() {
            return Err("it has no root");
        }
        self.check_databases()
    }

    fn check_content(&self, entry: &Entry, seen: &HashMap<&[u8], Kind>) -> Result<Kind, Fault> {
        if entry.mode > 0o7777 {
            return Err("an entry has an impossible mode");
        }
        match &entry.content {
            EntryContent::Directory => Ok(Kind::Directory),
            EntryContent::File(file) => self.check_file(file).map(|()| Kind::File),
            EntryContent::Link(to) if to.is_empty() || to.len() > PATH_BYTES_MAX => {
                Err("a link leads nowhere")
            }
            EntryContent::Link(to) if to.contains(&0) => Err("a link leads nowhere"),
            EntryContent::Link(_) => Ok(Kind::Other),
            EntryContent::HardLink(first) => match seen.get(first.as_slice()) {
                Some(Kind::File) => Ok(Kind::Other),
                _ => Err("a hard link is of no file before it"),
            },
        }
    }

    fn check_file(&self, file: &FileContent) -> Result<(), Fault> {
        if file.bytes > FILE_BYTES_MAX {
            return Err("a file is larger than any can be");
        }
        let unit_bytes = file.unit_bytes as usize;
        if unit_bytes > UNIT_BYTES_MAX || (unit_bytes == 0 && file.bytes > 0) {
            return Err("the units of a file have an impossible size");
        }
        let mut units = 0_u64;
        for extent in &file.extents {
            if extent.count == 0 || extent.slot.checked_add(extent.count).is_none() {
                return Err("an extent has an impossible length");
            }
            let is_there = match extent.pack {
                Extent::ZEROS => extent.slot == 0,
                pack => (pack as usize) < self.packs.len(),
            };
            if !is_there {
                return Err("an extent is in no pack of the manifest");
            }
            // As many extents as overflow it have no room in memory.
            units = units.saturating_add(u64::from(extent.count));
        }
        match units == file.unit_count() {
            true => Ok(()),
            false => Err("the extents of a file are not as long as it"),
        }
    }

    /// A restore opens them by these paths.
    fn check_databases(&self) -> Result<(), Fault> {
        if self.facts.databases.is_empty() {
            return Ok(());
        }
        let files = self.entries.iter().filter(|entry| {
            matches!(
                entry.content,
                EntryContent::File(_) | EntryContent::HardLink(_)
            )
        });
        let names: HashSet<_> = files
            .map(|entry| String::from_utf8_lossy(&entry.path))
            .collect();
        let is_file = |path: &str| names.contains(path);
        match self.facts.databases.iter().all(|fact| is_file(&fact.path)) {
            true => Ok(()),
            false => Err("a database is no file of it"),
        }
    }
}

/// The first is the root; all others have a clean path and a directory before them.
fn check_place(entry: &Entry, seen: &HashMap<&[u8], Kind>) -> Result<(), Fault> {
    if seen.is_empty() {
        let is_root = entry.path.is_empty() && entry.content == EntryContent::Directory;
        return is_root.then_some(()).ok_or("its first entry is no root");
    }
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    let path = entry.path.as_slice();
    if path.len() > PATH_BYTES_MAX || !path.split(|byte| *byte == b'/').all(is_name) {
        return Err("a path is not clean");
    }
    let parent = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    match seen.get(path.get(..parent).unwrap_or_default()) {
        Some(Kind::Directory) => Ok(()),
        _ => Err("a path is in no directory before it"),
    }
}
