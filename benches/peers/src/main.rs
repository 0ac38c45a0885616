//! The same work by the engine of stillfs, by SQLite and by redb, for `scripts/bench`.
//!
//! ```text
//! stillfs-peers DIRECTORY   works in it, and answers each line on standard input with one of JSON; STORE is
//!                           engine, sqlite or redb:
//!   load STORE ENTRIES        makes the store anew and fills it in the order of the keys
//!   commit STORE MS THREADS   durable commits without a pause for so long, by so many committers
//!   read STORE MS             entries at random places, one by one
//!   scan STORE MS             entries in a row, from random places on
//! ```
//!
//! All of them keep 64 MiB of pages in memory. The keys are numbers: each store has its best form of them.

mod store;

use std::error::Error;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use store::{Entry, Store, open};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const VALUE_BYTES: usize = 256;
/// Entries of one transaction while a store is filled.
const LOAD_ENTRIES: u64 = 1 << 16;
/// Entries that one commit changes.
const COMMIT_ENTRIES: u64 = 2;
/// Entries read in a row from one place on.
const SCAN_ENTRIES: u64 = 1000;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory] = &arguments[..] else {
        return Err("usage: scripts/bench --rows peers".into());
    };
    let mut all: Vec<Loaded> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["load", name, entries] => {
                all.retain(|one| one.name != name);
                let (loaded, seconds) = Loaded::new(Path::new(directory), name, entries.parse()?)?;
                all.push(loaded);
                json!({ "seconds": seconds })
            }
            [work, name, ms, ref rest @ ..] => {
                let one = all.iter_mut().find(|one| one.name == name);
                let one = one.ok_or_else(|| format!("{name} is not loaded"))?;
                let time = Duration::from_millis(ms.parse()?);
                match (work, rest) {
                    ("commit", [threads]) => one.commit(time, threads.parse()?)?,
                    ("read", []) => one.read(time)?,
                    ("scan", []) => one.scan(time)?,
                    _ => return Err(format!("what is \"{line}\"?").into()),
                }
            }
            _ => return Err(format!("what is \"{line}\"?").into()),
        };
        println!("{answer}");
    }
    Ok(())
}

/// A small generator: the same numbers in every run.
#[derive(Clone, Debug)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn entry(&mut self, key: u64) -> Entry {
        let mut value = vec![0; VALUE_BYTES];
        for word in value.chunks_exact_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        (key, value)
    }
}

/// A store that was filled with `entries` entries.
#[derive(Debug)]
struct Loaded {
    name: String,
    store: Box<dyn Store>,
    entries: u64,
    /// The places are others with every piece of work.
    seed: u64,
}

impl Loaded {
    /// Makes it; the seconds until all of it was durable and in its file.
    fn new(parent: &Path, name: &str, entries: u64) -> Outcome<(Self, f64)> {
        let directory: PathBuf = parent.join(name);
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        std::fs::create_dir_all(&directory)?;
        let store = open(name, &directory)?;
        let mut numbers = Numbers(1);
        let begun = Instant::now();
        for first in (0..entries).step_by(usize::try_from(LOAD_ENTRIES)?) {
            let keys = first..entries.min(first + LOAD_ENTRIES);
            store.put(&mut keys.map(|key| numbers.entry(key)))?;
        }
        store.checkpoint()?;
        let seconds = begun.elapsed().as_secs_f64();
        let name = name.to_owned();
        let loaded = Self {
            name,
            store,
            entries,
            seed: 1,
        };
        Ok((loaded, seconds))
    }

    fn commit(&mut self, time: Duration, threads: u64) -> Outcome<Value> {
        self.seed += threads;
        let (store, entries, seed) = (&*self.store, self.entries, self.seed);
        let done = AtomicU64::new(0);
        let begun = Instant::now();
        let work = |number: u64| -> Outcome<()> {
            let mut numbers = Numbers((seed + number) << 32);
            while begun.elapsed() < time {
                let mut left = 0..COMMIT_ENTRIES;
                store.put(&mut std::iter::from_fn(|| {
                    left.next()?;
                    let key = numbers.next() % entries;
                    Some(numbers.entry(key))
                }))?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        thread::scope(|scope| -> Outcome<()> {
            let work = &work;
            let all: Vec<_> = (0..threads)
                .map(|number| scope.spawn(move || work(number)))
                .collect();
            for one in all {
                one.join().map_err(|_| "a committer panicked")??;
            }
            Ok(())
        })?;
        Ok(counted(done.into_inner(), begun))
    }

    fn read(&mut self, time: Duration) -> Outcome<Value> {
        self.seed += 1;
        let (entries, mut numbers) = (self.entries, Numbers(self.seed << 32));
        let begun = Instant::now();
        let found = self
            .store
            .read(&mut || (begun.elapsed() < time).then(|| numbers.next() % entries))?;
        Ok(counted(found, begun))
    }

    fn scan(&mut self, time: Duration) -> Outcome<Value> {
        self.seed += 1;
        let places = self.entries.saturating_sub(SCAN_ENTRIES).max(1);
        let mut numbers = Numbers(self.seed << 32);
        let begun = Instant::now();
        let found = self.store.scan(SCAN_ENTRIES, &mut || {
            (begun.elapsed() < time).then(|| numbers.next() % places)
        })?;
        Ok(counted(found, begun))
    }
}

fn counted(count: u64, begun: Instant) -> Value {
    json!({ "count": count, "seconds": begun.elapsed().as_secs_f64() })
}
