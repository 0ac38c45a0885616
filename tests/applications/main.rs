//! Applications that keep SQLite files and know nothing of us, under load while they are mounted:
//! what tar, rsync, restic and borg copy is one committed state, on which the application starts again.
//! And what did not change between two mounts, no tool that remembers files reads twice.
//!
//! Fossil stays in rollback mode and commits over two databases at once; rpm sets WAL by itself, opens
//! and closes its database for each command and asks for a checkpoint that truncates each time.
//! A test that cannot run here says so on a line with SKIPPED.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unsafe_code,
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    dead_code,
    reason = "tests use the machine directly, and not all of what they share with others"
)]

#[path = "../live/books.rs"]
mod books;
#[path = "../live/load.rs"]
mod load;
#[path = "../live/process.rs"]
mod process;
#[path = "../live/resp.rs"]
mod resp;
#[path = "../live/rig.rs"]
mod rig;

mod access;
mod backup_twice;
mod borg;
mod copying;
mod driver;
mod fossil;
mod fossil_site;
mod restic;
mod rpm;
mod sqlite;
