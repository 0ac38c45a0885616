//! What follows when a node has lost something: empty nodes go, small ones are merged.

use super::cell;
use super::descent::Step;
use super::layout::{SLOT_BYTES, broken, capacity};
use super::node::Node;
use super::node_mut::{NodeMut, build, install, install_empty};
use crate::engine::error::Result;
use crate::engine::page_io::PageWrite;
use crate::page::PageNo;

/// Whether two nodes became one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merge {
    Done,
    /// Nothing changed.
    NotNeeded,
}

/// Frees or merges the leaf at the end of `steps` and what then becomes empty or small above it.
///
/// Errors: `Structure`; those of the pages.
pub(super) fn rebalance(dst: &mut dyn PageWrite, mut steps: Vec<Step>) -> Result<()> {
    let Some(leaf) = steps.last() else {
        return Ok(());
    };
    let mut is_hollow = Node::read_root(dst, leaf.page)?.count() == 0;
    while let Some(step) = steps.pop() {
        let Some(parent) = steps.last().copied() else {
            return settle_root(dst, step.page, is_hollow);
        };
        if is_hollow {
            dst.free(step.page)?;
            is_hollow = unlink(dst, parent)?;
        } else if merge_if_small(dst, parent, step.page)? == Merge::NotNeeded {
            return Ok(());
        }
    }
    Ok(())
}

/// Takes the freed child out of `parent`; returns whether that was its only one.
fn unlink(dst: &mut dyn PageWrite, parent: Step) -> Result<bool> {
    if read_parent(dst, parent)?.count() == 0 {
        return Ok(true);
    }
    NodeMut::open(dst, parent.page)?.unlink_child(parent.index);
    Ok(false)
}

/// Reads an inner node that has the child that the step points at.
fn read_parent(dst: &dyn PageWrite, parent: Step) -> Result<Node> {
    let node = Node::read_root(dst, parent.page)?;
    if node.level() == 0 || parent.index > node.count() {
        return Err(broken("the parent of a node", parent.index).of(parent.page));
    }
    Ok(node)
}

/// Makes a root without children a leaf, and one with a single child that child.
fn settle_root(dst: &mut dyn PageWrite, root: PageNo, is_hollow: bool) -> Result<()> {
    if is_hollow {
        return install_empty(dst, root);
    }
    loop {
        let node = Node::read_root(dst, root)?;
        if node.level() == 0 || node.count() > 0 {
            return Ok(());
        }
        let child = node.read_child(dst, 0)?;
        let (page, level, content) = (child.page(), child.level(), child.image().to_vec());
        drop((node, child));
        install(dst, root, level, &content)?;
        dst.free(page)?;
    }
}

/// Merges the child of `parent` at its index, which is `page`, with a neighbour if both fit into one.
fn merge_if_small(dst: &mut dyn PageWrite, parent: Step, page: PageNo) -> Result<Merge> {
    if !Node::read_root(dst, page)?.is_small() {
        return Ok(Merge::NotNeeded);
    }
    let above = read_parent(dst, parent)?;
    let neighbours = [parent.index.checked_sub(1), Some(parent.index)];
    for left_index in neighbours.into_iter().flatten() {
        if left_index >= above.count() {
            continue;
        }
        let Some((left, right, merged)) = merged(dst, &above, left_index)? else {
            continue;
        };
        let level = above.level() - 1;
        drop(above);
        install(dst, left, level, &merged)?;
        dst.free(right)?;
        NodeMut::open(dst, parent.page)?.remove(left_index);
        return Ok(Merge::Done);
    }
    Ok(Merge::NotNeeded)
}

/// The children `left_index` and the one after it, and their content as one, if it fits into one node.
fn merged(
    dst: &dyn PageWrite,
    above: &Node,
    left_index: usize,
) -> Result<Option<(PageNo, PageNo, Vec<u8>)>> {
    let left = above.read_child(dst, left_index)?;
    let right = above.read_child(dst, left_index + 1)?;
    if left.page() == right.page() {
        return Err(broken("two different children", left_index).of(above.page()));
    }
    let separator = above.key(left_index);
    left.check_fences(None, Some(separator))?;
    right.check_fences(Some(separator), None)?;
    // Between the children of two inner nodes there is a separator too: it comes down.
    let between = (left.level() > 0).then(|| cell::separator(separator, right.first_child()));
    let between_bytes = between.as_ref().map_or(0, |cell| cell.len() + SLOT_BYTES);
    let page_bytes = left.image().len();
    if left.used_bytes() + between_bytes + right.used_bytes() > capacity(page_bytes) {
        return Ok(None);
    }
    let cells = left.cells().chain(between.as_deref()).chain(right.cells());
    let image = build(page_bytes, left.level(), left.first_child(), cells);
    Ok(Some((left.page(), right.page(), image)))
}
