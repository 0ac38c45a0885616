//! Replay: from a page file at one commit to a later commit, by pieces of a log that were kept elsewhere.
//!
//! Runs in the process that restores; no engine, no thread of its own.
//!
//! ```text
//! piece --LogPart::check, any thread--> part --Replay::apply, in order--> cache --by page number--> page file
//!                                        |
//!                                        +-- a commit that no part has whole: carried, in a scratch file if large
//! ```
//!
//! * RP1 Nothing of a record is used before its checksum, made with the salt of its segment, and its LSN
//!   are right, and the segment is of this database, history and page size. No claim of a record decides
//!   how much is allocated.
//! * RP2 The number of each commit follows that of the one before, and its wall clock is later. LSNs are left
//!   out only before the start of a segment, which no commit spans: whatever is missing there, no commit is.
//!   Where the log has the commit that is gone on from, it is the same in all that a Commit record says.
//! * RP3 Nothing of a commit gets into the page file before its Commit record was read and is not after the
//!   target; a delta is applied only to the page that it was made from, and gives the page that was committed.
//! * RP4 The result is made known by its headers last of all, when all its pages are synced and, unless told
//!   otherwise, read back: it is to the byte the view of that commit, clean, so that no log goes beyond it.
//!   Until then the page file is nothing, and must be made anew.
//! * RP5 The target counts as reached only if a commit at it or after it was seen.
//!
//! Memory: the cache, one entry per page that was written, a part, and what is carried.
//! Not here: where pieces come from, and which are needed (`repository`).

mod carry;
mod page_cache;
mod part;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, FileRole, LogFault, Result};
use crate::engine::header::{self, Header, HeaderState};
use crate::engine::wal::{CommitRecord, RecordKind, SegmentHeader};
use crate::id::HistoryId;
use crate::lsn::{Lsn, Timestamp};
use crate::os::{self, File};
use crate::page::PageNo;

use carry::Carry;
use page_cache::PageCache;
pub use part::LogPart;

/// Where a replay stops: at the last commit that is not after this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayTarget {
    /// A position in the log.
    Lsn(Lsn),
    /// The number of a commit.
    Timestamp(Timestamp),
    /// A wall clock, nanoseconds since 1970.
    Wall(u64),
}

impl ReplayTarget {
    /// Where a commit with these numbers lies, seen from the target.
    #[must_use]
    pub fn place_of(self, timestamp: Timestamp, wall_ns: u64, lsn: Lsn) -> Ordering {
        match self {
            Self::Lsn(target) => lsn.cmp(&target),
            Self::Timestamp(target) => timestamp.cmp(&target),
            Self::Wall(target) => wall_ns.cmp(&target),
        }
    }

    fn place(self, point: CommitPoint) -> Ordering {
        self.place_of(point.timestamp, point.wall_ns, point.lsn)
    }
}

/// Whether more of the log is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The target may be further on.
    More,
    /// No later part changes anything.
    Reached,
}

/// Whether pages are read again from the disk before the result counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Every page that was written.
    ReadBack,
    /// None.
    Trust,
}

/// What a replay may use.
#[derive(Clone, Copy)]
pub struct ReplayRoom<'a> {
    /// Bytes of pages in memory that are not written yet.
    pub cache_bytes: u64,
    /// Gives an empty file for what does not fit into memory; called at most once.
    pub scratch: &'a dyn Fn() -> io::Result<Arc<dyn File>>,
}

impl std::fmt::Debug for ReplayRoom<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplayRoom")
            .field("cache_bytes", &self.cache_bytes)
            .finish_non_exhaustive()
    }
}

/// What a replay came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The commit that the page file holds.
    pub point: CommitPoint,
    /// Commits that were applied.
    pub commits: u64,
    /// Pages that were written, each counted once.
    pub pages: u64,
}

/// A page file on its way.
#[derive(Debug)]
pub struct Replay<'a> {
    file: &'a dyn File,
    path: &'a Path,
    /// As the page file had it in the beginning.
    base: Header,
    target: ReplayTarget,
    /// The newest commit that was applied.
    point: CommitPoint,
    /// Everything before this was dealt with.
    next: Lsn,
    /// Whose commit that was, if any was applied.
    history: Option<HistoryId>,
    /// Of the segment that the carried records are from.
    carried_from: Option<SegmentHeader>,
    carry: Carry<'a>,
    pages: PageCache<'a>,
    commits: u64,
    reach: Reach,
}

impl<'a> Replay<'a> {
    /// Goes on from the page file `file`, which needs no log and on which nobody works; `path` is for
    /// messages. From here on to the end of [`Replay::finish`] the file is nobody's database.
    ///
    /// Errors: `Log` if the file needs a log, or is after the target; `Header`, `FutureVersion`, `Io`.
    pub fn begin(
        file: &'a dyn File,
        path: &'a Path,
        target: ReplayTarget,
        room: ReplayRoom<'a>,
    ) -> Result<Self> {
        let base = header::read(file, path)?;
        let refused = |fault| EngineError::Log {
            segment: path.to_owned(),
            at: base.point.lsn,
            fault,
        };
        if base.state != HeaderState::Clean {
            let wanted = base.log_start;
            return Err(refused(LogFault::Missing { wanted }));
        }
        let reach = match target.place(base.point) {
            Ordering::Less => Reach::More,
            Ordering::Equal => Reach::Reached,
            Ordering::Greater => {
                let nearest = base.point.timestamp;
                return Err(refused(LogFault::Outside { nearest }));
            }
        };
        Ok(Self {
            file,
            path,
            target,
            point: base.point,
            next: base.point.lsn,
            history: None,
            carried_from: None,
            carry: Carry::new(room.scratch),
            pages: PageCache::new(file, path, &base, room.cache_bytes),
            commits: 0,
            reach,
            base,
        })
    }

    /// Whether more of the log is needed.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Applies what `part`, of the log of `history`, has before `until` and after what was applied. Parts
    /// come in the order of the log; what they have twice is passed over.
    ///
    /// Errors: `ForeignLog`, `Log`, `Io`; then the page file must be made anew.
    pub fn apply(&mut self, part: &LogPart, history: HistoryId, until: Lsn) -> Result<Reach> {
        if self.reach == Reach::Reached {
            return Ok(self.reach);
        }
        self.admit(part, history)?;
        let mut begun = None;
        for index in 0..part.count() {
            let Some(record) = part.record(index).filter(|record| record.at < until) else {
                break;
            };
            let fault = |fault| part.fault(record.at, fault);
            let cut = LogFault::Record {
                field: "end",
                found: record.end.0,
            };
            if record.at < self.next {
                if record.end > self.next {
                    return Err(fault(cut));
                }
                self.compare(part, &record)?;
                continue;
            }
            if record.end > until {
                return Err(fault(cut));
            }
            match record.kind {
                RecordKind::PageImage | RecordKind::PageDelta => {
                    begun.get_or_insert(index);
                }
                RecordKind::Commit => {
                    let commit = CommitRecord::decode(record.payload).map_err(fault)?;
                    let point = commit.point(record.end);
                    self.check_commit(part, point)?;
                    if self.target.place(point) == Ordering::Greater {
                        self.reach = Reach::Reached;
                        return Ok(self.reach);
                    }
                    self.commit(part, begun.take().unwrap_or(index)..index, point)?;
                    self.history = Some(history);
                }
                RecordKind::CheckpointBegin
                | RecordKind::CheckpointEnd
                | RecordKind::PageSummary => {}
            }
            self.next = record.end;
            if self.reach == Reach::Reached {
                return Ok(self.reach);
            }
        }
        self.carry_rest(part, begun, until)?;
        Ok(self.reach)
    }

    /// RP1, RP2.
    fn admit(&mut self, part: &LogPart, history: HistoryId) -> Result<()> {
        let header = part.header();
        let segment = || PathBuf::from(part.name());
        if header.database != self.base.database {
            let (expected, found) = (self.base.database, header.database);
            return Err(EngineError::foreign_database(segment(), expected, found));
        }
        if header.history != history {
            let found = header.history;
            return Err(EngineError::foreign_history(segment(), history, found));
        }
        if header.page_size != self.base.page_size.get() {
            let fault = LogFault::Record {
                field: "page size",
                found: u64::from(header.page_size),
            };
            return Err(part.fault(part.first(), fault));
        }
        if part.first() > self.next && part.first() != header.start {
            return Err(part.fault(self.next, LogFault::Gap { next: part.first() }));
        }
        if self
            .carried_from
            .as_ref()
            .is_some_and(|from| from != header)
        {
            // No commit spans segments: what has no end in its own never was one.
            self.carry.clear();
            self.carried_from = None;
        }
        Ok(())
    }

    /// RP2: the log that is gone on with is that of the commit that is gone on from.
    fn compare(&self, part: &LogPart, record: &part::PartRecord<'_>) -> Result<()> {
        if record.end != self.point.lsn {
            return Ok(());
        }
        let fault = |fault| part.fault(record.at, fault);
        if record.kind != RecordKind::Commit {
            // There the page file's own commit ends: this log has none, and is of another past.
            return Err(fault(LogFault::Record {
                field: "record, which is not the commit of the page file, up to",
                found: record.end.0,
            }));
        }
        let commit = CommitRecord::decode(record.payload).map_err(fault)?;
        match commit.point(record.end) == self.point {
            true => Ok(()),
            false => Err(fault(LogFault::Record {
                field: "commit, which is not the one of the page file:",
                found: commit.timestamp.0,
            })),
        }
    }

    /// RP2.
    fn check_commit(&self, part: &LogPart, point: CommitPoint) -> Result<()> {
        let follows = self.point.timestamp.next() == Some(point.timestamp);
        let wrong = match point.fault(self.base.page_size) {
            Some(wrong) => wrong,
            None if !follows => ("timestamp", point.timestamp.0),
            None if point.wall_ns <= self.point.wall_ns => ("wall clock", point.wall_ns),
            None if point.page_count < self.point.page_count => ("page count", point.page_count),
            None => return Ok(()),
        };
        let (field, found) = wrong;
        Err(part.fault(point.lsn, LogFault::Record { field, found }))
    }

    /// RP3: the records of one commit, those that were carried first.
    fn commit(
        &mut self,
        part: &LogPart,
        records: std::ops::Range<usize>,
        point: CommitPoint,
    ) -> Result<()> {
        let (pages, before) = (&mut self.pages, self.point);
        let mut put = |is_image, payload: &[u8]| {
            let fault = |fault| part.fault(point.lsn, fault);
            pages.put(is_image, payload, (before, point), &fault)
        };
        self.carry.drain(&mut put)?;
        for index in records {
            let Some(record) = part.record(index) else {
                break;
            };
            match record.kind {
                RecordKind::PageImage => put(true, record.payload)?,
                RecordKind::PageDelta => put(false, record.payload)?,
                _ => {}
            }
        }
        self.carried_from = None;
        self.point = point;
        self.commits += 1;
        if self.target.place(point) == Ordering::Equal {
            self.reach = Reach::Reached;
        }
        Ok(())
    }

    fn carry_rest(&mut self, part: &LogPart, begun: Option<usize>, until: Lsn) -> Result<()> {
        let Some(begun) = begun else { return Ok(()) };
        for index in begun..part.count() {
            let record = part.record(index).filter(|record| record.at < until);
            let Some(record) = record else { break };
            match record.kind {
                RecordKind::PageImage => self.carry.push(true, record.payload)?,
                RecordKind::PageDelta => self.carry.push(false, record.payload)?,
                _ => {}
            }
        }
        self.carried_from = Some(part.header().clone());
        Ok(())
    }

    /// Makes the page file the view of the commit that was reached (RP4).
    ///
    /// Errors: `Log` with `Outside` if the log ended before the target (RP5), or a page is of no commit;
    /// `Page` if the disk does not give back what was written; `Io`.
    pub fn finish(mut self, proof: Proof) -> Result<Replayed> {
        let refused = |fault| EngineError::Log {
            segment: self.path.to_owned(),
            at: self.point.lsn,
            fault,
        };
        if self.reach == Reach::More {
            let nearest = self.point.timestamp;
            return Err(refused(LogFault::Outside { nearest }));
        }
        if let Some(history) = self.history {
            self.pages.refuse_uncovered(self.point).map_err(refused)?;
            self.pages.flush()?;
            let failed = |op| EngineError::io_at(op, FileRole::PageFile, self.path);
            self.file.sync_data().map_err(failed("sync"))?;
            if proof == Proof::ReadBack {
                self.pages.read_back()?;
            }
            self.write_headers(history)?;
        }
        Ok(Replayed {
            point: self.point,
            commits: self.commits,
            pages: self.pages.written(),
        })
    }

    fn write_headers(&self, history: HistoryId) -> Result<()> {
        let failed = |op| EngineError::io_at(op, FileRole::PageFile, self.path);
        let of_commit = Header {
            history,
            fork: None,
            ..self.base.clone()
        };
        let view = of_commit.of_view(self.point);
        let page_bytes = u64::from(view.page_size.get());
        for copy in [PageNo(0), PageNo(1)] {
            let bytes = view.encode(copy);
            os::write_all_at(self.file, &bytes, copy.0 * page_bytes).map_err(failed("write"))?;
        }
        self.file
            .set_len(self.point.page_count.saturating_mul(page_bytes))
            .map_err(failed("size"))?;
        self.file.sync_data().map_err(failed("sync"))
    }
}
