//! Whether somebody commits, told from outside by one look at the log.

#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::Path;

use crate::engine::wal::record::{RECORD_HEADER_BYTES, RecordHead};
use crate::engine::wal::segment::{
    SECTOR, SEGMENT_HEADER_BYTES, SegmentHeader, sequence_of_segment,
};
use crate::lsn::Lsn;
use crate::os::{self, Disk, File, OpenMode};

/// Longer than any record: of so many bytes of the log, one at least begins in them.
const PIECE_BYTES: u64 = 128 << 10;

/// A number that every commit into the log in `log_dir` changes, and nothing else does but a checkpoint; `None`
/// where it cannot be looked at.
///
/// Cost: what lies past the end of the log (W10, W11) is told from it by its LSNs: about ten reads of 128 KiB.
pub fn write_mark(disk: &dyn Disk, log_dir: &Path) -> Option<u64> {
    let names = disk.list(log_dir).ok()?;
    let is_segment = |name: &&std::ffi::OsString| sequence_of_segment(name).is_some();
    let newest = names.iter().rfind(is_segment)?;
    let segment = disk.open(&log_dir.join(newest), OpenMode::Read).ok()?;
    let mut head = [0; SECTOR];
    let found = os::read_up_to(&*segment, &mut head, 0).ok()?;
    let header = SegmentHeader::decode(head.get(..found)?)?.ok()?;
    let end = last_record(&*segment, header.start).ok()?;
    let name = u64::from(crc32fast::hash(newest.as_encoded_bytes()));
    Some(name << 32 ^ end)
}

/// Where the last record of the segment is; 0 if there is none.
fn last_record(file: &dyn File, start: Lsn) -> io::Result<u64> {
    let pieces = file.len()?.div_ceil(PIECE_BYTES);
    // Those before `low` have records, those from `high` on have none.
    let (mut low, mut high, mut last) = (0, pieces, 0);
    while low < high {
        let piece = low + (high - low) / 2;
        match last_in(file, start, piece * PIECE_BYTES)? {
            Some(found) => (low, last) = (piece + 1, found),
            None => high = piece,
        }
    }
    Ok(last)
}

/// The last place in a piece where something says that it is the record of that place.
fn last_in(file: &dyn File, start: Lsn, from: u64) -> io::Result<Option<u64>> {
    let length = usize::try_from(PIECE_BYTES).unwrap_or_default() + RECORD_HEADER_BYTES - 8;
    let mut bytes = vec![0; length];
    let found = os::read_up_to(file, &mut bytes, from)?;
    let bytes = bytes.get(..found).unwrap_or_default();
    let steps = (0..found).step_by(8).rev();
    let mut places = steps.map(|step| (step, from + step as u64));
    let is_record = |(step, place): &(usize, u64)| {
        let lsn = place
            .checked_sub(SEGMENT_HEADER_BYTES)
            .and_then(|into| start.0.checked_add(into));
        lsn.is_some() && lsn == RecordHead::lsn_in(bytes, *step)
    };
    Ok(places.find(is_record).map(|(_, place)| place))
}
