//! A still view taken into a repository: full, or what changed since an older backup.
//!
//! ```text
//! walk --> plan (which units must be read) --> readers --> frames --> packs --> manifest
//!          from the parent's manifest          digests     compressed  16 MiB   last
//! ```
//!
//! Nothing of an earlier backup is needed but what the repository still has: units of a parent whose
//! pack is gone are read and stored again. An interrupted backup leaves packs that no manifest names;
//! the next one knows their content.

pub(in crate::repository) mod blob_index;
mod courtesy;
mod file_job;
mod job;
mod left_out;
mod options;
mod outcome;
mod pace;
mod packer;
mod plan;
mod planner;
mod runner;
mod subject;
mod walk;
mod worker;

#[cfg(test)]
mod courtesy_test;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod interrupted_test;
#[cfg(test)]
mod live_test;
#[cfg(test)]
mod pages_test;
#[cfg(test)]
mod put_back_test;
#[cfg(test)]
mod rot_test;
#[cfg(test)]
mod tests;

pub use options::{BackupOptions, Wanted};
pub use runner::{BackupReport, Runner};
pub use subject::{Still, Subject};

use crate::fault::{self, Fault};
use crate::repository::backup::file_job::Parent;
use crate::repository::backup::outcome::Outcome;
use crate::repository::backup::plan::Plan;
use crate::repository::backup_id::BackupId;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::{BackupFacts, Manifest};
use crate::repository::mark::Mark;
use crate::repository::progress::{Control, Phase};
use crate::repository::store::WriterLock;

/// What a source that is a native database is called.
const NATIVE_KIND: &str = "stillfs";

/// Backs `subject` up, on the calling thread and its own workers; the pin is given up in any case (BK11).
///
/// Errors: `Locked`, `NoBase`, `NoSpace`, `Cancelled`, `View`, `Io`; the repository is then as before, but
/// for packs that the next backup can use.
pub fn backup(
    repository: &Repository,
    subject: Subject,
    options: &BackupOptions,
    control: &Control,
) -> Result<BackupReport> {
    // Dropped after the subject, so that whoever sees the end finds the pin given up.
    let mut ending = Ending {
        control,
        phase: Phase::Failed,
    };
    control.enter(Phase::InProgress);
    let report = run(repository, subject, options, control)?;
    ending.phase = Phase::Completed;
    Ok(report)
}

/// Tells whoever looks on, however a backup ends.
struct Ending<'a> {
    control: &'a Control,
    phase: Phase,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.control.enter(self.phase);
    }
}

fn run(
    repository: &Repository,
    subject: Subject,
    options: &BackupOptions,
    control: &Control,
) -> Result<BackupReport> {
    let clock = &*repository.host().clock;
    let begun = clock.monotonic();
    let begun_ns = clock.wall_ns();
    let lock = repository.store().lock()?;
    let plan = plan::choose(repository, &subject, options.wanted, begun_ns)?;
    let mut outcome = read(repository, &subject, options, &plan, control)?;
    // BK7: what was read counts only if the pin stood until here.
    let stands = match fault::is(Fault::LastLookSkipped) {
        true => Ok(()),
        false => subject.still.look(),
    };
    stands.map_err(|source| RepositoryError::View {
        path: subject.source.path.clone(),
        source,
    })?;
    match fault::is(Fault::BackupPinKept) {
        true => std::mem::forget(subject.keeper),
        false => drop(subject.keeper),
    }
    control.refuse_if_cancelled()?;
    control.enter(Phase::Finalizing);
    let mut left_out = subject.left_out;
    left_out.append(&mut outcome.left_out);
    let id = draw_id(repository, begun_ns)?;
    let parent = plan.parent.as_ref().map(|parent| &parent.facts);
    let mut facts = BackupFacts {
        id: id.clone(),
        kind: plan.kind,
        parent: parent.map(|parent| parent.id.clone()),
        full: parent.map_or(id, |parent| parent.full.clone()),
        source: subject.source,
        tag: options.tag.clone(),
        stillfs: env!("CARGO_PKG_VERSION").to_owned(),
        begun_ns,
        finished_ns: clock.wall_ns(),
        moment_ns: subject.moment_ns,
        databases: outcome.databases,
        digest: Manifest::digest_of(&outcome.entries),
        statistics: outcome.statistics,
        left_out: left_out::bounded(left_out),
        log_index: None,
        term: None,
    };
    let took = clock.monotonic().saturating_sub(begun);
    facts.statistics.duration_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let manifest = Manifest {
        facts,
        packs: outcome.packs,
        entries: outcome.entries,
    };
    let facts = publish(repository, &*lock, manifest, control)?;
    let why = plan.why;
    Ok(BackupReport { facts, why })
}

fn read(
    repository: &Repository,
    subject: &Subject,
    options: &BackupOptions,
    plan: &Plan,
    control: &Control,
) -> Result<Outcome> {
    let walked = walk::walk(&subject.tree, options);
    let parent = plan.parent.as_ref().map(Parent::new);
    let done = job::run(job::Order {
        repository,
        tree: &subject.tree,
        entries: &walked.entries,
        files: &walked.files,
        parent: parent.as_ref(),
        options,
        control,
    })?;
    outcome::conclude(walked, done)
}

/// A name that sorts after those of all backups that began before: at random, but in the second of the
/// newest a step at random after it, so that the newest is the last. The clock may have been set back;
/// then it does not.
fn draw_id(repository: &Repository, begun_ns: u64) -> Result<BackupId> {
    let mut random = [0; 4];
    let drawn = repository.host().random.fill(&mut random);
    drawn.map_err(RepositoryError::io("draw a name for", "a backup"))?;
    let random = u32::from_le_bytes(random);
    // The upper half is left to those that come after it in its second.
    let number = match repository
        .ids()?
        .pop()
        .and_then(|id| number_in_second(&id, begun_ns))
    {
        Some(newest) => newest.saturating_add(1 + (random & 0xffff)),
        None => random >> 1,
    };
    Ok(BackupId::new(begun_ns, number.to_le_bytes()))
}

/// The number at the end of a name, if it is of the same second.
fn number_in_second(id: &BackupId, begun_ns: u64) -> Option<u32> {
    let same = BackupId::new(begun_ns, [0; 4]);
    let (second, _) = same.as_str().rsplit_once('-')?;
    let (of_id, number) = id.as_str().rsplit_once('-')?;
    (of_id == second).then(|| u32::from_str_radix(number, 16).ok())?
}

/// Publishes a manifest that says how many bytes were stored, itself included (BK1).
fn publish(
    repository: &Repository,
    lock: &dyn WriterLock,
    mut manifest: Manifest,
    control: &Control,
) -> Result<BackupFacts> {
    let packed = control.progress().bytes_stored;
    // A number that has one digit more makes it longer, so it is tried again.
    for _ in 0..3 {
        let total = packed + manifest.encode().len() as u64;
        if manifest.facts.statistics.bytes_stored == total {
            break;
        }
        manifest.facts.statistics.bytes_stored = total;
    }
    let published = repository.publish(&manifest, &Mark::default(), lock)?;
    control.add_stored(published);
    Ok(manifest.facts)
}
