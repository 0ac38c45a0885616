//! A pack without what nobody needs, under its own name.

use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::frame_copy::{Unwanted, copied};
use crate::repository::need::SlotSet;
use crate::repository::pack::{Frame, PackBuilder, PackDirectory, PackId};

/// A pack is hollowed if this part of what it stores is needed by nobody.
const NEEDLESS_PART: u64 = 4;

/// What hollowing a pack would bring.
#[derive(Debug)]
pub(super) struct Outlook {
    pub(super) directory: PackDirectory,
    stored_bytes: u64,
    needless_bytes: u64,
}

impl Outlook {
    /// Looks at the directory of `pack`, of which `needed` must not go.
    ///
    /// Errors: as for [`PackDirectory::read`]; `Damaged` if it does not have a slot that is needed.
    pub(super) fn of(repository: &Repository, pack: PackId, needed: &SlotSet) -> Result<Self> {
        let store = repository.store().as_ref();
        let directory = PackDirectory::read(store, repository.id(), pack)?;
        let has = |slot: u32| {
            let slot = usize::try_from(slot).ok();
            let slot = slot.and_then(|slot| directory.slots.get(slot));
            slot.is_some_and(|slot| slot.bytes > 0)
        };
        if !needed.runs().iter().all(|run| run.clone().all(has)) {
            return Err(RepositoryError::Damaged {
                object: pack.object(),
                what: "a slot that a backup needs is not in it",
            });
        }
        let frames = directory.frames.iter().enumerate();
        let stored_bytes = frames
            .clone()
            .map(|(_, frame)| u64::from(frame.stored_bytes));
        let needless_bytes =
            frames.map(|(index, frame)| needless_bytes(&directory, index, frame, needed));
        Ok(Self {
            stored_bytes: stored_bytes.sum(),
            needless_bytes: needless_bytes.sum(),
            directory,
        })
    }

    /// Bytes of its frames.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// About what its frames will have.
    pub(super) fn needed_bytes(&self) -> u64 {
        self.stored_bytes - self.needless_bytes
    }

    pub(super) fn is_worth_it(&self) -> bool {
        self.needless_bytes > 0 && self.needless_bytes * NEEDLESS_PART >= self.stored_bytes
    }
}

/// What of the stored bytes of a frame falls to units that nobody needs, as if all were equally small.
fn needless_bytes(directory: &PackDirectory, index: usize, frame: &Frame, needed: &SlotSet) -> u64 {
    let slots = (frame.first_slot..).zip(directory.slots_of(index));
    let (mut all, mut needless) = (0, 0);
    for (number, slot) in slots {
        let bytes = u64::from(slot.bytes);
        all += bytes;
        needless += if needed.has(number) { 0 } else { bytes };
    }
    let part = u64::from(frame.stored_bytes) * needless;
    part.checked_div(all).unwrap_or(0)
}

/// The pack of `directory` with the content of the slots in `needed` alone, every unit of it checked.
///
/// Cost: memory for the pack. Errors: as for [`PackDirectory::read_frame`].
pub(super) fn hollowed(
    repository: &Repository,
    directory: &PackDirectory,
    needed: &SlotSet,
) -> Result<PackBuilder> {
    let store = repository.store().as_ref();
    let mut builder = PackBuilder::new(repository.id(), directory.id);
    for index in 0..directory.frames.len() {
        let wanted = |slot| needed.has(slot);
        if let Some(frame) = copied(store, directory, index, &wanted, Unwanted::Emptied)? {
            builder.push(frame);
        }
    }
    Ok(builder)
}
