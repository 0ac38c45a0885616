//! What survives when something is killed or the power fails: real processes, real mounts, real
//! file systems (E1, S3, N3, M5).
//!
//! ```text
//! kill_rounds   kill -9 and clean stops of engine, daemons and copy tools at random moments
//! power_rounds  power loss below a file system on a disk that forgets what was not flushed
//! ```
//!
//! ```text
//! STILLFS_ROUNDS=N       so many rounds
//! STILLFS_SECONDS=N      for so long
//! STILLFS_FIRST_SEED=N   seed of the first round; each has the seed after that of the one before
//! STILLFS_SEED=N         this round only
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

// The rig of the acceptance tests; these tests do not need all of it.
#[allow(dead_code, reason = "shared with the acceptance tests")]
#[path = "../live/books.rs"]
mod books;
#[allow(dead_code, reason = "shared with the acceptance tests")]
#[path = "../live/load.rs"]
mod load;
#[allow(dead_code, reason = "shared with the acceptance tests")]
#[path = "../live/process.rs"]
mod process;
#[allow(dead_code, reason = "shared with the acceptance tests")]
#[path = "../live/resp.rs"]
mod resp;
#[allow(dead_code, reason = "shared with the acceptance tests")]
#[path = "../live/rig.rs"]
mod rig;

mod copier;
mod disk;
mod machine;
mod seed;
mod view;

mod kill_rounds;
mod power_rounds;
