//! The page file of a native view, with what a backup may know of it beside its bytes.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::{LOG_DIR, changed_pages, commit_at, incarnation_of, write_mark};
use crate::fault::{self, Fault};
use crate::id::Epoch;
use crate::lsn::Lsn;
use crate::os::Disk;
use crate::view::PinnedFile;
use crate::view::tree::{PageVersion, RangeRead, ReadError};

/// A pinned page file, and the directory that its engine writes: what changed in it is asked there, when it
/// is asked for, and not before.
#[derive(Debug)]
pub struct StillPages {
    file: Arc<PinnedFile>,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
}

impl StillPages {
    /// Of the view `file` of the database in `dir`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, dir: impl Into<PathBuf>, file: Arc<PinnedFile>) -> Self {
        let dir = dir.into();
        Self { file, dir, disk }
    }
}

impl RangeRead for StillPages {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        self.file.read_range(offset, out)
    }

    fn page_bytes(&self) -> Option<u32> {
        self.file.page_bytes()
    }

    fn version(&self) -> Option<PageVersion> {
        self.file.version()
    }

    fn incarnation_of(&self, lsn: Lsn) -> Option<Epoch> {
        let (header, dir) = (self.file.header(), &self.dir);
        let found = incarnation_of(&*self.disk, dir, header.database, header.history, lsn);
        found.unwrap_or_else(|error| {
            let dir = dir.display();
            tracing::warn!(%dir, %error, "cannot learn who wrote a commit; every page is read");
            None
        })
    }

    fn commit_at(&self, lsn: Lsn) -> Option<(Epoch, u64)> {
        let (header, dir) = (self.file.header(), &self.dir);
        let found = commit_at(&*self.disk, dir, (header.database, header.history), lsn);
        found.unwrap_or_else(|error| {
            let dir = dir.display();
            tracing::warn!(%dir, %error, "cannot learn of an older commit; every page is read");
            None
        })
    }

    fn write_mark(&self) -> Option<u64> {
        write_mark(&*self.disk, &self.dir.join(LOG_DIR))
    }

    /// The pin's history goes on in the directory, and its commit is durable.
    fn changed_since(&self, since: Lsn) -> Option<Vec<Range<u64>>> {
        let header = self.file.header();
        let found = changed_pages(
            &*self.disk,
            &self.dir,
            header.database,
            header.history,
            since,
            header.lsn,
        );
        let changed = found.unwrap_or_else(|error| {
            let dir = self.dir.display();
            tracing::warn!(%dir, %error, "cannot learn which pages changed; all of them are looked at");
            None
        })?;
        let within = |range: Range<u64>| range.start..range.end.min(header.page_count);
        let changed = changed.into_iter().map(within);
        let mut changed: Vec<_> = changed.filter(|range| !range.is_empty()).collect();
        if fault::is(Fault::ChangedPageLeftOut)
            && let Some(range) = changed.iter_mut().find(|range| range.end > 2)
        {
            range.start = range.start.max(2) + 1;
        }
        Some(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Database, EngineOptions};
    use crate::os::Host;

    fn commit(database: &Database, value: &[u8]) {
        let mut write = database.begin_write().unwrap();
        write.put("t", b"key", value).unwrap();
        write.commit().unwrap();
    }

    /// BK12
    #[test]
    fn mark_of_a_view_changes_with_every_commit_and_only_then() {
        let machine = Host::simulated(1);
        let database = Database::open_on(&machine.host, "/db", &EngineOptions::default()).unwrap();
        commit(&database, b"first");
        let pages = database.pin().unwrap().content();
        let mut marks = Vec::new();
        for value in 0..4_u8 {
            let mark = pages.write_mark();
            assert_eq!(mark, pages.write_mark());
            marks.push(mark.expect("the log can be looked at"));
            commit(&database, &[value]);
        }
        marks.dedup();
        assert_eq!(marks.len(), 4);
    }
}
