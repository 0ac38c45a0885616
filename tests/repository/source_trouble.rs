//! Troubles of the source while it is backed up: nothing is published, and the pin is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use stillfs::database::{OnFull, PinOptions};
use stillfs::os::sim::{Fault, Faults, Operation};
use stillfs::repository::backup::{BackupOptions, Subject, Wanted, backup};
use stillfs::repository::{Control, Depth, RepositoryError};
use stillfs::view::tree::ReadError;

use crate::application::{Application, transact};
use crate::depot::{Catalog, Depot, Known};
use crate::draw::Draw;
use crate::plan::Config;
use crate::trouble::EIO;
use crate::watched::Call;
use crate::yard::Yard;

/// An application and its repository, with one backup.
struct Pair {
    application: Application,
    depot: Depot,
    draw: Draw,
}

fn options() -> BackupOptions {
    BackupOptions {
        // What has changed must be read, and so must what cannot be known to be unchanged.
        wanted: Wanted::Full,
        workers: 1,
        ..BackupOptions::default()
    }
}

impl Pair {
    fn new(seed: u64) -> Self {
        let draw = Draw::new(seed);
        let config = Config {
            keys: 100,
            long_values: 3,
            ..Config::draw(&draw)
        };
        let application = Application::new(seed, config);
        for _ in 0..5 {
            application.write(&draw, 30);
        }
        application.checkpoint();
        let depot = Depot::on(application.another_machine(seed), Catalog::new());
        let mut pair = Self {
            application,
            depot,
            draw,
        };
        pair.succeed();
        // Some pages of the next view are in the live file, and some in the log.
        pair.application.write(&pair.draw, 10);
        pair
    }

    /// A backup without trouble.
    fn succeed(&mut self) {
        let content = self.application.content();
        let subject = self.application.subject();
        let repository = &self.depot.repository;
        let report = backup(repository, subject, &options(), &Control::default());
        let facts = report.expect("a backup").facts;
        let known = Known::new(&content, &facts);
        self.depot.known.insert(facts.id, known);
    }

    /// After a backup that failed.
    fn check(&self, when: &str) {
        assert_eq!(self.application.database.stats().pins, 0, "{when}");
        self.depot.check_list(when);
        self.depot.verify(Depth::ReadData, when);
    }
}

/// BK7, BK11: whichever read of the live file fails, no backup of it comes to be.
pub(crate) fn read_errors_fail_the_backup(seed: u64) {
    let pair = Pair::new(seed);
    let mut number = 0;
    loop {
        let when = format!("read {number} of the source fails");
        let subject = pair.application.subject();
        let disk = &pair.application.machine.disk;
        let before = disk.count(Operation::Read);
        let fault = Fault::errno(Operation::Read, EIO)
            .after(number)
            .times(u64::MAX);
        disk.set_faults(Faults::none().with(fault));
        let repository = &pair.depot.repository;
        let outcome = backup(repository, subject, &options(), &Control::default());
        disk.set_faults(Faults::none());
        let is_over = disk.count(Operation::Read) - before <= number;
        match outcome {
            Err(RepositoryError::View { .. }) if !is_over => pair.check(&when),
            Ok(_) if is_over => break,
            other => panic!("{when}: {other:?}"),
        }
        number += 1;
    }
    assert!(number > 3, "{number} reads");
    // The last one went well.
    let listed = pair.depot.repository.ids().expect("a list");
    assert_eq!(listed.len(), 2);
    pair.application.write(&pair.draw, 1);
}

/// BK7, BK11: a pin that ends before the last byte was read, by its limit, ends the backup too.
pub(crate) fn pin_that_breaks_fails_the_backup(seed: u64) {
    let mut broken = 0;
    for number in 0.. {
        let mut pair = Pair::new(seed);
        // What the live file lacks is kept from the start; of the rest hardly anything may be.
        pair.application.checkpoint();
        let page_bytes = u64::from(pair.application.config.page_size.get());
        let limits = PinOptions {
            on_full: OnFull::Break,
            shadow_limit_bytes: Some(6 * page_bytes),
            ..PinOptions::default()
        };
        let content = pair.application.content();
        let subject = Subject::of_database(&pair.application.database, &limits).expect("a pin");
        let calls = Arc::new(AtomicU64::new(0));
        let hook = {
            let (database, newest) = (
                pair.application.database.clone(),
                pair.application.newest.clone(),
            );
            let (config, draw) = (pair.application.config.clone(), Draw::new(seed));
            let calls = calls.clone();
            move |call| {
                // The end of a pin changes files under a lock that writers need.
                if call != Call::Read {
                    return;
                }
                if calls.fetch_add(1, Ordering::Relaxed) == number {
                    overwrite_all(&database, &newest, &config, &draw);
                }
            }
        };
        let repository = &pair.depot.repository;
        let watch = pair.application.watch.clone();
        let outcome = watch.during(hook, || {
            backup(repository, subject, &options(), &Control::default())
        });
        let when = format!("the pin breaks at call {number}");
        match outcome {
            Err(RepositoryError::View { source, .. }) => {
                let is_end = matches!(source, ReadError::PinEnded { .. });
                assert!(is_end, "{when}: {source}");
                pair.check(&when);
                broken += 1;
            }
            Err(error) => panic!("{when}: {error}"),
            Ok(report) => {
                let known = Known::new(&content, &report.facts);
                let id = report.facts.id.clone();
                pair.depot.known.insert(id.clone(), known);
                pair.check(&when);
                let config = pair.application.config.clone();
                Yard::new().check(&pair.depot, &id, &config, &pair.draw);
                if number >= calls.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    }
    assert!(broken > 3, "{broken} backups of pins that broke");
}

/// Writes until every page of the live file is another.
fn overwrite_all(
    database: &stillfs::Database,
    newest: &Mutex<crate::content::Content>,
    config: &Config,
    draw: &Draw,
) {
    for _ in 0..12 {
        transact(database, newest, config, draw, 60);
        database.checkpoint().expect("a checkpoint");
    }
}
