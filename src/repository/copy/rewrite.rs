//! A manifest whose units are in the packs of another repository.

use std::collections::BTreeMap;

use crate::repository::backup::blob_index::BlobIndex;
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::{EntryContent, Extent, FileContent, Manifest};
use crate::repository::pack::{PackDirectory, PackId, Slot};
use crate::repository::progress::Control;
use crate::repository::unit::{UNITS_UNASKED, UnitRun, Zeros, runs, unit_bytes};

/// `manifest`, whose units are in the packs of `directories`, with the places that `index` gives them.
///
/// Every file is checked to have the digest that it had when it was backed up, and so has the backup.
/// Errors: `Damaged`, `OtherContent`, `Cancelled`.
pub(super) fn rewritten(
    mut manifest: Manifest,
    directories: &BTreeMap<PackId, PackDirectory>,
    index: &BlobIndex,
    control: &Control,
) -> Result<Manifest> {
    let object = Manifest::object(&manifest.facts.id);
    require(
        &object,
        manifest.facts.digest,
        Manifest::digest_of(&manifest.entries),
    )?;
    let mut rewrite = Rewrite {
        object,
        old_packs: std::mem::take(&mut manifest.packs),
        directories,
        index,
        control,
        packs: Vec::new(),
        places: BTreeMap::new(),
        zeros: Zeros::default(),
    };
    for entry in &mut manifest.entries {
        if let EntryContent::File(file) = &mut entry.content {
            file.extents = rewrite.extents(file)?;
        }
    }
    manifest.packs = rewrite.packs;
    Ok(manifest)
}

fn require(object: &str, expected: Digest, found: Digest) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => Err(RepositoryError::OtherContent {
            object: object.to_owned(),
            expected,
            found,
        }),
    }
}

struct Rewrite<'a> {
    object: String,
    old_packs: Vec<PackId>,
    directories: &'a BTreeMap<PackId, PackDirectory>,
    index: &'a BlobIndex,
    control: &'a Control,
    /// The new packs, in the order in which the files come to them, and where each is in that.
    packs: Vec<PackId>,
    places: BTreeMap<PackId, u32>,
    zeros: Zeros,
}

impl Rewrite<'_> {
    /// The new extents of `file`.
    fn extents(&mut self, file: &FileContent) -> Result<Vec<Extent>> {
        let old_packs = std::mem::take(&mut self.old_packs);
        let mut extents = Vec::new();
        let mut fault = None;
        let units =
            runs(file, &old_packs).flat_map(|run| (0..run.count).map(move |step| (run, step)));
        let digests = units.map_while(|(run, step)| {
            let bytes = unit_bytes(file, run.first_unit + u64::from(step));
            let cancelled = match step.is_multiple_of(UNITS_UNASKED) {
                true => self.control.refuse_if_cancelled(),
                false => Ok(()),
            };
            match cancelled.and_then(|()| self.unit(run, step, bytes)) {
                Ok((digest, place)) => {
                    append(&mut extents, place);
                    Some(digest)
                }
                Err(error) => {
                    fault = Some(error);
                    None
                }
            }
        });
        let found = Digest::of_units(file.bytes, digests);
        self.old_packs = old_packs;
        if let Some(fault) = fault {
            return Err(fault);
        }
        require(&self.object, file.digest, found)?;
        Ok(extents)
    }

    /// Digest and new place of a unit that must have `bytes`.
    fn unit(&mut self, run: UnitRun, step: u32, bytes: u32) -> Result<(Digest, Extent)> {
        let Some((pack, first_slot)) = run.place else {
            let zeros = Extent {
                count: 1,
                pack: Extent::ZEROS,
                slot: 0,
            };
            return Ok((self.zeros.digest(bytes), zeros));
        };
        let slot = self.slot(pack, first_slot, step);
        let slot = slot.filter(|slot| slot.bytes == bytes && bytes > 0);
        let slot = slot.ok_or_else(|| RepositoryError::Damaged {
            object: pack.object(),
            what: "a slot that the backup needs is not in it, or has another size",
        })?;
        let place = self.index.get(&slot.digest);
        let (pack, slot_number) = place.expect("what `to` lacked was stored and entered before");
        let extent = Extent {
            count: 1,
            pack: self.pack_place(pack),
            slot: slot_number,
        };
        Ok((slot.digest, extent))
    }

    fn slot(&self, pack: PackId, first_slot: u32, step: u32) -> Option<Slot> {
        let number = first_slot.checked_add(step)?;
        let slots = &self.directories.get(&pack)?.slots;
        slots.get(usize::try_from(number).ok()?).copied()
    }

    fn pack_place(&mut self, pack: PackId) -> u32 {
        let next = u32::try_from(self.packs.len()).unwrap_or(Extent::ZEROS);
        *self.places.entry(pack).or_insert_with(|| {
            self.packs.push(pack);
            next
        })
    }
}

/// Adds one unit to the last extent if it follows it, else as one of its own.
fn append(extents: &mut Vec<Extent>, unit: Extent) {
    if let Some(last) = extents.last_mut()
        && last.pack == unit.pack
        && let Some(count) = last.count.checked_add(1)
    {
        let next_slot = last.slot.checked_add(last.count);
        if unit.pack == Extent::ZEROS || next_slot == Some(unit.slot) {
            last.count = count;
            return;
        }
    }
    extents.push(unit);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::specimen::{Specimen, endless};

    /// A file of zeros without end must not keep a copy that is cancelled.
    #[test]
    fn rewriting_hears_that_it_is_cancelled_within_a_file() {
        let (specimen, [id, ..]) = Specimen::rich(1);
        let mut manifest = specimen.repository.manifest(&id).unwrap();
        manifest.entries.truncate(1);
        manifest.entries[0].content = EntryContent::File(endless());
        manifest.facts.digest = Manifest::digest_of(&manifest.entries);
        let (index, control) = (BlobIndex::default(), Control::default());
        control.cancel();
        let found = rewritten(manifest, &BTreeMap::new(), &index, &control);
        assert!(
            matches!(found, Err(RepositoryError::Cancelled)),
            "{found:?}"
        );
    }

    #[test]
    fn units_that_follow_each_other_are_one_extent() {
        let unit = |pack, slot| Extent {
            count: 1,
            pack,
            slot,
        };
        let units = [
            (0, 4),
            (0, 5),
            (1, 6),
            (1, 5),
            (u32::MAX, 0),
            (u32::MAX, 0),
            (0, 6),
        ];
        let mut extents = Vec::new();
        units
            .into_iter()
            .for_each(|(pack, slot)| append(&mut extents, unit(pack, slot)));
        let found: Vec<_> = extents.iter().map(|e| (e.count, e.pack, e.slot)).collect();
        let expected = [(2, 0, 4), (1, 1, 6), (1, 1, 5), (2, u32::MAX, 0), (1, 0, 6)];
        assert_eq!(found, expected);
    }
}
