//! Filling the database by big transactions, and the entries themselves.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use stillfs::Database;
use stillfs::database::{EngineOptions, PinServing, WriteTransaction};
use stillfs::os::Host;

use crate::{Outcome, TABLE};

/// Bytes of keys and values in one transaction.
const TRANSACTION_BYTES: u64 = 256 << 20;
/// Lengths of values, taken in turn; the long ones take pages of their own.
const VALUE_BYTES: [usize; 8] = [90, 400, 150, 1200, 64, 3000, 700, 20_000];

/// How the loading went.
#[derive(Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) entries: u64,
    /// Bytes of keys and values.
    pub(crate) entry_bytes: u64,
    /// Bytes of `data.pages`.
    pub(crate) file_bytes: u64,
    pub(crate) seconds: f64,
    /// Of entry bytes, the last checkpoint included.
    pub(crate) mb_per_second: f64,
    /// Highest resident memory of this process so far.
    pub(crate) peak_memory_bytes: u64,
    /// Longest time between the begin of a transaction and its acknowledgement, filling included.
    pub(crate) slowest_transaction_seconds: f64,
}

/// A small generator: the same numbers in every run.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Some value of `bytes` bytes, which does not compress to nothing.
    pub(crate) fn value(&mut self, bytes: usize) -> Vec<u8> {
        let mut value = Vec::with_capacity(bytes + 8);
        while value.len() < bytes {
            value.extend_from_slice(&self.next().to_le_bytes());
        }
        value.truncate(bytes);
        value
    }
}

/// The key of entry `number`.
pub(crate) fn key(number: u64) -> [u8; 16] {
    let mut key = *b"entry-..........";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Puts entry `number` as the loading does; returns its bytes.
pub(crate) fn put_entry(
    transaction: &mut WriteTransaction,
    numbers: &mut Numbers,
    number: u64,
) -> Outcome<u64> {
    let index = usize::try_from(number)? % VALUE_BYTES.len();
    let value = numbers.value(VALUE_BYTES[index]);
    transaction.put(TABLE, &key(number), &value)?;
    Ok((value.len() + key(number).len()) as u64)
}

/// Makes the database in `dir`, as large as `file_bytes` at least.
pub(crate) fn load(host: &Host, dir: &Path, file_bytes: u64) -> Outcome<Load> {
    let database = Database::open(dir, &EngineOptions::default(), PinServing::Off)?;
    let begun = host.clock.monotonic();
    let (mut entries, mut entry_bytes) = (0, 0);
    let mut numbers = Numbers(1);
    let mut slowest = Duration::ZERO;
    let size = |database: &Database| {
        let stats = database.stats().engine;
        stats.page_count * stats.page_size
    };
    while size(&database) < file_bytes {
        let transaction_begun = host.clock.monotonic();
        let mut transaction = database.begin_write()?;
        let wanted = TRANSACTION_BYTES.min(file_bytes - size(&database)) + (1 << 20);
        let mut put = 0;
        while put < wanted {
            put += put_entry(&mut transaction, &mut numbers, entries)?;
            entries += 1;
        }
        entry_bytes += put;
        transaction.commit()?;
        slowest = slowest.max(host.clock.monotonic() - transaction_begun);
    }
    database.checkpoint()?;
    let seconds = (host.clock.monotonic() - begun).as_secs_f64();
    let file_bytes = size(&database);
    database.close()?;
    Ok(Load {
        entries,
        entry_bytes,
        file_bytes,
        seconds,
        mb_per_second: entry_bytes as f64 / 1e6 / seconds,
        peak_memory_bytes: peak_memory_bytes()?,
        slowest_transaction_seconds: slowest.as_secs_f64(),
    })
}

/// Highest resident memory of this process.
fn peak_memory_bytes() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.ok_or("no VmHWM in /proc/self/status")?.parse::<u64>()? << 10)
}
