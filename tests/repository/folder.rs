//! Folders made by hand: files of every kind of content, links, second names, odd names and times.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use stillfs::lsn::Lsn;
use stillfs::os::sim::SimDisk;
use stillfs::os::{Disk, write_all_at};
use stillfs::view::tree::{
    Attributes, Content, HeldFile, Node, NodeId, RangeRead, ReadError, Times, Tree,
};

use crate::draw::Draw;

/// What a folder must be when it is restored: by path.
pub(crate) type Listing = BTreeMap<Vec<u8>, Item>;

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) mode: u32,
    /// Not of links, whose own times nobody sets.
    pub(crate) mtime_ns: Option<i64>,
    pub(crate) what: What,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    /// Its bytes, and the first of its names.
    File(Vec<u8>, Vec<u8>),
    Link(Vec<u8>),
}

impl std::fmt::Debug for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self {
            Self::Directory => f.write_str("directory"),
            Self::File(bytes, first) => {
                let crc = crc32fast::hash(bytes);
                let first = text(first);
                write!(f, "file of {} bytes, crc {crc:08x}, {first}", bytes.len())
            }
            Self::Link(target) => write!(f, "link to {}", text(target)),
        }
    }
}

/// Bytes behind the trait that databases are read by.
#[derive(Debug)]
struct Pages {
    bytes: Vec<u8>,
    page_bytes: Option<u32>,
}

impl RangeRead for Pages {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let start = usize::try_from(offset).expect("small");
        out.copy_from_slice(&self.bytes[start..start + out.len()]);
        Ok(())
    }

    fn page_bytes(&self) -> Option<u32> {
        self.page_bytes
    }

    fn changed_since(&self, _since: Lsn) -> Option<Vec<Range<u64>>> {
        None
    }
}

/// A folder of the model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folder {
    names: BTreeMap<Vec<u8>, Item>,
}

const SIZES: &[u64] = &[0, 1, 511, 4096, 65_535, 65_536, 65_537, 200_000];
const NAMES: &[&[u8]] = &[
    b"a",
    b"b.log",
    b"cache",
    b"data.db",
    b"e f",
    b"\xff\xfe",
    b"g.log",
    b"h",
];

fn draw_bytes(draw: &Draw) -> Vec<u8> {
    let size = usize::try_from(draw.pick(SIZES)).expect("small");
    match draw.below(4) {
        0 => vec![0; size],
        1 => vec![7; size],
        _ => {
            let mut bytes = Vec::with_capacity(size + 8);
            while bytes.len() < size {
                bytes.extend_from_slice(&draw.next().to_le_bytes());
            }
            bytes.truncate(size);
            bytes
        }
    }
}

fn draw_times(draw: &Draw) -> i64 {
    let ns = i64::try_from(draw.below(2_000_000_000_000_000_000)).expect("below 2^63");
    match draw.one_in(5) {
        true => -ns,
        false => ns,
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match dir.is_empty() {
        true => name.to_vec(),
        false => [dir, b"/", name].concat(),
    }
}

/// The path of the directory that `path` is in.
fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    &path[..slash.unwrap_or(0)]
}

impl Folder {
    pub(crate) fn new(draw: &Draw) -> Self {
        let mut folder = Self::default();
        folder.names.insert(Vec::new(), directory(draw));
        (0..12).for_each(|_| folder.change(draw));
        folder
    }

    /// Something is made, changed or removed.
    pub(crate) fn change(&mut self, draw: &Draw) {
        let is_dir = |item: &Item| item.what == What::Directory;
        let of_kind = |wanted: bool| -> Vec<Vec<u8>> {
            let found = self.names.iter().filter(|(_, item)| is_dir(item) == wanted);
            found.map(|(path, _)| path.clone()).collect()
        };
        let (dirs, others) = (of_kind(true), of_kind(false));
        let dir = &dirs[draw.index(dirs.len())];
        let path = join(dir, draw.pick(NAMES));
        let is_free = !self.names.contains_key(&path);
        match draw.below(8) {
            0 | 1 if is_free && path.len() < 20 => drop(self.names.insert(path, directory(draw))),
            2 if is_free => {
                let target = draw.pick(NAMES).to_vec();
                let item = Item {
                    mode: 0o777,
                    mtime_ns: None,
                    what: What::Link(target),
                };
                self.names.insert(path, item);
            }
            3 if is_free && !others.is_empty() => {
                let item = self.names[&others[draw.index(others.len())]].clone();
                if matches!(item.what, What::File(..)) {
                    self.names.insert(path, item);
                }
            }
            4 if !others.is_empty() => drop(self.names.remove(&others[draw.index(others.len())])),
            5 if !others.is_empty() => self.rewrite(&others[draw.index(others.len())], draw),
            _ if is_free => {
                let item = Item {
                    mode: draw.pick(&[0o600, 0o644, 0o755, 0o400]),
                    mtime_ns: Some(draw_times(draw)),
                    // The inode, so to say, until the listing puts the first name there.
                    what: What::File(draw_bytes(draw), draw.next().to_le_bytes().to_vec()),
                };
                self.names.insert(path, item);
            }
            _ => {}
        }
    }

    /// Changes a few bytes of a file, under all its names.
    fn rewrite(&mut self, path: &[u8], draw: &Draw) {
        let What::File(mut bytes, inode) = self.names[path].what.clone() else {
            return;
        };
        match bytes.is_empty() || draw.one_in(4) {
            true => bytes = draw_bytes(draw),
            false => {
                let at = draw.index(bytes.len());
                bytes[at] ^= 1;
            }
        }
        let mtime_ns = Some(draw_times(draw));
        for item in self.names.values_mut() {
            if let What::File(old, other) = &mut item.what
                && *other == inode
            {
                old.clone_from(&bytes);
                item.mtime_ns = mtime_ns;
            }
        }
    }

    /// What is left when `is_out` says what is not taken, and the outermost of that.
    pub(crate) fn listing(&self, is_out: impl Fn(&[u8]) -> bool) -> (Listing, Vec<String>) {
        let (mut listing, mut left_out) = (Listing::new(), Vec::new());
        let mut first: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (path, item) in &self.names {
            if !path.is_empty() && !listing.contains_key(parent(path)) {
                continue;
            }
            if !path.is_empty() && is_out(path) {
                left_out.push(String::from_utf8_lossy(path).into_owned());
                continue;
            }
            let mut item = item.clone();
            if let What::File(_, inode) = &mut item.what {
                *inode = first.entry(inode.clone()).or_insert(path.clone()).clone();
            }
            listing.insert(path.clone(), item);
        }
        (listing, left_out)
    }

    /// The tree that a source would make of it.
    pub(crate) fn tree(&self, draw: &Draw, owner: (u32, u32)) -> Tree {
        let disk = SimDisk::new(1);
        let attributes = |item: &Item| Attributes {
            mode: u16::try_from(item.mode).expect("small"),
            uid: owner.0,
            gid: owner.1,
            changed_ns: 0,
        };
        let mut tree = Tree::new(attributes(&self.names[&Vec::new()]), BTreeMap::new());
        let mut dirs = BTreeMap::from([(Vec::new(), NodeId::ROOT)]);
        let mut inodes: BTreeMap<Vec<u8>, NodeId> = BTreeMap::new();
        for (number, (path, item)) in self.names.iter().enumerate() {
            if path.is_empty() {
                set_times(&mut tree, NodeId::ROOT, item);
                continue;
            }
            let parent = dirs[parent(path)];
            let name = path.rsplit(|byte| *byte == b'/').next().expect("a name");
            let name = OsStr::from_bytes(name);
            let content = match &item.what {
                What::Directory => Content::Directory(BTreeMap::new()),
                What::Link(target) => Content::Link(OsString::from_vec(target.clone())),
                What::File(_, inode) if inodes.contains_key(inode) => {
                    tree.link(parent, name, inodes[inode]);
                    continue;
                }
                What::File(bytes, _) => content_of(bytes, draw, &disk, number),
            };
            let node = Node {
                id: NodeId(number as u64 + 100),
                parent,
                attributes: attributes(item),
                content,
                xattrs: BTreeMap::new(),
            };
            let id = tree.insert(name, node);
            set_times(&mut tree, id, item);
            match &item.what {
                What::Directory => drop(dirs.insert(path.clone(), id)),
                What::File(_, inode) => drop(inodes.insert(inode.clone(), id)),
                What::Link(_) => {}
            }
        }
        tree
    }
}

fn set_times(tree: &mut Tree, id: NodeId, item: &Item) {
    if let Some(mtime_ns) = item.mtime_ns {
        let ctime_ns = mtime_ns;
        tree.set_times(id, Times { mtime_ns, ctime_ns });
    }
}

fn directory(draw: &Draw) -> Item {
    Item {
        mode: draw.pick(&[0o700, 0o755, 0o500]),
        mtime_ns: Some(draw_times(draw)),
        what: What::Directory,
    }
}

/// The bytes as one of the kinds of content that are fixed.
fn content_of(bytes: &[u8], draw: &Draw, disk: &SimDisk, number: usize) -> Content {
    match draw.below(4) {
        0 => Content::Bytes(bytes.into()),
        1 => {
            let path = format!("/{number}");
            let file = disk
                .open(path.as_ref(), stillfs::os::OpenMode::CreateNew)
                .expect("a new file");
            write_all_at(&*file, bytes, 0).expect("a write");
            let bytes = bytes.len() as u64;
            Content::Held(HeldFile { file, bytes })
        }
        _ => Content::Paged(Arc::new(Pages {
            bytes: bytes.to_vec(),
            page_bytes: draw.pick(&[None, Some(512), Some(4096)]),
        })),
    }
}
