//! The wal-index (`-shm`): read by pread, and one thing written, a read mark under its lock.
//!
//! Never mapped: a file that somebody cuts would kill us. On a local Linux file system pread and pwrite
//! see and change the same page cache as the mappings of the application. What a pread sees while
//! somebody stores may be torn, hence every number that counts is read again under a lock that keeps it
//! still, or is compared with a second reading.

use std::io;
use std::sync::Arc;

use crate::os::range_lock::{try_lock, unlock};
use crate::os::{File, LockKind, read_up_to, write_all_at};
use crate::source::sqlite::format::{
    self, CheckpointState, INDEX_HEADER_BYTES, INDEX_START_BYTES, IndexHeader, MARK_COUNT, Salts,
};
use crate::source::sqlite::lock_bytes::{WRITE, read_mark};
use crate::source::sqlite::page_index::PageIndexBuilder;

/// Whether marks can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IndexAccess {
    /// They can.
    Write,
    /// This user, or this mount, may only read.
    ReadOnly,
}

/// See the head of the file. Any number of threads may read it.
#[derive(Debug)]
pub(super) struct IndexFile {
    pub(super) file: Arc<dyn File>,
    pub(super) access: IndexAccess,
}

/// The first header as it stands there, to be compared.
pub(super) type RawHeader = [u8; INDEX_HEADER_BYTES];

/// The start of an index, at one moment as far as nobody stored meanwhile.
#[derive(Debug)]
pub(super) struct IndexStart {
    /// The first header.
    pub(super) raw: RawHeader,
    /// The same understood, if both copies are whole and equal.
    pub(super) header: Option<IndexHeader>,
    /// The rest.
    pub(super) state: CheckpointState,
}

/// A mark that a pin holds shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeldMark {
    /// Which.
    pub(super) slot: usize,
    /// What it says: no frame after it gets into the database file.
    pub(super) frame: u32,
}

/// What came of the attempt to lock a mark.
#[derive(Debug)]
pub(super) enum MarkAttempt {
    /// It is held.
    Held(HeldMark),
    /// Others were faster: try again.
    Again,
    /// No mark says little enough, and none can be written.
    NotWritable,
}

impl IndexStart {
    /// The salts, whether the header is whole or being written.
    pub(super) fn salts(&self) -> Salts {
        self.raw
            .get(32..)
            .and_then(<[u8]>::first_chunk)
            .copied()
            .unwrap_or_default()
    }
}

impl IndexFile {
    /// The start of the index; `None` if the file is shorter. Errors: the system's.
    pub(super) fn start(&self) -> io::Result<Option<IndexStart>> {
        let mut bytes = [0; INDEX_START_BYTES];
        if read_up_to(&*self.file, &mut bytes, 0)? < bytes.len() {
            return Ok(None);
        }
        let parsed = (bytes.first_chunk(), CheckpointState::parse(&bytes));
        let (Some(raw), Some(state)) = parsed else {
            return Ok(None);
        };
        Ok(Some(IndexStart {
            raw: *raw,
            header: IndexHeader::parse(&bytes),
            state,
        }))
    }

    /// Locks the mark that is the closest to `frame_count` and not above it, and writes it first where
    /// none is equal and one is free. In SQLite's order (`walTryBeginRead`).
    ///
    /// Errors: the system's; nothing is then locked.
    pub(super) fn lock_mark(
        &self,
        marks: [u32; MARK_COUNT],
        frame_count: u32,
    ) -> io::Result<MarkAttempt> {
        let usable = marks.into_iter().enumerate().skip(1);
        let usable = usable.filter(|(_, mark)| *mark <= frame_count);
        let best = usable.max_by_key(|(slot, mark)| (*mark, *slot));
        if best.is_none_or(|(_, mark)| mark < frame_count) && self.access == IndexAccess::Write {
            for slot in 1..MARK_COUNT {
                if let Some(mark) = self.write_mark(slot, frame_count)? {
                    return Ok(MarkAttempt::Held(mark));
                }
            }
        }
        let Some((slot, frame)) = best else {
            return Ok(match self.access {
                IndexAccess::Write => MarkAttempt::Again,
                IndexAccess::ReadOnly => MarkAttempt::NotWritable,
            });
        };
        if try_lock(&*self.file, LockKind::Shared, read_mark(slot))? {
            Ok(MarkAttempt::Held(HeldMark { slot, frame }))
        } else {
            Ok(MarkAttempt::Again)
        }
    }

    /// The only write into a file of the application. From exclusive to shared in one step: nobody can
    /// change the mark between.
    fn write_mark(&self, slot: usize, frame: u32) -> io::Result<Option<HeldMark>> {
        if !try_lock(&*self.file, LockKind::Exclusive, read_mark(slot))? {
            return Ok(None);
        }
        let bytes = format::mark_bytes(frame);
        let written = write_all_at(&*self.file, &bytes, format::mark_offset(slot))
            .and_then(|()| try_lock(&*self.file, LockKind::Shared, read_mark(slot)));
        match written {
            Ok(true) => Ok(Some(HeldMark { slot, frame })),
            failed => {
                self.unlock_mark(slot)?;
                failed.map(|_| None)
            }
        }
    }

    pub(super) fn unlock_mark(&self, slot: usize) -> io::Result<()> {
        unlock(&*self.file, read_mark(slot))
    }

    /// Whether somebody is in a write transaction. Errors: the system's.
    pub(super) fn is_being_written(&self) -> io::Result<bool> {
        let found = crate::os::range_lock::obstacle(&*self.file, LockKind::Shared, WRITE)?;
        Ok(found.is_some())
    }

    /// Puts the pages of frames `first..=last` into `builder`. `false` if the file ends before, or if
    /// there is a frame of no page.
    ///
    /// Memory: by the pages that the file really names, whatever it says. Errors: the system's.
    pub(super) fn collect(
        &self,
        first: u32,
        last: u32,
        builder: &mut PageIndexBuilder,
    ) -> io::Result<bool> {
        let mut next = first;
        let mut bytes = vec![0; 4 * 4096];
        while next <= last {
            let (range, count) = format::page_number_bytes(next, last);
            let wanted = usize::try_from(range.end - range.start).unwrap_or(0);
            let Some(part) = bytes.get_mut(..wanted).filter(|part| !part.is_empty()) else {
                return Ok(false);
            };
            if read_up_to(&*self.file, part, range.start)? < wanted {
                return Ok(false);
            }
            for (frame, page) in (next..).zip(format::page_numbers(part)) {
                if !builder.push(page, frame) {
                    return Ok(false);
                }
            }
            builder.trim();
            next = match next.checked_add(count) {
                Some(next) => next,
                None => break,
            };
        }
        Ok(true)
    }
}
