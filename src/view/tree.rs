//! The tree that a mount shows: nodes with fixed attributes and a content of one of few kinds.
//!
//! Built once at the pin and never changed after. It knows no FUSE and no engine: a source fills it,
//! `mount` serves it.
//!
//! * V1 Attributes, names and sizes of a tree are fixed from its building on; a live file ([`LiveFile`])
//!   is the exception, of which name, number and links alone are fixed.
//! * V2 A read gives the whole of what was asked (up to the node's size) or an error, never a part.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::{Lsn, Timestamp};
use crate::os::path::{FileType, Metadata};

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
    /// One database of several.
    #[error("{}: {source}", path.display())]
    Member {
        /// Where it is, relative to the source.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: Box<ReadError>,
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
    /// The log that a foreign engine must keep for the pin reached its limit.
    WalLimit,
    /// A foreign engine's files were changed by somebody who does not heed its locks.
    LockIgnored,
    /// A helper file of a foreign engine was removed while the pin needed it.
    SidecarRemoved,
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
            Self::WalLimit => "the log that was kept for it reached its limit",
            Self::LockIgnored => "the database was changed by somebody who does not heed its locks",
            Self::SidecarRemoved => "the log or its index was removed while it was needed",
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
    /// Bytes of a page, where it consists of pages: the unit in which it is worth comparing.
    fn page_bytes(&self) -> Option<u32> {
        None
    }
    /// The commit that it shows, where its pages carry LSNs.
    fn version(&self) -> Option<PageVersion> {
        None
    }
    /// The incarnation whose log has the commit at `lsn` of its history, which tells that commit from one
    /// of the same number in a past that was put back; `None` where nobody knows.
    fn incarnation_of(&self, _lsn: Lsn) -> Option<Epoch> {
        None
    }
    /// Who wrote the commit that ends at `lsn` of its history, and its wall clock in nanoseconds since 1970;
    /// `None` where nobody knows, or there is none.
    fn commit_at(&self, _lsn: Lsn) -> Option<(Epoch, u64)> {
        None
    }
    /// A number that differs after somebody has committed to what this is a view of, as cheap as a look at
    /// some files; `None` where nobody knows. It tells nothing of the view.
    fn write_mark(&self) -> Option<u64> {
        None
    }
    /// Every page that may differ from what it was at `since`, a commit of the same history; `None`
    /// where nobody knows.
    fn changed_since(&self, _since: Lsn) -> Option<Vec<Range<u64>>> {
        None
    }
}

/// Which commit of which line a paged content shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageVersion {
    /// The database.
    pub database: DatabaseId,
    /// The history that it was pinned in.
    pub history: HistoryId,
    /// The pinned commit.
    pub lsn: Lsn,
    /// Its number.
    pub timestamp: Timestamp,
    /// Its wall clock, nanoseconds since 1970.
    pub wall_ns: u64,
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
    /// mtime = ctime: nanoseconds since 1970 of the last change at or before the pin. What differs is
    /// said by [`Tree::set_times`].
    pub changed_ns: u64,
}

/// When a node was changed: nanoseconds since 1970, negative before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Its content.
    pub mtime_ns: i64,
    /// Its content or its attributes.
    pub ctime_ns: i64,
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
    /// A file of our own that nobody changes any more, held open: the whole content.
    Held(HeldFile),
    /// A plain file as it is now, not as it was at the pin.
    Live(Arc<dyn LiveFile>),
    /// A symbolic link and where it leads.
    Link(OsString),
    /// A named pipe, a socket or a device: shown, and nothing of it is served.
    Special(Special),
}

/// See [`Content::Held`].
#[derive(Clone, Debug)]
pub struct HeldFile {
    /// The content.
    pub file: Arc<dyn crate::os::File>,
    /// Its size in bytes.
    pub bytes: u64,
}

/// See [`Content::Special`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// What it is: a pipe, a socket or a device.
    pub kind: FileType,
    /// The device's number (`st_rdev`); 0 for the others.
    pub device: u64,
}

/// A plain file of a tree: its name was listed at the pin, everything else is looked at when asked for.
pub trait LiveFile: Send + Sync + fmt::Debug {
    /// What `stat` says of it now. Errors: any [`LiveError`].
    fn stat(&self) -> Result<Metadata, LiveError>;
    /// What `stat` said of it when it was listed: shown when it cannot be asked any more.
    fn listed(&self) -> Option<Metadata> {
        None
    }
    /// Opens it for reading, if it still is the file that was listed and no database.
    ///
    /// Errors: any [`LiveError`].
    fn open(&self) -> Result<Arc<dyn crate::os::File>, LiveError>;
    /// The names of its extended attributes. Errors: any [`LiveError`].
    fn xattr_names(&self) -> Result<Vec<OsString>, LiveError>;
    /// One of them; `None` if it has none of this name. Errors: any [`LiveError`].
    fn xattr(&self, name: &OsStr) -> Result<Option<Vec<u8>>, LiveError>;
}

/// Why a plain file cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// It was deleted after the pin. ENOENT at a mount.
    #[error("the file was deleted")]
    Gone,
    /// Another file has its name now. ESTALE at a mount.
    #[error("the file was replaced by another")]
    Replaced,
    /// It has become a database, whose bytes would not be of one moment. EIO at a mount.
    #[error("the file has become a database, which this mount does not pin")]
    BecameDatabase,
    /// The operating system refused. Its errno at a mount.
    #[error("cannot {op} the file: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

/// How far from a number that is taken the next is looked for.
const OTHER_NUMBER: u64 = 0x1e37_79b9_7f4a_7c15;
/// Some programs have inode numbers with a sign.
const NUMBER_MAX: u64 = u64::MAX >> 1;

/// One file or directory of a tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// The directory that it is in; the root's is the root. Of a file with several names, the first.
    pub parent: NodeId,
    /// What `stat` says.
    pub attributes: Attributes,
    /// What it holds.
    pub content: Content,
    /// Extended attributes that are listed: facts of the snapshot, fixed.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

impl Node {
    /// Size in bytes, as `stat` says it; 0 for a directory, and for what is not fixed.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Directory(_) => 0,
            Content::Paged(pages) => pages.size(),
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Held(held) => held.bytes,
            Content::Live(_) | Content::Special(_) => 0,
            Content::Link(target) => target.len() as u64,
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
    /// How many names a node has, where that is more than one.
    names: BTreeMap<NodeId, u32>,
    /// Times that are not those of the attributes.
    times: BTreeMap<NodeId, Times>,
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
            names: BTreeMap::new(),
            times: BTreeMap::new(),
        }
    }

    /// Puts `node` under its parent as `name`. A number that is taken already is changed to a free
    /// one, always the same for the same tree. Returns the node's number.
    ///
    /// # Panics
    /// If the parent is not a directory of this tree: a bug of the source that builds it.
    pub fn insert(&mut self, name: &OsStr, mut node: Node) -> NodeId {
        while self.nodes.contains_key(&node.id) || node.id.0 == 0 {
            // An odd step comes by every number before it repeats one.
            node.id = NodeId(node.id.0.wrapping_add(OTHER_NUMBER) & NUMBER_MAX);
        }
        let id = node.id;
        self.put_name(node.parent, name, id);
        self.nodes.insert(id, node);
        id
    }

    /// Gives the node `id`, which is no directory, one more name: `name` in `parent` (a hard link). A
    /// name that the node has there already is not counted again.
    ///
    /// # Panics
    /// If the parent is not a directory of this tree, or `id` not a file of it: a bug of the source
    /// that builds it.
    pub fn link(&mut self, parent: NodeId, name: &OsStr, id: NodeId) {
        let node = self.nodes.get(&id).expect("a link leads to what exists");
        assert!(!node.is_directory(), "a directory has one name");
        if self.put_name(parent, name, id) != Some(id) {
            *self.names.entry(id).or_insert(1) += 1;
        }
    }

    /// Puts a name into a directory and returns what had it before.
    fn put_name(&mut self, parent: NodeId, name: &OsStr, id: NodeId) -> Option<NodeId> {
        let parent = self
            .nodes
            .get_mut(&parent)
            .expect("a node is put under a node that exists");
        match &mut parent.content {
            Content::Directory(children) => children.insert(name.to_owned(), id),
            _ => unreachable!("parents are directories"),
        }
    }

    /// How many names a file has in this tree; 1 for a directory.
    #[must_use]
    pub fn name_count(&self, id: NodeId) -> u32 {
        self.names.get(&id).copied().unwrap_or(1)
    }

    /// Says when `id` was changed, where its attributes cannot: content and attributes at different
    /// times, or before 1970.
    pub fn set_times(&mut self, id: NodeId, times: Times) {
        self.times.insert(id, times);
    }

    /// When `node` was changed; of a live file, what was known when it was listed.
    #[must_use]
    pub fn times(&self, node: &Node) -> Times {
        self.times.get(&node.id).copied().unwrap_or_else(|| {
            let changed_ns = i64::try_from(node.attributes.changed_ns).unwrap_or(i64::MAX);
            Times {
                mtime_ns: changed_ns,
                ctime_ns: changed_ns,
            }
        })
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
            _ => None,
        }
    }

    /// All nodes, in the order of their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
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
    /// If `node` is a directory or something else without a fixed content, which no caller may read.
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
            Content::Held(held) => {
                crate::os::read_exact_at(&*held.file, out, offset).map_err(|source| {
                    let (op, file) = ("read", "a held file");
                    ReadError::Io {
                        op,
                        file,
                        offset,
                        source,
                    }
                })?;
            }
            Content::Live(_) | Content::Link(_) | Content::Special(_) => {
                unreachable!("what is not fixed at the pin is read by its own descriptor")
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, parent: NodeId, content: Content) -> Node {
        Node {
            id: NodeId(id),
            parent,
            attributes: Attributes {
                mode: 0o600,
                uid: 0,
                gid: 0,
                changed_ns: 5,
            },
            content,
            xattrs: BTreeMap::new(),
        }
    }

    fn tree() -> (Tree, NodeId, NodeId) {
        let root = node(1, NodeId::ROOT, Content::Directory(BTreeMap::new()));
        let mut tree = Tree::new(root.attributes, BTreeMap::new());
        let folder = Content::Directory(BTreeMap::new());
        let folder = tree.insert("folder".as_ref(), node(2, NodeId::ROOT, folder));
        let file = Content::Bytes(b"abc".as_slice().into());
        let file = tree.insert("file".as_ref(), node(3, NodeId::ROOT, file));
        (tree, folder, file)
    }

    #[test]
    fn a_file_is_found_by_each_of_its_names_and_counts_them() {
        let (mut tree, folder, file) = tree();
        assert_eq!(tree.name_count(file), 1);
        tree.link(folder, "other".as_ref(), file);
        tree.link(NodeId::ROOT, "third".as_ref(), file);
        tree.link(NodeId::ROOT, "third".as_ref(), file);
        tree.link(NodeId::ROOT, "file".as_ref(), file);
        assert_eq!(tree.name_count(file), 3);
        for (parent, name) in [
            (NodeId::ROOT, "file"),
            (folder, "other"),
            (NodeId::ROOT, "third"),
        ] {
            assert_eq!(tree.lookup(parent, name.as_ref()).unwrap().id, file);
        }
        assert_eq!(tree.node_count(), 3, "names are no nodes");
        assert_eq!(tree.total_bytes(), 3, "a content is counted once");
    }

    /// No number is 0, and each that is taken is changed in the end, however many there are.
    #[test]
    fn every_node_has_a_number_of_its_own() {
        let (mut tree, ..) = tree();
        let mut put = |name: &str, id| {
            let content = Content::Bytes([].into());
            tree.insert(name.as_ref(), node(id, NodeId::ROOT, content))
        };
        let mut numbers: Vec<NodeId> = (0..2000)
            .map(|one| put(&one.to_string(), [0, 1, 3, u64::MAX][one % 4]))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 2000);
        assert!(!numbers.contains(&NodeId(0)));
    }

    #[test]
    #[should_panic(expected = "a directory has one name")]
    fn a_directory_is_not_linked() {
        let (mut tree, folder, _) = tree();
        tree.link(NodeId::ROOT, "other".as_ref(), folder);
    }

    /// V1: backup tools compare both times, and files are older than 1970 if somebody says so.
    #[test]
    fn times_are_those_of_the_attributes_unless_they_are_said() {
        let (mut tree, folder, file) = tree();
        let both = |ns| Times {
            mtime_ns: ns,
            ctime_ns: ns,
        };
        assert_eq!(tree.times(tree.node(file).unwrap()), both(5));
        let times = Times {
            mtime_ns: -1,
            ctime_ns: 9,
        };
        tree.set_times(folder, times);
        assert_eq!(tree.times(tree.node(folder).unwrap()), times);
        let mut late = tree.node(file).unwrap().clone();
        late.attributes.changed_ns = u64::MAX;
        assert_eq!(tree.times(&late), both(i64::MAX));
    }
}
