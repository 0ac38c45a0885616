//! Going through a range of a tree from both ends.

use std::ops::Bound;

use super::cell::Content;
use super::descent::{Frame, descend_by, extend, read_below};
use super::node::{Node, Place};
use crate::engine::error::Result;
use crate::engine::page_io::PageRead;
use crate::page::PageNo;

/// The entries of a range, from the front and from the back, each given once.
///
/// It reads nothing before it is asked, and no long value before [`Entry::value`]; so keys are scanned
/// and entries counted without their chains. After an error it stands where it stood and may be asked
/// again; it never ends early.
#[derive(Debug)]
pub(crate) struct Cursor<R> {
    src: R,
    root: PageNo,
    /// What is left: shrinks to after the last entry given from the front, before the last from the back.
    low: Bound<Vec<u8>>,
    high: Bound<Vec<u8>>,
    /// Ways to the next entry of each end; empty before the first step and after an error.
    front: Vec<Frame>,
    back: Vec<Frame>,
}

/// One entry; its value is read when asked for.
#[derive(Debug)]
pub(crate) struct Entry<'a, R> {
    src: &'a R,
    leaf: &'a Node,
    index: usize,
}

impl<R: PageRead> Entry<'_, R> {
    /// The key.
    pub(crate) fn key(&self) -> &[u8] {
        self.leaf.key(self.index)
    }

    /// Length of the value in bytes; reads no chain.
    #[cfg(test)]
    pub(crate) fn value_bytes(&self) -> u64 {
        match self.leaf.content(self.index) {
            Content::Inline(value) => value.len() as u64,
            Content::Chain(start) => u64::from(start.bytes),
            Content::Child(_) => unreachable!("a leaf's cells are entries"),
        }
    }

    /// The value.
    ///
    /// Errors: `Structure`; those of `read`.
    pub(crate) fn value(&self) -> Result<Vec<u8>> {
        match self.leaf.content(self.index) {
            Content::Inline(value) => Ok(value.to_vec()),
            Content::Chain(start) => start.read(self.src, self.leaf.page()),
            Content::Child(_) => unreachable!("a leaf's cells are entries"),
        }
    }

    /// Key and value.
    ///
    /// Errors: `Structure`; those of `read`.
    pub(crate) fn to_pair(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        Ok((self.key().to_vec(), self.value()?))
    }
}

impl<R: PageRead> Cursor<R> {
    /// A cursor over the entries of `root` from `low` to `high`; no entry where they cross.
    pub(crate) fn new(src: R, root: PageNo, low: Bound<&[u8]>, high: Bound<&[u8]>) -> Self {
        Self {
            src,
            root,
            low: low.map(<[u8]>::to_vec),
            high: high.map(<[u8]>::to_vec),
            front: Vec::new(),
            back: Vec::new(),
        }
    }

    /// The next entry from the front.
    ///
    /// Errors: `Structure`; those of `read`.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'_, R>>> {
        match self.find_front() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                self.front.clear();
                return Err(error);
            }
        }
        let frame = self.front.last_mut().expect("an entry was found in a leaf");
        let index = frame.index;
        frame.index += 1;
        exclude(&mut self.low, frame.node.key(index));
        Ok(Some(Entry {
            src: &self.src,
            leaf: &frame.node,
            index,
        }))
    }

    /// The next entry from the back.
    ///
    /// Errors: `Structure`; those of `read`.
    pub(crate) fn next_back(&mut self) -> Result<Option<Entry<'_, R>>> {
        match self.find_back() {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                self.back.clear();
                return Err(error);
            }
        }
        let frame = self.back.last_mut().expect("an entry was found in a leaf");
        frame.index -= 1;
        exclude(&mut self.high, frame.node.key(frame.index));
        Ok(Some(Entry {
            src: &self.src,
            leaf: &frame.node,
            index: frame.index,
        }))
    }

    /// Brings the front to an entry; returns whether one of the range is left.
    fn find_front(&mut self) -> Result<bool> {
        if self.front.is_empty() {
            self.seek_front()?;
        }
        loop {
            let frame = self.front.last().expect("a way has at least the root");
            if frame.index < frame.node.count() {
                let key = frame.node.key(frame.index);
                return Ok(match &self.high {
                    Bound::Included(high) => key <= high.as_slice(),
                    Bound::Excluded(high) => key < high.as_slice(),
                    Bound::Unbounded => true,
                });
            }
            let can_go_on = |frame: &Frame| frame.index < frame.node.count();
            let Some(turn) = self.front.iter().rposition(can_go_on) else {
                return Ok(false);
            };
            self.front.truncate(turn + 1);
            step_beside(&self.src, &mut self.front, |index| index + 1, |_| 0)?;
        }
    }

    /// Brings the back to behind an entry; returns whether one of the range is left.
    fn find_back(&mut self) -> Result<bool> {
        if self.back.is_empty() {
            self.seek_back()?;
        }
        loop {
            let frame = self.back.last().expect("a way has at least the root");
            if frame.index > 0 {
                let key = frame.node.key(frame.index - 1);
                return Ok(match &self.low {
                    Bound::Included(low) => key >= low.as_slice(),
                    Bound::Excluded(low) => key > low.as_slice(),
                    Bound::Unbounded => true,
                });
            }
            let Some(turn) = self.back.iter().rposition(|frame| frame.index > 0) else {
                return Ok(false);
            };
            self.back.truncate(turn + 1);
            step_beside(&self.src, &mut self.back, |index| index - 1, Node::count)?;
        }
    }

    fn seek_front(&mut self) -> Result<()> {
        let low = &self.low;
        let mut frames = match low {
            Bound::Included(key) | Bound::Excluded(key) => {
                descend_by(&self.src, self.root, |node| node.child_index(key))?
            }
            Bound::Unbounded => descend_by(&self.src, self.root, |_| 0)?,
        };
        let leaf = frames.last_mut().expect("a way has at least the root");
        leaf.index = match low {
            Bound::Included(key) => first_from(&leaf.node, key),
            Bound::Excluded(key) => first_after(&leaf.node, key),
            Bound::Unbounded => 0,
        };
        self.front = frames;
        Ok(())
    }

    fn seek_back(&mut self) -> Result<()> {
        let high = &self.high;
        let mut frames = match high {
            Bound::Included(key) | Bound::Excluded(key) => {
                descend_by(&self.src, self.root, |node| node.child_index(key))?
            }
            Bound::Unbounded => descend_by(&self.src, self.root, Node::count)?,
        };
        let leaf = frames.last_mut().expect("a way has at least the root");
        leaf.index = match high {
            Bound::Included(key) => first_after(&leaf.node, key),
            Bound::Excluded(key) => first_from(&leaf.node, key),
            Bound::Unbounded => leaf.node.count(),
        };
        self.back = frames;
        Ok(())
    }
}

/// Moves the last of `frames`, an inner node, to the child beside, and goes down from there by `choose`.
fn step_beside<R: PageRead>(
    src: &R,
    frames: &mut Vec<Frame>,
    beside: impl Fn(usize) -> usize,
    choose: impl Fn(&Node) -> usize,
) -> Result<()> {
    let frame = frames.last_mut().expect("the turn is a frame");
    frame.index = beside(frame.index);
    let node = read_below(src, frames)?;
    frames.push(Frame { node, index: 0 });
    extend(src, frames, &choose)?;
    let leaf = frames.last_mut().expect("the way has a leaf");
    leaf.index = choose(&leaf.node);
    Ok(())
}

/// The first cell whose key is `key` or after it.
fn first_from(leaf: &Node, key: &[u8]) -> usize {
    match leaf.search(key) {
        Place::At(index) | Place::Before(index) => index,
    }
}

/// The first cell whose key is after `key`.
fn first_after(leaf: &Node, key: &[u8]) -> usize {
    match leaf.search(key) {
        Place::At(index) => index + 1,
        Place::Before(index) => index,
    }
}

/// Makes `bound` end before `key`, in the memory that it has.
fn exclude(bound: &mut Bound<Vec<u8>>, key: &[u8]) {
    let mut buffer = match std::mem::replace(bound, Bound::Unbounded) {
        Bound::Included(buffer) | Bound::Excluded(buffer) => buffer,
        Bound::Unbounded => Vec::new(),
    };
    buffer.clear();
    buffer.extend_from_slice(key);
    *bound = Bound::Excluded(buffer);
}
