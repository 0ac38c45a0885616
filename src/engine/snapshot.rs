//! A registered reader: one committed state that stays readable while it is held.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, Result};
use crate::engine::gate::Closed;
use crate::engine::page_io::PageRead;
use crate::engine::shared::Shared;
use crate::lsn::Lsn;
use crate::page::{PageNo, PageRef, PageSize};

/// One committed state. While this lives, every page of it can be read (E3, E4, E5).
#[derive(Debug)]
pub struct Snapshot {
    shared: Arc<Shared>,
    point: CommitPoint,
}

impl Snapshot {
    /// At the newest durable commit.
    pub(crate) fn durable(shared: Arc<Shared>) -> Self {
        let point = shared.registry.register_durable();
        Self { shared, point }
    }

    /// The commit.
    #[must_use]
    pub fn point(&self) -> CommitPoint {
        self.point
    }

    /// The version of `page` at `at`, if the live file does not hold it. Stable only while the gate
    /// is closed.
    ///
    /// Errors: `Spool`, `Log`, `Io` if it cannot be had from where it is kept.
    pub fn unwritten(&self, page: PageNo, at: Lsn) -> Result<Option<PageRef>> {
        self.shared.table.unwritten(page, at)
    }

    /// Pages whose version in this state is not the live one, ascending. Stable only while the gate
    /// is closed; commits that come meanwhile change nothing of it.
    #[must_use]
    pub fn unwritten_pages(&self) -> Vec<PageNo> {
        self.shared.table.unwritten_pages(self.point.lsn)
    }

    /// One page of this state: its bytes as they were committed.
    ///
    /// Errors: `Structure` at or past the page count; `Page`; `Io`.
    pub fn page(&self, page: PageNo) -> Result<PageRef> {
        PageRead::read(self, page)
    }
}

impl PageRead for Snapshot {
    fn page_size(&self) -> PageSize {
        self.shared.page_size
    }

    fn page_count(&self) -> u64 {
        self.point.page_count
    }

    fn read(&self, page: PageNo) -> Result<PageRef> {
        if page.0 >= self.point.page_count {
            let (expected, found) = ("a page below the page count", self.point.page_count);
            return Err(EngineError::Structure {
                page,
                expected,
                found,
            });
        }
        self.shared.read_page(page, self.point.lsn)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if self.shared.registry.end(self.point.lsn) {
            self.shared
                .table
                .sweep_if_worth(|| self.shared.registry.snapshot());
        }
    }
}

/// The engine with its writeback gate closed: commits go on, live pages do not change.
#[derive(Debug)]
pub struct Frozen<'a> {
    shared: &'a Arc<Shared>,
    _closed: Closed<'a>,
}

impl<'a> Frozen<'a> {
    /// Closes the gate; waits for the live writes in flight, and for other closings.
    pub(crate) fn new(shared: &'a Arc<Shared>) -> Self {
        Self {
            shared,
            _closed: shared.gate.close(),
        }
    }

    /// Takes the newest commit in commit order, registers a reader at it, and runs `under_lock`
    /// before another commit can become the newest. Also gives the time under the commit lock.
    pub fn snapshot(&self, under_lock: impl FnOnce(CommitPoint)) -> (Snapshot, Duration) {
        let clock = &self.shared.host.clock;
        let mut begun = Duration::ZERO;
        let mut ended = Duration::ZERO;
        let point = self.shared.registry.register_newest(|point| {
            begun = clock.monotonic();
            under_lock(point);
            ended = clock.monotonic();
        });
        let snapshot = Snapshot {
            shared: self.shared.clone(),
            point,
        };
        (snapshot, ended.saturating_sub(begun))
    }
}
