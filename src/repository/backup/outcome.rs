//! What was read, as the entries and facts of a manifest.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use crate::repository::backup::blob_index::{BlobIndex, BlobNo};
use crate::repository::backup::file_job::{FileJob, FileState};
use crate::repository::backup::job::Done;
use crate::repository::backup::walk::{Walked, shown};
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::{
    DatabaseFacts, Entry, EntryContent, Extent, FileContent, FileVersion, LeftOutFact, Statistics,
};
use crate::repository::pack::PackId;

/// The parts of a manifest that follow from what was read.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) entries: Vec<Entry>,
    pub(super) packs: Vec<PackId>,
    pub(super) databases: Vec<DatabaseFacts>,
    pub(super) left_out: Vec<LeftOutFact>,
    /// Without what is known only later.
    pub(super) statistics: Statistics,
}

/// Puts together what was walked and what was read.
///
/// Errors: `WorkerLost` if a unit has no place, which no healthy run leaves behind.
pub(super) fn conclude(walked: Walked, done: Done) -> Result<Outcome> {
    let mut packs = PackList::new();
    let mut outcome = Outcome {
        entries: walked.entries,
        packs: Vec::new(),
        databases: Vec::new(),
        left_out: walked.left_out,
        statistics: Statistics::default(),
    };
    let mut missing = HashSet::new();
    for job in done.files {
        let (state, path) = (
            job.state.into_inner(),
            outcome.entries[job.entry].path.clone(),
        );
        let fact = |reason: String| LeftOutFact {
            path: shown(&path),
            reason,
            is_wanted: false,
        };
        if let Some(reason) = &state.left_out {
            outcome.left_out.push(fact(reason.clone()));
            missing.insert(path);
            continue;
        }
        if state.is_changed {
            outcome
                .left_out
                .push(fact("changed while it was read".to_owned()));
        }
        let job = FileJob {
            state: parking_lot::Mutex::default(),
            ..job
        };
        outcome.add_file(&job, state, &done.index, &mut packs)?;
    }
    outcome.remove(&missing);
    outcome.packs = packs.names;
    let counts = &done.counts;
    let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let statistics = &mut outcome.statistics;
    statistics.units_read = of(&counts.units_read);
    statistics.bytes_read = of(&counts.bytes_read);
    statistics.units_new = of(&counts.units_new);
    statistics.bytes_new = of(&counts.bytes_new);
    let is_file = |entry: &&Entry| entry.content != EntryContent::Directory;
    statistics.files = outcome.entries.iter().filter(is_file).count() as u64;
    Ok(outcome)
}

impl Outcome {
    fn add_file(
        &mut self,
        job: &FileJob,
        state: FileState,
        index: &BlobIndex,
        packs: &mut PackList,
    ) -> Result<()> {
        let bytes = state.bytes;
        let unit_count = job.unit_count(bytes);
        let mut numbers = state.numbers;
        numbers.truncate(usize::try_from(unit_count).unwrap_or(usize::MAX));
        let digest = digest(job, bytes, &numbers, index)?;
        let extents = packs.extents(&numbers, index)?;
        self.statistics.bytes += bytes;
        self.statistics.units += unit_count;
        let entry = &mut self.entries[job.entry];
        if let Some(page_bytes) = job.database {
            let page_count = bytes.checked_div(u64::from(page_bytes)).unwrap_or(0);
            let facts = database_facts(job, &entry.path, digest);
            self.databases.push(DatabaseFacts {
                page_bytes,
                page_count,
                ..facts
            });
        }
        if let Some(found) = state.found {
            entry.mode = u16::try_from(found.mode & 0o7777).unwrap_or(entry.mode);
            (entry.uid, entry.gid) = (found.uid, found.gid);
            entry.mtime_ns = found.mtime_ns;
        }
        entry.content = EntryContent::File(FileContent {
            bytes,
            unit_bytes: job.unit_bytes,
            digest,
            extents,
            version: job.version.map(|version| FileVersion {
                database: version.database,
                history: version.history,
                lsn: version.lsn,
            }),
        });
        Ok(())
    }

    /// Removes the files of these paths, and what is another name of one.
    fn remove(&mut self, missing: &HashSet<Vec<u8>>) {
        if missing.is_empty() {
            return;
        }
        let left_out = &mut self.left_out;
        self.entries.retain(|entry| match &entry.content {
            EntryContent::HardLink(first) if missing.contains(first) => {
                left_out.push(LeftOutFact {
                    path: shown(&entry.path),
                    reason: format!("another name of {}", shown(first)),
                    is_wanted: false,
                });
                false
            }
            _ => !missing.contains(&entry.path),
        });
    }
}

fn database_facts(job: &FileJob, path: &[u8], digest: Digest) -> DatabaseFacts {
    let version = job.version;
    let kind = version.map_or("sqlite", |_| super::NATIVE_KIND);
    DatabaseFacts {
        path: shown(path),
        kind: kind.to_owned(),
        page_bytes: 0,
        page_count: 0,
        database: version.map(|version| version.database.to_string()),
        history: version.map(|version| version.history.to_string()),
        lsn: version.map(|version| version.lsn.0),
        timestamp: version.map(|version| version.timestamp.0),
        epoch: job.epoch.map(|epoch| epoch.to_string()),
        wall_ns: version.map(|version| version.wall_ns),
        digest,
    }
}

/// The digest of the file, from those of its units.
fn digest(job: &FileJob, bytes: u64, numbers: &[BlobNo], index: &BlobIndex) -> Result<Digest> {
    let unit_bytes = u64::from(job.unit_bytes);
    let zeros = vec![0; job.unit_bytes as usize];
    let of_zeros = Digest::of(&zeros);
    let digest_of = |(at, number): (u64, &BlobNo)| match *number {
        BlobNo::ZEROS => {
            let rest = bytes.saturating_sub(at.saturating_mul(unit_bytes));
            let part = usize::try_from(rest)
                .ok()
                .and_then(|rest| zeros.get(..rest));
            Some(part.map_or(of_zeros, Digest::of))
        }
        number => index.digest(number),
    };
    let mut is_lost = false;
    let digests = (0..).zip(numbers).map_while(|unit| {
        let digest = digest_of(unit);
        is_lost |= digest.is_none();
        digest
    });
    let digest = Digest::of_units(bytes, digests);
    match is_lost {
        true => Err(RepositoryError::WorkerLost),
        false => Ok(digest),
    }
}

/// The packs that a manifest names, each once, in the order of their first use.
struct PackList {
    names: Vec<PackId>,
    /// By the index's number of a pack, its place in `names`.
    places: Vec<Option<u32>>,
}

impl PackList {
    fn new() -> Self {
        Self {
            names: Vec::new(),
            places: Vec::new(),
        }
    }

    fn place_of(&mut self, number: u32, index: &BlobIndex) -> Option<u32> {
        let at = number as usize;
        if self.places.len() <= at {
            self.places.resize(at + 1, None);
        }
        if let Some(place) = self.places[at] {
            return Some(place);
        }
        let place = u32::try_from(self.names.len()).ok()?;
        self.names.push(index.pack(number)?);
        self.places[at] = Some(place);
        Some(place)
    }

    /// Where the units are, runs of slots joined.
    fn extents(&mut self, numbers: &[BlobNo], index: &BlobIndex) -> Result<Vec<Extent>> {
        let mut extents: Vec<Extent> = Vec::new();
        // The index's number of the pack of the last extent.
        let mut last_pack = Extent::ZEROS;
        for number in numbers {
            let (pack, slot) = match *number {
                BlobNo::ZEROS => (Extent::ZEROS, 0),
                number => index.place_of(number).ok_or(RepositoryError::WorkerLost)?,
            };
            let is_zeros = pack == Extent::ZEROS;
            if let Some(last) = extents.last_mut()
                && pack == last_pack
                && (is_zeros || u64::from(last.slot) + u64::from(last.count) == u64::from(slot))
                && last.count < u32::MAX
            {
                last.count += 1;
                continue;
            }
            last_pack = pack;
            let pack = match is_zeros {
                true => Extent::ZEROS,
                false => self
                    .place_of(pack, index)
                    .ok_or(RepositoryError::WorkerLost)?,
            };
            extents.push(Extent {
                count: 1,
                pack,
                slot,
            });
        }
        Ok(extents)
    }
}
