//! One state of the database in the order of commits.

use crate::engine::page_io::FreeList;
use crate::lsn::{Lsn, Timestamp};

/// What a commit leaves behind beside its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitPoint {
    /// Its number.
    pub timestamp: Timestamp,
    /// Its wall clock: nanoseconds since 1970, strictly rising from commit to commit.
    pub wall_ns: u64,
    /// The end of its records in the log.
    pub lsn: Lsn,
    /// Pages of the database.
    pub page_count: u64,
    /// Its free list.
    pub(crate) free: FreeList,
}
