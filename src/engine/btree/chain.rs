//! Long values: chains of overflow pages.

#![deny(clippy::indexing_slicing)]

use super::layout::{Broken, broken};
use crate::codec;
use crate::engine::error::Result;
use crate::engine::page_io::{PageRead, PageWrite, follow};
use crate::page::{PAGE_HEADER_BYTES, PageKind, PageNo, PageRef};

const NEXT: usize = PAGE_HEADER_BYTES;
const PIECE_BYTES: usize = PAGE_HEADER_BYTES + 8;
const POSITION: usize = PAGE_HEADER_BYTES + 12;
const DATA: usize = PAGE_HEADER_BYTES + 16;

/// Where a long value begins and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainStart {
    /// Its first page.
    pub(crate) first: PageNo,
    /// Its bytes.
    pub(crate) bytes: u32,
}

/// One page of a chain.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Its page.
    pub(crate) page: PageNo,
    image: PageRef,
    bytes: usize,
}

impl Piece {
    /// Its part of the value.
    fn data(&self) -> &[u8] {
        let data = self.image.get(DATA..DATA + self.bytes);
        data.expect("the length was checked against the page when it was read")
    }
}

/// A walk along a chain; it takes exactly the pages that the value's length asks for.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The page that names `next`.
    from: PageNo,
    next: PageNo,
    position: u32,
    left: usize,
}

impl Chain {
    /// The chain `start` of an entry in the leaf `leaf`.
    ///
    /// Errors: `Structure` where the file has too few pages for the length.
    pub(crate) fn open<R: PageRead + ?Sized>(
        src: &R,
        leaf: PageNo,
        start: ChainStart,
    ) -> Result<Self> {
        let left = start.bytes as usize;
        let pages = left.div_ceil(data_max(src)) as u64;
        if pages > src.page_count() {
            return Err(broken("a value that is shorter than the file", left).of(leaf));
        }
        Ok(Self {
            from: leaf,
            next: start.first,
            position: 0,
            left,
        })
    }

    /// The next page, or `None` after the last one.
    ///
    /// Errors: `Structure`; those of `read`.
    pub(crate) fn advance<R: PageRead + ?Sized>(&mut self, src: &R) -> Result<Option<Piece>> {
        if self.left == 0 {
            return Ok(None);
        }
        let page = self.next;
        let image = follow(src, self.from, page)?;
        let bytes = self.left.min(data_max(src));
        let next = self.check(&image, bytes).map_err(|rule| rule.of(page))?;
        self.left -= bytes;
        self.position += 1;
        (self.from, self.next) = (page, next);
        Ok(Some(Piece { page, image, bytes }))
    }

    /// The page that the next step reads; 0 after the last.
    pub(crate) fn next_page(&self) -> PageNo {
        self.next
    }

    /// Checks the page at our position, which must have `bytes` of the value; returns its link.
    fn check(&self, image: &PageRef, bytes: usize) -> Result<PageNo, Broken> {
        if image.kind() != Some(PageKind::Overflow) {
            let kind = image.kind().map_or(0, |kind| kind as usize);
            return Err(broken("an overflow page", kind));
        }
        let short = broken("a page of at least 4096 bytes", image.len());
        let next = codec::get_u64(image, NEXT).ok_or(short)?;
        let found = codec::get_u32(image, PIECE_BYTES).ok_or(short)? as usize;
        let position = codec::get_u32(image, POSITION).ok_or(short)?;
        if position != self.position {
            let found = u64::from(position);
            let expected = "the page's own position in its chain";
            return Err(Broken { expected, found });
        }
        if found != bytes || DATA + bytes > image.len() {
            return Err(broken("as much of the value as its length leaves", found));
        }
        if (next == 0) != (bytes == self.left) {
            let expected = "a chain as long as its value";
            return Err(Broken {
                expected,
                found: next,
            });
        }
        Ok(PageNo(next))
    }
}

impl ChainStart {
    /// Writes `value`, which is not empty, into new pages.
    ///
    /// Errors: those of `allocate` and `modify`.
    pub(super) fn write(dst: &mut dyn PageWrite, value: &[u8]) -> Result<Self> {
        let bytes = u32::try_from(value.len()).expect("the caller checked the value's length");
        let first = dst.allocate(PageKind::Overflow)?;
        let mut page = first;
        let mut pieces = value.chunks(data_max(dst)).zip(0_u32..).peekable();
        while let Some((piece, position)) = pieces.next() {
            let next = match pieces.peek() {
                Some(_) => dst.allocate(PageKind::Overflow)?,
                None => PageNo(0),
            };
            let piece_bytes = u32::try_from(piece.len()).expect("a piece is shorter than a page");
            let image = dst.modify(page)?;
            codec::put(image, NEXT, &next.0.to_le_bytes());
            codec::put(image, PIECE_BYTES, &piece_bytes.to_le_bytes());
            codec::put(image, POSITION, &position.to_le_bytes());
            codec::put(image, DATA, piece);
            page = next;
        }
        Ok(Self { first, bytes })
    }

    /// Overwrites the value with one of the same length; pages that stay equal are not touched.
    ///
    /// Errors: `Structure`; those of `read` and `modify`.
    pub(super) fn overwrite(
        self,
        dst: &mut dyn PageWrite,
        leaf: PageNo,
        value: &[u8],
    ) -> Result<()> {
        let mut chain = Chain::open(dst, leaf, self)?;
        let mut rest = value;
        while let Some(piece) = chain.advance(dst)? {
            let (part, after) = rest.split_at_checked(piece.bytes).unwrap_or((rest, &[]));
            rest = after;
            let page = piece.page;
            let changed = piece.data() != part;
            drop(piece);
            if changed {
                codec::put(dst.modify(page)?, DATA, part);
            }
        }
        Ok(())
    }

    /// Reads the value of an entry in the leaf `leaf`.
    ///
    /// Errors: `Structure`; those of `read`.
    pub(super) fn read<R: PageRead + ?Sized>(self, src: &R, leaf: PageNo) -> Result<Vec<u8>> {
        let mut chain = Chain::open(src, leaf, self)?;
        let mut value = Vec::with_capacity(self.bytes as usize);
        while let Some(piece) = chain.advance(src)? {
            value.extend_from_slice(piece.data());
        }
        Ok(value)
    }

    /// Frees the pages.
    ///
    /// Errors: `Structure`; those of `read` and `free`.
    pub(super) fn free(self, dst: &mut dyn PageWrite, leaf: PageNo) -> Result<()> {
        let mut chain = Chain::open(dst, leaf, self)?;
        while let Some(Piece { page, .. }) = chain.advance(dst)? {
            dst.free(page)?;
        }
        Ok(())
    }
}

/// Most bytes of a value in one page.
fn data_max<R: PageRead + ?Sized>(src: &R) -> usize {
    src.page_size().bytes() - DATA
}
