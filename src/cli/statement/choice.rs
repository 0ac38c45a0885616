//! Which backup a RESTORE means.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::anyhow;

use crate::cli::exit::Failure;
use crate::cli::listing;
use crate::os::machine;
use crate::repository::{BackupFacts, BackupId, Repository};
use crate::source::native;

/// The one called `name`; else the newest of the database in `dir`; else the newest of the only database
/// in the repository. What is of the future is taken only if there is nothing else.
///
/// Shape: `dir` without links. Errors: `NoBackup`; one that is not of a single database of stillfs; none, or
/// several of other databases.
pub(super) fn choose(
    repository: &Repository,
    name: Option<&str>,
    dir: &Path,
) -> Result<BackupId, Failure> {
    if let Some(name) = name {
        let id = repository.find(name)?;
        return match is_of_database(&repository.facts(&id)?) {
            true => Ok(id),
            false => Err(Failure::from(anyhow!(
                "{id} is not of a single database of stillfs: restore it with `stillfs restore`"
            ))),
        };
    }
    let here = machine::name();
    let (mut of_this, mut newest) = (None, BTreeMap::new());
    for (id, facts) in repository.backups()? {
        let Ok(facts) = facts else { continue };
        if !is_of_database(&facts) {
            continue;
        }
        let (is_future, source) = (
            repository.is_of_future(&id),
            listing::source(&facts.source, &here),
        );
        let is_this = facts.source.host == here && Path::new(&facts.source.path) == dir;
        if is_this && (!is_future || of_this.is_none()) {
            of_this = Some(id.clone());
        }
        if !is_future || !newest.contains_key(&source) {
            newest.insert(source, id);
        }
    }
    if let Some(id) = of_this {
        return Ok(id);
    }
    let named = newest
        .iter()
        .map(|(source, id)| format!("{id} of {source}"));
    let named = named.collect::<Vec<_>>().join(", ");
    match (newest.len(), newest.pop_first()) {
        (1, Some((_, id))) => Ok(id),
        (0, _) => Err(Failure::from(anyhow!(
            "the repository has no backup of a database of stillfs by itself"
        ))),
        (count, _) => Err(Failure::from(anyhow!(
            "the repository has backups of {count} databases, and none of this one: name one with \
             BACKUP: {named}"
        ))),
    }
}

fn is_of_database(facts: &BackupFacts) -> bool {
    facts.source.kind == native::KIND && facts.databases.len() == 1
}
