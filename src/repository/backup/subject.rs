//! What is backed up: a still tree, what is known of it, and what keeps it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::database::{Database, DatabaseError, PAGE_FILE, PinOptions};
use crate::os::machine;
use crate::os::path::{canonical, metadata};
use crate::os::process::effective_user;
use crate::repository::manifest::{LeftOutFact, SourceName};
use crate::view::PinnedFile;
use crate::view::tree::{Attributes, Content, Node, NodeId, ReadError, Tree};

/// Looks whether a view still stands.
pub trait Still: Send + Sync {
    /// Errors: any of a read; nothing that was read counts then.
    fn look(&self) -> Result<(), ReadError>;
}

/// A pinned view on its way into a repository.
pub struct Subject {
    /// What is in it.
    pub tree: Arc<Tree>,
    /// What it is of.
    pub source: SourceName,
    /// The moment that it shows, nanoseconds since 1970.
    pub moment_ns: u64,
    /// What is not in the tree, and why.
    pub left_out: Vec<LeftOutFact>,
    /// Whether it still stands.
    pub still: Arc<dyn Still>,
    /// What keeps the pin: dropped when the backup ends, however it ends (BK11).
    pub keeper: Box<dyn Send>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Subject {
    /// A database of this process, pinned: what a mount of it would show.
    ///
    /// Errors: those of [`crate::Database::pin_with`].
    pub fn of_database(database: &Database, options: &PinOptions) -> Result<Self, DatabaseError> {
        let pin = database.pin_with(options)?;
        let dir = database.directory();
        let view = pin.view().clone();
        let moment_ns = view.header().wall_ns;
        let of = |path: &Path, mode| attributes_of(path, mode, moment_ns);
        let mut tree = Tree::new(of(dir, 0o700), BTreeMap::new());
        tree.insert(
            OsStr::new(PAGE_FILE),
            Node {
                id: NodeId(NodeId::ROOT.0 + 1),
                parent: NodeId::ROOT,
                attributes: of(&dir.join(PAGE_FILE), 0o600),
                content: Content::Paged(pin.content()),
                xattrs: BTreeMap::new(),
            },
        );
        let path = canonical(dir).unwrap_or_else(|_| dir.to_owned());
        Ok(Self {
            tree: Arc::new(tree),
            source: SourceName {
                kind: super::NATIVE_KIND.to_owned(),
                path: path.to_string_lossy().into_owned(),
                host: machine::name(),
            },
            moment_ns,
            left_out: Vec::new(),
            still: Arc::new(StillPin(view)),
            keeper: Box::new(pin),
        })
    }
}

/// Looks at the pin of a page file.
struct StillPin(Arc<PinnedFile>);

impl Still for StillPin {
    fn look(&self) -> Result<(), ReadError> {
        self.0.look()
    }
}

/// The attributes of what is at `path`; those of a private one of ours where nobody can look, as on a
/// simulated disk.
fn attributes_of(path: &Path, mode: u16, changed_ns: u64) -> Attributes {
    match metadata(path) {
        Ok(found) => Attributes {
            mode: u16::try_from(found.mode & 0o7777).unwrap_or(mode),
            uid: found.uid,
            gid: found.gid,
            changed_ns,
        },
        Err(_) => Attributes {
            mode,
            uid: effective_user(),
            gid: 0,
            changed_ns,
        },
    }
}
