//! How much memory all connections together may take.
//!
//! Each piece of memory that grows by a client's will belongs to a share. The first bytes of a share
//! are free, so that small commands go on for everybody when others have taken all there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a share may hold without asking: the buffers of a connection that waits, and small commands.
pub(super) const FREE_BYTES: usize = 128 << 10;

/// There is no memory left for what a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server has no memory left for this: try again later, or with less at a time")]
pub(super) struct OverBudget;

/// So much for all connections of a server.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    /// Most bytes of one share, so that one client alone does not take everything.
    share_max: usize,
    used: AtomicUsize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            share_max: limit - limit / 4,
            used: AtomicUsize::new(0),
        })
    }

    /// What shares hold beyond what is free.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// A share that holds nothing yet.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share {
            budget: Arc::clone(self),
            held: 0,
        }
    }

    /// The count guards nothing but itself, so no order with other memory is needed.
    fn take(&self, bytes: usize) -> Result<(), OverBudget> {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(drop).map_err(|_| OverBudget)
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    held: usize,
}

impl Share {
    /// Holds `bytes` in all from now on. Errors: `OverBudget`; what was held before stays so.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), OverBudget> {
        let (before, after) = (counted(self.held), counted(bytes));
        if after > before {
            if bytes > self.budget.share_max {
                return Err(OverBudget);
            }
            self.budget.take(after - before)?;
        } else {
            self.budget
                .used
                .fetch_sub(before - after, Ordering::Relaxed);
        }
        self.held = bytes;
        Ok(())
    }

    /// Holds so many bytes more. Errors: `OverBudget`.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), OverBudget> {
        self.hold(self.held.saturating_add(bytes))
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget
            .used
            .fetch_sub(counted(self.held), Ordering::Relaxed);
    }
}

fn counted(bytes: usize) -> usize {
    bytes.saturating_sub(FREE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_take_from_one_budget_and_give_back() {
        let budget = Budget::new(1 << 20);
        let (mut one, mut other) = (budget.share(), budget.share());
        one.hold(FREE_BYTES + 600_000).unwrap();
        assert_eq!(other.hold(FREE_BYTES + 600_000), Err(OverBudget));
        assert_eq!((other.held(), budget.used()), (0, 600_000));
        one.hold(100).unwrap();
        other.grow(FREE_BYTES + 600_000).unwrap();
        drop((one, other));
        assert_eq!(budget.used(), 0);
    }

    /// A small command goes through when others hold everything.
    #[test]
    fn the_first_bytes_are_free() {
        let budget = Budget::new(0);
        let mut share = budget.share();
        share.hold(FREE_BYTES).unwrap();
        assert_eq!(share.grow(1), Err(OverBudget));
        assert_eq!(share.grow(usize::MAX), Err(OverBudget));
    }

    #[test]
    fn one_share_does_not_take_everything() {
        let budget = Budget::new(1 << 20);
        let mut share = budget.share();
        assert_eq!(share.hold(1 << 20), Err(OverBudget));
        share.hold(3 << 18).unwrap();
    }
}
