//! Zeros past the end of the log, so that the sync of an append has neither a size nor a block to note.
//!
//! A sync of a file that grew is a commit of the file system's journal beside the data. So an append that
//! reaches past the end of its file has some more written: what follows then only replaces zeros.
//!
//! * W10 Nothing rests on what lies past the end of the log: reading ends at zeros as at the end of the file
//!   (W5). A segment has its exact length, durably, before the next one is made, and a failed append takes
//!   the zeros along (W1). An open cuts what it finds there. Where a header needs a log, a segment begins at the
//!   log start that it names.

use crate::os::{self, File};

/// The least and the most that is written ahead. The smaller the segment, the less: one that never
/// grows should stay small.
const BYTES_MIN: u64 = 16 << 10;
const BYTES_MAX: u64 = 1 << 20;
/// Written at a time, and where such a piece ends. The page cache takes what one call writes for one unit, and
/// looks at the whole of it whenever a part is synced.
const PIECE_BYTES: u64 = ZEROS.len() as u64;
static ZEROS: [u8; 16 << 10] = [0; 16 << 10];

/// Writes zeros from `end` on, where an append of `appended` bytes has just ended, if `file` ends there. Gives
/// how far the file reaches now: no more is tried before the log has come there.
///
/// That it cannot be done is no error: the log goes on growing with each append.
pub(super) fn write_ahead(file: &dyn File, end: u64, appended: u64, file_bytes: u64) -> u64 {
    if end <= file_bytes {
        return file_bytes;
    }
    let wanted = end.clamp(BYTES_MIN, BYTES_MAX);
    // A large one costs its own sync much more, and would replace them all.
    if appended > wanted / 4 {
        return end;
    }
    let until = (end + wanted).next_multiple_of(PIECE_BYTES);
    let mut at = end;
    while at < until {
        let bytes = PIECE_BYTES - at % PIECE_BYTES;
        let zeros = usize::try_from(bytes)
            .ok()
            .and_then(|bytes| ZEROS.get(..bytes));
        if os::write_all_at(file, zeros.unwrap_or_default(), at).is_err() {
            // Whoever needs the space for something else should have it.
            let _ = file.set_len(end);
            break;
        }
        at += bytes;
    }
    until
}
