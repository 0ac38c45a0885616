//! Writers that commit without a pause, and how long each commit took them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use serde::Serialize;
use stillfs::Database;
use stillfs::os::Host;

use crate::load::{Numbers, key};
use crate::{Outcome, TABLE};

/// Changes in one transaction.
const PUTS: u64 = 2;

/// What the writers are told, and what else goes on meanwhile. Even phases are quiet, odd ones have
/// pins; each gets a number of its own, so that a commit across a change of phase counts nowhere.
#[derive(Debug)]
pub(crate) struct Phase(AtomicU64);

const STOP: u64 = u64::MAX;

impl Phase {
    pub(crate) fn quiet() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn next(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn stop(&self) {
        self.0.store(STOP, Ordering::SeqCst);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Ends the writers when it goes, also when the one who measures fails.
#[derive(Debug)]
pub(crate) struct StopAtEnd<'a>(pub(crate) &'a Phase);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// From the begin of each transaction to its acknowledgement.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    pub(crate) quiet: Vec<Duration>,
    pub(crate) with_pins: Vec<Duration>,
}

/// The middle and the tail of many durations, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl Percentiles {
    pub(crate) fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |hundredths: usize| {
            let index = (durations.len() * hundredths).div_ceil(100).max(1) - 1;
            durations.get(index).copied().unwrap_or_default().as_nanos() as f64 / 1e3
        };
        Self {
            count: durations.len() as u64,
            p50_us: at(50),
            p99_us: at(99),
            max_us: at(100),
        }
    }
}

/// Changes a few entries that are there already.
pub(crate) fn commit_some(database: &Database, numbers: &mut Numbers, entries: u64) -> Outcome<()> {
    let mut transaction = database.begin_write()?;
    for _ in 0..PUTS {
        let bytes = 60 + usize::try_from(numbers.next() % 700)?;
        let value = numbers.value(bytes);
        transaction.put(TABLE, &key(numbers.next() % entries), &value)?;
    }
    transaction.commit()?;
    Ok(())
}

fn write(
    host: &Host,
    database: &Database,
    entries: u64,
    phase: &Phase,
    seed: u64,
) -> Outcome<Latencies> {
    let mut numbers = Numbers(seed << 32);
    let mut latencies = Latencies::default();
    loop {
        let before = phase.now();
        if before == STOP {
            return Ok(latencies);
        }
        let begun = host.clock.monotonic();
        commit_some(database, &mut numbers, entries)?;
        let took = host.clock.monotonic() - begun;
        if phase.now() == before {
            match before % 2 {
                0 => latencies.quiet.push(took),
                _ => latencies.with_pins.push(took),
            }
        }
    }
}

/// Runs `measure` while `writers` threads commit; gives its result and their latencies.
pub(crate) fn under_writers<T>(
    host: &Host,
    database: &Database,
    entries: u64,
    writers: u64,
    measure: impl FnOnce(&Phase) -> Outcome<T>,
) -> Outcome<(T, Latencies)> {
    let phase = Phase::quiet();
    thread::scope(|scope| {
        let threads: Vec<ScopedJoinHandle<'_, Outcome<Latencies>>> = (1..=writers)
            .map(|seed| {
                let phase = &phase;
                scope.spawn(move || write(host, database, entries, phase, seed))
            })
            .collect();
        let measured = {
            let _stop = StopAtEnd(&phase);
            measure(&phase)
        };
        let mut all = Latencies::default();
        for thread in threads {
            let mut one = thread.join().map_err(|_| "a writer panicked")??;
            all.quiet.append(&mut one.quiet);
            all.with_pins.append(&mut one.with_pins);
        }
        Ok((measured?, all))
    })
}
