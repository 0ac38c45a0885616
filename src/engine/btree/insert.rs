//! Putting an entry into a tree.

use super::cell::{self, Content};
use super::chain::ChainStart;
use super::descent::{self, Path, SplitPoint, Step};
use super::layout::broken;
use super::node::Node;
use super::node_mut::NodeMut;
use super::rebalance::rebalance;
use super::{KEY_BYTES_MAX, VALUE_BYTES_MAX, split};
use crate::engine::error::{EngineError, Result};
use crate::engine::page_io::PageWrite;
use crate::page::PageNo;

/// What an insertion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There was no such key.
    Inserted,
    /// The key has another value.
    Replaced,
}

/// Gives `key` the value `value`.
///
/// A value of the same length is overwritten in place, so that little of the page changes.
/// Errors: `Limit` for a key or a value that is too long; `Exhausted`; `Structure`; those of the pages.
pub(crate) fn insert(
    dst: &mut dyn PageWrite,
    root: PageNo,
    key: &[u8],
    value: &[u8],
) -> Result<Outcome> {
    limit("key length in bytes", key.len(), KEY_BYTES_MAX as u64)?;
    limit("value length in bytes", value.len(), VALUE_BYTES_MAX)?;
    let path = descent::descend(dst, root, key)?;
    if path.found().is_some() {
        replace(dst, path, key, value)?;
        return Ok(Outcome::Replaced);
    }
    let split_point = path.split_point();
    let steps = path.into_steps();
    let cell = new_cell(dst, key, value)?;
    place(dst, steps, split_point, cell)?;
    Ok(Outcome::Inserted)
}

fn limit(what: &'static str, found: usize, limit: u64) -> Result<()> {
    let found = found as u64;
    if found > limit {
        return Err(EngineError::Limit { what, found, limit });
    }
    Ok(())
}

/// The cell of an entry; a long value is written to its pages.
fn new_cell(dst: &mut dyn PageWrite, key: &[u8], value: &[u8]) -> Result<Vec<u8>> {
    if cell::is_inline(dst.page_size().bytes(), key.len(), value.len()) {
        return Ok(cell::inline_entry(key, value));
    }
    let start = ChainStart::write(dst, value)?;
    Ok(cell::chained_entry(key, start))
}

fn replace(dst: &mut dyn PageWrite, path: Path, key: &[u8], value: &[u8]) -> Result<()> {
    let leaf = path.leaf();
    let step = Step {
        page: leaf.node.page(),
        index: leaf.index,
    };
    let old_cell_bytes = leaf.node.cell_bytes(leaf.index);
    match leaf.node.content(leaf.index) {
        Content::Inline(old) if old == value => return Ok(()),
        Content::Inline(old) if old.len() == value.len() => {
            let is_disjoint = leaf.node.is_disjoint();
            let offset = leaf.node.end_of_cell(leaf.index) - value.len();
            drop(path);
            dst.overwrite(step.page, offset, value)?;
            // What was found of the node holds: only bytes of this value are others, and they keep no rule.
            if is_disjoint {
                dst.read(step.page)?.set_disjoint();
            }
            return Ok(());
        }
        // As long as before means in a chain as before.
        Content::Chain(start) if start.bytes as usize == value.len() => {
            drop(path);
            return start.overwrite(dst, step.page, value);
        }
        Content::Chain(start) => start.free(dst, step.page)?,
        Content::Inline(_) | Content::Child(_) => {}
    }
    let split_point = path.split_point();
    let steps = path.into_steps();
    NodeMut::open(dst, step.page)?.remove(step.index);
    let cell = new_cell(dst, key, value)?;
    let is_smaller = cell.len() < old_cell_bytes;
    place(dst, steps.clone(), split_point, cell)?;
    if is_smaller {
        // The cell went where the old one was, so the steps still hold.
        rebalance(dst, steps)?;
    }
    Ok(())
}

/// Puts `cell` where the last of `steps` says, and splits what has no room, upwards.
fn place(
    dst: &mut dyn PageWrite,
    mut steps: Vec<Step>,
    split_point: SplitPoint,
    mut cell: Vec<u8>,
) -> Result<()> {
    while let Some(mut step) = steps.pop() {
        // A damaged free list gives out pages that are in use, so each node is checked once more.
        let node = Node::read_root(dst, step.page)?;
        if step.index > node.count() {
            return Err(broken("as many cells as before", node.count()).of(step.page));
        }
        let has_room = node.has_room(cell.len());
        drop(node);
        if has_room {
            NodeMut::open(dst, step.page)?.insert(step.index, &cell);
            return Ok(());
        }
        if steps.is_empty() {
            let child = split::deepen(dst, step.page)?;
            steps.push(Step {
                page: step.page,
                index: 0,
            });
            step.page = child;
        }
        let (separator, right) = split::split(dst, step, split_point, &cell)?;
        // The way's child keeps its index, and what was split off goes right after it.
        cell = cell::separator(&separator, right);
    }
    unreachable!("the root is deepened rather than split")
}
