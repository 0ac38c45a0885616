//! The life of a repository in a few jobs, each of which is done again and again with another trouble.

use std::sync::Arc;
use std::time::Duration;

use stillfs::os::SimulatedHost;
use stillfs::os::sim::{Faults, SimDisk};
use stillfs::repository::backup::{BackupOptions, Wanted, backup};
use stillfs::repository::{
    BackupId, Compression, Control, Depth, Keep, Repository, RepositoryError, Run, VerifyOptions,
    copy, forget, prune, verify,
};

use crate::application::{Application, watched};
use crate::content::Content;
use crate::depot::{Catalog, Depot, Known};
use crate::draw::Draw;
use crate::plan::Config;
use crate::trouble::{Calls, Trouble};
use crate::yard::Yard;

/// A job of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Makes the repository.
    Create,
    Backup(Wanted),
    Forget,
    Prune,
    /// Into the second repository; the trouble is there, or where it is read.
    Copy(Side),
    Hold,
    Verify,
}

/// Which of two repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    From,
    To,
}

/// The jobs, and how many transactions are made before each.
pub(crate) const LIFE: &[(Job, u64)] = &[
    (Job::Create, 3),
    (Job::Backup(Wanted::Full), 3),
    (Job::Backup(Wanted::Incremental), 2),
    (Job::Backup(Wanted::Full), 40),
    (Job::Copy(Side::From), 0),
    (Job::Copy(Side::To), 0),
    (Job::Hold, 0),
    (Job::Verify, 0),
    (Job::Forget, 0),
    (Job::Prune, 0),
    (Job::Backup(Wanted::Differential), 1),
    (Job::Backup(Wanted::Auto), 0),
];

/// The disks of both repositories, and what is on them.
#[derive(Clone, Debug)]
struct Stage {
    disks: [SimDisk; 2],
    known: [Catalog; 2],
}

/// Repositories as they are for one try.
#[derive(Debug)]
struct Set {
    depots: [Depot; 2],
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Scene {
    application: Application,
    yard: Yard,
    draw: Draw,
    stage: Stage,
    pub(crate) strikes: u64,
}

impl Job {
    /// The repository that has the trouble.
    fn target(self) -> usize {
        usize::from(self == Self::Copy(Side::To))
    }
}

impl Scene {
    pub(crate) fn new(seed: u64) -> Self {
        let draw = Draw::new(seed);
        let config = Config {
            keys: 60,
            long_values: 6,
            ..Config::draw(&draw)
        };
        let application = Application::new(seed, config);
        let disk = |number: u64| SimDisk::new(seed ^ (number << 32));
        Self {
            application,
            yard: Yard::new(),
            draw,
            stage: Stage {
                disks: [disk(1), disk(2)],
                known: Default::default(),
            },
            strikes: 0,
        }
    }

    /// Does every job of the life with each of the troubles that `which` picks of the calls it makes.
    pub(crate) fn live(&mut self, which: impl Fn(Job, &Calls) -> Vec<Trouble>) {
        for (job, writes) in LIFE {
            for _ in 0..*writes {
                self.application.write(&self.draw, self.draw.between(1, 20));
            }
            if self.draw.one_in(3) {
                self.application.checkpoint();
            }
            self.application
                .machine
                .clock
                .advance(Duration::from_secs(3600));
            let (calls, next) = self.rehearse(*job);
            for trouble in which(*job, &calls) {
                let again = std::panic::AssertUnwindSafe(|| self.strike(*job, trouble));
                if let Err(cause) = std::panic::catch_unwind(again) {
                    eprintln!("{job:?} with {trouble:?}");
                    std::panic::resume_unwind(cause);
                }
            }
            self.stage = next;
        }
    }

    /// The job as it goes without trouble: its calls, and what it comes to.
    fn rehearse(&mut self, job: Job) -> (Calls, Stage) {
        let mut set = self.set(job);
        let machine = set.depots[job.target()].machine.clone();
        let before = Calls::so_far(&machine.disk);
        let content = self.application.content();
        let done = run(job, &set, &self.application, &Control::default());
        set.settle(job, done.expect("no trouble"), &content);
        let calls = Calls::so_far(&machine.disk).since(&before);
        set.check(&self.application, "in the rehearsal");
        for depot in &set.depots {
            for id in depot.known.keys() {
                let config = &self.application.config;
                self.yard.check(depot, id, config, &self.draw);
            }
        }
        let [first, second] = set.depots;
        let image = |depot: &Depot| depot.machine.disk.image_after_crash(1);
        let stage = Stage {
            disks: [image(&first), image(&second)],
            known: [first.known, second.known],
        };
        (calls, stage)
    }

    /// The repositories before the job, each try on disks of its own.
    fn set(&self, job: Job) -> Set {
        let machine = |disk: &SimDisk| -> SimulatedHost {
            let image = disk.image_after_crash(self.draw.next());
            self.application.machine.with_disk(image)
        };
        let [first, second] = &self.stage.disks;
        let [known, copied] = self.stage.known.clone();
        let first = match job {
            Job::Create => Depot::unmade(machine(first)),
            _ => Depot::on(machine(first), known),
        };
        Set {
            depots: [first, Depot::on(machine(second), copied)],
        }
    }

    /// Does the job with the trouble, and then without; looks at everything after each.
    fn strike(&mut self, job: Job, trouble: Trouble) {
        self.strikes += 1;
        let mut set = self.set(job);
        let control = Control::default();
        let content = self.application.content();
        let before = set.depots[0].known.clone();
        let target = &set.depots[job.target()];
        let machine = target.machine.clone();
        trouble.prepare(&machine.disk);
        let outcome = match trouble {
            Trouble::Cancel(number) => {
                let (cancel, mut left) = (control.clone(), number);
                let hook = move |_| match left {
                    0 => cancel.cancel(),
                    _ => left -= 1,
                };
                let watch = target.watch.clone();
                watch.during(hook, || run(job, &set, &self.application, &control))
            }
            _ => run(job, &set, &self.application, &control),
        };
        machine.disk.set_faults(Faults::none());
        machine.disk.set_capacity(None);
        let pins = self.application.database.stats().pins;
        assert_eq!(pins, 0, "pins are left: {:?}", outcome.as_ref().err());
        set.start_again(job, trouble, outcome.is_ok(), &self.draw);
        let has_failed = outcome.is_err();
        match outcome {
            Ok(done) => set.settle(job, done, &content),
            Err(error) => set.excuse(job, trouble, &error, &content),
        }
        set.check(&self.application, "after the trouble");
        self.look_at_one(&set);
        let again = run(job, &set, &self.application, &Control::default());
        let again = again.unwrap_or_else(|error| panic!("the next try: {error}"));
        set.settle(job, again, &content);
        // What was said to be done is done, also if the machine stops right after.
        for depot in &mut set.depots {
            depot.reopen_on(depot.machine.crash(self.draw.next()));
        }
        if job == Job::Forget && has_failed {
            set.take_back(&before);
        }
        set.check(&self.application, "after the next try");
        self.look_at_one(&set);
    }

    /// Restores one of the backups.
    fn look_at_one(&mut self, set: &Set) {
        let all = set.depots.iter();
        let all: Vec<(&Depot, &BackupId)> = all
            .flat_map(|depot| depot.known.keys().map(move |id| (depot, id)))
            .collect();
        if !all.is_empty() {
            let (depot, id) = all[self.draw.index(all.len())];
            let config = &self.application.config;
            self.yard.check(depot, id, config, &self.draw);
        }
    }
}

/// What a job came to.
#[derive(Debug)]
enum Done {
    Nothing,
    Backup(Box<stillfs::repository::BackupFacts>),
    Forgotten(Vec<BackupId>),
}

fn run(
    job: Job,
    set: &Set,
    application: &Application,
    control: &Control,
) -> Result<Done, RepositoryError> {
    let [first, second] = &set.depots;
    let repository = &first.repository;
    match job {
        Job::Create => {
            let host = watched(&first.machine, &first.watch);
            Repository::open_or_create(&host, Depot::dir()).map(|_| Done::Nothing)
        }
        Job::Backup(wanted) => {
            let options = BackupOptions {
                wanted,
                compression: Compression::Lz4,
                workers: 1,
                ..BackupOptions::default()
            };
            let report = backup(repository, application.subject(), &options, control)?;
            Ok(Done::Backup(Box::new(report.facts)))
        }
        Job::Forget => {
            let keep = Keep {
                last: 1,
                ..Keep::default()
            };
            let report = forget(repository, &keep, Run::Really)?;
            Ok(Done::Forgotten(report.forgotten))
        }
        Job::Prune => prune(repository, Run::Really, control).map(|_| Done::Nothing),
        Job::Copy(_) => {
            let ids: Vec<BackupId> = first.known.keys().cloned().collect();
            let report = copy(repository, &second.repository, &ids, control)?;
            match report.failed.is_empty() {
                true => Ok(Done::Nothing),
                false => Err(RepositoryError::Missing {
                    object: format!("{:?}", report.failed),
                }),
            }
        }
        Job::Hold => {
            let id = first.known.keys().next().expect("a backup");
            repository.set_mark(id, &mut |mark| mark.is_held = true)?;
            Ok(Done::Nothing)
        }
        Job::Verify => {
            let options = VerifyOptions {
                backup: None,
                depth: Depth::ReadData,
                restore_test: None,
            };
            let report = verify(repository, &options, control)?;
            let is_whole = report.verified.len() == first.known.len();
            assert_eq!(is_whole, report.findings.is_empty(), "{report:?}");
            Ok(Done::Nothing)
        }
    }
}

impl Set {
    /// The model after a job that was done.
    fn settle(&mut self, job: Job, done: Done, content: &Arc<Content>) {
        let [first, second] = &mut self.depots;
        match done {
            Done::Nothing if matches!(job, Job::Copy(_)) => second.known = first.known.clone(),
            Done::Nothing if job == Job::Create => first.reopen_on(first.machine.clone()),
            Done::Nothing => {}
            Done::Backup(facts) => {
                let known = Known::new(content, &facts);
                first.known.insert(facts.id, known);
            }
            Done::Forgotten(ids) => first.known.retain(|id, _| !ids.contains(id)),
        }
    }

    /// Another process comes after the one that had the trouble. What was said to be done stays done,
    /// and what was not may be there or not, also if the machine stops then.
    fn start_again(&mut self, job: Job, trouble: Trouble, is_done: bool, draw: &Draw) {
        let depot = &mut self.depots[job.target()];
        let machine = match trouble {
            Trouble::PowerOff(_) => depot.machine.crash(draw.next()),
            Trouble::Kill(_) => depot.machine.process_crash(),
            _ if is_done || draw.one_in(2) => depot.machine.crash(draw.next()),
            _ => depot.machine.process_crash(),
        };
        match job {
            Job::Create => *depot = Depot::on(machine, Catalog::new()),
            _ => depot.reopen_on(machine),
        }
    }

    /// Takes up what a job that failed may have left: nothing, or the whole of what it was about.
    fn excuse(
        &mut self,
        job: Job,
        trouble: Trouble,
        error: &RepositoryError,
        content: &Arc<Content>,
    ) {
        let is_cancelled = matches!(error, RepositoryError::Cancelled);
        let was_asked = matches!(trouble, Trouble::Cancel(_));
        assert_eq!(is_cancelled, was_asked, "{error}");
        let from = self.depots[0].known.clone();
        let depot = &mut self.depots[usize::from(matches!(job, Job::Copy(_)))];
        let listed = depot.repository.ids().expect("a list");
        match job {
            Job::Backup(_) => {
                let new = listed.iter().filter(|id| !depot.known.contains_key(*id));
                let new: Vec<&BackupId> = new.collect();
                assert!(new.len() <= 1, "{new:?}");
                for id in new {
                    let facts = depot.repository.facts(id).expect("the facts");
                    depot.known.insert(id.clone(), Known::new(content, &facts));
                }
            }
            Job::Copy(_) => {
                for id in listed {
                    let known = from.get(&id).expect("only what was to be copied").clone();
                    depot.known.entry(id).or_insert(known);
                }
            }
            Job::Forget => {
                let newest = depot.known.keys().next_back().cloned();
                depot.known.retain(|id, _| listed.contains(id));
                assert_eq!(depot.known.keys().next_back().cloned(), newest);
            }
            Job::Create | Job::Prune | Job::Hold | Job::Verify => {}
        }
    }

    /// After a failed sync of a folder nobody knows whether a name in it is gone, and a crash may bring it
    /// back even after a good one (X3). What comes back must be whole.
    fn take_back(&mut self, before: &Catalog) {
        let [first, _] = &mut self.depots;
        for id in first.repository.ids().expect("a list") {
            let known = before.get(&id).expect("it was there before").clone();
            first.known.entry(id).or_insert(known);
        }
    }

    /// Both repositories are valid and have what the model says.
    fn check(&self, application: &Application, when: &str) {
        let pins = application.database.stats().pins;
        assert_eq!(pins, 0, "pins are left {when}");
        for depot in &self.depots {
            depot.check_list(when);
            depot.verify(Depth::ReadData, when);
        }
    }
}
