//! What the repository has of one line, as its archiver goes on from it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::id::Epoch;
use crate::lsn::Lsn;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log::name::{FOLDER, Generation, LineId, LogName};
use crate::repository::log::piece::{PIECE_BYTES, PieceFacts, read_facts, read_piece};

/// So many small pieces of one segment become one.
const SMALL_COUNT_MAX: usize = 16;

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    /// Each piece, and where its segment starts.
    pieces: BTreeMap<LogName, Lsn>,
    /// The epoch of each generation of which there is a piece.
    epochs: BTreeMap<Generation, Epoch>,
    newest: Option<Generation>,
    /// The end of what there is of the newest generation.
    pub(super) position: Lsn,
}

impl Holdings {
    /// Reads the heads of all pieces of `line`; one that cannot be read is none.
    ///
    /// Errors: `Io` of the listing.
    pub(super) fn read(repository: &Repository, line: LineId) -> Result<Self> {
        let mut found = Self::default();
        for name in repository.store().list(FOLDER)? {
            let Some(name) = LogName::parse(&name).filter(|name| name.line == line) else {
                continue;
            };
            if name.is_gap {
                found.reach(name.generation, name.end);
                continue;
            }
            match read_facts(repository, &name) {
                Ok(facts) => found.add(&facts),
                Err(RepositoryError::Missing { .. }) => {}
                Err(error) => {
                    let error = error.of_object()?;
                    tracing::warn!(object = name.object(), %error, "a piece of the log is lost");
                }
            }
        }
        Ok(found)
    }

    pub(super) fn add(&mut self, facts: &PieceFacts) {
        self.pieces.insert(facts.name(), facts.segment_start);
        self.epochs.insert(facts.generation, facts.epoch);
        self.reach(facts.generation, facts.end);
    }

    /// There is something of `generation` up to `end`.
    pub(super) fn reach(&mut self, generation: Generation, end: Lsn) {
        if self.newest.is_none_or(|newest| newest < generation) {
            self.newest = Some(generation);
            self.position = end;
        } else if self.newest == Some(generation) {
            self.position = self.position.max(end);
        }
    }

    pub(super) fn remove(&mut self, name: &LogName) {
        self.pieces.remove(name);
    }

    /// The newest one.
    pub(super) fn newest(&self) -> Option<Generation> {
        self.newest
    }

    /// The epoch of the newest one, if a piece tells it.
    pub(super) fn newest_epoch(&self) -> Option<Epoch> {
        self.epochs.get(&self.newest?).copied()
    }

    /// That of the newest generation of which a piece tells it.
    pub(super) fn last_named(&self) -> Option<Epoch> {
        self.epochs.last_key_value().map(|(_, epoch)| *epoch)
    }

    /// Whether no other generation is of the incarnation that `generation` is of: it was not put back before.
    pub(super) fn is_only_of_its_epoch(&self, generation: Generation) -> bool {
        let own = self.epochs.get(&generation);
        let of_it = self.epochs.values().filter(|epoch| Some(*epoch) == own);
        of_it.count() <= 1
    }

    /// Where the first piece of `generation` begins, and that of any generation of its incarnation.
    pub(super) fn begun(&self, generation: Generation) -> (Option<Lsn>, Option<Lsn>) {
        let own = self.epochs.get(&generation);
        let of_it = self.names().filter(|name| name.generation == generation);
        let of_epoch = self.names();
        let of_epoch = of_epoch.filter(|name| self.epochs.get(&name.generation) == own);
        (
            of_it.map(|name| name.first).min(),
            of_epoch.map(|name| name.first).min(),
        )
    }

    /// Where the last piece of `generation` ends.
    pub(super) fn end_of(&self, generation: Generation) -> Option<Lsn> {
        let of_it = self.names().filter(|name| name.generation == generation);
        of_it.map(|name| name.end).max()
    }

    /// From here on there is `generation`, of `epoch`, from `start` on.
    pub(super) fn begin(&mut self, generation: Generation, epoch: Epoch, start: Lsn) {
        self.epochs.insert(generation, epoch);
        (self.newest, self.position) = (Some(generation), start);
    }

    /// Whether `repository` has something of `line` that is later than what this knows of.
    ///
    /// Errors: `Io` of the listing.
    pub(super) fn is_behind(&self, repository: &Repository, line: LineId) -> Result<bool> {
        let names = repository.store().list(FOLDER)?;
        let mut names = names.iter().filter_map(|name| LogName::parse(name));
        let is_later = |name: &LogName| {
            self.newest.is_none_or(|newest| newest < name.generation)
                || (self.newest == Some(name.generation) && self.position < name.end)
        };
        Ok(names.any(|name| name.line == line && is_later(&name)))
    }

    /// The piece of the newest generation that has what is right before `at`.
    ///
    /// Errors: of reading its head; one that is damaged is none.
    pub(super) fn piece_before(
        &self,
        repository: &Repository,
        at: Lsn,
    ) -> Result<Option<PieceFacts>> {
        let is_there = |name: &&LogName| {
            Some(name.generation) == self.newest && name.first < at && at <= name.end
        };
        let Some(name) = self.names().find(is_there) else {
            return Ok(None);
        };
        match read_facts(repository, name) {
            Ok(facts) => Ok(Some(facts)),
            Err(error @ (RepositoryError::Missing { .. } | RepositoryError::Io { .. })) => {
                Err(error)
            }
            Err(error) => error.of_object().map(|_| None),
        }
    }

    /// Whether nothing tells which epoch `generation` has: a gap was noted, and nothing after it yet.
    pub(super) fn is_unnamed(&self, generation: Generation) -> bool {
        !self.epochs.contains_key(&generation)
    }

    /// The newest one of that epoch.
    pub(super) fn generation_of(&self, epoch: Epoch) -> Option<Generation> {
        let found = self.epochs.iter().rev();
        let mut found = found.filter(|(_, known)| **known == epoch);
        found.next().map(|(generation, _)| *generation)
    }

    /// Whether both number the incarnations alike: what has none in common with the other was begun by
    /// itself, unless there is nothing of it.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let is_common =
            |(generation, _): &(&Generation, &Epoch)| other.epochs.contains_key(*generation);
        let of_other = |epoch: &Epoch| other.epochs.values().any(|known| known == epoch);
        let mut common = self.epochs.iter().filter(is_common).peekable();
        if common.peek().is_none() {
            return other.pieces.is_empty() && other.epochs.is_empty();
        }
        let shared: Vec<Epoch> = common.clone().map(|(_, epoch)| *epoch).collect();
        common.all(|(generation, epoch)| other.epochs.get(generation) == Some(epoch))
            && self
                .epochs
                .values()
                .all(|epoch| !of_other(epoch) || shared.contains(epoch))
    }

    /// The pieces, by name.
    pub(super) fn names(&self) -> impl Iterator<Item = &LogName> {
        self.pieces.keys()
    }

    /// Whether pieces have all records of `name`.
    pub(super) fn covers(&self, name: &LogName) -> bool {
        let mut at = name.first;
        let of_generation = |one: &&LogName| one.generation == name.generation;
        for piece in self.names().filter(of_generation) {
            if at >= name.end || piece.first > at {
                break;
            }
            at = at.max(piece.end);
        }
        at >= name.end
    }

    /// The small pieces at the end of what there is of a segment, each beginning where the one before
    /// ends, if they should become one: all of them when nothing more comes, otherwise when they are many.
    pub(super) fn small_run(
        &self,
        generation: Generation,
        segment_start: Lsn,
        is_complete: bool,
    ) -> Vec<LogName> {
        let of_segment = |(name, start): &(&LogName, &Lsn)| {
            name.generation == generation && **start == segment_start
        };
        let mut run: Vec<LogName> = Vec::new();
        for (name, _) in self.pieces.iter().rev().filter(of_segment) {
            let is_small = name.end.0 - name.first.0 < PIECE_BYTES / 2;
            let is_next = run.last().is_none_or(|last| last.first == name.end);
            if !is_small || !is_next {
                break;
            }
            run.push(*name);
        }
        run.reverse();
        match is_complete {
            true if run.len() > 1 => run,
            false if run.len() >= SMALL_COUNT_MAX => run,
            _ => Vec::new(),
        }
    }

    /// Pieces that others have all records of: an interruption came before they were removed (LA7). None of
    /// which the others cannot be read.
    pub(super) fn redundant(&self, repository: &Repository) -> Vec<LogName> {
        let mut names: Vec<&LogName> = self.pieces.keys().collect();
        names.sort_by_key(|name| (name.generation, name.first, Reverse(name.end)));
        let (mut kept, mut redundant): (Vec<&LogName>, Vec<LogName>) = (Vec::new(), Vec::new());
        for name in names {
            let before = kept
                .last()
                .filter(|last| last.generation == name.generation);
            if before.is_none_or(|last| last.end < name.end) {
                kept.push(name);
                continue;
            }
            let covers = |one: &&&LogName| {
                one.generation == name.generation && one.first < name.end && name.first < one.end
            };
            let is_readable = |one: &LogName| {
                let facts = read_facts(repository, one);
                facts
                    .and_then(|facts| read_piece(repository, &facts))
                    .is_ok()
            };
            if kept.iter().filter(covers).all(|one| is_readable(one)) {
                redundant.push(*name);
            }
        }
        redundant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(known: &[(u32, u64)]) -> Holdings {
        let epochs = known
            .iter()
            .map(|(generation, epoch)| (Generation(*generation), Epoch(*epoch)));
        Holdings {
            epochs: epochs.collect(),
            ..Holdings::default()
        }
    }

    /// Numbers mean the same on both sides only if both have one in common.
    #[test]
    fn what_was_begun_by_itself_does_not_agree() {
        let here = of(&[(3, 3), (4, 4)]);
        for agrees in [
            &[][..],
            &[(3, 3)],
            &[(1, 1), (3, 3)],
            &[(3, 3), (4, 4), (5, 5)],
        ] {
            assert!(here.agrees_with(&of(agrees)), "{agrees:?}");
        }
        for differs in [
            &[(1, 4)][..],
            &[(1, 5)],
            &[(3, 4)],
            &[(3, 3), (4, 5)],
            &[(3, 3), (5, 4)],
        ] {
            assert!(!here.agrees_with(&of(differs)), "{differs:?}");
        }
    }
}
