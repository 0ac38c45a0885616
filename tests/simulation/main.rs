//! Deterministic simulation of engine, shadow, pins and merged reads, from a seed.
//!
//! One thread runs a world: a simulated disk and clock, a database on it, pins of its own and of other
//! processes, and everything that goes wrong: crashes of processes and of the machine, failing calls,
//! full disks, people who move files. A model says what every page of every view, every reader and every
//! recovery must show. What a seed does it does again.
//!
//! ```text
//! STILLFS_SEEDS=N        so many seeds
//! STILLFS_SECONDS=N      for so long
//! STILLFS_STEPS=N        steps of each
//! STILLFS_SEED=N         this seed only, with the trace of its steps
//! STILLFS_KEEP=1,5,9     of that seed these steps only
//! STILLFS_FIRST_SEED=N   the first seed
//! ```

mod content;
mod counts;
mod draw;
mod fault_plan;
mod history;
mod machine;
mod neighbours;
mod pins;
mod plan;
mod run;
mod view;
mod watchdog;
mod watched;
mod world;
mod writing;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use stillfs::os::Clock;
use stillfs::os::clock::SystemClock;

use counts::Counts;
use plan::Plan;
use run::{Failure, run, run_kept, shrink};
use watchdog::Watchdog;

/// Steps of a seed.
const STEPS: usize = 200;
/// Seeds of an optimised run; one without optimisation takes fewer.
const SEEDS: u64 = if cfg!(debug_assertions) { 200 } else { 10_000 };

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

fn step_count() -> usize {
    from_env("STILLFS_STEPS").map_or(STEPS, |steps| usize::try_from(steps).expect("a few"))
}

/// The text that tells people what failed and how to see it again.
fn report(plan: &Plan, failure: &Failure) -> String {
    let kept = shrink(plan, failure);
    let again = run_kept(plan, &kept, true).expect_err("it failed before");
    let keep: Vec<String> = kept.iter().map(usize::to_string).collect();
    format!(
        "seed {seed} fails in step {step}: {message}\n\
         {config:?}\n\
         cut to {count} steps:\n{trace}\n{last}\n\
         again: STILLFS_SEED={seed} STILLFS_STEPS={steps} cargo test --test simulation seed -- --nocapture\n\
         cut:   STILLFS_SEED={seed} STILLFS_STEPS={steps} STILLFS_KEEP={keep} \
         cargo test --test simulation seed -- --nocapture",
        seed = plan.seed,
        step = failure.step,
        message = failure.message,
        config = plan.config,
        count = kept.len(),
        trace = again.trace.join("\n"),
        last = again.message,
        steps = plan.steps.len(),
        keep = keep.join(","),
    )
}

/// Runs seeds on all processors until there are enough.
fn run_seeds(first: u64, seeds: u64, seconds: Option<u64>) {
    let begun = SystemClock.monotonic();
    let limit = seconds.map(Duration::from_secs);
    let elapsed = || SystemClock.monotonic().saturating_sub(begun);
    let (next, counts) = (AtomicU64::new(first), Counts::default());
    let (failed, reports) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let watchdog = Watchdog::default();
    let work = || {
        while !failed.load(Ordering::Relaxed) && limit.is_none_or(|limit| elapsed() < limit) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if limit.is_none() && seed >= first + seeds {
                return;
            }
            let plan = Plan::draw(seed, step_count());
            if let Err(failure) = watchdog.guard(seed, || run(&plan, &counts)) {
                failed.store(true, Ordering::Relaxed);
                reports.lock().push(report(&plan, &failure));
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let works: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        watchdog.watch(|| works.iter().all(thread::ScopedJoinHandle::is_finished));
    });
    let seconds = elapsed().as_secs_f64();
    let done = Counts::get(&counts.seeds);
    println!("{counts}");
    println!(
        "{:.1} seeds per second for {seconds:.1} s",
        done as f64 / seconds
    );
    let reports = reports.into_inner();
    assert!(reports.is_empty(), "\n{}", reports.join("\n\n"));
}

/// S1 to S6, N1 to N4, D1 to D5, E1 to E10, W1 to W6: whatever happens, a view shows the pinned bytes
/// or an error, and a recovery finds exactly the acknowledged commits.
#[test]
fn every_seed_keeps_every_promise() {
    if let Some(seed) = from_env("STILLFS_SEED") {
        return replay(seed);
    }
    let first = from_env("STILLFS_FIRST_SEED").unwrap_or(1);
    let seconds = from_env("STILLFS_SECONDS");
    run_seeds(first, from_env("STILLFS_SEEDS").unwrap_or(SEEDS), seconds);
}

/// One seed, told step by step.
fn replay(seed: u64) {
    let plan = Plan::draw(seed, step_count());
    let kept = std::env::var("STILLFS_KEEP").map_or_else(
        |_| (0..plan.steps.len()).collect(),
        |list| -> Vec<usize> {
            let numbers = list
                .split(',')
                .map(|number| number.parse().expect("a number"));
            numbers.collect()
        },
    );
    println!("{:?}", plan.config);
    match run_kept(&plan, &kept, true) {
        Ok(world) => println!("{}\n{}", world.trace.lines.join("\n"), world.counts),
        Err(failure) => panic!(
            "{}\nstep {}: {}",
            failure.trace.join("\n"),
            failure.step,
            failure.message
        ),
    }
}

/// A failing seed is worth something only if it fails again: two runs do exactly the same.
#[test]
fn same_seed_does_the_same_twice() {
    for seed in 0..40 {
        let plan = Plan::draw(seed, step_count());
        let kept: Vec<usize> = (0..plan.steps.len()).collect();
        let trace = || match run_kept(&plan, &kept, true) {
            Ok(world) => (world.trace.lines.clone(), world.counts.to_string()),
            Err(failure) => (failure.trace, failure.message),
        };
        let (first, second) = (trace(), trace());
        assert_eq!(first.1, second.1, "seed {seed}");
        let differs = first.0.iter().zip(&second.0).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.0.len(), second.0.len(), "seed {seed}");
    }
}
