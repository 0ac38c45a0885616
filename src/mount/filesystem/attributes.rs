//! What `stat` and `statfs` say.

use std::time::{Duration, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use super::directory::is_listed;
use crate::view::tree::{Content, Node, NodeId, Tree};

/// The unit of `st_blocks`, and of `statfs`, so that `df` and `du` agree.
pub(super) const BLOCK_BYTES: u64 = 512;
/// `st_blksize` of files: `cp`, `cat` and `cmp` then read as much at a time as one request carries.
pub(super) const FILE_CHUNK_BYTES: u32 = 1 << 20;
/// `st_blksize` of directories.
const DIRECTORY_CHUNK_BYTES: u32 = 4096;

/// The attributes of a node, which never change while mounted (M1).
pub(super) fn file_attr(tree: &Tree, node: &Node) -> FileAttr {
    let changed = UNIX_EPOCH + Duration::from_nanos(node.attributes.changed_ns);
    let (kind, nlink, blksize) = match &node.content {
        Content::Directory(_) => (
            FileType::Directory,
            directory_links(tree, node),
            DIRECTORY_CHUNK_BYTES,
        ),
        Content::Paged(_) | Content::Bytes(_) => (FileType::RegularFile, 1, FILE_CHUNK_BYTES),
    };
    FileAttr {
        ino: INodeNo(node.id.0),
        size: node.size(),
        blocks: node.size().div_ceil(BLOCK_BYTES),
        atime: changed,
        mtime: changed,
        ctime: changed,
        crtime: changed,
        kind,
        perm: node.attributes.mode & 0o7777,
        nlink,
        uid: node.attributes.uid,
        gid: node.attributes.gid,
        rdev: 0,
        blksize,
        flags: 0,
    }
}

/// 2 and one for each listed subdirectory: `find` and others count on it.
fn directory_links(tree: &Tree, node: &Node) -> u32 {
    let Content::Directory(children) = &node.content else {
        return 1;
    };
    let subdirectories = children
        .iter()
        .filter(|(name, _)| is_listed(node.id, name))
        .filter_map(|(_, child)| tree.node(*child))
        .filter(|child| child.is_directory())
        .count();
    u32::try_from(subdirectories).map_or(u32::MAX, |count| count.saturating_add(2))
}

/// Sizes of a whole tree, for `statfs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    /// `st_blocks` of all nodes together, in units of [`BLOCK_BYTES`].
    pub(super) blocks: u64,
    /// Number of nodes.
    pub(super) nodes: u64,
}

impl Totals {
    /// Walks a tree once.
    pub(super) fn of(tree: &Tree) -> Self {
        let mut blocks: u64 = 0;
        let mut left = vec![NodeId::ROOT];
        while let Some(node) = left.pop().and_then(|id| tree.node(id)) {
            blocks = blocks.saturating_add(node.size().div_ceil(BLOCK_BYTES));
            if let Content::Directory(children) = &node.content {
                left.extend(children.values());
            }
        }
        Self {
            blocks,
            nodes: tree.node_count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_file_has_one_link_and_blocks_rounded_up() {
        let tree = fixture::tree();
        let node = tree.lookup(NodeId::ROOT, "tiny".as_ref()).unwrap();
        let attr = file_attr(&tree, node);
        assert_eq!((attr.size, attr.blocks, attr.nlink), (513, 2, 1));
        assert_eq!(attr.perm, 0o640);
        let since = attr.mtime.duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(since.as_nanos(), u128::from(fixture::CHANGED_NS));
        assert_eq!((attr.atime, attr.ctime), (attr.mtime, attr.mtime));
    }

    /// `.stillfs` can be reached and is not listed, so it is not counted either.
    #[test]
    fn a_directory_has_a_link_for_each_listed_subdirectory() {
        let tree = fixture::tree();
        let root = tree.node(NodeId::ROOT).unwrap();
        assert_eq!(file_attr(&tree, root).nlink, 2 + 1);
        let empty = tree.lookup(NodeId::ROOT, "empty".as_ref()).unwrap();
        assert_eq!(file_attr(&tree, empty).nlink, 2);
    }

    #[test]
    fn totals_are_the_sum_of_the_nodes() {
        let totals = Totals::of(&fixture::tree());
        let facts_blocks = (fixture::FACTS.len() as u64).div_ceil(BLOCK_BYTES);
        assert_eq!(totals.blocks, 2 + facts_blocks);
        assert_eq!(totals.nodes, 5);
    }
}
