//! What happens to pins by the passing of time: age, holders that are gone, and those that nobody
//! reclaimed after a restart.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::shadow::Shadow;

/// How long an adopted pin waits for its holder.
pub const CLAIM_PATIENCE: Duration = Duration::from_secs(60);

/// What tending needs to remember.
#[derive(Debug)]
pub(super) struct Tending {
    claim_patience_ms: AtomicU64,
}

impl Default for Tending {
    fn default() -> Self {
        Self {
            claim_patience_ms: AtomicU64::new(whole_ms(CLAIM_PATIENCE)),
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

    /// Ends the pins whose time is over at `now`, on the monotonic clock.
    pub fn tend(&self, now: Duration) {
        let patience = self.tending.claim_patience_ms.load(Ordering::Relaxed);
        let patience = Duration::from_millis(patience);
        for pin in self.pins() {
            let Some(reason) = pin.is_due(now, patience) else {
                continue;
            };
            let id = pin.header().pin;
            match self.end(&pin, reason) {
                Ok(()) => tracing::info!(pin = %id, %reason, "ended a pin"),
                // The pin lasts, and so does what it needs; it is tried again.
                Err(error) => tracing::error!(%error, pin = %id, "cannot end a pin visibly"),
            }
        }
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
