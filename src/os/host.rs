//! Whole machines: the real one, and simulated ones that crash and start again.

use std::sync::Arc;

use crate::os::Host;
use crate::os::clock::{SimClock, SystemClock};
use crate::os::random::{SeededRandom, SystemRandom};
use crate::os::real_disk::RealDisk;
use crate::os::sim::SimDisk;

/// 2026-01-01 00:00 UTC: where the wall clock of a simulated machine starts.
const SIMULATED_START_NS: u64 = 1_767_225_600_000_000_000;

impl Host {
    /// The machine that we run on.
    #[must_use]
    pub fn system() -> Self {
        Self {
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }

    /// A machine with an empty disk; everything that happens on it follows from `seed`.
    #[must_use]
    pub fn simulated(seed: u64) -> SimulatedHost {
        let random = Arc::new(SeededRandom::new(seed));
        let disk = SimDisk::new(random.next());
        SimulatedHost::new(disk, Arc::new(SimClock::new(SIMULATED_START_NS)), random)
    }
}

/// A simulated machine, with the handles by which a test moves it.
#[derive(Clone, Debug)]
pub struct SimulatedHost {
    /// What is given to the code under test.
    pub host: Host,
    /// Its disk.
    pub disk: SimDisk,
    /// Its clock.
    pub clock: Arc<SimClock>,
    random: Arc<SeededRandom>,
}

impl SimulatedHost {
    fn new(disk: SimDisk, clock: Arc<SimClock>, random: Arc<SeededRandom>) -> Self {
        let host = Host {
            disk: Arc::new(disk.clone()),
            clock: Arc::<SimClock>::clone(&clock),
            random: Arc::<SeededRandom>::clone(&random),
        };
        Self {
            host,
            disk,
            clock,
            random,
        }
    }

    /// Stops the machine; returns it as it starts again, with one of the disks that may be left.
    ///
    /// Clock and randomness go on, so that a number drawn after the crash is not one drawn before.
    #[must_use]
    pub fn crash(&self, seed: u64) -> Self {
        self.with_disk(self.disk.crash(seed))
    }

    /// Kills the process that uses this host; returns the host for the one that comes after it.
    #[must_use]
    pub fn process_crash(&self) -> Self {
        self.with_disk(self.disk.process_crash())
    }

    /// The same machine with this disk, for example an image of a crash.
    #[must_use]
    pub fn with_disk(&self, disk: SimDisk) -> Self {
        Self::new(disk, Arc::clone(&self.clock), Arc::clone(&self.random))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::os::{Disk, OpenMode};

    #[test]
    fn handles_of_a_simulated_host_move_what_the_host_sees() {
        let machine = Host::simulated(1);
        machine.clock.advance(Duration::from_secs(3));
        assert_eq!(machine.host.clock.monotonic(), Duration::from_secs(3));
        machine
            .host
            .disk
            .open(Path::new("/a"), OpenMode::CreateNew)
            .unwrap();
        assert!(machine.disk.open(Path::new("/a"), OpenMode::Read).is_ok());
    }

    #[test]
    fn crash_keeps_the_clock_and_does_not_repeat_random_numbers() {
        let machine = Host::simulated(1);
        machine.clock.advance(Duration::from_secs(3));
        let draw = |machine: &SimulatedHost| {
            let mut out = [0; 16];
            machine.host.random.fill(&mut out).unwrap();
            out
        };
        let before = draw(&machine);
        let after = machine.crash(1);
        assert_eq!(after.host.clock.monotonic(), Duration::from_secs(3));
        assert_ne!(draw(&after), before);
        let error = machine.host.disk.list(Path::new("/")).unwrap_err();
        assert!(SimDisk::is_stopped(&error));
        assert_ne!(draw(&after.process_crash()), before);
    }

    #[test]
    fn two_machines_of_one_seed_draw_the_same() {
        let draw = |seed| {
            let mut out = [0; 16];
            Host::simulated(seed).host.random.fill(&mut out).unwrap();
            out
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }

    #[test]
    fn system_host_reads_the_real_disk() {
        assert!(
            !Host::system()
                .disk
                .list(Path::new("/proc/self"))
                .unwrap()
                .is_empty()
        );
    }
}
