//! What `stat` and `statfs` say.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use super::directory::{is_listed, kind_of};
use crate::os::path::{self, Metadata};
use crate::view::tree::{Content, HeldFile, Node, NodeId, Tree};

/// The unit of `st_blocks`, and of `statfs`, so that `df` and `du` agree.
pub(super) const BLOCK_BYTES: u64 = 512;
/// `st_blksize` of files: `cp`, `cat` and `cmp` then read as much at a time as one request carries.
pub(super) const FILE_CHUNK_BYTES: u32 = 1 << 20;
/// `st_blksize` of everything else.
const OTHER_CHUNK_BYTES: u32 = 4096;

/// What is counted once, when a tree is mounted, because counting takes as long as the tree is large.
#[derive(Debug)]
pub(super) struct Figures {
    /// `st_blocks` of all nodes together, in units of [`BLOCK_BYTES`]; live files as they were listed.
    pub(super) blocks: u64,
    /// Number of nodes.
    pub(super) nodes: u64,
    /// Whether any node is a live file.
    pub(super) has_live: bool,
    /// Whether any node is a file of our own.
    pub(super) has_held: bool,
    /// `st_nlink` of each directory.
    directory_links: BTreeMap<NodeId, u32>,
    /// `st_blocks` of the files of our own, fixed here since the file system below may allocate late.
    held_blocks: BTreeMap<NodeId, u64>,
}

impl Figures {
    /// Walks a tree once.
    pub(super) fn of(tree: &Tree) -> Self {
        let mut figures = Self {
            blocks: 0,
            nodes: tree.node_count(),
            has_live: false,
            has_held: false,
            directory_links: BTreeMap::new(),
            held_blocks: BTreeMap::new(),
        };
        for node in tree.nodes() {
            match &node.content {
                Content::Directory(children) => {
                    let links = directory_links(tree, node.id, children);
                    figures.directory_links.insert(node.id, links);
                }
                Content::Held(held) => {
                    figures.has_held = true;
                    figures.held_blocks.insert(node.id, held_blocks(held));
                }
                Content::Live(_) => figures.has_live = true,
                Content::Paged(_) | Content::Bytes(_) | Content::Link(_) | Content::Special(_) => {}
            }
            figures.blocks = figures.blocks.saturating_add(figures.blocks_of(node));
        }
        figures
    }

    /// `st_blocks` of a node; of a live file, when it was listed.
    fn blocks_of(&self, node: &Node) -> u64 {
        match &node.content {
            Content::Paged(_) | Content::Bytes(_) => node.size().div_ceil(BLOCK_BYTES),
            Content::Held(_) => self.held_blocks.get(&node.id).copied().unwrap_or(0),
            Content::Live(file) => file.listed().map_or(0, |listed| listed.blocks),
            Content::Directory(_) | Content::Link(_) | Content::Special(_) => 0,
        }
    }
}

/// 2 and one for each listed subdirectory: `find` and others count on it.
fn directory_links(
    tree: &Tree,
    parent: NodeId,
    children: &BTreeMap<std::ffi::OsString, NodeId>,
) -> u32 {
    let subdirectories = children
        .iter()
        .filter(|(name, _)| is_listed(parent, name))
        .filter_map(|(_, child)| tree.node(*child))
        .filter(|child| child.is_directory())
        .count();
    u32::try_from(subdirectories).map_or(u32::MAX, |count| count.saturating_add(2))
}

/// What a file of our own takes on the disk: less than its size where it has holes.
fn held_blocks(held: &HeldFile) -> u64 {
    let metadata = held.file.as_fd().map(path::metadata_of);
    match metadata {
        Some(Ok(metadata)) => metadata.blocks,
        _ => held.bytes.div_ceil(BLOCK_BYTES),
    }
}

/// The attributes of a node, which never change while mounted (M1). Of a live file, those that it was
/// listed with.
pub(super) fn file_attr(tree: &Tree, figures: &Figures, node: &Node) -> FileAttr {
    if let Content::Live(file) = &node.content
        && let Some(listed) = file.listed()
    {
        return live_attr(tree, node, &listed);
    }
    let times = tree.times(node);
    let kind = kind_of(&node.content);
    let rdev = match &node.content {
        // The kernel takes what fits 12 bits of major and 20 bits of minor number, as it does itself.
        Content::Special(special) => u32::try_from(special.device & 0xffff_ffff).unwrap_or(0),
        _ => 0,
    };
    FileAttr {
        ino: INodeNo(node.id.0),
        size: node.size(),
        blocks: figures.blocks_of(node),
        atime: system_time(times.mtime_ns),
        mtime: system_time(times.mtime_ns),
        ctime: system_time(times.ctime_ns),
        crtime: system_time(times.mtime_ns),
        kind,
        perm: node.attributes.mode & 0o7777,
        nlink: match figures.directory_links.get(&node.id) {
            Some(links) => *links,
            None => tree.name_count(node.id),
        },
        uid: node.attributes.uid,
        gid: node.attributes.gid,
        rdev,
        blksize: match kind {
            FileType::RegularFile => FILE_CHUNK_BYTES,
            _ => OTHER_CHUNK_BYTES,
        },
        flags: 0,
    }
}

/// The attributes of a live file, of which `metadata` was said (M8). Number and links are the tree's.
pub(super) fn live_attr(tree: &Tree, node: &Node, metadata: &Metadata) -> FileAttr {
    let (mtime, ctime) = (
        system_time(metadata.mtime_ns),
        system_time(metadata.ctime_ns),
    );
    FileAttr {
        ino: INodeNo(node.id.0),
        size: metadata.size,
        blocks: metadata.blocks,
        atime: mtime,
        mtime,
        ctime,
        crtime: mtime,
        kind: FileType::RegularFile,
        perm: u16::try_from(metadata.mode & 0o7777).unwrap_or(0),
        nlink: tree.name_count(node.id),
        uid: metadata.uid,
        gid: metadata.gid,
        rdev: 0,
        blksize: FILE_CHUNK_BYTES,
        flags: 0,
    }
}

/// A time that may lie before 1970.
fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 {
        UNIX_EPOCH - distance
    } else {
        UNIX_EPOCH + distance
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::os::path::FileType as Kind;
    use crate::view::tree::{Special, Times};

    fn attr(tree: &Tree, name: &str) -> FileAttr {
        let node = tree.lookup(NodeId::ROOT, name.as_ref()).unwrap();
        file_attr(tree, &Figures::of(tree), node)
    }

    #[test]
    fn a_file_has_one_link_and_blocks_rounded_up() {
        let attr = attr(&fixture::tree(), "tiny");
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
        assert_eq!(file_attr(&tree, &Figures::of(&tree), root).nlink, 2 + 1);
        assert_eq!(attr(&tree, "empty").nlink, 2);
    }

    #[test]
    fn figures_are_the_sum_of_the_nodes_whatever_their_names() {
        let mut tree = fixture::tree();
        let tiny = tree.lookup(NodeId::ROOT, "tiny".as_ref()).unwrap().id;
        tree.link(NodeId::ROOT, "again".as_ref(), tiny);
        let figures = Figures::of(&tree);
        let facts_blocks = (fixture::FACTS.len() as u64).div_ceil(BLOCK_BYTES);
        assert_eq!(figures.blocks, 2 + facts_blocks);
        assert_eq!(figures.nodes, 5);
        assert_eq!(attr(&tree, "again").nlink, 2);
        assert_eq!(attr(&tree, "again"), attr(&tree, "tiny"));
    }

    #[test]
    fn links_and_devices_say_what_they_are() {
        let mut tree = fixture::tree();
        let link = Content::Link("../else/where".into());
        fixture::put_content(&mut tree, "link", 20, link);
        let kinds = [
            (Kind::Fifo, FileType::NamedPipe, 0),
            (Kind::Socket, FileType::Socket, 0),
            (Kind::CharacterDevice, FileType::CharDevice, 0x0103),
            (Kind::BlockDevice, FileType::BlockDevice, 0xfff0_0801),
        ];
        for (number, (kind, _, device)) in (30..).zip(kinds) {
            let special = Content::Special(Special { kind, device });
            fixture::put_content(&mut tree, &format!("{kind:?}"), number, special);
        }
        let link = attr(&tree, "link");
        assert_eq!((link.kind, link.size), (FileType::Symlink, 13));
        assert_eq!((link.blocks, link.nlink), (0, 1));
        for (kind, shown, device) in kinds {
            let attr = attr(&tree, &format!("{kind:?}"));
            assert_eq!((attr.kind, u64::from(attr.rdev)), (shown, device));
        }
    }

    /// M1, V1: a directory that was unpacked from an archive has times of its own.
    #[test]
    fn times_before_1970_and_two_different_times_are_kept() {
        let mut tree = fixture::tree();
        let empty = tree.lookup(NodeId::ROOT, "empty".as_ref()).unwrap().id;
        let times = Times {
            mtime_ns: -1_500_000_000,
            ctime_ns: 7,
        };
        tree.set_times(empty, times);
        let attr = attr(&tree, "empty");
        assert_eq!(attr.mtime, UNIX_EPOCH - Duration::from_millis(1500));
        assert_eq!(attr.ctime, UNIX_EPOCH + Duration::from_nanos(7));
    }
}
