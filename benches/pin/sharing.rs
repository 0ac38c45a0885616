//! How many slots of the shadow many pins take.

use serde::Serialize;
use stillfs::Database;
use stillfs::database::Pin;

use crate::Outcome;
use crate::load::Numbers;
use crate::traffic::commit_some;

const PINS: u64 = 16;
/// Transactions before a pin, so that it has pages to spill, and after it, to be captured.
const TOGETHER_COMMITS: u64 = 400;
/// Transactions between two pins that are taken one after the other.
const BETWEEN_COMMITS: u64 = 100;

/// Slots used by one pin and by many.
#[derive(Debug, Serialize)]
pub(crate) struct Sharing {
    pub(crate) pins: u64,
    /// Taken with no commit between them.
    pub(crate) together: Slots,
    /// Taken with commits and checkpoints between them.
    pub(crate) over_time: Slots,
    pub(crate) target_met: bool,
}

/// All slots in use after later writes were captured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Slots {
    /// By the first pin, as if it were alone.
    pub(crate) of_first: u64,
    /// By all pins.
    pub(crate) of_all: u64,
    /// If none were shared.
    pub(crate) unshared: u64,
}

pub(crate) fn measure(database: &Database, entries: u64) -> Outcome<Sharing> {
    let mut numbers = Numbers(7 << 40);
    let mut write = |commits| -> Outcome<()> {
        (0..commits).try_for_each(|_| commit_some(database, &mut numbers, entries))
    };
    write(TOGETHER_COMMITS)?;
    let mut pins = vec![database.pin()?];
    let slots_of_one = database.stats().shadow_slots;
    for _ in 1..PINS {
        pins.push(database.pin()?);
    }
    let slots_of_all = database.stats().shadow_slots;
    write(TOGETHER_COMMITS)?;
    database.checkpoint()?;
    let together = slots(database, &pins);
    pins.into_iter().try_for_each(Pin::release)?;

    let mut pins = Vec::new();
    for number in 0..PINS {
        write(BETWEEN_COMMITS)?;
        pins.push(database.pin()?);
        if number % 4 == 3 {
            database.checkpoint()?;
        }
    }
    write(BETWEEN_COMMITS)?;
    database.checkpoint()?;
    let over_time = slots(database, &pins);
    pins.into_iter().try_for_each(Pin::release)?;
    Ok(Sharing {
        pins: PINS,
        together,
        over_time,
        target_met: slots_of_one == slots_of_all && together.of_first == together.of_all,
    })
}

fn slots(database: &Database, pins: &[Pin]) -> Slots {
    let entries = |pin: &Pin| pin.counts().shadowed_pages;
    Slots {
        of_first: pins.first().map(entries).unwrap_or_default(),
        of_all: database.stats().shadow_slots,
        unshared: pins.iter().map(entries).sum(),
    }
}
