//! A world that stands still names its seed: a lock that waits for itself must not look like a slow run.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use stillfs::os::Clock;
use stillfs::os::clock::SystemClock;

/// Far longer than any seed takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The seeds that are running, and since when.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    running: Mutex<BTreeMap<u64, Duration>>,
    ended: Condvar,
}

impl Watchdog {
    /// Runs `act` under the eyes of [`Watchdog::watch`].
    pub(crate) fn guard<T>(&self, seed: u64, act: impl FnOnce() -> T) -> T {
        self.running.lock().insert(seed, SystemClock.monotonic());
        let outcome = act();
        self.running.lock().remove(&seed);
        self.ended.notify_all();
        outcome
    }

    /// Ends the process, with a word, if a seed does not come to its end.
    pub(crate) fn watch(&self, are_all_done: impl Fn() -> bool) {
        let mut running = self.running.lock();
        while !are_all_done() {
            let _ = self
                .ended
                .wait_for(&mut running, Duration::from_millis(100));
            let now = SystemClock.monotonic();
            for (seed, since) in running.iter() {
                if now.saturating_sub(*since) > PATIENCE {
                    eprintln!("seed {seed} does not end: STILLFS_SEED={seed} shows where");
                    std::process::abort();
                }
            }
        }
    }
}
