//! How the structures (B+tree, free list, catalog) reach pages: they know neither cache nor log.

use crate::engine::error::Result;
use crate::page::{PageKind, PageNo, PageRef, PageSize};

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
