//! One node, read and checked.

#![deny(clippy::indexing_slicing)]

use std::cmp::Ordering;

use super::cell::{self, Cell, Content};
use super::layout::{
    Broken, CELL_COUNT, CONTENT_START, DEAD_BYTES, FIRST_CHILD, LEVEL, LEVEL_MAX, SLOT_BYTES,
    SLOTS, broken, capacity, kind_of,
};
use crate::codec;
use crate::engine::error::Result;
use crate::engine::page_io::{PageRead, follow};
use crate::page::{PageKind, PageNo, PageRef};

/// A node whose page was found to keep every rule that it can keep by itself.
#[derive(Debug)]
pub(crate) struct Node {
    page: PageNo,
    image: PageRef,
    level: u8,
    count: usize,
    content_start: usize,
    dead: usize,
}

/// Where a key is in a node, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this cell.
    At(usize),
    /// Before this cell, or after all where it is the count.
    Before(usize),
}

impl Node {
    /// Reads the root of a tree.
    ///
    /// Errors: `Structure`; those of `read`.
    pub(crate) fn read_root<R: PageRead + ?Sized>(src: &R, root: PageNo) -> Result<Self> {
        Self::check(root, src.read(root)?)
    }

    /// Reads the child `index` of this node; its level is checked, its keys against ours are not.
    ///
    /// Errors: `Structure`, also of an empty leaf; those of `read`.
    pub(crate) fn read_child<R: PageRead + ?Sized>(&self, src: &R, index: usize) -> Result<Self> {
        let page = self.child(index);
        let child = Self::check(page, follow(src, self.page, page)?)?;
        if Some(child.level) != self.level.checked_sub(1) {
            let found = usize::from(child.level);
            return Err(broken("a level one below the parent's", found).of(page));
        }
        if child.level == 0 && child.count == 0 {
            return Err(broken("a leaf with an entry", 0).of(page));
        }
        Ok(child)
    }

    /// Checks the whole node, its cells only where nobody has checked these bytes before.
    fn check(page: PageNo, image: PageRef) -> Result<Self> {
        let node = Self::check_header(page, image).map_err(|rule| rule.of(page))?;
        if !node.image.is_vetted() {
            node.check_cells().map_err(|rule| rule.of(page))?;
            node.image.set_vetted();
        }
        Ok(node)
    }

    fn check_header(page: PageNo, image: PageRef) -> Result<Self, Broken> {
        let short = broken("a page of at least 4096 bytes", image.len());
        let level = image.get(LEVEL).copied().ok_or(short)?;
        let count = usize::from(codec::get_u16(&image, CELL_COUNT).ok_or(short)?);
        let content_start = codec::get_u32(&image, CONTENT_START).ok_or(short)? as usize;
        let dead = codec::get_u32(&image, DEAD_BYTES).ok_or(short)? as usize;
        let first_child = codec::get_u64(&image, FIRST_CHILD).ok_or(short)?;
        let kind = image.kind();
        if !matches!(kind, Some(PageKind::Leaf | PageKind::Inner)) {
            let kind = kind.map_or(0, |kind| kind as usize);
            return Err(broken("a leaf or an inner node", kind));
        }
        if kind != Some(kind_of(level)) || level > LEVEL_MAX {
            return Err(broken("a level of its kind, below 32", usize::from(level)));
        }
        if (level == 0) != (first_child == 0) {
            return Err(Broken {
                expected: "a first child in an inner node, none in a leaf",
                found: first_child,
            });
        }
        if content_start > image.len() || SLOTS + count * SLOT_BYTES > content_start {
            return Err(broken("cells after the slots", content_start));
        }
        Ok(Self {
            page,
            image,
            level,
            count,
            content_start,
            dead,
        })
    }

    fn check_cells(&self) -> Result<(), Broken> {
        let mut used = 0;
        let mut previous: Option<&[u8]> = None;
        for index in 0..self.count {
            let cell = self.decode(index)?;
            if previous.is_some_and(|previous| previous >= cell.key) {
                return Err(broken("keys in ascending order", index));
            }
            previous = Some(cell.key);
            used += cell.bytes.len();
            self.check_place(&cell)?;
        }
        // Two cells that share bytes are left to `overlap`: here the sums keep every change of the
        // node inside its page, which is what the writers rely on.
        if used + self.dead != self.image.len() - self.content_start {
            return Err(broken("cells and dead bytes that fill the content", used));
        }
        Ok(())
    }

    /// An entry's value must be where the format says, or nodes could hold too few entries to split.
    fn check_place(&self, cell: &Cell<'_>) -> Result<(), Broken> {
        let (inline, value_bytes) = match cell.content {
            Content::Inline(value) => (true, value.len()),
            Content::Chain(start) => (false, start.bytes as usize),
            Content::Child(_) => return Ok(()),
        };
        if inline != cell::is_inline(self.image.len(), cell.key.len(), value_bytes) {
            return Err(broken("a value inline if it is short", value_bytes));
        }
        Ok(())
    }

    #[inline]
    fn decode(&self, index: usize) -> Result<Cell<'_>, Broken> {
        let slot = SLOTS + index * SLOT_BYTES;
        let offset = codec::get_u16(&self.image, slot)
            .map(usize::from)
            .filter(|_| index < self.count)
            .ok_or(broken("a slot inside the node", index))?;
        if offset < self.content_start {
            return Err(broken("a cell after content start", offset));
        }
        let rest = self.image.get(offset..);
        cell::decode(self.level, rest.unwrap_or_default())
    }

    fn cell(&self, index: usize) -> Cell<'_> {
        self.decode(index).expect(
            "every cell was decoded when the node was read, and the index is below the count",
        )
    }

    /// The node's page.
    pub(crate) fn page(&self) -> PageNo {
        self.page
    }

    /// 0 for a leaf.
    pub(crate) fn level(&self) -> u8 {
        self.level
    }

    /// Number of cells; an inner node has one child more.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The key of the cell `index`, which is below the count.
    pub(crate) fn key(&self, index: usize) -> &[u8] {
        self.cell(index).key
    }

    /// What the cell `index`, which is below the count, holds beside its key.
    pub(crate) fn content(&self, index: usize) -> Content<'_> {
        self.cell(index).content
    }

    /// Length in bytes of the cell `index`, which is below the count.
    pub(super) fn cell_bytes(&self, index: usize) -> usize {
        self.cell(index).bytes.len()
    }

    /// Where in the page the cell `index`, which is below the count, ends; an inline value ends there too.
    pub(super) fn end_of_cell(&self, index: usize) -> usize {
        let slot = SLOTS + index * SLOT_BYTES;
        let offset = codec::get_u16(&self.image, slot).unwrap_or_default();
        usize::from(offset) + self.cell_bytes(index)
    }

    /// The child `index` of an inner node, which is at most the count.
    pub(crate) fn child(&self, index: usize) -> PageNo {
        let Some(index) = index.checked_sub(1) else {
            return self.first_child();
        };
        match self.content(index) {
            Content::Child(child) => child,
            Content::Inline(_) | Content::Chain(_) => unreachable!("leaves have no children"),
        }
    }

    /// The child before all separators; 0 in a leaf.
    pub(super) fn first_child(&self) -> PageNo {
        PageNo(codec::get_u64(&self.image, FIRST_CHILD).unwrap_or_default())
    }

    /// The bytes of all cells, in the order of the keys.
    pub(super) fn cells(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count).map(|index| self.cell(index).bytes)
    }

    /// Bytes that the cells and their slots need.
    pub(super) fn used_bytes(&self) -> usize {
        self.image.len() - self.content_start - self.dead + self.count * SLOT_BYTES
    }

    /// Whether the node is so empty that it should be merged with a neighbour.
    pub(super) fn is_small(&self) -> bool {
        self.used_bytes() < capacity(self.image.len()) / 3
    }

    /// Whether a cell of so many bytes fits in, perhaps after moving the others together.
    pub(super) fn has_room(&self, cell_bytes: usize) -> bool {
        self.used_bytes() + cell_bytes + SLOT_BYTES <= capacity(self.image.len())
    }

    /// The page's bytes.
    pub(super) fn image(&self) -> &[u8] {
        &self.image
    }

    /// Where `key` is.
    pub(super) fn search(&self, key: &[u8]) -> Place {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle).cmp(key) {
                Ordering::Equal => return Place::At(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Place::Before(low)
    }

    /// The child that `key` belongs to.
    pub(super) fn child_index(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Place::At(index) => index + 1,
            Place::Before(index) => index,
        }
    }

    /// Checks the keys against the separators beside this node.
    ///
    /// Errors: `Structure` unless `low` <= key < `high`; separators must be above `low`.
    pub(crate) fn check_fences(&self, low: Option<&[u8]>, high: Option<&[u8]>) -> Result<()> {
        let Some(last) = self.count.checked_sub(1) else {
            return Ok(());
        };
        let below = low.is_some_and(|low| match self.key(0).cmp(low) {
            Ordering::Less => true,
            Ordering::Equal => self.level > 0,
            Ordering::Greater => false,
        });
        if below {
            return Err(broken("keys from the separator before the node on", 0).of(self.page));
        }
        if high.is_some_and(|high| self.key(last) >= high) {
            return Err(broken("keys before the separator after the node", last).of(self.page));
        }
        Ok(())
    }

    /// Whether no byte belongs to two cells, so that one can be overwritten and the others stay as they are.
    pub(super) fn is_disjoint(&self) -> bool {
        if !self.image.is_disjoint() && self.overlap().is_none() {
            self.image.set_disjoint();
        }
        self.image.is_disjoint()
    }

    /// The offset of a cell that begins inside another one, if there is such a cell.
    pub(crate) fn overlap(&self) -> Option<usize> {
        let start_of = |cell: &[u8]| cell.as_ptr() as usize - self.image.as_ptr() as usize;
        let mut extents: Vec<_> = self
            .cells()
            .map(|cell| (start_of(cell), cell.len()))
            .collect();
        extents.sort_unstable();
        let mut free_from = 0;
        for (start, bytes) in extents {
            if start < free_from {
                return Some(start);
            }
            free_from = start + bytes;
        }
        None
    }
}
