//! Commits without a pause, by one or several committers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use stillfs::Database;
use stillfs::os::Host;

use crate::{Numbers, Outcome, put};

/// Entries changed by one commit, anywhere in the database.
const PUTS: u64 = 2;

/// When the committers stop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After so many commits of all together.
    Count(u64),
    /// After so long.
    Elapsed(Duration),
}

/// Commits until then; how many it were and how long they took.
///
/// A single committer is the calling thread, so that what a commit costs is found in one place.
pub(crate) fn commit(
    database: &Database,
    entries: u64,
    until: Until,
    threads: u64,
    seed: u64,
) -> Outcome<Value> {
    let host = Host::system();
    let done = AtomicU64::new(0);
    let begun = host.clock.monotonic();
    let is_over = || match until {
        // The one who takes a number commits; the last ones find none left.
        Until::Count(count) => done.fetch_add(1, Ordering::SeqCst) >= count,
        Until::Elapsed(time) => {
            let is_over = host.clock.monotonic() - begun >= time;
            if !is_over {
                done.fetch_add(1, Ordering::SeqCst);
            }
            is_over
        }
    };
    let work = |number: u64| -> Outcome<()> {
        let mut numbers = Numbers((seed + number) << 32);
        while !is_over() {
            let mut write = database.begin_write()?;
            for _ in 0..PUTS {
                let entry = numbers.below(entries);
                put(&mut write, &mut numbers, entry)?;
            }
            write.commit()?;
        }
        Ok(())
    };
    if threads == 1 {
        work(0)?;
    } else {
        thread::scope(|scope| -> Outcome<()> {
            let work = &work;
            let all: Vec<_> = (0..threads)
                .map(|number| scope.spawn(move || work(number)))
                .collect();
            for one in all {
                one.join().map_err(|_| "a committer panicked")??;
            }
            Ok(())
        })?;
    }
    let seconds = (host.clock.monotonic() - begun).as_secs_f64();
    let commits = match until {
        Until::Count(count) => count,
        Until::Elapsed(_) => done.into_inner(),
    };
    Ok(json!({ "commits": commits, "seconds": seconds }))
}
