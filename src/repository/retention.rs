//! Which backups are kept.
//!
//! The rules say what stays, never what goes. What cannot be read stays: nobody knows which rule it meets,
//! nor whether it is held.

mod policy;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::repository::backup_id::BackupId;
use crate::repository::catalog::{Repository, is_of_future};
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::{Manifest, SourceName};
use crate::repository::mark::Mark;
use crate::repository::prune::Run;
use crate::repository::retention::policy::Candidate;
use crate::repository::store::WriterLock;
use crate::repository::store_fault::StoreFault;

/// What is kept, for each source apart; a backup stays if any of these keeps it, or if it is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of the last so many hours that have one.
    pub hourly: u32,
    /// The same of days (UTC).
    pub daily: u32,
    /// The same of weeks, which begin on Monday.
    pub weekly: u32,
    /// The same of months.
    pub monthly: u32,
    /// Everything that is not older, compared with the newest backup of its source.
    pub within: Option<Duration>,
}

impl Keep {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a backup stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// `--keep-last`.
    Last,
    /// `--keep-hourly`.
    Hourly,
    /// `--keep-daily`.
    Daily,
    /// `--keep-weekly`.
    Weekly,
    /// `--keep-monthly`.
    Monthly,
    /// `--keep-within`.
    Within,
    /// `stillfs hold`.
    Held,
    /// The clock was ahead when it was made: its time is more than a day from now. No rule counts it.
    Future,
    /// Its manifest or its mark cannot be read: no rule forgets it.
    Unreadable,
}

/// What became, or would become, of the backups.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ForgetReport {
    /// Those that stay, oldest first, and why.
    pub kept: Vec<(BackupId, Vec<Reason>)>,
    /// Those that go.
    pub forgotten: Vec<BackupId>,
}

/// Forgets the backups that nothing keeps. Their content stays until [`super::prune`].
///
/// A backup whose manifest or mark cannot be read stays ([`Reason::Unreadable`]). Errors: `NothingKept` if
/// there is no rule; `Locked`, unless it is only told; `Io`.
pub fn forget(repository: &Repository, keep: &Keep, run: Run) -> Result<ForgetReport> {
    forget_where(repository, keep, run, &|_| true)
}

/// As [`forget`], of the backups of one source alone; the report names no others. Sources count as one
/// that have the path and the machine of `source`, whatever kind they were.
///
/// Errors: as for [`forget`].
pub fn forget_of(
    repository: &Repository,
    source: &SourceName,
    keep: &Keep,
    run: Run,
) -> Result<ForgetReport> {
    forget_where(repository, keep, run, &|name| {
        name.path == source.path && name.host == source.host
    })
}

/// Which sources rules are for.
type Chosen<'a> = &'a dyn Fn(&SourceName) -> bool;

fn forget_where(
    repository: &Repository,
    keep: &Keep,
    run: Run,
    is_chosen: Chosen<'_>,
) -> Result<ForgetReport> {
    if keep.is_nothing() {
        return Err(RepositoryError::NothingKept);
    }
    if run == Run::Dry {
        return decide(repository, keep, is_chosen);
    }
    let lock = repository.store().lock()?;
    let decided = decide(repository, keep, is_chosen)?;
    let held_since = remove(repository, &*lock, &decided.forgotten)?;
    Ok(without(decided, &held_since))
}

/// Forgets the backups `ids`, whatever rules say; also such whose manifest cannot be read or is lost.
///
/// The report names no others. Errors: `NoBackup`, `Held`, `HoldUnknown`, and then nothing was removed;
/// `Locked`, unless it is only told; `Io`.
pub fn forget_named(repository: &Repository, ids: &[BackupId], run: Run) -> Result<ForgetReport> {
    let lock = match run {
        Run::Really => Some(repository.store().lock()?),
        Run::Dry => None,
    };
    let mut present: BTreeSet<_> = repository.ids()?.into_iter().collect();
    let marks = repository.store().list("marks")?;
    present.extend(
        marks
            .iter()
            .filter_map(|name| name.parse::<BackupId>().ok()),
    );
    let ids: BTreeSet<_> = ids.iter().collect();
    for id in ids.iter().copied() {
        if !present.contains(id) {
            return Err(RepositoryError::NoBackup {
                name: id.to_string(),
            });
        }
        match repository.mark(id) {
            Ok(mark) if mark.is_held => {
                return Err(RepositoryError::Held { backup: id.clone() });
            }
            Ok(_) => {}
            Err(source) => {
                return Err(RepositoryError::HoldUnknown {
                    backup: id.clone(),
                    source: Box::new(source),
                });
            }
        }
    }
    let decided = ForgetReport {
        kept: Vec::new(),
        forgotten: ids.into_iter().cloned().collect(),
    };
    let Some(lock) = lock else {
        return Ok(decided);
    };
    let held_since = remove(repository, &*lock, &decided.forgotten)?;
    Ok(without(decided, &held_since))
}

/// What `keep` says of the backups that there are.
fn decide(repository: &Repository, keep: &Keep, is_chosen: Chosen<'_>) -> Result<ForgetReport> {
    let mut readable = Vec::new();
    let mut report = ForgetReport::default();
    let now_ns = repository.host().clock.wall_ns();
    for (id, facts) in repository.backups()? {
        match (facts, repository.mark(&id)) {
            (Ok(facts), _) if !is_chosen(&facts.source) => {}
            (Ok(facts), Ok(mark)) if is_of_future(facts.begun_ns, now_ns) => {
                let held = mark.is_held.then_some(Reason::Held);
                let reasons = [Reason::Future].into_iter().chain(held);
                report.kept.push((id, reasons.collect()));
            }
            (Ok(facts), Ok(mark)) => readable.push((id, facts, mark.is_held)),
            _ => report.kept.push((id, vec![Reason::Unreadable])),
        }
    }
    let candidates = readable.iter().map(|(id, facts, is_held)| Candidate {
        id,
        begun_ns: facts.begun_ns,
        source: &facts.source,
        is_held: *is_held,
    });
    let reasons = policy::reasons(keep, &candidates.collect::<Vec<_>>());
    for ((id, ..), reasons) in readable.into_iter().zip(reasons) {
        match reasons.is_empty() {
            true => report.forgotten.push(id),
            false => report.kept.push((id, reasons)),
        }
    }
    report.kept.sort_by(|(one, _), (other, _)| one.cmp(other));
    report.forgotten.sort();
    Ok(report)
}

/// Removes the manifests of `ids`, and when that is durable their marks; returns those that stay since
/// somebody held them after it was decided.
///
/// From the last look at the marks until the manifests are gone nobody can hold a backup: whoever comes
/// later finds none. The manifest goes first: a mark without one is of no use and does no harm, while a backup without its
/// mark is one of which nobody knows whether it is held.
fn remove(
    repository: &Repository,
    lock: &dyn WriterLock,
    ids: &[BackupId],
) -> Result<Vec<BackupId>> {
    let store = repository.store();
    let mut going = Vec::new();
    let mut held = Vec::new();
    let marks = store.lock_marks()?;
    marks.confirm()?;
    for id in ids {
        let mark = repository.mark(id)?;
        if mark.is_held {
            held.push(id.clone());
            continue;
        }
        lock.confirm()?;
        tell_underway(repository, id, mark)?;
        going.push(id);
    }
    store.settle()?;
    for id in &going {
        lock.confirm()?;
        store.remove(&Manifest::object(id))?;
    }
    store.settle()?;
    for id in &going {
        store.remove(&Mark::object(id))?;
    }
    store.settle()?;
    Ok(held)
}

/// Makes the mark say that the manifest is not lost when it is gone. A full disk is no reason not to
/// forget: if it then is interrupted, the next verification asks for a manifest that was forgotten.
fn tell_underway(repository: &Repository, id: &BackupId, mark: Mark) -> Result<()> {
    let mark = Mark {
        is_underway: true,
        ..mark
    };
    match mark.write(repository.store().as_ref(), id) {
        Ok(_) | Err(RepositoryError::NoSpace { .. }) => Ok(()),
        Err(RepositoryError::Store {
            fault: StoreFault::Full { .. },
            ..
        }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn without(mut report: ForgetReport, held: &[BackupId]) -> ForgetReport {
    report.forgotten.retain(|id| !held.contains(id));
    let held = held.iter().map(|id| (id.clone(), vec![Reason::Held]));
    report.kept.extend(held);
    report.kept.sort_by(|(one, _), (other, _)| one.cmp(other));
    report
}
