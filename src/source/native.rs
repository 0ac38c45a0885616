//! The native engine's directory as a source: pinned through the engine that runs on it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::database::{
    NativeHeader, OnFull, PAGE_FILE, SNAPSHOT_FILE, SOCKET_FILE, looks_like_database,
};
use crate::id::HistoryId;
use crate::os::path::{Metadata, metadata};
use crate::os::real_disk::RealFile;
use crate::os::{Host, LockKind, OpenMode};
use crate::pin::{
    ClientLease, LeaseState, Name, OnShadowFull, PinClient, PinError, PinFacts, PinRequest,
    WirePath,
};
use crate::source::{
    LeaseView, PinAs, PinnedSource, ReadMeter, SourceError, SourceFacts, SourceLease,
};
use crate::view::tree::{Attributes, Content, Node, NodeId, ReadError, Tree};
use crate::view::{PinnedFile, ReadCounts};

/// What the facts call this kind of source.
pub const KIND: &str = "stillfs";
/// Version of `snapshot.json`.
const SNAPSHOT_FORMAT: u32 = 1;

/// `snapshot.json`: what a copy of the view can be told by. Equal for every pin of one commit.
#[derive(Debug, Serialize)]
struct SnapshotJson<'a> {
    format: u32,
    stillfs: &'a str,
    source: String,
    database_id: String,
    history_id: String,
    parent_history_id: String,
    timestamp: u64,
    lsn: u64,
    wall_clock: String,
    wall_clock_ns: u64,
    page_size: u32,
    page_count: u64,
}

/// Whether a native database is at `path`.
///
/// Errors: `Missing`, `NotASource`, `Io`.
pub fn recognise(host: &Host, path: &Path) -> Result<(), SourceError> {
    match metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SourceError::Missing {
            path: path.to_owned(),
        }),
        Err(error) => Err(SourceError::io("look at", path)(error)),
        Ok(_) if looks_like_database(host, path) => Ok(()),
        Ok(_) => Err(SourceError::NotASource {
            path: path.to_owned(),
        }),
    }
}

/// A pin of the running engine at `dir`, with its page file open.
#[derive(Debug)]
pub(super) struct NativePin {
    pub(super) facts: PinFacts,
    pub(super) file: Arc<PinnedFile>,
    pub(super) lease: ClientLease,
}

/// Asks the engine that runs on `dir` for a pin and opens its view.
///
/// Errors: `NotRunning`, `NoPinServer`, `Moved`, `Pin`, `View`, `Io`.
pub(super) fn connect(
    host: &Host,
    dir: &Path,
    pin_as: &PinAs<'_>,
) -> Result<NativePin, SourceError> {
    let client =
        PinClient::connect(&dir.join(SOCKET_FILE), pin_as.holder).map_err(|error| match error {
            PinError::NotRunning { .. } => not_running(host, dir),
            error => error.into(),
        })?;
    let options = &pin_as.options;
    let request = PinRequest {
        max_age_ms: Some(u64::try_from(options.max_age.as_millis()).unwrap_or(u64::MAX)),
        on_full: match options.on_full {
            OnFull::Break => OnShadowFull::Break,
            OnFull::Hold => OnShadowFull::Hold,
        },
        shadow_limit_bytes: options.shadow_limit_bytes,
        holder: Name::cut(pin_as.holder),
        mount_point: pin_as
            .mount_point
            .and_then(WirePath::new)
            .unwrap_or_default(),
    };
    let pin = client.pin(&request)?;
    let data = dir.join(PAGE_FILE);
    let there = metadata(&data).map_err(SourceError::io("look at", &data))?;
    if there.identity != pin.facts.live_file() {
        return Err(SourceError::Moved { path: data });
    }
    let file = |fd: OwnedFd| Arc::new(RealFile::from_fd(fd));
    let (live, slots, index) = (
        file(pin.files.live),
        file(pin.files.shadow),
        file(pin.files.index),
    );
    let view = PinnedFile::open(live, slots, index, Arc::new(NativeHeader))?;
    let header = view.header();
    let seen = (
        header.pin,
        header.timestamp,
        header.lsn,
        header.page_count,
        header.wall_ns,
    );
    let told = &pin.facts;
    let told = (
        told.pin_id,
        told.timestamp,
        told.lsn,
        told.page_count,
        told.wall_ns,
    );
    if seen != told {
        return Err(SourceError::Moved { path: data });
    }
    Ok(NativePin {
        facts: pin.facts,
        file: Arc::new(view),
        lease: pin.lease,
    })
}

/// Nobody answers at the socket: whether an engine runs is told by the directory's lock.
fn not_running(host: &Host, dir: &Path) -> SourceError {
    let path = dir.to_owned();
    let locked = host
        .disk
        .open(dir, OpenMode::Directory)
        .and_then(|handle| handle.try_lock(LockKind::Shared));
    match locked {
        Ok(false) => SourceError::NoPinServer { path },
        _ => SourceError::NotRunning { path },
    }
}

/// Pins the running engine at `dir` and builds the tree of its view.
///
/// Errors: as for [`connect`].
pub(super) fn pin(
    host: &Host,
    dir: &Path,
    pin_as: &PinAs<'_>,
) -> Result<PinnedSource, SourceError> {
    let NativePin { facts, file, lease } = connect(host, dir, pin_as)?;
    let data = dir.join(PAGE_FILE);
    let of_dir = metadata(dir).map_err(SourceError::io("look at", dir))?;
    let of_file = metadata(&data).map_err(SourceError::io("look at", &data))?;
    let tree = build_tree(dir, &facts, &file, &of_dir, &of_file);
    Ok(PinnedSource {
        tree: Arc::new(tree),
        facts: SourceFacts {
            kind: KIND,
            pin: facts.pin_id,
            timestamp: facts.timestamp,
            lsn: facts.lsn,
            wall_ns: facts.wall_ns,
            max_age: Duration::from_millis(facts.max_age_ms),
        },
        reads: file,
        lease: Box::new(NativeLease(lease)),
    })
}

fn build_tree(
    dir: &Path,
    facts: &PinFacts,
    file: &Arc<PinnedFile>,
    of_dir: &Metadata,
    of_file: &Metadata,
) -> Tree {
    let attributes = |of: &Metadata| Attributes {
        mode: u16::try_from(of.mode & 0o7777).unwrap_or(0o600),
        uid: of.uid,
        gid: of.gid,
        changed_ns: facts.wall_ns,
    };
    let xattrs = xattrs(dir, facts);
    let mut tree = Tree::new(attributes(of_dir), xattrs.clone());
    let node = |inode: u64, content: Content, xattrs| Node {
        id: NodeId(inode),
        parent: NodeId::ROOT,
        attributes: attributes(of_file),
        content,
        xattrs,
    };
    let pages = node(of_file.identity.inode, Content::Paged(file.clone()), xattrs);
    tree.insert(OsStr::new(PAGE_FILE), pages);
    let json = Content::Bytes(snapshot_json(dir, facts).into());
    // A number that no file of the source's file system has, and the same at every mount.
    let beside = of_file.identity.inode ^ (1 << 62);
    let mut json = node(beside, json, BTreeMap::new());
    // borg does not remember the file that changed last in an archive, lest it changed once more: let
    // that be the small one.
    json.attributes.changed_ns = facts.wall_ns.saturating_add(1);
    tree.insert(OsStr::new(SNAPSHOT_FILE), json);
    tree
}

fn view_history(facts: &PinFacts) -> HistoryId {
    HistoryId::of_view(facts.database_id, facts.history_id, facts.timestamp)
}

fn snapshot_json(dir: &Path, facts: &PinFacts) -> Vec<u8> {
    let json = SnapshotJson {
        format: SNAPSHOT_FORMAT,
        stillfs: env!("CARGO_PKG_VERSION"),
        source: dir.display().to_string(),
        database_id: facts.database_id.to_string(),
        history_id: view_history(facts).to_string(),
        parent_history_id: facts.history_id.to_string(),
        timestamp: facts.timestamp.0,
        lsn: facts.lsn.0,
        wall_clock: rfc3339(facts.wall_ns),
        wall_clock_ns: facts.wall_ns,
        page_size: facts.page_size.get(),
        page_count: facts.page_count,
    };
    let mut text = serde_json::to_vec_pretty(&json).expect("plain fields encode");
    text.push(b'\n');
    text
}

/// A wall clock in RFC 3339, UTC, to the nanosecond.
#[must_use]
pub fn rfc3339(wall_ns: u64) -> String {
    let at = jiff::Timestamp::from_nanosecond(i128::from(wall_ns));
    at.map_or_else(|_| format!("{wall_ns} ns"), |at| at.to_string())
}

/// Facts of the snapshot that never change: nothing of the pin itself.
fn xattrs(dir: &Path, facts: &PinFacts) -> BTreeMap<OsString, Vec<u8>> {
    let fact = |name: &str, value: String| {
        (
            OsString::from(format!("user.stillfs.{name}")),
            value.into_bytes(),
        )
    };
    BTreeMap::from([
        fact("source", dir.display().to_string()),
        fact("database_id", facts.database_id.to_string()),
        fact("history_id", view_history(facts).to_string()),
        fact("timestamp", facts.timestamp.to_string()),
        fact("lsn", facts.lsn.to_string()),
        fact("wall_clock", rfc3339(facts.wall_ns)),
    ])
}

impl ReadMeter for PinnedFile {
    fn counts(&self) -> ReadCounts {
        Self::counts(self)
    }

    fn last_failure(&self) -> Option<String> {
        Self::last_failure(self)
    }

    fn look(&self) -> Result<(), ReadError> {
        Self::look(self)
    }

    fn expire(&self) {
        Self::expire(self);
    }
}

#[derive(Debug)]
struct NativeLease(ClientLease);

impl SourceLease for NativeLease {
    fn watch(&mut self, timeout: Duration) -> LeaseView {
        match self.0.wait_end(timeout) {
            Ok(LeaseState::Held) => LeaseView::Held,
            Ok(LeaseState::Ended(reason)) => LeaseView::Ended(reason),
            Ok(LeaseState::EngineGone) | Err(_) => LeaseView::EngineGone,
        }
    }

    fn release(self: Box<Self>) -> Result<(), SourceError> {
        match self.0.release() {
            // With the engine gone there is nobody left to tell.
            Err(PinError::Closed { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
