//! One pack looked at, as deep as asked.

use std::ops::Range;

use crate::fault::{self, Fault};
use crate::os::random::SeededRandom;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::need::SlotSet;
use crate::repository::pack::{PackDirectory, PackId, Slot};
use crate::repository::progress::Control;
use crate::repository::verify::Depth;
use crate::repository::verify::finding::fault_in;

/// What is wrong with some slots of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PackFault {
    /// What.
    pub(super) what: String,
    /// Whose content cannot be had.
    pub(super) slots: Range<u32>,
}

/// What was found of a pack.
#[derive(Debug, Default)]
pub(super) struct PackCheck {
    /// What its directory says of them; none if that cannot be read.
    pub(super) slots: Vec<Slot>,
    /// What is wrong.
    pub(super) faults: Vec<PackFault>,
    /// Whether it is not there at all.
    pub(super) is_missing: bool,
    /// Bytes that were read of frames.
    pub(super) bytes_read: u64,
}

impl PackCheck {
    /// Errors: `Store`, of which nothing follows.
    fn unreadable(error: RepositoryError) -> Result<Self> {
        let is_missing = matches!(error, RepositoryError::Missing { .. });
        let fault = PackFault {
            what: fault_in(error)?,
            slots: 0..u32::MAX,
        };
        Ok(Self {
            faults: vec![fault],
            is_missing,
            ..Self::default()
        })
    }
}

/// Which frames of a pack are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach<'a> {
    /// How deep.
    pub(super) depth: Depth,
    /// Only frames with one of these slots; `None` for all frames.
    pub(super) needed: Option<&'a SlotSet>,
    /// Where the draw of a sample starts.
    pub(super) seed: u64,
}

/// A pack that is replaced again and again while it is read is what it was the last time.
const TRIES: u32 = 3;

/// Looks at `pack`; if something is wrong and it was replaced meanwhile, at what it is since.
///
/// Errors: `Cancelled`; `Store`, of which nothing follows. All else is in the result.
pub(super) fn check(
    repository: &Repository,
    pack: PackId,
    reach: Reach<'_>,
    control: &Control,
) -> Result<PackCheck> {
    let store = repository.store().as_ref();
    let read = || PackDirectory::read(store, repository.id(), pack);
    store.read_afresh(&pack.object());
    let mut directory = read();
    let mut tries = 0;
    let found = loop {
        tries += 1;
        let mut found = match directory {
            Ok(ref directory) => check_frames(repository, directory, reach, control)?,
            Err(error) => break PackCheck::unreadable(error)?,
        };
        if !found.faults.is_empty() && tries < TRIES {
            let since = read();
            let is_same = matches!((&directory, &since), (Ok(one), Ok(other)) if one == other);
            if !is_same {
                directory = since;
                continue;
            }
        }
        found.slots = directory
            .map(|directory| directory.slots)
            .unwrap_or_default();
        break found;
    };
    // What was read for this is of no use to others, who want the memory.
    store.read_afresh(&pack.object());
    Ok(found)
}

fn check_frames(
    repository: &Repository,
    directory: &PackDirectory,
    reach: Reach<'_>,
    control: &Control,
) -> Result<PackCheck> {
    let mut found = PackCheck::default();
    let mut draw = Draw::new(reach.depth, reach.seed);
    for (index, frame) in directory.frames.iter().enumerate() {
        control.refuse_if_cancelled()?;
        let slots = frame.first_slot..frame.first_slot.saturating_add(frame.slot_count);
        let needed = reach.needed;
        let is_needed = needed.is_none_or(|needed| needed.has_any(slots.clone()));
        if !is_needed || !draw.is_next() {
            continue;
        }
        if !fault::is(Fault::VerifiedUnread)
            && let Err(error) = directory.read_frame(repository.store().as_ref(), index)
        {
            let what = fault_in(error)?;
            found.faults.push(PackFault { what, slots });
        }
        found.bytes_read += u64::from(frame.stored_bytes);
        control.add_bytes(u64::from(frame.stored_bytes));
    }
    Ok(found)
}

/// Draws a share of what comes by, evenly, beginning at random: each with the same chance.
struct Draw {
    share: f64,
    sum: f64,
}

impl Draw {
    fn new(depth: Depth, seed: u64) -> Self {
        let share = match depth {
            Depth::Structure => 0.0,
            Depth::Sample(share) if share > 0.0 => share.min(1.0),
            Depth::Sample(_) => 0.0,
            Depth::ReadData => 1.0,
        };
        // 24 bits at random are a fraction that a float holds exactly.
        let start = SeededRandom::new(seed).below(1 << 24);
        let start = u32::try_from(start).unwrap_or(0);
        Self {
            share,
            sum: f64::from(start) / f64::from(1 << 24),
        }
    }

    fn is_next(&mut self) -> bool {
        self.sum += self.share;
        let is_drawn = self.sum >= 1.0;
        if is_drawn {
            self.sum -= 1.0;
        }
        is_drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(depth: Depth, seed: u64, count: usize) -> usize {
        let mut draw = Draw::new(depth, seed);
        (0..count).filter(|_| draw.is_next()).count()
    }

    #[test]
    fn sample_has_its_share_and_all_and_nothing_are_exact() {
        for seed in 0..200 {
            assert_eq!(drawn(Depth::ReadData, seed, 100), 100);
            assert_eq!(drawn(Depth::Sample(1.0), seed, 100), 100);
            assert_eq!(drawn(Depth::Sample(7.0), seed, 100), 100);
            assert_eq!(drawn(Depth::Structure, seed, 100), 0);
            assert_eq!(drawn(Depth::Sample(-1.0), seed, 100), 0);
            assert_eq!(drawn(Depth::Sample(f64::NAN), seed, 100), 0);
            assert!((4..=6).contains(&drawn(Depth::Sample(0.05), seed, 100)));
        }
        // Of packs with one frame each, too, a share is drawn.
        let single = (0..2000).map(|seed| drawn(Depth::Sample(0.05), seed, 1));
        assert!((60..140).contains(&single.sum::<usize>()));
    }
}
