//! Pages that a replay has made and not written yet; they are written in the order of their numbers.

#![deny(clippy::indexing_slicing)]

use std::collections::HashMap;
use std::path::Path;

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, FileRole, LogFault, Result};
use crate::engine::header::Header;
use crate::engine::wal::{apply_delta, decode_delta, decode_image, page_of};
use crate::lsn::Lsn;
use crate::os::{self, File, cache};
use crate::page::{self, PageBuf, PageFault, PageNo, PageSize};

/// So many bytes are written at once, or one page.
const WRITE_BYTES: usize = 1 << 20;
/// A cache is no smaller.
const PAGES_MIN: u64 = 16;

/// See the head of the file.
#[derive(Debug)]
pub(super) struct PageCache<'a> {
    file: &'a dyn File,
    path: &'a Path,
    page_size: PageSize,
    base_page_count: u64,
    pages_max: u64,
    unwritten: HashMap<PageNo, PageBuf>,
    /// The LSN of every page that was made.
    made: HashMap<PageNo, Lsn>,
    /// Those among them that the base does not have.
    added: u64,
}

impl<'a> PageCache<'a> {
    pub(super) fn new(file: &'a dyn File, path: &'a Path, base: &Header, cache_bytes: u64) -> Self {
        Self {
            file,
            path,
            page_size: base.page_size,
            base_page_count: base.point.page_count,
            pages_max: (cache_bytes / u64::from(base.page_size.get())).max(PAGES_MIN),
            unwritten: HashMap::new(),
            made: HashMap::new(),
            added: 0,
        }
    }

    /// Pages that were made.
    pub(super) fn written(&self) -> u64 {
        self.made.len() as u64
    }

    /// Makes a page of what its record says, in the commit between `before` and `point` (RP3).
    ///
    /// Errors: `fault` of what is wrong with the record; `Page`, `Io`.
    pub(super) fn put(
        &mut self,
        is_image: bool,
        payload: &[u8],
        (before, point): (CommitPoint, CommitPoint),
        fault: &dyn Fn(LogFault) -> EngineError,
    ) -> Result<()> {
        let page = page_of(payload).filter(|page| (2..point.page_count).contains(&page.0));
        let Some(page) = page else {
            let found = page_of(payload).map_or(0, |page| page.0);
            let field = "page";
            return Err(fault(LogFault::Record { field, found }));
        };
        let made = if is_image {
            let made = decode_image(payload, self.page_size).map_err(fault)?;
            let is_whole = page::check(&made, page, point.lsn);
            // Every page of a commit carries the LSN of that.
            if is_whole.is_err() || made.lsn() != point.lsn {
                let (field, found) = ("page image, not valid, number", page.0);
                return Err(fault(LogFault::Record { field, found }));
            }
            made
        } else {
            let delta = decode_delta(payload, self.page_size).map_err(fault)?;
            let mismatch = || fault(LogFault::Delta { page });
            let old = self.old(page, before)?.ok_or_else(mismatch)?;
            let made = apply_delta(&old, &delta, point.lsn).map_err(fault)?;
            page::check(&made, page, point.lsn).map_err(|_| mismatch())?;
            made
        };
        self.unwritten.insert(page, made);
        let is_first = self.made.insert(page, point.lsn).is_none();
        self.added += u64::from(is_first && page.0 >= self.base_page_count);
        match self.unwritten.len() as u64 > self.pages_max {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// The page as the commits so far left it; `None` if no commit did.
    fn old(&mut self, page: PageNo, before: CommitPoint) -> Result<Option<PageBuf>> {
        if let Some(made) = self.unwritten.remove(&page) {
            return Ok(Some(made));
        }
        if page.0 >= self.base_page_count && !self.made.contains_key(&page) {
            return Ok(None);
        }
        let old = self.read(page)?;
        let checked = page::check(&old, page, before.lsn);
        checked.map_err(|fault| damaged(page, fault))?;
        Ok(Some(old))
    }

    fn read(&self, page: PageNo) -> Result<PageBuf> {
        let mut bytes = PageBuf::zeroed(self.page_size);
        let offset = self.offset(page)?;
        let found = os::read_up_to(self.file, &mut bytes, offset).map_err(self.failed("read"))?;
        match found == bytes.len() {
            true => Ok(bytes),
            false => Err(damaged(page, PageFault::Short { found })),
        }
    }

    fn offset(&self, page: PageNo) -> Result<u64> {
        let offset = self.page_size.offset_of(page);
        offset.ok_or(EngineError::Exhausted {
            what: "the page file",
        })
    }

    fn failed(&self, op: &'static str) -> impl FnOnce(std::io::Error) -> EngineError {
        EngineError::io_at(op, FileRole::PageFile, self.path)
    }

    /// Writes what is not written, by ascending numbers.
    ///
    /// Errors: `Io`.
    pub(super) fn flush(&mut self) -> Result<()> {
        let mut pages: Vec<(PageNo, PageBuf)> = self.unwritten.drain().collect();
        pages.sort_unstable_by_key(|(page, _)| *page);
        let (mut run, mut bytes) = (None, Vec::new());
        for (page, image) in pages {
            let goes_on = run.is_some_and(|(_, next)| next == page.0);
            if !goes_on || bytes.len() >= WRITE_BYTES {
                self.write(run, &bytes)?;
                bytes.clear();
                run = None;
            }
            bytes.extend_from_slice(&image);
            run = Some((run.map_or(page, |(first, _)| first), page.0 + 1));
        }
        self.write(run, &bytes)
    }

    fn write(&self, run: Option<(PageNo, u64)>, bytes: &[u8]) -> Result<()> {
        let Some((first, _)) = run else { return Ok(()) };
        let offset = self.offset(first)?;
        os::write_all_at(self.file, bytes, offset).map_err(self.failed("write"))
    }

    /// E9: every page below the page count of `point` is one of the base, or was made.
    pub(super) fn refuse_uncovered(&self, point: CommitPoint) -> Result<(), LogFault> {
        let wanted = point.page_count.saturating_sub(self.base_page_count);
        match self.added == wanted {
            true => Ok(()),
            false => Err(LogFault::Record {
                field: "page count",
                found: point.page_count,
            }),
        }
    }

    /// RP4: the disk has every page as it was made. Shape: all is written and synced.
    ///
    /// Errors: `Page`, `Io`.
    pub(super) fn read_back(&self) -> Result<()> {
        cache::drop_cached(self.file).map_err(self.failed("read afresh"))?;
        let mut pages: Vec<(PageNo, Lsn)> =
            self.made.iter().map(|(page, lsn)| (*page, *lsn)).collect();
        pages.sort_unstable();
        for (page, lsn) in pages {
            let found = self.read(page)?;
            page::check(&found, page, lsn).map_err(|fault| damaged(page, fault))?;
            if found.lsn() != lsn {
                return Err(EngineError::Structure {
                    page,
                    expected: "the page that was written, of a later commit",
                    found: found.lsn().0,
                });
            }
        }
        Ok(())
    }
}

fn damaged(page: PageNo, fault: PageFault) -> EngineError {
    EngineError::Page {
        file: FileRole::PageFile,
        page,
        fault,
    }
}
