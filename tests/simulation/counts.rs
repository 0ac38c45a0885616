//! What a run did, for people and against tests that test nothing.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// Sums over all worlds.
        #[derive(Debug, Default)]
        pub(crate) struct Counts { $(pub(crate) $name: AtomicU64,)* }

        impl Counts {
            pub(crate) fn add(&self, other: &Self) {
                $(self.$name.fetch_add(other.$name.load(Ordering::Relaxed), Ordering::Relaxed);)*
            }
        }

        impl fmt::Display for Counts {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let parts = [$(format!(
                    "{} {}",
                    self.$name.load(Ordering::Relaxed),
                    stringify!($name).replace('_', " "),
                )),*];
                f.write_str(&parts.join(", "))
            }
        }
    };
}

counters!(
    seeds,
    steps,
    commits,
    commits_in_flight,
    checkpoints,
    machine_crashes,
    crash_states_tried,
    process_crashes,
    clean_stops,
    recoveries,
    failed_openings,
    faults,
    pins,
    pins_reclaimed,
    reads_amid_engine,
    reads_refused,
    pages_compared,
);

pub(crate) fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    pub(crate) fn refused(&self) {
        one(&self.reads_refused);
    }

    pub(crate) fn pages(&self, count: usize) {
        self.pages_compared
            .fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
