//! Which kind of backup is made, and what it is compared with.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::fault::{self, Fault};
use crate::repository::backup::{BackupOptions, Subject, Wanted};
use crate::repository::catalog::{Repository, is_of_future};
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log::has_gap_after;
use crate::repository::manifest::{BackupFacts, BackupKind, Manifest};
use crate::view::tree::Content;

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// How the backup is called.
    pub(super) kind: BackupKind,
    /// What it is compared with.
    pub(super) parent: Option<Manifest>,
    /// Why it is this.
    pub(super) why: &'static str,
}

/// Chooses at `now_ns`, nanoseconds since 1970. A backup whose manifest cannot be read is none.
///
/// Errors: `NoBase`; `Io` of the listing.
pub(super) fn choose(
    repository: &Repository,
    subject: &Subject,
    wanted: Wanted,
    now_ns: u64,
) -> Result<Plan> {
    if wanted == Wanted::Full {
        return Ok(full("a full one was asked for"));
    }
    let backups = backups_of(repository, subject, now_ns)?;
    let no_parent = |needed| {
        Err(RepositoryError::NoBase {
            source_place: subject.source.path.clone(),
            needed,
        })
    };
    let fulls = || {
        backups
            .iter()
            .filter(|facts| facts.kind == BackupKind::Full)
    };
    match wanted {
        Wanted::Full => Ok(full("a full one was asked for")),
        Wanted::Differential => match newest(repository, fulls())? {
            Some(parent) => Ok(Plan {
                kind: BackupKind::Differential,
                parent: Some(parent),
                why: "a differential one was asked for",
            }),
            None => no_parent("full"),
        },
        Wanted::Incremental => match newest(repository, backups.iter())? {
            Some(parent) => Ok(incremental(parent, "an incremental one was asked for")),
            None => no_parent("earlier"),
        },
        Wanted::Auto => {
            if let Some(why) = why_full(&backups, now_ns) {
                return Ok(full(why));
            }
            if let Some(last) = fulls().next()
                && has_gap_after(repository, last)?
            {
                return Ok(full(
                    "the archive of its log has a gap since the last full backup",
                ));
            }
            let parent = newest(repository, backups.iter())?;
            Ok(parent.map_or_else(
                || full("no earlier backup of this source can be read"),
                |parent| incremental(parent, "the last full backup is recent"),
            ))
        }
    }
}

fn full(why: &'static str) -> Plan {
    Plan {
        kind: BackupKind::Full,
        parent: None,
        why,
    }
}

fn incremental(parent: Manifest, why: &'static str) -> Plan {
    Plan {
        kind: BackupKind::Incremental,
        parent: Some(parent),
        why,
    }
}

/// Why `Auto` takes a full one, if it does. `backups` are those of the source, the newest first.
fn why_full(backups: &[BackupFacts], now_ns: u64) -> Option<&'static str> {
    if backups.is_empty() {
        return Some("there is no backup of this source yet");
    }
    let is_full = |facts: &BackupFacts| facts.kind == BackupKind::Full;
    let Some(since) = backups.iter().position(is_full) else {
        return Some("there is no full backup of this source any more");
    };
    if since >= BackupOptions::SINCE_FULL_MAX {
        return Some("there were 30 backups since the last full one");
    }
    if is_of_future(backups.get(since)?.begun_ns, now_ns) {
        return Some("the last full backup is dated in the future");
    }
    let age_ns = now_ns.saturating_sub(backups.get(since)?.begun_ns);
    let is_old = u128::from(age_ns) > BackupOptions::FULL_AGE_MAX.as_nanos();
    is_old.then_some("the last full backup is over 7 days old")
}

/// The backups of the same source, the newest first, and last those of the future. Of a native database only those of the line of
/// commits that it is on: a restored or copied one has nothing to build on.
fn backups_of(repository: &Repository, subject: &Subject, now_ns: u64) -> Result<Vec<BackupFacts>> {
    let lines = lines_of(subject);
    let is_of_source = |facts: &BackupFacts| {
        let has = |line: &(String, String)| {
            facts.databases.iter().any(|found| {
                (found.database.as_ref(), found.history.as_ref()) == (Some(&line.0), Some(&line.1))
            })
        };
        let (found, wanted) = (&facts.source, &subject.source);
        (&found.kind, &found.path) == (&wanted.kind, &wanted.path)
            && (lines.iter().all(has) || fault::is(Fault::ForeignBaseBelieved))
    };
    let mut backups = Vec::new();
    for (id, facts) in repository.backups()? {
        match facts {
            Ok(facts) if is_of_source(&facts) => backups.push(facts),
            Ok(_) => {}
            Err(error) => tracing::warn!(backup = %id, %error, "cannot be built on"),
        }
    }
    let age = |facts: &BackupFacts| {
        let is_past = !is_of_future(facts.begun_ns, now_ns);
        (is_past, facts.begun_ns, facts.id.clone())
    };
    backups.sort_by_cached_key(|facts| Reverse(age(facts)));
    Ok(backups)
}

/// Database and history of each native database, where the source is one.
fn lines_of(subject: &Subject) -> BTreeSet<(String, String)> {
    if subject.source.kind != super::NATIVE_KIND {
        return BTreeSet::new();
    }
    let versions = subject.tree.nodes().filter_map(|node| match &node.content {
        Content::Paged(pages) => pages.version(),
        _ => None,
    });
    let line = |version: crate::view::tree::PageVersion| {
        (version.database.to_string(), version.history.to_string())
    };
    versions.map(line).collect()
}

/// The first manifest of `backups` that can be read. Errors: `Store`.
fn newest<'a>(
    repository: &Repository,
    backups: impl Iterator<Item = &'a BackupFacts>,
) -> Result<Option<Manifest>> {
    for facts in backups {
        match repository.manifest(&facts.id) {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(error) => {
                let error = error.of_object()?;
                tracing::warn!(backup = %facts.id, %error, "cannot be built on");
            }
        }
    }
    Ok(None)
}
