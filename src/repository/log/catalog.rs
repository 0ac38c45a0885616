//! Which parts of which logs the repository has.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::engine::{Fork, LogSegmentHeader, whole_log_records};
use crate::id::DatabaseId;
use crate::lsn::Lsn;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log::name::{FOLDER, Generation, LineId, LogName};
use crate::repository::log::piece::{CommitStamp, PieceFacts, read_facts, read_piece};

/// How often the names are read again because a piece was replaced meanwhile.
const TRIES: u32 = 5;

/// What the names and heads of all pieces say.
#[derive(Debug, Default)]
pub struct LogCatalog {
    lines: BTreeMap<LineId, LogLine>,
    damaged: Vec<(String, String)>,
}

/// What there is of the log of one line.
#[derive(Debug)]
pub struct LogLine {
    /// Which.
    pub id: LineId,
    /// Whose commits it goes on from, where a piece says so.
    pub fork: Option<Fork>,
    /// What is covered without a hole, by ascending LSN; there is something missing between two.
    pub runs: Vec<CoveredRun>,
    /// What is known to be missing: the engine had to let it go before it was archived.
    pub gaps: Vec<LogGap>,
}

/// Log without a hole.
#[derive(Clone, Debug)]
pub struct CoveredRun {
    /// Where it begins.
    pub first: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// Its first commit.
    pub first_commit: Option<CommitStamp>,
    /// Its last commit.
    pub last_commit: Option<CommitStamp>,
    /// What it is made of, in order: each begins where the one before ends.
    pub pieces: Vec<PieceUse>,
}

/// The part of a piece that counts.
#[derive(Clone, Debug)]
pub struct PieceUse {
    /// The piece.
    pub facts: PieceFacts,
    /// The records from here on; a record starts here.
    pub from: Lsn,
    /// And before here, where a later incarnation goes on.
    pub until: Lsn,
    /// The first commit that ends in this part.
    pub first_commit: Option<CommitStamp>,
    /// The last one.
    pub last_commit: Option<CommitStamp>,
}

/// Log that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogGap {
    /// Where it begins.
    pub first: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// The generation of what comes after it.
    pub generation: Generation,
}

impl LogCatalog {
    /// Reads the heads of all pieces. One that cannot be read covers nothing and is told of in
    /// [`LogCatalog::damaged`].
    ///
    /// Errors: `Unsteady` if pieces go faster than they are read; `Io` of the listing.
    pub fn read(repository: &Repository) -> Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::read_once(repository)? {
                (catalog, None) => return Ok(catalog),
                // Without it the catalog would have a hole that is none.
                (_, Some(object)) if tries >= TRIES => {
                    return Err(RepositoryError::Unsteady { object });
                }
                _ => {}
            }
        }
    }

    /// And a piece that went meanwhile: then others may have come in its place.
    fn read_once(repository: &Repository) -> Result<(Self, Option<String>)> {
        let (mut catalog, mut gone) = (Self::default(), None);
        let mut parts: BTreeMap<LineId, LineParts> = BTreeMap::new();
        for name in repository.store().list(FOLDER)? {
            let Some(name) = LogName::parse(&name) else {
                continue;
            };
            let line = parts.entry(name.line).or_default();
            if name.is_gap {
                line.gaps.push(LogGap {
                    first: name.first,
                    end: name.end,
                    generation: name.generation,
                });
                continue;
            }
            match read_facts(repository, &name) {
                Ok(facts) => line.pieces.push(facts),
                Err(RepositoryError::Missing { object }) => gone = Some(object),
                Err(error) => {
                    let what = error.of_object()?.to_string();
                    catalog.damaged.push((name.object(), what));
                    line.unreadable.push(name);
                }
            }
        }
        for (id, parts) in parts {
            let line = parts.into_line(repository, id, &mut catalog.damaged)?;
            catalog.lines.insert(id, line);
        }
        Ok((catalog, gone))
    }

    /// All lines.
    pub fn lines(&self) -> impl Iterator<Item = &LogLine> {
        self.lines.values()
    }

    /// Those of one database.
    pub fn lines_of(&self, database: DatabaseId) -> impl Iterator<Item = &LogLine> {
        self.lines()
            .filter(move |line| line.id.database == database)
    }

    /// One of them.
    #[must_use]
    pub fn line(&self, id: LineId) -> Option<&LogLine> {
        self.lines.get(&id)
    }

    /// Objects that cannot be read, and why.
    #[must_use]
    pub fn damaged(&self) -> &[(String, String)] {
        &self.damaged
    }
}

/// What was found of a line, in no order.
#[derive(Debug, Default)]
struct LineParts {
    pieces: Vec<PieceFacts>,
    gaps: Vec<LogGap>,
    /// Pieces of which only the names are known.
    unreadable: Vec<LogName>,
}

impl LineParts {
    fn into_line(
        mut self,
        repository: &Repository,
        id: LineId,
        damaged: &mut Vec<(String, String)>,
    ) -> Result<LogLine> {
        self.pieces
            .sort_by_key(|one| (one.generation, one.first, Reverse(one.end)));
        self.gaps.sort_by_key(|gap| (gap.first, gap.end));
        let mut uses: Vec<PieceUse> = Vec::new();
        for facts in &self.pieces {
            let begun = uses
                .last()
                .filter(|last| last.facts.generation == facts.generation);
            let from = begun.map_or(facts.first, |last| last.until.max(facts.first));
            let until = self.superseded_from(facts).min(facts.end);
            if from >= until {
                continue;
            }
            match PieceUse::new(repository, facts, from, until) {
                Ok(part) => uses.push(part),
                Err(error) => damaged.push((facts.object(), error.of_object()?.to_string())),
            }
        }
        Ok(LogLine {
            id,
            fork: self.pieces.iter().rev().find_map(|one| one.fork),
            runs: runs_of(uses),
            gaps: self.gaps,
        })
    }

    /// Where the first later generation begins, or its own was given up (LA9): from there on a piece does not
    /// count (LA6). Of a piece that cannot be read its name says it.
    fn superseded_from(&self, piece: &PieceFacts) -> Lsn {
        let generation = piece.generation;
        let pieces = self.pieces.iter();
        let pieces = pieces.map(|one| (one.generation, one.segment_start));
        let names = self.unreadable.iter();
        let names = names.map(|name| (name.generation, name.first));
        let gaps = self.gaps.iter().map(|gap| (gap.generation, gap.first));
        let later = pieces.chain(names).chain(gaps);
        let later = later.filter(|(one, _)| *one > generation);
        let given_up = self.gaps.iter().filter(|gap| self.is_given_up(gap));
        // What was given up is all that there was then: a gap with something behind it is a loss, as of a piece
        // that could not be read (LA5).
        let given_up = given_up.filter(|gap| gap.generation == generation && piece.first < gap.end);
        let later = later.map(|(_, start)| start);
        let all = later.chain(given_up.map(|gap| gap.first));
        all.min().unwrap_or(Lsn::MAX)
    }

    /// Whether what `gap` names was there, and does not count any more: what is missing before a generation has
    /// no piece of that.
    fn is_given_up(&self, gap: &LogGap) -> bool {
        let pieces = self.pieces.iter();
        let pieces = pieces.map(|one| (one.generation, one.first, one.end));
        let names = self.unreadable.iter();
        let names = names.map(|name| (name.generation, name.first, name.end));
        let mut all = pieces.chain(names);
        all.any(|(one, first, end)| one == gap.generation && first < gap.end && gap.first < end)
    }
}

/// Groups parts that follow each other.
fn runs_of(uses: Vec<PieceUse>) -> Vec<CoveredRun> {
    let mut runs: Vec<CoveredRun> = Vec::new();
    for part in uses {
        match runs.last_mut().filter(|run| run.end == part.from) {
            Some(run) => {
                run.end = part.until;
                run.first_commit = run.first_commit.or(part.first_commit);
                run.last_commit = part.last_commit.or(run.last_commit);
                run.pieces.push(part);
            }
            None => runs.push(CoveredRun {
                first: part.from,
                end: part.until,
                first_commit: part.first_commit,
                last_commit: part.last_commit,
                pieces: vec![part],
            }),
        }
    }
    runs
}

impl PieceUse {
    /// Errors: those of reading the piece, where only a part of it counts: `Damaged` if no record starts
    /// where the part does.
    fn new(repository: &Repository, facts: &PieceFacts, from: Lsn, until: Lsn) -> Result<Self> {
        let (mut first_commit, mut last_commit) = (facts.first_commit, facts.last_commit);
        if (from, until) != (facts.first, facts.end) {
            let commits = commits_between(repository, facts, from, until)?;
            (first_commit, last_commit) = (commits.first().copied(), commits.last().copied());
        }
        Ok(Self {
            facts: facts.clone(),
            from,
            until,
            first_commit,
            last_commit,
        })
    }
}

pub(super) fn commits_between(
    repository: &Repository,
    facts: &PieceFacts,
    from: Lsn,
    until: Lsn,
) -> Result<Vec<CommitStamp>> {
    let damaged = || RepositoryError::Damaged {
        object: facts.object(),
        what: "its records are not what its head says",
    };
    let piece = read_piece(repository, facts)?;
    let Some(Ok(header)) = LogSegmentHeader::decode(&piece.segment) else {
        return Err(damaged());
    };
    let into =
        |lsn: Lsn| usize::try_from(lsn.0.saturating_sub(facts.first.0)).unwrap_or(usize::MAX);
    let part = piece.records.get(into(from)..into(until));
    let part = part.ok_or_else(damaged)?;
    let (count, commits) = whole_log_records(&header, from, part, usize::MAX);
    if count != part.len() {
        return Err(damaged());
    }
    Ok(commits.iter().map(CommitStamp::of).collect())
}

impl LogLine {
    /// The run that goes on from a backup of `commit`: it covers that LSN; or it begins after it, with the
    /// commit of the next timestamp (what lies between are no commits: the database was stopped).
    #[must_use]
    pub fn run_after(&self, commit: CommitStamp) -> Option<&CoveredRun> {
        let goes_on = |run: &&CoveredRun| {
            let first = run.first_commit.map(|first| first.timestamp);
            let is_next = first.is_some() && first == commit.timestamp.next();
            (run.first <= commit.lsn && commit.lsn <= run.end)
                || (run.first > commit.lsn && is_next)
        };
        self.runs.iter().find(goes_on)
    }
}
