//! What a restore must know of engines: who has a target open, and whether a restored database is sound.

mod claim;

use std::io;
use std::path::Path;

use crate::cli::check;
use crate::cli::examiner::claim::Aim;
use crate::os::Host;
use crate::repository::restore::Examine;
use crate::repository::{DatabaseFacts, RepositoryError};
use crate::source::sqlite;

/// Both engines of this program, as `repository` asks for them.
#[derive(Debug)]
pub(crate) struct Examiner {
    host: Host,
}

impl Examiner {
    pub(crate) fn new(host: &Host) -> Self {
        Self { host: host.clone() }
    }
}

impl Examine for Examiner {
    fn claim(&self, target: &Path) -> Result<Box<dyn Send>, RepositoryError> {
        Ok(Box::new(claim::claim(&self.host, target, Aim::Replace)?))
    }

    fn look(&self, target: &Path) -> Result<(), RepositoryError> {
        claim::claim(&self.host, target, Aim::Look).map(drop)
    }

    fn walk(&self, path: &Path, facts: &DatabaseFacts) -> Result<(), RepositoryError> {
        let found = match &*facts.kind {
            sqlite::KIND => check::problem_of_sqlite(&self.host, path),
            _ => check::problem_of_native(&self.host, path),
        };
        match found {
            Ok(None) => Ok(()),
            Ok(Some(what)) => Err(RepositoryError::Unsound {
                path: facts.path.clone(),
                what,
            }),
            Err(failure) => Err(RepositoryError::Io {
                op: "check",
                object: path.display().to_string(),
                source: io::Error::other(failure.text()),
            }),
        }
    }
}
