//! Small repositories made by hand, with everything that one can have, for the tests of this module.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::os::{Host, SimulatedHost};
use crate::repository::backup_id::BackupId;
use crate::repository::blob_reader::BlobReader;
use crate::repository::catalog::Repository;
use crate::repository::compression::Compression;
use crate::repository::digest::Digest;
use crate::repository::error::Result;
use crate::repository::manifest::{
    BackupFacts, BackupKind, Entry, EntryContent, Extent, FileContent, Manifest, SourceName,
    Statistics,
};
use crate::repository::mark::Mark;
use crate::repository::pack::{PackBuilder, PackId, SealedFrame, Slot};
use crate::repository::progress::Control;
use crate::repository::store::Put;
use crate::repository::unit::{runs, unit_bytes};
use crate::repository::verify::{Depth, VerifyOptions, VerifyReport, verify};

/// Bytes of a unit of all files of specimens.
pub(super) const UNIT: usize = 64;
/// Units of a frame.
const FRAME_UNITS: usize = 4;

/// Bytes of the files of a backup, by their paths.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// A repository and what its backups must have.
pub(super) struct Specimen {
    pub(super) machine: SimulatedHost,
    pub(super) repository: Repository,
    pub(super) backups: BTreeMap<BackupId, Files>,
    known: HashMap<Digest, (PackId, u32)>,
    next_pack: u8,
}

/// So many units, each of its own, of which `word` is the beginning; what can be compressed.
pub(super) fn units(word: &str, count: usize) -> Vec<u8> {
    let unit = |number| {
        let mut unit = format!("{word} {number} ").into_bytes();
        unit.resize(UNIT, b'.');
        unit
    };
    (0..count).flat_map(unit).collect()
}

/// Bytes that cannot be compressed.
pub(super) fn noise(seed: u64, count: usize) -> Vec<u8> {
    let random = crate::os::random::SeededRandom::new(seed);
    let mut out = vec![0; count];
    crate::os::Random::fill(&random, &mut out).unwrap();
    out
}

/// The files of a backup.
pub(super) fn files(files: &[(&str, Vec<u8>)]) -> Files {
    let files = files.iter().cloned();
    files
        .map(|(path, bytes)| (path.to_owned(), bytes))
        .collect()
}

impl Specimen {
    /// An empty repository on a simulated machine.
    pub(super) fn new(seed: u64, place: &str) -> Self {
        Self::on(Host::simulated(seed), place)
    }

    pub(super) fn on(machine: SimulatedHost, place: &str) -> Self {
        let repository = Repository::open_or_create(&machine.host, Path::new(place)).unwrap();
        Self::of(machine, repository)
    }

    /// Of the empty `repository` on `machine`.
    pub(super) fn of(machine: SimulatedHost, repository: Repository) -> Self {
        Self {
            machine,
            repository,
            backups: BTreeMap::new(),
            known: HashMap::new(),
            next_pack: 0,
        }
    }

    /// One with three backups of one tree, in packs of all forms, of which the first shares content with
    /// the others, the second is held, and the third stands alone; and a pack that nobody needs.
    pub(super) fn rich(seed: u64) -> (Self, [BackupId; 3]) {
        Self::new(seed, "/r").enriched()
    }

    /// This one, with what [`Specimen::rich`] has.
    pub(super) fn enriched(self) -> (Self, [BackupId; 3]) {
        let mut specimen = self;
        let grown = [units("old", 6), units("new", 3)].concat();
        let first = files(&[("a", units("old", 6)), ("d/zeros", vec![0; 5 * UNIT + 7])]);
        let second = files(&[
            ("a", grown),
            ("d/b", noise(1, 3 * UNIT)),
            ("empty", Vec::new()),
        ]);
        let third = files(&[("c", units("else", 9))]);
        let first = specimen.back_up(1, &first, Compression::Lz4);
        let second = specimen.back_up(2, &second, Compression::Zstd(3));
        let third = specimen.back_up(3, &third, Compression::None);
        let hold = &mut |mark: &mut Mark| mark.is_held = true;
        specimen.repository.set_mark(&second, hold).unwrap();
        specimen.store_pack(&[units("needless", 5).as_slice()], Compression::Lz4);
        specimen.repository.store().settle().unwrap();
        (specimen, [first, second, third])
    }

    /// Backs up `files` as of second `second`, with directories and links about them.
    pub(super) fn back_up(
        &mut self,
        second: u64,
        files: &Files,
        compression: Compression,
    ) -> BackupId {
        self.back_up_of("/srv", second, files, compression)
    }

    /// The same of the source `path`.
    pub(super) fn back_up_of(
        &mut self,
        path: &str,
        second: u64,
        files: &Files,
        compression: Compression,
    ) -> BackupId {
        let contents: Vec<_> = files.values().map(Vec::as_slice).collect();
        self.store_pack(&contents, compression);
        let mut packs = Vec::new();
        let mut entries = vec![entry("", EntryContent::Directory)];
        entries.push(entry("d", EntryContent::Directory));
        for (path, bytes) in files {
            let content = self.content(bytes, &mut packs);
            entries.push(entry(path, EntryContent::File(content)));
        }
        if let Some(path) = files.keys().next() {
            let first = path.clone().into_bytes();
            entries.push(entry("hard", EntryContent::HardLink(first)));
            entries.push(entry("soft", EntryContent::Link(b"d/../a".to_vec())));
        }
        let facts = facts(path, second, files, &entries);
        let manifest = Manifest {
            facts,
            packs,
            entries,
        };
        manifest.check().unwrap();
        let id = manifest.facts.id.clone();
        self.publish(&manifest);
        self.backups.insert(id.clone(), files.clone());
        id
    }

    fn publish(&self, manifest: &Manifest) {
        let lock = self.repository.store().lock().unwrap();
        let published = self.repository.publish(manifest, &Mark::default(), &*lock);
        published.unwrap();
    }

    /// Stores what is not there yet of `contents` as a pack.
    fn store_pack(&mut self, contents: &[&[u8]], compression: Compression) {
        self.next_pack += 1;
        let id = PackId([self.next_pack; 16]);
        let mut builder = PackBuilder::new(self.repository.id(), id);
        let mut new = Vec::new();
        for unit in contents.iter().flat_map(|content| content.chunks(UNIT)) {
            let digest = Digest::of(unit);
            let is_zeros = unit.iter().all(|byte| *byte == 0);
            let slot = builder.slot_count() + u32::try_from(new.len()).unwrap();
            if !is_zeros && !self.known.contains_key(&digest) {
                self.known.insert(digest, (id, slot));
                new.push(unit);
            }
            if new.len() == FRAME_UNITS {
                builder.push(sealed(&std::mem::take(&mut new), compression));
            }
        }
        if !new.is_empty() {
            builder.push(sealed(&new, compression));
        }
        if builder.slot_count() > 0 {
            let store = self.repository.store();
            builder.finish(store.as_ref(), Put::New).unwrap();
        }
    }

    fn content(&self, bytes: &[u8], packs: &mut Vec<PackId>) -> FileContent {
        let mut extents = Vec::new();
        for unit in bytes.chunks(UNIT) {
            let (pack, slot) = match self.known.get(&Digest::of(unit)) {
                None => (Extent::ZEROS, 0),
                Some((id, slot)) => {
                    let place = packs.iter().position(|pack| pack == id);
                    let place = place.unwrap_or_else(|| {
                        packs.push(*id);
                        packs.len() - 1
                    });
                    (u32::try_from(place).unwrap(), *slot)
                }
            };
            extents.push(Extent {
                count: 1,
                pack,
                slot,
            });
        }
        FileContent {
            bytes: bytes.len() as u64,
            unit_bytes: u32::try_from(UNIT).unwrap(),
            digest: Digest::of_units(bytes.len() as u64, bytes.chunks(UNIT).map(Digest::of)),
            extents,
            version: None,
        }
    }

    /// The repository as another process opens it after the machine crashed.
    pub(super) fn crash(&self, seed: u64) -> Repository {
        let machine = self.machine.crash(seed);
        Repository::open(&machine.host, Path::new(&self.repository.store().place())).unwrap()
    }
}

fn sealed(units: &[&[u8]], compression: Compression) -> SealedFrame {
    let slots = units.iter().map(|unit| Slot {
        digest: Digest::of(unit),
        bytes: u32::try_from(unit.len()).unwrap(),
    });
    SealedFrame::seal(&units.concat(), slots.collect(), compression)
}

fn entry(path: &str, content: EntryContent) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        mode: 0o755,
        uid: 1000,
        gid: 100,
        mtime_ns: 17,
        content,
    }
}

fn facts(path: &str, second: u64, files: &Files, entries: &[Entry]) -> BackupFacts {
    let begun_ns = 1_767_225_600_000_000_000 + second * 1_000_000_000;
    let id = BackupId::new(begun_ns, [u8::try_from(second % 200).unwrap(); 4]);
    BackupFacts {
        id: id.clone(),
        kind: BackupKind::Full,
        parent: None,
        full: id,
        source: SourceName {
            kind: "tree".to_owned(),
            path: path.to_owned(),
            host: "earth".to_owned(),
        },
        tag: None,
        stillfs: "0.1.0".to_owned(),
        begun_ns,
        finished_ns: begun_ns + 1,
        moment_ns: begun_ns,
        databases: Vec::new(),
        digest: Manifest::digest_of(entries),
        statistics: Statistics {
            bytes: files.values().map(|bytes| bytes.len() as u64).sum(),
            ..Statistics::default()
        },
        left_out: Vec::new(),
        log_index: None,
        term: None,
    }
}

/// A file of zeros, which has no end for whoever goes through its units.
pub(super) fn endless() -> FileContent {
    let extent = Extent {
        count: 1 << 28,
        pack: Extent::ZEROS,
        slot: 0,
    };
    FileContent {
        bytes: 1 << 60,
        unit_bytes: 1 << 16,
        digest: Digest::default(),
        extents: vec![extent; 1 << 16],
        version: None,
    }
}

/// The files of backup `id`, every unit read from its pack and every digest compared.
pub(super) fn read_back(repository: &Repository, id: &BackupId) -> Result<Files> {
    let manifest = repository.manifest(id)?;
    let reader = BlobReader::new(repository);
    let mut files = Files::new();
    for entry in &manifest.entries {
        let EntryContent::File(file) = &entry.content else {
            continue;
        };
        let mut out = Vec::new();
        for run in runs(file, &manifest.packs) {
            match run.place {
                Some((pack, slot)) => reader.read(pack, slot, run.count, &mut out)?,
                None => (0..run.count).for_each(|step| {
                    let bytes = unit_bytes(file, run.first_unit + u64::from(step));
                    out.resize(out.len() + bytes as usize, 0);
                }),
            }
        }
        let digests = out.chunks(UNIT).map(Digest::of);
        assert_eq!(Digest::of_units(file.bytes, digests), file.digest);
        let path = String::from_utf8(entry.path.clone()).unwrap();
        files.insert(path, out);
    }
    Ok(files)
}

/// Reads every byte of all backups.
pub(super) fn verified(repository: &Repository) -> VerifyReport {
    let options = VerifyOptions {
        backup: None,
        depth: Depth::ReadData,
        restore_test: None,
    };
    verify(repository, &options, &Control::default()).unwrap()
}

/// Requires that each backup of `repository` is whole and has what `backups` says.
pub(super) fn require_whole(repository: &Repository, backups: &BTreeMap<BackupId, Files>) {
    let report = verified(repository);
    assert_eq!(report.findings, [], "{:?}", report.notes);
    let ids = repository.ids().unwrap();
    assert_eq!(report.verified, ids);
    for id in &ids {
        assert!(read_back(repository, id).unwrap() == backups[id], "{id}");
    }
}
