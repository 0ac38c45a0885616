//! Writers that never stop: transfers between accounts, and overwrites of stored files.

use std::io::{self, BufRead};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Reply};
use crate::list::{self, Stored};

const WRITERS: u64 = 4;
const ACCOUNTS: u64 = 100;
/// What every account holds at the beginning.
const BALANCE: u64 = 1000;
/// One in this many commits overwrites a file; the others are transfers.
const OVERWRITE_EVERY: u64 = 4;
/// Between two commits of a writer, so that a small machine has time for the copy tools too.
const PAUSE: Duration = Duration::from_millis(1);
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// What happened since the last answer.
#[derive(Debug, Default)]
struct Lap {
    commits: u64,
    longest_commit: Duration,
    checkpoints: u64,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    address: String,
    overwritten: Vec<Stored>,
    lap: Mutex<Lap>,
    is_over: AtomicBool,
}

/// Writes until standard input ends. A line of it is answered by the commits since the line before,
/// the microseconds that the longest of them took, and the checkpoints.
pub(crate) fn write(address: &str, list: &Path) -> io::Result<()> {
    let (overwritten, _) = list::read(list)?;
    if overwritten.is_empty() {
        return Err(io::Error::other(
            "no stored file is small enough to be overwritten",
        ));
    }
    open_accounts(address)?;
    let shared = Arc::new(Shared {
        address: address.to_owned(),
        overwritten,
        lap: Mutex::default(),
        is_over: AtomicBool::new(false),
    });
    let mut threads: Vec<_> = (1..=WRITERS)
        .map(|seed| start(&shared, move |shared| write_on(shared, seed)))
        .collect();
    threads.push(start(&shared, checkpoint_on));
    for line in io::stdin().lock().lines() {
        line?;
        let lap = std::mem::take(&mut *locked(&shared.lap));
        let longest_us = lap.longest_commit.as_micros();
        println!("{} {longest_us} {}", lap.commits, lap.checkpoints);
    }
    shared.is_over.store(true, Ordering::Relaxed);
    for thread in threads {
        // One that failed has ended the process.
        let _ = thread.join();
    }
    Ok(())
}

/// A thread whose failure is that of the process.
fn start(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> io::Result<()> + Send + 'static,
) -> thread::JoinHandle<()> {
    let shared = shared.clone();
    thread::spawn(move || {
        if let Err(error) = work(&shared) {
            eprintln!("workload: {error}");
            std::process::exit(1);
        }
    })
}

fn locked(lap: &Mutex<Lap>) -> std::sync::MutexGuard<'_, Lap> {
    lap.lock().unwrap_or_else(PoisonError::into_inner)
}

fn account(number: u64) -> Vec<u8> {
    format!("account:{number}").into_bytes()
}

fn open_accounts(address: &str) -> io::Result<()> {
    let mut client = Client::connect(address)?;
    client.add(&[b"SELECT", b"1"]).add(&[b"MULTI"]);
    let balance = BALANCE.to_string();
    for number in 0..ACCOUNTS {
        client.add(&[b"SET", &account(number), balance.as_bytes()]);
    }
    client.add(&[b"SET", b"transfers", b"0"]);
    client.add(&[b"EXEC"]).send().map(drop)
}

fn write_on(shared: &Shared, seed: u64) -> io::Result<()> {
    let mut client = Client::connect(&shared.address)?;
    let mut random = Random(seed);
    client.add(&[b"SELECT", b"1"]).send()?;
    while !shared.is_over.load(Ordering::Relaxed) {
        if random.below(OVERWRITE_EVERY) == 0 {
            overwrite(&mut client, &mut random, &shared.overwritten);
        } else {
            transfer(&mut client, &mut random);
        }
        let begun = Instant::now();
        let replies = client.send()?;
        let took = begun.elapsed();
        if replies.iter().any(|reply| matches!(reply, Reply::Nil)) {
            return Err(io::Error::other("a transaction was not carried out"));
        }
        let mut lap = locked(&shared.lap);
        lap.commits += 1;
        lap.longest_commit = lap.longest_commit.max(took);
        drop(lap);
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Moves an amount from one account to another, and counts it: the sum stays what it was.
fn transfer(client: &mut Client, random: &mut Random) {
    let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
    let amount = random.below(100).to_string();
    client
        .add(&[b"MULTI"])
        .add(&[b"DECRBY", &account(from), amount.as_bytes()])
        .add(&[b"INCRBY", &account(to), amount.as_bytes()])
        .add(&[b"INCR", b"transfers"])
        .add(&[b"EXEC"]);
}

/// Replaces a stored file by as many random bytes.
fn overwrite(client: &mut Client, random: &mut Random, stored: &[Stored]) {
    let Some(one) = stored.get(random.index(stored.len())) else {
        return;
    };
    let mut value = vec![0; one.length];
    for piece in value.chunks_mut(8) {
        let bytes = random.next().to_le_bytes();
        piece.copy_from_slice(&bytes[..piece.len()]);
    }
    client
        .add(&[b"SELECT", b"0"])
        .add(&[b"SET", &one.key, &value])
        .add(&[b"SELECT", b"1"]);
}

fn checkpoint_on(shared: &Shared) -> io::Result<()> {
    let mut client = Client::connect(&shared.address)?;
    while !shared.is_over.load(Ordering::Relaxed) {
        client.add(&[b"CHECKPOINT"]).send()?;
        locked(&shared.lap).checkpoints += 1;
        thread::sleep(CHECKPOINT_EVERY);
    }
    Ok(())
}

/// Numbers without a pattern (SplitMix64); the same for the same seed.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }
}
