//! Schedules and watching with the real program: entries of a configuration run from the backup to the
//! verification, alerts raised by what really is wrong, metrics read by a strict parser, a listener with
//! hostile peers, the audit log, and the units that start it all.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod alert;
mod audit;
mod exposition;
mod listener;
mod metric;
#[path = "../data_commands/rig.rs"]
#[allow(dead_code, reason = "shared with others")]
mod rig;
mod scene;
mod scheduled;
mod unit;
