//! What survives when something is killed or the power fails: real processes, real mounts, real
//! file systems (E1, S3, N3, M5).
//!
//! ```text
//! kill_rounds   kill -9 and clean stops of engine, daemons and copy tools at random moments
//! power_rounds  power loss below a file system on a disk that forgets what was not flushed
//! ```
//!
//! `STILLFS_ROUNDS` sets how many rounds there are, `STILLFS_SEED` the seed of the first, each round
//! has the seed after that of the one before. A failed round prints what replays it alone. A test that
//! cannot run here says so on a line with SKIPPED.
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
