//! The pages that the writing transaction has changed, private until its commit.

use std::collections::HashMap;
use std::sync::Arc;

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, Result};
use crate::engine::free_list;
use crate::engine::page_io::{FreeList, PageRead, PageWrite};
use crate::engine::shared::Shared;
use crate::page::{PageBuf, PageKind, PageNo, PageRef, PageSize};

/// One changed page.
#[derive(Debug)]
pub(crate) struct Changed {
    /// The committed image that it was changed from; `None` for a page that was formatted.
    pub(crate) before: Option<PageRef>,
    /// Whether no commit has had this page yet.
    pub(crate) is_new: bool,
    /// The image as it will be committed; LSN and checksum are not set yet.
    pub(crate) after: PageRef,
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct WriteSet {
    shared: Arc<Shared>,
    base: CommitPoint,
    page_count: u64,
    free: FreeList,
    changed: HashMap<PageNo, Changed>,
}

impl WriteSet {
    pub(crate) fn new(shared: Arc<Shared>, base: CommitPoint) -> Self {
        let changed = HashMap::new();
        Self {
            shared,
            base,
            page_count: base.page_count,
            free: base.free,
            changed,
        }
    }

    pub(crate) fn base(&self) -> CommitPoint {
        self.base
    }

    pub(crate) fn free_list(&self) -> FreeList {
        self.free
    }

    pub(crate) fn is_unchanged(&self) -> bool {
        self.changed.is_empty()
    }

    /// The changed pages, ascending.
    pub(crate) fn into_changed(self) -> Vec<(PageNo, Changed)> {
        let mut changed: Vec<_> = self.changed.into_iter().collect();
        changed.sort_unstable_by_key(|(page, _)| *page);
        changed
    }

    /// A page that this transaction gives its whole content, whatever it held.
    fn format_page(&mut self, page: PageNo, kind: PageKind) -> Result<()> {
        let (before, is_new) = match self.changed.get(&page) {
            Some(changed) => (changed.before.clone(), changed.is_new),
            None => (None, page.0 >= self.base.page_count),
        };
        let after = Arc::new(PageBuf::formatted(self.shared.page_size, page, kind));
        self.changed.insert(
            page,
            Changed {
                before,
                is_new,
                after,
            },
        );
        Ok(())
    }
}

impl PageRead for WriteSet {
    fn page_size(&self) -> PageSize {
        self.shared.page_size
    }

    fn page_count(&self) -> u64 {
        self.page_count
    }

    fn read(&self, page: PageNo) -> Result<PageRef> {
        if let Some(changed) = self.changed.get(&page) {
            return Ok(changed.after.clone());
        }
        if page.0 >= self.page_count {
            let (expected, found) = ("a page below the page count", self.page_count);
            return Err(EngineError::Structure {
                page,
                expected,
                found,
            });
        }
        self.shared.read_page(page, self.base.lsn)
    }
}

impl PageWrite for WriteSet {
    fn modify(&mut self, page: PageNo) -> Result<&mut [u8]> {
        if !self.changed.contains_key(&page) {
            let before = self.read(page)?;
            let after = before.clone();
            let before = Some(before);
            self.changed.insert(
                page,
                Changed {
                    before,
                    is_new: false,
                    after,
                },
            );
        }
        let changed = self
            .changed
            .get_mut(&page)
            .expect("it was inserted above if it was missing");
        let after: &mut PageBuf = Arc::make_mut(&mut changed.after);
        Ok(after)
    }

    fn allocate(&mut self, kind: PageKind) -> Result<PageNo> {
        let mut free = self.free;
        let page = match free_list::pop(self, &mut free)? {
            Some(page) => page,
            None => {
                let page = PageNo(self.page_count);
                let next = self.page_count.checked_add(1);
                let fits =
                    next.is_some_and(|next| self.page_size().offset_of(PageNo(next)).is_some());
                if !fits {
                    return Err(EngineError::Exhausted { what: "data.pages" });
                }
                self.page_count += 1;
                page
            }
        };
        self.free = free;
        self.format_page(page, kind)?;
        Ok(page)
    }

    fn free(&mut self, page: PageNo) -> Result<()> {
        let mut free = self.free;
        free_list::push(self, &mut free, page)?;
        self.free = free;
        // E9: a page that was never committed is written in full all the same.
        if free.head == page {
            return Ok(());
        }
        match self.changed.get(&page) {
            Some(changed) if changed.is_new => self.format_page(page, PageKind::Free)?,
            // What it holds committed may stay: nobody reads a free page.
            Some(_) => drop(self.changed.remove(&page)),
            None => {}
        }
        Ok(())
    }
}

impl free_list::RawPages for WriteSet {
    fn modify_raw(&mut self, page: PageNo) -> Result<&mut [u8]> {
        PageWrite::modify(self, page)
    }

    fn format_raw(&mut self, page: PageNo, kind: PageKind) -> Result<&mut [u8]> {
        self.format_page(page, kind)?;
        PageWrite::modify(self, page)
    }
}
