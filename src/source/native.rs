//! The native engine's directory as a source: pinned through the engine that runs on it, or without one.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::database::{
    DatabaseError, NativeHeader, OfflinePin, OnFull, PAGE_FILE, SNAPSHOT_FILE, SOCKET_FILE,
    StillPages, is_held_by_engine, looks_like_database, pin_offline,
};
use crate::id::HistoryId;
use crate::os::path::{Metadata, metadata};
use crate::os::real_disk::RealFile;
use crate::os::{Host, LockKind, OpenMode};
use crate::pin::{
    ClientLease, Name, OnShadowFull, PinClient, PinError, PinFacts, PinFiles, PinRequest, WirePath,
};
use crate::source::native_lease::{NativeLease, Reclaim};
use crate::source::{PinAs, PinnedSource, ReadMeter, SourceError, SourceFacts};
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
        Ok(_) => Err(not_a_source(host, path)),
    }
}

/// Why `path` is not taken for a database: whoever may not look cannot know that it is none.
fn not_a_source(host: &Host, path: &Path) -> SourceError {
    let file = path.join(PAGE_FILE);
    match host.disk.open(&file, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            SourceError::io("open", &file)(error)
        }
        _ => SourceError::NotASource {
            path: path.to_owned(),
        },
    }
}

/// A pin of the database at `dir`, with its page file open.
#[derive(Debug)]
pub(super) struct NativePin<L = ClientLease> {
    pub(super) facts: PinFacts,
    pub(super) file: Arc<PinnedFile>,
    pub(super) lease: L,
}

/// How long a mount waits for whoever holds the directory and answers at no socket.
const HOLDER_PATIENCE: Duration = Duration::from_secs(10);
const HOLDER_PAUSE: Duration = Duration::from_millis(50);

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
    let pin = client.pin(&request_of(pin_as))?;
    let file = open_view(dir, &pin.facts, pin.files)?;
    Ok(NativePin {
        facts: pin.facts,
        file,
        lease: pin.lease,
    })
}

fn request_of(pin_as: &PinAs<'_>) -> PinRequest {
    let options = &pin_as.options;
    PinRequest {
        max_age_ms: Some(u64::try_from(options.max_age.as_millis()).unwrap_or(u64::MAX)),
        on_full: match options.on_full {
            OnFull::Break => OnShadowFull::Break,
            OnFull::Hold => OnShadowFull::Hold,
        },
        shadow_limit_bytes: options.shadow_limit_bytes,
        holder: Name::cut(pin_as.holder),
        mount_point: mount_point_of(pin_as),
    }
}

fn mount_point_of(pin_as: &PinAs<'_>) -> WirePath {
    let path = pin_as.mount_point.and_then(WirePath::new);
    path.unwrap_or_default()
}

/// Asks the engine that runs on `dir` for a pin, or takes one if none runs. Whoever holds the directory
/// and answers nobody, because he starts, stops, or pins it himself, is waited for.
///
/// Errors: as for [`connect`]; `NotWritable`, `Database` of a pin without an engine.
fn connect_or_take(
    host: &Host,
    dir: &Path,
    pin_as: &PinAs<'_>,
) -> Result<NativePin<Option<ClientLease>>, SourceError> {
    let begun = host.clock.monotonic();
    let mut is_told = false;
    loop {
        let refused = match connect(host, dir, pin_as) {
            Ok(NativePin { facts, file, lease }) => {
                let lease = Some(lease);
                return Ok(NativePin { facts, file, lease });
            }
            Err(SourceError::NotRunning { .. } | SourceError::NoPinServer { .. }) => {
                match pin_offline(host, dir, &request_of(pin_as)) {
                    Ok(OfflinePin { facts, files }) => {
                        let file = open_view(dir, &facts, files)?;
                        let lease = None;
                        return Ok(NativePin { facts, file, lease });
                    }
                    Err(error) => without_engine(dir, error),
                }
            }
            Err(error) => error,
        };
        let is_late = host.clock.monotonic().saturating_sub(begun) >= HOLDER_PATIENCE;
        if !super::still::is_passing(&refused) {
            return Err(refused);
        }
        if is_late && is_held_by_engine(host, dir) {
            let path = dir.to_owned();
            return Err(SourceError::NoPinServer { path });
        }
        if is_late {
            return Err(refused);
        }
        if !is_told {
            is_told = true;
            tracing::info!(cause = %refused, "waiting for whoever holds the directory");
        }
        host.clock.sleep(HOLDER_PAUSE);
    }
}

/// Why a pin without an engine was not had.
fn without_engine(dir: &Path, error: DatabaseError) -> SourceError {
    let is_refusal = |kind| {
        matches!(
            kind,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        )
    };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(system) = inner.downcast_ref::<io::Error>()
            && is_refusal(system.kind())
        {
            return SourceError::NotWritable {
                path: dir.to_owned(),
                source: system.kind().into(),
            };
        }
        cause = inner.source();
    }
    match error {
        DatabaseError::Engine(error) => SourceError::Engine(error),
        error => SourceError::Database(error),
    }
}

fn open_view(
    dir: &Path,
    facts: &PinFacts,
    files: PinFiles,
) -> Result<Arc<PinnedFile>, SourceError> {
    let data = dir.join(PAGE_FILE);
    let there = metadata(&data).map_err(SourceError::io("look at", &data))?;
    if there.identity != facts.live_file() {
        return Err(SourceError::Moved { path: data });
    }
    let file = |fd: OwnedFd| Arc::new(RealFile::from_fd(fd));
    let (live, slots, index) = (file(files.live), file(files.shadow), file(files.index));
    let view = PinnedFile::open(live, slots, index, Arc::new(NativeHeader))?;
    let header = view.header();
    let seen = (
        header.pin,
        header.timestamp,
        header.lsn,
        header.page_count,
        header.wall_ns,
    );
    let told = (
        facts.pin_id,
        facts.timestamp,
        facts.lsn,
        facts.page_count,
        facts.wall_ns,
    );
    if seen != told {
        return Err(SourceError::Moved { path: data });
    }
    Ok(Arc::new(view))
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

/// Pins the database at `dir`, with its engine or without one, and builds the tree of its view.
///
/// Errors: as for [`connect`]; `NotWritable`, `Database`.
pub(super) fn pin(
    host: &Host,
    dir: &Path,
    pin_as: &PinAs<'_>,
) -> Result<PinnedSource, SourceError> {
    let NativePin { facts, file, lease } = connect_or_take(host, dir, pin_as)?;
    let data = dir.join(PAGE_FILE);
    let of_dir = metadata(dir).map_err(SourceError::io("look at", dir))?;
    let of_file = metadata(&data).map_err(SourceError::io("look at", &data))?;
    let pages = StillPages::new(host.disk.clone(), dir, file.clone());
    let tree = build_tree(dir, &facts, Arc::new(pages), &of_dir, &of_file);
    Ok(PinnedSource {
        tree: Arc::new(tree),
        lease: Box::new(NativeLease::new(
            host,
            Reclaim {
                dir: dir.to_owned(),
                facts: facts.clone(),
                holder: Name::cut(pin_as.holder),
                mount_point: mount_point_of(pin_as),
            },
            file.clone(),
            lease,
        )),
        facts: SourceFacts {
            kind: KIND,
            pin: facts.pin_id,
            timestamp: Some(facts.timestamp),
            lsn: Some(facts.lsn),
            wall_ns: facts.wall_ns,
            skew: Duration::ZERO,
            max_age: Duration::from_millis(facts.max_age_ms),
        },
        reads: file,
        left_out: Vec::new(),
    })
}

fn build_tree(
    dir: &Path,
    facts: &PinFacts,
    pages: Arc<StillPages>,
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
    let pages = node(of_file.identity.inode, Content::Paged(pages), xattrs);
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
