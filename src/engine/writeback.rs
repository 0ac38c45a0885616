//! Writeback: the only code that writes live pages.
//!
//! * E2 Only durable, committed versions get to the live file, and only through here.
//! * E5 Before a live page is overwritten, the sink has kept it for every pin that needs it, and the
//!   page table for every registered reader that needs it.
//!
//! A batch passes the gate, so that no pin is being taken while it is in flight; it takes no lock
//! that a commit takes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::gate::Gate;
use crate::engine::page_table::PageTable;
use crate::engine::readers::ReaderRegistry;
use crate::fault::{self, Fault};
use crate::lsn::Lsn;
use crate::os::{self, File};
use crate::page::{self, PageBuf, PageNo, PageRef, PageSize};

/// Pages that pass the gate together.
const BATCH_PAGES: usize = 64;

/// Why a pre-image could not be kept.
pub type CaptureFailure = Box<dyn std::error::Error + Send + Sync>;

/// What wants to know of a live page before it is overwritten. The engine's own contract: it knows
/// nothing of pins.
pub trait PreImageSink: Send + Sync + fmt::Debug {
    /// Called before the live `pages` (ascending) are overwritten, with the live file as it is.
    ///
    /// When it returns `Ok`, whoever still needs the content has it, or can see that it is lost.
    /// Errors: then nothing is overwritten and the checkpoint fails; it is tried again later.
    fn before_overwrite(&self, pages: &[PageNo], live: &dyn File) -> Result<(), CaptureFailure>;

    /// Called once when the engine stops writing for good after a failed sync.
    fn poisoned(&self);
}

/// What writeback works on.
#[derive(Debug)]
pub(crate) struct Writeback<'a> {
    pub(crate) live: &'a dyn File,
    pub(crate) page_size: PageSize,
    pub(crate) table: &'a PageTable,
    pub(crate) registry: &'a ReaderRegistry,
    pub(crate) gate: &'a Gate,
    pub(crate) sink: Option<&'a dyn PreImageSink>,
    /// Set before each batch: the live file is not synced any more.
    pub(crate) is_unsynced: &'a AtomicBool,
}

impl Writeback<'_> {
    /// Writes every page whose version at `target` the live file does not hold; `target` is durable.
    /// Returns how many. Errors: `Io`, `Capture`; what was written stays and counts as written.
    pub(crate) fn write_all(&self, target: Lsn) -> Result<u64> {
        let pages = self.table.unwritten_pages(target);
        for batch in pages.chunks(BATCH_PAGES) {
            self.write_batch(batch, target)?;
        }
        Ok(pages.len() as u64)
    }

    fn write_batch(&self, pages: &[PageNo], target: Lsn) -> Result<()> {
        let _passage = self.gate.pass();
        let images: Vec<(PageNo, PageRef)> = pages
            .iter()
            .filter_map(|&page| Some((page, self.table.unwritten(page, target)?)))
            .collect();
        if let Some(sink) = self.sink {
            let first = pages.first().copied().unwrap_or_default();
            sink.before_overwrite(pages, self.live)
                .map_err(|source| EngineError::Capture {
                    page: first,
                    source,
                })?;
        }
        if !fault::is(Fault::ReadersForgotten) {
            self.keep_for_readers(&images)?;
        }
        fault::linger(Fault::CleanInFlight);
        self.is_unsynced.store(true, Ordering::SeqCst);
        for run in images.chunk_by(|a, b| a.0.0 + 1 == b.0.0) {
            self.write_run(run)?;
        }
        self.note_written(&images);
        Ok(())
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

/// Offset of a page in bytes. Errors: `Exhausted` where it cannot be numbered.
pub(crate) fn offset_of(page_size: PageSize, page: PageNo) -> Result<u64> {
    page_size
        .offset_of(page)
        .ok_or(EngineError::Exhausted { what: "data.pages" })
}
