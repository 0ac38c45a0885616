//! Listings of directories: complete under any buffer size, with offsets that stay.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Weak};

use fuser::FileType;
use parking_lot::Mutex;

use crate::os::path;
use crate::view::tree::{Content, Node, NodeId, Tree};

/// The directory of facts in the root of a view: reachable by name and never listed, so that a copy
/// restores nothing of ours into an application's folder.
const UNLISTED: &str = ".stillfs";

/// Whether `name` in the directory `parent` is listed.
pub(super) fn is_listed(parent: NodeId, name: &OsStr) -> bool {
    parent != NodeId::ROOT || name != OsStr::new(UNLISTED)
}

/// The type of a node, as listings and `stat` say it.
pub(super) fn kind_of(content: &Content) -> FileType {
    match content {
        Content::Directory(_) => FileType::Directory,
        Content::Paged(_) | Content::Bytes(_) | Content::Held(_) | Content::Live(_) => {
            FileType::RegularFile
        }
        Content::Link(_) => FileType::Symlink,
        Content::Special(special) => match special.kind {
            path::FileType::File => FileType::RegularFile,
            path::FileType::Directory => FileType::Directory,
            path::FileType::SymbolicLink => FileType::Symlink,
            path::FileType::Fifo => FileType::NamedPipe,
            path::FileType::Socket => FileType::Socket,
            path::FileType::CharacterDevice => FileType::CharDevice,
            path::FileType::BlockDevice => FileType::BlockDevice,
        },
    }
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedEntry {
    /// The node.
    pub(super) id: NodeId,
    /// Its type.
    pub(super) kind: FileType,
    /// Its name; the first two are `.` and `..`.
    pub(super) name: OsString,
}

/// Whether a reply has room left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// The entry was added.
    Added,
    /// The entry did not fit.
    Full,
}

/// What became of filling one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// At least one entry was added, or there are no more.
    Answer,
    /// There are more, but not one fits: an empty reply would mean the end.
    TooSmall,
}

/// The entries of a directory, in the order of their names.
#[derive(Debug)]
pub(super) struct Listing {
    entries: Vec<ListedEntry>,
}

impl Listing {
    /// The listing of `directory`; `None` for a file.
    pub(super) fn of(tree: &Tree, directory: &Node) -> Option<Self> {
        let Content::Directory(children) = &directory.content else {
            return None;
        };
        let mut entries = Vec::with_capacity(children.len() + 2);
        for (name, id) in [(".", directory.id), ("..", directory.parent)] {
            entries.push(ListedEntry {
                id,
                kind: FileType::Directory,
                name: name.into(),
            });
        }
        for (name, id) in children {
            let Some(node) = tree.node(*id).filter(|_| is_listed(directory.id, name)) else {
                continue;
            };
            entries.push(ListedEntry {
                id: *id,
                kind: kind_of(&node.content),
                name: name.clone(),
            });
        }
        Some(Self { entries })
    }

    /// Offers the entries after `offset` to `add` until one does not fit. An entry's offset is its
    /// number in the listing, from 1 on, which is the same for every handle and every buffer size.
    pub(super) fn fill(
        &self,
        offset: u64,
        mut add: impl FnMut(&ListedEntry, u64) -> Room,
    ) -> Filled {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.entries.get(start..).unwrap_or_default();
        for (entry, next) in rest.iter().zip(offset + 1..) {
            if add(entry, next) == Room::Full {
                let nothing_added = next == offset + 1;
                return if nothing_added {
                    Filled::TooSmall
                } else {
                    Filled::Answer
                };
            }
        }
        Filled::Answer
    }
}

/// The directories that are open. A listing is made when it is first read, since the kernel remembers
/// what it has read, and is shared by all who have the directory open.
#[derive(Debug, Default)]
pub(super) struct OpenListings {
    open: Mutex<Handles>,
}

#[derive(Debug, Default)]
struct Handles {
    last: u64,
    directories: BTreeMap<u64, (NodeId, Option<Arc<Listing>>)>,
    made: BTreeMap<NodeId, Weak<Listing>>,
}

impl OpenListings {
    /// Opens a directory and returns its handle.
    pub(super) fn insert(&self, directory: NodeId) -> u64 {
        let mut open = self.open.lock();
        open.last += 1;
        let handle = open.last;
        open.directories.insert(handle, (directory, None));
        handle
    }

    /// The listing of a handle, which `list` makes if nobody has it.
    pub(super) fn get(
        &self,
        handle: u64,
        list: impl FnOnce(NodeId) -> Option<Listing>,
    ) -> Option<Arc<Listing>> {
        let mut open = self.open.lock();
        let open = &mut *open;
        let (directory, listing) = open.directories.get_mut(&handle)?;
        if let Some(listing) = listing {
            return Some(listing.clone());
        }
        let shared = open.made.get(directory).and_then(Weak::upgrade);
        let made = match shared {
            Some(shared) => shared,
            None => Arc::new(list(*directory)?),
        };
        open.made.insert(*directory, Arc::downgrade(&made));
        *listing = Some(made.clone());
        Some(made)
    }

    /// Forgets a handle.
    pub(super) fn remove(&self, handle: u64) {
        let mut open = self.open.lock();
        let Some((directory, Some(listing))) = open.directories.remove(&handle) else {
            return;
        };
        drop(listing);
        if open
            .made
            .get(&directory)
            .is_some_and(|made| made.strong_count() == 0)
        {
            open.made.remove(&directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::fixture;
    use super::*;

    fn listing(names: u64) -> Listing {
        let mut tree = fixture::tree();
        for number in 0..names {
            fixture::put(&mut tree, &format!("many-{number:05}"), 1000 + number);
        }
        Listing::of(&tree, tree.node(NodeId::ROOT).unwrap()).unwrap()
    }

    /// Reads a whole listing through replies of `capacity` entries.
    fn read_all(listing: &Listing, capacity: usize) -> Vec<OsString> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let mut added = 0;
            let filled = listing.fill(offset, |entry, next| {
                if added == capacity {
                    return Room::Full;
                }
                added += 1;
                names.push(entry.name.clone());
                offset = next;
                Room::Added
            });
            assert_eq!(filled, Filled::Answer);
            if added == 0 {
                return names;
            }
        }
    }

    #[test]
    fn a_listing_is_the_same_under_any_buffer_size() {
        let listing = listing(200);
        let whole = read_all(&listing, usize::MAX);
        assert_eq!(whole[..2], [".", ".."]);
        assert_eq!(whole.len(), 2 + 2 + 200);
        assert_eq!(whole.iter().collect::<BTreeSet<_>>().len(), whole.len());
        for capacity in [1, 2, 3, 7, 199, 200, 204] {
            assert_eq!(read_all(&listing, capacity), whole, "{capacity} at a time");
        }
    }

    #[test]
    fn an_offset_means_the_same_entry_in_every_listing() {
        let (first, second) = (listing(50), listing(50));
        for offset in [0, 1, 2, 30, 53] {
            let at = |listing: &Listing| {
                let mut name = None;
                listing.fill(offset, |entry, _| {
                    name.get_or_insert(entry.name.clone());
                    Room::Added
                });
                name
            };
            assert_eq!(at(&first), at(&second));
            assert!(at(&first).is_some());
        }
    }

    /// An empty reply would be taken for the end, and the rest of the directory be lost silently.
    #[test]
    fn a_buffer_too_small_for_one_entry_is_an_error_and_not_the_end() {
        let listing = listing(3);
        assert_eq!(listing.fill(0, |_, _| Room::Full), Filled::TooSmall);
        assert_eq!(listing.fill(6, |_, _| Room::Full), Filled::TooSmall);
        assert_eq!(listing.fill(7, |_, _| Room::Full), Filled::Answer);
        assert_eq!(
            listing.fill(u64::MAX - 1, |_, _| Room::Full),
            Filled::Answer
        );
    }

    #[test]
    fn the_facts_of_a_view_are_not_listed() {
        assert!(!read_all(&listing(0), 9).contains(&OsString::from(UNLISTED)));
        assert!(is_listed(NodeId(7), UNLISTED.as_ref()));
    }

    #[test]
    fn a_file_has_no_listing() {
        let tree = fixture::tree();
        let file = tree.lookup(NodeId::ROOT, "tiny".as_ref()).unwrap();
        assert!(Listing::of(&tree, file).is_none());
    }

    #[test]
    fn a_listing_is_made_when_it_is_read_shared_and_forgotten() {
        let open = OpenListings::default();
        let directory = NodeId(5);
        let (first, second) = (open.insert(directory), open.insert(directory));
        assert_ne!(first, second);
        let one = open.get(first, |_| Some(listing(0))).unwrap();
        let two = open.get(second, |_| panic!("it is made")).unwrap();
        assert!(Arc::ptr_eq(&one, &two));
        drop((one, two));
        open.remove(first);
        assert!(open.get(first, |_| panic!("it is closed")).is_none());
        assert!(open.get(second, |_| panic!("it is made")).is_some());
        open.remove(second);
        assert!(open.open.lock().made.is_empty());
    }
}
