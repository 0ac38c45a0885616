//! Backups copied into another repository, every byte checked on the way.
//!
//! ```text
//! from: frames --digests--> what `to` lacks --> packs --settled--> mark --> manifest    of each backup
//!       the log that backups in `to` can go on with                                     at the end
//! ```
//!
//! Frames of which all is lacking are taken as they are stored; of others, what is lacking is compressed
//! again. A manifest keeps everything but the places of its units; its statistics go on to say what the
//! backup took when it was made. What `to` has is believed by the directories of its packs and not read:
//! whether it is whole, a verification of `to` tells.

mod rewrite;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::repository::backup::blob_index::BlobIndex;
use crate::repository::backup_id::BackupId;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::frame_copy::{Unwanted, copied};
use crate::repository::job::watched;
use crate::repository::log;
use crate::repository::manifest::{EntryContent, Manifest};
use crate::repository::mark::Mark;
use crate::repository::need::{Need, SlotSet};
use crate::repository::pack::{PACK_BYTES, PackBuilder, PackDirectory, PackId, SealedFrame};
use crate::repository::progress::Control;
use crate::repository::store::{Put, WriterLock};

/// What a copy came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CopyReport {
    /// Backups that were copied.
    pub copied: Vec<BackupId>,
    /// Backups that were there already.
    pub present: Vec<BackupId>,
    /// Backups that could not be read, or not as what was backed up, and why; nothing is there of them.
    pub failed: Vec<(BackupId, String)>,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes that were stored.
    pub bytes_stored: u64,
    /// What was copied of archived logs; its bytes count in the others too.
    pub log: log::LogCopyReport,
}

/// Copies `ids` from one repository into another; content that is there already is not copied. Each
/// backup keeps its name, and whether it is held; that it was verified is not said of the copy (BK10). Of
/// archived logs what a backup in `to` can go on with is copied.
///
/// A backup that cannot be read does not stop the others. Errors: `SameRepository`; `NoBackup`, and then
/// nothing was copied; `Locked`, `NoSpace`, `Io` of `to`, `Cancelled`: what was copied whole stays.
pub fn copy(
    from: &Repository,
    to: &Repository,
    ids: &[BackupId],
    control: &Control,
) -> Result<CopyReport> {
    if from.id() == to.id() {
        let place = to.store().place();
        return Err(RepositoryError::SameRepository { place });
    }
    watched(control, || Copying::new(from, to, control)?.all(ids))
}

/// Why a backup was not copied.
enum Obstacle {
    /// It cannot be read, or is not what was backed up: others may be.
    Source(RepositoryError),
    /// It cannot be written, or somebody cancelled it: nor can others.
    Target(RepositoryError),
}

/// A copy at work.
struct Copying<'a> {
    from: &'a Repository,
    to: &'a Repository,
    lock: Box<dyn WriterLock>,
    control: &'a Control,
    /// What `to` has, and what is in `pack`.
    index: BlobIndex,
    /// What is to be stored next.
    pack: Option<PackBuilder>,
    /// Of `from`, those that were needed so far.
    directories: BTreeMap<PackId, PackDirectory>,
    report: CopyReport,
}

impl<'a> Copying<'a> {
    fn new(from: &'a Repository, to: &'a Repository, control: &'a Control) -> Result<Self> {
        Ok(Self {
            from,
            to,
            lock: to.store().lock()?,
            control,
            index: BlobIndex::load(to, control)?,
            pack: None,
            directories: BTreeMap::new(),
            report: CopyReport::default(),
        })
    }

    fn all(mut self, ids: &[BackupId]) -> Result<CopyReport> {
        let sources: BTreeSet<_> = self.from.ids()?.into_iter().collect();
        if let Some(unknown) = ids.iter().find(|id| !sources.contains(id)) {
            let name = unknown.to_string();
            return Err(RepositoryError::NoBackup { name });
        }
        let targets: BTreeSet<_> = self.to.ids()?.into_iter().collect();
        let (present, lacking): (Vec<_>, Vec<_>) = ids.iter().partition(|id| targets.contains(id));
        let bytes = lacking.iter().filter_map(|id| self.from.facts(id).ok());
        let bytes = bytes.map(|facts| facts.statistics.bytes);
        self.control
            .expect_bytes(bytes.fold(0, u64::saturating_add));
        for id in present {
            match self.to.facts(id) {
                Ok(_) => self.report.present.push(id.clone()),
                Err(error) => self.fail(id, error)?,
            }
        }
        for id in lacking {
            match self.one(id) {
                Ok(()) => self.report.copied.push(id.clone()),
                Err(Obstacle::Source(error)) => self.fail(id, error)?,
                Err(Obstacle::Target(error)) => return Err(error),
            }
        }
        // After them: what goes on from them is wanted.
        let log = log::copy_logs(self.from, self.to, self.control)?;
        self.report.bytes_read += log.bytes_read;
        self.report.bytes_stored += log.bytes_stored;
        self.report.log = log;
        Ok(self.report)
    }

    fn fail(&mut self, id: &BackupId, error: RepositoryError) -> Result<()> {
        let what = error.of_object()?.to_string();
        self.report.failed.push((id.clone(), what));
        Ok(())
    }

    fn one(&mut self, id: &BackupId) -> Result<(), Obstacle> {
        let manifest = self.from.manifest(id).map_err(Obstacle::Source)?;
        // What cannot be read may say that it is held.
        let is_held = match self.from.mark(id) {
            Ok(mark) => mark.is_held,
            Err(error) => error.of_object().map(|_| true).map_err(Obstacle::Source)?,
        };
        let mut need = Need::default();
        need.add(&manifest);
        for (pack, slots) in need.finish() {
            self.take_pack(pack, &slots)?;
        }
        let rewritten = rewrite::rewritten(manifest, &self.directories, &self.index, self.control);
        let rewritten = rewritten.map_err(|error| match error {
            RepositoryError::Cancelled => Obstacle::Target(error),
            error => Obstacle::Source(error),
        })?;
        self.publish(&rewritten, is_held).map_err(Obstacle::Target)
    }

    /// Takes what is lacking of `needed` out of `pack`; once more, if the pack was replaced meanwhile.
    fn take_pack(&mut self, pack: PackId, needed: &SlotSet) -> Result<(), Obstacle> {
        let read = |from: &Repository| {
            let read = PackDirectory::read(from.store().as_ref(), from.id(), pack);
            read.map_err(Obstacle::Source)
        };
        let known = self.directories.remove(&pack);
        let mut directory = match known {
            Some(directory) => directory,
            None => read(self.from)?,
        };
        let mut taken = self.take_frames(&directory, needed);
        if matches!(taken, Err(Obstacle::Source(_))) {
            let found = read(self.from)?;
            if found != directory {
                directory = found;
                taken = self.take_frames(&directory, needed);
            }
        }
        self.directories.insert(pack, directory);
        taken
    }

    fn take_frames(&mut self, directory: &PackDirectory, needed: &SlotSet) -> Result<(), Obstacle> {
        for (index, frame) in directory.frames.iter().enumerate() {
            let cancelled = self.control.refuse_if_cancelled();
            cancelled.map_err(Obstacle::Target)?;
            let slots = (frame.first_slot..).zip(directory.slots_of(index));
            let (mut lacking, mut bytes) = (Vec::new(), 0);
            for (number, slot) in slots.filter(|(number, _)| needed.has(*number)) {
                bytes += u64::from(slot.bytes);
                if self.index.get(&slot.digest).is_none() {
                    lacking.push(number);
                }
            }
            if !lacking.is_empty() {
                let wanted = |slot| lacking.binary_search(&slot).is_ok();
                let store = self.from.store().as_ref();
                let sealed = copied(store, directory, index, &wanted, Unwanted::LeftOut);
                self.report.bytes_read += u64::from(frame.stored_bytes);
                if let Some(sealed) = sealed.map_err(Obstacle::Source)? {
                    self.push(sealed).map_err(Obstacle::Target)?;
                }
            }
            self.control.add_bytes(bytes);
        }
        Ok(())
    }

    /// Adds a frame to the open pack, and stores that when it is full.
    fn push(&mut self, frame: SealedFrame) -> Result<()> {
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => PackBuilder::new(self.to.id(), self.new_pack_id()?),
        };
        let digests: Vec<_> = frame.slots.iter().map(|slot| slot.digest).collect();
        let first_slot = pack.push(frame);
        for (slot, digest) in (first_slot..).zip(digests) {
            self.index.insert(digest, pack.id(), slot)?;
        }
        let is_full = pack.bytes() >= PACK_BYTES;
        self.pack = Some(pack);
        match is_full {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn new_pack_id(&self) -> Result<PackId> {
        let mut id = [0; 16];
        let drawn = self.to.host().random.fill(&mut id);
        drawn.map_err(RepositoryError::io("draw the name of", "a pack"))?;
        Ok(PackId(id))
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(pack) = self.pack.take() {
            let stored = pack.finish(self.to.store().as_ref(), Put::New)?;
            self.report.bytes_stored += stored;
            self.control.add_stored(stored);
        }
        Ok(())
    }

    /// Publishes a manifest when all that it names is durable (BK1).
    fn publish(&mut self, manifest: &Manifest, is_held: bool) -> Result<()> {
        self.flush()?;
        let mark = Mark {
            is_held,
            ..Mark::default()
        };
        let stored = self.to.publish(manifest, &mark, &*self.lock)?;
        self.report.bytes_stored += stored;
        self.control.add_stored(stored);
        let is_file = |content: &EntryContent| matches!(content, EntryContent::File(_));
        let files = manifest.entries.iter();
        let files = files.filter(|entry| is_file(&entry.content));
        files.for_each(|_| self.control.add_file());
        Ok(())
    }
}
