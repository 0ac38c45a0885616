//! The tree of nodes, from what was walked and what was pinned.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;

use super::clones::{Shown, ShownAs};
use super::folders::TOP;
use super::live::{Live, LiveTree};
use super::members::Members;
use super::set::{PinnedDatabase, PinnedNative, PinnedSet};
use super::walk::{FolderFacts, Other, OtherKind, Walked};
use crate::os::path::Metadata;
use crate::os::{FileIdentity, Host};
use crate::source::facts::{DatabaseFacts, ViewFacts};
use crate::source::{PinAs, SourceLease};
use crate::view::tree::{Attributes, Content, Node, NodeId, Times, Tree};

/// What becomes of a pinned tree.
pub(super) struct Parts {
    pub(super) tree: Tree,
    pub(super) members: Members,
    pub(super) native_leases: Vec<Box<dyn SourceLease>>,
}

/// What the file system says of a node.
fn attributes(of: &Metadata) -> Attributes {
    Attributes {
        mode: u16::try_from(of.mode & 0o7777).unwrap_or(0),
        uid: of.uid,
        gid: of.gid,
        changed_ns: u64::try_from(of.mtime_ns).unwrap_or(0),
    }
}

/// Says when a node was changed, where its attributes cannot.
fn set_times(tree: &mut Tree, id: NodeId, of: &Metadata) {
    if of.mtime_ns != of.ctime_ns || of.mtime_ns < 0 {
        let (mtime_ns, ctime_ns) = (of.mtime_ns, of.ctime_ns);
        tree.set_times(id, Times { mtime_ns, ctime_ns });
    }
}

/// No source's inode is 0, but file systems are made by people.
fn number(identity: FileIdentity) -> NodeId {
    NodeId(identity.inode.max(1))
}

struct Builder {
    tree: Tree,
    /// The node of each directory.
    of_folders: Vec<NodeId>,
    /// Files with several names.
    linked: HashMap<FileIdentity, NodeId>,
}

/// Builds the tree of the source at `path`.
pub(super) fn build(
    (host, path): (&Host, &Path),
    mut walked: Walked,
    pinned: PinnedSet,
    plain: Vec<Shown>,
    pin_as: &PinAs<'_>,
) -> Parts {
    let facts = view_facts(path, &pinned);
    let mut of_folders = std::mem::take(&mut walked.of_folders).into_iter();
    let root = of_folders.next();
    let inode = root.as_ref().map_or(1, |root| root.metadata.identity.inode);
    let mut builder = Builder::new(root, facts.xattrs(pin_as));
    for folder in of_folders {
        builder.add_folder(folder);
    }
    facts.put(&mut builder.tree, pin_as, inode);
    for other in std::mem::take(&mut walked.others) {
        builder.add_other(other);
    }
    let live = Arc::new(LiveTree {
        host: host.clone(),
        source: path.to_owned(),
        folders: walked.folders,
    });
    for shown in plain {
        builder.add_plain(&live, shown);
    }
    let mut members = Members::default();
    for database in pinned.sqlite {
        members.sqlite.push((
            database.candidate.path.clone(),
            database.pinned.view.clone(),
        ));
        builder.add_database(database);
    }
    let mut native_leases = Vec::new();
    for PinnedNative {
        folder,
        path,
        source,
    } in pinned.native
    {
        builder.graft(folder, &source.tree);
        members.native.push((path, source.reads));
        native_leases.push(source.lease);
    }
    Parts {
        tree: builder.tree,
        members,
        native_leases,
    }
}

fn view_facts<'a>(path: &'a Path, pinned: &PinnedSet) -> ViewFacts<'a> {
    let sqlite = pinned.sqlite.iter();
    let sqlite = sqlite.map(|one| DatabaseFacts::of_sqlite(&one.candidate.path, &one.pinned));
    let mut databases: Vec<DatabaseFacts> = sqlite.collect();
    let native = pinned.native.iter();
    databases.extend(native.map(|one| DatabaseFacts::of_native(&one.path, &one.source)));
    databases.sort_by(|one, other| one.path.cmp(&other.path));
    ViewFacts {
        kind: super::KIND,
        source: path,
        is_tree: true,
        databases,
    }
}

impl Builder {
    fn new(root: Option<FolderFacts>, facts: BTreeMap<OsString, Vec<u8>>) -> Self {
        let nobody = Attributes {
            mode: 0o500,
            uid: 0,
            gid: 0,
            changed_ns: 0,
        };
        let metadata = root.as_ref().map(|root| root.metadata);
        let of_root = metadata.as_ref().map_or(nobody, attributes);
        let mut xattrs = root.map(|root| root.xattrs).unwrap_or_default();
        xattrs.extend(facts);
        let mut tree = Tree::new(of_root, xattrs);
        if let Some(metadata) = metadata {
            set_times(&mut tree, NodeId::ROOT, &metadata);
        }
        Self {
            tree,
            of_folders: vec![NodeId::ROOT],
            linked: HashMap::new(),
        }
    }

    fn folder(&self, number: u32) -> NodeId {
        let found = self.of_folders.get(number as usize);
        found.copied().unwrap_or(NodeId::ROOT)
    }

    fn add_folder(&mut self, folder: FolderFacts) {
        let node = Node {
            id: number(folder.metadata.identity),
            parent: self.folder(folder.parent),
            attributes: attributes(&folder.metadata),
            content: Content::Directory(BTreeMap::new()),
            xattrs: folder.xattrs,
        };
        let id = self.tree.insert(&folder.name, node);
        set_times(&mut self.tree, id, &folder.metadata);
        self.of_folders.push(id);
    }

    /// Adds a file, or one more name of it.
    fn add(
        &mut self,
        (folder, name): (u32, &OsStr),
        metadata: &Metadata,
        content: impl FnOnce() -> (Content, BTreeMap<OsString, Vec<u8>>),
    ) {
        let (parent, identity) = (self.folder(folder), metadata.identity);
        let is_linked = metadata.link_count > 1;
        if let Some(known) = self.linked.get(&identity).filter(|_| is_linked) {
            self.tree.link(parent, name, *known);
            return;
        }
        let (content, xattrs) = content();
        let node = Node {
            id: number(identity),
            parent,
            attributes: attributes(metadata),
            content,
            xattrs,
        };
        let id = self.tree.insert(name, node);
        set_times(&mut self.tree, id, metadata);
        if is_linked {
            self.linked.insert(identity, id);
        }
    }

    fn add_other(&mut self, other: Other) {
        let content = match other.what {
            OtherKind::Link(target) => Content::Link(target),
            OtherKind::Special(special) => Content::Special(special),
        };
        let at = (other.folder, &*other.name);
        self.add(at, &other.metadata, || (content, BTreeMap::new()));
    }

    fn add_plain(&mut self, live: &Arc<LiveTree>, shown: Shown) {
        let Shown { plain, content } = shown;
        let at = (plain.folder, &*plain.name);
        self.add(at, &plain.metadata, || match content {
            ShownAs::Live => {
                let file = Live {
                    tree: live.clone(),
                    folder: plain.folder,
                    name: plain.name.clone(),
                    listed: plain.metadata,
                };
                (Content::Live(Arc::new(file)), BTreeMap::new())
            }
            ShownAs::Held { file, xattrs } => (Content::Held(file), xattrs),
        });
    }

    fn add_database(&mut self, database: PinnedDatabase) {
        let PinnedDatabase {
            candidate,
            other_names,
            pinned,
            mut xattrs,
        } = database;
        xattrs.extend(DatabaseFacts::of_sqlite(&candidate.path, &pinned).xattrs());
        let node = Node {
            id: number(pinned.identity),
            parent: self.folder(candidate.folder),
            attributes: pinned.attributes,
            content: Content::Paged(pinned.view),
            xattrs,
        };
        let id = self.tree.insert(&candidate.name, node);
        for (folder, name) in other_names {
            self.tree.link(self.folder(folder), &name, id);
        }
    }

    /// Puts the nodes of a view into the directory that it is of.
    fn graft(&mut self, folder: u32, view: &Tree) {
        debug_assert_ne!(folder, TOP, "a native source is no tree");
        let mut left = vec![(NodeId::ROOT, self.folder(folder))];
        while let Some((from, to)) = left.pop() {
            let Some(Content::Directory(children)) = view.node(from).map(|node| &node.content)
            else {
                continue;
            };
            for (name, child) in children {
                let Some(child) = view.node(*child) else {
                    continue;
                };
                let is_directory = child.is_directory();
                let mut node = child.clone();
                node.parent = to;
                if is_directory {
                    node.content = Content::Directory(BTreeMap::new());
                }
                let id = self.tree.insert(name, node);
                if is_directory {
                    left.push((child.id, id));
                }
            }
        }
    }
}
