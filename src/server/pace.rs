//! How slow a client may be.

use std::time::Duration;

use crate::os::Clock;
use crate::os::clock::SystemClock;

/// Whoever sends or takes less than that in a second, beyond a grace, only holds a place.
const BYTES_PER_SECOND_MIN: u64 = 16 << 10;

/// The time by which paces are measured.
pub(super) fn now() -> Duration {
    SystemClock.monotonic()
}

/// Something that a client does, from its beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    begun: Duration,
    /// When it last got on.
    moved: Duration,
    grace: Duration,
}

impl Pace {
    /// Begins now.
    pub(super) fn start(grace: Duration) -> Self {
        let begun = now();
        Self {
            begun,
            moved: begun,
            grace,
        }
    }

    /// The client did a part of it now.
    pub(super) fn move_on(&mut self) {
        self.moved = now();
    }

    /// Until when it may take that has done `bytes` by now. It may earn time by bytes, but no longer a
    /// silence than the grace.
    pub(super) fn end(&self, bytes: usize) -> Duration {
        let earned = Duration::from_secs(bytes as u64 / BYTES_PER_SECOND_MIN);
        let in_all = self.begun.saturating_add(self.grace.saturating_add(earned));
        in_all.min(self.moved.saturating_add(self.grace))
    }

    /// Whether the client was too slow for the `bytes` that went through until now.
    pub(super) fn is_lost(&self, bytes: usize) -> bool {
        now() >= self.end(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_came_earn_time_but_no_longer_silence() {
        let begun = now();
        let grace = Duration::from_secs(1);
        let mut pace = Pace {
            begun,
            moved: begun,
            grace,
        };
        assert_eq!(pace.end(0), begun + grace);
        assert_eq!(pace.end(1 << 30), begun + grace);
        pace.moved = begun + 10 * grace;
        assert_eq!(pace.end(16 << 10), begun + 2 * grace);
        assert_eq!(pace.end(1 << 30), begun + 11 * grace);
        assert!(Pace::start(Duration::ZERO).is_lost(1 << 30));
        assert!(!Pace::start(Duration::from_secs(3600)).is_lost(0));
        assert!(!Pace::start(Duration::MAX).is_lost(usize::MAX));
    }
}
