//! Which pieces no backup can go on with any more, and which lines lost something.

use std::collections::BTreeMap;

use crate::id::HistoryId;
use crate::lsn::{Lsn, Timestamp};
use crate::repository::catalog::Repository;
use crate::repository::error::Result;
use crate::repository::hex;
use crate::repository::log::catalog::{LogCatalog, PieceUse, commits_between};
use crate::repository::log::name::{FOLDER, LineId, LogName};
use crate::repository::log::piece::{CommitStamp, read_facts};
use crate::repository::manifest::{BackupFacts, DatabaseFacts};

/// What a prune may remove of logs.
#[derive(Debug, Default)]
pub(in crate::repository) struct LogPrune {
    /// The oldest commit of each line that some backup shows.
    oldest: BTreeMap<LineId, Lsn>,
}

impl LogPrune {
    /// A backup that stays.
    pub(in crate::repository) fn keep_for(&mut self, facts: &BackupFacts) {
        for (line, lsn) in facts.databases.iter().filter_map(commit_of) {
            let oldest = self.oldest.entry(line).or_insert(lsn);
            *oldest = lsn.min(*oldest);
        }
    }

    /// The objects that no backup that stays can go on with (LA7), and their bytes: those before its oldest
    /// backup, of a line that has one; but all of a line stays as long as a backup of a history that it
    /// forked from does, and of a line without a backup.
    ///
    /// Errors: `Io` of the listing.
    pub(in crate::repository) fn needless(
        &self,
        repository: &Repository,
    ) -> Result<Vec<(String, u64)>> {
        let names = repository.store().list(FOLDER)?;
        let names: Vec<LogName> = names
            .iter()
            .filter_map(|name| LogName::parse(name))
            .collect();
        let parents = parents(repository, &names)?;
        let is_needless = |name: &&LogName| {
            let is_before = |oldest: &Lsn| name.end <= *oldest;
            self.oldest.get(&name.line).is_some_and(is_before)
                && !self.has_older_line(name.line, &parents)
        };
        let needless = names.iter().filter(is_needless);
        Ok(needless
            .map(|name| {
                let object = name.object();
                let bytes = repository.store().size(&object).unwrap_or_default();
                (object, bytes)
            })
            .collect())
    }

    /// What of the log in `repository` the backups can go on with, by line: all but what is needless, of those
    /// lines that have a backup, or forked from one that has.
    ///
    /// Errors: `Io` of the listing.
    pub(super) fn wanted(&self, repository: &Repository) -> Result<BTreeMap<LineId, Vec<LogName>>> {
        let names = repository.store().list(FOLDER)?;
        let names: Vec<LogName> = names
            .iter()
            .filter_map(|name| LogName::parse(name))
            .collect();
        let parents = parents(repository, &names)?;
        let mut wanted: BTreeMap<LineId, Vec<LogName>> = BTreeMap::new();
        for name in names {
            let is_after = |oldest: &Lsn| *oldest < name.end;
            if self.oldest.get(&name.line).is_some_and(is_after)
                || self.has_older_line(name.line, &parents)
            {
                wanted.entry(name.line).or_default().push(name);
            }
        }
        Ok(wanted)
    }

    /// Whether there is a backup of a history that `line` forked from.
    fn has_older_line(&self, line: LineId, parents: &BTreeMap<LineId, HistoryId>) -> bool {
        let mut at = line;
        // No longer than there are lines: what a piece says may go round in circles.
        for _ in 0..=parents.len() {
            let Some(history) = parents.get(&at) else {
                return false;
            };
            at = LineId {
                history: *history,
                ..at
            };
            if self.oldest.contains_key(&at) {
                return true;
            }
        }
        true
    }
}

/// The history that each line forked from. Errors: `Store`.
fn parents(repository: &Repository, names: &[LogName]) -> Result<BTreeMap<LineId, HistoryId>> {
    let mut parents = BTreeMap::new();
    for name in names.iter().filter(|name| !name.is_gap) {
        // All pieces of a line say the same; one that cannot be read says nothing.
        if parents.contains_key(&name.line) {
            continue;
        }
        match read_facts(repository, name) {
            Ok(facts) => drop(parents.insert(name.line, facts.fork.map(|fork| fork.history))),
            Err(error) => drop(error.of_object()?),
        }
    }
    let known = parents.into_iter();
    Ok(known
        .filter_map(|(line, parent)| Some((line, parent?)))
        .collect())
}

/// The line and the commit that a native database of a backup shows.
fn commit_of(facts: &DatabaseFacts) -> Option<(LineId, Lsn)> {
    let line = LineId {
        database: crate::id::DatabaseId(hex::decode(facts.database.as_ref()?)?),
        history: HistoryId(hex::decode(facts.history.as_ref()?)?),
    };
    Some((line, Lsn(facts.lsn?)))
}

/// Whether something of the log of a database in `backup` is missing after the commit that it shows (LA5).
///
/// Errors: `Io` of the listing; those of [`LogCatalog::read`], where there are gaps.
pub(in crate::repository) fn has_gap_after(
    repository: &Repository,
    backup: &BackupFacts,
) -> Result<bool> {
    for database in &backup.databases {
        let Some((line, lsn)) = commit_of(database) else {
            continue;
        };
        let stamp = database.timestamp.zip(database.wall_ns);
        let stamp = stamp.map(|(timestamp, wall_ns)| CommitStamp {
            timestamp: Timestamp(timestamp),
            wall_ns,
            lsn,
        });
        if is_cut_after(repository, line, lsn, stamp)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a gap of `line` is after the commit at `lsn`, which is `stamp` where that is known. One of an older
/// generation than that by which the commit counts is none: what it tells of was given up (LA6, LA9).
pub(super) fn is_cut_after(
    repository: &Repository,
    line: LineId,
    lsn: Lsn,
    stamp: Option<CommitStamp>,
) -> Result<bool> {
    let names = repository.store().list(FOLDER)?;
    let gaps = names.iter().filter_map(|name| LogName::parse(name));
    let gaps = gaps.filter(|gap| gap.is_gap && gap.line == line && lsn < gap.end);
    let Some(newest) = gaps.map(|gap| gap.generation).max() else {
        return Ok(false);
    };
    let Some(stamp) = stamp else {
        return Ok(true);
    };
    let catalog = LogCatalog::read(repository)?;
    let runs = catalog.line(line).map(|line| &line.runs).into_iter();
    let pieces = runs.flatten().flat_map(|run| &run.pieces);
    let is_there = |piece: &&PieceUse| {
        piece.facts.generation > newest && piece.from < lsn && lsn <= piece.until
    };
    for piece in pieces.filter(is_there) {
        match commits_between(repository, &piece.facts, piece.from, piece.until) {
            Ok(commits) if commits.contains(&stamp) => return Ok(false),
            Ok(_) => {}
            Err(error) => drop(error.of_object()?),
        }
    }
    Ok(true)
}
