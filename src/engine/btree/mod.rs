//! Ordered maps from keys to values in pages: the B+tree under every table and under the catalog.
//!
//! It runs in the engine process, in the writing transaction and in every reader.
//!
//! A tree is known by its root page. Keys have 0 to 1024 bytes and are ordered as bytes; values have
//! 0 to 4 GiB - 1 bytes. An entry whose cell exceeds a quarter of a node keeps its value in a chain
//! of overflow pages.
//!
//! ```text
//!                    root (inner, level 2)
//!                   /          |         \
//!             level 1       level 1     level 1
//!            /   |   \       ...          ...
//!        leaf  leaf  leaf --> overflow page --> overflow page
//! ```
//!
//! A node, kind `Leaf` (level 0) or `Inner` (level 1 to 31), after the common header of 32 bytes:
//!
//! ```text
//! offset size
//!     32    2  number of cells n
//!     34    1  level; 0 is a leaf
//!     35    1  reserved, 0
//!     36    4  content start: offset in the page of the lowest cell; page size where there is none
//!     40    4  dead bytes: bytes at or after content start that belong to no cell
//!     44    4  reserved, 0
//!     48    8  inner: the child with the keys before the first cell's; leaf: 0
//!     56   2n  slots: offset in the page of each cell, in the order of the keys
//!              gap
//!              cells, up to the end of the page
//! ```
//!
//! A leaf's cell is one entry. The value is in the cell where the cell then has at most
//! `(page size - 56) / 4 - 2` bytes, or where the value has at most 8 bytes; else it is in a chain.
//!
//! ```text
//! offset size
//!      0    2  key bytes k, at most 1024
//!      2    1  0: the value follows; 1: the value is in a chain
//!      3    1  reserved, 0
//!      4    4  value bytes v
//!      8    k  key
//!    8+k    v  value, or
//!    8+k    8  the chain's first page
//! ```
//!
//! An inner node's cell is a separator and the child with the keys from it (inclusive) up to the next:
//!
//! ```text
//! offset size
//!      0    8  child
//!      8    2  key bytes k, at most 1024
//!     10    k  separator
//! ```
//!
//! A page of a chain, kind `Overflow`; every page but the last of a chain is full:
//!
//! ```text
//! offset size
//!     32    8  next page of the chain; 0 in the last
//!     40    4  value bytes in this page, at least 1
//!     44    4  position of this page in its chain, 0-based
//!     48       value bytes; zeros up to the end of the page
//! ```
//!
//! * B1 The root's page number never changes: a full root moves its content into a child, and a root
//!   with one child takes that child's content.
//! * B2 A node's keys ascend strictly and lie between the separators beside it. A child's level is
//!   one less than its parent's; so links cannot make a circle, and a tree has at most 32 levels.
//! * B3 No leaf but the root is empty, and every inner node has a child.
//! * B4 A node is checked whole (kind, level, offsets, lengths, order) before anything in it is used,
//!   and against its parents when it is reached by a link; what breaks a rule is `Structure`. Its cells
//!   are checked once for each image in memory: a change of the bytes forgets that they were, unless it is
//!   one of a value alone and no two cells of the node share bytes.
//! * B5 After an error a writing operation may have done a part of its work: the transaction must be
//!   rolled back.
//!
//! Nothing here locks or waits, except for the pages' own reading. It knows neither transactions nor
//! tables; it counts no entries.

mod cell;
mod chain;
mod clear;
mod cursor;
mod delete;
mod descent;
mod insert;
mod layout;
mod node;
mod node_mut;
mod rebalance;
mod split;

#[cfg(test)]
mod hostile_test;
#[cfg(test)]
pub(crate) mod memory_pages;
#[cfg(test)]
mod model_test;

pub(crate) use cell::Content;
pub(crate) use chain::{Chain, ChainStart};
pub(crate) use clear::{clear, drop_tree};
pub(crate) use cursor::Cursor;
pub(crate) use delete::delete;
pub(crate) use insert::{Outcome, insert};
pub(crate) use node::Node;

use crate::engine::error::{EngineError, Result};
use crate::engine::page_io::{PageRead, PageWrite};
use crate::page::{PageKind, PageNo};

/// Longest key in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 1024;
/// Longest value in bytes.
pub(crate) const VALUE_BYTES_MAX: u64 = u32::MAX as u64;

/// Makes an empty tree and returns its root, which stays its root for ever.
///
/// Errors: those of `allocate` and `modify`.
pub(crate) fn create(dst: &mut dyn PageWrite) -> Result<PageNo> {
    let root = dst.allocate(PageKind::Leaf)?;
    node_mut::install_empty(dst, root)?;
    Ok(root)
}

/// The value of `key`.
///
/// Errors: `Structure`; those of `read`.
pub(crate) fn get<R: PageRead + ?Sized>(
    src: &R,
    root: PageNo,
    key: &[u8],
) -> Result<Option<Vec<u8>>> {
    get_admitted(src, root, key, |_| Ok(()))
}

/// The value of `key`, of which `admit` first hears how many bytes it has.
///
/// Errors: those of `admit`, and nothing is read then; `Structure`; those of `read`.
pub(crate) fn get_admitted<R: PageRead + ?Sized, E: From<EngineError>>(
    src: &R,
    root: PageNo,
    key: &[u8],
    admit: impl FnOnce(u64) -> Result<(), E>,
) -> Result<Option<Vec<u8>>, E> {
    let path = descent::descend(src, root, key)?;
    let Some(leaf) = path.found() else {
        return Ok(None);
    };
    admit(bytes_of(leaf))?;
    match leaf.node.content(leaf.index) {
        Content::Inline(value) => Ok(Some(value.to_vec())),
        Content::Chain(start) => Ok(Some(start.read(src, leaf.node.page())?)),
        Content::Child(_) => unreachable!("a leaf's cells are entries"),
    }
}

/// How long the value of `key` is; reads no chain.
///
/// Errors: `Structure`; those of `read`.
pub(crate) fn value_bytes<R: PageRead + ?Sized>(
    src: &R,
    root: PageNo,
    key: &[u8],
) -> Result<Option<u64>> {
    let path = descent::descend(src, root, key)?;
    Ok(path.found().map(bytes_of))
}

/// How long the value is that `leaf` points at.
fn bytes_of(leaf: &descent::Frame) -> u64 {
    match leaf.node.content(leaf.index) {
        Content::Inline(value) => value.len() as u64,
        Content::Chain(start) => u64::from(start.bytes),
        Content::Child(_) => unreachable!("a leaf's cells are entries"),
    }
}

/// Whether there is an entry for `key`; reads no chain.
///
/// Errors: `Structure`; those of `read`.
pub(crate) fn contains<R: PageRead + ?Sized>(src: &R, root: PageNo, key: &[u8]) -> Result<bool> {
    Ok(descent::descend(src, root, key)?.found().is_some())
}
