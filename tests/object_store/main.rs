//! Repositories in an object store with the real program: through a proxy that delays, slows down and cuts
//! off, to a server that speaks S3 and checks signatures, conditions and clocks.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod bench;
mod bucket;
mod client;
mod http;
mod interrupted;
mod journey;
mod proxy;
#[path = "../data_commands/rig.rs"]
#[allow(dead_code, reason = "shared with others")]
mod rig;
mod sample;
#[path = "../backup_cli/scene.rs"]
#[allow(dead_code, reason = "shared with others")]
mod scene;
mod secure;
mod server;
mod slow;
mod trouble;
mod unanswered;
mod writers;
