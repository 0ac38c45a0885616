//! The free list: pages that nothing uses, for the writing transaction to take and to give back.
//!
//! It runs in the engine process, below the allocation of the writing transaction; a check walks it.
//!
//! ```text
//! header: head, count
//!           |
//!           v
//!         trunk ------------> trunk ------------> trunk, next = 0
//!          | names             | names
//!          free pages          free pages
//! ```
//!
//! A trunk, kind `FreeTrunk`, after the common header of 32 bytes:
//!
//! ```text
//! offset size
//!     32    8  next trunk; 0 in the last
//!     40    4  number of free pages named here n, at most (page size - 48) / 8
//!     44    4  reserved, 0
//!     48   8n  their numbers
//!              zeros up to the end of the page
//! ```
//!
//! * F1 Every free page is named once or is a trunk; trunks are free pages too and are counted.
//! * F2 Giving back a page does not write it, unless it becomes a trunk; its old content stays.
//! * F3 A walk visits no more pages than the count says, so a circle is found.
//!
//! Nothing here locks or waits, except for the pages' own reading. It does not format what it gives out.

#![deny(clippy::indexing_slicing)]

use crate::codec;
use crate::engine::error::{EngineError, Result};
use crate::engine::page_io::{FreeList, PageRead, check_link, follow};
use crate::page::{PAGE_HEADER_BYTES, PageKind, PageNo, PageRef, PageSize};

const NEXT: usize = PAGE_HEADER_BYTES;
const COUNT: usize = PAGE_HEADER_BYTES + 8;
const PAGES: usize = PAGE_HEADER_BYTES + 16;
const PAGE_NO_BYTES: usize = 8;

/// The pages of the writing transaction below allocation: what `allocate` and `free` are made of.
pub(crate) trait RawPages: PageRead {
    /// The bytes of a page, to be changed, as `PageWrite::modify`.
    fn modify_raw(&mut self, page: PageNo) -> Result<&mut [u8]>;
    /// A new image of a page, formatted as `kind` with a body of zeros; the old one is not read.
    fn format_raw(&mut self, page: PageNo, kind: PageKind) -> Result<&mut [u8]>;
}

/// What a free page is for the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FreeRole {
    /// Names other pages.
    Trunk,
    /// Is named by a trunk.
    Named,
}

/// Takes a page from the list, with whatever content it has; `None` where the list is empty.
///
/// Errors: `Structure`; those of the pages.
pub(crate) fn pop<P: RawPages + ?Sized>(
    dst: &mut P,
    list: &mut FreeList,
) -> Result<Option<PageNo>> {
    if *list == FreeList::default() {
        return Ok(None);
    }
    let head = list.head;
    let left = list.count.checked_sub(1).ok_or(EngineError::Structure {
        page: head,
        expected: "a free list of as many pages as its count",
        found: 0,
    })?;
    let trunk = Trunk::read(dst, head, head)?;
    let taken = match trunk.count.checked_sub(1) {
        Some(last) => {
            let page = trunk.named(last);
            check_link(dst, head, page)?;
            // A held page would have to be copied to be changed.
            drop(trunk);
            let last_u32 = u32::try_from(last).expect("a trunk names fewer than 65536 pages");
            let bytes = dst.modify_raw(head)?;
            codec::put(bytes, COUNT, &last_u32.to_le_bytes());
            codec::put(bytes, PAGES + last * PAGE_NO_BYTES, &[0; PAGE_NO_BYTES]);
            page
        }
        None => {
            list.head = trunk.next;
            head
        }
    };
    list.count = left;
    Ok(Some(taken))
}

/// Gives `page` back to the list.
///
/// Shape: `page` is no reserved page, is below the page count, and is not in the list.
/// Errors: `Structure`; those of the pages.
pub(crate) fn push<P: RawPages + ?Sized>(
    dst: &mut P,
    list: &mut FreeList,
    page: PageNo,
) -> Result<()> {
    check_link(dst, page, page)?;
    let count = list.count.checked_add(1);
    let count = count.ok_or(EngineError::Exhausted {
        what: "the free list",
    })?;
    let named = match list.head {
        PageNo(0) => None,
        head => Some(Trunk::read(dst, head, head)?.count),
    };
    match named.filter(|count| *count < capacity(dst.page_size())) {
        Some(named) => {
            let after = u32::try_from(named + 1).expect("a trunk names fewer than 65536 pages");
            let bytes = dst.modify_raw(list.head)?;
            codec::put(bytes, PAGES + named * PAGE_NO_BYTES, &page.0.to_le_bytes());
            codec::put(bytes, COUNT, &after.to_le_bytes());
        }
        None => {
            let next = list.head;
            let bytes = dst.format_raw(page, PageKind::FreeTrunk)?;
            codec::put(bytes, NEXT, &next.0.to_le_bytes());
            list.head = page;
        }
    }
    list.count = count;
    Ok(())
}

/// Shows every page of the list to `visit`, each trunk before the pages that it names.
///
/// Errors: `Structure`, also where the list is longer or shorter than its count; those of `read`; those
/// of `visit`, which end the walk.
pub(crate) fn walk<R: PageRead + ?Sized>(
    src: &R,
    list: FreeList,
    visit: &mut dyn FnMut(PageNo, FreeRole) -> Result<()>,
) -> Result<()> {
    let mut left = list.count;
    let (mut from, mut next) = (list.head, list.head);
    while next != PageNo(0) {
        let trunk = Trunk::read(src, from, next)?;
        let pages = 1 + trunk.count as u64;
        left = left.checked_sub(pages).ok_or(EngineError::Structure {
            page: next,
            expected: "a free list no longer than its count",
            found: list.count,
        })?;
        visit(next, FreeRole::Trunk)?;
        for index in 0..trunk.count {
            let page = trunk.named(index);
            check_link(src, next, page)?;
            visit(page, FreeRole::Named)?;
        }
        (from, next) = (next, trunk.next);
    }
    if left > 0 {
        return Err(EngineError::Structure {
            page: from,
            expected: "a free list of as many pages as its count",
            found: list.count - left,
        });
    }
    Ok(())
}

/// How many pages a trunk can name.
fn capacity(size: PageSize) -> usize {
    (size.bytes() - PAGES) / PAGE_NO_BYTES
}

/// A trunk whose lengths were checked.
struct Trunk {
    image: PageRef,
    next: PageNo,
    count: usize,
}

impl Trunk {
    fn read<R: PageRead + ?Sized>(src: &R, from: PageNo, page: PageNo) -> Result<Self> {
        let image = follow(src, from, page)?;
        let broken = |expected, found| EngineError::Structure {
            page,
            expected,
            found,
        };
        if image.kind() != Some(PageKind::FreeTrunk) {
            let kind = image.kind().map_or(0, |kind| kind as u64);
            return Err(broken("a trunk of the free list", kind));
        }
        let short = || broken("a page of at least 4096 bytes", image.len() as u64);
        let next = PageNo(codec::get_u64(&image, NEXT).ok_or_else(short)?);
        let count = codec::get_u32(&image, COUNT).ok_or_else(short)? as usize;
        if count > capacity(src.page_size()) || PAGES + count * PAGE_NO_BYTES > image.len() {
            return Err(broken("no more free pages than fit", count as u64));
        }
        if next != PageNo(0) {
            check_link(src, page, next)?;
        }
        Ok(Self { image, next, count })
    }

    fn named(&self, index: usize) -> PageNo {
        let page = codec::get_u64(&self.image, PAGES + index * PAGE_NO_BYTES);
        PageNo(page.expect("the count was checked against the page when it was read"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::engine::btree::memory_pages::MemoryPages;
    use crate::engine::page_io::PageWrite;

    /// Transactions are above this test: a page is freed by the list's own functions.
    fn pages(bytes: u64, count: u64) -> MemoryPages {
        let mut pages = MemoryPages::new(PageSize::new(bytes).unwrap());
        (0..count).for_each(|_| {
            pages.allocate(PageKind::Leaf).unwrap();
        });
        pages
    }

    fn walked(pages: &MemoryPages, list: FreeList) -> Result<Vec<PageNo>> {
        let mut found = Vec::new();
        walk(pages, list, &mut |page, _| {
            found.push(page);
            Ok(())
        })?;
        Ok(found)
    }

    /// F1: nothing is lost and nothing given out twice.
    #[test]
    fn every_page_pushed_is_popped_once_over_many_trunks() {
        for bytes in [4096, 16384] {
            let count = capacity(PageSize::new(bytes).unwrap()) as u64 * 2 + 100;
            let mut pages = pages(bytes, count + 1);
            let mut list = FreeList::default();
            for page in 0..count {
                push(&mut pages, &mut list, PageNo(3 + page)).unwrap();
            }
            assert_eq!(list.count, count);
            let found: HashSet<_> = walked(&pages, list).unwrap().into_iter().collect();
            assert_eq!(found.len() as u64, count);
            let mut popped = HashSet::new();
            while let Some(page) = pop(&mut pages, &mut list).unwrap() {
                assert!(popped.insert(page), "page {page} twice");
                if popped.len() % 97 == 0 {
                    let left = walked(&pages, list).unwrap().len();
                    assert_eq!(left as u64, list.count);
                }
            }
            assert_eq!(popped, found);
            assert_eq!(list, FreeList::default());
        }
    }

    /// F2: the log would otherwise grow by a page for each page that is freed.
    #[test]
    fn pushed_page_keeps_its_content_unless_it_becomes_a_trunk() {
        let mut pages = pages(4096, 10);
        let mut list = FreeList::default();
        for page in [5, 6, 7] {
            codec::put(pages.modify(PageNo(page)).unwrap(), 100, b"content");
            push(&mut pages, &mut list, PageNo(page)).unwrap();
        }
        assert_eq!(list.head, PageNo(5));
        assert_eq!(
            pages.read(PageNo(5)).unwrap().kind(),
            Some(PageKind::FreeTrunk)
        );
        for page in [6, 7] {
            let image = pages.read(PageNo(page)).unwrap();
            assert_eq!(codec::get_array(&image, 100), Some(*b"content"));
        }
    }

    /// F3.
    #[test]
    fn circle_wrong_count_and_wrong_links_are_errors() {
        let mut pages = pages(4096, 10);
        let mut list = FreeList::default();
        for page in [5, 6, 7] {
            push(&mut pages, &mut list, PageNo(page)).unwrap();
        }
        for count in [0, 1, 2, 4] {
            assert!(walked(&pages, FreeList { count, ..list }).is_err());
        }
        let huge = FreeList {
            count: u64::MAX,
            ..list
        };
        assert!(walked(&pages, huge).is_err());
        for (offset, value) in [(NEXT, 5), (NEXT, 2), (NEXT, 999), (COUNT, 507), (PAGES, 1)] {
            let mut pages = pages.clone();
            let mut image = pages.image();
            image.change(5, |bytes| {
                codec::put(bytes, offset, &u64::to_le_bytes(value))
            });
            pages = MemoryPages::over(&image, list);
            assert!(walked(&pages, list).is_err(), "{value} at {offset}");
            let mut list = list;
            let popped: Vec<_> = (0..4).map(|_| pop(&mut pages, &mut list)).collect();
            assert!(popped.iter().any(Result::is_err), "{value} at {offset}");
        }
    }

    #[test]
    fn reserved_pages_and_pages_past_the_file_are_refused() {
        let mut pages = pages(4096, 10);
        for page in [0, 1, 2, 12, u64::MAX] {
            assert!(push(&mut pages, &mut FreeList::default(), PageNo(page)).is_err());
        }
    }
}
