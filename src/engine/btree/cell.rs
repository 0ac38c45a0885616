//! The cells of nodes: entries of leaves, separators of inner nodes.

#![deny(clippy::indexing_slicing)]

use super::KEY_BYTES_MAX;
use super::chain::ChainStart;
use super::layout::{Broken, broken, inline_cell_max};
use crate::codec;
use crate::page::PageNo;

const LEAF_HEADER_BYTES: usize = 8;
const INNER_HEADER_BYTES: usize = 10;
const CHAIN_LINK_BYTES: usize = 8;
const VALUE_INLINE: u8 = 0;
const VALUE_IN_CHAIN: u8 = 1;

/// What a cell holds beside its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// An entry's value.
    Inline(&'a [u8]),
    /// Where an entry's value is.
    Chain(ChainStart),
    /// The child with the keys from this one on.
    Child(PageNo),
}

/// A decoded cell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell<'a> {
    /// All of its bytes.
    pub(super) bytes: &'a [u8],
    /// Its key.
    pub(super) key: &'a [u8],
    /// The rest.
    pub(super) content: Content<'a>,
}

/// Decodes the cell of a node of `level` that begins where `rest` begins.
///
/// Shape: `rest` reaches to the end of the page, or is just the cell.
/// Errors: the rule that is broken; a cell that reaches past `rest` too.
#[inline]
pub(super) fn decode(level: u8, rest: &[u8]) -> Result<Cell<'_>, Broken> {
    match level {
        0 => decode_entry(rest),
        _ => decode_separator(rest),
    }
}

#[inline]
fn decode_separator(rest: &[u8]) -> Result<Cell<'_>, Broken> {
    let outside = broken("a cell inside its page", rest.len());
    let child = codec::get_u64(rest, 0).ok_or(outside)?;
    let key_bytes = usize::from(codec::get_u16(rest, 8).ok_or(outside)?);
    check_key_bytes(key_bytes)?;
    let end = INNER_HEADER_BYTES + key_bytes;
    Ok(Cell {
        bytes: rest.get(..end).ok_or(outside)?,
        key: rest.get(INNER_HEADER_BYTES..end).ok_or(outside)?,
        content: Content::Child(PageNo(child)),
    })
}

#[inline]
fn decode_entry(rest: &[u8]) -> Result<Cell<'_>, Broken> {
    let outside = broken("a cell inside its page", rest.len());
    let key_bytes = usize::from(codec::get_u16(rest, 0).ok_or(outside)?);
    let [place, reserved] = codec::get_array(rest, 2).ok_or(outside)?;
    let value_bytes = codec::get_u32(rest, 4).ok_or(outside)?;
    check_key_bytes(key_bytes)?;
    if reserved != 0 {
        return Err(broken("a reserved byte of 0", usize::from(reserved)));
    }
    let key_end = LEAF_HEADER_BYTES + key_bytes;
    let key = rest.get(LEAF_HEADER_BYTES..key_end).ok_or(outside)?;
    let (end, content) = match place {
        VALUE_INLINE => {
            let end = key_end + value_bytes as usize;
            (end, Content::Inline(rest.get(key_end..end).ok_or(outside)?))
        }
        VALUE_IN_CHAIN => {
            let first = PageNo(codec::get_u64(rest, key_end).ok_or(outside)?);
            let start = ChainStart {
                first,
                bytes: value_bytes,
            };
            (key_end + CHAIN_LINK_BYTES, Content::Chain(start))
        }
        _ => return Err(broken("a value inline or in a chain", usize::from(place))),
    };
    Ok(Cell {
        bytes: rest.get(..end).ok_or(outside)?,
        key,
        content,
    })
}

fn check_key_bytes(key_bytes: usize) -> Result<(), Broken> {
    if key_bytes > KEY_BYTES_MAX {
        return Err(broken("a key of at most 1024 bytes", key_bytes));
    }
    Ok(())
}

/// Whether an entry's value belongs into its cell rather than into a chain.
pub(super) fn is_inline(page_bytes: usize, key_bytes: usize, value_bytes: usize) -> bool {
    value_bytes <= CHAIN_LINK_BYTES
        || LEAF_HEADER_BYTES
            .saturating_add(key_bytes)
            .saturating_add(value_bytes)
            <= inline_cell_max(page_bytes)
}

/// The cell of an entry with its value in it.
pub(super) fn inline_entry(key: &[u8], value: &[u8]) -> Vec<u8> {
    let value_bytes = u32::try_from(value.len()).expect("an inline value is shorter than a page");
    let mut cell = entry(key, VALUE_INLINE, value_bytes, value.len());
    cell.extend_from_slice(value);
    cell
}

/// The cell of an entry with its value in a chain.
pub(super) fn chained_entry(key: &[u8], start: ChainStart) -> Vec<u8> {
    let mut cell = entry(key, VALUE_IN_CHAIN, start.bytes, CHAIN_LINK_BYTES);
    cell.extend_from_slice(&start.first.0.to_le_bytes());
    cell
}

fn entry(key: &[u8], place: u8, value_bytes: u32, rest_bytes: usize) -> Vec<u8> {
    let mut cell = Vec::with_capacity(LEAF_HEADER_BYTES + key.len() + rest_bytes);
    cell.extend_from_slice(&key_bytes(key).to_le_bytes());
    cell.extend_from_slice(&[place, 0]);
    cell.extend_from_slice(&value_bytes.to_le_bytes());
    cell.extend_from_slice(key);
    cell
}

/// The cell of a separator and the child after it.
pub(super) fn separator(key: &[u8], child: PageNo) -> Vec<u8> {
    let mut cell = Vec::with_capacity(INNER_HEADER_BYTES + key.len());
    cell.extend_from_slice(&child.0.to_le_bytes());
    cell.extend_from_slice(&key_bytes(key).to_le_bytes());
    cell.extend_from_slice(key);
    cell
}

fn key_bytes(key: &[u8]) -> u16 {
    u16::try_from(key.len()).expect("keys are limited to 1024 bytes before they get here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_decode_to_what_was_encoded_and_every_truncation_is_an_error() {
        let start = ChainStart {
            first: PageNo(9),
            bytes: 5000,
        };
        let cells = [
            (0, inline_entry(b"key", b"value"), Content::Inline(b"value")),
            (0, chained_entry(b"key", start), Content::Chain(start)),
            (1, separator(b"key", PageNo(7)), Content::Child(PageNo(7))),
        ];
        for (level, bytes, content) in cells {
            let mut rest = bytes.clone();
            rest.extend_from_slice(b"what follows in the page");
            let cell = decode(level, &rest).unwrap();
            assert_eq!(
                (cell.bytes, cell.key),
                (bytes.as_slice(), b"key".as_slice())
            );
            assert_eq!(cell.content, content);
            for end in 0..bytes.len() {
                assert!(
                    decode(level, bytes.get(..end).unwrap()).is_err(),
                    "{end} bytes"
                );
            }
        }
    }

    #[test]
    fn too_long_keys_and_unknown_places_are_errors() {
        let mut cell = inline_entry(&[1; 1024], b"");
        assert!(decode(0, &cell).is_ok());
        codec::put(&mut cell, 0, &1025_u16.to_le_bytes());
        cell.resize(2000, 0);
        assert!(decode(0, &cell).is_err());
        let mut cell = inline_entry(b"key", b"value of more than eight bytes");
        codec::put(&mut cell, 2, &[2]);
        assert!(decode(0, &cell).is_err());
    }
}
