//! Walks over a table: entries or keys in order, from both ends.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::engine::btree::Cursor;
use crate::engine::catalog::Table;
use crate::engine::error::Result;
use crate::engine::page_io::PageRead;
use crate::engine::snapshot::Snapshot;
use crate::engine::write_set::WriteSet;
use crate::page::{PageNo, PageRef, PageSize};

/// The pages that a walk reads.
#[derive(Debug)]
pub(super) enum Pages<'a> {
    Still(Arc<Snapshot>),
    Own(&'a WriteSet),
}

impl PageRead for Pages<'_> {
    fn page_size(&self) -> PageSize {
        match self {
            Self::Still(snapshot) => snapshot.page_size(),
            Self::Own(set) => set.page_size(),
        }
    }

    fn page_count(&self) -> u64 {
        match self {
            Self::Still(snapshot) => snapshot.page_count(),
            Self::Own(set) => set.page_count(),
        }
    }

    fn read(&self, page: PageNo) -> Result<PageRef> {
        match self {
            Self::Still(snapshot) => PageRead::read(&**snapshot, page),
            Self::Own(set) => PageRead::read(*set, page),
        }
    }
}

/// A cursor that ends for good after an error.
pub(super) struct Walk<'a> {
    cursor: Option<Cursor<Pages<'a>>>,
}

impl std::fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk")
            .field("is_ended", &self.cursor.is_none())
            .finish()
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        pages: Pages<'a>,
        table: Option<Table>,
        bounds: &impl RangeBounds<Vec<u8>>,
    ) -> Self {
        let low: Bound<&[u8]> = bounds.start_bound().map(Vec::as_slice);
        let high: Bound<&[u8]> = bounds.end_bound().map(Vec::as_slice);
        Self {
            cursor: table.map(|table| Cursor::new(pages, table.root, low, high)),
        }
    }

    fn step<T>(
        &mut self,
        step: impl FnOnce(&mut Cursor<Pages<'a>>) -> Result<Option<T>>,
    ) -> Option<Result<T>> {
        let item = step(self.cursor.as_mut()?).transpose();
        if !matches!(item, Some(Ok(_))) {
            self.cursor = None;
        }
        item
    }
}

/// Entries in the order of their keys, from both ends. Ends after the first error.
#[derive(Debug)]
pub struct Range<'a>(pub(super) Walk<'a>);

impl Iterator for Range<'_> {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0
            .step(|cursor| cursor.next()?.map(|entry| entry.to_pair()).transpose())
    }
}

impl DoubleEndedIterator for Range<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0
            .step(|cursor| cursor.next_back()?.map(|entry| entry.to_pair()).transpose())
    }
}

/// Keys in order, from both ends. Ends after the first error.
#[derive(Debug)]
pub struct Keys<'a>(pub(super) Walk<'a>);

impl Iterator for Keys<'_> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0
            .step(|cursor| Ok(cursor.next()?.map(|entry| entry.key().to_vec())))
    }
}

impl DoubleEndedIterator for Keys<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0
            .step(|cursor| Ok(cursor.next_back()?.map(|entry| entry.key().to_vec())))
    }
}
