//! `stillfs doctor`: each finding is provoked for real, its remedy is run where that is possible, and
//! the finding is gone. docs/doctor.md has a row for each.
//!
//! What belongs to the whole machine is provoked in a mount namespace of the test's own.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
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
#[path = "../semantics/namespace.rs"]
mod namespace;
#[path = "../live/process.rs"]
mod process;
#[path = "../live/resp.rs"]
mod resp;
#[path = "../live/rig.rs"]
mod rig;

mod application;
mod consultation;
mod documents;
mod files;
mod hostile;
mod machine;
mod mounts;
mod source;
mod sqlite;
