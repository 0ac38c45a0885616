//! The units of a file, one after the other, and where they are.

use crate::repository::digest::Digest;
use crate::repository::manifest::{Extent, FileContent};
use crate::repository::pack::PackId;

/// Whoever goes through units asks about once in so many whether it is cancelled.
pub(super) const UNITS_UNASKED: u32 = 4096;

/// A run of units in slots that follow each other, or of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnitRun {
    /// Place of the first in the file, in units.
    pub(super) first_unit: u64,
    /// Units.
    pub(super) count: u32,
    /// The pack and the first slot; `None` for zeros.
    pub(super) place: Option<(PackId, u32)>,
}

/// The extents of `file`, whose manifest names `packs`. One that names another pack is of zeros, which a
/// manifest that was decoded never has.
pub(super) fn runs<'a>(
    file: &'a FileContent,
    packs: &'a [PackId],
) -> impl Iterator<Item = UnitRun> + 'a {
    let mut next_unit = 0;
    file.extents.iter().map(move |extent| {
        let first_unit = next_unit;
        next_unit += u64::from(extent.count);
        let pack = match extent.pack {
            Extent::ZEROS => None,
            pack => usize::try_from(pack).ok().and_then(|pack| packs.get(pack)),
        };
        UnitRun {
            first_unit,
            count: extent.count,
            place: pack.map(|pack| (*pack, extent.slot)),
        }
    })
}

/// Bytes of unit `unit` of `file`: the last one may be shorter than the others, what is beyond has none.
pub(super) fn unit_bytes(file: &FileContent, unit: u64) -> u32 {
    let offset = unit.saturating_mul(u64::from(file.unit_bytes));
    let rest = file.bytes.saturating_sub(offset);
    u32::try_from(rest).unwrap_or(u32::MAX).min(file.unit_bytes)
}

/// Digests of units of zeros; remembers the last one, since nearly all units of a file have one size.
#[derive(Debug)]
pub(super) struct Zeros {
    last: (u32, Digest),
}

impl Default for Zeros {
    fn default() -> Self {
        Self {
            last: (0, Digest::of(&[])),
        }
    }
}

impl Zeros {
    /// The digest of `bytes` zeros.
    pub(super) fn digest(&mut self, bytes: u32) -> Digest {
        if self.last.0 != bytes {
            let zeros = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
            self.last = (bytes, Digest::of(&zeros));
        }
        self.last.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64, unit_bytes: u32, extents: &[(u32, u32, u32)]) -> FileContent {
        let extents = extents.iter().map(|(count, pack, slot)| Extent {
            count: *count,
            pack: *pack,
            slot: *slot,
        });
        FileContent {
            bytes,
            unit_bytes,
            digest: Digest::default(),
            extents: extents.collect(),
            version: None,
        }
    }

    #[test]
    fn runs_follow_the_extents_and_zeros_are_nowhere() {
        let packs = [PackId([1; 16]), PackId([2; 16])];
        let file = file(24, 4, &[(3, 1, 7), (2, Extent::ZEROS, 0), (1, 0, 9)]);
        let found: Vec<_> = runs(&file, &packs)
            .map(|run| (run.first_unit, run.count, run.place))
            .collect();
        let expected = [
            (0, 3, Some((packs[1], 7))),
            (3, 2, None),
            (5, 1, Some((packs[0], 9))),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn last_unit_has_what_is_left_and_none_is_beyond() {
        let file = file(10, 4, &[]);
        let sizes: Vec<_> = (0..5).map(|unit| unit_bytes(&file, unit)).collect();
        assert_eq!(sizes, [4, 4, 2, 0, 0]);
        assert_eq!(unit_bytes(&file, u64::MAX), 0);
    }

    #[test]
    fn digest_of_zeros_is_that_of_their_number() {
        let mut zeros = Zeros::default();
        for bytes in [0_u32, 3, 3, 4096, 3] {
            let expected = Digest::of(&vec![0; bytes as usize]);
            assert_eq!(zeros.digest(bytes), expected);
        }
    }
}
