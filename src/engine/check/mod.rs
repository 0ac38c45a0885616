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

mod bitmap;
mod report;

use bitmap::Bitmap;
pub use report::{CheckReport, FINDINGS_MAX, Finding, Problem, Totals, Use};

use super::btree::{Chain, ChainStart, Content, Node};
use super::catalog::{self, CATALOG_ROOT, Table};
use super::free_list::{self, FreeRole};
use crate::engine::error::{EngineError, Result};
use crate::engine::page_io::{FreeList, PageRead};
use crate::page::PageNo;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::engine::btree::memory_pages::{Image, MemoryPages};
    use crate::engine::btree::{delete, insert};
    use crate::engine::page_io::PageWrite;
    use crate::page::PageKind;

    /// Three tables, one of them with inner nodes, and free pages.
    fn database() -> MemoryPages {
        let mut pages = MemoryPages::with_catalog(4096);
        for name in ["a", "b", "c"] {
            catalog::create(&mut pages, name).unwrap();
        }
        let root = catalog::open(&pages, "b").unwrap().unwrap().root;
        for number in 0..500_u32 {
            let value = vec![1; if number % 100 == 0 { 9000 } else { 50 }];
            insert(&mut pages, root, &number.to_be_bytes(), &value).unwrap();
        }
        for number in 0..110_u32 {
            delete(&mut pages, root, &number.to_be_bytes()).unwrap();
        }
        catalog::set_count(&mut pages, "b", 390).unwrap();
        pages
    }

    fn problems(src: &Image, free: FreeList) -> Vec<String> {
        let report = check(src, free);
        report.findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn sound_database_is_clean_and_its_totals_add_up() {
        let pages = database();
        let report = pages.check();
        assert!(report.is_clean(), "{:?}", report.findings);
        let totals = report.totals;
        assert_eq!((totals.table_count, totals.entry_count), (3, 390));
        assert_eq!(totals.key_bytes, 390 * 4);
        assert_eq!(totals.value_bytes, 387 * 50 + 3 * 9000);
        assert_eq!(totals.overflow_pages, 9);
        assert_eq!(totals.unreached_pages, 0);
    }

    #[test]
    fn wrong_entry_count_is_found() {
        let mut pages = database();
        catalog::set_count(&mut pages, "b", 391).unwrap();
        let [finding] = &pages.check().findings[..] else {
            panic!("one finding");
        };
        assert!(matches!(
            &finding.problem,
            Problem::EntryCount { table, expected: 391, found: 390 } if table == "b"
        ));
    }

    #[test]
    fn leaked_page_is_found() {
        let mut pages = database();
        let page = pages.allocate(PageKind::Leaf).unwrap();
        assert_eq!(
            problems(&pages.image(), pages.list),
            [format!("page {page}: the page is neither in use nor free")]
        );
    }

    #[test]
    fn page_both_free_and_in_use_is_found() {
        let mut pages = database();
        let root = catalog::open(&pages, "a").unwrap().unwrap().root;
        pages.free(root).unwrap();
        assert_eq!(
            problems(&pages.image(), pages.list),
            [format!(
                "page {root}: the page is used a second time, as a free page"
            )]
        );
    }

    #[test]
    fn two_tables_with_one_root_are_found() {
        let mut pages = database();
        let mut image = pages.image();
        let root = catalog::open(&pages, "a").unwrap().unwrap().root;
        let record = [&root.0.to_le_bytes()[..], &[0; 24]].concat();
        insert(&mut pages, CATALOG_ROOT, b"d", &record).unwrap();
        assert!(problems(&image, pages.list).is_empty());
        image = pages.image();
        assert_eq!(
            problems(&image, pages.list),
            [format!(
                "page {root}: the page is used a second time, as a node of a tree"
            )]
        );
    }

    /// A free page is a page of every copy too.
    #[test]
    fn unreadable_free_page_is_found() {
        let pages = database();
        let mut image = pages.image();
        let mut free_page = None;
        free_list::walk(&image, pages.list, &mut |page, role| {
            free_page = (role == FreeRole::Named).then_some(page).or(free_page);
            Ok(())
        })
        .unwrap();
        let page = usize::try_from(free_page.unwrap().0).unwrap();
        image.damage(page, |bytes| bytes[1000] ^= 1);
        let report = check(&image, pages.list);
        assert!(matches!(
            &report.findings[..],
            [Finding {
                problem: Problem::Unreadable(_),
                ..
            }]
        ));
    }

    /// Two cells on the same bytes: one entry would be lost at the next change of the node.
    #[test]
    fn cells_that_overlap_are_found() {
        let mut pages = MemoryPages::with_catalog(4096);
        catalog::create(&mut pages, "a").unwrap();
        let root = catalog::open(&pages, "a").unwrap().unwrap().root;
        // The value of the first entry is the second entry's cell, key and all.
        let inner_cell = [1, 0, 0, 0, 0, 0, 0, 0, b'b'];
        insert(&mut pages, root, b"a", &inner_cell).unwrap();
        insert(&mut pages, root, b"b", b"").unwrap();
        catalog::set_count(&mut pages, "a", 2).unwrap();
        let mut image = pages.image();
        image.change(usize::try_from(root.0).unwrap(), |bytes| {
            let page_bytes = u16::try_from(bytes.len()).unwrap();
            codec::put(bytes, 58, &(page_bytes - 9).to_le_bytes());
        });
        assert_eq!(
            problems(&image, pages.list),
            [format!(
                "page {root}: expected cells that share no bytes, found 4087"
            )]
        );
    }

    /// K2: damage in one table hides nothing in the others, and makes no flood.
    #[test]
    fn check_goes_on_after_a_finding() {
        let mut pages = database();
        catalog::set_count(&mut pages, "c", 7).unwrap();
        let root = catalog::open(&pages, "b").unwrap().unwrap().root;
        let mut image = pages.image();
        image.damage(usize::try_from(root.0).unwrap(), |bytes| bytes[2000] ^= 1);
        let report = check(&image, pages.list);
        assert_eq!(report.finding_count, 2, "{:?}", report.findings);
        assert!(matches!(report.findings[0].problem, Problem::Unreadable(_)));
        assert!(matches!(
            report.findings[1].problem,
            Problem::EntryCount { .. }
        ));
        assert!(report.totals.unreached_pages > 3);
    }

    /// K3: a list without end would take memory without end.
    #[test]
    fn findings_are_counted_past_the_last_one_that_is_listed() {
        let mut pages = MemoryPages::with_catalog(4096);
        for _ in 0..FINDINGS_MAX + 50 {
            pages.allocate(PageKind::Leaf).unwrap();
        }
        let report = pages.check();
        assert_eq!(report.findings.len(), FINDINGS_MAX);
        assert_eq!(report.finding_count, FINDINGS_MAX as u64 + 50);
    }
}
