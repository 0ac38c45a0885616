//! Taking an entry out of a tree.

use super::cell::Content;
use super::descent;
use super::node_mut::NodeMut;
use super::rebalance::rebalance;
use crate::engine::error::Result;
use crate::engine::page_io::PageWrite;
use crate::page::PageNo;

/// Removes the entry of `key`; returns whether there was one.
///
/// Errors: `Structure`; those of the pages.
pub(crate) fn delete(dst: &mut dyn PageWrite, root: PageNo, key: &[u8]) -> Result<bool> {
    let path = descent::descend(dst, root, key)?;
    let Some(leaf) = path.found() else {
        return Ok(false);
    };
    let (page, index) = (leaf.node.page(), leaf.index);
    if let Content::Chain(start) = leaf.node.content(index) {
        start.free(dst, page)?;
    }
    let steps = path.into_steps();
    NodeMut::open(dst, page)?.remove(index);
    rebalance(dst, steps)?;
    Ok(true)
}
