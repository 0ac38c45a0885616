//! The commands that serve, check, dump and load a database, as they are run.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod checking;
mod dumping;
mod rig;
mod serving;
mod sqlite_checking;
