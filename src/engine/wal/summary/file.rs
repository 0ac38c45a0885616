//! A summary file and its folder, as they are found.

#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::Path;

use crate::engine::wal::segment::CommitMark;
use crate::engine::wal::summary::format::{
    ENTRY_HEAD_BYTES, EntryHead, FILE_HEADER_BYTES, FileHeader, LogRange, sequence_of,
};
use crate::engine::wal::summary::runs::PageRuns;
use crate::engine::wal::window::Window;
use crate::os::{self, Disk, File};

/// A file that would be longer is followed by another.
pub(super) const FILE_BYTES_MAX: u64 = 4 << 20;
/// Heads of entries lie together when the entries are small.
const HEAD_WINDOW_BYTES: usize = 4096;

/// The numbers of the files in the folder, ascending; none where there is no folder.
///
/// Errors: the system's.
pub(super) fn sequences(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u64>> {
    let names = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names?,
    };
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| sequence_of(name)).collect();
    sequences.sort_unstable();
    Ok(sequences)
}

/// Where an entry is.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryPlace {
    head: EntryHead,
    payload_offset: u64,
}

impl EntryPlace {
    /// What the entry is about.
    pub(super) fn range(&self) -> LogRange {
        self.head.range
    }

    /// The pages of the entry, and the marks of commits; `None` if it is damaged. Errors: the system's.
    pub(super) fn read(&self, file: &dyn File) -> io::Result<Option<(PageRuns, Vec<CommitMark>)>> {
        let mut payload = vec![0; self.head.payload_bytes];
        let found = os::read_up_to(file, &mut payload, self.payload_offset)?;
        let payload = payload.get(..found).unwrap_or_default();
        Ok(self.head.decode_payload(payload))
    }
}

/// The header of a summary file, its entries, and where the last whole one ends; `None` if it is none.
///
/// Errors: the system's.
pub(super) fn entries_of(
    file: &dyn File,
) -> io::Result<Option<(FileHeader, Vec<EntryPlace>, u64)>> {
    let length = file.len()?;
    let mut window = Window::new(file, HEAD_WINDOW_BYTES);
    let header = window
        .get(0, FILE_HEADER_BYTES)?
        .and_then(FileHeader::decode);
    let Some(header) = header else {
        return Ok(None);
    };
    let (mut entries, mut at) = (Vec::new(), FILE_HEADER_BYTES as u64);
    while at < FILE_BYTES_MAX
        && let Some(head) = window
            .get(at, ENTRY_HEAD_BYTES)?
            .and_then(EntryHead::decode)
    {
        let end = at.saturating_add(head.framed_bytes());
        if end > length {
            break;
        }
        let payload_offset = at + ENTRY_HEAD_BYTES as u64;
        entries.push(EntryPlace {
            head,
            payload_offset,
        });
        at = end;
    }
    Ok(Some((header, entries, at)))
}
