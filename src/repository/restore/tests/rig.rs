//! Repositories filled by hand, and what is looked at in a target.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::os::Host;
use crate::repository::manifest::{
    BackupKind, Entry, EntryContent, Extent, FileContent, SourceName, Statistics,
};
use crate::repository::pack::{PackBuilder, PackId, SealedFrame, Slot};
use crate::repository::restore::*;
use crate::repository::store::Put;
use crate::repository::{BackupId, Compression, Digest};

pub(super) const UNIT: usize = 4096;

/// What is backed up under a path.
#[derive(Clone)]
pub(super) enum What {
    Folder,
    Content(Vec<u8>),
    Link(&'static str),
    HardLink(&'static str),
}

pub(super) struct Rig {
    pub(super) place: tempfile::TempDir,
    pub(super) repository: Repository,
    count: Cell<u64>,
}

/// Units drawn from a seed; each eighth is nothing but zeros.
pub(super) fn content(seed: u8, units: usize, rest: usize) -> What {
    let mut bytes = Vec::new();
    for unit in 0..units {
        let fill = |at: usize| (at / 7 + unit * 31 + usize::from(seed)) as u8;
        let zeros = unit % 8 == 5;
        bytes.extend((0..UNIT).map(|at| if zeros { 0 } else { fill(at) }));
    }
    bytes.extend(vec![seed; rest]);
    What::Content(bytes)
}

impl Rig {
    pub(super) fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("repository");
        let repository = Repository::open_or_create(&Host::system(), &path).unwrap();
        Self {
            place,
            repository,
            count: Cell::new(0),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Stores a backup: a pack for every file.
    pub(super) fn back_up(&self, kind: &str, whats: &[(&str, What)]) -> BackupId {
        self.count.set(self.count.get() + 1);
        let mut packs = Vec::new();
        let root = [("", What::Folder)];
        let entries = root.iter().chain(whats).map(|(path, what)| Entry {
            path: path.as_bytes().to_vec(),
            mode: if matches!(what, What::Folder) {
                0o750
            } else {
                0o640
            },
            uid: crate::os::process::effective_user(),
            gid: 0,
            mtime_ns: 1_234_567_890_123_456_789,
            content: match what {
                What::Folder => EntryContent::Directory,
                What::Link(to) => EntryContent::Link(to.as_bytes().to_vec()),
                What::HardLink(to) => EntryContent::HardLink(to.as_bytes().to_vec()),
                What::Content(bytes) => EntryContent::File(self.store(bytes, &mut packs)),
            },
        });
        let entries: Vec<Entry> = entries.collect();
        self.publish(kind, entries, packs, |_| {})
    }

    fn store(&self, bytes: &[u8], packs: &mut Vec<PackId>) -> FileContent {
        let store = &**self.repository.store();
        let mut id = [0; 16];
        self.repository.host().random.fill(&mut id).unwrap();
        let mut pack = PackBuilder::new(self.repository.id(), PackId(id));
        let mut extents: Vec<Extent> = Vec::new();
        let mut digests = Vec::new();
        let at = u32::try_from(packs.len()).unwrap();
        for unit in bytes.chunks(UNIT) {
            let digest = Digest::of(unit);
            digests.push(digest);
            let (place, slot) = if unit.iter().all(|byte| *byte == 0) {
                (Extent::ZEROS, 0)
            } else {
                let slots = vec![Slot {
                    digest,
                    bytes: u32::try_from(unit.len()).unwrap(),
                }];
                (
                    at,
                    pack.push(SealedFrame::seal(unit, slots, Compression::Lz4)),
                )
            };
            match extents.last_mut() {
                Some(last) if last.pack == place && place == Extent::ZEROS => last.count += 1,
                Some(last) if last.pack == place && last.slot + last.count == slot => {
                    last.count += 1;
                }
                _ => extents.push(Extent {
                    count: 1,
                    pack: place,
                    slot,
                }),
            }
        }
        if pack.slot_count() > 0 {
            pack.finish(store, Put::New).unwrap();
            packs.push(PackId(id));
        }
        FileContent {
            bytes: bytes.len() as u64,
            unit_bytes: u32::try_from(UNIT).unwrap(),
            digest: Digest::of_units(bytes.len() as u64, digests),
            extents,
            version: None,
        }
    }

    /// Stores a manifest of `entries`, after `change`.
    pub(super) fn publish(
        &self,
        kind: &str,
        entries: Vec<Entry>,
        packs: Vec<PackId>,
        change: impl FnOnce(&mut Manifest),
    ) -> BackupId {
        let number = u32::try_from(self.count.get()).unwrap();
        let id = BackupId::new(1_763_665_649_000_000_000, number.to_le_bytes());
        let paths = entries.iter().filter(|entry| entry.path.ends_with(b".db"));
        let databases = paths.map(|entry| DatabaseFacts {
            path: String::from_utf8(entry.path.clone()).unwrap(),
            kind: "sqlite".to_owned(),
            page_bytes: 4096,
            page_count: 1,
            database: None,
            history: None,
            lsn: None,
            timestamp: None,
            epoch: None,
            wall_ns: None,
            digest: Digest::default(),
        });
        let facts = BackupFacts {
            id: id.clone(),
            kind: BackupKind::Full,
            parent: None,
            full: id.clone(),
            source: SourceName {
                kind: kind.to_owned(),
                path: "/source".to_owned(),
                host: "here".to_owned(),
            },
            tag: None,
            stillfs: "0".to_owned(),
            begun_ns: 0,
            finished_ns: 0,
            moment_ns: 0,
            databases: databases.collect(),
            digest: Manifest::digest_of(&entries),
            statistics: Statistics::default(),
            left_out: Vec::new(),
            log_index: None,
            term: None,
        };
        let mut manifest = Manifest {
            facts,
            packs,
            entries,
        };
        change(&mut manifest);
        let store = self.repository.store();
        let object = Manifest::object(&id);
        store.put(&object, &[&manifest.encode()], Put::New).unwrap();
        store.settle().unwrap();
        id
    }

    pub(super) fn restore(&self, id: &BackupId, target: &Path) -> Result<RestoreReport> {
        self.restore_with(id, target, RestoreOptions::default(), &Control::default())
    }

    pub(super) fn replace(&self, id: &BackupId, target: &Path) -> Result<RestoreReport> {
        self.restore_with(id, target, REPLACE, &Control::default())
    }

    pub(super) fn restore_with(
        &self,
        id: &BackupId,
        target: &Path,
        options: RestoreOptions,
        control: &Control,
    ) -> Result<RestoreReport> {
        patiently(|| restore(&self.repository, id, target, options, &Nobody, control))
    }

    /// Restores with force, looked on by `watch`.
    pub(super) fn replace_watched(
        &self,
        id: &BackupId,
        target: &Path,
        watch: Watch<'_>,
    ) -> Result<RestoreReport> {
        let job = Job {
            repository: &self.repository,
            options: REPLACE,
            examine: &Nobody,
            control: &Control::default(),
            watch,
            way: None,
        };
        patiently(|| job.run(id, target))
    }

    /// The names in the place, the repository's left out.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = names(self.place.path());
        names.retain(|name| name != "repository");
        names
    }
}

/// A child that another test has just forked keeps the lock of a workspace until it is another program.
fn patiently<T>(mut run: impl FnMut() -> Result<T>) -> Result<T> {
    let clock = Host::system().clock;
    let begun = clock.monotonic();
    loop {
        let outcome = run();
        let is_locked = matches!(&outcome, Err(RepositoryError::TargetInUse { user, .. }) if user == "another restore");
        if !is_locked || clock.monotonic().saturating_sub(begun) > Duration::from_secs(2) {
            return outcome;
        }
        clock.sleep(Duration::from_millis(5));
    }
}

pub(super) const REPLACE: RestoreOptions = RestoreOptions {
    existing: Existing::Replaced,
    read_back: ReadBack::Yes,
};

/// Nobody has anything open.
pub(super) struct Nobody;

impl Examine for Nobody {
    fn claim(&self, _target: &Path) -> Result<Box<dyn Send>> {
        Ok(Box::new(()))
    }

    fn walk(&self, _path: &Path, _facts: &DatabaseFacts) -> Result<()> {
        Ok(())
    }
}

pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Everything below `dir`: what it is, and its attributes.
pub(super) fn picture(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut picture = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for name in names(&folder) {
            let path = folder.join(name);
            let facts = std::fs::symlink_metadata(&path).unwrap();
            let what = if facts.is_dir() {
                folders.push(path.clone());
                "folder".to_owned()
            } else if facts.is_symlink() {
                format!("link {}", std::fs::read_link(&path).unwrap().display())
            } else {
                let bytes = std::fs::read(&path).unwrap();
                format!("{} {} {}", bytes.len(), Digest::of(&bytes), facts.nlink())
            };
            let mode = facts.permissions().mode() & 0o7777;
            let times = (facts.mtime(), facts.mtime_nsec());
            let below = path.strip_prefix(dir).unwrap().to_owned();
            picture.insert(below, format!("{what} {mode:o} {times:?}"));
        }
    }
    picture
}

/// Cancels when so many bytes are dealt with.
pub(super) fn cancel_after(control: &Control, bytes: u64) -> std::thread::JoinHandle<()> {
    let control = control.clone();
    std::thread::spawn(move || {
        loop {
            let progress = control.progress();
            if progress.bytes_done >= bytes || progress.phase == Phase::Completed {
                control.cancel();
                return;
            }
            std::thread::yield_now();
        }
    })
}
