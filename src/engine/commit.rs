//! The commit: from a write set to the log, the page table and the order of commits.
//!
//! A transaction may be larger than memory: its pages go from the spool to the log one by one, and
//! stay in the spool as versions.

use std::sync::Arc;

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, ErrorKind, Result};
use crate::engine::page_io::PageRead;
use crate::engine::page_table::Content;
use crate::engine::shared::{BellState, Shared};
use crate::engine::wal::{Appending, CommitRecord, Extent, Form, RecordKind, commit_record_bytes};
use crate::engine::write_set::{After, Changed, WriteSet};
use crate::fault::{self, Fault};
use crate::lsn::Lsn;
use crate::page::{PageNo, PageRef, PageSet};

/// A page on its way into the log, with its size there fixed.
struct Planned {
    page: PageNo,
    /// What a delta is to.
    before: Option<PageRef>,
    after: After,
    form: Form,
}

/// A commit in the log, and the versions that it makes.
type Appended = (CommitPoint, Vec<(PageNo, Content)>);

impl Shared {
    /// Puts a commit into the log and the page table and makes it the newest; not durable yet.
    ///
    /// Errors: `Poisoned`, `Io`, `Spool`, `Exhausted`; then it is as if it had not been tried (W1).
    pub(super) fn append_commit(&self, set: WriteSet) -> Result<CommitPoint> {
        let log = self.log()?;
        let record = self.commit_record(&set, log.durable())?;
        let changed = set.into_changed();
        let mut append = self.append.lock();
        let mut planned = plan(changed, &append.imaged);
        let mut appended = self.append_with_relief(&mut planned, &record);
        if matches!(&appended, Err(error) if error.kind() == ErrorKind::NoSpace) {
            // A checkpoint needs the lock.
            drop(append);
            let is_freed = self.free_log()?;
            append = self.append.lock();
            if is_freed {
                planned.iter_mut().for_each(Planned::forget_before);
                appended = self.append_with_relief(&mut planned, &record);
            }
        }
        let (point, versions) = appended?;
        let readers = self.registry.snapshot();
        for (planned, (page, content)) in planned.into_iter().zip(versions) {
            let change = match planned.form {
                Form::Image { .. } => {
                    append.imaged.insert(page);
                    None
                }
                Form::Delta(change) => Some(change),
            };
            self.table
                .publish(page, point.lsn, content, change, &readers);
        }
        self.registry.advance_newest(point);
        let unwritten_pages = append.imaged.len() as u64;
        drop(append);
        let since_checkpoint = point.lsn.0.saturating_sub(self.header.lock().point.lsn.0);
        if since_checkpoint > self.sizes.checkpoint_bytes
            || unwritten_pages > self.sizes.checkpoint_pages
        {
            self.bell.ring(BellState::Wanted);
        }
        Ok(point)
    }

    fn append_with_relief(
        &self,
        planned: &mut [Planned],
        record: &CommitRecord,
    ) -> Result<Appended> {
        let log = self.log()?;
        self.relief.with(self.sink.as_deref(), || {
            let page_bytes = self.page_size.bytes();
            let pages = planned.iter().map(|p| p.form.record_bytes(page_bytes));
            let bytes = pages.sum::<u64>() + commit_record_bytes();
            self.append_planned(planned, record, log.begin_append(bytes)?)
        })
    }

    /// Writes the commit; leaves nothing of it if that fails, so that it can be tried again.
    fn append_planned(
        &self,
        planned: &mut [Planned],
        record: &CommitRecord,
        mut appending: Appending<'_>,
    ) -> Result<Appended> {
        let point = record.point(appending.end());
        // What recovery would refuse is not committed.
        if let Some((what, _)) = point.fault(self.page_size) {
            return Err(EngineError::Exhausted { what });
        }
        let mut versions = Vec::with_capacity(planned.len());
        for planned in planned {
            versions.push((planned.page, planned.append(&mut appending, point.lsn)?));
        }
        appending.push(RecordKind::Commit, &record.encode())?;
        appending.finish(versions.iter().map(|(page, _)| *page), point.wall_ns)?;
        Ok((point, versions))
    }

    fn commit_record(&self, set: &WriteSet, synced: Lsn) -> Result<CommitRecord> {
        let base = set.base();
        let now = self.host.clock.wall_ns();
        let what = "the commit numbers";
        let timestamp = base.timestamp.next();
        Ok(CommitRecord {
            timestamp: timestamp.ok_or(EngineError::Exhausted { what })?,
            wall_ns: match fault::is(Fault::WallClockBack) {
                true => now,
                false => base.wall_after(now),
            },
            synced,
            page_count: set.page_count(),
            free: set.free_list(),
        })
    }
}

/// Fixes the form of every record: a delta only for a page with an image since the checkpoint (E6).
fn plan(changed: Vec<(PageNo, Changed)>, imaged: &PageSet) -> Vec<Planned> {
    let planned = changed.into_iter().map(|(page, changed)| {
        let before = changed.before.filter(|_| imaged.contains(&page));
        let form = match &changed.after {
            After::Image(after) => Form::of(before.as_deref(), after, changed.extent),
            After::Spooled(_, hole) => Form::Image { hole: hole.clone() },
        };
        let after = changed.after;
        Planned {
            page,
            before,
            after,
            form,
        }
    });
    planned.collect()
}

impl Planned {
    /// For a commit that a checkpoint came before: a delta could be to an image that the log has no more.
    fn forget_before(&mut self) {
        if let After::Image(after) = &self.after {
            self.form = Form::of(None, after, Extent::Anywhere);
        }
    }

    /// Seals the page and appends its record; gives the version that it becomes.
    fn append(&mut self, appending: &mut Appending<'_>, lsn: Lsn) -> Result<Content> {
        let Self {
            page,
            before,
            after,
            form,
        } = self;
        let (image, content) = match after {
            After::Image(image) => {
                let sealed = Arc::make_mut(image);
                match (&*form, before) {
                    (Form::Delta(change), Some(before)) => {
                        sealed.seal_changed(before, &change.ranges, lsn);
                    }
                    _ => sealed.seal(lsn),
                }
                (image.clone(), Content::Image(image.clone()))
            }
            After::Spooled(slot, _) => {
                let mut image = slot.read(*page)?;
                image.seal(lsn);
                (Arc::new(image), Content::Backed(slot.clone()))
            }
        };
        let (kind, payload) = form.encode(*page, &image);
        appending.push(kind, &payload)?;
        Ok(content)
    }
}
