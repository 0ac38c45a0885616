//! An append of any length, in pieces of bounded size.
//!
//! Its bytes lie past the end of the log until the last one is written, so whoever syncs or reads the
//! log meanwhile does not see them. Without its Commit record a part of a commit means nothing.

use std::sync::Arc;

use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::wal::log::{Log, Place};
use crate::engine::wal::record::{RecordKind, push_record};
use crate::engine::wal::segment::CommitMark;
use crate::lsn::Lsn;
use crate::os::{self, File};
use crate::page::PageNo;

/// What the page cache reads and writes at a time.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Bytes that gather before they are written.
const PIECE_BYTES: usize = 1 << 20;

/// Records on their way into the log. Dropped before [`Appending::finish`] returned, it takes back
/// what it wrote (W1). One at a time: the caller holds the lock of the order of commits.
#[derive(Debug)]
pub(crate) struct Appending<'a> {
    log: &'a Log,
    file: Arc<dyn File>,
    place: Place,
    /// Where the log will end.
    end: Lsn,
    piece: Vec<u8>,
    written: u64,
    is_finished: bool,
}

impl<'a> Appending<'a> {
    pub(super) fn new(log: &'a Log, file: Arc<dyn File>, place: Place, bytes: u64) -> Result<Self> {
        let end = place
            .start
            .checked_add(bytes)
            .ok_or(EngineError::Exhausted { what: "the log" })?;
        let piece_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok(Self {
            log,
            file,
            place,
            end,
            piece: Vec::with_capacity(piece_bytes.min(PIECE_BYTES + PIECE_BYTES / 8)),
            written: 0,
            is_finished: false,
        })
    }

    /// Where the log will end.
    pub(crate) fn end(&self) -> Lsn {
        self.end
    }

    /// Adds a record.
    ///
    /// Errors: `Io`; then nothing of the append stays.
    pub(crate) fn push(&mut self, kind: RecordKind, payload: &[u8]) -> Result<()> {
        let at = Lsn(self.place.start.0 + self.written + self.piece.len() as u64);
        push_record(&mut self.piece, self.place.salt, at, kind, payload);
        if self.piece.len() < PIECE_BYTES {
            return Ok(());
        }
        self.write_piece()
    }

    /// Adds bytes that are records already.
    #[cfg(test)]
    pub(super) fn push_framed(&mut self, records: &[u8]) {
        self.piece.extend_from_slice(records);
    }

    pub(super) fn write_piece(&mut self) -> Result<()> {
        let offset = self.place.offset + self.written;
        // Counted first: a part of it may be written when it fails.
        self.written += self.piece.len() as u64;
        let padding = padding(self.place.offset + self.written, self.place.stale_bytes);
        self.piece.resize(self.piece.len() + padding, 0);
        let written = os::write_all_at(&*self.file, &self.piece, offset);
        written.map_err(|source| {
            EngineError::io_at("append to", FileRole::WalSegment, self.log.tail_path())(source)
        })?;
        self.piece.clear();
        Ok(())
    }

    /// Makes it a part of the log, which it gives the new end of. The records touch `pages`, and are a
    /// commit of that wall clock.
    ///
    /// Errors: `Io`; then nothing of it stays.
    pub(crate) fn finish(
        mut self,
        pages: impl IntoIterator<Item = PageNo>,
        wall_ns: u64,
    ) -> Result<Lsn> {
        self.write_piece()?;
        debug_assert_eq!(self.place.start.0 + self.written, self.end.0);
        let end = self.place.offset + self.written;
        let file_bytes = self
            .log
            .write_ahead(&*self.file, end, self.written, self.place);
        let mark = CommitMark {
            lsn: self.end,
            wall_ns,
        };
        self.log.advance(self.place, mark, file_bytes, pages);
        self.is_finished = true;
        Ok(self.end)
    }
}

/// Zeros to write behind what ends at `end`: a block of an older segment is overwritten as a whole, since the
/// kernel would read the rest of it first. What follows replaces them.
pub(super) fn padding(end: u64, stale_bytes: u64) -> usize {
    let until = end.next_multiple_of(BLOCK_BYTES as u64).min(stale_bytes);
    usize::try_from(until.saturating_sub(end)).unwrap_or_default()
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.log.take_back(self.place.offset, self.written);
        }
    }
}
