//! One that commits and one that reads, both without a pause.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use stillfs::Database;
use stillfs::os::Host;

use crate::{Numbers, Outcome, TABLE, key, put};

/// Entries changed by one commit.
const PUTS: u64 = 2;
/// Reads that are timed together: one takes little longer than looking at the clock.
const READS: u64 = 8;

/// How long each thing took since the last lap.
#[derive(Debug, Default)]
struct Laps {
    commits: Vec<Duration>,
    reads: Vec<Duration>,
    begun: Duration,
}

#[derive(Debug)]
pub(crate) struct Traffic {
    host: Host,
    is_over: Arc<AtomicBool>,
    laps: Arc<Mutex<Laps>>,
    threads: Vec<JoinHandle<Outcome<()>>>,
}

impl Traffic {
    pub(crate) fn start(host: &Host, database: &Database, entries: u64) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let laps = Arc::new(Mutex::new(Laps {
            begun: host.clock.monotonic(),
            ..Laps::default()
        }));
        let spawn = |work: fn(&Host, &Database, u64, &AtomicBool, &Mutex<Laps>) -> Outcome<()>| {
            let (host, database) = (host.clone(), database.clone());
            let (is_over, laps) = (is_over.clone(), laps.clone());
            std::thread::spawn(move || work(&host, &database, entries, &is_over, &laps))
        };
        let threads = vec![spawn(commit), spawn(read)];
        Self {
            host: host.clone(),
            is_over,
            laps,
            threads,
        }
    }

    pub(crate) fn lap(&self) -> Value {
        let now = self.host.clock.monotonic();
        let mut laps = self.laps.lock().unwrap_or_else(PoisonError::into_inner);
        let done = std::mem::replace(
            &mut *laps,
            Laps {
                begun: now,
                ..Laps::default()
            },
        );
        drop(laps);
        let seconds = (now - done.begun).as_secs_f64();
        json!({
            "seconds": seconds,
            "commits_per_s": done.commits.len() as f64 / seconds,
            "commit_p99_us": p99_us(done.commits),
            "reads_per_s": (done.reads.len() as u64 * READS) as f64 / seconds,
            "read_p99_us": p99_us(done.reads) / READS as f64,
        })
    }

    pub(crate) fn stop(self) -> Outcome<()> {
        self.is_over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread
                .join()
                .map_err(|_| "a thread of the traffic panicked")??;
        }
        Ok(())
    }
}

fn p99_us(mut durations: Vec<Duration>) -> f64 {
    durations.sort_unstable();
    let index = (durations.len() * 99).div_ceil(100).max(1) - 1;
    durations.get(index).copied().unwrap_or_default().as_nanos() as f64 / 1e3
}

fn commit(
    host: &Host,
    database: &Database,
    entries: u64,
    is_over: &AtomicBool,
    laps: &Mutex<Laps>,
) -> Outcome<()> {
    let mut numbers = Numbers(2);
    while !is_over.load(Ordering::SeqCst) {
        let begun = host.clock.monotonic();
        let mut write = database.begin_write()?;
        for _ in 0..PUTS {
            let number = numbers.below(entries);
            put(&mut write, &mut numbers, number)?;
        }
        write.commit()?;
        let took = host.clock.monotonic() - begun;
        laps.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .commits
            .push(took);
    }
    Ok(())
}

fn read(
    host: &Host,
    database: &Database,
    entries: u64,
    is_over: &AtomicBool,
    laps: &Mutex<Laps>,
) -> Outcome<()> {
    let mut numbers = Numbers(3);
    while !is_over.load(Ordering::SeqCst) {
        let begun = host.clock.monotonic();
        for _ in 0..READS {
            let number = numbers.below(entries);
            let found = database.begin_read()?.get(TABLE, &key(number))?;
            std::hint::black_box(found.ok_or("an entry is missing")?);
        }
        let took = host.clock.monotonic() - begun;
        laps.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reads
            .push(took);
    }
    Ok(())
}
