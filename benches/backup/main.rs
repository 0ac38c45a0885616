//! The database that `scripts/bench-backup` takes backups of and that `scripts/bench` looks at: made, changed and
//! kept busy on demand.
//!
//! ```text
//! backup DIRECTORY MIB [LOG_MIB]   makes the database, with a checkpoint after so much log, then answers one line
//!                           on standard input with one of JSON:
//!   change PERCENT SEED     changes an entry on so many of the pages, drawn at random, and checkpoints
//!   commit COUNT THREADS    so many commits, in all, by so many committers
//!   commit-for MS THREADS   commits without a pause for so long
//!   checkpoint              one checkpoint
//!   pin                     takes a pin within the process; how long commits and checkpoints waited
//!   release                 gives the oldest of those up
//!   traffic on|off          one thread commits without a pause, another one reads entries
//!   lap                     what the two did since the last lap
//! ```
//!
//! It stops cleanly at the end of its input. Backups are made by `stillfs backup`, in processes of their
//! own, which pin over the socket.

mod commits;
mod traffic;

use std::collections::VecDeque;
use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use stillfs::Database;
use stillfs::database::{EngineOptions, Pin, PinServing, WriteTransaction};
use stillfs::os::Host;

use commits::Until;
use traffic::Traffic;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// The one table of the database.
const TABLE: &str = "entries";
const VALUE_BYTES: usize = 1000;
/// Entries put in one transaction.
const TRANSACTION_ENTRIES: u64 = 1 << 16;

const USAGE: &str = "usage: scripts/bench-backup";

fn main() -> Outcome<()> {
    // `cargo test --benches` passes nothing, and must not start gigabytes of work.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, mib, options) = match &arguments[..] {
        [directory, mib] => (directory, mib, EngineOptions::default()),
        [directory, mib, log_mib] => {
            let checkpoint_bytes = log_mib.parse::<u64>()? << 20;
            let options = EngineOptions {
                checkpoint_bytes,
                ..EngineOptions::default()
            };
            (directory, mib, options)
        }
        _ => {
            println!("{USAGE}");
            return Ok(());
        }
    };
    let mut subject = Subject::load(Path::new(directory), mib.parse::<u64>()? << 20, &options)?;
    println!("{}", subject.facts());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["change", percent, seed] => subject.change(percent.parse()?, seed.parse()?)?,
            ["commit", count, threads] => {
                subject.commit(Until::Count(count.parse()?), threads.parse()?)?
            }
            ["commit-for", ms, threads] => {
                let time = Duration::from_millis(ms.parse()?);
                subject.commit(Until::Elapsed(time), threads.parse()?)?
            }
            ["checkpoint"] => subject.checkpoint()?,
            ["pin"] => subject.pin()?,
            ["release"] => subject.release()?,
            ["traffic", state] => subject.set_traffic(state == "on")?,
            ["lap"] => subject.traffic.as_ref().map_or(Value::Null, Traffic::lap),
            _ => return Err(format!("what is \"{line}\"?").into()),
        };
        println!("{answer}");
    }
    subject.set_traffic(false)?;
    subject.pins.clear();
    Ok(subject.database.close()?)
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

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// Half of a value is random, so that compression has what it has in life.
fn put(write: &mut WriteTransaction, numbers: &mut Numbers, number: u64) -> Outcome<()> {
    let mut value = vec![b'.'; VALUE_BYTES];
    for word in value[..VALUE_BYTES / 2].chunks_exact_mut(8) {
        word.copy_from_slice(&numbers.next().to_le_bytes());
    }
    Ok(write.put(TABLE, &key(number), &value)?)
}

#[derive(Debug)]
struct Subject {
    database: Database,
    entries: u64,
    traffic: Option<Traffic>,
    pins: VecDeque<Pin>,
    seed: u64,
}

impl Subject {
    fn load(directory: &Path, bytes: u64, options: &EngineOptions) -> Outcome<Self> {
        let database = Database::open(directory, options, PinServing::On)?;
        let mut numbers = Numbers(1);
        let mut entries = 0;
        loop {
            let stats = database.stats().engine;
            if stats.page_count * stats.page_size >= bytes {
                break;
            }
            let left = bytes.saturating_sub(stats.page_count * stats.page_size);
            let wanted = (left / VALUE_BYTES as u64).clamp(64, TRANSACTION_ENTRIES);
            let mut write = database.begin_write()?;
            for number in entries..entries + wanted {
                put(&mut write, &mut numbers, number)?;
            }
            write.commit()?;
            entries += wanted;
        }
        database.checkpoint()?;
        Ok(Self {
            database,
            entries,
            traffic: None,
            pins: VecDeque::new(),
            seed: 0,
        })
    }

    /// What a checkpoint wrote, and how long it took.
    fn checkpoint(&self) -> Outcome<Value> {
        let clock = Host::system().clock;
        let before = self.database.stats().engine.pages_written;
        let begun = clock.monotonic();
        self.database.checkpoint()?;
        let seconds = (clock.monotonic() - begun).as_secs_f64();
        let pages_written = self.database.stats().engine.pages_written - before;
        Ok(json!({ "seconds": seconds, "pages_written": pages_written }))
    }

    fn pin(&mut self) -> Outcome<Value> {
        let pin = self.database.pin()?;
        let times = pin.times();
        self.pins.push_back(pin);
        Ok(json!({
            "commit_lock": times.commit_lock.as_secs_f64(),
            "seconds": times.total.as_secs_f64(),
        }))
    }

    fn release(&mut self) -> Outcome<Value> {
        if let Some(pin) = self.pins.pop_front() {
            pin.release()?;
        }
        Ok(json!({ "held": self.pins.len() }))
    }

    /// The places are others with every call.
    fn commit(&mut self, until: Until, threads: u64) -> Outcome<Value> {
        self.seed += threads;
        commits::commit(&self.database, self.entries, until, threads, self.seed)
    }

    fn facts(&self) -> Value {
        let stats = self.database.stats().engine;
        json!({
            "entries": self.entries,
            "page_count": stats.page_count,
            "page_size": stats.page_size,
        })
    }

    /// Entries were put in order, so neighbours by number share a page.
    fn change(&self, percent: f64, seed: u64) -> Outcome<Value> {
        let before = self.database.stats().engine;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of the pages, to one page"
        )]
        let wanted = (before.page_count as f64 * percent / 100.0).ceil() as u64;
        let mut numbers = Numbers(seed);
        let mut places: Vec<u64> = (0..before.page_count).collect();
        for at in 0..wanted.min(before.page_count) {
            let other = at + numbers.below(before.page_count - at);
            places.swap(usize::try_from(at)?, usize::try_from(other)?);
        }
        places.truncate(usize::try_from(wanted)?);
        for part in places.chunks(1 << 13) {
            let mut write = self.database.begin_write()?;
            for place in part {
                let number = u128::from(*place) * u128::from(self.entries);
                let number = u64::try_from(number / u128::from(before.page_count))?;
                put(&mut write, &mut numbers, number)?;
            }
            write.commit()?;
        }
        let checkpoint = self.checkpoint()?;
        let after = self.database.stats().engine;
        let pages_written = after.pages_written - before.pages_written;
        Ok(json!({
            "pages_written": pages_written,
            "page_count": after.page_count,
            "checkpoint": checkpoint,
        }))
    }

    fn set_traffic(&mut self, is_on: bool) -> Outcome<Value> {
        match (is_on, self.traffic.take()) {
            (true, None) => {
                let traffic = Traffic::start(&Host::system(), &self.database, self.entries);
                self.traffic = Some(traffic);
                // The caches and the log are as they will be.
                std::thread::park_timeout(Duration::from_secs(1));
            }
            (true, running) => self.traffic = running,
            (false, Some(running)) => running.stop()?,
            (false, None) => {}
        }
        Ok(json!({ "traffic": is_on }))
    }
}
