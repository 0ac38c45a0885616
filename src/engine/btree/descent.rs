//! The way from the root down to a leaf.

use super::node::{Node, Place};
use crate::engine::error::Result;
use crate::engine::page_io::PageRead;
use crate::page::PageNo;

/// A node on the way, and where the way goes on.
#[derive(Debug)]
pub(super) struct Frame {
    /// The node.
    pub(super) node: Node,
    /// The child below; in a leaf the cell.
    pub(super) index: usize,
}

/// The way to where a key is or would be.
#[derive(Debug)]
pub(super) struct Path {
    /// From the root to the leaf; never empty.
    frames: Vec<Frame>,
    has_key: bool,
}

/// A frame that holds no page, for the writers: a held page would have to be copied by `modify`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// The node's page.
    pub(super) page: PageNo,
    /// The child below; in a leaf the cell.
    pub(super) index: usize,
}

/// Where a full node is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SplitPoint {
    /// In halves, by bytes.
    Middle,
    /// After what the node has, if the cell comes after it: keys arrive in ascending order.
    RightEdge,
}

impl Path {
    /// The leaf, with the cell where the key is or would be.
    pub(super) fn leaf(&self) -> &Frame {
        self.frames.last().expect("a path has at least the root")
    }

    /// The leaf, if the key is in it.
    pub(super) fn found(&self) -> Option<&Frame> {
        self.has_key.then(|| self.leaf())
    }

    /// Lets go of the pages.
    pub(super) fn into_steps(self) -> Vec<Step> {
        let step = |frame: Frame| Step {
            page: frame.node.page(),
            index: frame.index,
        };
        self.frames.into_iter().map(step).collect()
    }

    /// How the nodes of this path should be split.
    pub(super) fn split_point(&self) -> SplitPoint {
        let is_last = |frame: &Frame| frame.index == frame.node.count();
        if self.frames.iter().all(is_last) {
            SplitPoint::RightEdge
        } else {
            SplitPoint::Middle
        }
    }
}

/// Goes down from `root` to where `key` is or would be.
///
/// Errors: `Structure`; those of `read`.
pub(super) fn descend<R: PageRead + ?Sized>(src: &R, root: PageNo, key: &[u8]) -> Result<Path> {
    let frames = descend_by(src, root, |node| node.child_index(key))?;
    let mut path = Path {
        frames,
        has_key: false,
    };
    let leaf = path
        .frames
        .last_mut()
        .expect("a path has at least the root");
    (leaf.index, path.has_key) = match leaf.node.search(key) {
        Place::At(index) => (index, true),
        Place::Before(index) => (index, false),
    };
    Ok(path)
}

/// Goes down from `root` by the children that `choose` names; the leaf's index is left 0.
///
/// Errors: `Structure`; those of `read`.
pub(super) fn descend_by<R: PageRead + ?Sized>(
    src: &R,
    root: PageNo,
    choose: impl Fn(&Node) -> usize,
) -> Result<Vec<Frame>> {
    let node = Node::read_root(src, root)?;
    let mut frames = Vec::with_capacity(usize::from(node.level()) + 1);
    frames.push(Frame { node, index: 0 });
    extend(src, &mut frames, choose)?;
    Ok(frames)
}

/// Goes down from the last of `frames`, which is a new one, to a leaf.
///
/// Errors: `Structure`; those of `read`.
pub(super) fn extend<R: PageRead + ?Sized>(
    src: &R,
    frames: &mut Vec<Frame>,
    choose: impl Fn(&Node) -> usize,
) -> Result<()> {
    // Every child's level is one below its parent's, so this ends.
    while let Some(frame) = frames.last_mut()
        && frame.node.level() > 0
    {
        frame.index = choose(&frame.node);
        let node = read_below(src, frames)?;
        frames.push(Frame { node, index: 0 });
    }
    Ok(())
}

/// Reads the child that the last of `frames`, an inner node, points at.
///
/// Errors: `Structure`, also where its keys do not lie between the separators beside it; those of
/// `read`.
pub(super) fn read_below<R: PageRead + ?Sized>(src: &R, frames: &[Frame]) -> Result<Node> {
    let parent = frames.last().expect("there is a parent");
    let child = parent.node.read_child(src, parent.index)?;
    let above = || frames.iter().rev();
    let low = above()
        .find(|frame| frame.index > 0)
        .map(|frame| frame.node.key(frame.index - 1));
    let high = above()
        .find(|frame| frame.index < frame.node.count())
        .map(|frame| frame.node.key(frame.index));
    child.check_fences(low, high)?;
    Ok(child)
}
