//! Registered readers: whose state must stay readable.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::engine::commit_point::CommitPoint;
use crate::engine::page_table::Readers;
use crate::fault::{self, Fault};
use crate::lsn::Lsn;

/// The newest commit in commit order, and the newest whose log bytes are synced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Points {
    pub(crate) newest: CommitPoint,
    pub(crate) durable: CommitPoint,
}

/// The commit lock and the registry. Lock order: registry, then points.
#[derive(Debug)]
pub(crate) struct ReaderRegistry {
    registered: Mutex<BTreeMap<Lsn, u64>>,
    /// The commit lock: held for copies of a few words only.
    points: Mutex<Points>,
}

impl ReaderRegistry {
    pub(crate) fn new(start: CommitPoint) -> Self {
        let points = Mutex::new(Points {
            newest: start,
            durable: start,
        });
        Self {
            registered: Mutex::default(),
            points,
        }
    }

    /// The two points as they are.
    pub(crate) fn points(&self) -> Points {
        *self.points.lock()
    }

    /// Registers a reader at the newest durable commit.
    pub(crate) fn register_durable(&self) -> CommitPoint {
        let mut registered = self.registered.lock();
        let points = *self.points.lock();
        let point = match fault::is(Fault::ReaderNotDurable) {
            true => points.newest,
            false => points.durable,
        };
        *registered.entry(point.lsn).or_default() += 1;
        point
    }

    /// Registers a reader at the newest commit, durable or not, and runs `under_lock` before any
    /// other commit can become the newest.
    pub(crate) fn register_newest(&self, under_lock: impl FnOnce(CommitPoint)) -> CommitPoint {
        let mut registered = self.registered.lock();
        let points = self.points.lock();
        let point = points.newest;
        *registered.entry(point.lsn).or_default() += 1;
        under_lock(point);
        point
    }

    /// Ends one registration; returns whether it was the oldest reader's last.
    pub(crate) fn end(&self, lsn: Lsn) -> bool {
        let mut registered = self.registered.lock();
        let was_oldest = registered.keys().next() == Some(&lsn);
        match registered.get_mut(&lsn) {
            Some(1) => {
                registered.remove(&lsn);
                was_oldest
            }
            Some(count) => {
                *count -= 1;
                false
            }
            None => false,
        }
    }

    /// Who may still want old versions. Taken under the registry's lock, so that a reader that
    /// registers later is not older than the durable point in it.
    pub(crate) fn snapshot(&self) -> Readers {
        let registered = self.registered.lock();
        let durable = self.points.lock().durable.lsn;
        Readers {
            registered: registered.keys().copied().collect(),
            durable,
        }
    }

    /// Makes `point` the newest commit.
    pub(crate) fn advance_newest(&self, point: CommitPoint) {
        self.points.lock().newest = point;
    }

    /// Makes `point` the newest durable commit, unless a newer one is already.
    pub(crate) fn advance_durable(&self, point: CommitPoint) {
        let mut points = self.points.lock();
        if point.lsn > points.durable.lsn {
            points.durable = point;
        }
    }
}
