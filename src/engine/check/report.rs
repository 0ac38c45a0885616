//! What a check says: findings and sums.

use crate::engine::error::EngineError;
use crate::page::PageNo;

/// Most findings that a report lists.
pub const FINDINGS_MAX: usize = 1000;

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// The first findings, at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// Number of all findings.
    pub finding_count: u64,
    /// What was walked through.
    pub totals: Totals,
}

/// Sums over what a check walked through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tables of the catalog.
    pub table_count: u64,
    /// Entries of all tables; not those of the catalog.
    pub entry_count: u64,
    /// Bytes of the keys of all tables.
    pub key_bytes: u64,
    /// Bytes of the values of all tables.
    pub value_bytes: u64,
    /// Leaves, those of the catalog included.
    pub leaf_pages: u64,
    /// Inner nodes, those of the catalog included.
    pub inner_pages: u64,
    /// Pages of long values.
    pub overflow_pages: u64,
    /// Trunks of the free list.
    pub trunk_pages: u64,
    /// Free pages that are no trunks.
    pub free_pages: u64,
    /// Pages that nothing leads to.
    pub unreached_pages: u64,
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
#[error("page {page}: {problem}")]
pub struct Finding {
    /// Where.
    pub page: PageNo,
    /// What.
    pub problem: Problem,
}

/// What can be wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The page cannot be read, or is not the page that it should be.
    #[error("{0}")]
    Unreadable(EngineError),
    /// The content breaks a rule.
    #[error("expected {expected}, found {found}")]
    Structure {
        /// The rule.
        expected: &'static str,
        /// The value that breaks it.
        found: u64,
    },
    /// Another link leads here too, or the page is free although it is in use.
    #[error("the page is used a second time, {0}")]
    UsedTwice(Use),
    /// Nothing leads to the page, and it is not free.
    #[error("the page is neither in use nor free")]
    Unreached,
    /// The catalog's count of a table is wrong. The page is the table's root.
    #[error("table {table:?} has {found} entries where the catalog says {expected}")]
    EntryCount {
        /// The table.
        table: String,
        /// What the catalog says.
        expected: u64,
        /// What its leaves hold.
        found: u64,
    },
}

/// What a page is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A node of a tree.
    Node,
    /// A page of a long value.
    Overflow,
    /// A free page.
    Free,
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Node => "as a node of a tree",
            Self::Overflow => "as a part of a value",
            Self::Free => "as a free page",
        })
    }
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.finding_count == 0
    }
}
