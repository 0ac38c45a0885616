//! The Redis protocol: requests out of received bytes, replies into bytes to send.
//!
//! ```text
//! *2\r\n$3\r\nGET\r\n$1\r\nk\r\n     an array of bulk strings, what client libraries send
//! GET "k"\r\n                        an inline command, what people type
//! ```
//!
//! `framing` finds where a request ends, in time linear in the bytes received, and only then hands
//! it to the `redis-protocol` crate, so that the crate never sees a nested or unfinished frame.
//! Nothing here does I/O or blocks.

mod framing;
mod inline;
mod reply;

pub(super) use framing::{ARGUMENT_BYTES_MAX, Framing, ProtocolError, Request, Speaker};
pub use reply::Reply;
pub(super) use reply::RespVersion;
