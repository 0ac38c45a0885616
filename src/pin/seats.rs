//! A bound on how many there may be at once, of connections or of pins.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many seats, and how many of them are taken.
#[derive(Debug)]
pub(crate) struct Seats {
    limit: usize,
    taken: AtomicUsize,
}

/// One seat, free again when dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Seats>);

impl Seats {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            taken: AtomicUsize::new(0),
        })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// A seat beyond the limit if need be, for one whose number is bounded elsewhere.
    pub(crate) fn take_anyway(self: &Arc<Self>) -> Seat {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Seat(Arc::clone(self))
    }

    /// Errors: `None` if all are taken.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Seat> {
        let is_free = |taken| (taken < self.limit).then_some(taken + 1);
        // The count guards nothing but itself, so no order with other memory is needed.
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_free)
            .ok()?;
        Some(Seat(Arc::clone(self)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seat_can_be_taken_again_after_it_was_left() {
        let seats = Seats::new(2);
        let (first, _second) = (seats.take().unwrap(), seats.take().unwrap());
        assert!(seats.take().is_none());
        drop(first);
        let third = seats.take().unwrap();
        let beyond = seats.take_anyway();
        drop(third);
        assert!(seats.take().is_none(), "two of two are taken");
        drop(beyond);
        assert!(seats.take().is_some());
    }
}
