//! The acceptance tests: real processes, real mounts, the tools that people have, under load.
//!
//! A test that cannot run here says so on a line with SKIPPED.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    reason = "tests use the machine directly"
)]

mod application;
mod books;
mod load;
#[path = "../semantics/namespace.rs"]
mod namespace;
mod process;
mod resp;
mod rig;

mod busy;
mod copies;
mod daemon_death;
mod engine_death;
mod exchanged;
mod limits;
mod many;
mod random_reads;
mod refusals;
mod restart;
mod restored;
mod run;
mod sqlite;
