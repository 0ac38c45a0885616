//! Which slots of which packs backups need.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::repository::manifest::{EntryContent, Extent, Manifest};
use crate::repository::pack::PackId;

/// Slots of one pack, as runs: a backup needs most of a pack in a few of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotSet {
    /// In order and apart up to `merged`, then as they came.
    runs: Vec<Range<u32>>,
    merged: usize,
}

/// So many runs are taken in before they are merged again, and then as many as there are.
const UNMERGED_MIN: usize = 64;

impl SlotSet {
    /// Adds the `count` slots from `slot` on. They are found after the next [`SlotSet::merge`].
    fn insert(&mut self, slot: u32, count: u32) {
        // A slot beyond the last number is one that no pack has.
        let run = slot..slot.saturating_add(count);
        match self.runs.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => self.runs.push(run),
        }
        if self.runs.len() > 2 * self.merged + UNMERGED_MIN {
            self.merge();
        }
    }

    fn merge(&mut self) {
        self.runs.sort_unstable_by_key(|run| run.start);
        self.runs.dedup_by(|next, run| {
            let touches = next.start <= run.end;
            if touches {
                run.end = run.end.max(next.end);
            }
            touches
        });
        self.merged = self.runs.len();
    }

    /// The slots as runs, in order and apart.
    pub(super) fn runs(&self) -> &[Range<u32>] {
        debug_assert_eq!(self.merged, self.runs.len());
        &self.runs
    }

    /// Whether `slot` is in it.
    pub(super) fn has(&self, slot: u32) -> bool {
        self.has_any(slot..slot.saturating_add(1))
    }

    /// Whether one of `slots` is in it.
    pub(super) fn has_any(&self, slots: Range<u32>) -> bool {
        let at = self.runs().partition_point(|run| run.end <= slots.start);
        let next = self.runs().get(at);
        next.is_some_and(|run| run.start < slots.end)
    }
}

/// What a number of backups need.
#[derive(Debug, Default)]
pub(super) struct Need {
    packs: BTreeMap<PackId, SlotSet>,
}

impl Need {
    /// Adds what the backup `manifest` needs; a pack that it only names is needed without a slot.
    pub(super) fn add(&mut self, manifest: &Manifest) {
        for pack in &manifest.packs {
            self.packs.entry(*pack).or_default();
        }
        for extent in extents(manifest) {
            let pack = usize::try_from(extent.pack).ok();
            let pack = pack.and_then(|index| manifest.packs.get(index));
            if let Some(slots) = pack.and_then(|pack| self.packs.get_mut(pack)) {
                slots.insert(extent.slot, extent.count);
            }
        }
    }

    /// The packs and their slots, when everything was added.
    pub(super) fn finish(mut self) -> BTreeMap<PackId, SlotSet> {
        self.packs.values_mut().for_each(SlotSet::merge);
        self.packs
    }
}

/// All extents of `manifest` that are in packs.
fn extents(manifest: &Manifest) -> impl Iterator<Item = &Extent> {
    let files = manifest
        .entries
        .iter()
        .filter_map(|entry| match &entry.content {
            EntryContent::File(file) => Some(file),
            EntryContent::Directory | EntryContent::Link(_) | EntryContent::HardLink(_) => None,
        });
    let extents = files.flat_map(|file| &file.extents);
    extents.filter(|extent| extent.pack != Extent::ZEROS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn set_of_runs_has_what_was_put_in(
            runs in prop::collection::vec((0_u32..400, 1_u32..8), 0..300),
        ) {
            let mut set = SlotSet::default();
            let mut model = BTreeSet::new();
            for (slot, count) in runs {
                set.insert(slot, count);
                model.extend(slot..slot + count);
            }
            set.merge();
            for slot in 0..420 {
                prop_assert_eq!(set.has(slot), model.contains(&slot), "{}", slot);
            }
            let apart = set.runs().is_sorted_by(|one, next| one.end < next.start);
            prop_assert!(apart, "{:?}", set);
        }
    }

    #[test]
    fn slot_beyond_the_last_number_is_no_slot() {
        let mut set = SlotSet::default();
        set.insert(u32::MAX, 5);
        set.insert(u32::MAX - 2, 9);
        set.merge();
        assert!(set.has(u32::MAX - 1));
        assert!(!set.has(7));
    }
}
