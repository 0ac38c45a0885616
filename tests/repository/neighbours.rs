//! Two at one repository: a second writer is refused, a reader is not disturbed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use stillfs::os::SimulatedHost;
use stillfs::repository::backup::{BackupOptions, Wanted, backup};
use stillfs::repository::{
    BackupId, Control, Depth, Keep, Repository, RepositoryError, Run, forget, prune,
};

use crate::application::Application;
use crate::depot::{Catalog, Depot, Known};
use crate::draw::Draw;
use crate::plan::Config;
use crate::yard::Yard;

/// An application and a repository with a few full backups of much different content.
struct Scene {
    application: Application,
    depot: Depot,
    draw: Draw,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let draw = Draw::new(seed);
        let config = Config {
            keys: 300,
            long_values: 3,
            ..Config::draw(&draw)
        };
        let application = Application::new(seed, config);
        let depot = Depot::on(application.another_machine(seed), Catalog::new());
        let mut scene = Self {
            application,
            depot,
            draw,
        };
        for _ in 0..3 {
            scene.application.write(&scene.draw, 60);
            scene.back_up();
        }
        scene
    }

    fn back_up(&mut self) -> BackupId {
        self.application
            .machine
            .clock
            .advance(Duration::from_secs(1));
        let options = BackupOptions {
            wanted: Wanted::Full,
            workers: 1,
            ..BackupOptions::default()
        };
        let content = self.application.content();
        let subject = self.application.subject();
        let repository = &self.depot.repository;
        let report = backup(repository, subject, &options, &Control::default());
        let facts = report.expect("a backup").facts;
        let id = facts.id.clone();
        let known = Known::new(&content, &facts);
        self.depot.known.insert(id.clone(), known);
        id
    }
}

/// The repository as another process has it.
fn another(machine: &SimulatedHost) -> Repository {
    let host = stillfs::os::Host {
        disk: Arc::new(machine.disk.another_process()),
        ..machine.host.clone()
    };
    Repository::open(&host, Depot::dir()).expect("a repository that opens")
}

/// BK3: from the lock on to the end of the backup nobody else forgets or prunes.
pub(crate) fn second_writer_is_refused(seed: u64) {
    let mut scene = Scene::new(seed);
    let neighbour = another(&scene.depot.machine);
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (outcomes, neighbour) = (outcomes.clone(), neighbour.clone());
        move |_| {
            let keep = Keep {
                last: 1000,
                ..Keep::default()
            };
            let forgotten = forget(&neighbour, &keep, Run::Really).map(drop);
            let pruned = prune(&neighbour, Run::Really, &Control::default()).map(drop);
            for outcome in [forgotten, pruned] {
                let is_refused = matches!(outcome, Err(RepositoryError::Locked { .. }));
                assert!(is_refused || outcome.is_ok(), "{outcome:?}");
                outcomes.lock().push(is_refused);
            }
        }
    };
    scene.application.write(&scene.draw, 60);
    let watch = scene.depot.watch.clone();
    watch.during(hook, || drop(scene.back_up()));
    let refused: Vec<bool> = outcomes.lock().clone();
    let first = refused.iter().position(|is_refused| *is_refused);
    let last = refused.iter().rposition(|is_refused| *is_refused);
    let (first, last) = (first.expect("one refusal"), last.expect("one refusal"));
    assert!(refused[first..=last].iter().all(|is_refused| *is_refused));
    assert!(last - first > 4, "{refused:?}");
    prune(&neighbour, Run::Really, &Control::default()).expect("the lock is gone");
    scene.depot.check_list("after both");
    scene.depot.verify(Depth::ReadData, "after both");
}

/// BK2, BK3: packs are taken away and hollowed while a backup is restored that stays.
pub(crate) fn reader_is_not_disturbed(seed: u64) {
    let mut scene = Scene::new(seed);
    let newest = scene.back_up();
    let images = scene.depot.machine.disk.clone();
    let known = scene.depot.known.clone();
    let mut yard = Yard::new();
    for number in 0..60 {
        let disk = images.image_after_crash(scene.draw.next());
        let machine = scene.application.machine.with_disk(disk);
        let mut depot = Depot::on(machine, known.clone());
        let neighbour = another(&depot.machine);
        let report = Arc::new(Mutex::new(None));
        let hook = {
            let (mut left, report) = (number, report.clone());
            move |_| {
                if left == 0 {
                    let keep = Keep {
                        last: 1,
                        ..Keep::default()
                    };
                    forget(&neighbour, &keep, Run::Really).expect("a forget");
                    let pruned = prune(&neighbour, Run::Really, &Control::default());
                    *report.lock() = Some(pruned.expect("a prune"));
                }
                left -= 1;
            }
        };
        let watch = depot.watch.clone();
        let config = &scene.application.config;
        watch.during(hook, || yard.check_calmly(&depot, &newest, config));
        let Some(report) = report.lock().take() else {
            assert!(number > 4, "{number} calls");
            return;
        };
        assert!(
            report.packs_removed + report.packs_hollowed > 0,
            "{report:?}"
        );
        depot.known.retain(|id, _| *id == newest);
        depot.check_list("after a prune");
        depot.verify(Depth::ReadData, "after a prune");
    }
}
