//! A pin of a database in WAL mode: a read mark in its wal-index, and the merged read under it.
//!
//! Runs in the daemon that mounts. The application is unmodified and knows nothing of us: what keeps its
//! files still are the locks that any reader of SQLite holds, taken by hand (`wal_prepared.rs`).
//!
//! ```text
//! page --index--> frame in -wal, up to the pinned commit     (READ(1) to READ(4): a mark)
//!      --else---> database file                              (READ(0): always, the log is not read)
//! ```
//!
//! * Q1 SHARED on the database file is held from before its header is read until the pin is let go: no
//!   application leaves WAL mode meanwhile, writes in rollback mode, or deletes -wal and -shm as the last
//!   that closes them.
//! * Q2 The dead man's switch is held shared: nobody makes the wal-index anew.
//! * Q3 READ(i), i > 0, is held shared, and its mark is at most the pinned frame count: no checkpoint
//!   writes a frame after the mark into the database file, and nobody starts the log anew. Whatever page a
//!   checkpoint may write has its newest frame at or before the mark: it is in our index, or it is in the
//!   database file already and is written with the very bytes that are there. So no page that we take
//!   from the database file changes, and none is read torn.
//! * Q4 READ(0) is held shared, and under it the whole log was found to be in the database file and the
//!   header unchanged: no checkpoint writes the database file at all. The log may be started anew, and so
//!   is never read.
//! * Q5 The frame count is that of the header, not that of the mark, which may say less.
//! * Q6 Everybody who opens the database by its name finds our -wal and -shm, or else the pin has ended:
//!   whoever makes others does not see our locks. Of another name, a hard link, nothing is known: who
//!   opens it by that does not see the locks of the application either, and writes over it as over us.
//! * Q7 No lock of ours belongs to the process, only to open files of this pin alone: closing any other
//!   descriptor lets none go, neither of ours nor, since SQLite is never used in this process on a source,
//!   of an application's.
//! * Q8 Nothing is ever written but the four bytes of a mark, under its exclusive lock.
//! * Q9 The bytes of a read count only if the last look, which comes after them, finds that Q2 to Q6 still
//!   stand as far as files can tell: somebody may ignore locks. Whoever overwrites the database file in
//!   place while a mark is held is seen by what he does to the log or its index, and by the head of the
//!   file, unless its page is in the log: nothing tells his writing elsewhere from a checkpoint's.
//! * Q10 On read-only media nobody writes, and no lock is needed: the log is read by its checksums, and
//!   the last look finds times and sizes as they were.
//!
//! An application is held up by a pin in three ways only: checkpoints FULL, RESTART and TRUNCATE wait for
//! it as for any reader; the log grows meanwhile; and nobody leaves WAL mode or takes the database for
//! himself (`locking_mode=EXCLUSIVE`) until it is let go.
//!
//! Nothing here waits: a read costs its preads and, for the look, three `fstatat` and two preads.
//! Not here: when a pin is let go and what replaces it (`view.rs`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::fault::{self, Fault};
use crate::os::path::Metadata;
use crate::os::range_lock::unlock;
use crate::os::{File, read_up_to};
use crate::page::{PageFault, PageNo};
use crate::source::sqlite::PinnedLog;
use crate::source::sqlite::extent::Extent;
use crate::source::sqlite::format::{
    DATABASE_HEADER_BYTES, FRAME_HEADER_BYTES, FrameHeader, Salts, frame_offset,
};
use crate::source::sqlite::live_files::{LiveFiles, NamesSeen, facts};
use crate::source::sqlite::lock_bytes::{self, DEAD_MAN};
use crate::source::sqlite::page_index::{Logged, PageIndex};
use crate::source::sqlite::wal_index::HeldMark;
use crate::view::tree::{EndSeen, ReadError};

/// What errors call the files.
pub(super) const DATABASE: &str = "the database file";
const LOG: &str = "the -wal file";
const INDEX: &str = "the -shm file";
/// Frames that follow each other are read in one go up to this many bytes.
const FRAMES_BYTES_MAX: u64 = 1 << 20;

/// Pages of a pinned database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes of a page; 0 if the database is empty, or encrypted and never written since it was opened.
    pub(super) page_bytes: u64,
    /// Pages; 0 where the size of a page is 0.
    pub(super) page_count: u64,
    /// Size of the view in bytes.
    pub(super) bytes: u64,
}

/// What a pin keeps the application from reusing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldWal {
    /// Bytes of log in use at this moment.
    pub(super) bytes: u64,
    /// Bytes of log in use at the pin.
    pub(super) bytes_at_pin: u64,
}

/// What keeps the files still.
#[derive(Debug)]
pub(super) enum Hold {
    /// A read lock of SQLite.
    Locks(LiveFiles, ReadLock),
    /// Q10. The facts are those of the log, if there is one.
    Media(Option<Metadata>),
}

/// A read lock of SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadLock {
    /// Q3.
    Mark(HeldMark),
    /// Q4.
    WholeFile,
}

impl ReadLock {
    /// The lock's number.
    pub(super) fn slot(self) -> usize {
        match self {
            Self::Mark(mark) => mark.slot,
            Self::WholeFile => 0,
        }
    }
}

/// The first bytes of a database file: its header with the change counter.
pub(super) type Head = [u8; DATABASE_HEADER_BYTES];

/// What a pin is made of; see `wal_prepared.rs`.
#[derive(Debug)]
pub(super) struct WalPinParts {
    pub(super) hold: Hold,
    pub(super) database: Arc<dyn File>,
    /// Needed where the index is not empty.
    pub(super) log: Option<Arc<dyn File>>,
    pub(super) salts: Salts,
    pub(super) frame_count: u32,
    pub(super) extent: Extent,
    pub(super) index: PageIndex,
    pub(super) database_facts: Metadata,
    /// The first bytes of the database file, where no checkpoint may change them.
    pub(super) head: Option<Head>,
    pub(super) changed_ns: u64,
}

/// A pin of a database in WAL mode. Any number of threads may read it.
#[derive(Debug)]
pub(in crate::source) struct WalPin {
    parts: WalPinParts,
    is_let_go: AtomicBool,
}

/// Why a read has to be made again.
#[derive(Debug)]
enum Failure {
    /// Bytes that nobody who heeds locks could have left.
    Foreign,
    /// Anything else.
    Read(ReadError),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl WalPin {
    pub(super) fn new(parts: WalPinParts) -> Self {
        let is_let_go = AtomicBool::new(false);
        Self { parts, is_let_go }
    }

    /// What it shows.
    pub(super) fn shape(&self) -> Shape {
        self.parts.extent.shape
    }

    /// Nanoseconds since 1970 of the last change at or before the pin.
    pub(super) fn changed_ns(&self) -> u64 {
        self.parts.changed_ns
    }

    /// Where the pinned state ends in the log; `None` where nothing was committed since it was emptied.
    pub(super) fn log(&self) -> Option<PinnedLog> {
        let (salts, frame_count) = (self.parts.salts, self.parts.frame_count);
        (frame_count > 0).then_some(PinnedLog { salts, frame_count })
    }

    /// Whether the log is read at all, or the database file is the whole of it.
    pub(super) fn reads_log(&self) -> bool {
        !self.parts.index.all().is_empty()
    }

    /// The database file: what it has of pages that are not in the log is of the pin while that holds.
    pub(super) fn database(&self) -> &Arc<dyn File> {
        &self.parts.database
    }

    /// The pages (0-based, in order) that must not be read from the database file.
    pub(super) fn logged_pages(&self) -> impl Iterator<Item = u64> {
        let logged = self.parts.index.all().iter();
        logged.map(|entry| u64::from(entry.page) - 1)
    }

    /// Fills all of `out` from `offset`, and looks whether that counts. Gives the pages that came from
    /// the log. Errors: any [`ReadError`].
    pub(super) fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<u64, ReadError> {
        let size = self.parts.extent.shape.bytes;
        let bytes = out.len() as u64;
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(ReadError::Range {
                offset,
                bytes,
                size,
            });
        }
        let read = match self.read_once(offset, out) {
            Err(_) => self.read_once(offset, out),
            read => read,
        };
        // Q9. What comes of an end is told as an end.
        self.look()?;
        read.map_err(|failure| match failure {
            Failure::Foreign => ended(EndSeen::LockIgnored),
            Failure::Read(error) => error,
        })
    }

    fn read_once(&self, offset: u64, out: &mut [u8]) -> Result<u64, Failure> {
        let page_bytes = self.parts.extent.shape.page_bytes;
        let mut scratch = Vec::new();
        let mut from_log = 0;
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let page = at.checked_div(page_bytes).unwrap_or(0) + 1;
            let logged = self.parts.index.from(page);
            let end = at + rest.len() as u64;
            let bytes = match logged.first() {
                Some(entry) if u64::from(entry.page) == page => {
                    let run = run_of(logged, page_bytes, end);
                    from_log += run.len() as u64;
                    self.read_frames(run, at, rest, &mut scratch)?
                }
                next => {
                    let next = next.map(|entry| (u64::from(entry.page) - 1) * page_bytes);
                    let bytes = next.unwrap_or(end).min(end) - at;
                    let part = split(rest, bytes);
                    self.read_database(at, part)?;
                    bytes
                }
            };
            at += bytes;
            rest = rest.get_mut(to_usize(bytes)..).unwrap_or_default();
        }
        Ok(from_log)
    }

    /// Q3, Q4: these bytes do not change.
    fn read_database(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let wanted = out.len();
        let found = read_up_to(&*self.parts.database, out, at);
        let found = found.map_err(io_error("read", DATABASE, at))?;
        if found == wanted {
            return Ok(());
        }
        let missing_at = at + found as u64;
        if missing_at < self.parts.extent.file_bytes {
            let page = missing_at.checked_div(self.parts.extent.shape.page_bytes);
            return Err(ReadError::Page {
                file: DATABASE,
                page: PageNo(page.unwrap_or(0)),
                fault: PageFault::Short { found },
            });
        }
        out.get_mut(found..).unwrap_or_default().fill(0);
        Ok(())
    }

    /// Reads frames that follow each other, of pages that do, and gives how many bytes of `out` that
    /// fills. Each must say that it is the frame that it must be.
    fn read_frames(
        &self,
        run: &[Logged],
        at: u64,
        out: &mut [u8],
        scratch: &mut Vec<u8>,
    ) -> Result<u64, Failure> {
        let page_bytes = self.parts.extent.shape.page_bytes;
        let frame_bytes = to_usize(page_bytes) + FRAME_HEADER_BYTES;
        let (Some(first), Some(log)) = (run.first(), &self.parts.log) else {
            return Err(Failure::Foreign);
        };
        scratch.resize(frame_bytes * run.len(), 0);
        let start = frame_offset(first.frame, page_bytes);
        let found = read_up_to(&**log, scratch, start);
        let found = found.map_err(io_error("read", LOG, start))?;
        if found < scratch.len() {
            return Err(Failure::Foreign);
        }
        let mut skip = to_usize(at % page_bytes);
        let mut done = 0;
        for (frame, entry) in scratch.chunks_exact(frame_bytes).zip(run) {
            let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
            let is_right = FrameHeader::parse(head)
                .is_some_and(|head| head.page == entry.page && head.salts == self.parts.salts);
            if !is_right && !fault::is(Fault::SqliteChecksOff) {
                return Err(Failure::Foreign);
            }
            let page = page.get(skip..).unwrap_or_default();
            let rest = out.get_mut(done..).unwrap_or_default();
            let count = page.len().min(rest.len());
            rest[..count].copy_from_slice(&page[..count]);
            done += count;
            skip = 0;
        }
        Ok(done as u64)
    }

    /// Whether the pin holds (Q9). Errors: any [`ReadError`].
    pub(super) fn look(&self) -> Result<(), ReadError> {
        if self.is_let_go.load(Ordering::SeqCst) {
            return Err(ended(EndSeen::Released));
        }
        if fault::is(Fault::SqliteChecksOff) {
            return Ok(());
        }
        let is_heeded = match &self.parts.hold {
            Hold::Locks(files, lock) => {
                let names = files.look_at_names();
                if names.map_err(io_error("look at", DATABASE, 0))? == NamesSeen::Parted {
                    return Err(ended(EndSeen::SidecarRemoved));
                }
                match lock {
                    ReadLock::Mark(mark) => {
                        self.is_mark_heeded(files, *mark)? && self.is_head_the_same()?
                    }
                    ReadLock::WholeFile => self.is_database_untouched()?,
                }
            }
            Hold::Media(log_facts) => {
                self.is_database_untouched()? && self.is_log_untouched(log_facts.as_ref())?
            }
        };
        if is_heeded {
            Ok(())
        } else {
            Err(ended(EndSeen::LockIgnored))
        }
    }

    /// A page that the log lacks is written by no checkpoint, and what is put in the place of a database
    /// seldom begins with the same header.
    fn is_head_the_same(&self) -> Result<bool, ReadError> {
        let Some(head) = &self.parts.head else {
            return Ok(true);
        };
        Ok(head_of(&*self.parts.database)?.as_ref() == Some(head))
    }

    /// While the mark is locked, it stays, nothing after it is backfilled, and the salts stay. Both copies
    /// of the header need not be equal: somebody may be writing them.
    fn is_mark_heeded(&self, files: &LiveFiles, mark: HeldMark) -> Result<bool, ReadError> {
        let start = files.index.start();
        let start = start.map_err(io_error("read", INDEX, 0))?;
        Ok(start.is_some_and(|start| {
            start.state.marks.get(mark.slot) == Some(&mark.frame)
                && start.state.backfilled <= mark.frame
                && start.salts() == self.parts.salts
        }))
    }

    /// Where nobody may write the file, whoever did takes no notice of locks.
    fn is_database_untouched(&self) -> Result<bool, ReadError> {
        let found = facts(&*self.parts.database);
        let found = found.map_err(io_error("look at", DATABASE, 0))?;
        Ok(is_untouched(&found, &self.parts.database_facts))
    }

    fn is_log_untouched(&self, then: Option<&Metadata>) -> Result<bool, ReadError> {
        let Some((log, then)) = self.parts.log.as_ref().zip(then) else {
            return Ok(true);
        };
        let found = facts(&**log).map_err(io_error("look at", LOG, 0))?;
        Ok(is_untouched(&found, then))
    }

    /// What the pin keeps from being reused. Errors: the system's.
    pub(super) fn held(&self) -> io::Result<HeldWal> {
        let page_bytes = self.parts.extent.shape.page_bytes;
        let bytes_of = |frame_count: u32| match frame_count {
            0 => 0,
            count => frame_offset(count, page_bytes)
                .saturating_add(FRAME_HEADER_BYTES as u64 + page_bytes),
        };
        let bytes_at_pin = bytes_of(self.parts.frame_count);
        let Hold::Locks(files, _) = &self.parts.hold else {
            let bytes = bytes_at_pin;
            return Ok(HeldWal {
                bytes,
                bytes_at_pin,
            });
        };
        let size = facts(&*files.log)?.size;
        let now = files.index.start()?.and_then(|start| start.header);
        Ok(HeldWal {
            // Without a whole header it is being written this moment.
            bytes: now.map_or(size, |now| bytes_of(now.frame_count).min(size)),
            bytes_at_pin,
        })
    }

    /// Lets every lock go. The caller has seen to it that no read counts any more that is not over.
    pub(super) fn let_go(&self) {
        if self.is_let_go.swap(true, Ordering::SeqCst) {
            return;
        }
        let Hold::Locks(files, lock) = &self.parts.hold else {
            return;
        };
        let results = [
            files.index.unlock_mark(lock.slot()),
            unlock(&*files.index.file, DEAD_MAN),
            lock_bytes::drop_shared(&*files.database),
        ];
        for error in results.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "a lock goes with its file only");
        }
    }
}

/// The head of a database file; `None` if it is shorter. Errors: `Io`.
pub(super) fn head_of(database: &dyn File) -> Result<Option<Head>, ReadError> {
    let mut head = [0; DATABASE_HEADER_BYTES];
    let found = read_up_to(database, &mut head, 0).map_err(io_error("read", DATABASE, 0))?;
    Ok((found == head.len()).then_some(head))
}

/// The entries from the first on whose pages and frames follow each other, as far as `end` reaches.
fn run_of(logged: &[Logged], page_bytes: u64, end: u64) -> &[Logged] {
    let most = to_usize(FRAMES_BYTES_MAX / (page_bytes + FRAME_HEADER_BYTES as u64)).max(1);
    let mut count = 0;
    let mut before: Option<Logged> = None;
    for entry in logged.iter().take(most) {
        let follows = before.is_none_or(|before| {
            before.page + 1 == entry.page && before.frame.checked_add(1) == Some(entry.frame)
        });
        if !follows || (u64::from(entry.page) - 1) * page_bytes >= end {
            break;
        }
        before = Some(*entry);
        count += 1;
    }
    logged.get(..count).unwrap_or_default()
}

fn is_untouched(found: &Metadata, then: &Metadata) -> bool {
    (found.mtime_ns, found.size) == (then.mtime_ns, then.size)
}

fn split(out: &mut [u8], bytes: u64) -> &mut [u8] {
    out.get_mut(..to_usize(bytes)).unwrap_or_default()
}

/// Of numbers that count bytes in memory.
fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn ended(reason: EndSeen) -> ReadError {
    ReadError::PinEnded { reason }
}

fn io_error(
    op: &'static str,
    file: &'static str,
    offset: u64,
) -> impl FnOnce(io::Error) -> ReadError {
    move |source| ReadError::Io {
        op,
        file,
        offset,
        source,
    }
}
