//! A database in WAL mode on the way to its pin: the locks of a reader of SQLite, taken by hand.
//!
//! In the order of SQLite's own reader (`unixOpenSharedMemory`, `walTryBeginRead`): SHARED, the dead
//! man's switch, then in one attempt header, mark, lock, backfill count, header again. The invariants are
//! at the head of `wal_pin.rs`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::fault::{self, Fault};
use crate::os::path::Metadata;
use crate::os::range_lock::{try_lock, unlock};
use crate::os::{Host, LockKind, file_times, read_up_to};
use crate::source::SourceError;
use crate::source::sqlite::Unpinnable;
use crate::source::sqlite::change_time::{FileTimes, LogSeen, StateName, changed_ns};
use crate::source::sqlite::extent::Extent;
use crate::source::sqlite::format::{
    FRAME_HEADER_BYTES, FrameHeader, IndexHeader, WAL_HEADER_BYTES, WalHeader, frame_offset,
};
use crate::source::sqlite::live_files::{LiveFiles, NamesSeen, facts};
use crate::source::sqlite::lock_bytes::{BackOff, WRITE, holder, read_mark};
use crate::source::sqlite::page_index::{PageIndex, PageIndexBuilder};
use crate::source::sqlite::wal_index::{IndexAccess, IndexStart, MarkAttempt};
use crate::source::sqlite::wal_pin::{Hold, ReadLock, WalPin, WalPinParts, head_of};

/// How long a mark is tried for. What stands in the way lasts microseconds, unless a process that has a
/// lock is not run.
const PIN_PATIENCE: Duration = Duration::from_secs(2);
/// After so many looks at a header that is not whole, with pauses of milliseconds, its writer is dead.
const BAD_HEADERS_MAX: u32 = 50;
/// How often the log is tried to be found at rest, for the sake of its time of change only.
const REST_TRIES: u32 = 3;

/// See the head of the file. Dropping it lets every lock go.
#[derive(Debug)]
pub(super) struct WalPrepared {
    host: Host,
    path: PathBuf,
    files: LiveFiles,
    pinned: Option<Pinned>,
    has_stopped_writers: bool,
}

/// What a successful attempt leaves.
#[derive(Debug)]
struct Pinned {
    lock: ReadLock,
    header: IndexHeader,
    first_frame: u32,
    changed: Metadata,
    seen: LogSeen,
    database_facts: Metadata,
    /// The wall clock before the facts were looked at.
    wall_ns: u64,
    at: Duration,
}

/// What came of one attempt.
enum Attempt {
    Pinned(Box<Pinned>),
    /// Something changed meanwhile, or a lock was taken.
    Again,
    /// The header is being written, or whoever wrote it died.
    BadHeader,
    NotWritable,
}

impl WalPrepared {
    /// Shape: SHARED and the dead man's switch are held.
    pub(super) fn new(host: &Host, path: &Path, files: LiveFiles) -> Self {
        Self {
            host: host.clone(),
            path: path.to_owned(),
            files,
            pinned: None,
            has_stopped_writers: false,
        }
    }

    fn refused(&self, reason: Unpinnable) -> SourceError {
        let path = self.path.clone();
        SourceError::Sqlite { path, reason }
    }

    fn io(&self, op: &'static str) -> impl FnOnce(io::Error) -> SourceError {
        SourceError::io(op, &self.path)
    }

    /// Keeps every writer from committing, at once or not at all: whoever waited for one with others of a
    /// set stopped would wait for somebody who waits for those.
    ///
    /// Errors: `Sqlite` (`Writing`, `IndexNotWritable`); `Io`.
    pub(super) fn stop_writers(&mut self) -> Result<(), SourceError> {
        let index = &self.files.index;
        if index.access == IndexAccess::ReadOnly {
            return Err(self.refused(Unpinnable::IndexNotWritable));
        }
        let mut back_off = BackOff::new(&*self.host.clock, Duration::ZERO);
        let file = &*index.file;
        while !try_lock(file, LockKind::Exclusive, WRITE).map_err(self.io("lock the -shm of"))? {
            let by = holder(file, LockKind::Exclusive, WRITE);
            let by = by.map_err(self.io("look at the locks of"))?;
            if let (false, Some(by)) = (back_off.pause(), by) {
                return Err(self.refused(Unpinnable::Writing { by }));
            }
        }
        self.has_stopped_writers = true;
        Ok(())
    }

    /// Whether writers are stopped at this moment.
    pub(super) fn has_stopped_writers(&self) -> bool {
        self.has_stopped_writers
    }

    /// Undoes `stop_writers`; no harm if there was none.
    pub(super) fn let_writers_go(&mut self) {
        self.has_stopped_writers = false;
        if let Err(error) = unlock(&*self.files.index.file, WRITE) {
            tracing::warn!(%error, "the WRITE lock goes with its file only");
        }
    }

    /// Takes the pin.
    ///
    /// Errors: `Sqlite` (`NoMark`, `IndexNotWritable`; `NeedsRecovery` where a writer died in the middle
    /// of the header); `Io`.
    pub(super) fn pin(&mut self) -> Result<(), SourceError> {
        if self.pinned.is_none() {
            self.pinned = Some(self.take_pin()?);
        }
        Ok(())
    }

    fn take_pin(&self) -> Result<Pinned, SourceError> {
        let mut back_off = BackOff::new(&*self.host.clock, PIN_PATIENCE);
        let (mut tries, mut bad_headers) = (0, 0);
        let mut last_look = self.read_log_facts()?;
        loop {
            tries += 1;
            match self.attempt(&last_look).map_err(self.io("pin"))? {
                Attempt::Pinned(pinned) if pinned.seen == LogSeen::Busy && tries < REST_TRIES => {
                    self.unlock(pinned.lock).map_err(self.io("unlock"))?;
                }
                Attempt::Pinned(pinned) => {
                    if fault::is(Fault::SqliteMarkDropped) {
                        self.unlock(pinned.lock).map_err(self.io("unlock"))?;
                    }
                    return Ok(*pinned);
                }
                Attempt::NotWritable => return Err(self.refused(Unpinnable::IndexNotWritable)),
                Attempt::Again => {
                    bad_headers = 0;
                    if !back_off.pause() {
                        return Err(self.refused(Unpinnable::NoMark));
                    }
                }
                Attempt::BadHeader => {
                    bad_headers += 1;
                    if !back_off.pause() || bad_headers > BAD_HEADERS_MAX {
                        return Err(self.refused(Unpinnable::NeedsRecovery));
                    }
                }
            }
            last_look = self.read_log_facts()?;
        }
    }

    fn read_log_facts(&self) -> Result<Metadata, SourceError> {
        facts(&*self.files.log).map_err(self.io("look at the -wal of"))
    }

    fn unlock(&self, lock: ReadLock) -> io::Result<()> {
        self.files.index.unlock_mark(lock.slot())
    }

    /// One attempt, in SQLite's order; nothing is locked unless it succeeds.
    fn attempt(&self, log_before: &Metadata) -> io::Result<Attempt> {
        let index = &self.files.index;
        let Some(start) = index.start()? else {
            return Ok(Attempt::BadHeader);
        };
        let Some(header) = start.header else {
            return Ok(Attempt::BadHeader);
        };
        if start.state.backfilled == header.frame_count
            && try_lock(&*index.file, LockKind::Shared, read_mark(0))?
        {
            let is_busy = index.is_being_written()?;
            return self.settle(ReadLock::WholeFile, &start, header, log_before, is_busy);
        }
        if header.frame_count == 0 {
            // The first frame of an empty log may bring other salts, by which a mark would seem to be
            // ignored. Who has READ(0) to himself has it for moments.
            return Ok(Attempt::Again);
        }
        let mark = match index.lock_mark(start.state.marks, header.frame_count)? {
            MarkAttempt::Held(mark) => mark,
            MarkAttempt::Again => return Ok(Attempt::Again),
            MarkAttempt::NotWritable => return Ok(Attempt::NotWritable),
        };
        let is_busy = index.is_being_written()?;
        self.settle(ReadLock::Mark(mark), &start, header, log_before, is_busy)
    }

    /// The locks are held: is all as it was when they were chosen? If not, they are let go.
    fn settle(
        &self,
        lock: ReadLock,
        start: &IndexStart,
        header: IndexHeader,
        log_before: &Metadata,
        is_busy: bool,
    ) -> io::Result<Attempt> {
        let settled = self.look_again(lock, start, header);
        let Ok(Some(first_frame)) = settled else {
            self.unlock(lock)?;
            return settled.map(|_| Attempt::Again);
        };
        let wall_ns = self.host.clock.wall_ns();
        let log = facts(&*self.files.log)?;
        let database_facts = facts(&*self.files.database)?;
        let is_at_rest = !is_busy && log.mtime_ns == log_before.mtime_ns;
        let (changed, seen) = match header.frame_count {
            // The log has nothing of this state, and the file stays as it is.
            0 => (database_facts, LogSeen::AtRest),
            _ if is_at_rest => (log, LogSeen::AtRest),
            _ => (*log_before, LogSeen::Busy),
        };
        Ok(Attempt::Pinned(Box::new(Pinned {
            lock,
            header,
            first_frame,
            changed,
            seen,
            database_facts,
            wall_ns,
            at: self.host.clock.monotonic(),
        })))
    }

    /// The first frame that may not be in the database file; `None` if something has changed.
    ///
    /// The backfill count is taken before the header is compared: whoever set it did not know of a later
    /// header, so the count is of frames of this state. It only grows while the mark is locked (but for a
    /// recovery, which sets it to 0), and a smaller count is right as well, so of two readings, of which
    /// one may be torn, the smaller counts.
    fn look_again(
        &self,
        lock: ReadLock,
        start: &IndexStart,
        header: IndexHeader,
    ) -> io::Result<Option<u32>> {
        let index = &self.files.index;
        let (Some(counted), Some(again)) = (index.start()?, index.start()?) else {
            return Ok(None);
        };
        let backfilled = counted.state.backfilled.min(again.state.backfilled);
        let is_kept = match lock {
            // Nobody can backfill any more, so that is what it was when the lock was had.
            ReadLock::WholeFile => backfilled == header.frame_count,
            ReadLock::Mark(mark) => {
                again.state.marks.get(mark.slot) == Some(&mark.frame)
                    && backfilled <= mark.frame
                    && mark.frame <= header.frame_count
            }
        };
        let is_same = again.raw == start.raw;
        Ok((is_kept && is_same).then_some(backfilled.saturating_add(1)))
    }

    /// Makes the view's source of the pin.
    ///
    /// Errors: `Sqlite` (`Damaged`, `Replaced`); `Io`. Everything is then let go.
    pub(super) fn finish(mut self) -> Result<(WalPin, Duration), SourceError> {
        let pinned = match self.pinned.take() {
            Some(pinned) => pinned,
            None => self.take_pin()?,
        };
        let names = self.files.look_at_names();
        if names.map_err(self.io("look at"))? == NamesSeen::Parted {
            return Err(self.refused(Unpinnable::Replaced));
        }
        let index = self.build_index(&pinned)?;
        let extent = self.measure(&pinned, &index)?;
        let times = if file_times::are_fine(&self.path) {
            FileTimes::Fine
        } else {
            FileTimes::Coarse
        };
        let Pinned {
            header,
            changed,
            seen,
            wall_ns,
            ..
        } = &pinned;
        // Read under the mark, and only where nobody may write it.
        let head = match index.from(1).first() {
            Some(entry) if entry.page == 1 => None,
            _ => head_of(&*self.files.database)?,
        };
        let pin = WalPin::new(WalPinParts {
            head,
            changed_ns: changed_ns(changed, *seen, times, *wall_ns, StateName::of(header)),
            salts: header.salts,
            frame_count: header.frame_count,
            database_facts: pinned.database_facts,
            database: Arc::clone(&self.files.database),
            log: Some(Arc::clone(&self.files.log)),
            hold: Hold::Locks(self.files, pinned.lock),
            extent,
            index,
        });
        Ok((pin, pinned.at))
    }

    fn build_index(&self, pinned: &Pinned) -> Result<PageIndex, SourceError> {
        let Pinned {
            lock,
            header,
            first_frame,
            ..
        } = pinned;
        let (first, last) = match lock {
            ReadLock::WholeFile if fault::is(Fault::SqliteLogUnderReadZero) => {
                (1, header.frame_count)
            }
            // Q4: the log may be another one by now.
            ReadLock::WholeFile => return Ok(PageIndex::default()),
            ReadLock::Mark(_) => (*first_frame, header.frame_count),
        };
        if last == 0 || first > last {
            return Ok(PageIndex::default());
        }
        if !fault::is(Fault::SqliteChecksOff) {
            self.check_log(header)?;
        }
        let last = last - u32::from(fault::is(Fault::SqliteFrameShort));
        let mut builder = PageIndexBuilder::default();
        let collected = self.files.index.collect(first, last, &mut builder);
        if !collected.map_err(self.io("read the -shm of"))? {
            return Err(self.damaged("its -shm file lacks pages of its -wal file"));
        }
        let frames = builder.len();
        Ok(builder.finish(frames, header.page_count))
    }

    fn damaged(&self, what: &'static str) -> SourceError {
        self.refused(Unpinnable::Damaged { what })
    }

    /// The log is the one that the index is of, and its last frame is the pinned commit.
    fn check_log(&self, header: &IndexHeader) -> Result<(), SourceError> {
        let log = &*self.files.log;
        let mut bytes = [0; WAL_HEADER_BYTES];
        read_up_to(log, &mut bytes, 0).map_err(self.io("read the -wal of"))?;
        let is_same = WalHeader::parse(&bytes).is_some_and(|found| {
            found.salts == header.salts && Some(found.page_bytes) == header.page_bytes
        });
        if !is_same {
            return Err(self.damaged("its -wal file is not the one that its -shm file is of"));
        }
        let page_bytes = header.page_bytes.unwrap_or(0);
        let end = frame_offset(header.frame_count, page_bytes)
            .saturating_add(FRAME_HEADER_BYTES as u64 + page_bytes);
        if log.len().map_err(self.io("look at the -wal of"))? < end {
            return Err(self.damaged("its -wal file is shorter than its -shm file says"));
        }
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let last = header.frame_count - u32::from(fault::is(Fault::SqliteFrameShort));
        let at = frame_offset(last, page_bytes);
        read_up_to(log, &mut bytes, at).map_err(self.io("read the -wal of"))?;
        let is_commit = FrameHeader::parse(&bytes).is_some_and(|frame| {
            frame.commit_pages == header.page_count
                && frame.salts == header.salts
                && frame.checksum == header.frame_checksum
        });
        if is_commit {
            Ok(())
        } else {
            Err(self.damaged("the last frame of its -wal file is not the commit of its -shm file"))
        }
    }

    /// What the view shows, and how long the database file must be for it.
    fn measure(&self, pinned: &Pinned, index: &PageIndex) -> Result<Extent, SourceError> {
        let IndexHeader {
            page_bytes,
            page_count,
            ..
        } = pinned.header;
        let database = &*self.files.database;
        let Some(page_bytes) = page_bytes.filter(|_| page_count > 0) else {
            // Nothing was committed since the log was empty: the file is all there is, and is frozen.
            let extent = Extent::of_file(database, pinned.database_facts.size, page_bytes);
            return extent.map_err(self.io("read"));
        };
        let extent = Extent::of_pages(page_bytes, page_count, index);
        if database.len().map_err(self.io("look at"))? < extent.file_bytes {
            return Err(self.damaged("the file is shorter than the database"));
        }
        Ok(extent)
    }
}
