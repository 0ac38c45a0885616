//! Emptying and dropping whole trees.

use super::cell::Content;
use super::descent::{Frame, read_below};
use super::node::Node;
use super::node_mut::install_empty;
use crate::engine::error::Result;
use crate::engine::page_io::PageWrite;
use crate::page::PageNo;

/// Removes every entry and frees every page but the root; returns how many entries there were.
///
/// Errors: `Structure`; those of the pages.
pub(crate) fn clear(dst: &mut dyn PageWrite, root: PageNo) -> Result<u64> {
    let removed = free_below(dst, root)?;
    install_empty(dst, root)?;
    Ok(removed)
}

/// Frees every page of a tree, the root too; returns how many entries there were.
///
/// Errors: `Structure`; those of the pages.
pub(crate) fn drop_tree(dst: &mut dyn PageWrite, root: PageNo) -> Result<u64> {
    let removed = free_below(dst, root)?;
    dst.free(root)?;
    Ok(removed)
}

/// Frees all pages below the root, children first.
fn free_below(dst: &mut dyn PageWrite, root: PageNo) -> Result<u64> {
    let mut removed = 0;
    let node = Node::read_root(dst, root)?;
    let mut frames = vec![Frame { node, index: 0 }];
    while let Some(frame) = frames.last() {
        let node = &frame.node;
        if node.level() > 0 && frame.index <= node.count() {
            let node = read_below(dst, &frames)?;
            frames.push(Frame { node, index: 0 });
            continue;
        }
        if node.level() == 0 {
            free_chains(dst, node)?;
            removed += node.count() as u64;
        }
        let page = node.page();
        frames.pop();
        if let Some(parent) = frames.last_mut() {
            parent.index += 1;
            dst.free(page)?;
        }
    }
    Ok(removed)
}

fn free_chains(dst: &mut dyn PageWrite, leaf: &Node) -> Result<()> {
    for index in 0..leaf.count() {
        if let Content::Chain(start) = leaf.content(index) {
            start.free(dst, leaf.page())?;
        }
    }
    Ok(())
}
