//! The tree as entries of a manifest, without their content: what is backed up, and what is left out.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::database::{PAGE_FILE, SNAPSHOT_FILE};
use crate::os::path::FileType;
use crate::repository::backup::BackupOptions;
use crate::repository::digest::Digest;
use crate::repository::manifest::{Entry, EntryContent, FileContent, LeftOutFact};
use crate::view::tree::{Content, Node, NodeId, Tree};

/// The folder in which a view says what it is: nothing that was in the source.
const FACTS_DIR: &str = ".stillfs";

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// The root first, every directory before what is in it. Files have no content yet.
    pub(super) entries: Vec<Entry>,
    /// The files among them.
    pub(super) files: Vec<WalkedFile>,
    /// What is not among them.
    pub(super) left_out: Vec<LeftOutFact>,
}

/// A file whose content is to be backed up.
#[derive(Clone, Copy, Debug)]
pub(super) struct WalkedFile {
    /// Its place in [`Walked::entries`].
    pub(super) entry: usize,
    /// Its node.
    pub(super) node: NodeId,
    /// Its size; of a live file, as it was listed.
    pub(super) bytes: u64,
}

/// A path as people read it.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

struct Walk<'a> {
    tree: &'a Tree,
    options: &'a BackupOptions,
    walked: Walked,
    /// The first names of files that have several.
    first_names: HashMap<NodeId, Vec<u8>>,
}

/// Walks `tree` from its root.
pub(super) fn walk(tree: &Tree, options: &BackupOptions) -> Walked {
    let mut walk = Walk {
        tree,
        options,
        walked: Walked::default(),
        first_names: HashMap::new(),
    };
    // Directories that are still to be listed, the next one last.
    let mut open = Vec::new();
    if let Some(root) = tree.node(NodeId::ROOT) {
        walk.add(root, Vec::new(), EntryContent::Directory);
        open.push((root, Vec::new()));
    }
    while let Some((directory, path)) = open.pop() {
        let below = walk.list(directory, &path);
        open.extend(below.into_iter().rev());
    }
    walk.walked
}

impl<'a> Walk<'a> {
    /// Adds what is in `directory`, and returns the directories among that.
    fn list(&mut self, directory: &'a Node, path: &[u8]) -> Vec<(&'a Node, Vec<u8>)> {
        let Content::Directory(children) = &directory.content else {
            return Vec::new();
        };
        let mut below = Vec::new();
        for (name, id) in children {
            let Some(node) = self.tree.node(*id) else {
                continue;
            };
            let mut at = path.to_vec();
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(name.as_bytes());
            if self.is_facts(directory, name, node) {
                continue;
            }
            if self.is_excluded(&at, name) {
                self.leave_out(&at, "excluded by a pattern", true);
            } else if node.is_directory() {
                self.add(node, at.clone(), EntryContent::Directory);
                below.push((node, at));
            } else {
                self.add_leaf(node, at);
            }
        }
        below
    }

    /// Whether the view put this there to say what it is: a restored database needs it not.
    fn is_facts(&self, directory: &Node, name: &OsStr, node: &Node) -> bool {
        match &node.content {
            Content::Directory(_) => directory.id == NodeId::ROOT && name == FACTS_DIR,
            Content::Bytes(_) if name == SNAPSHOT_FILE => {
                let pages = self.tree.lookup(directory.id, OsStr::new(PAGE_FILE));
                pages.is_some_and(|pages| matches!(pages.content, Content::Paged(_)))
            }
            _ => false,
        }
    }

    /// Patterns without `/` are compared with the last name, others with the path; one that begins with
    /// `/` means the path from the root on.
    fn is_excluded(&self, path: &[u8], name: &OsStr) -> bool {
        if self.options.exclude.is_empty() {
            return false;
        }
        let (path, name) = (shown(path), name.to_string_lossy());
        self.options.exclude.iter().any(|pattern| {
            let text = pattern.as_str();
            if text.starts_with('/') {
                pattern.matches(&format!("/{path}"))
            } else if text.contains('/') {
                pattern.matches(&path)
            } else {
                pattern.matches(&name)
            }
        })
    }

    fn add_leaf(&mut self, node: &'a Node, path: Vec<u8>) {
        let bytes = match &node.content {
            Content::Directory(_) => return,
            Content::Link(target) => {
                let target = target.as_bytes().to_vec();
                return self.add(node, path, EntryContent::Link(target));
            }
            Content::Special(special) => {
                return self.leave_out(&path, name_of(special.kind), false);
            }
            Content::Live(file) => {
                let listed = file.listed().or_else(|| file.stat().ok());
                listed.map_or(0, |listed| listed.size)
            }
            Content::Paged(_) | Content::Bytes(_) | Content::Held(_) => node.size(),
        };
        let is_database = matches!(node.content, Content::Paged(_));
        if !is_database && self.options.size_max.is_some_and(|most| bytes > most) {
            return self.leave_out(&path, "larger than the size asked for", true);
        }
        if self.tree.name_count(node.id) > 1 {
            if let Some(first) = self.first_names.get(&node.id) {
                let content = EntryContent::HardLink(first.clone());
                return self.add(node, path, content);
            }
            self.first_names.insert(node.id, path.clone());
        }
        let entry = self.walked.entries.len();
        let node_id = node.id;
        self.walked.files.push(WalkedFile {
            entry,
            node: node_id,
            bytes,
        });
        self.add(node, path, EntryContent::File(no_content()));
    }

    fn add(&mut self, node: &Node, path: Vec<u8>, content: EntryContent) {
        self.walked.entries.push(Entry {
            path,
            mode: node.attributes.mode,
            uid: node.attributes.uid,
            gid: node.attributes.gid,
            mtime_ns: self.tree.times(node).mtime_ns,
            content,
        });
    }

    fn leave_out(&mut self, path: &[u8], reason: &str, is_wanted: bool) {
        self.walked.left_out.push(LeftOutFact {
            path: shown(path),
            reason: reason.to_owned(),
            is_wanted,
        });
    }
}

/// The content of a file before it is read.
fn no_content() -> FileContent {
    FileContent {
        bytes: 0,
        unit_bytes: 1,
        digest: Digest::default(),
        extents: Vec::new(),
        version: None,
    }
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::File | FileType::Directory | FileType::SymbolicLink => "no file",
    }
}
