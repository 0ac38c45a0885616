//! Where the fields of a node are, and what fits.

use crate::engine::error::EngineError;
use crate::page::{PAGE_HEADER_BYTES, PageKind, PageNo};

/// Highest level that a root may have: 32 levels.
pub(super) const LEVEL_MAX: u8 = 31;

pub(super) const CELL_COUNT: usize = PAGE_HEADER_BYTES;
pub(super) const LEVEL: usize = PAGE_HEADER_BYTES + 2;
pub(super) const CONTENT_START: usize = PAGE_HEADER_BYTES + 4;
pub(super) const DEAD_BYTES: usize = PAGE_HEADER_BYTES + 8;
pub(super) const FIRST_CHILD: usize = PAGE_HEADER_BYTES + 16;
pub(super) const SLOTS: usize = PAGE_HEADER_BYTES + 24;
pub(super) const SLOT_BYTES: usize = 2;

/// Bytes of a node for slots and cells.
pub(super) fn capacity(page_bytes: usize) -> usize {
    page_bytes - SLOTS
}

/// Longest leaf cell whose value is not moved to a chain, short values aside.
pub(super) fn inline_cell_max(page_bytes: usize) -> usize {
    capacity(page_bytes) / 4 - SLOT_BYTES
}

/// What a node of `level` is.
pub(super) fn kind_of(level: u8) -> PageKind {
    match level {
        0 => PageKind::Leaf,
        _ => PageKind::Inner,
    }
}

/// A rule that some bytes break; the page is added by whoever knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// The rule.
    pub(super) expected: &'static str,
    /// The value that breaks it.
    pub(super) found: u64,
}

impl Broken {
    /// The error of a page with such bytes.
    pub(super) fn of(self, page: PageNo) -> EngineError {
        EngineError::Structure {
            page,
            expected: self.expected,
            found: self.found,
        }
    }
}

/// The rule `expected`, broken by `found`, which is a number inside a page.
pub(super) fn broken(expected: &'static str, found: usize) -> Broken {
    Broken {
        expected,
        found: found as u64,
    }
}
