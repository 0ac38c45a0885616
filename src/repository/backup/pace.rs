//! No more bytes in a second than somebody allows.

use std::time::Duration;

use parking_lot::Mutex;

use crate::os::Clock;
use crate::repository::error::Result;

/// No sleep is longer, so that a cancel is heard.
const SLEEP_MAX: Duration = Duration::from_millis(50);
const NS_PER_SECOND: u128 = 1_000_000_000;

/// Hands out the bytes of a rate, one caller after the other. What was not used in a pause is not saved up.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<u64>,
    /// When the bytes that were handed out are used up, on the monotonic clock.
    free_at: Mutex<Duration>,
}

impl Pace {
    /// `rate` bytes per second; without one nobody waits.
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self {
            rate,
            free_at: Mutex::new(Duration::ZERO),
        }
    }

    /// Waits until `bytes` may be read. Errors: that of `go_on`, which is asked again and again.
    pub(super) fn wait_for(
        &self,
        bytes: u64,
        clock: &dyn Clock,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let Some(rate) = self.rate else { return Ok(()) };
        let now = clock.monotonic();
        let begin = {
            let mut free_at = self.free_at.lock();
            let begin = now.max(*free_at);
            *free_at = begin.saturating_add(time_for(bytes, rate));
            begin
        };
        loop {
            go_on()?;
            let rest = begin.saturating_sub(clock.monotonic());
            if rest.is_zero() {
                return Ok(());
            }
            clock.sleep(rest.min(SLEEP_MAX));
        }
    }
}

fn time_for(bytes: u64, rate: u64) -> Duration {
    let ns = u128::from(bytes) * NS_PER_SECOND / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Host;
    use crate::repository::error::RepositoryError;

    fn took(rate: Option<u64>, pieces: &[u64]) -> Duration {
        let machine = Host::simulated(1);
        let pace = Pace::new(rate);
        for piece in pieces {
            pace.wait_for(*piece, &*machine.clock, &|| Ok(())).unwrap();
        }
        machine.clock.monotonic()
    }

    #[test]
    fn bytes_take_as_long_as_the_rate_says() {
        assert_eq!(took(None, &[1 << 40, 1]), Duration::ZERO);
        assert_eq!(took(Some(1000), &[500, 500, 1]), Duration::from_secs(1));
        assert_eq!(took(Some(1), &[3, 0, 1]), Duration::from_secs(3));
        assert!(took(Some(0), &[7, 1]) > Duration::from_secs(6));
    }

    /// What was not used is lost: a pause is no licence for a rush.
    #[test]
    fn a_pause_is_not_made_up_for() {
        let machine = Host::simulated(1);
        let pace = Pace::new(Some(100));
        machine.clock.advance(Duration::from_secs(60));
        for _ in 0..3 {
            pace.wait_for(100, &*machine.clock, &|| Ok(())).unwrap();
        }
        assert_eq!(machine.clock.monotonic(), Duration::from_secs(62));
    }

    #[test]
    fn whoever_waits_hears_a_cancel() {
        let machine = Host::simulated(1);
        let pace = Pace::new(Some(1));
        let go_on = || match machine.clock.monotonic() > Duration::from_secs(1) {
            true => Err(RepositoryError::Cancelled),
            false => Ok(()),
        };
        pace.wait_for(1_000_000, &*machine.clock, &go_on).unwrap();
        let stopped = pace.wait_for(1, &*machine.clock, &go_on);
        assert!(matches!(stopped, Err(RepositoryError::Cancelled)));
        assert!(machine.clock.monotonic() < Duration::from_secs(2));
    }
}
