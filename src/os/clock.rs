//! Clocks: the system's, and one that a test sets.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;

use crate::os::Clock;

/// The machine's clocks. The monotonic one counts from the machine's start, sleep included, so that its
/// moments can be compared between processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[allow(
    clippy::disallowed_methods,
    reason = "this is the clock that the others must use"
)]
impl Clock for SystemClock {
    fn wall_ns(&self) -> u64 {
        // A machine whose clock stands before 1970 has 0; one past the year 2554 stays there.
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has this clock");
        now.into()
    }

    fn thread_cpu(&self) -> Duration {
        let used = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
        used.expect("every Linux has this clock").into()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// What sleeping on a simulated clock does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimSleep {
    /// Moves both clocks on by the duration and returns at once.
    Advance,
    /// Gives up the processor once; only the test moves time.
    Yield,
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct SimClock {
    state: Mutex<SimTime>,
}

#[derive(Debug)]
struct SimTime {
    wall_ns: u64,
    monotonic: Duration,
    sleep: SimSleep,
}

impl SimClock {
    /// A clock at `wall_ns` (nanoseconds since 1970) whose monotonic time is 0; sleeping advances it.
    #[must_use]
    pub fn new(wall_ns: u64) -> Self {
        let state = SimTime {
            wall_ns,
            monotonic: Duration::ZERO,
            sleep: SimSleep::Advance,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// Moves wall and monotonic time on.
    pub fn advance(&self, duration: Duration) {
        self.state.lock().advance(duration);
    }

    /// Sets the wall clock, backwards too, as an administrator may; monotonic time does not notice.
    pub fn set_wall_ns(&self, wall_ns: u64) {
        self.state.lock().wall_ns = wall_ns;
    }

    /// Chooses what sleeping does.
    pub fn set_sleep(&self, sleep: SimSleep) {
        self.state.lock().sleep = sleep;
    }
}

impl SimTime {
    fn advance(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.wall_ns = self.wall_ns.saturating_add(nanoseconds);
        self.monotonic = self.monotonic.saturating_add(duration);
    }
}

impl Clock for SimClock {
    fn wall_ns(&self) -> u64 {
        self.state.lock().wall_ns
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().monotonic
    }

    fn sleep(&self, duration: Duration) {
        {
            let mut state = self.state.lock();
            match state.sleep {
                SimSleep::Advance => state.advance(duration),
                SimSleep::Yield => {}
            }
        }
        // Also when time advanced: a loop that sleeps must not starve the thread that it waits for.
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_is_past_2020_and_does_not_go_back() {
        assert!(SystemClock.wall_ns() > 1_577_836_800_000_000_000);
        let before = SystemClock.monotonic();
        SystemClock.sleep(Duration::from_millis(1));
        assert!(SystemClock.monotonic() >= before + Duration::from_millis(1));
    }

    /// What one process notes, another compares with its own time: the age of a pin over a restart.
    #[test]
    fn system_clock_counts_from_the_start_of_the_machine() {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
        let uptime = Duration::from_secs_f64(seconds);
        let apart = SystemClock.monotonic().abs_diff(uptime);
        assert!(apart < Duration::from_secs(60), "{apart:?}");
    }

    #[test]
    fn sleeping_advances_both_simulated_clocks() {
        let clock = SimClock::new(1000);
        clock.sleep(Duration::from_nanos(5));
        assert_eq!(
            (clock.wall_ns(), clock.monotonic()),
            (1005, Duration::from_nanos(5))
        );
    }

    #[test]
    fn sleeping_that_yields_moves_no_time() {
        let clock = SimClock::new(1000);
        clock.set_sleep(SimSleep::Yield);
        clock.sleep(Duration::from_secs(5));
        assert_eq!((clock.wall_ns(), clock.monotonic()), (1000, Duration::ZERO));
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.monotonic(), Duration::from_secs(1));
    }

    #[test]
    fn setting_the_wall_clock_back_leaves_monotonic_time_alone() {
        let clock = SimClock::new(1000);
        clock.advance(Duration::from_nanos(10));
        clock.set_wall_ns(1);
        assert_eq!(
            (clock.wall_ns(), clock.monotonic()),
            (1, Duration::from_nanos(10))
        );
    }
}
