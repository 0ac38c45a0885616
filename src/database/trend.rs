//! How fast something grows or shrinks, by samples of the last minutes; and when it is full.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back is looked.
const SPAN: Duration = Duration::from_secs(5 * 60);
/// How far samples are apart.
const STEP: Duration = Duration::from_secs(5);
/// Less tells nothing.
const ELAPSED_MIN: Duration = Duration::from_secs(1);

/// See the head of the file. `now` never goes back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trend {
    samples: VecDeque<(Duration, u64)>,
}

impl Trend {
    /// Takes note of `value`; cheap enough for every second.
    pub(crate) fn observe(&mut self, now: Duration, value: u64) {
        let is_due = |last: &(Duration, u64)| now.saturating_sub(last.0) >= STEP;
        if self.samples.back().is_none_or(is_due) {
            self.samples.push_back((now, value));
        }
        let is_old = |sample: &(Duration, u64)| now.saturating_sub(sample.0) > SPAN;
        while self.samples.len() > 1 && self.samples.front().is_some_and(is_old) {
            self.samples.pop_front();
        }
    }

    /// Growth per second up to `value`; 0 if it did not grow.
    pub(crate) fn growth(&self, now: Duration, value: u64) -> u64 {
        self.rate(now, |before| value.saturating_sub(before))
    }

    /// Loss per second down to `value`; 0 if it did not shrink.
    pub(crate) fn decline(&self, now: Duration, value: u64) -> u64 {
        self.rate(now, |before| before.saturating_sub(value))
    }

    fn rate(&self, now: Duration, change: impl FnOnce(u64) -> u64) -> u64 {
        let Some((since, before)) = self.samples.front() else {
            return 0;
        };
        let elapsed = now.saturating_sub(*since);
        if elapsed < ELAPSED_MIN {
            return 0;
        }
        let per_second = u128::from(change(*before)) * 1000 / elapsed.as_millis().max(1);
        u64::try_from(per_second).unwrap_or(u64::MAX)
    }
}

/// In what time `left_bytes` are used up; `None` if never at this rate.
pub(crate) fn used_up_in(left_bytes: u64, bytes_per_second: u64) -> Option<Duration> {
    let per_ms = u128::from(left_bytes).saturating_mul(1000);
    let ms = per_ms.checked_div(u128::from(bytes_per_second))?;
    Some(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn rate_is_that_of_the_last_minutes() {
        let mut trend = Trend::default();
        assert_eq!(trend.growth(at(5), 100), 0, "nothing is known yet");
        for second in 0..1000_u64 {
            // Fast at first, slow in the last minutes.
            let value = second.min(600) * 1000 + second.saturating_sub(600) * 10;
            trend.observe(at(second), value);
        }
        let last = 600 * 1000 + 399 * 10;
        assert_eq!(trend.growth(at(999), last), 10);
        assert_eq!(trend.decline(at(999), last), 0);
        assert!(trend.samples.len() <= 62);
        let mut falling = Trend::default();
        falling.observe(at(0), 5000);
        assert_eq!(
            (falling.decline(at(10), 4000), falling.growth(at(10), 4000)),
            (100, 0)
        );
        assert_eq!(
            falling.decline(Duration::from_millis(10), 0),
            0,
            "too soon to tell"
        );
    }

    #[test]
    fn what_does_not_grow_is_never_full() {
        assert_eq!(used_up_in(1000, 0), None);
        assert_eq!(used_up_in(1000, 10), Some(at(100)));
        assert_eq!(used_up_in(0, 10), Some(at(0)));
        assert_eq!(
            used_up_in(u64::MAX, 1),
            Some(Duration::from_millis(u64::MAX))
        );
    }
}
