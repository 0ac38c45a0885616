//! The commands of a repository with the real program and real engines: backups under load, verified,
//! restored elsewhere and in place, refused where they must be, interrupted, kept, forgotten and copied.
//! docs/backup.md says what programs may rely on, and is compared with what they get.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod archive;
mod copied_log;
mod documents;
mod encrypted;
mod ending;
mod hostile;
mod in_place;
mod keeping;
#[path = "../semantics/namespace.rs"]
mod namespace;
mod native;
mod point;
#[path = "../data_commands/rig.rs"]
#[allow(dead_code, reason = "shared with others")]
mod rig;
mod scene;
mod sqlite;
mod statement;
mod tree;
