//! One application, its repository, and a second one to which backups are copied.

use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use stillfs::repository::Depth;

use crate::application::Application;
use crate::depot::{Catalog, Depot};
use crate::draw::Draw;
use crate::plan::{Config, Kind, Step, draw_steps};
use crate::yard::Yard;

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) application: Application,
    /// Where backups are taken, and where they are copied.
    pub(crate) depots: [Depot; 2],
    pub(crate) yard: Yard,
    /// What happened, for people.
    pub(crate) trace: Vec<String>,
    /// How often what happened, in the order of [`Tally`].
    pub(crate) tally: Tally,
}

/// What a run did, so that one that did nothing is seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) backups: u64,
    pub(crate) incremental: u64,
    pub(crate) units_unread: u64,
    pub(crate) forgotten: u64,
    pub(crate) packs_removed: u64,
    pub(crate) packs_hollowed: u64,
    pub(crate) copied: u64,
    pub(crate) verified: u64,
    pub(crate) restores: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.backups += other.backups;
        self.incremental += other.incremental;
        self.units_unread += other.units_unread;
        self.forgotten += other.forgotten;
        self.packs_removed += other.packs_removed;
        self.packs_hollowed += other.packs_hollowed;
        self.copied += other.copied;
        self.verified += other.verified;
        self.restores += other.restores;
    }
}

macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        $world.trace.push(format!($($text)*))
    };
}
pub(crate) use note;

/// Runs a seed; the panic of one that fails comes with the steps that it took.
///
/// `encrypted` tells of each repository, the one of backups and the one of copies, whether it is.
pub(crate) fn run(seed: u64, steps: usize, encrypted: [bool; 2]) -> Tally {
    let draw = Draw::new(seed);
    let config = Config::draw(&draw);
    let mut world = World::new(seed, config, encrypted);
    let steps = draw_steps(&draw, steps);
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        for (number, step) in steps.iter().enumerate() {
            world.step(number, *step);
        }
        world.finish(&draw);
    }));
    if let Err(cause) = outcome {
        let trace = world.trace.join("\n");
        let config = &world.application.config;
        eprintln!("seed {seed}, encrypted {encrypted:?}: {config:?}\n{trace}");
        eprintln!(
            "again: STILLFS_SEED={seed} STILLFS_STEPS={} cargo test --test repository restores_equal",
            steps.len()
        );
        panic::resume_unwind(cause);
    }
    world.tally.restores = world.yard.restores;
    world.tally
}

impl World {
    fn new(seed: u64, config: Config, encrypted: [bool; 2]) -> Self {
        let application = Application::new(seed, config);
        let depots = [(1, encrypted[0]), (2, encrypted[1])].map(|(number, is_encrypted)| {
            let machine = application.another_machine(seed ^ (number << 32));
            match is_encrypted {
                true => Depot::encrypted(machine),
                false => Depot::on(machine, Catalog::new()),
            }
        });
        application.write(&Draw::new(seed), 20);
        Self {
            application,
            depots,
            yard: Yard::new(),
            trace: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn step(&mut self, number: usize, step: Step) {
        note!(self, "{number:4} {:?}", step.kind);
        let draw = Draw::new(step.seed);
        match step.kind {
            Kind::Write => self.application.write(&draw, draw.between(1, 12)),
            Kind::WriteMuch => {
                for _ in 0..draw.between(2, 6) {
                    self.application.write(&draw, draw.between(10, 60));
                }
            }
            Kind::Checkpoint => self.application.checkpoint(),
            Kind::Restart => self.application.restart(&draw),
            Kind::Clock => self.move_clock(&draw),
            Kind::Backup => self.back_up(&draw),
            Kind::Twins => self.back_up_twice(&draw),
            Kind::Restore => self.restore(&draw),
            Kind::RollBack => self.roll_back(&draw),
            Kind::Forget => self.forget(&draw),
            Kind::Prune => self.prune(&draw),
            Kind::Hold => self.hold(&draw),
            Kind::Copy => self.copy(&draw),
            Kind::Verify => self.verify(&draw),
            Kind::Reopen => self.reopen(&draw),
        }
        let pins = self.application.database.stats().pins;
        assert_eq!(pins, 0, "pins that are left");
        for depot in &self.depots {
            depot.check_list("after the step");
        }
    }

    /// From a second to months.
    fn move_clock(&self, draw: &Draw) {
        let seconds = match draw.below(5) {
            0 => 1,
            1 => draw.below(7200),
            2 | 3 => draw.below(3 * 86_400),
            _ => draw.below(60 * 86_400),
        };
        let clock = &self.application.machine.clock;
        clock.advance(Duration::from_secs(seconds));
    }

    fn reopen(&mut self, draw: &Draw) {
        let depot = &mut self.depots[draw.index(2)];
        let machine = match draw.one_in(2) {
            true => depot.machine.process_crash(),
            false => depot.machine.crash(draw.next()),
        };
        depot.reopen_on(machine);
    }

    /// At the end every backup that is left is verified and restored.
    fn finish(&mut self, draw: &Draw) {
        note!(self, "the end");
        for depot in &self.depots {
            depot.verify(Depth::ReadData, "at the end");
            for id in depot.known.keys() {
                let config = &self.application.config;
                self.yard.check(depot, id, config, draw);
            }
        }
        self.application.compare("at the end");
    }
}
