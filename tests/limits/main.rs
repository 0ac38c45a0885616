//! What bounds a pin: its shadow limit, the free-space floor, the log's limit, a full disk. However it
//! ends, writers go on, readers get the pinned bytes or an error, and the end is told.

#![allow(clippy::disallowed_methods)]

mod model;
mod rig;
mod simulated;
