//! Units read back from packs, by where they are.

#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::repository::catalog::Repository;
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::pack::{FRAME_BYTES, PackDirectory, PackId, Slot};

/// Frames that are kept: 32 MiB of units at most.
const FRAMES_MAX: usize = (32 << 20) / FRAME_BYTES;

/// Reads units, in any order, best in that of a file; keeps a bounded number of frames and the
/// directories of all packs that it met. Any number of threads may use one.
///
/// No lock is held while a frame is read and taken apart but its own, so that each is taken apart once
/// and different ones at the same time. A pack that prune rewrites meanwhile is met anew.
#[derive(Debug)]
pub(super) struct BlobReader {
    repository: Repository,
    directories: RwLock<HashMap<PackId, Arc<Met>>>,
    frames: Mutex<FrameCache>,
}

/// A pack as it was met.
#[derive(Debug)]
struct Met {
    directory: PackDirectory,
    /// Frames of an older state of the pack are not those of this one.
    generation: u64,
}

/// A frame taken apart.
#[derive(Debug)]
struct Frame {
    units: Vec<u8>,
    /// Where each unit ends.
    ends: Vec<usize>,
}

type FrameKey = (PackId, u64, usize);
type FrameCell = Arc<Mutex<Option<Arc<Frame>>>>;

/// The frames that were used last.
#[derive(Debug, Default)]
struct FrameCache {
    cells: HashMap<FrameKey, (FrameCell, u64)>,
    /// Keys by when they were used.
    order: BTreeMap<u64, FrameKey>,
    now: u64,
}

impl BlobReader {
    /// A reader of `repository` that has met no pack.
    #[must_use]
    pub(super) fn new(repository: &Repository) -> Self {
        Self {
            repository: repository.clone(),
            directories: RwLock::default(),
            frames: Mutex::default(),
        }
    }

    /// The digests of `count` slots from `slot` on. Errors: as for [`PackDirectory::read`]; `Damaged` if
    /// the pack has no such slot or it was emptied.
    pub(super) fn digests(&self, pack: PackId, slot: u32, count: u32) -> Result<Vec<Digest>> {
        self.with_pack(pack, |met| {
            let slots = slots_of(&met.directory, slot, count)?;
            Ok(slots.iter().map(|slot| slot.digest).collect())
        })
    }

    /// Appends the bytes of `count` units from `slot` on to `out`, each checked against its digest.
    ///
    /// Errors: as for [`BlobReader::digests`] and [`PackDirectory::read_frame`]; `out` is then as before.
    pub(super) fn read(
        &self,
        pack: PackId,
        slot: u32,
        count: u32,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let before = out.len();
        let result = self.with_pack(pack, |met| {
            out.truncate(before);
            self.read_met(met, slot, count, out)
        });
        if result.is_err() {
            out.truncate(before);
        }
        result
    }

    fn read_met(&self, met: &Met, slot: u32, count: u32, out: &mut Vec<u8>) -> Result<()> {
        let directory = &met.directory;
        slots_of(directory, slot, count)?;
        let (mut next, end) = (slot, slot + count);
        while next < end {
            let missing = || no_slot(directory.id);
            let index = directory.frame_of(next).ok_or_else(missing)?;
            let frame = directory.frames.get(index).ok_or_else(missing)?;
            let last = end.min(frame.first_slot + frame.slot_count);
            let (from, to) = (next - frame.first_slot, last - frame.first_slot);
            let units = self.frame(met, index)?;
            out.extend_from_slice(units.between(from, to).ok_or_else(missing)?);
            next = last;
        }
        Ok(())
    }

    /// What `look` finds in a pack. Where that fails by what prune may have done meanwhile, the pack is
    /// met anew and looked at once more.
    fn with_pack<T>(&self, pack: PackId, mut look: impl FnMut(&Met) -> Result<T>) -> Result<T> {
        let met = self.meet(pack)?;
        let error = match look(&met) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let may_be_of_prune = matches!(
            error,
            RepositoryError::Damaged { .. }
                | RepositoryError::Cut { .. }
                | RepositoryError::OtherContent { .. }
        );
        match may_be_of_prune.then(|| self.meet_anew(pack, &met)) {
            Some(Ok(Some(met))) => look(&met),
            _ => Err(error),
        }
    }

    fn meet(&self, pack: PackId) -> Result<Arc<Met>> {
        if let Some(met) = self.directories.read().get(&pack) {
            return Ok(Arc::clone(met));
        }
        let directory = self.read_directory(pack)?;
        let met = Arc::new(Met {
            directory,
            generation: 0,
        });
        // Another thread may have been faster; all must have the same one.
        Ok(Arc::clone(
            self.directories.write().entry(pack).or_insert(met),
        ))
    }

    /// The pack as it is, or `None` if it is as it was in `old`.
    fn meet_anew(&self, pack: PackId, old: &Met) -> Result<Option<Arc<Met>>> {
        let directory = self.read_directory(pack)?;
        if directory == old.directory {
            return Ok(None);
        }
        let generation = old.generation + 1;
        let met = Arc::new(Met {
            directory,
            generation,
        });
        self.directories.write().insert(pack, Arc::clone(&met));
        Ok(Some(met))
    }

    fn read_directory(&self, pack: PackId) -> Result<PackDirectory> {
        let store = self.repository.store().as_ref();
        PackDirectory::read(store, self.repository.id(), pack)
    }

    fn frame(&self, met: &Met, index: usize) -> Result<Arc<Frame>> {
        let directory = &met.directory;
        let cell = self
            .frames
            .lock()
            .cell((directory.id, met.generation, index));
        let mut place = cell.lock();
        if let Some(frame) = &*place {
            return Ok(Arc::clone(frame));
        }
        let units = directory.read_frame(self.repository.store().as_ref(), index)?;
        let slots = directory.slots_of(index).iter();
        let ends = slots.scan(0, |end, slot| {
            *end += slot.bytes as usize;
            Some(*end)
        });
        let ends = ends.collect();
        let frame = Arc::new(Frame { units, ends });
        *place = Some(Arc::clone(&frame));
        Ok(frame)
    }
}

impl Frame {
    /// The bytes of the units from number `from` up to number `to`.
    fn between(&self, from: u32, to: u32) -> Option<&[u8]> {
        let end_of = |count: u32| match count.checked_sub(1) {
            Some(last) => self.ends.get(last as usize).copied(),
            None => Some(0),
        };
        self.units.get(end_of(from)?..end_of(to)?)
    }
}

impl FrameCache {
    /// The cell of a frame, which is used just now; the one that was not used for longest makes way.
    fn cell(&mut self, key: FrameKey) -> FrameCell {
        self.now += 1;
        let cell = match self.cells.remove(&key) {
            Some((cell, used)) => {
                self.order.remove(&used);
                cell
            }
            None => FrameCell::default(),
        };
        if self.cells.len() >= FRAMES_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.cells.remove(&oldest);
        }
        self.order.insert(self.now, key);
        self.cells.insert(key, (Arc::clone(&cell), self.now));
        cell
    }
}

/// `count` slots from `slot` on, none of them emptied.
fn slots_of(directory: &PackDirectory, slot: u32, count: u32) -> Result<&[Slot]> {
    let first = slot as usize;
    let end = first.checked_add(count as usize);
    let slots = end.and_then(|end| directory.slots.get(first..end));
    let slots = slots.ok_or_else(|| no_slot(directory.id))?;
    match slots.iter().any(|slot| slot.bytes == 0) {
        false => Ok(slots),
        true => Err(RepositoryError::Damaged {
            object: directory.id.object(),
            what: "content that is needed was emptied",
        }),
    }
}

fn no_slot(pack: PackId) -> RepositoryError {
    RepositoryError::Damaged {
        object: pack.object(),
        what: "it has no such slot",
    }
}

#[cfg(test)]
mod tests;
