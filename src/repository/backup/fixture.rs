//! Sources and repositories for the tests of backups: pages that tell who read them, live files that
//! change under the reader, objects that cannot be stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::{Lsn, Timestamp};
use crate::os::{Host, SimulatedHost};
use crate::page::{self, PageKind, PageNo};
use crate::repository::backup::{BackupOptions, BackupReport, Still, Subject, Wanted, backup};
use crate::repository::blob_reader::BlobReader;
use crate::repository::catalog::Repository;
use crate::repository::compression::Compression;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::{
    BackupFacts, EntryContent, Extent, FileContent, Manifest, SourceName,
};
use crate::repository::progress::Control;
use crate::repository::store::{LineLock, MarksLock, ObjectName, Put, Store, WriterLock};
use crate::view::tree::{
    Attributes, Content, EndSeen, Node, NodeId, PageVersion, RangeRead, ReadError, Tree,
};

pub(super) const PAGE_BYTES: usize = 4096;

/// A machine with a repository.
pub(super) struct Rig {
    pub(super) machine: SimulatedHost,
    pub(super) repository: Repository,
}

impl Rig {
    pub(super) fn new(seed: u64) -> Self {
        let machine = Host::simulated(seed);
        let repository = Repository::open_or_create(&machine.host, Path::new("/repo")).unwrap();
        Self {
            machine,
            repository,
        }
    }

    /// The same repository, whose objects go through `gate`.
    pub(super) fn gated(&self, gate: Gate) -> (Repository, Arc<GatedStore>) {
        let store = Arc::new(GatedStore {
            inner: self.repository.store().clone(),
            puts: AtomicU64::new(0),
            slow_puts: AtomicU64::new(0),
            gate,
        });
        let repository = Repository::on(&self.machine.host, store.clone()).unwrap();
        (repository, store)
    }

    pub(super) fn backup(&self, subject: Subject, options: &BackupOptions) -> Result<BackupReport> {
        backup(&self.repository, subject, options, &Control::default())
    }

    pub(super) fn packs(&self) -> usize {
        self.repository.store().list("packs").unwrap().len()
    }

    pub(super) fn manifest(&self, facts: &BackupFacts) -> Manifest {
        self.repository.manifest(&facts.id).unwrap()
    }

    /// BK5: what a restore would find under `path`.
    pub(super) fn content(&self, facts: &BackupFacts, path: &str) -> Vec<u8> {
        let manifest = self.manifest(facts);
        let file = file_of(&manifest, path);
        let reader = BlobReader::new(&self.repository);
        let mut out = Vec::new();
        for extent in &file.extents {
            match manifest.packs.get(extent.pack as usize) {
                Some(pack) => reader
                    .read(*pack, extent.slot, extent.count, &mut out)
                    .unwrap(),
                None => {
                    assert_eq!(extent.pack, Extent::ZEROS);
                    let bytes = extent.count as usize * file.unit_bytes as usize;
                    out.resize(out.len() + bytes, 0);
                }
            }
        }
        out.truncate(usize::try_from(file.bytes).unwrap());
        assert_eq!(out.len() as u64, file.bytes, "extents cover the file");
        out
    }
}

pub(super) fn file_of<'a>(manifest: &'a Manifest, path: &str) -> &'a FileContent {
    let entry = manifest.entries.iter();
    let entry = entry.clone().find(|entry| entry.path == path.as_bytes());
    match &entry.unwrap_or_else(|| panic!("no {path}")).content {
        EntryContent::File(file) => file,
        other => panic!("{path} is {other:?}"),
    }
}

pub(super) fn options(wanted: Wanted) -> BackupOptions {
    BackupOptions {
        wanted,
        workers: 2,
        compression: Compression::Lz4,
        ..BackupOptions::default()
    }
}

/// Bytes that do not compress, the same for the same seed.
pub(super) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// A native database that commits when a test says so.
pub(super) struct Model {
    pages: Vec<Vec<u8>>,
    pub(super) history: HistoryId,
    pub(super) lsn: Lsn,
    /// Who wrote the last commit, and those before.
    pub(super) epoch: Epoch,
    /// The wall clock of the next commit, less its number.
    pub(super) wall_ns: u64,
    seed: u64,
    /// Of each commit, the pages that it changed.
    commits: Vec<(Lsn, BTreeSet<u64>)>,
    /// And its wall clock.
    walls: Vec<(Lsn, u64)>,
}

/// Who can say what changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Knows {
    Changes,
    Nothing,
    /// It leaves this page out: a lie.
    ChangesBut(u64),
}

impl Model {
    pub(super) fn new(page_count: u64) -> Self {
        let mut model = Self {
            pages: Vec::new(),
            history: HistoryId([2; 16]),
            lsn: Lsn(1000),
            epoch: Epoch(9),
            wall_ns: 1_000_000,
            seed: 7,
            commits: Vec::new(),
            walls: Vec::new(),
        };
        model.commit(0..page_count);
        model
    }

    /// Writes these pages anew, and both headers.
    pub(super) fn commit(&mut self, pages: impl IntoIterator<Item = u64>) {
        self.lsn = Lsn(self.lsn.0 + 1000);
        let changed: BTreeSet<u64> = pages.into_iter().chain([0, 1]).collect();
        for &page in &changed {
            self.seed += 1;
            let mut bytes = noise(self.seed, PAGE_BYTES);
            page::format_header(&mut bytes, PageNo(page), PageKind::Leaf);
            page::seal(&mut bytes, self.lsn);
            let at = usize::try_from(page).unwrap();
            self.pages
                .resize(self.pages.len().max(at + 1), bytes.clone());
            self.pages[at] = bytes;
        }
        self.commits.push((self.lsn, changed));
        let number = self.commits.len() as u64;
        self.walls.push((self.lsn, self.wall_ns + number));
    }

    pub(super) fn cut(&mut self, page_count: usize) {
        self.pages.truncate(page_count);
        self.commit([]);
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.pages.concat()
    }

    pub(super) fn view(&self, knows: Knows) -> Arc<Pages> {
        Arc::new(Pages {
            bytes: self.bytes(),
            page_bytes: u32::try_from(PAGE_BYTES).ok(),
            version: Some(PageVersion {
                database: DatabaseId([1; 16]),
                history: self.history,
                lsn: self.lsn,
                timestamp: Timestamp(self.commits.len() as u64),
                wall_ns: self.walls.last().unwrap().1,
            }),
            epoch: self.epoch,
            walls: self.walls.clone(),
            commits: (knows != Knows::Nothing).then(|| self.commits.clone()),
            unsaid: match knows {
                Knows::ChangesBut(page) => Some(page),
                _ => None,
            },
            ..Pages::default()
        })
    }
}

type Hook = Box<dyn Fn(u64) -> Option<ReadError> + Send + Sync>;

/// Pages in memory that tell which of them were read.
#[derive(Default)]
pub(super) struct Pages {
    pub(super) bytes: Vec<u8>,
    pub(super) page_bytes: Option<u32>,
    pub(super) version: Option<PageVersion>,
    pub(super) epoch: Epoch,
    pub(super) walls: Vec<(Lsn, u64)>,
    pub(super) commits: Option<Vec<(Lsn, BTreeSet<u64>)>>,
    pub(super) unsaid: Option<u64>,
    pub(super) reads: Mutex<Vec<u64>>,
    /// What a commit to the original changes, where that can be seen.
    pub(super) commits_seen: Option<Arc<AtomicU64>>,
    /// Called before each read with the number of its first page.
    pub(super) hook: Option<Hook>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

impl Pages {
    /// An SQLite database, or a plain file where `page_bytes` is `None`.
    pub(super) fn of(bytes: Vec<u8>, page_bytes: Option<u32>) -> Self {
        Self {
            bytes,
            page_bytes,
            ..Self::default()
        }
    }

    /// The pages that were read, in order; none may be read twice.
    pub(super) fn read_pages(&self) -> Vec<u64> {
        let mut pages = self.reads.lock().clone();
        pages.sort_unstable();
        assert!(pages.windows(2).all(|pair| pair[0] < pair[1]), "{pages:?}");
        pages
    }
}

impl RangeRead for Pages {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let unit = u64::from(self.page_bytes.unwrap_or(1 << 16));
        let end = offset + out.len() as u64;
        let pages = offset / unit..end.div_ceil(unit);
        if let Some(error) = self.hook.as_ref().and_then(|hook| hook(pages.start)) {
            return Err(error);
        }
        self.reads.lock().extend(pages);
        let at = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.bytes[at..at + out.len()]);
        Ok(())
    }

    fn page_bytes(&self) -> Option<u32> {
        self.page_bytes
    }

    fn version(&self) -> Option<PageVersion> {
        self.version
    }

    fn incarnation_of(&self, _lsn: Lsn) -> Option<Epoch> {
        self.version.map(|_| self.epoch)
    }

    fn commit_at(&self, lsn: Lsn) -> Option<(Epoch, u64)> {
        let found = self.walls.iter().find(|(at, _)| *at == lsn);
        found.map(|(_, wall_ns)| (self.epoch, *wall_ns))
    }

    fn write_mark(&self) -> Option<u64> {
        let seen = self.commits_seen.as_ref()?;
        Some(seen.load(Ordering::SeqCst))
    }

    fn changed_since(&self, since: Lsn) -> Option<Vec<Range<u64>>> {
        let later = self.commits.as_ref()?.iter();
        let changed = later.filter(|(lsn, _)| *lsn > since);
        let pages = changed.flat_map(|(_, pages)| pages.iter().copied());
        let said = pages.filter(|page| Some(*page) != self.unsaid);
        Some(said.map(|page| page..page + 1).collect())
    }
}

/// A tree that is built name by name.
pub(super) struct Source {
    tree: Tree,
    dirs: BTreeMap<String, NodeId>,
    kind: &'static str,
    is_lost: bool,
    pub(super) given_up: Arc<AtomicU64>,
}

impl Source {
    pub(super) fn new(kind: &'static str) -> Self {
        Self {
            tree: Tree::new(attributes(0o755), BTreeMap::new()),
            dirs: BTreeMap::from([(String::new(), NodeId::ROOT)]),
            kind,
            is_lost: false,
            given_up: Arc::default(),
        }
    }

    /// A native database.
    pub(super) fn native(pages: &Arc<Pages>) -> Self {
        let facts = Content::Bytes(b"{}".as_slice().into());
        let pages = Content::Paged(pages.clone());
        Self::new("stillfs")
            .with("data.pages", pages)
            .with("snapshot.json", facts)
    }

    /// A pin that is lost by the time that somebody looks.
    pub(super) fn lost(mut self) -> Self {
        self.is_lost = true;
        self
    }

    fn parent(&self, path: &str) -> (NodeId, String) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.dirs[dir], name.to_owned())
    }

    pub(super) fn add(&mut self, path: &str, content: Content) -> NodeId {
        let (parent, name) = self.parent(path);
        let is_directory = matches!(content, Content::Directory(_));
        let id = self.tree.insert(
            name.as_ref(),
            Node {
                id: NodeId(self.tree.node_count() + 1),
                parent,
                attributes: attributes(0o640),
                content,
                xattrs: BTreeMap::new(),
            },
        );
        if is_directory {
            self.dirs.insert(path.to_owned(), id);
        }
        id
    }

    pub(super) fn with(mut self, path: &str, content: Content) -> Self {
        self.add(path, content);
        self
    }

    pub(super) fn file(self, path: &str, bytes: &[u8]) -> Self {
        self.with(path, Content::Bytes(bytes.into()))
    }

    pub(super) fn directory(self, path: &str) -> Self {
        self.with(path, Content::Directory(BTreeMap::new()))
    }

    pub(super) fn link(&mut self, path: &str, id: NodeId) {
        let (parent, name) = self.parent(path);
        self.tree.link(parent, name.as_ref(), id);
    }

    pub(super) fn subject(self) -> Subject {
        Subject {
            tree: Arc::new(self.tree),
            source: SourceName {
                kind: self.kind.to_owned(),
                path: "/source".to_owned(),
                host: "here".to_owned(),
            },
            moment_ns: 5,
            left_out: Vec::new(),
            still: Arc::new(Stands(!self.is_lost)),
            keeper: Box::new(Keeper(self.given_up)),
        }
    }
}

fn attributes(mode: u16) -> Attributes {
    Attributes {
        mode,
        uid: 3,
        gid: 4,
        changed_ns: 77,
    }
}

struct Stands(bool);

impl Still for Stands {
    fn look(&self) -> Result<(), ReadError> {
        match self.0 {
            true => Ok(()),
            false => Err(lost()),
        }
    }
}

pub(super) fn lost() -> ReadError {
    ReadError::PinEnded {
        reason: EndSeen::Released,
    }
}

struct Keeper(Arc<AtomicU64>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What happens before the put of a number is made.
pub(super) type Gate = Box<dyn Fn(u64) -> Result<()> + Send + Sync>;

/// A gate that fails the put of this number.
pub(super) fn failing(number: u64) -> Gate {
    Box::new(move |put| match put == number {
        true => Err(RepositoryError::NoSpace {
            place: "here".to_owned(),
            needed: 1,
            free: 0,
        }),
        false => Ok(()),
    })
}

/// A store that asks before each put.
pub(super) struct GatedStore {
    inner: Arc<dyn Store>,
    pub(super) puts: AtomicU64,
    pub(super) slow_puts: AtomicU64,
    gate: Gate,
}

impl fmt::Debug for GatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatedStore")
    }
}

impl Store for GatedStore {
    fn put(&self, name: &ObjectName, parts: &[&[u8]], put: Put) -> Result<()> {
        (self.gate)(self.puts.fetch_add(1, Ordering::SeqCst))?;
        self.inner.put(name, parts, put)
    }

    fn put_slowly(
        &self,
        name: &ObjectName,
        parts: &[&[u8]],
        put: Put,
        rest: &dyn Fn(),
    ) -> Result<()> {
        (self.gate)(self.puts.fetch_add(1, Ordering::SeqCst))?;
        self.slow_puts.fetch_add(1, Ordering::SeqCst);
        self.inner.put_slowly(name, parts, put, rest)
    }

    fn settle(&self) -> Result<()> {
        self.inner.settle()
    }

    fn read_at(&self, name: &ObjectName, offset: u64, out: &mut [u8]) -> Result<()> {
        self.inner.read_at(name, offset, out)
    }

    fn size(&self, name: &ObjectName) -> Result<u64> {
        self.inner.size(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.inner.list(folder)
    }

    fn remove(&self, name: &ObjectName) -> Result<()> {
        self.inner.remove(name)
    }

    fn lock(&self) -> Result<Box<dyn WriterLock>> {
        self.inner.lock()
    }

    fn lock_marks(&self) -> Result<Box<dyn MarksLock>> {
        self.inner.lock_marks()
    }

    fn lock_line(&self, line: &str) -> Result<Box<dyn LineLock>> {
        self.inner.lock_line(line)
    }
    fn free_bytes(&self) -> Result<Option<u64>> {
        self.inner.free_bytes()
    }

    fn place(&self) -> String {
        self.inner.place()
    }
}
