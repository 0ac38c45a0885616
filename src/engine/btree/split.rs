//! Splitting a full node, and making room above a full root.

use super::cell::{self, Content};
use super::descent::{SplitPoint, Step};
use super::layout::{LEVEL_MAX, SLOT_BYTES, broken, kind_of};
use super::node::Node;
use super::node_mut::{build, install};
use crate::engine::error::{EngineError, Result};
use crate::engine::page_io::PageWrite;
use crate::page::PageNo;

/// Moves the content of the root into a new child, so that the root keeps its number.
///
/// Returns the child. Errors: `Exhausted` at 32 levels; those of the pages.
pub(super) fn deepen(dst: &mut dyn PageWrite, root: PageNo) -> Result<PageNo> {
    let node = Node::read_root(dst, root)?;
    let (level, content) = (node.level(), node.image().to_vec());
    drop(node);
    if level >= LEVEL_MAX {
        return Err(EngineError::Exhausted { what: "a tree" });
    }
    let child = dst.allocate(kind_of(level))?;
    install(dst, child, level, &content)?;
    let above = build(content.len(), level + 1, child, std::iter::empty());
    install(dst, root, level + 1, &above)?;
    Ok(child)
}

/// Splits the node at `step`, which has no room for `cell`, and puts `cell` where it belongs.
///
/// Returns the separator and the new node after it, which the caller puts into the parent.
/// Errors: `Structure`; those of the pages.
pub(super) fn split(
    dst: &mut dyn PageWrite,
    step: Step,
    split_point: SplitPoint,
    cell: &[u8],
) -> Result<(Vec<u8>, PageNo)> {
    let node = Node::read_root(dst, step.page)?;
    let level = node.level();
    let halves = Halves::of(&node, step.index, split_point, cell)?;
    drop(node);
    let right = dst.allocate(kind_of(level))?;
    install(dst, right, level, &halves.right)?;
    if let Some(left) = halves.left {
        install(dst, step.page, level, &left)?;
    }
    Ok((halves.separator, right))
}

/// What a node is split into.
struct Halves {
    /// The image of the left node; `None` where it stays as it is.
    left: Option<Vec<u8>>,
    separator: Vec<u8>,
    right: Vec<u8>,
}

impl Halves {
    /// Errors: `Structure` where the node is too strange to be split.
    fn of(node: &Node, index: usize, split_point: SplitPoint, cell: &[u8]) -> Result<Self> {
        let level = node.level();
        let mut cells: Vec<_> = node.cells().collect();
        cells.insert(index, cell);
        // An inner node's cell at the cut moves up, and the nodes beside it need one cell each.
        let last_cut = cells.len().saturating_sub(1 + usize::from(level > 0));
        let appends = split_point == SplitPoint::RightEdge && index == node.count();
        let cut = if appends {
            last_cut
        } else {
            middle(&cells, last_cut)
        };
        let few = || broken("a node with cells to split", node.count()).of(node.page());
        let (left, right) = cells.split_at_checked(cut).ok_or_else(few)?;
        let (Some(before), Some((after, rest))) = (left.last(), right.split_first()) else {
            return Err(few());
        };
        let key = |cell| cell::decode(level, cell).map_err(|rule| rule.of(node.page()));
        let after = key(after)?;
        let (separator, first_child, right) = match after.content {
            Content::Child(child) => (after.key.to_vec(), child, rest),
            Content::Inline(_) | Content::Chain(_) => (
                shortest_between(key(before)?.key, after.key),
                PageNo(0),
                right,
            ),
        };
        let build =
            |child, cells: &[&[u8]]| build(node.image().len(), level, child, cells.iter().copied());
        let stays = level == 0 && appends;
        Ok(Self {
            left: (!stays).then(|| build(node.first_child(), left)),
            separator,
            right: build(first_child, right),
        })
    }
}

/// The cut in 1 ..= `last_cut` that makes both sides most equal in bytes.
fn middle(cells: &[&[u8]], last_cut: usize) -> usize {
    let bytes_of = |cell: &&[u8]| cell.len() + SLOT_BYTES;
    let total: usize = cells.iter().map(bytes_of).sum();
    let mut left = 0;
    let mut best = (usize::MAX, 0);
    for (cell, cut) in cells.iter().zip(1..=last_cut) {
        left += bytes_of(cell);
        best = best.min((left.abs_diff(total - left), cut));
    }
    best.1
}

/// The shortest key that is above `left` and not above `right`; `left` is below `right`.
fn shortest_between(left: &[u8], right: &[u8]) -> Vec<u8> {
    let equal = left.iter().zip(right).take_while(|(l, r)| l == r).count();
    right.iter().take(equal + 1).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separator_is_above_the_left_key_and_as_short_as_can_be() {
        for (left, right, separator) in [
            ("a", "b", "b"),
            ("", "b", "b"),
            ("abc", "abd", "abd"),
            ("abc", "abcdef", "abcd"),
            ("apple", "banana", "b"),
            ("aaz", "abcde", "ab"),
        ] {
            let found = shortest_between(left.as_bytes(), right.as_bytes());
            assert_eq!(found, separator.as_bytes());
        }
    }

    #[test]
    fn middle_halves_the_bytes_and_not_the_cells() {
        let (long, short) = ([0_u8; 900], [0_u8; 10]);
        let cells: [&[u8]; 5] = [&long, &short, &short, &short, &short];
        assert_eq!(middle(&cells, 4), 1);
        let cells: [&[u8]; 4] = [&short, &short, &short, &short];
        assert_eq!(middle(&cells, 3), 2);
    }
}
