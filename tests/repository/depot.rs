//! A repository on a machine of its own, and what it must hold.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use stillfs::os::SimulatedHost;
use stillfs::os::sim::SimDisk;
use stillfs::repository::{
    BackupFacts, BackupId, BackupKind, Control, Depth, Repository, VerifyOptions, VerifyReport,
    verify,
};

use crate::application::watched;
use crate::content::Content;
use crate::watched::Watch;

const DIR: &str = "/depot";

/// What a backup must be.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// What its database holds.
    pub(crate) content: Arc<Content>,
    pub(crate) kind: BackupKind,
    /// The line of commits that it is of.
    pub(crate) history: Option<String>,
    pub(crate) is_held: bool,
}

impl Known {
    pub(crate) fn new(content: &Arc<Content>, facts: &BackupFacts) -> Self {
        Self {
            content: content.clone(),
            kind: facts.kind,
            history: facts.databases[0].history.clone(),
            is_held: false,
        }
    }
}

/// All backups of a repository.
pub(crate) type Catalog = BTreeMap<BackupId, Known>;

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Depot {
    pub(crate) machine: SimulatedHost,
    /// Looks at every call to the repository's disk.
    pub(crate) watch: Watch,
    pub(crate) repository: Repository,
    pub(crate) known: Catalog,
}

impl Depot {
    /// The repository on `machine`, made if there is none.
    pub(crate) fn on(machine: SimulatedHost, known: Catalog) -> Self {
        let watch = Watch::default();
        let host = watched(&machine, &watch);
        let opened = Repository::open_or_create(&host, Path::new(DIR));
        Self {
            repository: opened.expect("a repository that opens"),
            machine,
            watch,
            known,
        }
    }

    /// A machine on which there is no repository yet; until one is made, this is a handle of another.
    pub(crate) fn unmade(machine: SimulatedHost) -> Self {
        let elsewhere = machine.with_disk(SimDisk::new(1));
        Self {
            machine,
            ..Self::on(elsewhere, Catalog::new())
        }
    }

    /// Where the repository is on its machine.
    pub(crate) fn dir() -> &'static Path {
        Path::new(DIR)
    }

    /// The process of the repository's user ended, or its machine did; it is opened again.
    pub(crate) fn reopen_on(&mut self, machine: SimulatedHost) {
        self.machine = machine;
        let host = watched(&self.machine, &self.watch);
        // One that is lost would be made again, and then be seen to be empty.
        let opened = Repository::open_or_create(&host, Path::new(DIR));
        self.repository = opened.expect("a repository that opens");
    }

    /// Exactly the backups of the model are listed.
    pub(crate) fn check_list(&self, when: &str) {
        let listed = self.repository.ids().expect("a list");
        let known: Vec<BackupId> = self.known.keys().cloned().collect();
        assert_eq!(listed, known, "the list {when}");
    }

    /// Verifies all backups and finds nothing.
    pub(crate) fn verify(&self, depth: Depth, when: &str) -> VerifyReport {
        let options = VerifyOptions {
            backup: None,
            depth,
            restore_test: None,
        };
        let report = verify(&self.repository, &options, &Control::default());
        let report = report.unwrap_or_else(|error| panic!("a verification {when}: {error}"));
        assert_eq!(report.findings, [], "verified {when}");
        assert_eq!(
            report.backup_count,
            self.known.len() as u64,
            "verified {when}"
        );
        let mut verified = report.verified.clone();
        verified.sort();
        let whole: Vec<BackupId> = match depth {
            Depth::ReadData => self.known.keys().cloned().collect(),
            Depth::Structure | Depth::Sample(_) => Vec::new(),
        };
        assert_eq!(verified, whole, "said to be verified {when}");
        report
    }
}
