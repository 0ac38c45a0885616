//! How the structures (B+tree, free list, catalog) reach pages: they know neither cache nor log.

use std::sync::Arc;

use crate::codec;
use crate::engine::error::{EngineError, Result};
use crate::page::{PageKind, PageNo, PageRef, PageSize};

/// Pages 0 and 1 (the headers) and 2 (the catalog's root): no link ever leads to one of them.
pub(crate) const RESERVED_PAGES: u64 = 3;

/// Pages of one consistent state.
pub(crate) trait PageRead {
    /// Size of every page.
    fn page_size(&self) -> PageSize;
    /// Number of pages of this state; pages at or past it do not exist.
    fn page_count(&self) -> u64;
    /// The page, checked (checksum, own number). Errors: `Io`, `Page`; `Structure` past the count.
    fn read(&self, page: PageNo) -> Result<PageRef>;
}

/// Pages of the transaction that is writing.
pub(crate) trait PageWrite: PageRead {
    /// The bytes of a page, to be changed; header and body. Its LSN and checksum are set at commit.
    fn modify(&mut self, page: PageNo) -> Result<&mut [u8]>;
    /// The same as writing `bytes` at `offset` of what [`PageWrite::modify`] gives, but the commit need not look
    /// for what changed.
    fn overwrite(&mut self, page: PageNo, offset: usize, bytes: &[u8]) -> Result<()> {
        codec::put(self.modify(page)?, offset, bytes);
        Ok(())
    }
    /// A page that nothing uses, formatted as `kind` with a body of zeros. Errors: `Exhausted`.
    fn allocate(&mut self, kind: PageKind) -> Result<PageNo>;
    /// Gives a page back; its content must not be looked at any more by this transaction.
    fn free(&mut self, page: PageNo) -> Result<()>;
}

/// The head of the free list: part of the header and of every commit record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FreeList {
    /// The first trunk page; `PageNo(0)` when there is none.
    pub(crate) head: PageNo,
    /// Free pages, trunks included.
    pub(crate) count: u64,
}

impl<T: PageRead + ?Sized> PageRead for &T {
    fn page_size(&self) -> PageSize {
        (**self).page_size()
    }

    fn page_count(&self) -> u64 {
        (**self).page_count()
    }

    fn read(&self, page: PageNo) -> Result<PageRef> {
        (**self).read(page)
    }
}

impl<T: PageRead + ?Sized> PageRead for Arc<T> {
    fn page_size(&self) -> PageSize {
        (**self).page_size()
    }

    fn page_count(&self) -> u64 {
        (**self).page_count()
    }

    fn read(&self, page: PageNo) -> Result<PageRef> {
        (**self).read(page)
    }
}

/// Reads the page that a link in page `from` leads to.
///
/// Errors: `Structure` for a link to a reserved page or past the page count; those of `read`.
pub(crate) fn follow<R: PageRead + ?Sized>(src: &R, from: PageNo, to: PageNo) -> Result<PageRef> {
    check_link(src, from, to)?;
    src.read(to)
}

/// Checks that a link in page `from` leads to a page that a link may lead to.
///
/// Errors: `Structure` of page `from`.
pub(crate) fn check_link<R: PageRead + ?Sized>(src: &R, from: PageNo, to: PageNo) -> Result<()> {
    if (RESERVED_PAGES..src.page_count()).contains(&to.0) {
        return Ok(());
    }
    Err(EngineError::Structure {
        page: from,
        expected: "a link to a page of the file",
        found: to.0,
    })
}
