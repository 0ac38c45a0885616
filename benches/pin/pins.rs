//! Pins taken and released while writers commit, in turns with the same writers alone.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use stillfs::Database;
use stillfs::database::Pin;
use stillfs::os::Host;

use crate::Outcome;
use crate::options::Options;
use crate::traffic::{Percentiles, Phase, under_writers};

pub(crate) const WRITERS: u64 = 4;
/// Pins taken in a row before as much time without pins.
const ROUND: u64 = 25;
/// The target for the time under the commit lock, over all pins.
const COMMIT_LOCK_P99_MAX_US: f64 = 1000.0;

/// What the pins cost.
#[derive(Debug, Serialize)]
pub(crate) struct PinCosts {
    pub(crate) commit_lock: Percentiles,
    pub(crate) gate_closed: Percentiles,
    pub(crate) granted: Percentiles,
    /// Pages that one pin stored at once because the live file did not hold them.
    pub(crate) spilled_pages_median: u64,
    pub(crate) spilled_pages_max: u64,
    pub(crate) checkpoints: u64,
    pub(crate) seconds: f64,
    pub(crate) commits_quiet: Percentiles,
    pub(crate) commits_with_pins: Percentiles,
    pub(crate) commit_lock_target_met: bool,
}

#[derive(Debug, Default)]
struct Samples {
    commit_lock: Vec<Duration>,
    gate_closed: Vec<Duration>,
    granted: Vec<Duration>,
    spilled: Vec<u64>,
}

pub(crate) fn measure(
    host: &Host,
    database: &Database,
    entries: u64,
    options: &Options,
) -> Outcome<PinCosts> {
    let begun = host.clock.monotonic();
    let checkpoints_before = database.stats().engine.checkpoints;
    let (mut samples, latencies) = under_writers(host, database, entries, WRITERS, |phase| {
        // The first second is for warming up: its commits count as quiet only afterwards.
        host.clock.sleep(Duration::from_secs(1));
        phase.next();
        phase.next();
        let mut samples = Samples::default();
        let mut left = options.pins;
        while left > 0 {
            let round = left.min(ROUND);
            take_round(host, database, phase, (round, options.held), &mut samples)?;
            left -= round;
        }
        Ok(samples)
    })?;
    samples.spilled.sort_unstable();
    let commit_lock = Percentiles::of(samples.commit_lock);
    Ok(PinCosts {
        commit_lock,
        gate_closed: Percentiles::of(samples.gate_closed),
        granted: Percentiles::of(samples.granted),
        spilled_pages_median: middle(&samples.spilled),
        spilled_pages_max: samples.spilled.last().copied().unwrap_or_default(),
        checkpoints: database.stats().engine.checkpoints - checkpoints_before,
        seconds: (host.clock.monotonic() - begun).as_secs_f64(),
        commits_quiet: Percentiles::of(latencies.quiet),
        commits_with_pins: Percentiles::of(latencies.with_pins),
        commit_lock_target_met: commit_lock.p99_us < COMMIT_LOCK_P99_MAX_US,
    })
}

fn middle(sorted: &[u64]) -> u64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// One round of so many pins, so many of them held, then as much time without any.
fn take_round(
    host: &Host,
    database: &Database,
    phase: &Phase,
    (pins, held_max): (u64, usize),
    samples: &mut Samples,
) -> Outcome<()> {
    phase.next();
    let begun = host.clock.monotonic();
    let mut held: VecDeque<Pin> = VecDeque::new();
    for _ in 0..pins {
        let pin = database.pin()?;
        let times = pin.times();
        samples.commit_lock.push(times.commit_lock);
        samples.gate_closed.push(times.gate_closed);
        samples.granted.push(times.total);
        samples.spilled.push(pin.counts().spilled_pages);
        held.push_back(pin);
        if held.len() > held_max
            && let Some(oldest) = held.pop_front()
        {
            oldest.release()?;
        }
    }
    held.into_iter().try_for_each(Pin::release)?;
    let took = host.clock.monotonic() - begun;
    phase.next();
    host.clock.sleep(took);
    Ok(())
}
