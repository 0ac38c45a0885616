//! The tree that a mount shows: nodes with fixed attributes and a content of one of few kinds.
//!
//! Built once at the pin and never changed after. It knows no FUSE and no engine: a source fills it,
//! `mount` serves it.
//!
//! * V1 Attributes, names and sizes of a tree are fixed from its building on.
//! * V2 A read gives the whole of what was asked (up to the node's size) or an error, never a part.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::Arc;

/// Why a read of a pinned node failed. Each becomes EIO at a mount; the text goes to the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The pin has ended: released, broken, expired, fenced, or its engine was poisoned.
    #[error("the pin has ended ({reason})")]
    PinEnded {
        /// How the reader saw it.
        reason: EndSeen,
    },
    /// A page that is not the one that it must be, twice in a row.
    #[error("page {page} of {file}: {fault}")]
    Page {
        /// The file that the bytes came from.
        file: &'static str,
        /// The page.
        page: crate::page::PageNo,
        /// What is wrong with it.
        fault: crate::page::PageFault,
    },
    /// The page could not be read when its pre-image was to be captured.
    #[error("page {page} was unreadable when it was to be captured")]
    Unreadable {
        /// The page.
        page: crate::page::PageNo,
    },
    /// An index entry that no engine writes.
    #[error("pin index entry of page {page} is {entry:#018x}, which is no slot")]
    Entry {
        /// The page.
        page: crate::page::PageNo,
        /// The entry.
        entry: u64,
    },
    /// The header of the pin's index is no whole header: damaged, or about to be written anew by an
    /// engine that takes the pin over. No end of the pin, which is an index that is cut.
    #[error("the header of the pin's index is damaged")]
    IndexHeader,
    /// The operating system refused.
    #[error("cannot {op} {file} at offset {offset}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        file: &'static str,
        /// Where, in bytes.
        offset: u64,
        /// What it said.
        source: std::io::Error,
    },
    /// The range does not lie inside the node.
    #[error("range {offset} + {bytes} is outside the file's {size} bytes")]
    Range {
        /// Start in bytes.
        offset: u64,
        /// Length in bytes.
        bytes: u64,
        /// Size of the node.
        size: u64,
    },
}

/// How a reader learned that its pin has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndSeen {
    /// The pin's index was cut: the visible end.
    IndexCut,
    /// The live header carries an epoch that the pin does not accept.
    Fenced,
    /// The live header is of another database or history.
    OtherDatabase,
    /// The live header is older than the pin: an old copy was put over the live file.
    OlderFile,
    /// No valid copy of the live header is left.
    HeaderLost,
    /// The holder itself gave the pin up.
    Released,
    /// The holder itself saw that the pin is at its maximum age.
    Expired,
}

impl fmt::Display for EndSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IndexCut => "its index was cut",
            Self::Fenced => "another engine incarnation took over the live file",
            Self::OtherDatabase => "the live file is of another database or history",
            Self::OlderFile => "the live file is older than the pin",
            Self::HeaderLost => "the live file has no valid header",
            Self::Released => "released by its holder",
            Self::Expired => "it reached its maximum age",
        })
    }
}

/// Content that is read by ranges.
pub trait RangeRead: Send + Sync + fmt::Debug {
    /// Size in bytes; never changes.
    fn size(&self) -> u64;
    /// Fills all of `out` from `offset`. Shape: `offset + out.len() <= size()`.
    ///
    /// Errors: any [`ReadError`]; `out` then holds nothing of meaning.
    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError>;
}

/// Number of a node, which is also its inode number. The root is [`NodeId::ROOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The top of a tree.
    pub const ROOT: Self = Self(1);
}

/// What `stat` says of a node, fixed at the pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, without the file type.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// mtime = ctime: nanoseconds since 1970 of the last change at or before the pin.
    pub changed_ns: u64,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// Named children, in the order of their names.
    Directory(BTreeMap<OsString, NodeId>),
    /// Pages, read from live file and shadow.
    Paged(Arc<dyn RangeRead>),
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
}

/// One file or directory of a tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// The directory that it is in; the root's is the root.
    pub parent: NodeId,
    /// What `stat` says.
    pub attributes: Attributes,
    /// What it holds.
    pub content: Content,
    /// Extended attributes that are listed: facts of the snapshot, fixed.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Node {
    /// Size in bytes, as `stat` says it; 0 for a directory.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Directory(_) => 0,
            Content::Paged(pages) => pages.size(),
            Content::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.content, Content::Directory(_))
    }
}

/// A still tree of nodes.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<NodeId, Node>,
}

impl Tree {
    /// A tree with nothing but its root directory.
    #[must_use]
    pub fn new(root: Attributes, xattrs: BTreeMap<OsString, Vec<u8>>) -> Self {
        let content = Content::Directory(BTreeMap::new());
        let node = Node {
            id: NodeId::ROOT,
            parent: NodeId::ROOT,
            attributes: root,
            content,
            xattrs,
        };
        Self {
            nodes: BTreeMap::from([(NodeId::ROOT, node)]),
        }
    }

    /// Puts `node` under its parent as `name`. A number that is taken already is changed to a free
    /// one, always the same for the same tree. Returns the node's number.
    ///
    /// # Panics
    /// If the parent is not a directory of this tree: a bug of the source that builds it.
    pub fn insert(&mut self, name: &OsStr, mut node: Node) -> NodeId {
        while self.nodes.contains_key(&node.id) || node.id.0 == 0 {
            node.id = NodeId(
                node.id
                    .0
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .wrapping_add(1)
                    >> 1,
            );
        }
        let id = node.id;
        let parent = self
            .nodes
            .get_mut(&node.parent)
            .expect("a node is put under a node that exists");
        match &mut parent.content {
            Content::Directory(children) => children.insert(name.to_owned(), id),
            Content::Paged(_) | Content::Bytes(_) => unreachable!("parents are directories"),
        };
        self.nodes.insert(id, node);
        id
    }

    /// The node of a number.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// The child of `parent` called `name`.
    #[must_use]
    pub fn lookup(&self, parent: NodeId, name: &OsStr) -> Option<&Node> {
        match &self.nodes.get(&parent)?.content {
            Content::Directory(children) => self.nodes.get(children.get(name)?),
            Content::Paged(_) | Content::Bytes(_) => None,
        }
    }

    /// Number of nodes, the root included.
    #[must_use]
    pub fn node_count(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// Bytes of all nodes together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.nodes.values().map(Node::size).sum()
    }

    /// Reads the part of `[offset, offset + out.len())` that the node has into the front of `out`
    /// and returns its length. Errors: any [`ReadError`]; nothing of `out` then counts (V2).
    ///
    /// # Panics
    /// If `node` is a directory, which no caller may read.
    pub fn read(&self, node: &Node, offset: u64, out: &mut [u8]) -> Result<usize, ReadError> {
        let rest = node.size().saturating_sub(offset);
        let count = usize::try_from(rest).unwrap_or(usize::MAX).min(out.len());
        let out = &mut out[..count];
        match &node.content {
            Content::Directory(_) => unreachable!("directories are listed, not read"),
            _ if count == 0 => {}
            Content::Paged(pages) => pages.read_range(offset, out)?,
            Content::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                out.copy_from_slice(&bytes[start..start + count]);
            }
        }
        Ok(count)
    }
}
