//! A backup compared with what was found of its packs.

use std::collections::BTreeMap;

use crate::repository::digest::Digest;
use crate::repository::error::Result;
use crate::repository::manifest::{EntryContent, FileContent, Manifest};
use crate::repository::pack::{PackId, Slot};
use crate::repository::progress::Control;
use crate::repository::unit::{UNITS_UNASKED, UnitRun, Zeros, runs, unit_bytes};
use crate::repository::verify::finding::Findings;
use crate::repository::verify::pack_check::PackCheck;

/// The packs that were looked at.
pub(super) type Packs = BTreeMap<PackId, PackCheck>;

/// A pack that does not have what a manifest says.
const LACKING: &str = "a slot that a backup needs is not in it, was emptied, or has another size";

/// Compares `manifest` with `packs`, which have all that it names, and returns the bytes of its files.
///
/// Errors: `Cancelled`.
pub(super) fn check(
    manifest: &Manifest,
    packs: &Packs,
    findings: &mut Findings,
    control: &Control,
) -> Result<u64> {
    let mut check = ContentCheck {
        manifest,
        packs,
        findings,
        control,
        zeros: Zeros::default(),
    };
    check.whole();
    let mut bytes = 0_u64;
    for entry in &manifest.entries {
        if let EntryContent::File(file) = &entry.content {
            check.file(&entry.path, file)?;
            bytes = bytes.saturating_add(file.bytes);
        }
    }
    Ok(bytes)
}

struct ContentCheck<'a> {
    manifest: &'a Manifest,
    packs: &'a Packs,
    findings: &'a mut Findings,
    control: &'a Control,
    zeros: Zeros,
}

impl ContentCheck<'_> {
    /// What is said of the backup as a whole, and packs that it names without need.
    fn whole(&mut self) {
        let facts = &self.manifest.facts;
        let object = Manifest::object(&facts.id);
        if Manifest::digest_of(&self.manifest.entries) != facts.digest {
            let what = "its entries have another digest than it says";
            self.findings.add_for(&object, what, &facts.id);
        }
        let mut digests = BTreeMap::new();
        for entry in &self.manifest.entries {
            if let EntryContent::File(file) = &entry.content {
                digests.insert(String::from_utf8_lossy(&entry.path), file.digest);
            }
        }
        for database in &facts.databases {
            if digests.get(database.path.as_str()) != Some(&database.digest) {
                let what = "a database has another digest than its file";
                let path = database.path.as_bytes();
                self.findings.add_file(&object, what, &facts.id, path);
            }
        }
        for pack in &self.manifest.packs {
            for fault in self.packs.get(pack).into_iter().flat_map(|p| &p.faults) {
                if fault.slots == (0..u32::MAX) {
                    self.findings
                        .add_for(&pack.object(), &fault.what, &facts.id);
                }
            }
        }
    }

    fn file(&mut self, path: &[u8], file: &FileContent) -> Result<()> {
        let mut is_sound = true;
        for run in runs(file, &self.manifest.packs) {
            self.control.refuse_if_cancelled()?;
            is_sound &= self.run(path, file, run);
        }
        if !is_sound {
            return Ok(());
        }
        let units = runs(file, &self.manifest.packs)
            .flat_map(|run| (0..run.count).map(move |step| (run, step)));
        let packs = self.packs;
        let zeros = &mut self.zeros;
        let control = self.control;
        let mut cancelled = Ok(());
        let digests = units.map_while(|(run, step)| {
            if step.is_multiple_of(UNITS_UNASKED) {
                cancelled = control.refuse_if_cancelled();
            }
            let digest = match slot_of(packs, run, step) {
                Some(slot) => slot.digest,
                None => zeros.digest(unit_bytes(file, run.first_unit + u64::from(step))),
            };
            cancelled.is_ok().then_some(digest)
        });
        let digest = Digest::of_units(file.bytes, digests);
        cancelled?;
        if digest != file.digest {
            let id = &self.manifest.facts.id;
            let what = "a file has another digest than its units";
            self.findings
                .add_file(&Manifest::object(id), what, id, path);
        }
        Ok(())
    }

    /// Whether all slots of `run` are there and as large as they must be; what is wrong with their content
    /// is noted too.
    fn run(&mut self, path: &[u8], file: &FileContent, run: UnitRun) -> bool {
        let Some((pack, first_slot)) = run.place else {
            return true;
        };
        let id = &self.manifest.facts.id;
        let object = pack.object();
        let Some(check) = self.packs.get(&pack) else {
            // The manifest is another one than a moment ago.
            self.findings.add_file(&object, LACKING, id, path);
            return false;
        };
        let end = first_slot.saturating_add(run.count);
        for fault in &check.faults {
            if fault.slots.start < end && first_slot < fault.slots.end {
                self.findings.add_file(&object, &fault.what, id, path);
            }
        }
        if check.slots.is_empty() && !check.faults.is_empty() {
            return false;
        }
        let fits = (0..run.count).all(|step| {
            let bytes = unit_bytes(file, run.first_unit + u64::from(step));
            bytes > 0 && slot_of(self.packs, run, step).is_some_and(|slot| slot.bytes == bytes)
        });
        if !fits {
            self.findings.add_file(&object, LACKING, id, path);
        }
        fits
    }
}

/// The slot that has unit `step` of `run`; `None` for zeros, and if there is no such slot.
fn slot_of(packs: &Packs, run: UnitRun, step: u32) -> Option<Slot> {
    let (pack, first_slot) = run.place?;
    let number = usize::try_from(first_slot.checked_add(step)?).ok()?;
    packs.get(&pack)?.slots.get(number).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::error::RepositoryError;
    use crate::repository::specimen::{Specimen, endless};

    /// A file of zeros without end must not keep a verification that is cancelled.
    #[test]
    fn comparison_hears_that_it_is_cancelled_within_a_file() {
        let (specimen, [id, ..]) = Specimen::rich(1);
        let mut manifest = specimen.repository.manifest(&id).unwrap();
        manifest.entries.truncate(1);
        manifest.entries[0].content = EntryContent::File(endless());
        let control = Control::default();
        control.cancel();
        let (packs, mut findings) = (Packs::new(), Findings::default());
        let found = check(&manifest, &packs, &mut findings, &control);
        assert!(
            matches!(found, Err(RepositoryError::Cancelled)),
            "{found:?}"
        );
    }
}
