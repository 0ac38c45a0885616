//! How slow a client may be.

use std::time::Duration;

use crate::os::Clock;
use crate::os::clock::SystemClock;

/// Whoever sends or takes less than that in a second, beyond a grace, only holds a place.
const BYTES_PER_SECOND_MIN: u64 = 16 << 10;

/// Something that a client does, from its beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    begun: Duration,
    grace: Duration,
}

impl Pace {
    /// Begins now.
    pub(super) fn start(grace: Duration) -> Self {
        Self {
            begun: SystemClock.monotonic(),
            grace,
        }
    }

    /// Whether the client was too slow for the `bytes` that went through until now.
    pub(super) fn is_lost(&self, bytes: usize) -> bool {
        let earned = Duration::from_secs(bytes as u64 / BYTES_PER_SECOND_MIN);
        let taken = SystemClock.monotonic().saturating_sub(self.begun);
        taken >= self.grace.saturating_add(earned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_came_earn_time() {
        let pace = Pace::start(Duration::ZERO);
        assert!(pace.is_lost(100));
        assert!(!pace.is_lost(1 << 30));
        assert!(!Pace::start(Duration::from_secs(3600)).is_lost(0));
        assert!(!Pace::start(Duration::MAX).is_lost(usize::MAX));
    }
}
