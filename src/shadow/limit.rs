//! Limits: how much a pin may keep, how much of the disk stays free, and what goes first.
//!
//! ```text
//! a page to keep --> pin's limit --> slot that needs no space, else room above the floor --> stored
//!                        |                             |
//!                        |                             +-- no: `break` pins end, oldest first; then
//!                        v                                     a `hold` pin holds
//!                  `break` ends, `hold` holds
//! ```
//!
//! Lock order: as in the head of `shadow`. [`Shadow::relieve`] is called by the engine with its own
//! locks held, and calls nothing of the engine.

use std::sync::Arc;

use crate::fault::{self, Fault};
use crate::page::PageNo;
use crate::shadow::index::{Entry, OnFull};
use crate::shadow::{EndReason, HeldPin, Shadow, ShadowError};

/// Whether pages may be overwritten.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Every pin that needs them has them.
    All,
    /// A pin that holds has no room for one: nothing may be overwritten yet.
    NotYet,
}

/// What the engine has too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Log: it is at its limit, and a checkpoint is held up.
    Log,
    /// Disk: it is full.
    Disk,
}

impl ShadowError {
    /// Whether it is space that is missing, and not something else wrong.
    pub(super) fn is_shortage(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }

    /// Why a pin ends that could not keep a page.
    pub(super) fn end_reason(&self) -> EndReason {
        match self {
            Self::AtLimit { .. } => EndReason::ShadowFull,
            error if error.is_shortage() => EndReason::DiskFull,
            _ => EndReason::Broken,
        }
    }
}

impl Shadow {
    /// Stores the pre-image of `page` for `pin`, within its limit and above the floor (L1).
    ///
    /// Errors: `Held` if the pin is one that holds, and nothing may be overwritten; `Ended`; otherwise
    /// what kept it from being stored, which is the pin's end.
    pub(super) fn store(
        &self,
        pin: &HeldPin,
        page: PageNo,
        image: &[u8],
    ) -> Result<Entry, ShadowError> {
        let on_full = pin.header().on_full;
        let full = |error| match on_full {
            OnFull::Break => error,
            OnFull::Hold => ShadowError::Held,
        };
        loop {
            if let Some(reason) = pin.ended() {
                return Err(ShadowError::Ended(reason));
            }
            pin.refuse_beyond_limit(1).map_err(full)?;
            match self.slots.acquire(page, image, &self.room) {
                Ok((entry, fresh)) => {
                    pin.count_captured(fresh);
                    return Ok(entry);
                }
                Err(error) if error.is_shortage() => {
                    if !self.end_oldest(OnFull::Break) {
                        return Err(full(error));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives back what can be given back: space that no pin needs, else the space of the pin that has
    /// to go first (L3, L4). Says whether there was anything.
    pub fn relieve(&self, shortage: Shortage) -> bool {
        match shortage {
            Shortage::Disk => {
                let (first, last) = match fault::is(Fault::HoldGoesFirst) {
                    true => (OnFull::Hold, OnFull::Break),
                    false => (OnFull::Break, OnFull::Hold),
                };
                self.slots.give_back() > 0 || self.end_oldest(first) || self.end_oldest(last)
            }
            Shortage::Log if fault::is(Fault::LogLimitHolds) => false,
            Shortage::Log => {
                let holds = |pin: &HeldPin| pin.holding_since().is_some();
                self.end_first(holds, EndReason::LogFull)
            }
        }
    }

    /// Nothing is held up any more.
    pub fn passed(&self) {
        self.pins().iter().for_each(|pin| pin.set_holding(None));
        *self.old_pages.lock() = Vec::new();
    }

    /// Gives a pin that asked for no limit the default: what its spill took, and half of what is then
    /// free above the floor, so that one pin leaves room for another.
    pub fn bound(&self, pin: &HeldPin) {
        let spilled = pin.counts().shadowed_pages * u64::from(self.page_size.get());
        let limit = spilled.saturating_add(self.room.above_floor() / 2);
        pin.fix(|header| {
            header.shadow_limit_bytes.get_or_insert(limit.max(1));
        });
    }

    /// Free bytes of the shadow's file system, where it tells them, and the floor.
    #[must_use]
    pub fn free_space(&self) -> (Option<u64>, u64) {
        (self.room.free_bytes(), self.room.floor_bytes())
    }

    fn end_oldest(&self, on_full: OnFull) -> bool {
        self.end_first(|pin| pin.header().on_full == on_full, EndReason::DiskFull)
    }

    /// Ends the oldest of the pins that `may_go` and can be ended, and gives its space back.
    fn end_first(&self, may_go: impl Fn(&HeldPin) -> bool, reason: EndReason) -> bool {
        let mut pins: Vec<Arc<HeldPin>> = self.pins();
        pins.retain(|pin| may_go(pin));
        pins.sort_by_key(|pin| pin.header().taken);
        if fault::is(Fault::YoungestGoesFirst) {
            pins.reverse();
        }
        for pin in pins {
            match self.end(&pin, reason) {
                Ok(()) => {
                    self.slots.give_back();
                    return true;
                }
                Err(error) => {
                    tracing::error!(%error, pin = %pin.header().pin, "cannot end a pin visibly");
                }
            }
        }
        false
    }
}
