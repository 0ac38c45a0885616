//! Identities: which database, which line of commits, which incarnation, which pin.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::lsn::Timestamp;

macro_rules! id_16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id_16! {
    /// Drawn at creation and kept by every copy.
    DatabaseId
}
id_16! {
    /// A line of commits; a copy that goes on by itself starts a new one.
    HistoryId
}
id_16! {
    /// One pin; drawn at random, unique for all practical purposes.
    PinId
}

impl HistoryId {
    /// The history of a view of `database` at `timestamp`, pinned in `history`.
    ///
    /// Two pins of one commit give the same id, so that their views are equal to the byte.
    #[must_use]
    pub fn of_view(database: DatabaseId, history: Self, timestamp: Timestamp) -> Self {
        let digest = Sha256::new()
            .chain_update(b"stillfs view history\0")
            .chain_update(database.0)
            .chain_update(history.0)
            .chain_update(timestamp.0.to_le_bytes())
            .finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

/// Random number of an engine incarnation, drawn at each open; 0 means "none" (a view's header).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
