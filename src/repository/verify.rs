//! Whether backups are what they say.
//!
//! ```text
//! manifests --what they need--> packs, each once --slots, what is wrong--> manifests, once more
//!   decoded, marks                in parallel: directory, frames             sizes, digests of files,
//!                                                                            who is spoilt by what
//! ```
//!
//! Nothing stops it but the end or whoever cancels it: what cannot be read is a finding, and the others
//! are looked at all the same. No lock is taken; a pack that prune replaces meanwhile is read again, and
//! what is said of a backup that is forgotten meanwhile is dropped. Memory: 36 bytes for each unit that is
//! stored, and a frame for each worker.

mod content;
#[cfg(test)]
mod damage_test;
mod finding;
mod pack_check;
mod restore_test;
mod survey;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use crate::repository::backup_id::BackupId;
use crate::repository::catalog::Repository;
use crate::repository::error::Result;
use crate::repository::job::watched;
use crate::repository::progress::Control;
use crate::repository::restore::Examine;
use crate::repository::verify::survey::Survey;

/// How much is read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Depth {
    /// Manifests, and the directories of the packs that they name.
    #[default]
    Structure,
    /// That, and a share (0 to 1) of the frames, drawn at random.
    Sample(f64),
    /// Every byte.
    ReadData,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct VerifyOptions<'a> {
    /// One backup, or all; with all, packs that no backup names and strange objects are looked at too.
    pub backup: Option<&'a BackupId>,
    /// How much is read.
    pub depth: Depth,
    /// Restore each into a scratch folder, and have its databases opened and walked.
    pub restore_test: Option<RestoreTest<'a>>,
}

/// See [`VerifyOptions::restore_test`].
#[derive(Clone, Copy)]
pub struct RestoreTest<'a> {
    /// Where; the folder in it that is made goes again.
    pub scratch: &'a std::path::Path,
    /// Who opens and walks.
    pub examine: &'a dyn Examine,
}

impl fmt::Debug for RestoreTest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestoreTest")
            .field("scratch", &self.scratch)
            .finish_non_exhaustive()
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct VerifyFinding {
    /// The object, as `packs/00ff...`.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// The backups that it spoils; none if nobody needs it.
    pub backups: Vec<BackupId>,
    /// Their files that it spoils, at most [`VerifyFinding::PATHS_MAX`].
    #[serde(serialize_with = "finding::as_text")]
    pub paths: Vec<PathBuf>,
}

impl VerifyFinding {
    /// More paths than this are not named.
    pub const PATHS_MAX: usize = 20;
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct VerifyReport {
    /// What is wrong.
    pub findings: Vec<VerifyFinding>,
    /// Backups of which every byte was read back and checked, with nothing wrong (BK10).
    pub verified: Vec<BackupId>,
    /// Backups that were looked at.
    pub backup_count: u64,
    /// Packs that were looked at.
    pub pack_count: u64,
    /// Pieces of logs that were looked at.
    pub log_piece_count: u64,
    /// Bytes that were read of frames and pieces.
    pub bytes_read: u64,
    /// What is of no use and does no harm: packs that no backup needs, leftovers of interrupted writers.
    pub notes: Vec<String>,
}

/// Verifies, and marks what was verified whole (BK10); what was so marked before and is not whole any more
/// loses that. A finding is no error.
///
/// Errors: `NoBackup`, `Cancelled`; `Io` where the repository cannot be listed; what stands in the way of a
/// restore test and is not the backup's: `NoSpace`, `TargetExists`, `Target`.
pub fn verify(
    repository: &Repository,
    options: &VerifyOptions<'_>,
    control: &Control,
) -> Result<VerifyReport> {
    watched(control, || Survey::new(repository, options, control)?.all())
}
