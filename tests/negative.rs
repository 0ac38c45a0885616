//! Negative controls: each deliberate bug of `src/fault.rs` makes the run of the model test fail.
//!
//! A test that cannot fail proves nothing. So this target makes the very run of tests/model in a child
//! process, with one bug switched on by `STILLFS_FAULT`, and asserts that the run notices; without a
//! bug, and with only the page checks off, it must pass. Bugs are tried with the page checks on and
//! off, so that it is not only the belt that holds; those of a slot's reuse only with them off, since
//! the checks refuse whatever a reused slot holds. One line per control says what caught it.

// Child processes are timed by the real clock.
#![allow(clippy::disallowed_methods)]

#[path = "model/rig.rs"]
mod rig;
#[path = "model/workload.rs"]
mod workload;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use stillfs::os::Host;

/// Pins of a run that must fail: it stops at the first difference.
const PINS: &str = "200";
/// Pins of a run that must pass.
const HEALTHY_PINS: &str = "100";
/// How many seeds a bug may escape.
const SEEDS: u64 = 6;
/// A run that is not done by then counts as one that noticed nothing.
const DEADLINE: Duration = Duration::from_secs(20);

/// The run itself, for the child processes.
#[test]
#[ignore = "run by the controls, in a process of its own"]
fn child() {
    // The first difference ends it: winding down the other threads would say nothing more.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::exit(101);
    }));
    let number = |name| -> u64 {
        let text = std::env::var(name).expect("the parent sets it");
        text.parse().expect("a number")
    };
    let seed = number("STILLFS_SEED");
    let simulated = Host::simulated(seed);
    rig::run(
        &simulated.host,
        Path::new("/db"),
        seed,
        number("STILLFS_MODEL_PINS"),
    );
}

/// Runs take turns: each needs the machine for its races.
static TURN: Mutex<()> = Mutex::new(());

/// How one run ended.
#[derive(Debug)]
enum Outcome {
    Passed,
    /// With the line that says what was noticed.
    Caught(String),
    /// It failed without a word of what it saw.
    Unclear(String),
    /// It was ended at the deadline.
    Late,
}

fn run_child(faults: &str, seed: u64, pins: &str) -> Outcome {
    // A control that failed before says so itself.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut child = Command::new(std::env::current_exe().expect("this test's file"))
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env("STILLFS_FAULT", faults)
        .env("STILLFS_SEED", seed.to_string())
        .env("STILLFS_MODEL_PINS", pins)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child process");
    let mut stderr = child.stderr.take().expect("it is piped");
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).expect("the child's output");
        String::from_utf8_lossy(&text).into_owned()
    });
    let passed = wait(&mut child);
    let text = reader.join().expect("a reader");
    match passed {
        Some(true) => Outcome::Passed,
        Some(false) => caught(&text).map_or(Outcome::Unclear(text), Outcome::Caught),
        None => Outcome::Late,
    }
}

/// Whether the child passed; `None` if it was ended at the deadline.
fn wait(child: &mut Child) -> Option<bool> {
    let begun = Instant::now();
    loop {
        match child.try_wait().expect("a child of ours") {
            Some(status) => return Some(status.success()),
            None if begun.elapsed() > DEADLINE => {
                child.kill().expect("a child of ours");
                child.wait().expect("a child of ours");
                return None;
            }
            None => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What the first thread that panicked said, if it is about a page or about content.
fn caught(text: &str) -> Option<String> {
    let mut lines = text
        .lines()
        .skip_while(|line| !line.contains("panicked at"));
    let said = lines.nth(1)?;
    // The last is the engine's own assertion of S2: an entry would have been overwritten.
    let is_clear = ["differs", "page", "Page", "an entry never changes"]
        .iter()
        .any(|sign| said.contains(sign));
    is_clear.then(|| said.chars().take(110).collect())
}

fn expect_caught(faults: &str) {
    let begun = Instant::now();
    let mut unclear = String::new();
    for seed in 1..=SEEDS {
        match run_child(faults, seed, PINS) {
            Outcome::Passed | Outcome::Late => {}
            Outcome::Caught(line) => {
                let seconds = begun.elapsed().as_secs_f32();
                println!("{faults}: seed {seed}, {seconds:.1} s: {line}");
                return;
            }
            // A bug can break more than it is for, and another thread can trip over that first.
            Outcome::Unclear(text) => unclear = text,
        }
    }
    panic!("{faults}: {SEEDS} seeds noticed nothing; the last unclear failure: {unclear}");
}

fn expect_passed(faults: &str) {
    let begun = Instant::now();
    let outcome = run_child(faults, 1, HEALTHY_PINS);
    assert!(
        matches!(outcome, Outcome::Passed),
        "[{faults}]: {outcome:?}"
    );
    let seconds = begun.elapsed().as_secs_f32();
    println!("[{faults}]: seed 1, {seconds:.1} s: passed");
}

/// The controls of the controls: the run passes without a bug, belts on and off.
#[test]
fn run_without_a_bug_passes() {
    expect_passed("");
    expect_passed("page-checks-off");
}

/// S1.
#[test]
fn overwriting_without_capture_is_noticed() {
    expect_caught("capture-off");
    expect_caught("capture-off,page-checks-off");
}

/// N2.
#[test]
fn looking_into_the_index_too_early_is_noticed() {
    expect_caught("look-before-live-read");
    expect_caught("look-before-live-read,page-checks-off");
}

/// S1.
#[test]
fn publishing_too_late_is_noticed() {
    expect_caught("publish-after-overwrite");
    expect_caught("publish-after-overwrite,page-checks-off");
}

/// N3.
#[test]
fn looking_for_the_end_too_early_is_noticed() {
    expect_caught("end-looked-at-first,page-checks-off");
}

/// S3.
#[test]
fn reusing_slots_too_early_is_noticed() {
    expect_caught("slots-reused-early,page-checks-off");
}

/// D2.
#[test]
fn spilling_the_newest_version_is_noticed() {
    expect_caught("spill-newest");
    expect_caught("spill-newest,page-checks-off");
}

/// E3, D2.
#[test]
fn counting_a_page_clean_too_early_is_noticed() {
    expect_caught("clean-in-flight");
    expect_caught("clean-in-flight,page-checks-off");
}
