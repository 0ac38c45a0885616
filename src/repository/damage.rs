//! `damaged/<pack id>`: content of a pack that a verification could not read.
//!
//! Nobody restores by it: it only keeps the next backup from referring to what is lost, so that what it
//! still can read of its source is stored again. Without one a pack is believed by its directory.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::repository::error::{RepositoryError, Result};
use crate::repository::pack::PackId;
use crate::repository::sealed_json;
use crate::repository::store::{Put, Store};

/// The folder of the records.
pub(super) const FOLDER: &str = "damaged";
/// Newest version of the format.
const DAMAGE_VERSION: u32 = 1;
/// With more ranges than this the whole pack counts as damaged: it bounds a record.
const RANGES_MAX: usize = 1000;

/// Slots of a pack whose content cannot be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Damage {
    /// In order, apart from each other.
    ranges: Vec<Range<u32>>,
}

/// The object: what is damaged, and in which pack.
#[derive(Serialize, Deserialize)]
struct Record {
    stillfs_damage: u32,
    pack: String,
    /// Of each range the first slot, and the first behind it.
    slots: Vec<[u32; 2]>,
}

impl Damage {
    /// What is in any of `ranges`.
    pub(super) fn of(ranges: impl IntoIterator<Item = Range<u32>>) -> Self {
        let mut ranges: Vec<_> = ranges
            .into_iter()
            .filter(|range| !range.is_empty())
            .collect();
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let touches = next.start <= last.end;
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
        match ranges.len() > RANGES_MAX {
            true => Self::whole(),
            false => Self { ranges },
        }
    }

    /// All of a pack.
    #[expect(clippy::single_range_in_vec_init, reason = "it is a list of ranges")]
    pub(super) fn whole() -> Self {
        Self {
            ranges: vec![0..u32::MAX],
        }
    }

    /// What is in this one or in the other.
    pub(super) fn and(self, other: Self) -> Self {
        Self::of(self.ranges.into_iter().chain(other.ranges))
    }

    pub(super) fn is_none(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The slots, in order, none twice.
    pub(super) fn ranges(&self) -> &[Range<u32>] {
        &self.ranges
    }

    /// The record of `pack`.
    pub(super) fn object(pack: PackId) -> String {
        format!("{FOLDER}/{pack}")
    }

    /// What is recorded of `pack`; nothing if there is no record.
    ///
    /// Errors: `Version`, `Damaged`, `Cut`, `Io`.
    pub(super) fn read(store: &dyn Store, pack: PackId) -> Result<Self> {
        let object = Self::object(pack);
        let record = sealed_json::read(store, &object, "stillfs_damage", DAMAGE_VERSION);
        let record: Record = match record {
            Err(RepositoryError::Missing { .. }) => return Ok(Self::default()),
            record => record?,
        };
        if record.pack != pack.to_string() {
            let what = "it is the record of another pack";
            return Err(RepositoryError::Damaged { object, what });
        }
        Ok(Self::of(
            record.slots.iter().map(|[start, end]| *start..*end),
        ))
    }

    /// Records it of `pack`; none removes the record. Not durable before [`Store::settle`].
    ///
    /// Errors: `NoSpace`, `Io`.
    pub(super) fn write(&self, store: &dyn Store, pack: PackId) -> Result<()> {
        let object = Self::object(pack);
        if self.is_none() {
            return store.remove(&object);
        }
        let record = Record {
            stillfs_damage: DAMAGE_VERSION,
            pack: pack.to_string(),
            slots: self
                .ranges
                .iter()
                .map(|range| [range.start, range.end])
                .collect(),
        };
        store.put(&object, &[&sealed_json::seal(&record)], Put::Replace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::specimen::Specimen;

    #[test]
    fn record_says_what_was_written_and_is_bounded() {
        let specimen = Specimen::new(1, "/r");
        let (store, pack) = (specimen.repository.store().as_ref(), PackId([7; 16]));
        assert!(Damage::read(store, pack).unwrap().is_none());
        let damage = Damage::of([9..12, 3..3, 0..4, 4..6]);
        assert_eq!(damage.ranges(), [0..6, 9..12]);
        damage.write(store, pack).unwrap();
        assert_eq!(Damage::read(store, pack).unwrap(), damage);
        let other = PackId([8; 16]);
        store
            .put(&Damage::object(other), &[b"{}"], Put::New)
            .unwrap();
        assert!(Damage::read(store, other).is_err());
        let far = u32::MAX - 9000..u32::MAX;
        let many = Damage::of(far.step_by(3).map(|slot| slot..slot + 1).take(RANGES_MAX));
        many.write(store, pack).unwrap();
        assert_eq!(Damage::read(store, pack).unwrap(), many);
        assert_eq!(many.and(Damage::of([1..2, 4..5])), Damage::whole());
        Damage::default().write(store, pack).unwrap();
        assert!(Damage::read(store, pack).unwrap().is_none());
    }
}
