//! The archiver: from the log of a directory to pieces, a step at a time.
//!
//! A step takes all that is durable, settles it, and tells the engine by the cursor. Interrupted anywhere,
//! the next one goes on from what the repository has.

mod put_back;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::error::{EngineError, LogFault};
use crate::engine::{ArchiveCursor, Fork, LogSegment, LogState};
use crate::id::Epoch;
use crate::lsn::Lsn;
use crate::os::Host;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log::catalog::LogGap;
use crate::repository::log::holdings::Holdings;
use crate::repository::log::leisure::Leisure;
use crate::repository::log::name::{Generation, LineId, LogName};
use crate::repository::log::past::Tail;
use crate::repository::log::piece::{CommitStamp, Draft, PIECE_BYTES, store_piece};
use crate::repository::progress::Control;
use crate::repository::store::{LineLock, Put};

/// The engine may remove a segment while the segments are looked at.
const TRIES: u32 = 5;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Archives the log of one directory.
#[derive(Debug)]
pub struct Archiver {
    repository: Repository,
    /// The machine of the directory.
    host: Host,
    dir: PathBuf,
    line: Option<Line>,
    leisure: Leisure,
    /// Gaps that were found in steps that failed afterwards: no report told of them.
    untold: Vec<LogGap>,
    /// And that the machine was put back.
    untold_put_back: Option<Lsn>,
}

/// The line that it is at.
#[derive(Debug)]
struct Line {
    id: LineId,
    fork: Option<Fork>,
    holdings: Holdings,
    /// What the cursor says.
    cursor: Lsn,
    /// What was archived or compared last.
    tail: Option<Tail>,
    lock: Box<dyn LineLock>,
}

/// What a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// The line.
    pub line: LineId,
    /// Everything before it is in the repository, durably, as far as it is not in a gap.
    pub archived: Lsn,
    /// Pieces that were stored.
    pub pieces: u64,
    /// Bytes of log in them.
    pub bytes: u64,
    /// Bytes that they take.
    pub bytes_stored: u64,
    /// Commits in them.
    pub commits: u64,
    /// The last of those.
    pub last_commit: Option<CommitStamp>,
    /// Log that was gone before it could be archived.
    pub gaps: Vec<LogGap>,
    /// The log is not what was archived of it, from this LSN on or later: the machine was put back with its memory.
    /// What was archived after that does not count any more (LA9).
    pub put_back: Option<Lsn>,
}

impl Archiver {
    /// Of the log in `dir` on `host`, into `repository`. Does nothing yet.
    #[must_use]
    pub fn new(host: &Host, dir: &Path, repository: Repository) -> Self {
        Self {
            repository,
            host: host.clone(),
            dir: dir.to_owned(),
            line: None,
            leisure: Leisure::new(host.clock.clone(), Duration::ZERO),
            untold: Vec::new(),
            untold_put_back: None,
        }
    }

    /// Stands back for those who commit: each step may rest for so long.
    #[must_use]
    pub fn with_leisure(mut self, time: Duration) -> Self {
        self.leisure = Leisure::new(self.host.clock.clone(), time);
        self
    }

    /// Goes on with another handle of the repository, from what that has: after trouble.
    pub fn reopen(&mut self, repository: Repository) {
        self.line = None;
        self.repository = repository;
    }

    /// Gaps that no report told of, because the step that found them failed: the next report does.
    #[must_use]
    pub fn untold(&self) -> &[LogGap] {
        &self.untold
    }

    /// That the machine was put back (see [`StepReport::put_back`]), as well.
    #[must_use]
    pub fn untold_put_back(&self) -> Option<Lsn> {
        self.untold_put_back
    }

    /// Archives everything that is durable according to `state`, which tells of its directory at this
    /// moment. Afterwards it is settled, and the engine knows (LA2).
    ///
    /// Errors: `LineLocked` if another one archives this line; `OtherCopy`, before the engine is told anything;
    /// `Log` for what cannot be read or is damaged;
    /// `NoSpace`, `Io`, `Cancelled`. It may be done again; what was archived stays.
    pub fn step(&mut self, state: &LogState, control: &Control) -> Result<StepReport> {
        self.leisure.begin();
        let mut line = self.take_line(state)?;
        let mut report = StepReport {
            line: line.id,
            archived: line.holdings.position,
            pieces: 0,
            bytes: 0,
            bytes_stored: 0,
            commits: 0,
            last_commit: None,
            gaps: std::mem::take(&mut self.untold),
            put_back: self.untold_put_back.take(),
        };
        let outcome = self.step_line(&mut line, state, &mut report, control);
        report.archived = line.holdings.position;
        match outcome {
            Ok(()) => {
                self.line = Some(line);
                Ok(report)
            }
            Err(error) => {
                self.untold = report.gaps;
                self.untold_put_back = report.put_back;
                Err(error)
            }
        }
    }

    fn step_line(
        &self,
        line: &mut Line,
        state: &LogState,
        report: &mut StepReport,
        control: &Control,
    ) -> Result<()> {
        let mut tries = 1;
        loop {
            match self.step_segments(line, state, report, control) {
                // The engine let a segment go meanwhile. What is left is looked at once more.
                Err(error) if is_gone(&error) && tries < TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    fn step_segments(
        &self,
        line: &mut Line,
        state: &LogState,
        report: &mut StepReport,
        control: &Control,
    ) -> Result<()> {
        let segments = self.segments(state)?;
        self.notice_put_back(line, &segments, report)?;
        self.refuse_other_copy(line, segments.last())?;
        for segment in segments.iter().filter(|segment| segment.has_records()) {
            if self.take_segment(line, segment, report, control)? {
                self.repository.store().settle()?;
                self.write_cursor(line, line.holdings.position.min(state.durable))?;
            }
            // At once: from here on the engine may remove it.
            match self.merge(line, segment) {
                Err(error) if is_gone(&error) => {}
                outcome => outcome?,
            }
        }
        if line.holdings.newest().is_none() {
            // Nothing is there yet. What comes is wanted from here on.
            line.holdings.position = line.holdings.position.max(state.durable);
        }
        // What is archived of a later end than this copy has is not of this copy.
        self.write_cursor(line, line.holdings.position.min(state.durable))
    }

    /// Two copies of a database have the same line: what one of them archived, the other one does not have.
    /// `last` is of the newest incarnation of this one. If that is not the newest in the archive, another copy
    /// is archived there, or a later state than the one that was put back here.
    fn refuse_other_copy(&self, line: &Line, last: Option<&LogSegment>) -> Result<()> {
        let known = last.and_then(|last| line.holdings.generation_of(last.header.epoch));
        match known.is_some() && known < line.holdings.newest() {
            true => Err(RepositoryError::OtherCopy {
                dir: self.dir.clone(),
            }),
            false => Ok(()),
        }
    }

    /// The line of `state`: the one at hand, or it is begun with (LA8).
    fn take_line(&mut self, state: &LogState) -> Result<Line> {
        let id = LineId {
            database: state.database,
            history: state.history,
        };
        if let Some(line) = self.line.take().filter(|line| line.id == id) {
            line.lock.confirm()?;
            // Whoever was put back with its memory does not know what it archived after that (LA9).
            let is_news = line.holdings.position < state.durable;
            if !is_news || !line.holdings.is_behind(&self.repository, id)? {
                return Ok(line);
            }
        }
        let store = self.repository.store();
        let lock = store.lock_line(&id.to_string())?;
        // What a killed one has stored may be seen and yet not be durable.
        store.settle()?;
        let mut holdings = Holdings::read(&self.repository, id)?;
        for name in holdings.redundant(&self.repository) {
            store.remove(&name.object())?;
            holdings.remove(&name);
        }
        let begun = ArchiveCursor::read(&self.host, &self.dir, self.repository.id());
        let begun = begun.filter(|one| (one.database, one.history) == (id.database, id.history));
        let begun = begun.map_or(Lsn::ZERO, |begun| begun.archived);
        if holdings.newest().is_none() {
            // Nothing was there to be archived, or all of it was pruned.
            holdings.position = begun;
        }
        let archived = begun.min(holdings.position);
        let mut line = Line {
            id,
            fork: state.fork,
            holdings,
            cursor: Lsn::MAX,
            tail: None,
            lock,
        };
        // Before the segments are looked at: from here on none goes unseen (LA3). It says no more than it
        // did: what the repository has may be of another copy.
        self.write_cursor(&mut line, archived)?;
        Ok(line)
    }

    fn segments(&self, state: &LogState) -> Result<Vec<LogSegment>> {
        let mut tries = 0;
        loop {
            tries += 1;
            match state.segments(&*self.host.disk, &self.dir) {
                // One was removed, or is being made: then half a header may be seen. Or the database is
                // exchanged for another one: then the archiver's line is not the one to go on with.
                Err(
                    EngineError::Io { .. }
                    | EngineError::Log { .. }
                    | EngineError::ForeignLog { .. },
                ) if tries < TRIES => self.host.clock.sleep(PAUSE),
                found => return found.map_err(self.log_error()),
            }
        }
    }

    fn log_error(&self) -> impl FnOnce(EngineError) -> RepositoryError {
        let dir = self.dir.clone();
        move |source| RepositoryError::Log { dir, source }
    }

    fn write_cursor(&self, line: &mut Line, archived: Lsn) -> Result<()> {
        if line.cursor == archived {
            return Ok(());
        }
        let cursor = ArchiveCursor {
            database: line.id.database,
            history: line.id.history,
            archived,
            wall_ns: self.host.clock.wall_ns(),
        };
        let written = cursor.write(&self.host, &self.dir, self.repository.id());
        written.map_err(self.log_error())?;
        line.cursor = cursor.archived;
        Ok(())
    }

    /// Stores what is new in `segment`; says whether there was something.
    fn take_segment(
        &self,
        line: &mut Line,
        segment: &LogSegment,
        report: &mut StepReport,
        control: &Control,
    ) -> Result<bool> {
        let Some(generation) = self.begin_segment(line, segment, report)? else {
            return Ok(false);
        };
        let mut at = line.holdings.position;
        while at < segment.end {
            control.refuse_if_cancelled()?;
            at = self.store(line, segment, generation, (at, segment.end), Some(report))?;
        }
        Ok(true)
    }

    /// Which generation the rest of `segment` is of, and `None` if there is no rest. Notes a gap before it
    /// (LA5), and lets the position go back where an incarnation began before it (LA6).
    fn begin_segment(
        &self,
        line: &mut Line,
        segment: &LogSegment,
        report: &mut StepReport,
    ) -> Result<Option<Generation>> {
        let (epoch, start) = (segment.header.epoch, segment.header.start);
        let newest = line.holdings.newest();
        let generation = match (newest, line.holdings.generation_of(epoch)) {
            (None, _) => Generation(1),
            (Some(newest), Some(known)) if known < newest => return Ok(None),
            (Some(_), Some(known)) => known,
            (Some(newest), None) if line.holdings.is_unnamed(newest) => newest,
            (Some(newest), None) => Generation(newest.0.saturating_add(1)),
        };
        let is_new = Some(generation) > newest;
        let position = line.holdings.position;
        // With nothing begun there is nothing to miss.
        let is_begun = newest.is_some() || position > Lsn::ZERO;
        if start > position && is_begun {
            let gap = LogGap {
                first: position,
                end: start,
                generation,
            };
            let name = gap_name(line.id, &gap);
            // First of all: should something fail now, the next step may find it known.
            let is_other = |one: &LogGap| (one.generation, one.first) != (generation, position);
            report.gaps.retain(is_other);
            report.gaps.push(gap);
            let store = self.repository.store();
            store.put(&name.object(), &[], Put::Replace)?;
            store.settle()?;
        }
        if is_new || start > position {
            line.holdings.reach(generation, start);
        }
        Ok((line.holdings.position < segment.end).then_some(generation))
    }

    /// Stores one piece of `segment`, from the first of the LSNs on and before the other; gives its end.
    fn store(
        &self,
        line: &mut Line,
        segment: &LogSegment,
        generation: Generation,
        (from, until): (Lsn, Lsn),
        report: Option<&mut StepReport>,
    ) -> Result<Lsn> {
        let bytes_max = PIECE_BYTES.min(until.0.saturating_sub(from.0));
        let records = segment.read(&*self.host.disk, from, bytes_max);
        let records = records.map_err(self.log_error())?;
        self.leisure.computed();
        let commits: Vec<CommitStamp> = records.commits.iter().map(CommitStamp::of).collect();
        let draft = Draft {
            line: line.id,
            fork: line.fork,
            generation,
            segment: &segment.header_bytes(),
            first: from,
            commits: &commits,
            records: &records.bytes,
        };
        let facts = store_piece(&self.repository, &draft, &self.leisure)?;
        line.holdings.add(&facts);
        let last = facts.last_commit.map(|last| last.lsn);
        line.tail = Some(Tail::of(&records.bytes, facts.end, last));
        if let Some(report) = report {
            report.pieces += 1;
            report.bytes += facts.bytes();
            report.bytes_stored += facts.object_bytes();
            report.commits += u64::from(facts.commit_count);
            report.last_commit = facts.last_commit.or(report.last_commit);
        }
        Ok(facts.end)
    }

    /// Makes one of small pieces of `segment`, settles it, and removes them (LA7).
    fn merge(&self, line: &mut Line, segment: &LogSegment) -> Result<()> {
        let Some(generation) = line.holdings.generation_of(segment.header.epoch) else {
            return Ok(());
        };
        let is_complete = segment.is_sealed;
        let run = line
            .holdings
            .small_run(generation, segment.header.start, is_complete);
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(());
        };
        let (mut at, end) = (first.first, last.end);
        if end > segment.end {
            return Ok(());
        }
        let mut made = Vec::new();
        while at < end {
            let next = self.store(line, segment, generation, (at, end), None)?;
            made.push((at, next));
            at = next;
        }
        let store = self.repository.store();
        store.settle()?;
        for name in run {
            if !made.contains(&(name.first, name.end)) {
                store.remove(&name.object())?;
                line.holdings.remove(&name);
            }
        }
        Ok(())
    }
}

fn gap_name(line: LineId, gap: &LogGap) -> LogName {
    LogName {
        line,
        generation: gap.generation,
        first: gap.first,
        end: gap.end,
        is_gap: true,
    }
}

/// Where the first of `segments` that is of `epoch` and has records starts.
fn first_of(segments: &[LogSegment], epoch: Epoch) -> Option<Lsn> {
    let is_of = |one: &&LogSegment| one.header.epoch == epoch && one.has_records();
    segments.iter().find(is_of).map(|first| first.header.start)
}

/// Whether a segment was removed before it was read, or there is another one of its name.
fn is_gone(error: &RepositoryError) -> bool {
    let RepositoryError::Log { source, .. } = error else {
        return false;
    };
    match source {
        EngineError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        EngineError::Log { fault, .. } => *fault == LogFault::SegmentHeader,
        _ => false,
    }
}
