//! Rounds, their seeds, and what a failed one leaves to read.

use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::load::Random;

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Runs `round` as often as `STILLFS_ROUNDS` says, or `usual` times.
pub fn rounds(test: &'static str, usual: u64, mut round: impl FnMut(&mut Diary)) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first = from_env("STILLFS_SEED").unwrap_or_else(|| now.as_secs() * 1_000_000);
    let count = from_env("STILLFS_ROUNDS").unwrap_or(usual);
    println!("{test}: {count} rounds from STILLFS_SEED={first}");
    for number in 0..count {
        let mut diary = Diary::new(test, first + number);
        round(&mut diary);
        println!("{}", diary.summary());
    }
}

/// What happened in one round, in order; printed if the round fails.
pub struct Diary {
    pub random: Random,
    test: &'static str,
    first: u64,
    events: Vec<String>,
}

impl Diary {
    fn new(test: &'static str, seed: u64) -> Self {
        Self {
            random: Random(seed),
            test,
            first: seed,
            events: Vec::new(),
        }
    }

    pub fn note(&mut self, event: impl Into<String>) {
        self.events.push(event.into());
    }

    /// One of so many.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    /// The seed of something that draws for itself.
    pub fn seed(&mut self) -> u64 {
        self.below(u64::MAX)
    }

    fn summary(&self) -> String {
        format!("seed {}: {}", self.first, self.events.join(", "))
    }
}

impl Drop for Diary {
    fn drop(&mut self) {
        if thread::panicking() {
            println!(
                "FAILED {}\nreplay: STILLFS_SEED={} STILLFS_ROUNDS=1 cargo test --test survival {}",
                self.summary(),
                self.first,
                self.test
            );
        }
    }
}
