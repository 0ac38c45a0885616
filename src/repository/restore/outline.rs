//! What of a backup is made at the target, and what of it is not.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::engine::{LOCK_FILE, LOG_DIR, PAGE_FILE};
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::{Entry, EntryContent, Extent, FileContent, Manifest};
use crate::repository::pack::{PackId, UNIT_BYTES_MAX};

/// What stands at the target in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A directory: that of a native database, or a tree.
    Folder,
    /// A file: an SQLite database.
    File,
}

/// The entries that are made, checked as far as that needs no pack.
#[derive(Debug)]
pub(super) struct Outline<'m> {
    /// The backup.
    pub(super) manifest: &'m Manifest,
    /// What it becomes.
    pub(super) form: Form,
    /// The root first, every directory before what is in it.
    pub(super) entries: Vec<&'m Entry>,
    /// What is left out of it, for people.
    pub(super) notes: Vec<String>,
    /// The paths of that.
    left_out: HashSet<&'m [u8]>,
    /// Files, directories not counted.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Bytes of them that take space.
    pub(super) stored_bytes: u64,
    /// The packs that are needed, sorted.
    pub(super) packs: Vec<PackId>,
}

/// A view's word about itself, which is none of the source's files.
const FACTS_DIR: &[u8] = b".stillfs";
/// What SQLite would replay over a database of that name.
pub(super) const SIDECAR_ENDS: [&str; 4] = ["-journal", "-wal", "-wal2", "-shm"];

impl<'m> Outline<'m> {
    /// Errors: `Damaged` where the manifest does not hang together.
    pub(super) fn of(manifest: &'m Manifest) -> Result<Self> {
        let damaged = |what| damaged(manifest, what);
        if Manifest::digest_of(&manifest.entries) != manifest.facts.digest {
            return Err(damaged("its entries have another digest than it says"));
        }
        let form = match manifest.facts.source.kind.as_str() {
            "sqlite" => Form::File,
            _ => Form::Folder,
        };
        let mut outline = Self {
            manifest,
            form,
            entries: Vec::new(),
            notes: Vec::new(),
            left_out: HashSet::new(),
            files: 0,
            bytes: 0,
            stored_bytes: 0,
            packs: Vec::new(),
        };
        let databases = Databases::of(manifest);
        for entry in &manifest.entries {
            if !outline.is_wanted(entry, &databases) {
                continue;
            }
            outline.add(entry)?;
        }
        let root = outline.entries.first();
        if !root.is_some_and(|root| root.path.is_empty() && is_directory(root)) {
            return Err(damaged("its first entry is not the root"));
        }
        if form == Form::File && outline.files != 1 {
            return Err(damaged("it is of one file and has not one"));
        }
        outline.packs.sort_unstable();
        outline.packs.dedup();
        Ok(outline)
    }

    fn is_wanted(&mut self, entry: &'m Entry, databases: &Databases) -> bool {
        let path = entry.path.as_slice();
        let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        match self.manifest.facts.source.kind.as_str() {
            "stillfs" => path.is_empty() || path == PAGE_FILE.as_bytes(),
            _ if path.is_empty() => true,
            "sqlite" => {
                databases.has(path) || (databases.sqlite.is_empty() && !path.contains(&b'/'))
            }
            _ if first == FACTS_DIR => false,
            _ => match databases.replayed_over(entry) {
                Some(database) => {
                    self.leave_out(path, &format!("it would be replayed over {database}"));
                    false
                }
                None => !self.leads_to_left_out(entry),
            },
        }
    }

    fn leave_out(&mut self, path: &'m [u8], why: &str) {
        let shown = String::from_utf8_lossy(path);
        self.notes.push(format!("{shown} is left out: {why}"));
        self.left_out.insert(path);
    }

    /// A hard link goes with its first name: it has no content of its own.
    fn leads_to_left_out(&mut self, entry: &'m Entry) -> bool {
        let EntryContent::HardLink(first) = &entry.content else {
            return false;
        };
        let is_left_out = self.left_out.contains(first.as_slice());
        if is_left_out {
            let shown = String::from_utf8_lossy(first);
            self.leave_out(&entry.path, &format!("it is the same file as {shown}"));
        }
        is_left_out
    }

    fn add(&mut self, entry: &'m Entry) -> Result<()> {
        if !entry.path.is_empty() && !is_plain(&entry.path) {
            return Err(damaged(self.manifest, "a path of it leads away"));
        }
        if let EntryContent::File(content) = &entry.content {
            let is_whole = self.add_content(content);
            is_whole.ok_or_else(|| damaged(self.manifest, "a file's extents are not its size"))?;
        }
        self.files += u64::from(!is_directory(entry));
        self.entries.push(entry);
        Ok(())
    }

    /// `None` for a content whose extents do not make it up.
    fn add_content(&mut self, content: &FileContent) -> Option<()> {
        let unit_bytes = usize::try_from(content.unit_bytes).ok()?;
        if (unit_bytes == 0 && content.bytes > 0) || unit_bytes > UNIT_BYTES_MAX {
            return None;
        }
        let mut units = 0_u64;
        for extent in &content.extents {
            units = units.checked_add(u64::from(extent.count))?;
            if extent.pack != Extent::ZEROS {
                let bytes = u64::from(extent.count) * u64::from(content.unit_bytes);
                self.stored_bytes = self.stored_bytes.checked_add(bytes)?;
                self.packs.push(pack_of(self.manifest, *extent)?);
            }
        }
        self.packs.dedup();
        self.bytes = self.bytes.checked_add(content.bytes)?;
        (units == content.unit_count()).then_some(())
    }

    /// Free bytes that the restore must find: content, what names and blocks take, and something more.
    pub(super) fn space_bytes(&self) -> u64 {
        const ENTRY_BYTES: u64 = 8 << 10;
        const MARGIN_BYTES: u64 = 4 << 20;
        let entries = (self.entries.len() as u64).saturating_mul(ENTRY_BYTES);
        let stored = self.stored_bytes.saturating_add(self.stored_bytes / 100);
        stored.saturating_add(entries).saturating_add(MARGIN_BYTES)
    }

    /// The files with content of their own.
    pub(super) fn contents(&self) -> impl Iterator<Item = (&'m Entry, &'m FileContent)> {
        self.entries
            .iter()
            .filter_map(|entry| match &entry.content {
                EntryContent::File(content) => Some((*entry, content)),
                _ => None,
            })
    }

    /// The page files of native databases.
    pub(super) fn natives(&self) -> impl Iterator<Item = &'m Entry> {
        let named: HashSet<&str> = databases(self.manifest, "stillfs").collect();
        let is_native = move |entry: &Entry, content: &FileContent| {
            content.version.is_some() || named.contains(&*String::from_utf8_lossy(&entry.path))
        };
        self.contents()
            .filter(move |(entry, content)| is_native(entry, content))
            .map(|(entry, _)| entry)
    }
}

/// The pack that `extent` of a file of `manifest` names; `None` for zeros too.
pub(super) fn pack_of(manifest: &Manifest, extent: Extent) -> Option<PackId> {
    let index = usize::try_from(extent.pack).ok()?;
    manifest.packs.get(index).copied()
}

/// The manifest of this backup does not hang together.
pub(super) fn damaged(manifest: &Manifest, what: &'static str) -> RepositoryError {
    RepositoryError::Damaged {
        object: format!("backups/{}", manifest.facts.id),
        what,
    }
}

/// The folder that `entry` is in, and its name there; `None` for the root.
pub(super) fn place_of(entry: &Entry) -> Option<(&Path, &OsStr)> {
    split(&entry.path)
}

/// As [`place_of`], of a path in a backup.
pub(super) fn split(path: &[u8]) -> Option<(&Path, &OsStr)> {
    let path = Path::new(OsStr::from_bytes(path));
    Some((path.parent()?, path.file_name()?))
}

/// Names and nothing else, so that the path stays below.
fn is_plain(path: &[u8]) -> bool {
    let mut parts = path.split(|byte| *byte == b'/');
    parts.all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0))
}

pub(super) fn is_directory(entry: &Entry) -> bool {
    entry.content == EntryContent::Directory
}

fn databases<'m>(manifest: &'m Manifest, kind: &'static str) -> impl Iterator<Item = &'m str> {
    let databases = manifest.facts.databases.iter();
    let of_kind = databases.filter(move |database| database.kind == kind);
    of_kind.map(|database| database.path.as_str())
}

/// The databases of a backup, by their paths as people read them.
struct Databases {
    sqlite: HashSet<String>,
    native_folders: HashSet<String>,
}

impl Databases {
    fn of(manifest: &Manifest) -> Self {
        let folder = |path: &str| match path.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/"),
            None => String::new(),
        };
        Self {
            sqlite: databases(manifest, "sqlite").map(str::to_owned).collect(),
            native_folders: databases(manifest, "stillfs").map(folder).collect(),
        }
    }

    fn has(&self, path: &[u8]) -> bool {
        self.sqlite.contains(&*String::from_utf8_lossy(path))
    }

    /// The database whose engine would take `entry` for its log (BK9). Nothing of SQLite's is a directory.
    fn replayed_over(&self, entry: &Entry) -> Option<String> {
        let path = String::from_utf8_lossy(&entry.path);
        let of = |end: &&str| {
            path.strip_suffix(*end)
                .filter(|path| self.sqlite.contains(*path))
        };
        let sidecar = SIDECAR_ENDS.iter().find_map(of);
        if let Some(database) = sidecar.filter(|_| !is_directory(entry)) {
            return Some(database.to_owned());
        }
        let folders = self.native_folders.iter();
        let mut within = folders.filter_map(|folder| Some((folder, path.strip_prefix(folder)?)));
        let log = |inner: &str| {
            inner
                .split('/')
                .next()
                .is_some_and(|top| [LOG_DIR, LOCK_FILE].contains(&top))
        };
        let (folder, _) = within.find(|(_, inner)| log(inner))?;
        Some(format!("{folder}{PAGE_FILE}"))
    }
}
