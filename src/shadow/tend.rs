//! What happens to pins by the passing of time: age, holders that are gone, and those that nobody
//! reclaimed after a restart.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::shadow::Shadow;
use crate::shadow::adopt::Stranger;

/// How long an adopted pin waits for its holder.
pub const CLAIM_PATIENCE: Duration = Duration::from_secs(60);

/// How often writeback tends, where nothing else does.
const PAUSE: Duration = Duration::from_secs(1);

/// What tending needs to remember.
#[derive(Debug)]
pub(super) struct Tending {
    claim_patience_ms: AtomicU64,
    tended_ms: AtomicU64,
    /// Pins that were found held and could not be taken over.
    strangers: Mutex<Vec<Stranger>>,
    /// Whether the slot file may have more slots than we know of.
    has_tail: AtomicBool,
}

impl Tending {
    pub(super) fn new(strangers: Vec<Stranger>) -> Self {
        Self {
            claim_patience_ms: AtomicU64::new(whole_ms(CLAIM_PATIENCE)),
            tended_ms: AtomicU64::new(0),
            strangers: Mutex::new(strangers),
            has_tail: AtomicBool::new(true),
        }
    }
}

impl Shadow {
    /// Sets how long an adopted pin waits for its holder; [`CLAIM_PATIENCE`] unless set.
    pub fn set_claim_patience(&self, patience: Duration) {
        let patience = whole_ms(patience);
        self.tending
            .claim_patience_ms
            .store(patience, Ordering::Relaxed);
    }

    /// Tends, unless that was done less than `PAUSE` ago.
    pub fn tend_sometimes(&self, now: Duration) {
        let tended = Duration::from_millis(self.tending.tended_ms.load(Ordering::Relaxed));
        if now.saturating_sub(tended) >= PAUSE {
            self.tend(now);
        }
    }

    /// Ends the pins whose time is over at `now`, on the monotonic clock, and cleans up after strangers
    /// who have let go. Only while an engine runs: its epoch is in the live header.
    pub fn tend(&self, now: Duration) {
        self.tending
            .tended_ms
            .store(whole_ms(now), Ordering::Relaxed);
        self.end_what_is_due(now);
        let mut strangers = self.tending.strangers.lock();
        strangers.retain_mut(|stranger| !stranger.end_if_abandoned(&*self.disk));
        drop(strangers);
        if self.tending.has_tail.swap(false, Ordering::Relaxed)
            && let Err(error) = self.slots.cut_tail()
        {
            tracing::warn!(%error, "cannot cut shadow/slots");
        }
    }

    fn end_what_is_due(&self, now: Duration) {
        let patience = self.tending.claim_patience_ms.load(Ordering::Relaxed);
        let patience = Duration::from_millis(patience);
        for pin in self.pins() {
            let Some(reason) = pin.is_due(now, patience) else {
                continue;
            };
            let id = pin.header().pin;
            match self.end(&pin, reason) {
                Ok(()) => {}
                // The pin lasts, and so does what it needs; it is tried again.
                Err(error) => tracing::error!(%error, pin = %id, "cannot end a pin visibly"),
            }
        }
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
