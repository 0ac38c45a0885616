//! Where backups are restored: folders of the real machine, which are compared with the model.

// The scratch folders are the test's own.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use stillfs::Database;
use stillfs::database::{Create, EngineOptions, Header, PAGE_FILE};
use stillfs::os::Host;
use stillfs::repository::restore::{
    Examine, Existing, ReadBack, RestoreOptions, RestoreReport, restore,
};
use stillfs::repository::{BackupId, Control, DatabaseFacts, Repository, RepositoryError};

use crate::content::{Content, engine_options};
use crate::depot::{Depot, Known};
use crate::draw::Draw;
use crate::plan::Config;

/// Nobody else is there: what a target must be claimed against is for the tests of the command line.
#[derive(Debug)]
pub(crate) struct Alone;

impl Examine for Alone {
    fn claim(&self, _target: &Path) -> Result<Box<dyn Send>, RepositoryError> {
        Ok(Box::new(()))
    }

    /// Opens a copy, so that nothing is left beside the restored one.
    fn walk(&self, path: &Path, facts: &DatabaseFacts) -> Result<(), RepositoryError> {
        let unsound = |what: String| RepositoryError::Unsound {
            path: facts.path.clone(),
            what,
        };
        let copy = scratch();
        std::fs::copy(path, copy.path().join(PAGE_FILE))
            .map_err(|error| unsound(error.to_string()))?;
        let options = EngineOptions {
            create: Create::Never,
            ..EngineOptions::default()
        };
        let database = Database::open_on(&Host::system(), copy.path(), &options);
        let report = database.map_err(|error| unsound(error.to_string()))?;
        let report = report.check().map_err(|error| unsound(error.to_string()))?;
        match report.is_clean() {
            true => Ok(()),
            false => Err(unsound(format!("{report:?}"))),
        }
    }
}

/// A folder of ours, in memory where that can be had.
pub(crate) fn scratch() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("stillfs-repository.");
    builder
        .tempdir_in("/dev/shm")
        .or_else(|_| builder.tempdir())
        .expect("a scratch folder")
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Yard {
    dir: TempDir,
    made: u32,
    /// A database that was used and not closed: its log must not get over what is restored there.
    used: Option<PathBuf>,
    /// No two databases have one history.
    histories: BTreeSet<[u8; 16]>,
    /// Restores that were compared.
    pub(crate) restores: u64,
}

impl Yard {
    pub(crate) fn new() -> Self {
        Self {
            dir: scratch(),
            made: 0,
            used: None,
            histories: BTreeSet::new(),
            restores: 0,
        }
    }

    fn new_target(&mut self) -> PathBuf {
        self.made += 1;
        self.dir.path().join(self.made.to_string())
    }

    /// Restores a backup and compares every entry with the model's.
    pub(crate) fn check(&mut self, depot: &Depot, id: &BackupId, config: &Config, draw: &Draw) {
        let known = &depot.known[id];
        let (target, existing) = match self.used.take() {
            Some(used) => (used, Existing::Replaced),
            None => (self.new_target(), Existing::Refused),
        };
        let options = RestoreOptions {
            existing,
            read_back: draw.pick(&[ReadBack::Yes, ReadBack::No]),
        };
        if draw.one_in(6) {
            interrupt(depot, id, &target, options, draw);
        }
        let report = restored(&depot.repository, id, &target, options);
        assert_eq!(report.target, target, "restored {id}");
        self.compare(&target, known, id, &report, config);
        match draw.one_in(3) {
            true => {
                self.use_it(&target, config, draw);
                self.used = Some(target);
            }
            false => std::fs::remove_dir_all(&target).expect("the target goes"),
        }
        self.check_leavings(id);
    }

    /// Restores a backup to a new target, and compares it.
    pub(crate) fn check_calmly(&mut self, depot: &Depot, id: &BackupId, config: &Config) {
        let target = self.new_target();
        let options = RestoreOptions::default();
        let report = restored(&depot.repository, id, &target, options);
        self.compare(&target, &depot.known[id], id, &report, config);
        std::fs::remove_dir_all(&target).expect("the target goes");
    }

    /// Restores a backup and leaves it for the application.
    pub(crate) fn restore(&mut self, depot: &Depot, id: &BackupId) -> PathBuf {
        let target = self.new_target();
        restored(&depot.repository, id, &target, RestoreOptions::default());
        target
    }

    fn compare(
        &mut self,
        target: &Path,
        known: &Known,
        id: &BackupId,
        report: &RestoreReport,
        config: &Config,
    ) {
        let database = open_restored(target, config);
        let read = database.begin_read().expect("a read");
        let differs = known.content.compare(&read, config).expect("a read");
        assert_eq!(differs, None, "restored {id}, a {:?} backup", known.kind);
        let checked = database.check().expect("a check");
        assert!(checked.is_clean(), "restored {id}: {checked:?}");
        let facts = &report.facts.databases[0];
        assert_eq!(Some(read.timestamp().0), facts.timestamp, "commit of {id}");
        self.check_history(&database.engine().header(), id, report);
        self.restores += 1;
    }

    /// BK9: a history that no other has; the engine that opened it goes on from there in one of its own.
    fn check_history(&mut self, header: &Header, id: &BackupId, report: &RestoreReport) {
        let parent = header.parent_history.expect("it was forked off");
        let told: Vec<&str> = report
            .histories
            .iter()
            .map(|(_, new)| new.as_str())
            .collect();
        assert_eq!(told, [parent.to_string()], "what was told of {id}");
        let before = report.facts.databases[0].history.as_deref();
        assert_ne!(before, Some(told[0]), "restored {id}");
        for history in [parent, header.history] {
            let is_new = self.histories.insert(history.0);
            assert!(is_new, "a history of restored {id} is another one's too");
        }
    }

    /// The restored is a database like any other: it is written to, and its log is left behind.
    fn use_it(&self, target: &Path, config: &Config, draw: &Draw) {
        let database = open_restored(target, config);
        let newest = parking_lot::Mutex::new(Content::default());
        crate::application::transact(&database, &newest, config, draw, 8);
        if draw.one_in(2) {
            database.checkpoint().expect("a checkpoint");
            crate::application::transact(&database, &newest, config, draw, 8);
        }
    }

    /// Nothing but the used target stands in the yard: no folder of a restore under way.
    fn check_leavings(&self, id: &BackupId) {
        let left = std::fs::read_dir(self.dir.path()).expect("a list");
        let left: Vec<PathBuf> = left.map(|entry| entry.expect("an entry").path()).collect();
        let expected: Vec<PathBuf> = self.used.iter().cloned().collect();
        assert_eq!(left, expected, "after the restore of {id}");
    }
}

fn open_restored(target: &Path, config: &Config) -> Database {
    let options = EngineOptions {
        create: Create::Never,
        ..engine_options(config)
    };
    Database::open_on(&Host::system(), target, &options).expect("a restored database opens")
}

fn restored(
    repository: &Repository,
    id: &BackupId,
    target: &Path,
    options: RestoreOptions,
) -> RestoreReport {
    let outcome = restore(repository, id, target, options, &Alone, &Control::default());
    outcome.unwrap_or_else(|error| panic!("a restore of {id}: {error}"))
}

/// A restore that is cancelled at some call to the repository; if it was late, its target goes again.
fn interrupt(depot: &Depot, id: &BackupId, target: &Path, options: RestoreOptions, draw: &Draw) {
    let control = Control::default();
    let (cancel, mut left) = (control.clone(), draw.below(12));
    let hook = move |_| match left {
        0 => cancel.cancel(),
        _ => left -= 1,
    };
    let outcome = depot.watch.during(hook, || {
        restore(&depot.repository, id, target, options, &Alone, &control)
    });
    match outcome {
        Err(RepositoryError::Cancelled) => {}
        Err(error) => panic!("a cancelled restore of {id}: {error}"),
        Ok(_) if options.existing == Existing::Replaced => {}
        Ok(_) => std::fs::remove_dir_all(target).expect("the target goes"),
    }
}
