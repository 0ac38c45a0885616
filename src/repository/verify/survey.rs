//! A whole verification, step after step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::os::random::nonzero;
use crate::repository::audit;
use crate::repository::backup_id::BackupId;
use crate::repository::catalog::Repository;
use crate::repository::damage::{self, Damage};
use crate::repository::error::{RepositoryError, Result};
use crate::repository::hex;
use crate::repository::log;
use crate::repository::manifest::Manifest;
use crate::repository::mark::{Mark, Verified};
use crate::repository::need::{Need, SlotSet};
use crate::repository::pack::PackId;
use crate::repository::progress::{Control, Phase};
use crate::repository::store::LINE_LOCK;
use crate::repository::verify::content::{self, Packs};
use crate::repository::verify::finding::{Findings, fault_in};
use crate::repository::verify::pack_check::{self, Reach};
use crate::repository::verify::{Depth, VerifyOptions, VerifyReport, restore_test};
use crate::repository::{config, crypt};

/// Packs that are looked at at once: one is read while another one is taken apart.
const WORKERS: usize = 2;

/// What stands at the top of a repository. A new disk has the last of them.
const TOP: [&str; 12] = [
    "repository.json",
    "LOCK",
    "LOCK.marks",
    "packs",
    "backups",
    "marks",
    damage::FOLDER,
    crypt::FOLDER,
    log::FOLDER,
    audit::FOLDER,
    "tmp",
    "lost+found",
];

/// A verification at work.
pub(super) struct Survey<'a> {
    repository: &'a Repository,
    options: &'a VerifyOptions<'a>,
    control: &'a Control,
    /// The backups that are looked at.
    ids: Vec<BackupId>,
    /// Bytes of their files, as they say.
    bytes: BTreeMap<BackupId, u64>,
    findings: Findings,
    report: VerifyReport,
}

impl<'a> Survey<'a> {
    /// Errors: `NoBackup`; `Io` of the listing.
    pub(super) fn new(
        repository: &'a Repository,
        options: &'a VerifyOptions<'a>,
        control: &'a Control,
    ) -> Result<Self> {
        let mut ids = repository.ids()?;
        if let Some(one) = options.backup {
            ids.retain(|id| id == one);
            if ids.is_empty() {
                let name = one.to_string();
                return Err(RepositoryError::NoBackup { name });
            }
        }
        Ok(Self {
            repository,
            options,
            control,
            ids,
            bytes: BTreeMap::new(),
            findings: Findings::default(),
            report: VerifyReport::default(),
        })
    }

    pub(super) fn all(mut self) -> Result<VerifyReport> {
        self.look_at_config()?;
        let needed = self.look_at_manifests()?;
        let mut listed = BTreeMap::new();
        if self.options.backup.is_none() {
            listed = self.look_at_names()?;
            self.look_at_log()?;
        }
        let packs = self.look_at_packs(&needed, &listed)?;
        let sizes = self.compare(&packs)?;
        self.note_faults(&packs, &needed);
        self.restore_tests()?;
        self.control.enter(Phase::Finalizing);
        let present: BTreeSet<_> = self.repository.ids()?.into_iter().collect();
        self.set_marks(&sizes, &present);
        self.record_damage(&packs);
        if self.options.backup.is_none() {
            self.note_needless(&needed, &listed, &present)?;
        }
        self.report.backup_count = self.ids.len() as u64;
        self.report.findings = self.findings.finish(|id| !present.contains(id));
        Ok(self.report)
    }

    fn look_at_config(&mut self) -> Result<()> {
        let store = self.repository.store();
        let what = match config::read(store.as_ref()) {
            Ok(config) if config.id == self.repository.id() => return Ok(()),
            Ok(_) => "it is of another repository than a moment ago".to_owned(),
            Err(RepositoryError::Missing { .. }) => "it is missing".to_owned(),
            Err(error) => fault_in(error)?,
        };
        for id in &self.ids {
            self.findings.add_for("repository.json", &what, id);
        }
        self.findings.add("repository.json", &what);
        Ok(())
    }

    /// Decodes every manifest and every mark; returns what the backups need.
    fn look_at_manifests(&mut self) -> Result<BTreeMap<PackId, SlotSet>> {
        let store = self.repository.store();
        let mut need = Need::default();
        for id in &self.ids {
            self.control.refuse_if_cancelled()?;
            store.read_afresh(&Manifest::object(id));
            store.read_afresh(&Mark::object(id));
            match self.repository.manifest(id) {
                Ok(manifest) => {
                    need.add(&manifest);
                    self.bytes
                        .insert(id.clone(), manifest.facts.statistics.bytes);
                }
                Err(error) => {
                    let object = Manifest::object(id);
                    self.findings.add_for(&object, &fault_in(error)?, id);
                }
            }
            let mark = store.size(&Mark::object(id));
            if let Err(error) = mark.and_then(|_| self.repository.mark(id)) {
                let object = Mark::object(id);
                self.findings.add_for(&object, &fault_in(error)?, id);
            }
        }
        Ok(need.finish())
    }

    /// Looks at the names of all objects; returns the packs and their sizes.
    fn look_at_names(&mut self) -> Result<BTreeMap<PackId, u64>> {
        let store = self.repository.store();
        let strange = "it has no name of anything that belongs there";
        for name in store.list("backups")? {
            if name.parse::<BackupId>().is_err() {
                self.findings.add(&format!("backups/{name}"), strange);
            }
        }
        for name in store.list("marks")? {
            match name.parse::<BackupId>() {
                Ok(id) if self.ids.contains(&id) => {}
                Ok(id) => self.look_at_lone_mark(&id)?,
                Err(_) => self.findings.add(&format!("marks/{name}"), strange),
            }
        }
        for name in store.list(damage::FOLDER)? {
            if hex::decode::<16>(&name).is_none() {
                self.findings
                    .add(&format!("{}/{name}", damage::FOLDER), strange);
            }
        }
        for name in store.list("")? {
            if !TOP.contains(&name.as_str()) && !name.starts_with(LINE_LOCK) {
                self.findings.add(&name, strange);
            }
        }
        let mut packs = BTreeMap::new();
        for name in store.list("packs")? {
            let object = format!("packs/{name}");
            match hex::decode(&name) {
                Some(id) => {
                    let bytes = store.size(&object).unwrap_or_default();
                    packs.insert(PackId(id), bytes);
                }
                None => self.findings.add(&object, strange),
            }
        }
        Ok(packs)
    }

    /// Looks at the pieces of logs, as deep as asked.
    fn look_at_log(&mut self) -> Result<()> {
        let mut drawn = 0.0;
        for name in self.repository.store().list(log::FOLDER)? {
            self.control.refuse_if_cancelled()?;
            drawn += match self.options.depth {
                Depth::Structure => 0.0,
                Depth::Sample(share) => share.clamp(0.0, 1.0),
                Depth::ReadData => 1.0,
            };
            let is_read = drawn >= 1.0;
            drawn -= f64::from(u8::from(is_read));
            match log::check_piece(self.repository, &name, is_read) {
                Ok(bytes) => self.report.bytes_read += bytes,
                // Merged with others, or pruned, since it was listed.
                Err(RepositoryError::Missing { .. }) => {}
                Err(error) => {
                    let object = format!("{}/{name}", log::FOLDER);
                    self.findings.add(&object, &fault_in(error)?);
                }
            }
            self.report.log_piece_count += 1;
        }
        Ok(())
    }

    /// A mark without a manifest: an interruption left it, or the manifest was lost.
    fn look_at_lone_mark(&mut self, id: &BackupId) -> Result<()> {
        let (mark, manifest) = (Mark::object(id), Manifest::object(id));
        let read = self.repository.mark(id);
        if self.repository.store().size(&manifest).is_ok() {
            // Published meanwhile.
            return Ok(());
        }
        match read {
            Ok(read) if read.is_underway => self.report.notes.push(format!(
                "{mark} is of no backup: an interrupted writer left it, and a prune removes it"
            )),
            Ok(_) => self
                .findings
                .add(&manifest, "it is missing, and its mark is there"),
            // Forgotten meanwhile.
            Err(RepositoryError::Missing { .. }) => {}
            Err(error) => self.findings.add(&mark, &fault_in(error)?),
        }
        Ok(())
    }

    /// Looks at the packs that are `needed` or `listed`, several at once.
    fn look_at_packs(
        &mut self,
        needed: &BTreeMap<PackId, SlotSet>,
        listed: &BTreeMap<PackId, u64>,
    ) -> Result<Packs> {
        let ids: BTreeSet<_> = needed.keys().chain(listed.keys()).copied().collect();
        let ids: Vec<_> = ids.into_iter().collect();
        let store = self.repository.store();
        let size = |pack: &PackId| match listed.get(pack) {
            Some(bytes) => *bytes,
            None => store.size(&pack.object()).unwrap_or_default(),
        };
        let mut expected: u64 = ids.iter().map(size).sum();
        if self.options.restore_test.is_some() {
            let bytes = self.bytes.values();
            expected = bytes.fold(expected, |sum, bytes| sum.saturating_add(*bytes));
        }
        self.control.expect_bytes(expected);
        let seed = nonzero(self.repository.host().random.as_ref());
        let seed = seed.map_err(RepositoryError::io("draw a sample of", "the packs"))?;
        let next = AtomicUsize::new(0);
        let found = Mutex::new(Packs::new());
        let is_all = self.options.backup.is_none();
        let work = || {
            while let Some(pack) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                let reach = Reach {
                    depth: self.options.depth,
                    needed: needed.get(pack).filter(|_| !is_all),
                    seed: seed ^ u64::from_le_bytes(first_half(*pack)),
                };
                let check = pack_check::check(self.repository, *pack, reach, self.control)?;
                let rest = size(pack).saturating_sub(check.bytes_read);
                self.control.add_bytes(rest);
                found.lock().insert(*pack, check);
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
            let results = workers.into_iter().map(thread::ScopedJoinHandle::join);
            results
                .map(|result| result.unwrap_or(Err(RepositoryError::WorkerLost)))
                .collect::<Result<Vec<()>>>()
        })?;
        let found = found.into_inner();
        self.report.bytes_read = found.values().map(|check| check.bytes_read).sum();
        self.report.pack_count = found.len() as u64;
        Ok(found)
    }

    /// Compares each backup with its packs; returns the bytes of the files of those that can be read.
    fn compare(&mut self, packs: &Packs) -> Result<BTreeMap<BackupId, u64>> {
        let mut sizes = BTreeMap::new();
        for id in &self.ids {
            self.control.refuse_if_cancelled()?;
            match self.repository.manifest(id) {
                Ok(manifest) => {
                    let bytes = content::check(&manifest, packs, &mut self.findings, self.control)?;
                    sizes.insert(id.clone(), bytes);
                }
                Err(error) => {
                    let object = Manifest::object(id);
                    self.findings.add_for(&object, &fault_in(error)?, id);
                }
            }
        }
        Ok(sizes)
    }

    /// Faults that spoil nobody are told too: the next backup may come to use what is spoilt.
    fn note_faults(&mut self, packs: &Packs, needed: &BTreeMap<PackId, SlotSet>) {
        for (pack, check) in packs {
            // Pruned meanwhile.
            let is_gone = check.is_missing && !needed.contains_key(pack);
            for fault in check.faults.iter().filter(|_| !is_gone) {
                self.findings.add(&pack.object(), &fault.what);
            }
        }
    }

    fn restore_tests(&mut self) -> Result<()> {
        let Some(test) = self.options.restore_test else {
            return Ok(());
        };
        for id in &self.ids {
            self.control.refuse_if_cancelled()?;
            if self.findings.spoil(id) {
                continue;
            }
            if let Some(what) = restore_test::run(self.repository, id, test, self.control)? {
                self.findings.add_for(&Manifest::object(id), &what, id);
            }
            self.control.add_bytes(self.bytes_of(id));
        }
        Ok(())
    }

    fn bytes_of(&self, id: &BackupId) -> u64 {
        self.bytes.get(id).copied().unwrap_or(0)
    }

    /// Says of every backup what was found out, and only of what was read back whole that it is so (BK10).
    fn set_marks(&mut self, sizes: &BTreeMap<BackupId, u64>, present: &BTreeSet<BackupId>) {
        let is_whole = self.options.depth == Depth::ReadData;
        for id in self.ids.iter().filter(|id| present.contains(*id)) {
            let verified = match (self.findings.spoil(id), sizes.get(id)) {
                (false, Some(bytes)) if is_whole => Some(Verified {
                    at_ns: self.repository.host().clock.wall_ns(),
                    is_restore_tested: self.options.restore_test.is_some(),
                    bytes: *bytes,
                }),
                (false, _) => continue,
                (true, _) => None,
            };
            let is_verified = verified.is_some();
            if is_verified {
                self.report.verified.push(id.clone());
            } else if !self
                .repository
                .mark(id)
                .is_ok_and(|mark| mark.verified.is_some())
            {
                continue;
            }
            let set = &mut |mark: &mut Mark| {
                mark.verified.clone_from(&verified);
                mark.is_underway &= !is_verified;
            };
            match self.repository.set_mark(id, set) {
                // One that was forgotten meanwhile needs no mark.
                Ok(()) | Err(RepositoryError::NoBackup { .. }) => {}
                Err(error) => {
                    let note = format!("what was found of {id} cannot be kept with it: {error}");
                    self.report.notes.push(note);
                }
            }
        }
    }

    /// Records what could not be read of each pack, so that the next backup does not refer to it; takes back
    /// what is not so any more when all of the pack was read.
    fn record_damage(&mut self, packs: &Packs) {
        let store = self.repository.store().as_ref();
        let reads_all = self.options.depth == Depth::ReadData && self.options.backup.is_none();
        let mut is_changed = false;
        for (pack, check) in packs {
            // A pack whose directory cannot be read counts as not there anyway.
            if check.slots.is_empty() {
                continue;
            }
            let slots = check.faults.iter().map(|fault| fault.slots.clone());
            let found = Damage::of(slots);
            let known = Damage::read(store, *pack);
            let damage = match &known {
                _ if reads_all => found,
                Ok(known) => found.and(known.clone()),
                // It is as if all were damaged until all is read.
                Err(_) => continue,
            };
            if known.is_ok_and(|known| known == damage) {
                continue;
            }
            is_changed = true;
            if let Err(error) = damage.write(store, *pack) {
                let note = format!(
                    "what was found of {} cannot be kept: {error}",
                    pack.object()
                );
                self.report.notes.push(note);
            }
        }
        if is_changed && let Err(error) = store.settle() {
            let note = format!("what was found of the packs may not be kept: {error}");
            self.report.notes.push(note);
        }
    }
    /// Tells of the packs that nobody needs, not even a backup that was made meanwhile.
    fn note_needless(
        &mut self,
        needed: &BTreeMap<PackId, SlotSet>,
        listed: &BTreeMap<PackId, u64>,
        present: &BTreeSet<BackupId>,
    ) -> Result<()> {
        let mut since = BTreeSet::new();
        for id in present.iter().filter(|id| !self.ids.contains(id)) {
            self.control.refuse_if_cancelled()?;
            if let Ok(manifest) = self.repository.manifest(id) {
                since.extend(manifest.packs);
            }
        }
        let needless = listed.iter();
        let needless = needless.filter(|(id, _)| !needed.contains_key(id) && !since.contains(id));
        let bytes: Vec<_> = needless.map(|(_, bytes)| *bytes).collect();
        if !bytes.is_empty() {
            self.report.notes.push(format!(
                "{} packs of {} bytes are needed by no backup: the next one can use them, and a prune \
                 gives their room back",
                bytes.len(),
                bytes.iter().sum::<u64>(),
            ));
        }
        Ok(())
    }
}

fn first_half(pack: PackId) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = pack.0;
    [a, b, c, d, e, f, g, h]
}
