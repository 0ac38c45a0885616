//! Changes of one node in place.
//!
//! Everything here works on the page of a node that was checked in the same transaction: offsets and
//! counts that are read back are known to be sound.

#![deny(clippy::indexing_slicing)]

use super::cell::{self, Content};
use super::layout::{
    CELL_COUNT, CONTENT_START, DEAD_BYTES, FIRST_CHILD, LEVEL, SLOT_BYTES, SLOTS, kind_of,
};
use crate::codec;
use crate::engine::error::Result;
use crate::engine::page_io::PageWrite;
use crate::page::{PAGE_HEADER_BYTES, PageNo, format_header};

const CHECKED: &str = "the node was checked before it is changed";

/// A node of the writing transaction.
pub(super) struct NodeMut<'a> {
    bytes: &'a mut [u8],
}

impl<'a> NodeMut<'a> {
    /// Opens a node that was checked before.
    ///
    /// Errors: those of `modify`.
    pub(super) fn open(dst: &'a mut dyn PageWrite, page: PageNo) -> Result<Self> {
        dst.modify(page).map(|bytes| Self { bytes })
    }

    fn u16_at(&self, offset: usize) -> usize {
        usize::from(codec::get_u16(self.bytes, offset).expect(CHECKED))
    }

    fn u32_at(&self, offset: usize) -> usize {
        codec::get_u32(self.bytes, offset).expect(CHECKED) as usize
    }

    fn put_u16(&mut self, offset: usize, value: usize) {
        let value = u16::try_from(value).expect("counts and cell offsets are below 65536");
        codec::put(self.bytes, offset, &value.to_le_bytes());
    }

    fn put_u32(&mut self, offset: usize, value: usize) {
        let value = u32::try_from(value).expect("a page has at most 65536 bytes");
        codec::put(self.bytes, offset, &value.to_le_bytes());
    }

    fn level(&self) -> u8 {
        self.bytes.get(LEVEL).copied().expect(CHECKED)
    }

    fn count(&self) -> usize {
        self.u16_at(CELL_COUNT)
    }

    fn offset_of(&self, index: usize) -> usize {
        self.u16_at(SLOTS + index * SLOT_BYTES)
    }

    fn cell(&self, index: usize) -> cell::Cell<'_> {
        let rest = self.bytes.get(self.offset_of(index)..).expect(CHECKED);
        cell::decode(self.level(), rest).expect(CHECKED)
    }

    /// Puts `cell`, for which there must be room, before the cell `index`, which is at most the count.
    pub(super) fn insert(&mut self, index: usize, cell: &[u8]) {
        let slots_end = SLOTS + self.count() * SLOT_BYTES;
        if self.u32_at(CONTENT_START) - slots_end < cell.len() + SLOT_BYTES {
            self.compact();
        }
        let start = self.u32_at(CONTENT_START) - cell.len();
        codec::put(self.bytes, start, cell);
        let slot = SLOTS + index * SLOT_BYTES;
        self.bytes.copy_within(slot..slots_end, slot + SLOT_BYTES);
        self.put_u16(slot, start);
        self.put_u16(CELL_COUNT, self.count() + 1);
        self.put_u32(CONTENT_START, start);
    }

    /// Takes the cell `index`, which is below the count, out.
    pub(super) fn remove(&mut self, index: usize) {
        let (offset, bytes) = (self.offset_of(index), self.cell(index).bytes.len());
        let count = self.count() - 1;
        let slot = SLOTS + index * SLOT_BYTES;
        let slots_end = SLOTS + (count + 1) * SLOT_BYTES;
        self.bytes.copy_within(slot + SLOT_BYTES..slots_end, slot);
        self.put_u16(SLOTS + count * SLOT_BYTES, 0);
        self.put_u16(CELL_COUNT, count);
        let content_start = self.u32_at(CONTENT_START);
        if count == 0 {
            self.put_u32(CONTENT_START, self.bytes.len());
            self.put_u32(DEAD_BYTES, 0);
        } else if offset == content_start {
            self.put_u32(CONTENT_START, content_start + bytes);
        } else {
            self.put_u32(DEAD_BYTES, self.u32_at(DEAD_BYTES) + bytes);
        }
    }

    /// Takes the child `index` out of an inner node that has another one.
    pub(super) fn unlink_child(&mut self, index: usize) {
        if let Some(cell) = index.checked_sub(1) {
            return self.remove(cell);
        }
        let Content::Child(second) = self.cell(0).content else {
            unreachable!("only inner nodes have children");
        };
        codec::put(self.bytes, FIRST_CHILD, &second.0.to_le_bytes());
        self.remove(0);
    }

    /// Moves the cells together; what becomes free is zeroed, which the log likes.
    fn compact(&mut self) {
        let cells = (0..self.count()).map(|index| self.cell(index).bytes);
        let first_child = PageNo(codec::get_u64(self.bytes, FIRST_CHILD).expect(CHECKED));
        let image = build(self.bytes.len(), self.level(), first_child, cells);
        copy_body(self.bytes, &image);
    }
}

/// The image of a node with `cells`, which must fit; its common header is left zero.
pub(super) fn build<'a>(
    page_bytes: usize,
    level: u8,
    first_child: PageNo,
    cells: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut image = vec![0; page_bytes];
    let mut node = NodeMut { bytes: &mut image };
    codec::put(node.bytes, LEVEL, &[level]);
    codec::put(node.bytes, FIRST_CHILD, &first_child.0.to_le_bytes());
    let (mut count, mut start) = (0, page_bytes);
    for cell in cells {
        start = start
            .checked_sub(cell.len())
            .expect("the caller counted the cells' bytes");
        codec::put(node.bytes, start, cell);
        node.put_u16(SLOTS + count * SLOT_BYTES, start);
        count += 1;
    }
    assert!(
        SLOTS + count * SLOT_BYTES <= start,
        "the caller counted the slots' bytes"
    );
    node.put_u16(CELL_COUNT, count);
    node.put_u32(CONTENT_START, start);
    image
}

/// Makes `page` the node that `image`, made by [`build`] or read from a node of `level`, holds.
///
/// Errors: those of `modify`.
pub(super) fn install(
    dst: &mut dyn PageWrite,
    page: PageNo,
    level: u8,
    image: &[u8],
) -> Result<()> {
    let bytes = dst.modify(page)?;
    format_header(bytes, page, kind_of(level));
    copy_body(bytes, image);
    Ok(())
}

/// Makes `page` an empty leaf.
///
/// Errors: those of `modify`.
pub(super) fn install_empty(dst: &mut dyn PageWrite, page: PageNo) -> Result<()> {
    let image = build(dst.page_size().bytes(), 0, PageNo(0), std::iter::empty());
    install(dst, page, 0, &image)
}

fn copy_body(bytes: &mut [u8], image: &[u8]) {
    let body = image
        .get(PAGE_HEADER_BYTES..)
        .expect("an image is a whole page");
    codec::put(bytes, PAGE_HEADER_BYTES, body);
}
