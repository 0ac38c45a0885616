//! What a mount of a file or a tree says of itself: `.stillfs/snapshot.json`, and the attributes of its
//! root.
//!
//! Nothing in it differs between two pins of one state: what is of a pin alone, as how far apart the
//! databases of a tree were pinned, and what a view is read from, is told by `status`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use serde::Serialize;

use crate::source::native::{self, rfc3339};
use crate::source::sqlite::{self, JournalShown, PinnedLog, PinnedSqlite};
use crate::source::{Files, HeaderShown, Instant, PinAs, PinnedSource};
use crate::view::tree::{Attributes, Content, Node, NodeId, RangeRead, Tree};

/// Version of `snapshot.json`.
const FORMAT: u32 = 1;
/// The directory that holds it: in the root, and never listed.
pub(super) const FACTS_DIR: &str = ".stillfs";
/// Its name there.
const FACTS_FILE: &str = "snapshot.json";
/// Set in the inode numbers of what no source has.
const OWN_INODE: u64 = 1 << 62;
/// By how much the time of the facts may be off.
const UNSURE_NS: u64 = 1 << 20;

/// What is known of one pinned database.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DatabaseFacts {
    /// Where it is in the mount.
    pub(super) path: String,
    /// `sqlite` or `stillfs`.
    kind: &'static str,
    /// What the shown header says; none for a native database.
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<&'static str>,
    page_size: u64,
    page_count: u64,
    /// Which log the pinned state ends in, and how many frames of it are of that state.
    #[serde(skip_serializing_if = "Option::is_none")]
    wal_salts: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wal_frames: Option<u32>,
    bytes: u64,
    /// The last change at or before the pin.
    changed: String,
    changed_ns: u64,
    /// How the shown file is opened in place.
    open_with: String,
}

impl DatabaseFacts {
    /// Facts of an SQLite database that is shown at `path`.
    pub(super) fn of_sqlite(path: &Path, pinned: &PinnedSqlite) -> Self {
        let status = pinned.view.status();
        let changed_ns = pinned.attributes.changed_ns;
        Self {
            path: path.display().to_string(),
            kind: sqlite::KIND,
            journal: Some(journal_name(pinned.view.journal_shown())),
            page_size: status.page_size,
            page_count: status.page_count,
            wal_salts: pinned.log.map(salts_text),
            wal_frames: pinned.log.map(|log| log.frame_count),
            bytes: pinned.view.size(),
            changed: rfc3339(changed_ns),
            changed_ns,
            open_with: status.open_with,
        }
    }

    /// Facts of a native database that is shown at `path`.
    pub(super) fn of_native(path: &Path, source: &PinnedSource) -> Self {
        let changed_ns = source.facts.wall_ns;
        Self {
            path: path.display().to_string(),
            kind: native::KIND,
            journal: None,
            page_size: 0,
            page_count: 0,
            wal_salts: None,
            wal_frames: None,
            bytes: source.tree.total_bytes(),
            changed: rfc3339(changed_ns),
            changed_ns,
            open_with: String::new(),
        }
    }

    /// The attributes that the file of the database has of ours.
    pub(super) fn xattrs(&self) -> BTreeMap<OsString, Vec<u8>> {
        let size = |value: u64| (value > 0).then(|| value.to_string());
        let facts = [
            ("journal", self.journal.map(str::to_owned)),
            ("page_size", size(self.page_size)),
            ("page_count", size(self.page_count)),
            ("wal_salts", self.wal_salts.clone()),
            (
                "wal_frames",
                self.wal_frames.map(|frames| frames.to_string()),
            ),
        ];
        let known = facts.into_iter();
        known
            .filter_map(|(name, value)| Some(fact(name, value?)))
            .collect()
    }
}

/// An attribute of ours.
fn fact(name: &str, value: String) -> (OsString, Vec<u8>) {
    let name = OsString::from(format!("user.stillfs.{name}"));
    (name, value.into_bytes())
}

fn journal_name(journal: JournalShown) -> &'static str {
    match journal {
        JournalShown::Wal => "wal",
        JournalShown::Rollback => "rollback",
        JournalShown::Encrypted => "encrypted",
        JournalShown::Empty => "empty",
    }
}

/// As the header of the log has them.
fn salts_text(log: PinnedLog) -> String {
    let digits = log.salts.iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// What is known of a whole view.
#[derive(Debug)]
pub(super) struct ViewFacts<'a> {
    /// Kind of the source.
    pub(super) kind: &'static str,
    /// Where it is.
    pub(super) source: &'a Path,
    /// Whether it is a tree.
    pub(super) is_tree: bool,
    /// Its databases.
    pub(super) databases: Vec<DatabaseFacts>,
}

#[derive(Debug, Serialize)]
struct SnapshotJson<'a> {
    format: u32,
    stillfs: &'a str,
    kind: &'a str,
    source: String,
    sqlite_header: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_atomic_set: Option<bool>,
    databases: &'a [DatabaseFacts],
}

/// FNV-1a: the same in every build.
fn hash_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn header_name(header: HeaderShown) -> &'static str {
    match header {
        HeaderShown::AsItIs => "as it is",
        HeaderShown::Rollback => "rollback",
    }
}

impl ViewFacts<'_> {
    fn json(&self, pin_as: &PinAs<'_>) -> Vec<u8> {
        let is_tree = self.is_tree;
        let files = match pin_as.tree.files {
            Files::Live => "live",
            Files::Clone => "clone",
        };
        let json = SnapshotJson {
            format: FORMAT,
            stillfs: env!("CARGO_PKG_VERSION"),
            kind: self.kind,
            source: self.source.display().to_string(),
            sqlite_header: header_name(pin_as.sqlite.header),
            files: is_tree.then_some(files),
            is_atomic_set: is_tree.then_some(pin_as.tree.instant == Instant::Same),
            databases: &self.databases,
        };
        let mut text = serde_json::to_vec_pretty(&json).expect("plain fields encode");
        text.push(b'\n');
        text
    }

    /// The attributes that the root of the view has.
    pub(super) fn xattrs(&self, pin_as: &PinAs<'_>) -> BTreeMap<OsString, Vec<u8>> {
        let mut facts = BTreeMap::from([
            fact("kind", self.kind.to_owned()),
            fact("source", self.source.display().to_string()),
            fact("databases", self.databases.len().to_string()),
            fact(
                "sqlite_header",
                header_name(pin_as.sqlite.header).to_owned(),
            ),
        ]);
        facts.extend(self.changed_ns().map(|ns| fact("changed", rfc3339(ns))));
        facts
    }

    /// When the database that was changed last was.
    fn changed_ns(&self) -> Option<u64> {
        let changed_ns = self.databases.iter().map(|database| database.changed_ns);
        changed_ns.max()
    }

    /// Puts the file of facts into `tree`; numbers follow from `inode`. It was changed when the last
    /// database was: less something that tells its content from another of that time.
    pub(super) fn put(&self, tree: &mut Tree, pin_as: &PinAs<'_>, inode: u64) {
        let Some(root) = tree.node(NodeId::ROOT) else {
            return;
        };
        let json = self.json(pin_as);
        let latest_ns = self.changed_ns().unwrap_or(root.attributes.changed_ns);
        let changed_ns = latest_ns.saturating_sub(hash_of(&json) % UNSURE_NS);
        let of_dir = Attributes {
            changed_ns,
            ..root.attributes.clone()
        };
        let of_file = Attributes {
            mode: of_dir.mode & 0o444,
            ..of_dir.clone()
        };
        let node = |id, parent, attributes, content| Node {
            id: NodeId(id),
            parent,
            attributes,
            content,
            xattrs: BTreeMap::new(),
        };
        let content = Content::Directory(BTreeMap::new());
        let dir = node(inode ^ OWN_INODE, NodeId::ROOT, of_dir, content);
        let dir = tree.insert(OsStr::new(FACTS_DIR), dir);
        let content = Content::Bytes(json.into());
        let file = node(inode ^ (OWN_INODE | OWN_INODE >> 1), dir, of_file, content);
        tree.insert(OsStr::new(FACTS_FILE), file);
    }
}
