//! A simulated machine with one database on it, its readers, and the model of both.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use stillfs::database::{Database, ReadTransaction};
use stillfs::os::sim::{Faults, SimDisk};
use stillfs::os::{Disk, Host, SimulatedHost};

use crate::counts::{Counts, one};
use crate::draw::Draw;
use crate::fault_plan::draw_faults;
use crate::history::History;
use crate::pins::{Holder, Pinned};
use crate::plan::{Config, Kind, Plan, Step};
use crate::view::{Around, Standing};
use crate::watched::{Call, Watch, WatchedDisk};
use crate::writing::transact;

/// The database's directory.
pub(crate) const DIR: &str = "/db";

/// Reasons for which something may fail. In their absence every error is a failure of the test.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// Calls to the disk fail in this step.
    pub(crate) faults: bool,
    /// Those calls fail because everything stops, and for no other reason.
    pub(crate) stops: bool,
    /// The disk is small.
    pub(crate) full: bool,
    /// The page file is not in its place.
    pub(crate) moved: bool,
    /// `shadow/` is not what this engine made; until the next opening.
    pub(crate) shadow: bool,
    /// Images in the slots were damaged; until the slots are empty.
    pub(crate) slots: bool,
    /// Space could not be given back: it may wait for the next end of a pin.
    pub(crate) space: bool,
    /// The end of a pin failed: it lasts, unseen by the model, until a checkpoint or the next opening.
    pub(crate) unsettled: bool,
}

/// What the steps leave to be read by people, and a digest of it.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) is_kept: bool,
    pub(crate) lines: Vec<String>,
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) machine: SimulatedHost,
    /// Somebody who is neither engine nor reader.
    pub(crate) admin: SimDisk,
    pub(crate) watch: Watch,
    pub(crate) database: Option<Database>,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) reads: Vec<ReadTransaction>,
    pub(crate) pinned: Vec<Pinned>,
    pub(crate) trouble: Trouble,
    /// Where the page file is while another has its name.
    pub(crate) pages_away: Option<PathBuf>,
    /// An opening was tried in this step: pins of before may have ended.
    pub(crate) is_opening: bool,
    pub(crate) next_view: u64,
    pub(crate) counts: Arc<Counts>,
    pub(crate) trace: Trace,
}

macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        if $world.trace.is_kept {
            let line = format!($($text)*);
            $world.trace.lines.push(format!("      {line}"));
        }
    };
}
pub(crate) use note;

impl World {
    pub(crate) fn new(plan: &Plan, is_traced: bool) -> Self {
        let machine = Host::simulated(plan.seed);
        let admin = machine.disk.another_process();
        let config = plan.config.clone();
        let trace = Trace {
            is_kept: is_traced,
            lines: Vec::new(),
        };
        Self {
            config,
            machine,
            admin,
            watch: Watch::default(),
            database: None,
            history: Arc::default(),
            reads: Vec::new(),
            pinned: Vec::new(),
            trouble: Trouble::default(),
            pages_away: None,
            is_opening: false,
            next_view: 0,
            counts: Arc::default(),
            trace,
        }
    }

    /// The machine, as the engine sees it.
    pub(crate) fn host(&self) -> Host {
        Host {
            disk: Arc::new(WatchedDisk {
                disk: self.machine.disk.clone(),
                watch: self.watch.clone(),
            }),
            ..self.machine.host.clone()
        }
    }

    /// One step, with everything that must hold after it.
    pub(crate) fn step(&mut self, number: usize, step: Step) {
        if self.trace.is_kept {
            let line = format!("{number:4}  {:?}", step.kind);
            self.trace.lines.push(line);
        }
        one(&self.counts.steps);
        let draw = Draw::new(step.seed);
        if let Some(seed) = step.fault {
            let (faults, text) = draw_faults(&Draw::new(seed));
            note!(self, "faults: {text}");
            self.set_faults(faults);
            self.trouble.stops = text.starts_with("the ");
            one(&self.counts.faults);
        }
        let kind = self.possible(step.kind, &draw);
        self.with_others_amid(kind, &draw);
        self.settle(&draw);
    }

    pub(crate) fn set_faults(&mut self, faults: Faults) {
        self.machine.disk.set_faults(faults);
        self.trouble.faults = true;
        self.trouble.space = true;
        for pinned in &self.pinned {
            pinned.view.may_lack_pages.store(true, Ordering::Relaxed);
        }
    }

    /// What needs an engine opens one where there is none.
    fn possible(&self, kind: Kind, draw: &Draw) -> Option<Kind> {
        let needs_no_engine = matches!(
            kind,
            Kind::ReadPages
                | Kind::ReadWhole
                | Kind::DaemonDeath
                | Kind::Clock
                | Kind::PowerOff
                | Kind::CrashImages
                | Kind::CopyPages
                | Kind::DeleteShadow
                | Kind::MovePages
                | Kind::PutPagesBack
                | Kind::ReplaceSlots
                | Kind::DamageSlots
                | Kind::DiskSize
        );
        let is_poisoned = || self.database.as_ref().is_some_and(is_poisoned);
        if needs_no_engine || self.database.is_some() && !(is_poisoned() && draw.one_in(2)) {
            return Some(kind);
        }
        None
    }

    /// In some steps the views are read between two calls of the engine to its disk, and while it
    /// takes a pin, commits are made.
    fn with_others_amid(&mut self, kind: Option<Kind>, draw: &Draw) {
        if !draw.one_in(3) {
            return self.act(kind, draw);
        }
        let views: Vec<_> = self
            .pinned
            .iter()
            .map(|pinned| pinned.view.clone())
            .collect();
        let is_pin = matches!(kind, Some(Kind::Pin | Kind::Daemon));
        let writer = self.database.clone();
        let writer = writer.filter(|_| is_pin && !self.trouble.faults && !self.trouble.full);
        let (config, counts) = (self.config.clone(), self.counts.clone());
        let (history, failures) = (self.history.clone(), Arc::new(Mutex::new(Vec::new())));
        let around = Around {
            faults: self.trouble.faults,
            amid: true,
        };
        let (within, told) = (Draw::new(draw.next()), failures.clone());
        let hook = move |call| {
            if call == Call::ShadowChange
                && within.one_in(4)
                && let Some(database) = &writer
                // At its limit the log makes a writer wait for the pin that it would be amid.
                && database.engine().stats().wal_bytes <= config.log_bytes_max
            {
                let committed = transact(database, &history, &config, &within, &counts);
                told.lock().extend(committed.err());
            } else if call != Call::Read && !views.is_empty() && within.one_in(2) {
                let view = &views[within.index(views.len())];
                view.read_some(&within, &config, around, &counts);
                one(&counts.reads_amid_engine);
            }
        };
        let watch = self.watch.clone();
        watch.during(hook, || self.act(kind, draw));
        for error in failures.lock().drain(..) {
            self.excuse("a commit amid a pin", &error);
        }
    }

    fn act(&mut self, kind: Option<Kind>, draw: &Draw) {
        let Some(kind) = kind else {
            return self.restart(draw);
        };
        match kind {
            Kind::Write => self.write(draw, 1),
            Kind::WriteMany => self.write(draw, draw.between(2, 5)),
            Kind::Rollback => self.roll_back(draw),
            Kind::BeginRead => self.begin_read(),
            Kind::CheckRead => self.check_read(draw),
            Kind::EndRead => self.end_read(draw),
            Kind::Checkpoint => self.checkpoint(),
            Kind::Check => self.check(),
            Kind::Pin => self.pin(draw),
            Kind::Daemon => self.pin_for_daemon(draw),
            Kind::ReadPages => self.read_pages(draw),
            Kind::ReadWhole => self.read_whole(draw),
            Kind::ReadAmidEngine => self.read_amid_engine(draw),
            Kind::Release => self.release(draw),
            Kind::DaemonDeath => self.daemon_death(draw),
            Kind::Reclaim => self.reclaim(draw),
            Kind::Tend => self.tend(),
            Kind::Books => self.check_books(),
            Kind::Clock => self.move_clock(draw),
            Kind::Stop => self.stop(),
            Kind::Kill => self.kill(),
            Kind::PowerOff => self.power_off(draw),
            Kind::CrashImages => self.try_crash_images(draw),
            Kind::CopyPages => self.copy_pages(),
            Kind::DeleteShadow => self.delete_shadow(draw),
            Kind::MovePages => self.move_pages(draw),
            Kind::PutPagesBack => self.put_pages_back(),
            Kind::ReplaceSlots => self.replace_slots(),
            Kind::DamageSlots => self.damage_slots(draw),
            Kind::DiskSize => self.change_disk_size(draw),
        }
    }

    /// The end of a step: nothing fails any more, and what must follow from the step has followed.
    fn settle(&mut self, draw: &Draw) {
        self.machine.disk.set_faults(Faults::none());
        self.notice_stop(draw);
        self.sweep_pins();
        self.trouble.faults = false;
        self.trouble.stops = false;
        self.is_opening = false;
    }

    /// Whether something failed that may fail here; else the test fails.
    pub(crate) fn excuse(&self, what: &str, error: &dyn Display) {
        let Trouble {
            faults,
            full,
            moved,
            shadow,
            slots,
            ..
        } = self.trouble;
        let is_poisoned = self.database.as_ref().is_some_and(is_poisoned);
        assert!(
            faults || full || moved || shadow || slots || is_poisoned || self.is_stopped(),
            "{what} failed without a reason: {error}"
        );
    }

    /// Whether the machine or the engine's process is gone.
    pub(crate) fn is_stopped(&self) -> bool {
        let listed = self.machine.disk.list(Path::new("/"));
        listed.is_err_and(|error| SimDisk::is_stopped(&error))
    }

    /// Compares what each pin says of itself with what its readers saw.
    pub(crate) fn sweep_pins(&mut self) {
        let trouble = self.trouble;
        let poisoned = self.database.as_ref().is_some_and(is_poisoned);
        let now = self.machine.host.clock.monotonic();
        for pinned in &self.pinned {
            let view = &pinned.view;
            let said = match &pinned.holder {
                Holder::Own(pin) => pin.ended(),
                Holder::Daemon(_) => None,
            };
            if view.standing() != Standing::Ended && (said.is_some() || view.is_cut()) {
                let is_allowed = view.standing() != Standing::Healthy
                    || poisoned
                    || trouble.faults
                    || trouble.full
                    || trouble.unsettled
                    || view.is_overdue(now)
                    || view.is_bounded()
                    || self.is_opening;
                let number = view.number;
                assert!(is_allowed, "view {number} ended for no reason: {said:?}");
                note!(self, "view {number} has ended: {said:?}");
                view.lower(Standing::Ended);
            }
            if view.end_seen.load(Ordering::Relaxed) {
                assert!(
                    view.standing() != Standing::Healthy || self.is_opening,
                    "view {} said that its pin ended, and it did not",
                    view.number
                );
            }
        }
    }
}

pub(crate) fn is_poisoned(database: &Database) -> bool {
    database.engine().is_poisoned()
}
