//! Hostile neighbours: clients of the server and of the control socket, other users of the machine, and
//! what an ordinary user can do without them. Real processes; docs/security.md names the tests.
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

#[path = "../semantics/namespace.rs"]
mod namespace;
#[path = "../live/process.rs"]
#[allow(dead_code, reason = "shared with the acceptance tests")]
mod process;
#[path = "../live/resp.rs"]
#[allow(dead_code, reason = "shared with the acceptance tests")]
mod resp;
mod rig;

mod control_socket;
mod crowd;
mod exchange;
mod hostile_clients;
mod offline;
mod ordinary_user;
mod other_user;
mod password;
mod runtime_dir;
mod sqlite;
