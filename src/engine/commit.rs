//! The commit: from a write set to the log, the page table and the order of commits.

use std::collections::HashSet;
use std::sync::Arc;

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, Result};
use crate::engine::page_io::PageRead;
use crate::engine::shared::{BellState, Shared};
use crate::engine::wal::{CommitFields, PageChange, encode_commit};
use crate::engine::write_set::{Changed, WriteSet};
use crate::fault::{self, Fault};
use crate::lsn::Lsn;
use crate::page::{PageNo, PageRef};

impl Shared {
    /// Puts a commit into the log and the page table and makes it the newest; not durable yet.
    ///
    /// Errors: `Poisoned`, `Io`, `Exhausted`; then it is as if it had not been tried (W1).
    pub(super) fn append_commit(&self, set: WriteSet) -> Result<CommitPoint> {
        let log = self.log()?;
        let base = set.base();
        let now = self.host.clock.wall_ns();
        let fields = CommitFields {
            timestamp: base.timestamp.next().ok_or(EngineError::Exhausted {
                what: "the commit numbers",
            })?,
            wall_ns: match fault::is(Fault::WallClockBack) {
                true => now,
                false => base.wall_after(now).ok_or(EngineError::Exhausted {
                    what: "the wall clock",
                })?,
            },
            synced: log.durable(),
            page_count: set.page_count(),
            free: set.free_list(),
        };
        let changed = set.into_changed();
        let mut append = self.append.lock();
        let (records, point, pages) =
            encode(changed, &append.imaged, &fields, log.end(), log.salt());
        self.relief.with(self.sink.as_deref(), || {
            log.append(&records, pages.iter().map(|(page, _)| *page))
        })?;
        drop(records);
        let readers = self.registry.snapshot();
        for (page, image) in pages {
            append.imaged.insert(page);
            self.table.publish(page, image, &readers);
        }
        self.registry.advance_newest(point);
        drop(append);
        let since_checkpoint = point.lsn.0.saturating_sub(self.header.lock().point.lsn.0);
        if since_checkpoint > self.sizes.checkpoint_bytes {
            self.bell.ring(BellState::Wanted);
        }
        Ok(point)
    }
}

type Encoded = (Vec<u8>, CommitPoint, Vec<(PageNo, PageRef)>);

/// Seals and encodes the pages: a delta only for a page with an image since the checkpoint (E6).
fn encode(
    changed: Vec<(PageNo, Changed)>,
    imaged: &HashSet<PageNo>,
    fields: &CommitFields,
    start: Lsn,
    salt: u64,
) -> Encoded {
    let mut pages: Vec<(PageNo, Option<PageRef>, PageRef)> = changed
        .into_iter()
        .map(|(page, c)| (page, c.before, c.after))
        .collect();
    let mut changes: Vec<PageChange<'_>> = pages
        .iter_mut()
        .map(|(page, before, after)| PageChange {
            page: *page,
            before: before.as_deref().filter(|_| imaged.contains(page)),
            after: Arc::make_mut(after),
        })
        .collect();
    let (records, point) = encode_commit(&mut changes, fields, start, salt);
    drop(changes);
    let pages = pages
        .into_iter()
        .map(|(page, _, after)| (page, after))
        .collect();
    (records, point, pages)
}
