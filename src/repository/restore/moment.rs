//! Which backup and which pieces of the log lead to a moment, and which moments are covered at all.
//!
//! ```text
//! history A   B----------*=====*==========*  - - -  *=====*        B: a backup, *: commits in the log
//! history B                    |  fork               ^ a gap before it: no way leads there from B
//!                              +--*====*=====*
//! ```
//!
//! The line of a history is its own commits after those of the histories that it goes on from, each up to its
//! fork. A moment is covered if a backup at or before it is on the line, and the log from there leads,
//! without a commit missing, to the moment or past it. All that is looked at here are names and heads; what
//! they say is checked while it is replayed.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use crate::engine::ReplayTarget;
use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::{Lsn, Timestamp};
use crate::repository::backup_id::BackupId;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::hex;
use crate::repository::log::{
    CommitStamp, CoveredRun, Generation, LineId, LogGap, LogLine, PieceFacts, PieceUse,
};
use crate::repository::manifest::BackupFacts;

#[cfg(test)]
mod tests;

/// Histories that one line goes through at most: a chain of them that has no end is a lie.
const FORKS_MAX: usize = 1000;
/// Ranges that a refusal names at most.
const RANGES_MAX: usize = 20;
/// What an archive of a line begins with.
const FIRST_GENERATION: Generation = Generation(1);

/// A backup that a replay can start from.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) backup: BackupId,
    pub(super) id: LineId,
    pub(super) commit: CommitStamp,
    /// The incarnation that wrote the commit, where that is known.
    pub(super) epoch: Option<Epoch>,
}

impl Base {
    /// `None` for a backup of anything else than one native database.
    pub(super) fn of(backup: &BackupId, facts: &BackupFacts) -> Option<Self> {
        let [database] = facts.databases.as_slice() else {
            return None;
        };
        if facts.source.kind != "stillfs" || database.kind != "stillfs" {
            return None;
        }
        Some(Self {
            backup: backup.clone(),
            id: LineId {
                database: DatabaseId(hex::decode(database.database.as_deref()?)?),
                history: HistoryId(hex::decode(database.history.as_deref()?)?),
            },
            commit: CommitStamp {
                timestamp: Timestamp(database.timestamp?),
                wall_ns: facts.moment_ns,
                lsn: Lsn(database.lsn?),
            },
            epoch: database.epoch.as_deref().and_then(epoch_of),
        })
    }
}

fn epoch_of(text: &str) -> Option<Epoch> {
    u64::from_str_radix(text, 16).ok().map(Epoch)
}

/// A piece of the log, and up to where it counts.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) facts: PieceFacts,
    pub(super) until: Lsn,
}

/// How a moment is reached.
#[derive(Clone, Debug)]
pub struct Way {
    /// The backup that it starts from.
    pub backup: BackupId,
    /// The history that has the moment, or goes on from it.
    pub history: HistoryId,
    pub(super) target: ReplayTarget,
    pub(super) steps: Vec<Step>,
}

impl Way {
    /// Bytes of log that are replayed at most.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        let bytes = |step: &Step| step.until.0.saturating_sub(step.facts.first.0);
        self.steps.iter().map(bytes).sum()
    }
}

/// Moments without a hole between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoveredRange {
    /// The history that it was found on.
    pub history: HistoryId,
    /// The first: a backup.
    pub first: CommitStamp,
    /// The last.
    pub last: CommitStamp,
}

impl fmt::Display for CoveredRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |ns| jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
        let Self { first, last, .. } = self;
        write!(
            f,
            "{} to {} (timestamps {} to {}, LSNs {} to {})",
            time(first.wall_ns),
            time(last.wall_ns),
            first.timestamp,
            last.timestamp,
            first.lsn,
            last.lsn
        )
    }
}

/// Reads a piece for the last commit in it that ends at the LSN or before; `None` if it cannot be read.
pub(super) type LastCommit<'a> = &'a dyn Fn(&PieceUse, Lsn) -> Option<CommitStamp>;

/// Everything of which there is a backup or a piece of log.
pub(super) struct Chart<'a> {
    bases: Vec<Base>,
    lines: BTreeMap<LineId, &'a LogLine>,
    last_commit: LastCommit<'a>,
}

/// The part of a line that is of one history: its commits up to an LSN.
#[derive(Clone, Copy, Debug)]
struct Leg {
    history: HistoryId,
    until: Lsn,
}

/// How far the log leads from a backup.
struct Reach {
    last: CommitStamp,
    /// The incarnation that wrote `last`, where it is known.
    epoch: Option<Epoch>,
    steps: Vec<Step>,
}

impl<'a> Chart<'a> {
    pub(super) fn new(
        bases: Vec<Base>,
        lines: impl Iterator<Item = &'a LogLine>,
        last_commit: LastCommit<'a>,
    ) -> Self {
        Self {
            bases,
            lines: lines.map(|line| (line.id, line)).collect(),
            last_commit,
        }
    }

    /// The way to `target` on the line of the history that begins with `wanted`, or of the newest.
    ///
    /// Errors: `NoMoments` if there is no such history, or more than one; `NotCovered`.
    pub(super) fn way(&self, target: ReplayTarget, wanted: Option<&str>) -> Result<Way> {
        let id = self.chosen(wanted)?;
        let legs = self.legs(id);
        let mut bases = self.bases_on(id, &legs);
        bases.reverse();
        let mut of_another_past = None;
        for base in bases {
            let place = place(target, base.commit);
            if place == Ordering::Greater {
                continue;
            }
            let reach = self.reach(id.database, base, &legs);
            if place == Ordering::Equal || self::place(target, reach.last) != Ordering::Less {
                let way = Way {
                    backup: base.backup.clone(),
                    history: id.history,
                    target,
                    steps: match place {
                        Ordering::Equal => Vec::new(),
                        _ => reach.steps,
                    },
                };
                if !self.is_superseded(base) {
                    return Ok(way);
                }
                of_another_past.get_or_insert(way);
            }
        }
        of_another_past.ok_or_else(|| self.refused(target, id, &legs))
    }

    /// Whether the log has another commit, or none, where that of `base` ends: a past was put back, and went on
    /// in a later generation. Then an older backup leads on, if any.
    fn is_superseded(&self, base: &Base) -> bool {
        let Some(line) = self.lines.get(&base.id) else {
            return false;
        };
        let lsn = base.commit.lsn;
        let mut pieces = line.runs.iter().flat_map(|run| &run.pieces);
        let covers = |piece: &&PieceUse| piece.from < lsn && lsn <= piece.until;
        // Nothing was superseded by the first one, and there are no others as a rule.
        let later = |piece: &&PieceUse| piece.facts.generation > Generation(1);
        let Some(piece) = pieces.find(covers).filter(later) else {
            return false;
        };
        let stamps = [piece.first_commit, piece.last_commit];
        let known = stamps.into_iter().flatten().find(|one| one.lsn == lsn);
        let there = known.or_else(|| (self.last_commit)(piece, lsn));
        there != Some(base.commit)
    }

    /// Every history of which anything is known, with its newest commit.
    fn histories(&self) -> BTreeMap<LineId, CommitStamp> {
        let mut newest: BTreeMap<LineId, CommitStamp> = BTreeMap::new();
        let bases = self.bases.iter().map(|base| (base.id, base.commit));
        let lines = self.lines.values().flat_map(|line| {
            let commits = line.runs.iter().filter_map(|run| run.last_commit);
            commits.map(|commit| (line.id, commit))
        });
        for (id, commit) in bases.chain(lines) {
            let newest = newest.entry(id).or_insert(commit);
            if (commit.wall_ns, commit.timestamp) > (newest.wall_ns, newest.timestamp) {
                *newest = commit;
            }
        }
        newest
    }

    fn chosen(&self, wanted: Option<&str>) -> Result<LineId> {
        let mut known = self.histories();
        let refused = |why: &'static str, known: &BTreeMap<LineId, CommitStamp>| {
            let named = known.keys().map(|id| id.history.to_string()).collect();
            Err(RepositoryError::NoMoments { why, known: named })
        };
        if known.is_empty() {
            let why = "the repository has no backup whose source is one stillfs database; in one of a \
                       directory, databases can be restored as backed up only";
            return refused(why, &known);
        }
        let Some(wanted) = wanted else {
            let mut databases: Vec<DatabaseId> = known.keys().map(|id| id.database).collect();
            databases.dedup();
            if databases.len() > 1 {
                let why = "the repository has several stillfs databases: say with --history which";
                return refused(why, &known);
            }
            let newest = known.into_iter();
            let newest = newest.max_by_key(|(_, commit)| (commit.wall_ns, commit.timestamp));
            return Ok(newest.expect("it is not empty").0);
        };
        let all = known.clone();
        known.retain(|id, _| !wanted.is_empty() && id.history.to_string().starts_with(wanted));
        match known.len() {
            0 => refused("there is no such history in the repository", &all),
            1 => Ok(known.into_keys().next().expect("there is one")),
            _ => refused("that is the beginning of several histories", &known),
        }
    }

    /// The line of `id`, its oldest history first.
    fn legs(&self, id: LineId) -> Vec<Leg> {
        let mut legs = vec![Leg {
            history: id.history,
            until: Lsn::MAX,
        }];
        let mut at = id;
        while let Some(fork) = self.lines.get(&at).and_then(|line| line.fork) {
            let until = legs.last().map_or(Lsn::MAX, |leg| leg.until);
            let is_known = legs.iter().any(|leg| leg.history == fork.history);
            if is_known || fork.lsn > until || legs.len() > FORKS_MAX {
                break;
            }
            legs.push(Leg {
                history: fork.history,
                until: fork.lsn,
            });
            at.history = fork.history;
        }
        legs.reverse();
        legs
    }

    /// The backups on a line, oldest commit first.
    fn bases_on(&self, id: LineId, legs: &[Leg]) -> Vec<&Base> {
        let is_on = |base: &&Base| {
            let has = |leg: &Leg| leg.history == base.id.history && base.commit.lsn <= leg.until;
            base.id.database == id.database && legs.iter().any(has)
        };
        let mut bases: Vec<&Base> = self.bases.iter().filter(is_on).collect();
        bases.sort_by_key(|base| (base.commit.timestamp, base.backup.clone()));
        bases
    }

    fn reach(&self, database: DatabaseId, base: &Base, legs: &[Leg]) -> Reach {
        let mut reach = Reach {
            last: base.commit,
            epoch: base.epoch,
            steps: Vec::new(),
        };
        // Everything of the line before this is behind.
        let mut at = base.commit.lsn;
        let legs = legs.iter().skip_while(|leg| leg.history != base.id.history);
        for leg in legs {
            let id = LineId {
                database,
                history: leg.history,
            };
            let line = self.lines.get(&id);
            let mut next = line.and_then(|line| run_at(line, at, &reach));
            while let Some(run) = next {
                at = reach.add(run, (at, leg.until), self.last_commit);
                next = line.and_then(|line| run_behind(line, at, &reach));
                next = next.filter(|run| run.first < leg.until);
            }
            if at < leg.until {
                break;
            }
        }
        reach
    }

    /// All that is covered on the line of `id`.
    fn covered(&self, id: LineId, legs: &[Leg]) -> Vec<CoveredRange> {
        let mut ranges: Vec<CoveredRange> = Vec::new();
        for base in self.bases_on(id, legs) {
            let last = self.reach(id.database, base, legs).last;
            match ranges.last_mut() {
                Some(range) if base.commit.timestamp <= range.last.timestamp => {
                    if last.timestamp > range.last.timestamp {
                        range.last = last;
                    }
                }
                _ => ranges.push(CoveredRange {
                    history: id.history,
                    first: base.commit,
                    last,
                }),
            }
        }
        ranges
    }

    fn refused(&self, target: ReplayTarget, id: LineId, legs: &[Leg]) -> RepositoryError {
        let mut covered = self.covered(id, legs);
        // The newest are those that somebody looks for.
        covered.drain(..covered.len().saturating_sub(RANGES_MAX));
        let others = self.histories().into_keys();
        let others = others.filter(|other| other.database == id.database && *other != id);
        RepositoryError::NotCovered {
            moment: match target {
                ReplayTarget::Lsn(lsn) => format!("LSN {lsn}"),
                ReplayTarget::Timestamp(timestamp) => format!("timestamp {timestamp}"),
                ReplayTarget::Wall(ns) => jiff::Timestamp::from_nanosecond(i128::from(ns))
                    .map_or_else(|_| format!("{ns} ns"), |at| at.to_string()),
            },
            history: id.history.to_string(),
            covered,
            others: others.map(|other| other.history.to_string()).collect(),
        }
    }
}

/// The run that goes on at `at`, where the line is after `last`. It may begin later if `last` is the last
/// commit before `at`, and its first is the next one.
fn run_at<'a>(line: &'a LogLine, at: Lsn, reach: &Reach) -> Option<&'a CoveredRun> {
    let covers = |run: &&CoveredRun| run.first <= at && at <= run.end;
    let later = || run_behind(line, at, reach).filter(|_| reach.last.lsn == at);
    line.runs.iter().find(covers).or_else(later)
}

/// The run behind `at` whose first commit is the one after `last`, and that has all of it: it begins where a
/// segment does, which no commit spans. What lies between are no commits.
///
/// That is so within one past. Where a gap is known before another generation, the past may have been put back
/// in it, and the commits be others of the same numbers: there no way leads on.
fn run_behind<'a>(line: &'a LogLine, at: Lsn, reach: &Reach) -> Option<&'a CoveredRun> {
    let next = reach.last.timestamp.next();
    let is_next = |run: &&CoveredRun| {
        let first = run.first_commit.map(|first| first.timestamp);
        let begins = |piece: &PieceUse| piece.from == piece.facts.segment_start;
        let is_whole = run.pieces.first().is_some_and(begins);
        run.first > at
            && is_whole
            && first.is_some()
            && first == next
            && !is_doubtful(line, at, run, reach)
    };
    line.runs.iter().find(is_next)
}

fn is_doubtful(line: &LogLine, at: Lsn, run: &CoveredRun, reach: &Reach) -> bool {
    let Some(own) = run.pieces.first().map(|piece| &piece.facts) else {
        return false;
    };
    let pieces = line.runs.iter().flat_map(|run| &run.pieces);
    let before = pieces
        .filter(|piece| piece.from <= at)
        .map(|piece| piece.facts.generation)
        .max();
    // What was before the first generation of all is the same past.
    if before == Some(own.generation) || (before.is_none() && own.generation <= FIRST_GENERATION) {
        return false;
    }
    // An incarnation that goes on as a later generation may have been put back: then what is before the end of
    // the gap is in doubt too. The pieces of the former one may be gone, or not count, so that is asked of the
    // commit that is gone on from.
    let is_put_back = reach.epoch.is_none_or(|epoch| epoch == own.epoch);
    let is_between = |gap: &LogGap| {
        let is_after = at <= gap.first || (is_put_back && at < gap.end);
        is_after && gap.first < run.first
    };
    let mut gaps = line.gaps.iter();
    gaps.any(|gap| gap.generation == own.generation && is_between(gap))
}

impl Reach {
    /// Goes on with what `run` has after `at` and not after `until`; gives the end of that.
    fn add(
        &mut self,
        run: &CoveredRun,
        (at, until): (Lsn, Lsn),
        last_commit: LastCommit<'_>,
    ) -> Lsn {
        for piece in &run.pieces {
            // The piece with the commit that is gone on from is taken too: it is compared.
            if piece.until < at || piece.from >= until {
                continue;
            }
            self.steps.push(Step {
                facts: piece.facts.clone(),
                until: piece.until.min(until),
            });
            let last = match piece.last_commit {
                Some(last) if last.lsn > until => last_commit(piece, until).or(piece.first_commit),
                last => last,
            };
            let is_later =
                |last: &CommitStamp| last.lsn <= until && last.timestamp > self.last.timestamp;
            if let Some(last) = last.filter(is_later) {
                self.last = last;
                self.epoch = Some(piece.facts.epoch);
            }
        }
        run.end.min(until).max(at)
    }
}

fn place(target: ReplayTarget, commit: CommitStamp) -> Ordering {
    target.place_of(commit.timestamp, commit.wall_ns, commit.lsn)
}
