//! Writeback: the only code that writes live pages.
//!
//! * E2 Only durable, committed versions get to the live file, and only through here.
//! * E5 Before a live page is overwritten, the sink has kept it for every pin that needs it, and the
//!   page table for every registered reader that needs it.
//!
//! A batch passes the gate, so that no pin is being taken while it is in flight; it takes no lock
//! that a commit takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::gate::Gate;
use crate::engine::page_table::PageTable;
use crate::engine::readers::ReaderRegistry;
use crate::engine::relief::Relief;
use crate::engine::sink::{Keep, PreImageSink};
use crate::engine::wal::Log;
use crate::fault::{self, Fault};
use crate::lsn::Lsn;
use crate::os::{self, File};
use crate::page::{self, PageBuf, PageNo, PageRef, PageSize};

/// Pages that pass the gate together.
const BATCH_PAGES: usize = 64;

/// What a writeback did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) pages: u64,
    /// `Held` if pages are left because the sink held them.
    pub(crate) keep: Keep,
}

/// What writeback works on.
#[derive(Debug)]
pub(crate) struct Writeback<'a> {
    pub(crate) live: &'a dyn File,
    pub(crate) log: &'a Log,
    pub(crate) page_size: PageSize,
    pub(crate) table: &'a PageTable,
    pub(crate) registry: &'a ReaderRegistry,
    pub(crate) gate: &'a Gate,
    pub(crate) sink: Option<&'a dyn PreImageSink>,
    pub(crate) relief: &'a Relief,
    /// Set before each batch: the live file is not synced any more.
    pub(crate) is_unsynced: &'a AtomicBool,
}

impl Writeback<'_> {
    /// Writes every page whose version at `target` the live file does not hold; `target` is durable.
    /// Stops at the first batch that is held. Errors: `Io`, `Capture`; what was written stays and
    /// counts as written.
    pub(crate) fn write_all(&self, target: Lsn) -> Result<Written> {
        let pages = self.table.unwritten_pages(target);
        let mut written = Written {
            pages: 0,
            keep: Keep::Kept,
        };
        for batch in pages.chunks(BATCH_PAGES) {
            written.keep = self.write_batch(batch, target)?;
            if written.keep == Keep::Held {
                break;
            }
            written.pages += batch.len() as u64;
            self.send_off(batch)?;
        }
        Ok(written)
    }

    /// The disk writes a batch while the next one is put together, and not all of them at the sync. Outside of
    /// the gate, since a disk that has enough to do makes this wait.
    ///
    /// Errors: `Io`, as of a failed sync: what was lost with it no later one reports, so the log is poisoned (E8).
    fn send_off(&self, pages: &[PageNo]) -> Result<()> {
        let (Some(first), Some(last)) = (pages.first(), pages.last()) else {
            return Ok(());
        };
        let begin = offset_of(self.page_size, *first)?;
        let end = offset_of(self.page_size, *last)? + u64::from(self.page_size.get());
        let sent = self.live.start_write_back(begin, end - begin);
        sent.map_err(|source| {
            self.log.poison("cannot write data.pages to the disk");
            EngineError::io("write back", FileRole::PageFile)(source)
        })
    }

    /// The gate is passed for the batch only: while one is held, pins can be taken.
    fn write_batch(&self, pages: &[PageNo], target: Lsn) -> Result<Keep> {
        let _passage = self.gate.pass();
        let images: Vec<(PageNo, PageRef)> = pages
            .iter()
            .filter_map(|&page| {
                let image = self.table.unwritten(page, target).transpose()?;
                Some(image.map(|image| (page, image)))
            })
            .collect::<Result<_>>()?;
        check_sums(&images, target)?;
        if let Some(sink) = self.sink {
            let first = pages.first().copied().unwrap_or_default();
            let keep = sink.before_overwrite(pages, self.live);
            let keep = keep.map_err(|source| EngineError::Capture {
                page: first,
                source,
            })?;
            if keep == Keep::Held && !fault::is(Fault::HoldOverwrites) {
                return Ok(keep);
            }
        }
        if !fault::is(Fault::ReadersForgotten) {
            self.keep_for_readers(&images)?;
        }
        fault::linger(Fault::CleanInFlight);
        self.is_unsynced.store(true, Ordering::SeqCst);
        for run in images.chunk_by(|a, b| a.0.0 + 1 == b.0.0) {
            self.relief.with(self.sink, || self.write_run(run))?;
        }
        self.note_written(&images);
        Ok(Keep::Kept)
    }

    fn note_written(&self, images: &[(PageNo, PageRef)]) {
        let readers = self.registry.snapshot();
        for (page, image) in images {
            self.table.written(*page, image.clone(), &readers);
        }
    }

    /// E5 for readers in this process. A reader that registers from here on is at the durable point
    /// or later, so it never needs what `target` replaces.
    fn keep_for_readers(&self, images: &[(PageNo, PageRef)]) -> Result<()> {
        let readers = self.registry.snapshot();
        for (page, image) in images {
            if self.table.begin_overwrite(*page, image.lsn(), &readers)
                && let Some(old) = self.read_live(*page)?
            {
                self.table.keep_old(*page, Arc::new(old));
            }
        }
        Ok(())
    }

    /// The live page, or `None` where it is no valid page: then no reader can have used it.
    fn read_live(&self, page: PageNo) -> Result<Option<PageBuf>> {
        let mut old = PageBuf::zeroed(self.page_size);
        let offset = offset_of(self.page_size, page)?;
        os::read_up_to(self.live, &mut old, offset)
            .map_err(EngineError::io("read", FileRole::PageFile))?;
        Ok(page::check(&old, page, Lsn::MAX).is_ok().then_some(old))
    }

    fn write_run(&self, run: &[(PageNo, PageRef)]) -> Result<()> {
        let Some((first, image)) = run.first() else {
            return Ok(());
        };
        let offset = offset_of(self.page_size, *first)?;
        let written = if run.len() == 1 {
            os::write_all_at(self.live, image, offset)
        } else {
            // Page by page: an iterator over the bytes copies them one at a time.
            let mut bytes = Vec::with_capacity(run.len() * image.len());
            for (_, image) in run {
                bytes.extend_from_slice(image);
            }
            os::write_all_at(self.live, &bytes, offset)
        };
        written.map_err(EngineError::io("write", FileRole::PageFile))
    }
}

/// What is written here, the log gives no more once the checkpoint is through. A page is sealed by what changed
/// in it alone, so that its checksum tells of what went wrong in memory since it was last read.
///
/// Errors: `Page`; then nothing of the batch is written, and the log stays.
fn check_sums(images: &[(PageNo, PageRef)], target: Lsn) -> Result<()> {
    images.iter().try_for_each(|(page, image)| {
        page::check(image, *page, target).map_err(|fault| EngineError::Page {
            file: FileRole::Memory,
            page: *page,
            fault,
        })
    })
}

/// Offset of a page in bytes. Errors: `Exhausted` where it cannot be numbered.
pub(crate) fn offset_of(page_size: PageSize, page: PageNo) -> Result<u64> {
    page_size
        .offset_of(page)
        .ok_or(EngineError::Exhausted { what: "data.pages" })
}
