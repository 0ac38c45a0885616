//! Whether a piece is what it says, to the last record.

use crate::engine::{LogSegmentHeader, whole_log_records};
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log::name::{FOLDER, LogName};
use crate::repository::log::piece::{CommitStamp, read_facts, read_piece};

/// Checks the object `name` of the folder of logs: its head, and where `is_read` every record of it. Gives
/// the bytes that were read of its records.
///
/// Errors: `Missing`, `Cut`, `Version`, `Damaged`, `OtherContent`, `Io`.
pub(in crate::repository) fn check_piece(
    repository: &Repository,
    name: &str,
    is_read: bool,
) -> Result<u64> {
    let object = format!("{FOLDER}/{name}");
    let damaged = |what| RepositoryError::Damaged {
        object: object.clone(),
        what,
    };
    let name = LogName::parse(name)
        .ok_or_else(|| damaged("it has no name of anything that belongs there"))?;
    let store = repository.store();
    if name.is_gap {
        return match store.size(&object)? {
            0 => Ok(0),
            _ => Err(damaged("a gap is empty")),
        };
    }
    store.read_afresh(&object);
    let facts = read_facts(repository, &name)?;
    if !is_read {
        return Ok(0);
    }
    let piece = read_piece(repository, &facts)?;
    let Some(Ok(header)) = LogSegmentHeader::decode(&piece.segment) else {
        return Err(damaged("the header of its segment is damaged"));
    };
    let (count, commits) = whole_log_records(&header, facts.first, &piece.records, usize::MAX);
    let stamps = [commits.first(), commits.last()].map(|one| one.map(CommitStamp::of));
    let is_right = count == piece.records.len()
        && stamps == [facts.first_commit, facts.last_commit]
        && commits.len() as u64 == u64::from(facts.commit_count);
    match is_right {
        true => Ok(facts.stored_bytes),
        false => Err(damaged("its records are not what its head says")),
    }
}
