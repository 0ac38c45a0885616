//! What the server remembers of one connection between its commands.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::budget::Share;
use super::command::Command;
use super::protocol::RespVersion;
use super::store::Table;

/// Number of a connection, never used twice by one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnectionId(pub(super) u64);

/// SHA-256 of a value; `None` where the key has none.
pub(super) type Digest = Option<[u8; 32]>;

/// Watched keys, and what their values were.
pub(super) type Watched = BTreeMap<(Table, Bytes), Digest>;

/// The commands between MULTI and EXEC.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// What to run.
    pub(super) commands: Vec<(&'static Command, Vec<Bytes>)>,
    /// How many bytes they take.
    pub(super) bytes: usize,
    /// Whether one of them may change the database.
    pub(super) writes: bool,
    /// Whether one of them may take long.
    pub(super) lasts: bool,
    /// Whether one of them was refused, so that EXEC must be refused too.
    pub(super) is_aborted: bool,
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Session {
    /// Which connection.
    pub(super) id: ConnectionId,
    /// Chosen by SELECT.
    pub(super) table: Table,
    /// Chosen by HELLO.
    pub(super) version: RespVersion,
    /// Given by CLIENT SETNAME.
    pub(super) name: Bytes,
    /// Open after MULTI.
    pub(super) queue: Option<Queue>,
    /// The values that watched keys had.
    pub(super) watched: Watched,
    /// Whether AUTH succeeded, or is not needed.
    pub(super) is_authenticated: bool,
    /// How many passwords were wrong.
    pub(super) wrong_passwords: u32,
    /// What the client must wait for its next reply.
    pub(super) penalty: Option<Duration>,
    /// The memory of `queue` and `watched`.
    pub(super) kept: Share,
    /// Whether its last batch that wrote made its transaction fail.
    pub(super) breaks_batches: bool,
    /// Whether the client said QUIT.
    pub(super) is_closing: bool,
}

impl Session {
    /// A fresh connection.
    pub(super) fn new(id: ConnectionId, is_authenticated: bool, kept: Share) -> Self {
        Self {
            id,
            table: Table::default(),
            version: RespVersion::default(),
            name: Bytes::new(),
            queue: None,
            watched: BTreeMap::new(),
            is_authenticated,
            wrong_passwords: 0,
            penalty: None,
            kept,
            breaks_batches: false,
            is_closing: false,
        }
    }

    /// Forgets the commands that were queued and the keys that are watched.
    pub(super) fn forget(&mut self) {
        self.queue = None;
        self.watched.clear();
        self.settle();
    }

    /// Gives back the memory of queue and watched keys, once there are none.
    pub(super) fn settle(&mut self) {
        if self.queue.is_none() && self.watched.is_empty() {
            self.kept
                .hold(0)
                .expect("whoever holds nothing is within every budget");
        }
    }
}
