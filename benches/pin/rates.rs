//! Rates of the engine without pins, and of the disk below it.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use stillfs::Database;
use stillfs::database::{EngineOptions, PinServing};
use stillfs::os::{self, Host, OpenMode};

use crate::load::{Numbers, key, put_entry};
use crate::options::Options;
use crate::traffic::under_writers;
use crate::{Outcome, TABLE};

/// Bytes that a checkpoint is given to write.
const CHECKPOINT_BYTES: u64 = 256 << 20;
/// Transactions whose pages here and there a checkpoint is given to write, and changes in each.
const SCATTERED_TRANSACTIONS: u64 = 8;
const SCATTERED_PUTS: u64 = 2000;
/// Entries that fit the cache of the engine.
const HOT_ENTRIES: u64 = 2000;

/// Per second, or megabytes per second.
#[derive(Debug, Serialize)]
pub(crate) struct Rates {
    /// Appends of 4 KiB to a file, each followed by fdatasync: what the disk gives one committer.
    pub(crate) disk_syncs: f64,
    pub(crate) commits_of_1: f64,
    pub(crate) commits_of_4: f64,
    pub(crate) commits_of_8: f64,
    /// Reads of entries that fit the cache.
    pub(crate) hot_reads: f64,
    /// Reads of entries all over the database.
    pub(crate) cold_reads: f64,
    pub(crate) scan_mb: f64,
    /// Writing back pages in a row.
    pub(crate) checkpoint_in_row_mb: f64,
    /// Writing back pages here and there.
    pub(crate) checkpoint_scattered_mb: f64,
}

pub(crate) fn measure(
    host: &Host,
    dir: &Path,
    path: &Path,
    entries: u64,
    options: &Options,
) -> Outcome<Rates> {
    let time = options.rate_time;
    let disk_syncs = disk_syncs(host, dir, time)?;
    let database = Database::open(path, &EngineOptions::default(), PinServing::Off)?;
    let commits = |writers| commits(host, &database, entries, writers, time);
    let (commits_of_1, commits_of_4, commits_of_8) = (commits(1)?, commits(4)?, commits(8)?);
    database.checkpoint()?;
    let hot_reads = reads(host, &database, entries.min(HOT_ENTRIES), time)?;
    let cold_reads = reads(host, &database, entries, time)?;
    let scan_mb = scan(host, &database, time)?;
    database.close()?;
    drop(database);
    let by_hand = EngineOptions {
        checkpoint_bytes: u64::MAX >> 1,
        log_bytes_max: u64::MAX >> 1,
        ..EngineOptions::default()
    };
    let database = Database::open(path, &by_hand, PinServing::Off)?;
    put_in_row(&database, entries)?;
    let checkpoint_in_row_mb = checkpoint(host, &database)?;
    put_scattered(&database, entries)?;
    let checkpoint_scattered_mb = checkpoint(host, &database)?;
    database.close()?;
    Ok(Rates {
        disk_syncs,
        commits_of_1,
        commits_of_4,
        commits_of_8,
        hot_reads,
        cold_reads,
        scan_mb,
        checkpoint_in_row_mb,
        checkpoint_scattered_mb,
    })
}

/// Runs `step` for about `time`; gives the sum of what it returns, per second.
fn per_second(host: &Host, time: Duration, mut step: impl FnMut() -> Outcome<u64>) -> Outcome<f64> {
    let begun = host.clock.monotonic();
    let mut sum = 0;
    loop {
        sum += step()?;
        let passed = host.clock.monotonic() - begun;
        if passed >= time {
            return Ok(sum as f64 / passed.as_secs_f64());
        }
    }
}

fn disk_syncs(host: &Host, dir: &Path, time: Duration) -> Outcome<f64> {
    let file = host.disk.open(&dir.join("syncs"), OpenMode::CreateNew)?;
    let mut offset = 0;
    per_second(host, time, || {
        os::write_all_at(&*file, &[7; 4096], offset)?;
        offset += 4096;
        file.sync_data()?;
        Ok(1)
    })
}

fn commits(
    host: &Host,
    database: &Database,
    entries: u64,
    writers: u64,
    time: Duration,
) -> Outcome<f64> {
    let committed = || database.stats().engine.commits;
    let before = committed();
    let (seconds, _) = under_writers(host, database, entries, writers, |_| {
        let begun = host.clock.monotonic();
        host.clock.sleep(time);
        Ok((host.clock.monotonic() - begun).as_secs_f64())
    })?;
    Ok((committed() - before) as f64 / seconds)
}

fn reads(host: &Host, database: &Database, entries: u64, time: Duration) -> Outcome<f64> {
    let mut numbers = Numbers(3 << 40);
    let transaction = database.begin_read()?;
    per_second(host, time, || {
        let value = transaction.get(TABLE, &key(numbers.next() % entries))?;
        value.ok_or("an entry is missing")?;
        Ok(1)
    })
}

/// Reads entries in the order of their keys.
fn scan(host: &Host, database: &Database, time: Duration) -> Outcome<f64> {
    let transaction = database.begin_read()?;
    let mut range = transaction.range(TABLE, ..)?;
    let bytes = per_second(host, time, || match range.next().transpose()? {
        Some((key, value)) => Ok((key.len() + value.len()) as u64),
        None => {
            range = transaction.range(TABLE, ..)?;
            Ok(0)
        }
    })?;
    Ok(bytes / 1e6)
}

/// Adds entries behind the last, so that pages in a row change.
fn put_in_row(database: &Database, entries: u64) -> Outcome<()> {
    let mut numbers = Numbers(5 << 40);
    let mut transaction = database.begin_write()?;
    let (mut put, mut number) = (0, entries);
    while put < CHECKPOINT_BYTES {
        put += put_entry(&mut transaction, &mut numbers, number)?;
        number += 1;
    }
    transaction.commit()?;
    Ok(())
}

/// Changes entries all over the database, in a few transactions.
fn put_scattered(database: &Database, entries: u64) -> Outcome<()> {
    let mut numbers = Numbers(6 << 40);
    for _ in 0..SCATTERED_TRANSACTIONS {
        let mut transaction = database.begin_write()?;
        for _ in 0..SCATTERED_PUTS {
            let value = numbers.value(100);
            transaction.put(TABLE, &key(numbers.next() % entries), &value)?;
        }
        transaction.commit()?;
    }
    Ok(())
}

/// Megabytes per second of one checkpoint, its syncs included.
fn checkpoint(host: &Host, database: &Database) -> Outcome<f64> {
    let begun = host.clock.monotonic();
    let report = database.checkpoint()?;
    let seconds = (host.clock.monotonic() - begun).as_secs_f64();
    let bytes = report.pages_written * database.stats().engine.page_size;
    Ok(bytes as f64 / 1e6 / seconds)
}
