//! SQLite databases under unmodified writers, pinned again and again, each view against SQLite itself (N1).
//!
//! ```text
//! writer.py   applications: small, large, spilled and rolled back transactions, checkpoints of every
//!             kind, VACUUM, connections that come and go, the sqlite3 command line, kill -9
//! oracle.py   what the committed state is, as SQLite reads it, in a process of its own
//! lane        one database with its writers, and the views that are taken of it
//! ```
//!
//! Of each view: every byte is the one that SQLite reads of the same state, where the state is known to
//! have been the same before the pin and after it; what is read at once and what is read after others went
//! on is equal; a copy of it passes SQLite's integrity check and keeps the application's invariant; two
//! states never share a time. Of each lane: every kind of pin occurred; the live database is whole; no
//! lock, process, mount or file is left.
//!
//! ```text
//! STILLFS_SEED=N         this seed, which a failure prints
//! STILLFS_ROUNDS=N       N times as many views
//! ```
//!
//! Seeds decide what happens and in which order; when exactly is the machine's. A test that cannot run
//! here says so on a line with SKIPPED.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests use the machine directly"
)]

#[allow(dead_code, reason = "shared with the simulation")]
#[path = "../simulation/draw.rs"]
mod draw;
#[allow(dead_code, reason = "shared with the acceptance tests")]
#[path = "../live/process.rs"]
mod process;

mod counts;
mod lane;
mod oracle;
mod sight;
mod taken;
mod writers;

mod atomic_set;
#[cfg(feature = "faults")]
mod controls;
mod log_mode;
mod mode_change;
mod mounted;
mod quiet;
mod refusal;
mod rollback_mode;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::process::succeed;

fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// The seed of a test, printed so that it can be given again.
fn seed(test: &str) -> u64 {
    let drawn = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) * 1000 + now.as_secs() % 1000
    };
    let seed = from_env("STILLFS_SEED").unwrap_or_else(drawn);
    println!("{test}: STILLFS_SEED={seed}");
    seed
}

/// How many times as much is done as usual.
fn rounds() -> u64 {
    from_env("STILLFS_ROUNDS").unwrap_or(1)
}

/// One of the programs beside this file.
fn program(name: &str) -> PathBuf {
    let running = std::env::var_os("CARGO_MANIFEST_DIR");
    let root = running.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    root.join("tests/sqlite").join(name)
}

/// Whether the machine has what the stress needs; said if not.
fn can_run() -> bool {
    let has_both = process::has_tool("sqlite3") && process::has_tool("python3");
    if !has_both {
        return false;
    }
    let words = "import sqlite3, sys; sys.exit(not hasattr(sqlite3.Connection, 'serialize'))";
    let tried = process::end_of(std::process::Command::new("python3").args(["-c", words]));
    let is_able = tried.status.success();
    if !is_able {
        println!("SKIPPED: needs Python 3.11 with Connection.serialize of its module sqlite3");
    }
    is_able
}

/// Whether something can be mounted; said if not.
fn can_mount() -> bool {
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    if let Err(error) = &device {
        println!("SKIPPED: /dev/fuse cannot be opened: {error}");
    }
    device.is_ok()
}

/// What the sqlite3 command line says of a copy: its integrity and its invariant.
fn check_by_command(copy: &Path) -> String {
    let mut command = std::process::Command::new("sqlite3");
    command.arg(copy).arg("PRAGMA integrity_check(5);");
    // What begins with a comment would be taken for an option.
    command.arg(format!("\n{}", include_str!("invariant.sql")));
    let said = succeed(&mut command);
    match said.strip_prefix("ok\n") {
        Some(rest) => rest.trim_end().to_owned(),
        None => said,
    }
}
