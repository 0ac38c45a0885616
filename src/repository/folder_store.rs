//! A repository's objects as files of a folder.
//!
//! An object is written as a file of `tmp/`, synced, and renamed to its name; folders are synced when
//! the store is settled. Folders have mode 0700 and files 0600: a backup has what its source keeps from
//! others.
//!
//! * A writer that takes the lock has every folder synced once more with the next settle: what a killed
//!   one has renamed may be seen and yet not be durable (O2).
//! * After a failed sync of a folder nothing is known of its names (O3): what was put since the last good
//!   one is taken away again, and nothing more is stored through this handle.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::fault::{self, Fault};
use crate::os::cache::drop_cached;
use crate::os::{
    Clock, Disk, File, FileIdentity, Host, LockKind, OpenMode, Random, read_up_to, write_all_at,
};
use crate::repository::error::{RepositoryError, Result};
use crate::repository::store::{
    Found, LINE_LOCK, LOCK, LineLock, MARKS_LOCK, MarksLock, ObjectName, Put, Store, WriterLock,
    refuse_strange,
};
use crate::repository::{audit, config, crypt, damage, hex, log};

/// What is called after each piece of a slow put.
type Rest<'a> = &'a dyn Fn();
/// A piece of a slow put: the disk is done with it in half a millisecond.
const SLOW_PIECE_BYTES: usize = 256 << 10;
/// How long somebody else who changes marks is waited for: some syncs of folders.
const MARKS_PATIENCE: Duration = Duration::from_secs(30);
const MARKS_PAUSE: Duration = Duration::from_millis(10);
const TMP: &str = "tmp";
/// The folders of objects.
const FOLDERS: [&str; 7] = [
    "packs",
    "backups",
    "marks",
    damage::FOLDER,
    log::FOLDER,
    audit::FOLDER,
    crypt::FOLDER,
];
/// A writer that takes the lock may sweep away what one without it (of a mark) is about to rename.
const TRIES: u32 = 5;

/// A folder of a disk. See the head of the file.
pub(super) struct FolderStore {
    disk: Arc<dyn Disk>,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    root: PathBuf,
    staged_count: AtomicU64,
    unsettled: Mutex<Unsettled>,
}

/// What a crash may take back.
#[derive(Debug, Default)]
struct Unsettled {
    /// Folders with names that are not durable.
    folders: BTreeSet<PathBuf>,
    /// Objects that were put under a new name.
    objects: Vec<PathBuf>,
    /// A sync failed.
    is_poisoned: bool,
}

impl fmt::Debug for FolderStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FolderStore")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl FolderStore {
    /// The objects in the folder `root`, which may not exist yet. Nothing is read or written.
    #[must_use]
    pub(super) fn new(host: &Host, root: &Path) -> Self {
        Self {
            disk: Arc::clone(&host.disk),
            random: Arc::clone(&host.random),
            clock: Arc::clone(&host.clock),
            root: root.to_owned(),
            staged_count: AtomicU64::new(0),
            unsettled: Mutex::default(),
        }
    }

    /// Makes the folders that are missing, durably, as long as this is a repository: a disk that was
    /// taken away leaves an empty folder, in which nothing must be stored.
    ///
    /// Errors: `Missing`, `NoSpace`, `Io`.
    fn renew_folders(&self) -> Result<()> {
        self.size(config::OBJECT)?;
        let mut folders = FOLDERS.iter().chain([&TMP]);
        folders.try_for_each(|folder| self.create_dir(&self.root.join(folder)))
    }

    /// Makes `dir` and what is missing above it, durably.
    fn create_dir(&self, dir: &Path) -> Result<()> {
        let Some(parent) = dir.parent().map(or_here) else {
            return Ok(());
        };
        let made = match self.disk.create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && parent != Path::new(".") => {
                self.create_dir(parent)?;
                self.disk.create_dir(dir)
            }
            made => made,
        };
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(self.error("make", &dir.display().to_string(), 0)(error)),
            Ok(()) => self.sync_dir(parent).inspect_err(|_| {
                // The next try would find it, and a crash may take it all the same (O3).
                drop(self.disk.remove_dir(dir));
            }),
        }
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let synced = self.disk.sync_dir(dir);
        synced.map_err(self.error("sync", &dir.display().to_string(), 0))
    }

    /// The file of an object. Errors: `Io` if no object can have this name.
    fn path_of(&self, name: &ObjectName) -> Result<PathBuf> {
        refuse_strange(name)?;
        Ok(self.root.join(name))
    }

    /// For `map_err`: no room is told with how much was `needed`.
    fn error(
        &self,
        op: &'static str,
        object: &str,
        needed: u64,
    ) -> impl FnOnce(io::Error) -> RepositoryError {
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RepositoryError::NoSpace {
                place: self.place(),
                needed,
                free: self.disk.free_bytes(&self.root).unwrap_or_default(),
            },
            _ => RepositoryError::io(op, object)(error),
        }
    }

    fn open(&self, name: &ObjectName) -> Result<Arc<dyn File>> {
        let path = self.path_of(name)?;
        self.disk.open(&path, OpenMode::Read).map_err(|error| {
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) {
                let object = name.to_owned();
                return RepositoryError::Missing { object };
            }
            self.error("open", name, 0)(error)
        })
    }

    fn put_file(
        &self,
        name: &ObjectName,
        parts: &[&[u8]],
        put: Put,
        rest: Option<Rest<'_>>,
    ) -> Result<()> {
        self.refuse_if_poisoned()?;
        let path = self.path_of(name)?;
        let mut tries = 0;
        loop {
            if put == Put::New {
                match self.open(name) {
                    Err(RepositoryError::Missing { .. }) => {}
                    Err(error) => return Err(error),
                    Ok(_) => {
                        let object = name.to_owned();
                        return Err(RepositoryError::Exists { object });
                    }
                }
            }
            let staged = self.stage(name, parts, rest)?;
            tries += 1;
            match self.disk.rename(&staged, &path) {
                Ok(()) => break,
                // The staged file was swept away, or the folder was never copied, being empty.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                    drop(self.disk.remove(&staged));
                    self.renew_folders()?;
                }
                Err(error) => {
                    drop(self.disk.remove(&staged));
                    return Err(self.error("name", name, 0)(error));
                }
            }
        }
        self.note(&path, put == Put::New);
        Ok(())
    }

    /// Writes `parts` as a new file of `tmp/`, durable but for its name.
    fn stage(&self, name: &ObjectName, parts: &[&[u8]], rest: Option<Rest<'_>>) -> Result<PathBuf> {
        let needed = parts.iter().map(|part| part.len() as u64).sum();
        let mut random = [0; 8];
        let drawn = self.random.fill(&mut random);
        drawn.map_err(RepositoryError::io("draw a name for", name))?;
        let number = self.staged_count.fetch_add(1, Ordering::Relaxed);
        let staged = format!("{TMP}/{}-{number}", hex::encode(&random));
        let staged = self.root.join(staged);
        let file = match self.disk.open(&staged, OpenMode::CreateNew) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.renew_folders()?;
                self.disk.open(&staged, OpenMode::CreateNew)
            }
            file => file,
        };
        let file = file.map_err(self.error("write", name, needed))?;
        let piece_bytes = rest.map_or(usize::MAX, |_| SLOW_PIECE_BYTES);
        let mut pieces = parts.iter().flat_map(|part| part.chunks(piece_bytes));
        let mut offset = 0;
        let written = pieces.try_for_each(|piece| {
            let bytes = piece.len() as u64;
            write_all_at(file.as_ref(), piece, offset)?;
            if let Some(rest) = rest {
                file.write_back(offset, bytes)?;
                rest();
            }
            offset += bytes;
            Ok(())
        });
        if let Err(error) = written.and_then(|()| file.sync_data()) {
            drop(file);
            // The first error is the one to tell; the next writer sweeps `tmp/`.
            drop(self.disk.remove(&staged));
            return Err(self.error("write", name, needed)(error));
        }
        Ok(staged)
    }

    /// The file `name` of the folder, made if there is none, and whether its lock is ours now.
    fn try_lock_file(&self, name: &str) -> Result<(Arc<dyn File>, bool)> {
        let path = self.root.join(name);
        let opened = match self.disk.open(&path, OpenMode::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match self.disk.open(&path, OpenMode::CreateNew) {
                    // Another one was faster.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        self.disk.open(&path, OpenMode::ReadWrite)
                    }
                    made => made,
                }
            }
            opened => opened,
        };
        let file = opened.map_err(self.error("open", name, 0))?;
        let is_ours = file.try_lock(LockKind::Exclusive);
        let is_ours = is_ours.map_err(self.error("lock", name, 0))?;
        Ok((file, is_ours))
    }

    fn refuse_if_poisoned(&self) -> Result<()> {
        match self.unsettled.lock().is_poisoned {
            false => Ok(()),
            true => Err(RepositoryError::io("write to", self.place())(
                io::Error::other("an earlier sync of a folder failed"),
            )),
        }
    }

    /// Notes that a name in the folder of `path` has changed.
    fn note(&self, path: &Path, is_new: bool) {
        let mut unsettled = self.unsettled.lock();
        let folder = path.parent().unwrap_or(&self.root).to_owned();
        unsettled.folders.insert(folder);
        if is_new {
            unsettled.objects.push(path.to_owned());
        }
    }

    /// Removes what writers that are gone have left in `tmp/`.
    fn sweep(&self) -> Result<()> {
        let tmp = self.root.join(TMP);
        let names = match self.disk.list(&tmp) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(RepositoryError::io("list", TMP))?,
        };
        for name in names {
            match self.disk.remove(&tmp.join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let object = format!("{TMP}/{}", name.to_string_lossy());
                    return Err(RepositoryError::io("remove", object)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The directory that a path without names in it means.
fn or_here(dir: &Path) -> &Path {
    match dir.as_os_str().is_empty() {
        true => Path::new("."),
        false => dir,
    }
}

impl Store for FolderStore {
    fn put(&self, name: &ObjectName, parts: &[&[u8]], put: Put) -> Result<()> {
        self.put_file(name, parts, put, None)
    }

    fn put_slowly(
        &self,
        name: &ObjectName,
        parts: &[&[u8]],
        put: Put,
        rest: Rest<'_>,
    ) -> Result<()> {
        self.put_file(name, parts, put, Some(rest))
    }

    /// `lost+found` makes no difference: a new disk for backups has it.
    fn look(&self) -> Result<Found> {
        let names = match self.disk.list(&self.root) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Found::Else),
            Err(error) => return Err(self.error("list", &self.place(), 0)(error)),
        };
        for name in names {
            let is_ours = match name.to_str() {
                Some(LOCK | MARKS_LOCK | TMP | "lost+found") => true,
                // Keys come before the repository that they are of, and open nothing without it.
                Some(crypt::FOLDER) => true,
                Some(folder) if FOLDERS.contains(&folder) => self.list(folder)?.is_empty(),
                _ => false,
            };
            if !is_ours {
                return Ok(Found::Else);
            }
        }
        Ok(Found::Empty)
    }

    /// Makes the folder, and what is missing above it, with the folders in it, durably.
    fn prepare(&self) -> Result<()> {
        self.create_dir(&self.root)?;
        for folder in FOLDERS.iter().chain([&TMP]) {
            self.create_dir(&self.root.join(folder))?;
        }
        for dir in self.root.ancestors().skip(1) {
            // A killed process may have made one and not come to this. Where we are not allowed to, it
            // was not we who made it.
            drop(self.disk.sync_dir(or_here(dir)));
        }
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        self.refuse_if_poisoned()?;
        let mut unsettled = self.unsettled.lock();
        let synced = unsettled
            .folders
            .iter()
            .try_for_each(|folder| self.sync_dir(folder));
        if let Err(error) = synced {
            unsettled.is_poisoned = true;
            for object in std::mem::take(&mut unsettled.objects) {
                drop(self.disk.remove(&object));
            }
            return Err(error);
        }
        unsettled.folders.clear();
        unsettled.objects.clear();
        Ok(())
    }

    fn read_at(&self, name: &ObjectName, offset: u64, out: &mut [u8]) -> Result<()> {
        let file = self.open(name)?;
        let read = read_up_to(file.as_ref(), out, offset);
        let count = read.map_err(self.error("read", name, 0))?;
        if count == out.len() {
            return Ok(());
        }
        let bytes = file.len().map_err(self.error("read", name, 0))?;
        Err(RepositoryError::Cut {
            object: name.to_owned(),
            bytes,
            needed: offset.saturating_add(out.len() as u64),
        })
    }

    fn read_afresh(&self, name: &ObjectName) {
        if let Ok(file) = self.open(name) {
            // What cannot be dropped is read from memory.
            drop(drop_cached(file.as_ref()));
        }
    }

    fn size(&self, name: &ObjectName) -> Result<u64> {
        self.open(name)?
            .len()
            .map_err(self.error("look at", name, 0))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        let names = match self.disk.list(&self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            names => names.map_err(self.error("list", folder, 0))?,
        };
        let text = |name: std::ffi::OsString| name.to_string_lossy().into_owned();
        Ok(names.into_iter().map(text).collect())
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.refuse_if_poisoned()?;
        let path = self.path_of(name)?;
        match self.disk.remove(&path) {
            Ok(()) => self.note(&path, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.error("remove", name, 0)(error)),
        }
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn WriterLock>> {
        let path = self.root.join(LOCK);
        let (file, is_ours) = self.try_lock_file(LOCK)?;
        if !is_ours && !fault::is(Fault::WriterLockIgnored) {
            let place = self.place();
            return Err(RepositoryError::Locked { place });
        }
        let identity = file.identity().map_err(self.error("look at", LOCK, 0))?;
        let lock = FolderLock {
            _file: file,
            identity,
            disk: Arc::clone(&self.disk),
            path,
            place: self.place(),
        };
        lock.confirm()?;
        self.sweep()?;
        let folders = FOLDERS.iter().map(|folder| self.root.join(folder));
        for folder in folders.chain([self.root.clone()]) {
            match self.disk.open(&folder, OpenMode::Directory) {
                // It has no names; whoever makes it makes it durable.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => {
                    let place = folder.display().to_string();
                    opened.map_err(self.error("open", &place, 0))?;
                    self.unsettled.lock().folders.insert(folder);
                }
            }
        }
        Ok(Box::new(lock))
    }

    /// No one removes the file, and so nobody asks whether it is still the one.
    fn lock_marks(&self) -> Result<Box<dyn MarksLock>> {
        let mut waited = Duration::ZERO;
        loop {
            let (file, is_ours) = self.try_lock_file(MARKS_LOCK)?;
            if is_ours {
                return Ok(Box::new(FolderMarksLock { _file: file }));
            }
            if waited >= MARKS_PATIENCE {
                let place = self.place();
                return Err(RepositoryError::Locked { place });
            }
            self.clock.sleep(MARKS_PAUSE);
            waited += MARKS_PAUSE;
        }
    }

    fn lock_line(&self, line: &str) -> Result<Box<dyn LineLock>> {
        let name = format!("{LINE_LOCK}{line}");
        let (file, is_ours) = self.try_lock_file(&name)?;
        if !is_ours {
            let place = self.place();
            return Err(RepositoryError::LineLocked { place });
        }
        // What a killed one has named may not be durable; the next settle makes it so.
        self.unsettled
            .lock()
            .folders
            .insert(self.root.join(log::FOLDER));
        Ok(Box::new(FolderLineLock { _file: file }))
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        let free = self.disk.free_bytes(&self.root);
        let place = self.place();
        free.map(Some)
            .map_err(RepositoryError::io("ask for the free space of", place))
    }

    fn place(&self) -> String {
        self.root.display().to_string()
    }
}

/// The lock of an open file, as [`FolderLock`].
#[derive(Debug)]
struct FolderMarksLock {
    _file: Arc<dyn File>,
}

impl MarksLock for FolderMarksLock {}

/// The lock of an open file, as [`FolderLock`].
#[derive(Debug)]
struct FolderLineLock {
    _file: Arc<dyn File>,
}

impl LineLock for FolderLineLock {}

/// The lock of an open file: it ends when that is closed, by the kernel at the latest (BK3).
#[derive(Debug)]
struct FolderLock {
    _file: Arc<dyn File>,
    identity: FileIdentity,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    place: String,
}

impl WriterLock for FolderLock {
    /// The lock counts only as long as the file is the one that others would lock.
    fn confirm(&self) -> Result<()> {
        let found = self.disk.open(&self.path, OpenMode::Read);
        let found = found.and_then(|file| file.identity());
        match found {
            Ok(identity) if identity == self.identity => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RepositoryError::io("open", LOCK)(error))
            }
            _ => Err(RepositoryError::Locked {
                place: self.place.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
