//! One SQLite database as a source: a directory that holds the file by its own name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::members::{Members, SetLease};
use super::xattrs_of;
use crate::os::path::{canonical, metadata};
use crate::os::{FileIdentity, Host};
use crate::source::facts::{DatabaseFacts, ViewFacts};
use crate::source::sqlite::{self, PinnedSqlite, Prepared};
use crate::source::{PinAs, PinnedSource, SourceError, SourceFacts, draw_pin_id};
use crate::view::tree::{Attributes, Content, Node, NodeId, Tree};

/// Pins the database at `path` and shows it as one file; a link is followed.
///
/// Errors: `Sqlite`, `Io`.
pub(in crate::source) fn pin(
    host: &Host,
    path: &Path,
    pin_as: &PinAs<'_>,
) -> Result<PinnedSource, SourceError> {
    let path = canonical(path).map_err(SourceError::io("look at", path))?;
    let mut prepared = Prepared::open(host, &path, &pin_as.sqlite)?;
    prepared.pin()?;
    prepared.let_writers_go();
    let wall_ns = host.clock.wall_ns();
    let pinned = prepared.finish()?;
    let tree = build(&path, &pinned, pin_as)?;
    let members = Arc::new(Members {
        sqlite: vec![(PathBuf::new(), pinned.view)],
        native: Vec::new(),
    });
    Ok(PinnedSource {
        tree: Arc::new(tree),
        facts: SourceFacts {
            kind: sqlite::KIND,
            pin: draw_pin_id(host)?,
            timestamp: None,
            lsn: None,
            wall_ns,
            skew: Duration::ZERO,
            max_age: pin_as.options.max_age,
        },
        reads: members.clone(),
        lease: Box::new(SetLease::new(host, members, Vec::new())),
        left_out: Vec::new(),
    })
}

fn build(path: &Path, pinned: &PinnedSqlite, pin_as: &PinAs<'_>) -> Result<Tree, SourceError> {
    let name: OsString = path.file_name().unwrap_or_default().to_owned();
    let of_database = DatabaseFacts::of_sqlite(name.as_ref(), pinned);
    let mut xattrs = original_xattrs(path, pinned.identity);
    xattrs.extend(of_database.xattrs());
    let facts = ViewFacts {
        kind: sqlite::KIND,
        source: path,
        is_tree: false,
        databases: vec![of_database],
    };
    let mut tree = Tree::new(root(path, pinned)?, facts.xattrs(pin_as));
    facts.put(&mut tree, pin_as, pinned.identity.inode);
    let node = Node {
        id: NodeId(pinned.identity.inode.max(1)),
        parent: NodeId::ROOT,
        attributes: pinned.attributes.clone(),
        content: Content::Paged(pinned.view.clone()),
        xattrs,
    };
    tree.insert(&name, node);
    Ok(tree)
}

/// The root is the file's owner's, and opens to whom the directory that the file is in opens.
fn root(path: &Path, pinned: &PinnedSqlite) -> Result<Attributes, SourceError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let of_dir = metadata(dir).map_err(SourceError::io("look at", dir))?;
    Ok(Attributes {
        mode: u16::try_from(of_dir.mode & 0o755).unwrap_or(0) | 0o500,
        ..pinned.attributes.clone()
    })
}

/// What the file at `path` is marked with, if it is still the pinned one.
fn original_xattrs(path: &Path, identity: FileIdentity) -> BTreeMap<OsString, Vec<u8>> {
    match metadata(path) {
        Ok(found) if found.identity == identity => xattrs_of(path),
        _ => BTreeMap::new(),
    }
}
