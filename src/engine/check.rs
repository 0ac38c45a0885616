//! The check of a whole database: every page is what it should be and is used exactly once.
//!
//! It runs in the engine process, over any consistent state, beside writers. It reads every page.
//!
//! ```text
//! catalog (page 2) -> tables -> nodes -> chains     each page marked in one bitmap when reached;
//! free list -> trunks -> free pages                 what is marked twice or never is a finding
//! ```
//!
//! * K1 A page is descended into only the first time that it is reached: the check ends on any input.
//! * K2 It goes on after a finding; only what hangs below a damaged page is left out. Pages that are
//!   never reached are listed only where nothing was left out, and are counted always.
//! * K3 Memory is one bit for each page, the names of the tables, and at most 1000 findings.
//!
//! It takes no lock. It repairs nothing, and it does not look at the header pages.

use super::btree::{Chain, ChainStart, Content, Node};
use super::catalog::{self, CATALOG_ROOT, Table};
use super::free_list::{self, FreeRole};
use crate::engine::error::{EngineError, Result};
use crate::engine::page_io::{FreeList, PageRead};
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

/// Checks the state that `src` shows, whose free list is `free`.
///
/// What is wrong is in the report, errors of reading too. Cost: reads every page once, and those of
/// free pages and of values in no particular order.
pub(crate) fn check(src: &dyn PageRead, free: FreeList) -> CheckReport {
    let mut check = Check {
        src,
        reached: Bitmap::new(src.page_count()),
        report: CheckReport::default(),
        coverage: Coverage::Whole,
    };
    for (name, table) in check.catalog() {
        check.table(name, table);
    }
    check.free_list(free);
    check.unreached();
    check.report
}

/// Whether everything that could be reached was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coverage {
    Whole,
    /// Something below a damaged page was left out.
    Partial,
}

struct Check<'a> {
    src: &'a dyn PageRead,
    reached: Bitmap,
    report: CheckReport,
    coverage: Coverage,
}

/// The separators beside a node.
#[derive(Clone, Copy, Default)]
struct Fences<'a> {
    low: Option<&'a [u8]>,
    high: Option<&'a [u8]>,
}

/// What is done with each leaf of a tree.
type OnLeaf<'c, 'a> = &'c mut dyn FnMut(&mut Check<'a>, &Node);

impl<'a> Check<'a> {
    fn find(&mut self, page: PageNo, problem: Problem) {
        self.report.finding_count += 1;
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(Finding { page, problem });
        }
    }

    /// Notes an error met at `page`; `Structure` names its page itself.
    fn find_error(&mut self, page: PageNo, error: EngineError) {
        match error {
            EngineError::Structure {
                page,
                expected,
                found,
            } => self.find(page, Problem::Structure { expected, found }),
            error => self.find(page, Problem::Unreadable(error)),
        }
    }

    /// The value of `result`; its error is a finding, and what lies below is left out.
    fn noted<T>(&mut self, page: PageNo, result: Result<T>) -> Option<T> {
        result
            .map_err(|error| {
                self.coverage = Coverage::Partial;
                self.find_error(page, error);
            })
            .ok()
    }

    /// Marks `page`, a page of the file; returns whether it is reached for the first time.
    fn reach(&mut self, page: PageNo, as_what: Use) -> bool {
        let is_first = self.reached.insert(page);
        if !is_first {
            self.find(page, Problem::UsedTwice(as_what));
        }
        is_first
    }

    /// Walks the catalog; returns the tables that it could read.
    fn catalog(&mut self) -> Vec<(String, Table)> {
        let mut tables = Vec::new();
        self.tree(CATALOG_ROOT, &mut |check, leaf| {
            for index in 0..leaf.count() {
                let table = decode_table(check.src, leaf, index);
                tables.extend(check.noted(leaf.page(), table));
            }
        });
        self.report.totals.table_count = tables.len() as u64;
        tables
    }

    fn table(&mut self, name: String, table: Table) {
        let mut found = 0;
        let before = std::mem::replace(&mut self.coverage, Coverage::Whole);
        self.tree(table.root, &mut |check, leaf| {
            found += leaf.count() as u64;
            check.entries(leaf);
        });
        self.report.totals.entry_count += found;
        if self.coverage == Coverage::Whole {
            self.coverage = before;
            if found != table.entry_count {
                let problem = Problem::EntryCount {
                    table: name,
                    expected: table.entry_count,
                    found,
                };
                self.find(table.root, problem);
            }
        }
    }

    fn tree(&mut self, root: PageNo, on_leaf: OnLeaf<'_, 'a>) {
        if !self.reach(root, Use::Node) {
            self.coverage = Coverage::Partial;
            return;
        }
        let node = Node::read_root(self.src, root);
        if let Some(node) = self.noted(root, node) {
            self.node(&node, Fences::default(), on_leaf);
        }
    }

    /// Checks a node and what is below it. Levels fall from node to child, so this is at most 32 deep.
    fn node(&mut self, node: &Node, fences: Fences<'_>, on_leaf: OnLeaf<'_, 'a>) {
        if let Some(found) = node.overlap() {
            let expected = "cells that share no bytes";
            let found = found as u64;
            self.find(node.page(), Problem::Structure { expected, found });
        }
        if let Err(error) = node.check_fences(fences.low, fences.high) {
            self.find_error(node.page(), error);
        }
        if node.level() == 0 {
            self.report.totals.leaf_pages += 1;
            return on_leaf(self, node);
        }
        self.report.totals.inner_pages += 1;
        for index in 0..=node.count() {
            let low = index.checked_sub(1).map(|index| node.key(index));
            let high = (index < node.count()).then(|| node.key(index));
            let fences = Fences {
                low: low.or(fences.low),
                high: high.or(fences.high),
            };
            self.child(node, index, fences, on_leaf);
        }
    }

    fn child(&mut self, parent: &Node, index: usize, fences: Fences<'_>, on_leaf: OnLeaf<'_, 'a>) {
        let page = parent.child(index);
        let child = parent.read_child(self.src, index);
        // A link out of the file is a finding of the parent, and there is no page to mark.
        if self.reached.holds(page) && !self.reach(page, Use::Node) {
            self.coverage = Coverage::Partial;
            return;
        }
        if let Some(child) = self.noted(page, child) {
            self.node(&child, fences, on_leaf);
        }
    }

    fn entries(&mut self, leaf: &Node) {
        for index in 0..leaf.count() {
            self.report.totals.key_bytes += leaf.key(index).len() as u64;
            match leaf.content(index) {
                Content::Inline(value) => self.report.totals.value_bytes += value.len() as u64,
                Content::Chain(start) => self.chain(leaf.page(), start),
                Content::Child(_) => unreachable!("a leaf's cells are entries"),
            }
        }
    }

    fn chain(&mut self, leaf: PageNo, start: ChainStart) {
        self.report.totals.value_bytes += u64::from(start.bytes);
        let chain = Chain::open(self.src, leaf, start);
        let Some(mut chain) = self.noted(leaf, chain) else {
            return;
        };
        loop {
            let piece = chain.advance(self.src);
            match self.noted(chain.next_page(), piece) {
                Some(Some(piece)) if self.reach(piece.page, Use::Overflow) => {
                    self.report.totals.overflow_pages += 1;
                }
                Some(Some(_)) => {
                    self.coverage = Coverage::Partial;
                    return;
                }
                Some(None) | None => return,
            }
        }
    }

    fn free_list(&mut self, free: FreeList) {
        let src = self.src;
        let walked = free_list::walk(src, free, &mut |page, role| {
            match role {
                FreeRole::Trunk => self.report.totals.trunk_pages += 1,
                FreeRole::Named => self.report.totals.free_pages += 1,
            }
            // A free page is part of every view, so it must be readable although nothing uses it.
            if self.reach(page, Use::Free)
                && let Err(error) = src.read(page)
            {
                self.find_error(page, error);
            }
            Ok(())
        });
        self.noted(free.head, walked);
    }

    fn unreached(&mut self) {
        for page in (CATALOG_ROOT.0..self.src.page_count()).map(PageNo) {
            if self.reached.contains(page) {
                continue;
            }
            self.report.totals.unreached_pages += 1;
            if self.coverage == Coverage::Whole {
                self.find(page, Problem::Unreached);
            }
        }
    }
}

fn decode_table(src: &dyn PageRead, leaf: &Node, index: usize) -> Result<(String, Table)> {
    let Content::Inline(record) = leaf.content(index) else {
        return Err(EngineError::Structure {
            page: leaf.page(),
            expected: "a table's record of 32 bytes",
            found: 0,
        });
    };
    let name = catalog::decode_name(leaf.key(index))?;
    Ok((name.to_owned(), catalog::decode(src, record)?))
}

/// A set of pages of a file: one bit for each.
struct Bitmap {
    words: Vec<u64>,
    page_count: u64,
}

impl Bitmap {
    fn new(page_count: u64) -> Self {
        let words = usize::try_from(page_count.div_ceil(64)).expect("64-bit memory sizes");
        Self {
            words: vec![0; words],
            page_count,
        }
    }

    fn holds(&self, page: PageNo) -> bool {
        page.0 < self.page_count
    }

    fn word(&self, page: PageNo) -> Option<usize> {
        let word = usize::try_from(page.0 / 64).ok();
        word.filter(|_| self.holds(page))
    }

    fn contains(&self, page: PageNo) -> bool {
        let word = self.word(page).and_then(|word| self.words.get(word));
        word.is_some_and(|word| word & (1 << (page.0 % 64)) != 0)
    }

    /// Adds `page`; returns whether it is a page of the file that was not in the set.
    fn insert(&mut self, page: PageNo) -> bool {
        let word = self.word(page).and_then(|word| self.words.get_mut(word));
        let bit = 1 << (page.0 % 64);
        word.is_some_and(|word| std::mem::replace(word, *word | bit) & bit == 0)
    }
}
