//! What tools and applications see on a mount: docs/semantics.md has a row for each, and each row is a
//! test here, in tests/mount_tree or in tests/live. Real mounts of a running engine, under writes.
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

mod backup_tools;
mod copying;
mod documents;
mod facts;
mod life;
mod listing;
mod locking;
mod mapping;
mod namespace;
mod reading;
mod scene;
mod stacking;
mod system;
mod writing;
