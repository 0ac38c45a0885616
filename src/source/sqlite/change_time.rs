//! When a pinned state was last changed, so that two states never show the same time.
//!
//! A state with frames in the log was made by a write to the log, so it is the log's time of change that
//! counts. It is exact if nobody wrote to the log around the pin; otherwise it may already be that of the
//! next state, and a part below a millisecond, drawn from what tells the state from all others, is taken
//! from it.

use std::time::Duration;

use crate::os::path::Metadata;
use crate::source::sqlite::format::{Checksum, IndexHeader, Salts};

/// What the times of files are not finer than, on kernels before 6.13; with some to spare.
const TICK: Duration = Duration::from_millis(20);
/// The same on file systems that keep whole seconds, or every other.
const COARSE_TICK: Duration = Duration::from_millis(2100);
const SECOND_NS: i64 = 1_000_000_000;
/// What is taken from an unsure time is less than this, in nanoseconds: about a millisecond.
const UNSURE_NS: u64 = 1 << 20;

/// Whether the log was seen to be at rest from before the index was read until after the lock was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogSeen {
    /// It was: equal times, and nobody in a write transaction between.
    AtRest,
    /// It was not, or that cannot be told.
    Busy,
}

/// Whether the kernel gives each change a time of its own once somebody has looked at the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileTimes {
    /// It does.
    Fine,
    /// Changes of one tick of a clock have one time.
    Coarse,
}

/// What tells a state with frames from all others of its database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StateName {
    pub(super) salts: Salts,
    pub(super) frame_count: u32,
    /// That of the last frame.
    pub(super) checksum: Checksum,
}

impl StateName {
    pub(super) fn of(header: &IndexHeader) -> Self {
        Self {
            salts: header.salts,
            frame_count: header.frame_count,
            checksum: header.frame_checksum,
        }
    }

    fn fingerprint(self) -> u64 {
        let mut mixed = u64::from_be_bytes(self.salts);
        for part in [u64::from(self.frame_count), self.checksum.number()] {
            mixed = (mixed ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed ^= mixed >> 32;
        }
        mixed
    }
}

/// Whether the file system keeps no parts of a second, as far as the time itself tells: ext4 is one, where
/// its inodes are small, and no kernel makes it finer.
pub(super) fn is_whole_second(mtime_ns: i64) -> bool {
    mtime_ns % SECOND_NS == 0
}

/// What the time of a change is not finer than, as far as the time itself tells.
pub(super) fn tick(mtime_ns: i64) -> Duration {
    if is_whole_second(mtime_ns) {
        COARSE_TICK
    } else {
        TICK
    }
}

/// Nanoseconds since 1970 of the last change of the state `name`, whose file of change is `changed`, which
/// was looked at at `wall_ns` or after: what is young then may be the time of the next state too.
pub(super) fn changed_ns(
    changed: &Metadata,
    seen: LogSeen,
    times: FileTimes,
    wall_ns: u64,
    name: StateName,
) -> u64 {
    let time = u64::try_from(changed.mtime_ns).unwrap_or(0);
    let age = Duration::from_nanos(wall_ns.saturating_sub(time));
    let is_fine = times == FileTimes::Fine && !is_whole_second(changed.mtime_ns);
    let is_sure = seen == LogSeen::AtRest && (is_fine || age > tick(changed.mtime_ns));
    if is_sure {
        return time;
    }
    time.saturating_sub(1 + name.fingerprint() % (UNSURE_NS - 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::os::clock::SystemClock;
    use crate::os::{Clock, Host};
    use crate::source::sqlite::Prepared;
    use crate::source::sqlite::application::Application;

    fn state(frame_count: u32) -> StateName {
        StateName {
            frame_count,
            ..StateName::default()
        }
    }

    #[test]
    fn time_is_exact_only_where_no_other_state_can_share_it() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let file = crate::os::path::metadata(place.path()).unwrap();
        let time = u64::try_from(file.mtime_ns).unwrap();
        let (soon, late) = (time + 1_000_000, time + 30_000_000);
        use {FileTimes as Times, LogSeen as Seen};
        for (seen, times, wall_ns, is_exact) in [
            (Seen::AtRest, Times::Fine, soon, true),
            (Seen::AtRest, Times::Coarse, soon, false),
            (Seen::AtRest, Times::Coarse, late, true),
            (Seen::Busy, Times::Fine, late, false),
            // The clock was set back.
            (Seen::AtRest, Times::Coarse, time - 1, false),
        ] {
            let shown = |name| changed_ns(&file, seen, times, wall_ns, name);
            let found = shown(state(7));
            assert_eq!(found == time, is_exact);
            assert!(found <= time && time - found < UNSURE_NS);
            assert_eq!(shown(state(7)), found);
            assert_eq!(shown(state(8)) == found, is_exact);
        }
    }

    /// A2: a file system that keeps whole seconds gives the states of one second one time, on any kernel.
    #[test]
    fn whole_second_is_exact_only_when_it_is_over() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        place.as_file().set_modified(time).unwrap();
        let file = crate::os::path::metadata(place.path()).unwrap();
        let time = u64::try_from(file.mtime_ns).unwrap();
        for (times, age_ms, is_exact) in [
            (FileTimes::Coarse, 900, false),
            (FileTimes::Fine, 900, false),
            (FileTimes::Fine, 1900, false),
            (FileTimes::Coarse, 2200, true),
            (FileTimes::Fine, 2200, true),
        ] {
            let wall_ns = time + age_ms * 1_000_000;
            let shown = |name| changed_ns(&file, LogSeen::AtRest, times, wall_ns, name);
            assert_eq!(shown(state(7)) == time, is_exact, "{times:?} {age_ms}");
            assert_eq!(shown(state(7)) == shown(state(8)), is_exact);
        }
    }

    /// The system's clock, and what is added to it.
    #[derive(Debug, Default)]
    struct Ahead(AtomicU64);

    impl Clock for Ahead {
        fn wall_ns(&self) -> u64 {
            SystemClock.wall_ns() + self.0.load(Ordering::SeqCst)
        }

        fn monotonic(&self) -> Duration {
            SystemClock.monotonic()
        }

        fn sleep(&self, duration: Duration) {
            SystemClock.sleep(duration);
        }
    }

    /// A2: what was young at the pin is unsure, however long it takes to make the view of it.
    #[test]
    fn age_of_a_time_is_that_at_the_pin() {
        let Some(mut application) = Application::start() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        application.open_wal(&path);
        application.sql("CREATE TABLE t(x)");
        let second = SystemClock.wall_ns() / 1_000_000_000;
        let mut how = std::fs::File::options();
        let log = how.write(true).open(dir.path().join("app.db-wal")).unwrap();
        log.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(second))
            .unwrap();
        let clock = Arc::new(Ahead::default());
        let host = Host {
            clock: clock.clone(),
            ..Host::system()
        };
        let mut prepared = Prepared::open(&host, &path, &Default::default()).unwrap();
        prepared.pin().unwrap();
        clock.0.store(10_000_000_000, Ordering::SeqCst);
        let shown = prepared.finish().unwrap().attributes.changed_ns;
        assert_ne!(shown, second * 1_000_000_000);
    }

    fn time_of(path: &std::path::Path) -> u64 {
        let mut prepared = Prepared::open(&Host::system(), path, &Default::default()).unwrap();
        prepared.pin().unwrap();
        prepared.finish().unwrap().attributes.changed_ns
    }

    /// A2: each state has a time of its own, whatever goes on around the pin, and keeps it.
    #[test]
    fn states_have_times_of_their_own_and_keep_them() {
        let Some(mut application) = Application::start() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        application.open_wal(&path);
        application.sql("CREATE TABLE t(x)");
        application.sql("PRAGMA cache_size=1");
        let mut times = std::collections::BTreeSet::new();
        for step in 0..12 {
            application.sql("INSERT INTO t VALUES (randomblob(9000))");
            if step % 4 == 3 {
                application.sql("PRAGMA wal_checkpoint(PASSIVE)");
            }
            let quiet = time_of(&path);
            assert_eq!(time_of(&path), quiet);
            assert!(times.insert(quiet), "step {step}: {quiet} again");
            // Frames of the next state are in the log already, and it is not committed.
            application.sql("BEGIN");
            application.sql("INSERT INTO t VALUES (randomblob(90000))");
            let busy = time_of(&path);
            application.sql("COMMIT");
            assert!(!times.contains(&time_of(&path)));
            assert_ne!(time_of(&path), busy);
            times.insert(time_of(&path));
        }
    }
}
