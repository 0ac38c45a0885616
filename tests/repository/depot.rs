//! A repository on a machine of its own, and what it must hold.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use stillfs::os::sim::SimDisk;
use stillfs::os::{Host, SimulatedHost};
use stillfs::repository::crypt::{NewKeys, Unlock};
use stillfs::repository::{
    BackupFacts, BackupId, BackupKind, Control, Depth, Repository, VerifyOptions, VerifyReport,
    verify,
};

use crate::application::watched;
use crate::content::Content;
use crate::watched::Watch;

const DIR: &str = "/depot";

/// A test key and its recipient.
const KEY: [&str; 2] = [
    "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33",
    "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa",
];

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

/// A plain one that is lost is made again, and then is seen to be empty.
fn opened(host: &Host, unlock: &Unlock) -> Repository {
    let opened = Repository::open_or_create_with(host, Path::new(DIR), unlock);
    opened.expect("a repository that opens")
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Depot {
    pub(crate) machine: SimulatedHost,
    /// Looks at every call to the repository's disk.
    pub(crate) watch: Watch,
    pub(crate) repository: Repository,
    pub(crate) known: Catalog,
    /// What it is opened with.
    unlock: Unlock,
}

impl Depot {
    /// The repository on `machine`, made if there is none.
    pub(crate) fn on(machine: SimulatedHost, known: Catalog) -> Self {
        Self::unlocked(machine, known, Unlock::none())
    }

    /// An encrypted repository on `machine`, which has none.
    pub(crate) fn encrypted(machine: SimulatedHost) -> Self {
        let mut unlock = Unlock::none();
        let key = unlock.add_key_file(KEY[0].as_bytes());
        key.expect("an identity");
        let keys = NewKeys {
            recipients: vec![KEY[1].parse().expect("a recipient")],
            passphrase: None,
        };
        let made = Repository::create(&machine.host, Path::new(DIR), &keys);
        made.expect("a repository that can be made");
        Self::unlocked(machine, Catalog::new(), unlock)
    }

    fn unlocked(machine: SimulatedHost, known: Catalog, unlock: Unlock) -> Self {
        let watch = Watch::default();
        let host = watched(&machine, &watch);
        Self {
            repository: opened(&host, &unlock),
            machine,
            watch,
            known,
            unlock,
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
        self.repository = opened(&host, &self.unlock);
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
