//! Negative controls: each deliberate bug of the pin makes the very run of a lane fail.
//!
//! In a child process, with one bug switched on by `STILLFS_FAULT`; without one it must pass. Each is tried
//! with the pin's own checks on and off, so that it is not only they that notice.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::lane::{Keeping, Lane, Plan};
use crate::process::{end_of, eventually};
use crate::sight::processes_of;
use crate::taken::Via;

/// Views among which a bug must be noticed.
const VIEWS: u64 = 60;
/// How many seeds a bug may escape.
const SEEDS: u64 = 10;

/// The run itself, for the child processes.
#[test]
#[ignore = "run by the controls, in a process of its own"]
fn child() {
    // The first difference ends it; what was started ends with the pipes to it.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::exit(101);
    }));
    let journal_mode = match std::env::var_os("STILLFS_CONTROL_ROLLBACK") {
        Some(_) => "delete",
        None => "wal",
    };
    let plan = Plan {
        name: "control",
        page_size: 4096,
        auto_vacuum: "none",
        journal_mode,
        synchronous: "off",
        autocheckpoint: 20,
        via: Via::Library,
        keeping: Keeping::Mark,
        views: VIEWS,
    };
    Lane::start(plan, crate::seed("control")).run();
}

/// Which databases a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journal {
    Log,
    Rollback,
}

/// What the run said; `None` if it passed.
fn noticed(faults: &str, journal: Journal, seed: u64) -> Option<String> {
    let base = tempfile::Builder::new().prefix("stillfs-sqlite-").tempdir();
    let base = base.unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["controls::child", "--exact", "--ignored", "--nocapture"]);
    child.env("STILLFS_FAULT", faults);
    child.env("STILLFS_SEED", seed.to_string());
    if journal == Journal::Rollback {
        child.env("STILLFS_CONTROL_ROLLBACK", "1");
    }
    child.env("TMPDIR", base.path()).env("RUST_BACKTRACE", "0");
    let ended = end_of(child.stdin(Stdio::null()));
    eventually("what the run started has ended", || {
        processes_of(base.path()).is_empty()
    });
    if ended.status.success() {
        return None;
    }
    let mut lines = ended
        .err
        .lines()
        .skip_while(|line| !line.contains("panicked at"));
    let said = lines.nth(1).unwrap_or_default().to_owned();
    let is_clear = ["differs", "a read failed", "damaged", "cannot be pinned"]
        .iter()
        .any(|sign| said.contains(sign));
    assert!(is_clear, "{faults}: no word of what it saw: {ended:?}");
    Some(said)
}

fn expect_noticed(journal: Journal, faults: &[&str]) {
    if !crate::can_run() {
        return;
    }
    for faults in faults {
        let seed = crate::seed(faults);
        let begun = Instant::now();
        let said = (seed..seed + SEEDS).find_map(|seed| noticed(faults, journal, seed));
        let said =
            said.unwrap_or_else(|| panic!("{faults}: {SEEDS} seeds from {seed} noticed nothing"));
        println!("{faults}: {:.1} s: {said}", begun.elapsed().as_secs_f32());
    }
}

/// The control of the controls: without a bug the run passes, checks on and off.
#[test]
fn run_without_a_bug_passes() {
    if !crate::can_run() {
        return;
    }
    let seed = crate::seed("no bug");
    assert_eq!(noticed("", Journal::Log, seed), None);
    assert_eq!(noticed("sqlite-checks-off", Journal::Log, seed), None);
    assert_eq!(noticed("", Journal::Rollback, seed), None);
}

#[test]
fn dropping_the_mark_is_noticed() {
    let with_checks_off = "sqlite-mark-dropped,sqlite-checks-off";
    expect_noticed(Journal::Log, &["sqlite-mark-dropped", with_checks_off]);
}

#[test]
fn leaving_a_frame_out_is_noticed() {
    let with_checks_off = "sqlite-frame-short,sqlite-checks-off";
    expect_noticed(Journal::Log, &["sqlite-frame-short", with_checks_off]);
}

#[test]
fn reading_the_log_under_read_zero_is_noticed() {
    let with_checks_off = "sqlite-log-under-read-zero,sqlite-checks-off";
    expect_noticed(
        Journal::Log,
        &["sqlite-log-under-read-zero", with_checks_off],
    );
}

#[test]
fn copying_without_a_look_whether_it_counts_is_noticed() {
    expect_noticed(Journal::Rollback, &["copy-unverified"]);
}

#[test]
fn showing_a_hot_journal_s_database_is_noticed() {
    expect_noticed(Journal::Rollback, &["hot-journal-unseen"]);
}
