//! Pins: taken, read, released, and held by processes that die.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stillfs::database::{Database, OnFull, Pin, PinOptions};
use stillfs::id::{DatabaseId, PinId};
use stillfs::os::sim::{Faults, SimDisk};
use stillfs::os::{Disk, File, Host, OpenMode};
use stillfs::page::PageNo;
use stillfs::view::PinnedFile;

use crate::counts::one;
use crate::draw::Draw;
use crate::plan::Config;
use crate::view::{Around, Standing, View};
use crate::watched::{Watch, WatchedDisk};
use crate::world::{DIR, World, note};
use crate::writing::transact;

/// Most pins at a time.
const PINS_MAX: usize = 8;

/// Who holds a pin.
#[derive(Debug)]
pub(crate) enum Holder {
    /// The engine's own process.
    Own(Pin),
    /// Another process, by the lock on the pin's index.
    Daemon(Daemon),
}

/// A process that reads a pin, and what it knows to get the pin back after a restart.
#[derive(Debug)]
pub(crate) struct Daemon {
    disk: SimDisk,
    pub(crate) pin: PinId,
    pub(crate) database: DatabaseId,
    pub(crate) token: [u8; 32],
}

/// A pin that somebody holds.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) view: Arc<View>,
    pub(crate) holder: Holder,
    /// Where the reader's calls to its disk can be watched.
    watch: Watch,
}

impl World {
    /// The engine's pin of the newest commit, or `None` where it may fail.
    fn take_pin(&mut self, draw: &Draw) -> Option<(Pin, Arc<dyn File>)> {
        if self.pinned.len() >= PINS_MAX {
            self.release(draw);
        }
        let database = self.database.clone()?;
        let (before, _) = self.history.lock().newest();
        let options = draw_options(draw, &self.config);
        let taken = match &options {
            Some(options) => database.pin_with(options).map(|pin| (pin, None)),
            None => database.pin_and_read().map(|(pin, read)| (pin, Some(read))),
        };
        let (pin, read) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                note!(self, "no pin: {error}; {options:?}");
                self.trouble.unsettled |= self.trouble.faults;
                if options.is_none_or(|options| options.shadow_limit_bytes.is_none()) {
                    self.excuse("a pin", &error);
                }
                return None;
            }
        };
        one(&self.counts.pins);
        let (newest, _) = self.history.lock().newest();
        let is_newest = (before..=newest).contains(&pin.timestamp().0);
        assert!(is_newest, "a pin is of the newest commit");
        let open = || self.admin.open(&index_path(&pin), OpenMode::Read);
        let index = open().or_else(|_| {
            self.machine.disk.set_faults(Faults::none());
            open()
        });
        let index = index.expect("the index of a pin that was just taken");
        if let Some(read) = read {
            self.compare_with_engine(&pin, &read);
        }
        Some((pin, index))
    }

    /// Every page by the engine's own way to it and by the merged read: two ways to the same bytes.
    fn compare_with_engine(&self, pin: &Pin, read: &stillfs::database::ReadTransaction) {
        use stillfs::view::tree::RangeRead;
        let page_bytes = self.config.page_size.bytes();
        let mut out = vec![0; page_bytes];
        for page in 2..pin.view().header().page_count {
            let by_engine = match read.snapshot().page(PageNo(page)) {
                Ok(bytes) => bytes,
                Err(error) => return self.excuse("a page at S", &error),
            };
            let offset = page * page_bytes as u64;
            match pin.view().read_range(offset, &mut out) {
                Ok(()) => assert!(by_engine[..] == out[..], "page {page} of a new pin differs"),
                Err(error) => return self.excuse("a page of a new pin", &error),
            }
        }
    }

    fn add(&mut self, file: Arc<PinnedFile>, index: Arc<dyn File>, holder: Holder, watch: Watch) {
        self.next_view += 1;
        let timestamp = file.header().timestamp.0;
        let content = {
            let history = self.history.lock();
            history
                .get(timestamp)
                .expect("a commit of the model")
                .content
                .clone()
        };
        let view = Arc::new(View::new(self.next_view, content, file, index));
        note!(self, "view {} of commit {timestamp}", view.number);
        if self.trouble.slots {
            view.lower(Standing::Excused("it may share a damaged slot"));
        }
        view.may_lack_pages
            .store(self.trouble.faults, Ordering::Relaxed);
        self.pinned.push(Pinned {
            view,
            holder,
            watch,
        });
    }

    pub(crate) fn pin(&mut self, draw: &Draw) {
        if let Some((pin, index)) = self.take_pin(draw) {
            let (file, watch) = (pin.view().clone(), self.watch.clone());
            self.add(file, index, Holder::Own(pin), watch);
        }
    }

    /// A pin that another process reads, by its own descriptors.
    pub(crate) fn pin_for_daemon(&mut self, draw: &Draw) {
        let Some((pin, index)) = self.take_pin(draw) else {
            return;
        };
        let (disk, watch) = (self.machine.disk.another_process(), Watch::default());
        let watched = WatchedDisk {
            disk: disk.clone(),
            watch: watch.clone(),
        };
        let host = Host {
            disk: Arc::new(watched),
            ..self.machine.host.clone()
        };
        match pin.hand_over(&host) {
            Ok(given) => {
                let daemon = Daemon {
                    disk,
                    pin: given.id,
                    database: given.database,
                    token: given.token,
                };
                self.add(given.view, index, Holder::Daemon(daemon), watch);
            }
            Err(error) => {
                self.trouble.unsettled |= self.trouble.faults;
                self.excuse("the start of a daemon", &error);
            }
        }
    }

    fn around(&self) -> Around {
        Around {
            faults: self.trouble.faults,
            amid: false,
        }
    }

    fn drawn_view(&self, draw: &Draw) -> Option<Arc<View>> {
        if self.pinned.is_empty() {
            return None;
        }
        Some(self.pinned[draw.index(self.pinned.len())].view.clone())
    }

    pub(crate) fn read_pages(&mut self, draw: &Draw) {
        for _ in 0..draw.between(1, 4) {
            if let Some(view) = self.drawn_view(draw) {
                view.read_some(draw, &self.config, self.around(), &self.counts);
            }
        }
    }

    pub(crate) fn read_whole(&mut self, draw: &Draw) {
        if let Some(view) = self.drawn_view(draw) {
            self.read_all_of(&view);
        }
    }

    pub(crate) fn read_all_of(&self, view: &View) {
        let host = &self.machine.host;
        view.read_whole(host, &self.config, self.around(), &self.counts);
        if let Some(image) = view.image() {
            let crc = crc32fast::hash(&image);
            self.history.lock().note_view(view.timestamp, crc);
        }
    }

    /// A read during which the engine does something between two of the reader's calls.
    pub(crate) fn read_amid_engine(&mut self, draw: &Draw) {
        if self.pinned.is_empty() || self.trouble.faults {
            return self.read_pages(draw);
        }
        let Some(database) = self.database.clone() else {
            return;
        };
        let at = draw.index(self.pinned.len());
        let (view, watch) = (self.pinned[at].view.clone(), self.pinned[at].watch.clone());
        // In some of them the very pin that is read is given up.
        let is_owned = matches!(self.pinned[at].holder, Holder::Own(_));
        let given_up = (is_owned && draw.one_in(2)).then(|| self.pinned.swap_remove(at));
        let mut given_up = given_up.map(|pinned| pinned.holder);
        note!(self, "view {} is read while the engine works", view.number);
        let (history, counts) = (self.history.clone(), self.counts.clone());
        let config = self.config.clone();
        let within = Draw::new(draw.next());
        let failures = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let told = failures.clone();
        let hook = move |_| {
            if within.one_in(3) {
                drop(given_up.take());
            }
            for _ in 0..within.below(4) {
                let acted = act_amid(&database, &history, &config, &within, &counts);
                told.lock().extend(acted.err());
            }
        };
        let around = Around {
            faults: false,
            amid: true,
        };
        let read = || view.read_some(draw, &self.config, around, &self.counts);
        watch.during(hook, read);
        for error in failures.lock().drain(..) {
            self.excuse("a step of the engine amid a read", &error);
        }
    }

    /// Some holder gives its pin up.
    pub(crate) fn release(&mut self, draw: &Draw) {
        if self.pinned.is_empty() {
            return;
        }
        let at = draw.index(self.pinned.len());
        let pinned = self.pinned.swap_remove(at);
        note!(self, "view {} is released", pinned.view.number);
        let Holder::Own(pin) = pinned.holder else {
            // The lock goes with the last descriptor; the engine will see that.
            return;
        };
        match pin.release() {
            Ok(()) => pinned.view.lower(Standing::Ended),
            Err(error) => {
                self.trouble.unsettled = true;
                self.excuse("a release", &error);
            }
        }
        pinned
            .view
            .read_some(draw, &self.config, self.around(), &self.counts);
    }

    /// A daemon dies, and its lock is gone.
    pub(crate) fn daemon_death(&mut self, draw: &Draw) {
        let daemons: Vec<usize> = (0..self.pinned.len())
            .filter(|at| matches!(self.pinned[*at].holder, Holder::Daemon(_)))
            .collect();
        if daemons.is_empty() {
            return;
        }
        let pinned = self.pinned.swap_remove(daemons[draw.index(daemons.len())]);
        note!(self, "the daemon of view {} dies", pinned.view.number);
        if let Holder::Daemon(daemon) = pinned.holder {
            drop(daemon.disk.process_crash());
        }
    }

    /// A daemon comes back to an engine that was started again.
    pub(crate) fn reclaim(&mut self, draw: &Draw) {
        let Some(database) = &self.database else {
            return;
        };
        for pinned in &self.pinned {
            let Holder::Daemon(daemon) = &pinned.holder else {
                continue;
            };
            let mut token = daemon.token;
            let is_right = !draw.one_in(8);
            token[3] ^= u8::from(!is_right);
            let is_awaited = pinned.view.unclaimed_since.lock().is_some()
                && pinned.view.standing() != Standing::Ended;
            let outcome = database.reclaim(daemon.database, daemon.pin, &token);
            let number = pinned.view.number;
            note!(self, "view {number} is reclaimed: {}", outcome.is_ok());
            assert_eq!(outcome.is_ok(), is_right && is_awaited, "view {number}");
            if outcome.is_ok() {
                *pinned.view.unclaimed_since.lock() = None;
                one(&self.counts.pins_reclaimed);
            }
        }
    }

    /// The engine looks after its pins, as its pin server makes it do every second.
    pub(crate) fn tend(&mut self) {
        if let Some(database) = &self.database {
            self.trouble.unsettled |= self.trouble.faults;
            database.tend();
        }
        let now = self.machine.host.clock.monotonic();
        for pinned in &self.pinned {
            let view = &pinned.view;
            let lasts = view.is_overdue(now) && view.is_held() && !view.is_cut();
            assert!(
                !lasts || self.trouble.faults,
                "view {} outlasts the patience with its holder",
                pinned.view.number
            );
        }
    }

    /// The engine's books: as many pins as are held, and not a slot that no pin's index names.
    pub(crate) fn check_books(&mut self) {
        let Some(database) = &self.database else {
            return;
        };
        if self.trouble.unsettled || self.trouble.faults {
            return;
        }
        database.tend();
        self.sweep_pins();
        let Some(database) = &self.database else {
            return;
        };
        let stats = database.stats();
        let held = self.pinned.iter().filter(|pinned| pinned.view.is_held());
        let held: Vec<_> = held.collect();
        assert_eq!(stats.pins, held.len() as u64, "pins in the books");
        let slots: Option<Vec<_>> = held.iter().map(|pinned| pinned.view.slots()).collect();
        let slots = slots.expect("the indexes of pins that are held");
        let slots: BTreeSet<u32> = slots.concat().into_iter().collect();
        assert_eq!(stats.shadow_slots, slots.len() as u64, "slots in the books");
        if held.is_empty() {
            let may_wait = self.trouble.space || self.trouble.full;
            assert!(
                may_wait || stats.shadow_bytes == 0,
                "space of the shadow without pins"
            );
            self.trouble.space &= stats.shadow_bytes > 0;
            self.trouble.slots = false;
        }
    }
}

/// What an engine does while somebody reads.
fn act_amid(
    database: &Database,
    history: &parking_lot::Mutex<crate::history::History>,
    config: &Config,
    draw: &Draw,
    counts: &crate::counts::Counts,
) -> Result<(), stillfs::engine::error::EngineError> {
    if draw.one_in(2) {
        one(&counts.checkpoints);
        return database.checkpoint().map(drop);
    }
    transact(database, history, config, draw, counts).map(drop)
}

/// What is asked of a pin; `None` for no more than the default.
fn draw_options(draw: &Draw, config: &Config) -> Option<PinOptions> {
    if draw.one_in(3) {
        return None;
    }
    let pages = u64::from(config.page_size.get());
    Some(PinOptions {
        max_age: if draw.one_in(3) {
            Duration::from_secs(draw.between(1, 300))
        } else {
            PinOptions::MAX_AGE_DEFAULT
        },
        on_full: draw.pick(&[OnFull::Break, OnFull::Break, OnFull::Hold]),
        shadow_limit_bytes: draw.one_in(4).then(|| draw.between(2, 60) * pages),
    })
}

fn index_path(pin: &Pin) -> PathBuf {
    Path::new(DIR).join(format!("shadow/{}.pin", pin.id()))
}
