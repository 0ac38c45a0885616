//! W5: a damaged log gives a prefix of its commits or an error, and never fewer than were synced for
//! certain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::watch::{Watch, watched};
use super::*;
use crate::engine::error::EngineError;
use crate::engine::wal::record::{RECORD_HEADER_BYTES, push_record};
use crate::os::sim::SimDisk;

/// A commit that was written, and what it says to be synced.
#[derive(Debug)]
struct Written {
    commit: Commit,
    start: Lsn,
    synced: Lsn,
}

/// A log of two segments: two commits, then four of which the second is not known to be synced
/// when the third is written.
struct Sample {
    disk: SimDisk,
    files: [Vec<u8>; 2],
    second_start: Lsn,
    written: Vec<Written>,
}

impl Sample {
    fn new() -> Self {
        let machine = Host::simulated(1);
        let mut writer = Writer::new(&machine.host);
        let mut written = Vec::new();
        let mut second_start = Lsn::ZERO;
        for (index, is_flushed) in [true, true, true, false, true, false]
            .into_iter()
            .enumerate()
        {
            if index == 2 {
                second_start = writer.log.rotate().unwrap();
            }
            let (start, synced) = (writer.log.end(), writer.log.durable());
            let fill = index as u8 + 1;
            let commit = writer
                .commit(&[(3, fill), (10 + index as u64, fill)])
                .unwrap();
            if is_flushed {
                writer.log.flush(commit.point.lsn).unwrap();
            }
            written.push(Written {
                commit,
                start,
                synced,
            });
        }
        let disk = machine.disk.clone();
        let files = [1, 2].map(|sequence| file_bytes(&disk, &segment_path(sequence)));
        Self {
            disk,
            files,
            second_start,
            written,
        }
    }

    fn set(&self, file: usize, bytes: &[u8]) {
        set_file(&self.disk, &segment_path(file as u64 + 1), bytes);
    }

    /// Where the records of the commit lie: file, and range in it.
    fn place(&self, written: &Written) -> (usize, std::ops::Range<u64>) {
        let is_second = written.start >= self.second_start;
        let base = if is_second { self.second_start.0 } else { 0 };
        let range = written.start.0 - base + 512..written.commit.point.lsn.0 - base + 512;
        (usize::from(is_second), range)
    }

    /// Looks at the log, in which only `damaged` of `file` may have changed.
    ///
    /// Returns the number of commits that were found, or `None` for an error.
    fn check(&self, file: usize, damaged: std::ops::Range<u64>) -> Option<usize> {
        let found = match read_all(&self.disk) {
            Ok((found, _)) => found,
            Err(EngineError::Log { .. }) => return None,
            Err(other) => panic!("another error: {other}"),
        };
        for (found, written) in found.iter().zip(&self.written) {
            assert!(
                *found == written.commit,
                "not a prefix: {damaged:?} of {file}"
            );
        }
        assert!(found.len() <= self.written.len());
        if let Some(lost) = self.written.get(found.len()) {
            for claim in &self.written[found.len() + 1..] {
                let (at, range) = self.place(claim);
                let is_whole =
                    at != file || damaged.end <= range.start || range.end <= damaged.start;
                assert!(
                    !is_whole || claim.synced < lost.commit.point.lsn,
                    "{damaged:?} of {file}: commit {} vanished, but commit {} knew that it was synced",
                    lost.commit.point.timestamp,
                    claim.commit.point.timestamp,
                );
            }
        }
        Some(found.len())
    }
}

/// How often a log was found whole, cut short, and damaged.
#[derive(Debug, Default)]
struct Tally {
    whole: u32,
    shorter: u32,
    errors: u32,
}

impl Tally {
    fn count(&mut self, found: Option<usize>, of: usize) {
        match found {
            None => self.errors += 1,
            Some(found) if found == of => self.whole += 1,
            Some(_) => self.shorter += 1,
        }
    }
}

#[test]
fn every_flipped_bit_leaves_a_prefix_or_an_error() {
    let sample = Sample::new();
    assert_eq!(sample.check(0, 0..0), Some(6));
    let mut tally = Tally::default();
    for (file, good) in sample.files.iter().enumerate() {
        let handle = sample
            .disk
            .open(&segment_path(file as u64 + 1), OpenMode::ReadWrite)
            .unwrap();
        for bit in 0..good.len() * 8 {
            let at = bit / 8;
            handle
                .write_at(&[good[at] ^ (1 << (bit % 8))], at as u64)
                .unwrap();
            let found = sample.check(file, at as u64..at as u64 + 1);
            // A header that lost a bit is no header.
            assert!(at >= 512 || found.is_none(), "bit {bit} of file {file}");
            tally.count(found, 6);
            handle.write_at(&good[at..=at], at as u64).unwrap();
        }
    }
    // Padding may change; the last commits may go; what was synced may not.
    assert!(
        tally.whole > 0 && tally.shorter > 0 && tally.errors > 0,
        "{tally:?}"
    );
    assert_eq!(sample.check(0, 0..0), Some(6));
}

#[test]
fn every_truncation_leaves_a_prefix_or_an_error() {
    let sample = Sample::new();
    for (file, good) in sample.files.iter().enumerate() {
        for length in 0..good.len() {
            sample.set(file, &good[..length]);
            let found = sample.check(file, length as u64..good.len() as u64);
            match file {
                0 => assert_eq!(
                    found, None,
                    "{length} bytes: the next segment shows the loss"
                ),
                _ => assert!(
                    found.is_some_and(|found| (2..6).contains(&found)),
                    "{length}"
                ),
            }
        }
        sample.set(file, good);
    }
}

/// Also where the disk gives zeros or the neighbour's sector instead of what was written.
#[test]
fn every_lost_sector_leaves_a_prefix_or_an_error() {
    let sample = Sample::new();
    let mut tally = Tally::default();
    for (file, good) in sample.files.iter().enumerate() {
        for start in (0..good.len()).step_by(512) {
            let end = good.len().min(start + 512);
            let neighbour = good[..512].iter().copied().cycle().take(end - start);
            for replacement in [vec![0; end - start], neighbour.collect()] {
                if good[start..end] == replacement[..] {
                    continue;
                }
                let mut bad = good.clone();
                bad[start..end].copy_from_slice(&replacement);
                sample.set(file, &bad);
                tally.count(sample.check(file, start as u64..end as u64), 6);
            }
        }
        sample.set(file, good);
    }
    assert!(tally.shorter > 0 && tally.errors > 0, "{tally:?}");
    assert_eq!(tally.whole, 0, "each sector holds something that counts");
}

/// W5: the middle of the last segment goes bad; the commit after it had seen it synced.
#[test]
fn damage_before_a_synced_lsn_is_an_error_that_names_it() {
    let sample = Sample::new();
    let (file, range) = sample.place(&sample.written[2]);
    let mut bad = sample.files[file].clone();
    bad[range.start as usize] ^= 1;
    sample.set(file, &bad);
    let synced = sample.written[2].commit.point.lsn;
    assert_eq!(
        log_fault(read_all(&sample.disk)),
        LogFault::BeforeSynced { synced }
    );
}

/// A commit that was not known to be synced may be lost although a later one is there: a crash does
/// that, and nobody was told of either.
#[test]
fn damage_after_the_synced_lsn_is_the_end_of_the_log() {
    let sample = Sample::new();
    let (file, range) = sample.place(&sample.written[3]);
    let cut = sample.place(&sample.written[4]).1.end as usize;
    let mut bad = sample.files[file][..cut].to_vec();
    bad[range.start as usize] ^= 1;
    sample.set(file, &bad);
    assert_eq!(sample.check(file, range.start..u64::MAX), Some(3));
}

#[derive(Debug, Default)]
struct LargestRead(AtomicU64);

impl Watch for LargestRead {
    fn read(&self, bytes: usize, file_bytes: u64) {
        let bytes = bytes as u64;
        assert!(bytes <= file_bytes, "{bytes} bytes of {file_bytes}");
        self.0.fetch_max(bytes, Ordering::Relaxed);
    }
}

/// A length in a record is believed only as far as the file goes, so that it cannot ask for memory
/// that the file does not back.
#[test]
fn lying_lengths_read_no_more_than_the_file_has() {
    for lie in [4096u32, 1 << 20, 1 << 31, u32::MAX - 31, u32::MAX] {
        let sample = Sample::new();
        let (file, range) = sample.place(&sample.written[5]);
        let mut bad = sample.files[file].clone();
        let at = range.start as usize;
        bad[at + 4..at + 8].copy_from_slice(&lie.to_le_bytes());
        sample.set(file, &bad);
        let largest = Arc::new(LargestRead::default());
        let host = Host {
            disk: Arc::new(sample.disk.clone()),
            ..Host::simulated(1).host
        };
        let host = watched(&host, largest.clone());
        assert_eq!(commits(&*host.disk).len(), 5);
        assert!(largest.0.load(Ordering::Relaxed) >= RECORD_HEADER_BYTES as u64);
    }
}

/// A whole record of a kind that nobody knows was written by a later build: to pass over it could
/// lose what it says.
#[test]
fn record_of_an_unknown_kind_is_an_error() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    writer.commit(&[(3, 1)]).unwrap();
    let mut record = Vec::new();
    let (salt, end) = (writer.log.salt(), writer.log.end());
    push_record(&mut record, salt, end, RecordKind::PageSummary, &[1, 2, 3]);
    record[8] = 99;
    let mut sum = crc32fast::Hasher::new();
    sum.update(&salt.to_le_bytes());
    sum.update(&record[4..24]);
    sum.update(&[1, 2, 3]);
    record[..4].copy_from_slice(&sum.finalize().to_le_bytes());
    append(&writer.log, &record, []).unwrap();
    let fault = LogFault::Record {
        field: "kind",
        found: 99,
    };
    assert_eq!(log_fault(read_all(&machine.disk)), fault);
}
