//! The engine.

pub mod error;
pub(crate) mod page_io;
