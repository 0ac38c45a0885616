//! One state of the database in the order of commits.

use crate::engine::page_io::FreeList;
use crate::lsn::{Lsn, Timestamp};
use crate::page::{PageNo, PageSize};

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

/// What a checkpoint is about to reach: the commit that the live file will hold, and where the log
/// that is needed beside it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FixedTarget {
    pub(crate) target: CommitPoint,
    pub(crate) log_start: Lsn,
}

/// Numbers of a commit from this on are no database's: they are damage, or somebody's malice.
const NUMBER_MAX: u64 = 1 << 63;
/// The latest that a machine's clock is believed: in the year 2262. Below the bound are then numbers
/// for as many commits as nanoseconds fit into 104 days, even if every one must add one to the last.
const WALL_MAX_NS: u64 = NUMBER_MAX - (1 << 53);
/// Fewest pages of a database: two headers and the catalog.
const PAGE_COUNT_MIN: u64 = 3;

/// What a machine's clock says, as far as it is believed.
pub(crate) fn bounded_wall(now: u64) -> u64 {
    now.min(WALL_MAX_NS)
}

impl CommitPoint {
    /// The wall clock of the next commit: `now`, but after this one's, whatever the machine's clock
    /// does. A clock that stands past the year 2262 counts as standing there.
    pub(crate) fn wall_after(&self, now: u64) -> u64 {
        bounded_wall(now).max(self.wall_ns.saturating_add(1))
    }

    /// What makes this the state of no database, if anything does: a field and its value.
    pub(crate) fn fault(&self, page_size: PageSize) -> Option<(&'static str, u64)> {
        let numbers = [
            ("timestamp", self.timestamp.0),
            ("wall clock", self.wall_ns),
            ("LSN", self.lsn.0),
        ];
        if let Some(&wrong) = numbers.iter().find(|(_, value)| *value >= NUMBER_MAX) {
            return Some(wrong);
        }
        let pages = PageNo(self.page_count);
        if self.page_count < PAGE_COUNT_MIN || page_size.offset_of(pages).is_none() {
            return Some(("page count", self.page_count));
        }
        let FreeList { head, count } = self.free;
        let is_odd =
            head.0 >= self.page_count || count >= self.page_count || (head.0 == 0) != (count == 0);
        is_odd.then_some(("free list", head.0))
    }
}
