//! A directory tree as a source: every database in it pinned, plain files beside them live.
//!
//! Runs in the mount daemon.
//!
//! ```text
//! walk --> open all, a few at a time --> pin all, one after the other --> finish --> tree of nodes
//! (names)  (slow: recovery, copies)      (microseconds apart)             (views)
//! ```
//!
//! * T1 Names are those that the walk saw. What vanished before it was looked at is not there; what comes
//!   later is not shown.
//! * T2 A database's helper files are not in the tree, whatever becomes of the database. A file that is
//!   named like one and has no database beside it is a plain file.
//! * T3 Nothing outside is shown, nor is a database outside opened, locked or recovered: names are walked
//!   from the open root downwards, without links, and all of a database is reached from its directory.
//! * T4 A plain file is looked at again when it is opened: another file, or a database, is not served.
//! * T5 Every database is pinned, or the tree is refused, or what is left out is told of.
//! * T6 A set of one instant has all writers stopped at that instant; otherwise none is stopped for another
//!   database's sake.
//!
//! The walk takes one look for each name and one short read for each regular file. Writers are waited for
//! within the bounds of the databases, and for `set::PATIENCE` where a set is of one instant.
//!
//! Not here: how one database is pinned (`sqlite`, `native`).

mod build;
mod clones;
mod folders;
mod live;
#[cfg(test)]
mod live_test;
mod members;
#[cfg(test)]
mod pinned_test;
mod set;
mod sidecar;
mod single;
mod walk;
#[cfg(test)]
mod walk_test;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use self::build::Parts;
use self::members::{Members, SetLease};
pub(super) use self::single::pin as pin_file;
use crate::os::path::canonical;
use crate::os::{Host, xattr};
use crate::source::{Files, PinAs, PinnedSource, SourceError, SourceFacts, draw_pin_id};

/// What the facts call this kind of source.
pub const KIND: &str = "tree";

/// Pins every database of the tree at `path`.
///
/// Errors: those of its databases, `Members`, `Part`, `NoDatabase`, `NoClone`, `TooManyFiles`, `Io`.
pub(super) fn pin(
    host: &Host,
    path: &Path,
    pin_as: &PinAs<'_>,
) -> Result<PinnedSource, SourceError> {
    let path = canonical(path).map_err(SourceError::io("look at", path))?;
    let mut walked = walk::walk(host, &path, pin_as)?;
    let has_database = !walked.databases.is_empty() || !walked.native.is_empty();
    if !has_database && pin_as.tree.files == Files::Live {
        return Err(SourceError::NoDatabase { path });
    }
    clones::check_room(&walked, pin_as)?;
    let mut left_out = std::mem::take(&mut walked.left_out);
    let pinned = set::pin(host, &path, &walked, pin_as, &mut left_out)?;
    let wall_ns = host.clock.wall_ns();
    let skew = pinned.skew;
    let plain = clones::plain_files(&path, &mut walked, pin_as)?;
    let Parts {
        tree,
        members,
        native_leases,
    } = build::build((host, &path), walked, pinned, plain, pin_as);
    let members: Arc<Members> = Arc::new(members);
    Ok(PinnedSource {
        tree: Arc::new(tree),
        facts: SourceFacts {
            kind: KIND,
            pin: draw_pin_id(host)?,
            timestamp: None,
            lsn: None,
            wall_ns,
            skew,
            max_age: pin_as.options.max_age,
        },
        reads: members.clone(),
        lease: Box::new(SetLease::new(host, members, native_leases)),
        left_out,
    })
}

/// What the file at `path` is marked with by its users: access lists and attributes of theirs. A system
/// that does not tell has none.
fn xattrs_of(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let names = xattr::names(path).unwrap_or_default();
    let is_users = |name: &OsString| {
        let name = name.as_encoded_bytes();
        let is_own = name.starts_with(b"user.stillfs.");
        (name.starts_with(b"user.") && !is_own) || name.starts_with(b"system.posix_acl_")
    };
    let names = names.into_iter().filter(is_users);
    names
        .filter_map(|name| {
            let value = xattr::get(path, &name, xattr::VALUE_BYTES_MAX).ok()?;
            Some((name, value))
        })
        .collect()
}
