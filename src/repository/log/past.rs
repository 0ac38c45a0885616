//! Whether a log goes on from what is archived of it (LA9).
//!
//! An incarnation has one log, as long as nobody puts a machine back with its memory, or runs two of them from
//! one state. Then the same incarnation writes other records at LSNs that are archived already, of which none
//! must follow those: so the last archived bytes are compared with the log before anything is appended. What
//! tells two pasts apart are their commits, each with its wall clock to the nanosecond: where none is in what
//! can be compared, the directory is asked for the last archived one (W9), and if it does not know that one, the
//! log is of another past.

use crate::engine::{LogSegment, LogSegmentHeader, commit_at, whole_log_records};
use crate::lsn::Lsn;
use crate::os::Host;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log::holdings::Holdings;
use crate::repository::log::name::{Generation, LineId, LogName};
use crate::repository::log::piece::{CommitStamp, Piece, PieceFacts, read_facts, read_piece};

/// So many bytes before an LSN are compared.
const TAIL_BYTES: u64 = 64 << 10;
/// So many pieces are looked at for a commit that both pasts have.
const PIECES_MAX: usize = 256;

/// The last bytes that are archived before an LSN.
#[derive(Debug)]
pub(super) struct Tail {
    end: Lsn,
    bytes: Vec<u8>,
    /// The last commit in them.
    last_commit: Option<Lsn>,
    /// Whether the directory knows the commit before them.
    is_known: bool,
}

impl Tail {
    /// Of `records`, which end at `end`, and whose last commit ends at `last_commit`.
    pub(super) fn of(records: &[u8], end: Lsn, last_commit: Option<Lsn>) -> Self {
        let count = usize::try_from(TAIL_BYTES).unwrap_or(usize::MAX);
        let from = records.len().saturating_sub(count);
        let bytes = records.get(from..).unwrap_or_default().to_vec();
        Self {
            end,
            bytes,
            last_commit,
            is_known: false,
        }
    }
}

/// What an incarnation has on disk where the archive has its own.
#[derive(Debug)]
pub(super) struct Overlap<'a> {
    segment: &'a LogSegment,
    /// Both have something right before it.
    at: Lsn,
}

impl<'a> Overlap<'a> {
    /// Of the newest incarnation in the archive, if `segments` have anything of that.
    pub(super) fn find(holdings: &Holdings, segments: &'a [LogSegment]) -> Option<Self> {
        let epoch = holdings.newest_epoch()?;
        let at = |segment: &LogSegment| segment.end.min(holdings.position);
        let mut segments = segments.iter().rev();
        let segment =
            segments.find(|one| one.header.epoch == epoch && one.header.start < at(one))?;
        Some(Self {
            segment,
            at: at(segment),
        })
    }

    /// Whether both have the same. `tail` is what was compared last, or what was archived last.
    ///
    /// Errors: `Log`; `Missing`, `Io` and `Store` of the repository.
    pub(super) fn is_same(
        &self,
        witness: &Witness<'_>,
        tail: &mut Option<Tail>,
    ) -> Result<bool, OverlapError> {
        if tail.as_ref().is_none_or(|tail| tail.end != self.at) {
            *tail = witness.before(self.at).map_err(OverlapError::Archive)?;
        }
        if let Some(tail) = tail {
            let there = self.at.0.saturating_sub(self.segment.header.start.0);
            let count = there.min(tail.bytes.len() as u64);
            let from = Lsn(self.at.0.saturating_sub(count));
            let disk = &*witness.host.disk;
            let on_disk = self.segment.read_bytes(disk, from, self.at);
            if !tail.bytes.ends_with(&on_disk.map_err(OverlapError::Log)?) {
                return Ok(false);
            }
            if tail.is_known || tail.last_commit.is_some_and(|commit| commit > from) {
                return Ok(true);
            }
        }
        let is_known = witness.knows_last_before(self.at)?;
        if let Some(tail) = tail {
            tail.is_known = is_known;
        }
        Ok(is_known)
    }
}

/// Which side cannot be read.
#[derive(Debug)]
pub(super) enum OverlapError {
    /// The log.
    Log(crate::engine::error::EngineError),
    /// The archive.
    Archive(RepositoryError),
}

/// What the directory says of commits that are archived.
#[derive(Clone, Copy)]
pub(super) struct Witness<'a> {
    pub(super) repository: &'a Repository,
    pub(super) host: &'a Host,
    pub(super) dir: &'a std::path::Path,
    pub(super) line: LineId,
    pub(super) holdings: &'a Holdings,
}

impl Witness<'_> {
    /// Whether the past of the directory has the last commit before `at` of the newest generation in the archive:
    /// so if there is none.
    pub(super) fn knows_last_before(&self, at: Lsn) -> Result<bool, OverlapError> {
        match self.commits_before(at, 1) {
            Ok((commits, is_whole)) => match commits.first() {
                Some(commit) => self.knows(commit),
                None => Ok(is_whole),
            },
            Err(error) => Err(OverlapError::Archive(error)),
        }
    }

    /// Up to where the newest generation in the archive is of the past of the directory for sure, at most up to
    /// `at`; that if all of it is.
    pub(super) fn known_before(&self, at: Lsn) -> Result<Option<Lsn>, OverlapError> {
        let commits = self.commits_before(at, PIECES_MAX);
        let (commits, is_whole) = commits.map_err(OverlapError::Archive)?;
        if commits.is_empty() {
            return Ok(is_whole.then_some(at));
        }
        for (place, commit) in commits.iter().enumerate() {
            if self.knows(commit)? {
                return Ok(Some(if place == 0 && is_whole {
                    at
                } else {
                    commit.lsn
                }));
            }
        }
        Ok(None)
    }

    fn knows(&self, commit: &CommitStamp) -> Result<bool, OverlapError> {
        let whose = (self.line.database, self.line.history);
        let found = commit_at(&*self.host.disk, self.dir, whose, commit.lsn);
        let found = found.map_err(OverlapError::Log)?;
        Ok(self
            .holdings
            .newest_epoch()
            .is_some_and(|epoch| found == Some((epoch, commit.wall_ns))))
    }

    /// The last commit of each of the newest `count` pieces of the newest generation that have one before `at`,
    /// newest first; and whether nothing could not be read after the first of those.
    fn commits_before(&self, at: Lsn, count: usize) -> Result<(Vec<CommitStamp>, bool)> {
        let (mut found, mut is_whole): (Vec<CommitStamp>, bool) = (Vec::new(), true);
        let of_newest =
            |name: &&LogName| Some(name.generation) == self.holdings.newest() && name.first < at;
        let mut names: Vec<&LogName> = self.holdings.names().filter(of_newest).collect();
        names.sort_by_key(|name| std::cmp::Reverse((name.end, name.first)));
        for name in names {
            if found.len() >= count {
                break;
            }
            let commit = match readable(read_facts(self.repository, name))? {
                Some(facts) => self.last_commit(&facts, at)?,
                None => Err(()),
            };
            match commit {
                Ok(commit) => found.extend(commit),
                Err(()) => is_whole &= !found.is_empty(),
            }
        }
        Ok((found, is_whole))
    }

    /// The last commit before `at` in a piece, if there is one; `Err` inside if it cannot be read.
    fn last_commit(&self, facts: &PieceFacts, at: Lsn) -> Result<Result<Option<CommitStamp>, ()>> {
        let is_before = |one: &CommitStamp| one.lsn <= at;
        if facts.last_commit.as_ref().is_none_or(is_before) {
            return Ok(Ok(facts.last_commit));
        }
        if !facts.first_commit.as_ref().is_some_and(is_before) {
            return Ok(Ok(None));
        }
        let piece = readable(read_piece(self.repository, facts))?;
        let last = piece.and_then(|piece| last_commit_of(&piece, at)).ok_or(());
        Ok(last.map(Some))
    }

    /// The archived bytes before `at`; `None` if nothing there can be read, which a verification tells of.
    fn before(&self, at: Lsn) -> Result<Option<Tail>> {
        let Some(facts) = self.holdings.piece_before(self.repository, at)? else {
            return Ok(None);
        };
        let Some(piece) = readable(read_piece(self.repository, &facts))? else {
            return Ok(None);
        };
        let count = usize::try_from(at.0.saturating_sub(facts.first.0)).unwrap_or(usize::MAX);
        let last = match facts.last_commit {
            Some(last) if last.lsn > at => last_commit_of(&piece, at),
            last => last,
        };
        let records = piece.records.get(..count);
        Ok(records.map(|records| Tail::of(records, at, last.map(|last| last.lsn))))
    }
}

/// `None` for what is damaged. Errors: `Missing`, `Io`, and those of the store.
fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error @ (RepositoryError::Missing { .. } | RepositoryError::Io { .. })) => Err(error),
        Err(error) => {
            let error = error.of_object()?;
            tracing::warn!(%error, "a piece of the log is lost");
            Ok(None)
        }
    }
}

/// The last commit in `piece` that ends at `at` or before.
fn last_commit_of(piece: &Piece, at: Lsn) -> Option<CommitStamp> {
    let header = LogSegmentHeader::decode(&piece.segment)?.ok()?;
    let first = piece.facts.first;
    let (_, commits) = whole_log_records(&header, first, &piece.records, usize::MAX);
    let mut commits = commits.iter().rev().map(CommitStamp::of);
    commits.find(|commit| commit.lsn <= at)
}

/// Where what does not count any more begins: see the caller.
pub(super) fn given_up_from(
    witness: &Witness<'_>,
    cursor: Option<Lsn>,
    newest: Generation,
    first: Lsn,
) -> Result<Lsn, OverlapError> {
    let holdings = witness.holdings;
    let (begun, of_all) = holdings.begun(newest);
    let (begun, of_all) = (begun.unwrap_or(first), of_all.unwrap_or(first));
    let known = witness.known_before(first)?;
    // The cursor is of this past, but what it was of may be another generation than the newest.
    let told = match holdings.is_only_of_its_epoch(newest) {
        true => cursor.unwrap_or(Lsn::ZERO),
        false => cursor.unwrap_or(Lsn::ZERO).min(begun),
    };
    // What is before the first piece of that incarnation is of an older one, which nobody gave up.
    Ok(told.max(known.unwrap_or(Lsn::ZERO)).max(of_all))
}
