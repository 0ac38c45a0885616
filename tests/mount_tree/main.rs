//! A tree of generated files, really mounted, as real tools see it.
//!
//! Every test mounts for itself below a directory of its own and unmounts on the way out, also when
//! it fails. Where there is no /dev/fuse, or a tool is missing, a test prints SKIPPED and why.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "these tests use files and tools as anybody does"
)]

mod attributes;
mod ending;
mod folder;
mod folder_copies;
mod live_attributes;
mod live_reading;
mod machine;
mod reading;
mod rig;
mod stale;
mod starved;
mod tools;
mod writes;
