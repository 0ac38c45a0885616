//! Rounds, their seeds, and what a failed one leaves to read.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::load::Random;

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Runs `round` as often as the environment says, or `usual` times.
pub fn rounds(test: &'static str, usual: u64, mut round: impl FnMut(&mut Diary)) {
    let begun = Instant::now();
    let only = from_env("STILLFS_SEED");
    let first = only
        .or_else(|| from_env("STILLFS_FIRST_SEED"))
        .unwrap_or_else(draw);
    let time = from_env("STILLFS_SECONDS").map(Duration::from_secs);
    let count = from_env("STILLFS_ROUNDS").or(only.map(|_| 1));
    // Asked for a time only, it goes on for so long, but for one round at least.
    let count = count.unwrap_or(if time.is_some() { 1 } else { usual });
    println!("{test}: from seed {first}");
    let mut done = 0;
    while done < count || time.is_some_and(|time| begun.elapsed() < time) {
        let mut diary = Diary::new(test, first + done);
        round(&mut diary);
        println!("{}", diary.summary());
        done += 1;
    }
    println!("{test}: {done} rounds from seed {first} passed");
}

fn draw() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // Room for the rounds of a second between two draws.
    now.as_secs() * 1_000_000
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
                "FAILED {}\nagain: STILLFS_SEED={} cargo test --test survival {}",
                self.summary(),
                self.first,
                self.test
            );
        }
    }
}
