//! Whether somebody commits, told from outside by one look at the log.

use std::path::Path;

use crate::os::{self, Disk, OpenMode};

const PIECE_BYTES: u64 = 64 << 10;

/// A number that every commit into the log in `log_dir` changes, and nothing else does but a checkpoint; `None`
/// where it cannot be looked at.
///
/// Cost: reads the zeros that lie past the end of the log (W10), at most about 1 MiB.
pub fn write_mark(disk: &dyn Disk, log_dir: &Path) -> Option<u64> {
    let newest = disk.list(log_dir).ok()?.pop()?;
    let segment = disk.open(&log_dir.join(&newest), OpenMode::Read).ok()?;
    let mut piece = vec![0; usize::try_from(PIECE_BYTES).ok()?];
    let mut end = segment.len().ok()?;
    while end > 0 {
        let start = end.saturating_sub(PIECE_BYTES);
        let piece = piece.get_mut(..usize::try_from(end - start).ok()?)?;
        let found = os::read_up_to(&*segment, piece, start).ok()?;
        let last = piece.get(..found)?.iter().rposition(|byte| *byte != 0);
        if let Some(last) = last {
            end = start + last as u64 + 1;
            break;
        }
        end = start;
    }
    let name = u64::from(crc32fast::hash(newest.as_encoded_bytes()));
    Some(name << 32 ^ end)
}
