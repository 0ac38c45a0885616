//! The daemon's own watch over the age of its pin: it warns before the end, and ends the view even where
//! no engine is left to end the pin.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::os::Clock;
use crate::source::ReadMeter;

/// How often the time is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// The last part of a pin's time, in which its end is warned of: a tenth.
const LAST_PART: u32 = 10;

/// How long a pin may last, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Age {
    clock: Arc<dyn Clock>,
    taken: Duration,
    max_age: Duration,
}

impl Age {
    /// Counts from now: a moment later than the engine does.
    pub(crate) fn start(clock: Arc<dyn Clock>, max_age: Duration) -> Self {
        let taken = clock.monotonic();
        Self {
            clock,
            taken,
            max_age,
        }
    }

    pub(crate) fn left(&self) -> Duration {
        let age = self.clock.monotonic().saturating_sub(self.taken);
        self.max_age.saturating_sub(age)
    }

    /// What to say of the end, if it is near.
    pub(crate) fn warning(&self) -> Option<String> {
        let left = self.left();
        (left <= self.max_age / LAST_PART).then(|| {
            let (left, whole) = (left.as_secs(), self.max_age.as_secs());
            format!("the pin ends in {left} s, at its maximum age of {whole} s")
        })
    }

    /// Until there is something to say, or the time is looked at.
    fn pause(&self) -> Duration {
        let left = self.left();
        let until_warning = left.saturating_sub(self.max_age / LAST_PART);
        let next = if until_warning.is_zero() {
            left
        } else {
            until_warning
        };
        next.clamp(Duration::from_millis(1), LOOK)
    }

    /// Warns in the log, and at the end makes every further read fail. Lasts until the result is dropped.
    pub(crate) fn watch(self, reads: Arc<dyn ReadMeter>) -> std::io::Result<AgeWatch> {
        let (over, is_over) = mpsc::channel();
        let body = move || {
            let mut is_warned = false;
            while is_over.recv_timeout(self.pause()) == Err(mpsc::RecvTimeoutError::Timeout) {
                if self.left().is_zero() {
                    reads.expire();
                    tracing::error!("the pin is at its maximum age: every further read fails");
                    return;
                }
                if let Some(warning) = self.warning().filter(|_| !is_warned) {
                    tracing::warn!("{warning}");
                    is_warned = true;
                }
            }
        };
        thread::Builder::new()
            .name("stillfs-age".to_owned())
            .spawn(body)?;
        Ok(AgeWatch { _over: over })
    }
}

/// See [`Age::watch`].
#[derive(Debug)]
pub(crate) struct AgeWatch {
    _over: mpsc::Sender<()>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::clock::SimClock;

    #[test]
    fn last_tenth_of_the_time_is_warned_of() {
        let clock = Arc::new(SimClock::new(0));
        let age = Age::start(clock.clone(), Duration::from_secs(100));
        clock.advance(Duration::from_secs(89));
        assert_eq!(age.warning(), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(
            age.warning().as_deref(),
            Some("the pin ends in 10 s, at its maximum age of 100 s")
        );
        clock.advance(Duration::from_secs(500));
        assert_eq!(age.left(), Duration::ZERO);
        assert!(age.warning().is_some());
    }
}
