//! Standing back for those who write what is being backed up.
//!
//! A worker that computes, and a disk that is busy, make every commit wait: on two processors a writer that
//! commits without a pause kept a third of its rate. Low priority alone does not help, since schedulers
//! weigh sessions and services before threads, and disks know of none. So, as long as somebody commits, one
//! worker works at a time, in pieces of some milliseconds, and rests after each for [`CPU_REST`] times what it
//! had of a processor, and [`WORK_REST`] times what it took, disk and all; packs go to the disk in small
//! pieces, with [`DISK_REST`] times as much rest.
//!
//! Who commits is seen by [`RangeRead::write_mark`], which is looked at now and then. A source that is quiet,
//! or whose marks nobody knows, is backed up at full speed.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::os::{Clock, priority};
use crate::repository::error::Result;
use crate::view::tree::{Content, RangeRead, Tree};

/// Rest of a worker, in times of what it had of a processor: that is taken from others, where all are busy.
const CPU_REST: u32 = 11;
/// Rest of a worker, in times of what a piece took.
const WORK_REST: u32 = 3;
/// Rest of the disk, in times of what it took to write.
const DISK_REST: u32 = 6;
/// No rest is longer: a piece that took long did so for others.
const REST_MAX: Duration = Duration::from_millis(200);
/// No sleep is longer, so that a cancel is heard.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// The marks are looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Somebody who committed is taken to go on for so long.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// Databases that are looked at: of a tree of thousands the first tell enough.
const WATCHED_MAX: usize = 64;

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Courtesy {
    clock: Arc<dyn Clock>,
    watched: Vec<Arc<dyn RangeRead>>,
    seen: Mutex<Seen>,
    turn: Mutex<()>,
}

/// What was seen of the writers.
#[derive(Debug, Default)]
struct Seen {
    marks: Vec<Option<u64>>,
    /// On the monotonic clock, as `busy_until`.
    looked_at: Option<Duration>,
    busy_until: Duration,
}

/// A piece of work that somebody may have to make up for by a rest.
#[derive(Debug)]
pub(super) struct Piece<'a> {
    courtesy: &'a Courtesy,
    /// The turn, if anybody writes.
    turn: Option<MutexGuard<'a, ()>>,
    begun: Duration,
    cpu_before: Duration,
}

impl Courtesy {
    /// Watches the databases of `tree`; with `full_speed` nobody is stood back for.
    pub(super) fn new(clock: Arc<dyn Clock>, tree: &Tree, full_speed: bool) -> Self {
        let databases = tree.nodes().filter_map(|node| match &node.content {
            Content::Paged(pages) => Some(pages.clone()),
            _ => None,
        });
        let watched = match full_speed {
            true => Vec::new(),
            false => databases.take(WATCHED_MAX).collect(),
        };
        Self {
            clock,
            watched,
            seen: Mutex::default(),
            turn: Mutex::default(),
        }
    }

    /// Whether somebody writes the source at this time, as far as that was seen.
    pub(super) fn is_wanted(&self) -> bool {
        if self.watched.is_empty() {
            return false;
        }
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock();
        let is_due = |at: Duration| now.saturating_sub(at) >= LOOK_EVERY;
        if seen.looked_at.is_none_or(is_due) {
            let marks = self.watched.iter().map(|pages| pages.write_mark());
            let marks: Vec<_> = marks.collect();
            if seen.looked_at.is_some() && marks != seen.marks {
                seen.busy_until = now.saturating_add(BUSY_FOR);
            }
            seen.looked_at = Some(now);
            seen.marks = marks;
        }
        now < seen.busy_until
    }

    /// Begins a piece of work, after the pieces and rests of all others if anybody writes; the thread stays
    /// behind all others then.
    pub(super) fn piece(&self) -> Piece<'_> {
        let is_wanted = self.is_wanted();
        if is_wanted {
            priority::stand_aside();
        }
        let turn = is_wanted.then(|| self.turn.lock());
        Piece {
            courtesy: self,
            turn,
            begun: self.clock.monotonic(),
            cpu_before: self.clock.thread_cpu(),
        }
    }

    /// What is to be called after each piece of a pack is on the disk: rests. It returns early when
    /// `go_on` fails, which is for others to tell.
    pub(super) fn disk_rest<'a>(&'a self, go_on: &'a dyn Fn() -> Result<()>) -> impl Fn() + 'a {
        let begun = Cell::new(self.clock.monotonic());
        move || {
            let took = self.clock.monotonic().saturating_sub(begun.get());
            drop(self.rest(took.saturating_mul(DISK_REST), go_on));
            begun.set(self.clock.monotonic());
        }
    }

    fn rest(&self, rest: Duration, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
        let end = self.clock.monotonic().saturating_add(rest.min(REST_MAX));
        loop {
            go_on()?;
            let left = end.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return Ok(());
            }
            self.clock.sleep(left.min(SLEEP_MAX));
        }
    }
}

impl Piece<'_> {
    /// Ends it, and rests if anybody writes. Errors: that of `go_on`.
    pub(super) fn end(self, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
        if self.turn.is_none() {
            return Ok(());
        }
        let clock = &self.courtesy.clock;
        let took = clock.monotonic().saturating_sub(self.begun);
        let cpu = clock.thread_cpu().saturating_sub(self.cpu_before);
        let rest = cpu * CPU_REST;
        self.courtesy.rest(rest.max(took * WORK_REST), go_on)
    }
}
