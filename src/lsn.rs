//! Positions in the log and in the order of commits.

use std::fmt;

/// Log sequence number: a byte position in the endless log of one history.
///
/// Where a page or a commit carries one, it is the end (exclusive) of the commit's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before everything that a log can hold.
    pub const ZERO: Self = Self(0);
    /// After everything that a log can hold.
    pub const MAX: Self = Self(u64::MAX);

    /// The position `bytes` further on. Errors: `None` on overflow, which only hostile input causes.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Number of a commit in commit order; the first commit of a database is 1, and 0 is "empty".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The number of the commit after this one. Errors: `None` on overflow, which only hostile input causes.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
