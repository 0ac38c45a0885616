//! The engine's process and its machine: opening, recovery, clean stops and crashes.

use std::path::Path;
use std::sync::atomic::Ordering;

use stillfs::database::{Create, Database, EngineOptions};
use stillfs::os::Disk;
use stillfs::os::sim::{Faults, SimDisk};

use crate::content::engine_options;
use crate::counts::one;
use crate::draw::Draw;
use crate::pins::Holder;
use crate::world::{DIR, Trouble, World, note};

impl World {
    /// Opens the database; one that runs is killed first, as a poisoned one is.
    pub(crate) fn restart(&mut self, draw: &Draw) {
        if self.database.is_some() {
            self.kill();
        }
        if self.pages_away.is_some() && draw.one_in(2) {
            self.put_pages_back();
        }
        if self.config.mood.has_crashes() && draw.one_in(4) && !self.trouble.faults {
            self.crash_while_opening(draw);
        }
        self.open();
    }

    /// The machine or the process stops again and again before the database is open.
    fn crash_while_opening(&mut self, draw: &Draw) {
        for _ in 0..draw.between(1, 4) {
            let number = draw.below(25);
            let is_power = draw.one_in(2);
            note!(
                self,
                "stops before change {number} of opening, power off: {is_power}"
            );
            self.set_faults(if is_power {
                Faults::power_off_before_change(number)
            } else {
                Faults::kill_before_change(number)
            });
            self.trouble.stops = true;
            self.open();
            self.machine.disk.set_faults(Faults::none());
            self.notice_stop(draw);
            self.trouble.faults = false;
            self.trouble.stops = false;
            if self.database.is_some() {
                self.kill();
            }
        }
    }

    pub(crate) fn open(&mut self) {
        let is_made = !self.history.lock().is_empty();
        let options = EngineOptions {
            create: if is_made {
                Create::Never
            } else {
                Create::IfMissing
            },
            ..engine_options(&self.config)
        };
        self.is_opening = true;
        match Database::open_on(&self.host(), DIR, &options) {
            Ok(database) => {
                self.machine.disk.set_faults(Faults::none());
                note!(
                    self,
                    "opened at commit {}",
                    database.stats().engine.timestamp
                );
                self.database = Some(database);
                self.check_recovery();
            }
            Err(error) => {
                note!(self, "not opened: {error}");
                one(&self.counts.failed_openings);
                self.excuse("an opening", &error);
                self.doubt_adoption();
            }
        }
    }

    /// Exactly the acknowledged commits are there, at most a whole one in flight, and nothing is
    /// damaged. Pins that are held are gone on with.
    fn check_recovery(&mut self) {
        one(&self.counts.recoveries);
        let database = self.database.clone().expect("just opened");
        let read = database.begin_read().expect("a read needs no disk");
        let timestamp = read.timestamp().0;
        let content = {
            let mut history = self.history.lock();
            history.recover(timestamp);
            history.note_wall(timestamp, read.snapshot().point().wall_ns);
            history.newest().1
        };
        let differs = content.compare(&read, &self.config);
        assert_eq!(
            differs.expect("a read"),
            None,
            "recovery to commit {timestamp}"
        );
        let report = database.check().expect("a check");
        assert!(report.is_clean(), "after recovery: {report:?}");
        self.doubt_adoption();
        let now = self.machine.host.clock.monotonic();
        for pinned in &self.pinned {
            let is_adopted = pinned.view.settle_adoption(self.trouble.shadow, now);
            note!(self, "view {} is adopted: {is_adopted}", pinned.view.number);
        }
        self.trouble = Trouble {
            shadow: false,
            unsettled: false,
            space: true,
            slots: self.trouble.slots && !self.pinned.is_empty(),
            ..self.trouble
        };
        self.check_books();
    }

    /// Calls that failed while an engine started excuse that it took a pin for one that it cannot read.
    fn doubt_adoption(&self) {
        if self.trouble.faults && !self.trouble.stops {
            for pinned in &self.pinned {
                pinned.view.is_doubtful.store(true, Ordering::Relaxed);
            }
        }
    }

    /// A clean stop, and the end of the process.
    pub(crate) fn stop(&mut self) {
        let Some(database) = self.database.clone() else {
            return;
        };
        match database.close() {
            Ok(()) => one(&self.counts.clean_stops),
            Err(error) => self.excuse("a clean stop", &error),
        }
        drop(database);
        self.kill();
    }

    /// The process of the engine ends here and now.
    pub(crate) fn kill(&mut self) {
        if self.database.is_some() {
            one(&self.counts.process_crashes);
            // What the engine said last of its pins.
            self.sweep_pins();
        }
        self.machine = self.machine.process_crash();
        self.forget_process();
    }

    /// What goes with the engine's process. Daemons stay, and so does what they can read.
    fn forget_process(&mut self) {
        self.reads.clear();
        self.pinned
            .retain(|pinned| matches!(pinned.holder, Holder::Daemon(_)));
        self.database = None;
    }

    pub(crate) fn power_off(&mut self, draw: &Draw) {
        let seed = draw.next();
        note!(self, "the machine stops, and finds disk {seed:#x}");
        one(&self.counts.machine_crashes);
        one(&self.counts.crash_states_tried);
        self.machine = self.machine.crash(seed);
        self.pinned.clear();
        self.forget_process();
        self.admin = self.machine.disk.another_process();
        self.trouble.slots = false;
    }

    /// Several of the disks that the machine could find if it stopped here; it goes on.
    pub(crate) fn try_crash_images(&mut self, draw: &Draw) {
        if self.trouble.moved || self.history.lock().is_empty() {
            return;
        }
        for _ in 0..3 {
            let seed = draw.next();
            note!(self, "and if the machine had stopped, with disk {seed:#x}?");
            one(&self.counts.crash_states_tried);
            let image = self.machine.disk.image_after_crash(seed);
            image.set_capacity(None);
            let host = self.machine.with_disk(image).host;
            let options = EngineOptions {
                create: Create::Never,
                ..engine_options(&self.config)
            };
            let database = Database::open_on(&host, DIR, &options).expect("a recovery");
            let read = database.begin_read().expect("a read needs no disk");
            let timestamp = read.timestamp().0;
            let content = self.history.lock().after_recovery(timestamp);
            let Some(content) = content else {
                panic!("a recovery found commit {timestamp}");
            };
            let differs = content.compare(&read, &self.config);
            assert_eq!(differs.expect("a read"), None, "recovery to {timestamp}");
            assert!(database.check().expect("a check").is_clean());
        }
    }

    /// Whether the step's faults have stopped the machine or the process; then it starts again.
    pub(crate) fn notice_stop(&mut self, draw: &Draw) {
        let listed = self.admin.list(Path::new("/"));
        if listed.is_err_and(|error| SimDisk::is_stopped(&error)) {
            return self.power_off(draw);
        }
        if self.is_stopped() {
            note!(self, "the engine's process was killed");
            self.kill();
        }
    }

    pub(crate) fn move_clock(&mut self, draw: &Draw) {
        let clock = &self.machine.clock;
        if draw.one_in(3) {
            let back = draw.between(1, 1 << 50);
            clock.set_wall_ns(self.machine.host.clock.wall_ns().saturating_sub(back));
        } else {
            clock.advance(std::time::Duration::from_millis(draw.below(100_000)));
        }
    }

    /// The disk gets small, or large again.
    pub(crate) fn change_disk_size(&mut self, draw: &Draw) {
        self.trouble.full = draw.one_in(2);
        self.trouble.space = true;
        let capacity = self.trouble.full.then_some(self.config.capacity_bytes);
        note!(self, "the disk has {capacity:?} bytes");
        self.machine.disk.set_capacity(capacity);
    }

    /// The end of a world: everything is set right, and nothing is left of any pin.
    pub(crate) fn finish(&mut self) {
        let draw = Draw::new(1);
        self.machine.disk.set_faults(Faults::none());
        self.machine.disk.set_capacity(None);
        self.trouble.full = false;
        self.put_pages_back();
        if self.database.as_ref().is_none_or(crate::world::is_poisoned) {
            self.restart(&draw);
        }
        self.checkpoint();
        self.sweep_pins();
        for at in 0..self.pinned.len() {
            let view = self.pinned[at].view.clone();
            self.read_all_of(&view);
        }
        self.check_books();
        while !self.pinned.is_empty() {
            self.release(&draw);
        }
        self.checkpoint();
        self.check_books();
        self.check();
        self.stop();
        self.open();
        self.kill();
    }
}
