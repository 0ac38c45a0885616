//! Backups at rest against a model: whatever is written, backed up, forgotten, pruned, copied, and
//! whatever fails meanwhile, a restored backup is the database at its commit.
//!
//! ```text
//! simulated machine: application, Database --pin--> backup --> simulated machine: repository --copy--> another
//!                         |                                            |                                 |
//! model: content now -----+--> content of each backup  <==compared== restore to a folder of the real machine
//! ```
//!
//! ```text
//! STILLFS_SEED=N      this seed only
//! STILLFS_ROUNDS=N    so many times the usual number of restores
//! STILLFS_STEPS=N     steps of each seed
//! ```

mod application;
#[path = "../simulation/content.rs"]
mod content;
mod damage;
mod depot;
#[path = "../simulation/draw.rs"]
mod draw;
mod folder;
mod folder_backups;
mod keeping;
mod neighbours;
mod plan;
mod scene;
mod source_trouble;
mod trouble;
#[path = "../simulation/watched.rs"]
mod watched;
mod world;
mod yard;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use scene::{Job, Scene};
use trouble::{Calls, Trouble};
use world::{Tally, run};

/// Steps of a seed.
const STEPS: usize = 100;
/// Restores of a run, at least.
const RESTORES: u64 = 1000;

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// How much longer than usual.
fn rounds() -> u64 {
    from_env("STILLFS_ROUNDS").unwrap_or(1)
}

/// BK2, BK4, BK5, BK6, BK9, BK10, BK11: random writes, backups of random kinds, forgets, prunes, copies,
/// restarts.
#[test]
fn restores_equal_the_model_at_their_commit() {
    let steps =
        from_env("STILLFS_STEPS").map_or(STEPS, |steps| usize::try_from(steps).expect("few"));
    if let Some(seed) = from_env("STILLFS_SEED") {
        println!("{:?}", run(seed, steps, [false; 2]));
        return;
    }
    let wanted = RESTORES * rounds();
    let (next, failed) = (AtomicU64::new(1), AtomicBool::new(false));
    let sum = Mutex::new(Tally::default());
    let work = || {
        while !failed.load(Ordering::Relaxed) && sum.lock().restores < wanted {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_done = std::panic::catch_unwind(|| run(seed, steps, [false; 2]));
            match is_done {
                Ok(tally) => sum.lock().add(&tally),
                Err(cause) => {
                    failed.store(true, Ordering::Relaxed);
                    std::panic::resume_unwind(cause);
                }
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        (0..workers).for_each(|_| drop(scope.spawn(work)));
    });
    let tally = sum.into_inner();
    println!("{} seeds: {tally:?}", next.into_inner() - 1);
    let Tally {
        incremental,
        units_unread,
        forgotten,
        packs_removed,
        packs_hollowed,
        copied,
        verified,
        ..
    } = tally;
    let all = [
        incremental,
        units_unread,
        forgotten,
        packs_removed,
        packs_hollowed,
        copied,
        verified,
    ];
    assert!(all.iter().all(|count| *count > 0), "{tally:?}");
}

/// BK2, BK4, BK5, BK10, CR2: the same in repositories of which one or both are encrypted.
#[test]
fn encrypted_repositories_equal_the_model() {
    let first = from_env("STILLFS_SEED").unwrap_or(1);
    let mut sum = Tally::default();
    let encrypted = [[true, true], [true, false], [false, true]];
    for (seed, encrypted) in (first..).zip(encrypted) {
        sum.add(&run(seed, STEPS, encrypted));
    }
    println!("{sum:?}");
    assert!(
        sum.restores > 0 && sum.copied > 0 && sum.verified > 0,
        "{sum:?}"
    );
}

/// BK1, BK2, BK3, BK11: EIO and ENOSPC at every call to the repository's disk.
#[test]
fn repository_stays_valid_whatever_call_fails() {
    strike("errors", |_, calls| calls.errors());
}

/// BK1, BK2, BK3, BK11: the machine or the process stops before every change of the repository.
#[test]
fn repository_stays_valid_wherever_its_writer_stops() {
    strike("stops", |_, calls| calls.stops());
}

/// BK1, BK2, BK11: cancelled at every call to the repository's disk.
#[test]
fn repository_stays_valid_wherever_it_is_cancelled() {
    strike("cancels", |job, calls| match job {
        Job::Create | Job::Forget | Job::Hold => Vec::new(),
        _ => calls.cancels(),
    });
}

/// Lives with each trouble that `which` picks.
fn strike(what: &str, which: impl Fn(Job, &Calls) -> Vec<Trouble>) {
    let first = from_env("STILLFS_SEED").unwrap_or(1);
    for seed in first..first + rounds() {
        let mut scene = Scene::new(seed);
        let lived = std::panic::AssertUnwindSafe(|| scene.live(&which));
        if let Err(cause) = std::panic::catch_unwind(lived) {
            eprintln!("{what}: seed {seed}");
            std::panic::resume_unwind(cause);
        }
        println!("{what}: seed {seed}, {} troubles", scene.strikes);
    }
}

/// BK7, BK11.
#[test]
fn backup_of_a_source_that_cannot_be_read_is_none() {
    source_trouble::read_errors_fail_the_backup(from_env("STILLFS_SEED").unwrap_or(1));
}

/// BK7, BK11.
#[test]
fn backup_of_a_pin_that_breaks_is_none() {
    source_trouble::pin_that_breaks_fails_the_backup(from_env("STILLFS_SEED").unwrap_or(1));
}

/// BK4, BK5, BK11.
#[test]
fn folders_are_restored_as_they_were() {
    let first = from_env("STILLFS_SEED").unwrap_or(1);
    let mut restores = 0;
    for seed in first..first + 12 * rounds() {
        let run = || folder_backups::folders_are_restored(seed);
        match std::panic::catch_unwind(run) {
            Ok(done) => restores += done,
            Err(cause) => {
                eprintln!("folders: seed {seed}");
                std::panic::resume_unwind(cause);
            }
        }
    }
    println!("{restores} folders");
}

/// BK7.
#[test]
fn last_look_decides_whether_a_backup_is_published() {
    folder_backups::last_look_decides();
}

/// BK4, BK8, BK10.
#[test]
fn flipped_byte_is_found_by_who_reads_it_and_by_nobody_else() {
    damage::flipped_byte(from_env("STILLFS_SEED").unwrap_or(1));
}

/// BK3.
#[test]
fn second_writer_is_refused_as_long_as_the_first_writes() {
    neighbours::second_writer_is_refused(from_env("STILLFS_SEED").unwrap_or(1));
}

/// BK2, BK3.
#[test]
fn reader_is_not_disturbed_by_a_prune() {
    neighbours::reader_is_not_disturbed(from_env("STILLFS_SEED").unwrap_or(1));
}
