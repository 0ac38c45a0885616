//! The database that is served, which may be exchanged while clients are connected.
//!
//! Every batch of a connection takes the seat for as long as it runs. Who closes it first lets no batch
//! in any more, and then waits for those that run: from there on nobody uses the database. Clients get
//! LOADING for whatever needs it, until it is open again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};

use crate::database::Database;

#[derive(Debug)]
struct Inner {
    is_closed: AtomicBool,
    database: RwLock<Option<Database>>,
}

/// See the head of the file. Clones are of the same seat.
#[derive(Clone, Debug)]
pub struct Seat {
    inner: Arc<Inner>,
}

impl Seat {
    /// Open, with `database` in it.
    #[must_use]
    pub fn of(database: Database) -> Self {
        let inner = Inner {
            is_closed: AtomicBool::new(false),
            database: RwLock::new(Some(database)),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The database; `None` while the seat is closed or empty.
    #[must_use]
    pub fn database(&self) -> Option<Database> {
        self.enter().and_then(|entered| entered.0.clone())
    }

    /// Lets nobody in any more; `None` if somebody else has closed it. Who is in it stays: see
    /// [`ClosedSeat::wait`].
    #[must_use]
    pub fn close(&self) -> Option<ClosedSeat> {
        let was_closed = self.inner.is_closed.swap(true, Ordering::SeqCst);
        (!was_closed).then(|| ClosedSeat { seat: self.clone() })
    }

    /// Never waits: who closes it waits for those who are in it.
    pub(super) fn enter(&self) -> Option<Entered<'_>> {
        // A thread may be in it twice, and somebody may wait in between.
        let guard = self.inner.database.try_read_recursive()?;
        // Looked at with the lock held: who closed it before that does not wait for this one.
        let is_open = !self.inner.is_closed.load(Ordering::SeqCst) && guard.is_some();
        is_open.then_some(Entered(guard))
    }
}

/// A batch in its seat: the database stays as long as this does.
pub(super) struct Entered<'a>(RwLockReadGuard<'a, Option<Database>>);

impl Entered<'_> {
    pub(super) fn database(&self) -> Option<&Database> {
        self.0.as_ref()
    }
}

impl fmt::Debug for Entered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entered")
    }
}

/// A seat that nobody enters. Dropping it opens the seat; if nothing is in it then, clients get LOADING.
#[derive(Debug)]
pub struct ClosedSeat {
    seat: Seat,
}

impl ClosedSeat {
    /// Waits for the batches that run: when this returns, nobody uses the database by this seat.
    pub fn wait(&self) {
        drop(self.seat.inner.database.write());
    }

    /// Whether there is no database in it. Never waits for a batch: it may be asked in one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seat.inner.database.read_recursive().is_none()
    }

    /// Takes the database out; waits as [`Self::wait`] does.
    #[must_use]
    pub fn take(&self) -> Option<Database> {
        self.seat.inner.database.write().take()
    }

    /// Puts a database in.
    pub fn put(&self, database: Database) {
        *self.seat.inner.database.write() = Some(database);
    }
}

impl Drop for ClosedSeat {
    fn drop(&mut self) {
        self.seat.inner.is_closed.store(false, Ordering::SeqCst);
    }
}
