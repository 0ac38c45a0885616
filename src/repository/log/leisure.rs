//! Standing back for those who commit while their log is archived.
//!
//! What is archived was committed a moment ago, so there is always somebody to stand back for. He waits for
//! both: for a processor, where all are busy, and behind pieces at the disk, half a millisecond behind 256 KiB
//! and ten behind 16 MiB. So a step works in small pieces, and rests after each for some times as long as
//! it took. It has a time for that, a part of the lag that is allowed; what is not done by then is done
//! without rests.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::os::Clock;

/// Rest after computing, in times of what it took.
const WORK_REST: u32 = 4;
/// Rest of the disk, in times of what it took to write.
const DISK_REST: u32 = 6;
/// No rest is longer: a piece that took long did so for others.
const REST_MAX: Duration = Duration::from_millis(100);
/// Bytes that are computed with at once.
pub(super) const WORK_BYTES: usize = 256 << 10;

/// How long a step may rest. See the head of the file.
#[derive(Debug)]
pub(super) struct Leisure {
    clock: Arc<dyn Clock>,
    /// The part of a step that may have rests.
    time: Duration,
    /// Both on the monotonic clock.
    until: Cell<Duration>,
    begun: Cell<Duration>,
}

impl Leisure {
    /// With `time` in each step; none is no rest at all.
    pub(super) fn new(clock: Arc<dyn Clock>, time: Duration) -> Self {
        Self {
            clock,
            time,
            until: Cell::default(),
            begun: Cell::default(),
        }
    }

    /// A step begins.
    pub(super) fn begin(&self) {
        let now = self.clock.monotonic();
        self.until.set(now.saturating_add(self.time));
        self.begun.set(now);
    }

    /// A piece was computed since the last rest.
    pub(super) fn computed(&self) {
        self.rest(WORK_REST);
    }

    /// A piece was written since the last rest, and is on the disk.
    pub(super) fn written(&self) {
        self.rest(DISK_REST);
    }

    fn rest(&self, times: u32) {
        let now = self.clock.monotonic();
        let took = now.saturating_sub(self.begun.get());
        let left = self.until.get().saturating_sub(now);
        let rest = took.saturating_mul(times).min(REST_MAX).min(left);
        if !rest.is_zero() {
            self.clock.sleep(rest);
        }
        self.begun.set(self.clock.monotonic());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Host;

    const MS: Duration = Duration::from_millis(1);

    /// A step rests for longer than it works, until its time is over; and not at all without any.
    #[test]
    fn rests_are_longer_than_the_work_and_end_with_the_time() {
        let machine = Host::simulated(1);
        let clock = machine.clock.clone();
        let after = |leisure: &Leisure, work: Duration, rest: &dyn Fn(&Leisure)| {
            let before = clock.monotonic();
            clock.advance(work);
            rest(leisure);
            clock.monotonic() - before
        };
        let leisure = Leisure::new(machine.host.clock.clone(), 100 * MS);
        leisure.begin();
        assert_eq!(after(&leisure, MS, &Leisure::computed), 5 * MS);
        assert_eq!(after(&leisure, 2 * MS, &Leisure::written), 14 * MS);
        assert_eq!(after(&leisure, 30 * MS, &Leisure::written), 81 * MS);
        assert_eq!(after(&leisure, 30 * MS, &Leisure::written), 30 * MS);
        clock.advance(Duration::from_secs(1));
        leisure.begin();
        assert_eq!(after(&leisure, MS, &Leisure::computed), 5 * MS);
        let none = Leisure::new(machine.host.clock.clone(), Duration::ZERO);
        none.begin();
        assert_eq!(after(&none, 3 * MS, &Leisure::written), 3 * MS);
    }
}
