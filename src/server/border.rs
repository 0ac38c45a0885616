//! What others plug into the server. The server owns these traits and knows none who fills them.

use std::fmt;

use bytes::Bytes;

use super::protocol::Reply;
use super::seat::Seat;

/// Statements besides the Redis commands.
///
/// A statement runs outside of any transaction of its connection, on a thread of its own, and is
/// refused between MULTI and EXEC. A Redis command of the same name goes first.
pub trait Statements: Send + Sync + fmt::Debug {
    /// The first words that it answers, in lower case.
    fn names(&self) -> &[&'static str];

    /// Runs one, also while the seat is closed. Shape: `words` is what the client sent, the name first.
    /// It must not wait for the seat: its own connection is in it.
    fn run(&self, seat: &Seat, words: &[Bytes]) -> Reply;
}

/// What became of a name and a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessDecision {
    /// They are right.
    Granted,
    /// They are wrong.
    Denied,
    /// There is no password to compare with.
    NoPasswordSet,
}

/// Who may use the server.
pub trait Access: Send + Sync + fmt::Debug {
    /// Whether a client must authenticate before anything else.
    fn is_required(&self) -> bool;

    /// Judges what a client gave to AUTH; the user is "default" where none was given.
    fn authenticate(&self, user: &[u8], password: &[u8]) -> AccessDecision;
}

/// No password: everybody who reaches the server may use it.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAccess;

impl Access for OpenAccess {
    fn is_required(&self) -> bool {
        false
    }

    fn authenticate(&self, _user: &[u8], _password: &[u8]) -> AccessDecision {
        AccessDecision::NoPasswordSet
    }
}
