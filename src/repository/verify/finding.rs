//! What is wrong, by object, and whom it spoils.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::repository::backup_id::BackupId;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::verify::VerifyFinding;

/// Whom a finding spoils.
#[derive(Debug, Default)]
struct Spoilt {
    backups: BTreeSet<BackupId>,
    paths: BTreeSet<PathBuf>,
}

/// Findings, one for each fault of each object.
#[derive(Debug, Default)]
pub(super) struct Findings {
    by_fault: BTreeMap<(String, String), Spoilt>,
}

impl Findings {
    /// Notes that `what` is wrong with `object`.
    pub(super) fn add(&mut self, object: &str, what: &str) {
        self.entry(object, what);
    }

    /// The same, and that it spoils `backup`.
    pub(super) fn add_for(&mut self, object: &str, what: &str, backup: &BackupId) {
        self.entry(object, what).backups.insert(backup.clone());
    }

    /// The same, and that it spoils the file `path` of `backup`.
    pub(super) fn add_file(&mut self, object: &str, what: &str, backup: &BackupId, path: &[u8]) {
        let spoilt = self.entry(object, what);
        spoilt.backups.insert(backup.clone());
        if spoilt.paths.len() < VerifyFinding::PATHS_MAX {
            spoilt.paths.insert(PathBuf::from(OsStr::from_bytes(path)));
        }
    }

    fn entry(&mut self, object: &str, what: &str) -> &mut Spoilt {
        let key = (object.to_owned(), what.to_owned());
        self.by_fault.entry(key).or_default()
    }

    /// Whether any of them spoils `backup`.
    pub(super) fn spoil(&self, backup: &BackupId) -> bool {
        self.by_fault
            .values()
            .any(|spoilt| spoilt.backups.contains(backup))
    }

    /// What is left when nothing is said of backups that `are_gone`.
    pub(super) fn finish(self, are_gone: impl Fn(&BackupId) -> bool) -> Vec<VerifyFinding> {
        let findings = self.by_fault.into_iter();
        let findings = findings.filter_map(|((object, what), mut spoilt)| {
            let had_backups = !spoilt.backups.is_empty();
            spoilt.backups.retain(|id| !are_gone(id));
            let is_moot = had_backups && spoilt.backups.is_empty();
            (!is_moot).then(|| VerifyFinding {
                object,
                what,
                backups: spoilt.backups.into_iter().collect(),
                paths: spoilt.paths.into_iter().collect(),
            })
        });
        findings.collect()
    }
}

/// What `error` says of an object that is named beside it.
pub(super) fn fault_of(error: &RepositoryError) -> String {
    match error {
        RepositoryError::Missing { .. } | RepositoryError::NoBackup { .. } => {
            "it is missing".to_owned()
        }
        RepositoryError::Cut { bytes, needed, .. } => {
            format!("it ends at {bytes} bytes, and {needed} are needed")
        }
        RepositoryError::Damaged { what, .. } => (*what).to_owned(),
        RepositoryError::Version { found, known, .. } => {
            format!("it has format {found}, and this stillfs reads up to {known}")
        }
        RepositoryError::OtherContent { .. } => {
            "content has another digest than was backed up".to_owned()
        }
        RepositoryError::Io { op, source, .. } => format!("cannot {op} it: {source}"),
        error => error.to_string(),
    }
}

/// As [`fault_of`], of what may be a fault of an object.
///
/// Errors: `error` itself where a store did not answer, which says nothing of what it has.
pub(super) fn fault_in(error: RepositoryError) -> Result<String> {
    Ok(fault_of(&error.of_object()?))
}

/// Paths as text: JSON has no room for bytes that are none.
pub(super) fn as_text<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
    let texts = paths
        .iter()
        .map(PathBuf::as_path)
        .map(Path::to_string_lossy);
    texts.collect::<Vec<_>>().serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(second: u64) -> BackupId {
        BackupId::new(second * 1_000_000_000, [0; 4])
    }

    #[test]
    fn faults_of_one_kind_are_one_finding_and_name_a_bounded_number_of_files() {
        let mut findings = Findings::default();
        findings.add("packs/0", "torn");
        for number in 0..30_u8 {
            let path = [b'a' + number % 26, b'0' + number / 26];
            findings.add_file("packs/0", "torn", &id(u64::from(number % 2)), &path);
        }
        findings.add("packs/1", "torn");
        assert!(findings.spoil(&id(1)) && !findings.spoil(&id(2)));
        let found = findings.finish(|_| false);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].backups, [id(0), id(1)]);
        assert_eq!(found[0].paths.len(), VerifyFinding::PATHS_MAX);
        assert!(found[1].backups.is_empty());
    }

    #[test]
    fn nothing_is_said_of_a_backup_that_is_gone() {
        let mut findings = Findings::default();
        findings.add_for("packs/0", "missing", &id(1));
        findings.add_for("packs/1", "missing", &id(1));
        findings.add_for("packs/1", "missing", &id(2));
        findings.add("packs/2", "torn");
        let found = findings.finish(|backup| *backup == id(1));
        let found: Vec<_> = found
            .iter()
            .map(|f| (&*f.object, f.backups.len()))
            .collect();
        assert_eq!(found, [("packs/1", 1), ("packs/2", 0)]);
    }

    #[test]
    fn path_that_is_no_text_can_still_be_written_as_json() {
        let mut findings = Findings::default();
        findings.add_file("packs/0", "torn", &id(1), b"a\xff");
        let text = serde_json::to_string(&findings.finish(|_| false)).unwrap();
        assert!(text.contains("a\u{fffd}"), "{text}");
    }
}
