//! Packs that no manifest needs are removed; those that are needed in part are hollowed.
//!
//! Every manifest is read before anything goes (BK2): one that cannot be read, or that has a name by which
//! nobody would read it, stops it all. Packs that are not needed go first, since to hollow one takes the
//! room of what is left of it. Interrupted anywhere, each pack is the old one or the new one.

mod hollow;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::fault::{self, Fault};
use crate::repository::backup_id::BackupId;
use crate::repository::catalog::Repository;
use crate::repository::damage::{self, Damage};
use crate::repository::error::{RepositoryError, Result};
use crate::repository::hex;
use crate::repository::job::watched;
use crate::repository::log::LogPrune;
use crate::repository::mark::Mark;
use crate::repository::need::{Need, SlotSet};
use crate::repository::pack::{PackDirectory, PackId};
use crate::repository::progress::Control;
use crate::repository::store::{Put, Store, WriterLock};

/// What a prune came to, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PruneReport {
    /// Packs that were removed.
    pub packs_removed: u64,
    /// Packs that were written again without what nobody needs.
    pub packs_hollowed: u64,
    /// Pieces of logs that were removed: no backup that is left can go on with them.
    pub log_pieces_removed: u64,
    /// Their bytes.
    pub log_bytes_removed: u64,
    /// Bytes of all packs before.
    pub bytes_before: u64,
    /// Bytes of all packs after.
    pub bytes_after: u64,
    /// What is wrong with packs that are needed and were therefore left as they are.
    pub packs_damaged: Vec<String>,
}

/// Whether something is done or only told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// It is done.
    Really,
    /// It is only told what would be done.
    Dry,
}

/// Gives back the room of what no backup needs. A pack is hollowed (written again under its name, its
/// slots keeping their numbers, BK2) when at least a quarter of its bytes is needed by nobody.
///
/// A dry run does all but writing, and so tells the same numbers. Errors: `Locked`; `Damaged` and the like
/// of a manifest, `LostManifest`: nothing is then removed, since nobody knows what it needs; `NoSpace`,
/// `Io`, `Cancelled`.
pub fn prune(repository: &Repository, run: Run, control: &Control) -> Result<PruneReport> {
    watched(control, || Pruning::new(repository, run, control)?.all(&[]))
}

/// What [`prune`] would do if the backups `forgotten` were forgotten; does nothing.
///
/// Errors: as for [`prune`].
pub fn prune_after(
    repository: &Repository,
    forgotten: &[BackupId],
    control: &Control,
) -> Result<PruneReport> {
    watched(control, || {
        Pruning::new(repository, Run::Dry, control)?.all(forgotten)
    })
}

/// A prune at work.
struct Pruning<'a> {
    repository: &'a Repository,
    lock: Box<dyn WriterLock>,
    run: Run,
    control: &'a Control,
    report: PruneReport,
    log: LogPrune,
}

impl<'a> Pruning<'a> {
    fn new(repository: &'a Repository, run: Run, control: &'a Control) -> Result<Self> {
        Ok(Self {
            repository,
            lock: repository.store().lock()?,
            run,
            control,
            report: PruneReport::default(),
            log: LogPrune::default(),
        })
    }

    fn store(&self) -> &'a dyn Store {
        self.repository.store().as_ref()
    }

    fn all(mut self, forgotten: &[BackupId]) -> Result<PruneReport> {
        let needed = self.needed(forgotten)?;
        let lone_marks = self.lone_marks()?;
        // A writer that was killed may have forgotten a backup whose manifest comes back with a crash: that
        // must not be when its packs are gone.
        self.settle()?;
        let mut present = BTreeMap::new();
        for pack in self.packs()? {
            present.insert(pack, self.store().size(&pack.object())?);
        }
        self.report.bytes_before = present.values().sum();
        self.report.bytes_after = self.report.bytes_before;
        self.remove_needless(&present, &needed)?;
        self.remove_records(&present, &needed)?;
        self.remove_log()?;
        self.remove_marks(&lone_marks)?;
        let mut partly = Vec::new();
        for (pack, slots) in &needed {
            self.control.refuse_if_cancelled()?;
            match hollow::Outlook::of(self.repository, *pack, slots) {
                Ok(outlook) if outlook.is_worth_it() => partly.push((outlook, slots)),
                Ok(_) => {}
                Err(error) => self.note_damage(error)?,
            }
        }
        // What needs the least room and gives back the most comes first, in case there is little.
        partly.sort_by_key(|(outlook, _)| outlook.needed_bytes());
        let bytes = partly.iter().map(|(outlook, _)| outlook.stored_bytes());
        self.control.expect_bytes(bytes.sum());
        for (outlook, slots) in partly {
            self.control.refuse_if_cancelled()?;
            let stored_bytes = outlook.stored_bytes();
            self.hollow(outlook.directory, slots)?;
            self.control.add_bytes(stored_bytes);
        }
        self.settle()?;
        Ok(self.report)
    }

    /// What all backups but `forgotten` need.
    fn needed(&mut self, forgotten: &[BackupId]) -> Result<BTreeMap<PackId, SlotSet>> {
        let mut need = Need::default();
        let mut names = self.store().list("backups")?;
        if fault::is(Fault::NewestNotAsked) {
            names.pop();
        }
        for name in names {
            self.control.refuse_if_cancelled()?;
            let Ok(id) = name.parse::<BackupId>() else {
                return Err(RepositoryError::Damaged {
                    object: format!("backups/{name}"),
                    what: "it has no name of a backup; nothing is removed while it is there",
                });
            };
            if !forgotten.contains(&id) {
                let manifest = self.repository.manifest(&id)?;
                self.log.keep_for(&manifest.facts);
                need.add(&manifest);
            }
        }
        Ok(need.finish())
    }

    /// The packs that there are; what has no name of one is left alone.
    fn packs(&self) -> Result<Vec<PackId>> {
        let names = self.store().list("packs")?;
        let ids = names.iter().filter_map(|name| hex::decode(name));
        Ok(ids.map(PackId).collect())
    }

    fn remove_needless(
        &mut self,
        present: &BTreeMap<PackId, u64>,
        needed: &BTreeMap<PackId, SlotSet>,
    ) -> Result<()> {
        let needless = present
            .iter()
            .filter(|(pack, _)| !needed.contains_key(pack));
        for (pack, bytes) in needless {
            self.control.refuse_if_cancelled()?;
            if self.run == Run::Really {
                self.lock.confirm()?;
                self.store().remove(&pack.object())?;
            }
            self.report.packs_removed += 1;
            self.report.bytes_after -= bytes;
        }
        self.settle()
    }

    /// Removes what is recorded of the damage of packs that are gone.
    fn remove_records(
        &self,
        present: &BTreeMap<PackId, u64>,
        needed: &BTreeMap<PackId, SlotSet>,
    ) -> Result<()> {
        for name in self.store().list(damage::FOLDER)? {
            let pack = hex::decode(&name).map(PackId);
            let is_gone = |pack: &PackId| !present.contains_key(pack) || !needed.contains_key(pack);
            if let Some(pack) = pack.filter(is_gone)
                && self.run == Run::Really
            {
                self.lock.confirm()?;
                self.store().remove(&Damage::object(pack))?;
            }
        }
        Ok(())
    }

    /// Removes pieces of logs that no backup can go on with (LA7).
    fn remove_log(&mut self) -> Result<()> {
        for (object, bytes) in self.log.needless(self.repository)? {
            self.control.refuse_if_cancelled()?;
            if self.run == Run::Really {
                self.lock.confirm()?;
                self.store().remove(&object)?;
            }
            self.report.log_pieces_removed += 1;
            self.report.log_bytes_removed += bytes;
        }
        self.settle()
    }

    /// Marks of backups that were forgotten, or never published: an interruption left them.
    ///
    /// Errors: `LostManifest`.
    fn lone_marks(&self) -> Result<Vec<BackupId>> {
        let backups: BTreeSet<_> = self.repository.ids()?.into_iter().collect();
        let names = self.store().list("marks")?;
        let ids = names.iter().filter_map(|name| name.parse().ok());
        let lone: Vec<BackupId> = ids.filter(|id| !backups.contains(id)).collect();
        for id in &lone {
            let is_underway = match self.repository.mark(id) {
                Ok(mark) => mark.is_underway,
                Err(error) => error.of_object().map(|_| false)?,
            };
            if !is_underway {
                return Err(RepositoryError::LostManifest { backup: id.clone() });
            }
        }
        Ok(lone)
    }

    fn remove_marks(&self, ids: &[BackupId]) -> Result<()> {
        if self.run == Run::Really {
            for id in ids {
                self.lock.confirm()?;
                self.store().remove(&Mark::object(id))?;
            }
        }
        self.settle()
    }

    fn hollow(&mut self, directory: PackDirectory, needed: &SlotSet) -> Result<()> {
        let bytes_before = directory.object_bytes;
        let builder = match hollow::hollowed(self.repository, &directory, needed) {
            Ok(builder) => builder,
            Err(error) => return self.note_damage(error),
        };
        let bytes_after = builder.object_bytes();
        if self.run == Run::Really {
            self.lock.confirm()?;
            builder.finish(self.store(), Put::Replace)?;
            self.control.add_stored(bytes_after);
        }
        self.report.packs_hollowed += 1;
        self.report.bytes_after -= bytes_before;
        self.report.bytes_after += bytes_after;
        Ok(())
    }

    /// A pack that cannot be read is left as it is: what it still has may be all that is left.
    fn note_damage(&mut self, error: RepositoryError) -> Result<()> {
        self.report
            .packs_damaged
            .push(error.of_object()?.to_string());
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        match self.run {
            Run::Really => self.store().settle(),
            Run::Dry => Ok(()),
        }
    }
}
