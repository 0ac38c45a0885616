//! A folder of an application as it lies on the disk, and a mount of it: the database is a generated
//! file, the rest is live.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread;

use nix::sys::stat::{Mode, SFlag, mknod};
use stillfs::mount::{MountOptions, MountPoint, StatusSource, mount};
use stillfs::os::path::{FileType, Metadata, metadata_of, symlink_metadata};
use stillfs::os::real_disk::RealDisk;
use stillfs::os::{Disk, File, FileIdentity, LockKind, OpenMode};
use stillfs::view::tree::{
    Attributes, Content, HeldFile, LiveError, LiveFile, Node, NodeId, Special, Times, Tree,
};

use crate::machine;
use crate::rig::{Generated, Rig, can_mount, expected, is_root, run};

/// The pinned file of the folder.
pub const DATABASE: &str = "app.db";
pub const DATABASE_BYTES: u64 = 1 << 20;
/// A file of our own that nobody changes.
pub const HELD: &str = "held.bin";

/// By whom a live file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the kernel, as root has it.
    Kernel,
    /// By the daemon, as everybody else has it.
    Daemon,
}

/// What the live files of a folder have in common.
#[derive(Debug, Default)]
pub struct Shared {
    /// Bytes that the daemon read.
    pub bytes_read: AtomicU64,
    /// How many are open.
    pub open: AtomicU64,
    /// How often `stat` was asked.
    pub stats: AtomicU64,
    /// The errno of the next opens; 0 for none, -1 for a file that has become a database.
    pub refusal: AtomicI32,
}

#[derive(Debug)]
struct Plain {
    path: PathBuf,
    listed: Metadata,
    shared: Arc<Shared>,
}

impl Plain {
    fn same(&self, now: Metadata) -> Result<Metadata, LiveError> {
        let is_same = now.identity == self.listed.identity;
        is_same.then_some(now).ok_or(LiveError::Replaced)
    }
}

fn refused(op: &'static str) -> impl Fn(io::Error) -> LiveError {
    move |source| match source.kind() {
        io::ErrorKind::NotFound => LiveError::Gone,
        _ => LiveError::Io { op, source },
    }
}

impl LiveFile for Plain {
    fn stat(&self) -> Result<Metadata, LiveError> {
        self.shared.stats.fetch_add(1, Ordering::Relaxed);
        self.same(symlink_metadata(&self.path).map_err(refused("stat"))?)
    }

    fn listed(&self) -> Option<Metadata> {
        Some(self.listed)
    }

    fn open(&self) -> Result<Arc<dyn File>, LiveError> {
        match self.shared.refusal.load(Ordering::Relaxed) {
            0 => {}
            -1 => return Err(LiveError::BecameDatabase),
            number => return Err(refused("open")(io::Error::from_raw_os_error(number))),
        }
        let file = RealDisk.open(&self.path, OpenMode::Read);
        let file = file.map_err(refused("open"))?;
        let now = metadata_of(file.as_fd().unwrap()).map_err(refused("stat"))?;
        self.same(now)?;
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        let shared = self.shared.clone();
        Ok(Arc::new(Counted { file, shared }))
    }

    fn xattr_names(&self) -> Result<Vec<OsString>, LiveError> {
        machine::xattr_names(&self.path).map_err(refused("list attributes of"))
    }

    fn xattr(&self, name: &OsStr) -> Result<Option<Vec<u8>>, LiveError> {
        machine::xattr(&self.path, name).map_err(refused("get an attribute of"))
    }
}

/// A file that tells when the daemon reads it, and when it is closed.
#[derive(Debug)]
struct Counted {
    file: Arc<dyn File>,
    shared: Arc<Shared>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl File for Counted {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = self.file.read_at(out, offset)?;
        self.shared
            .bytes_read
            .fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<usize> {
        panic!("a mount does not write")
    }

    fn sync_data(&self) -> io::Result<()> {
        panic!("a mount does not write")
    }

    fn set_len(&self, _bytes: u64) -> io::Result<()> {
        panic!("a mount does not write")
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.file.identity()
    }

    fn try_lock(&self, _kind: LockKind) -> io::Result<bool> {
        panic!("a mount does not lock")
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_fd()
    }
}

/// A folder and its mount.
pub struct Folder {
    pub rig: Rig,
    pub source: PathBuf,
    pub mnt: PathBuf,
    pub shared: Arc<Shared>,
    pub database: Arc<Generated>,
}

impl Folder {
    /// The folder of an application, mounted; `None` where that is not possible.
    pub fn new(way: Way, options: &str) -> Option<Self> {
        Self::with(way, options, application)
    }

    /// What `fill` makes, mounted.
    pub fn with(way: Way, options: &str, fill: impl FnOnce(&Path)) -> Option<Self> {
        // Another user may mount too, but then every test is one of the daemon's reading.
        if !can_mount() || !is_root() {
            return None;
        }
        let mut rig = Rig::unmounted(tempfile::tempdir().unwrap());
        let source = rig.path("source");
        fs::set_permissions(rig.path(""), Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&source, Permissions::from_mode(0o755)).unwrap();
        fill(&source);
        let shared = Arc::new(Shared::default());
        let database = Arc::new(Generated::new(DATABASE_BYTES));
        let tree = Arc::new(tree_of(&source, &shared, &database));
        let point = rig.check().unwrap();
        let options = options.parse().unwrap();
        rig.session = Some(mounted(way, tree, point, options));
        let mnt = rig.mnt.clone();
        Some(Self {
            rig,
            source,
            mnt,
            shared,
            database,
        })
    }

    /// What the daemon read of live files so far.
    pub fn bytes_read(&self) -> u64 {
        self.shared.bytes_read.load(Ordering::Relaxed)
    }

    /// How many live files it has open.
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::Relaxed)
    }
}

/// Mounts from a thread of its own, whose rights the threads of the session inherit.
fn mounted(
    way: Way,
    tree: Arc<Tree>,
    point: MountPoint,
    options: MountOptions,
) -> stillfs::mount::MountedSession {
    let mounter = thread::spawn(move || {
        if way == Way::Daemon {
            machine::drop_administration();
        }
        let status = StatusSource::new(String::new);
        mount(tree, &point, options, OsStr::new("folder"), status).unwrap()
    });
    mounter.join().unwrap()
}

/// The folder of an application.
pub fn application(at: &Path) {
    let file = |name: &str, bytes: &[u8]| fs::write(at.join(name), bytes).unwrap();
    for dir in ["conf", "data", "data/deep"] {
        fs::create_dir(at.join(dir)).unwrap();
    }
    let all = |bytes: u64| expected(0, usize::try_from(bytes).unwrap());
    file(DATABASE, &all(DATABASE_BYTES));
    file("conf/settings", b"[main]\nanswer = 42\n");
    file("data/blob", &expected(77, 3_000_001));
    file("data/empty", b"");
    file("data/old", b"written before 1970");
    file("data/deep/one", b"one of three names");
    file(HELD, &expected(5, 200_000));
    let sparse = fs::File::create(at.join("data/sparse")).unwrap();
    sparse.set_len(12 << 20).unwrap();
    for island in [1, 5, 9] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &expected(island, 9000), island << 20)
            .unwrap();
    }
    sparse.sync_all().unwrap();
    for name in ["data/two", "conf/three"] {
        fs::hard_link(at.join("data/deep/one"), at.join(name)).unwrap();
    }
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, at.join(name)).unwrap();
    link("conf/settings", "link");
    link("nowhere/at all", "dangling");
    let odd = OsStr::from_bytes(b"name \xff\xfe\n");
    fs::write(at.join(odd), b"odd").unwrap();
    nix::unistd::mkfifo(&at.join("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at.join("socket")).unwrap());
    let null = nix::sys::stat::makedev(1, 3);
    mknod(&at.join("null"), SFlag::S_IFCHR, Mode::S_IRUSR, null).unwrap();
    machine::set_xattr(&at.join("conf/settings"), "user.color", b"blue").unwrap();
    fs::set_permissions(at.join("data/blob"), Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(at.join("data/deep"), Permissions::from_mode(0o2750)).unwrap();
    std::os::unix::fs::lchown(at.join("link"), Some(1000), Some(1001)).unwrap();
    std::os::unix::fs::chown(at.join("data/two"), Some(1000), Some(1001)).unwrap();
    for (name, time) in [
        ("data/old", "@-1234567.25"),
        ("data", "@-86400.5"),
        ("link", "@77.5"),
    ] {
        run(Command::new("touch")
            .args(["-h", "-d", time])
            .arg(at.join(name)));
    }
}

/// The tree of what lies at `source`: as a source makes it.
fn tree_of(source: &Path, shared: &Arc<Shared>, database: &Arc<Generated>) -> Tree {
    let facts = symlink_metadata(source).unwrap();
    let mut tree = Tree::new(attributes(&facts), BTreeMap::new());
    tree.set_times(NodeId::ROOT, times(&facts));
    let mut seen = BTreeMap::new();
    let mut left = vec![(source.to_owned(), NodeId::ROOT)];
    while let Some((dir, parent)) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name());
            let facts = symlink_metadata(&path).unwrap();
            if let Some(id) = seen.get(&facts.identity.inode) {
                tree.link(parent, &name, *id);
                continue;
            }
            let content = if name == DATABASE {
                Content::Paged(database.clone())
            } else {
                content(&path, &facts, shared)
            };
            let node = Node {
                id: NodeId(facts.identity.inode),
                parent,
                attributes: attributes(&facts),
                content,
                xattrs: BTreeMap::new(),
            };
            let id = tree.insert(&name, node);
            tree.set_times(id, times(&facts));
            if facts.file_type == FileType::Directory {
                left.push((path, id));
            } else {
                seen.insert(facts.identity.inode, id);
            }
        }
    }
    tree
}

fn content(path: &Path, facts: &Metadata, shared: &Arc<Shared>) -> Content {
    match facts.file_type {
        FileType::Directory => Content::Directory(BTreeMap::new()),
        FileType::SymbolicLink => Content::Link(fs::read_link(path).unwrap().into_os_string()),
        FileType::File if path.ends_with(HELD) => Content::Held(HeldFile {
            file: RealDisk.open(path, OpenMode::Read).unwrap(),
            bytes: facts.size,
        }),
        FileType::File => Content::Live(Arc::new(Plain {
            path: path.to_owned(),
            listed: *facts,
            shared: shared.clone(),
        })),
        kind => {
            let found = fs::symlink_metadata(path).unwrap();
            let is_device = found.file_type().is_char_device();
            Content::Special(Special {
                kind,
                device: if is_device { found.rdev() } else { 0 },
            })
        }
    }
}

fn attributes(facts: &Metadata) -> Attributes {
    Attributes {
        mode: u16::try_from(facts.mode).unwrap(),
        uid: facts.uid,
        gid: facts.gid,
        changed_ns: 0,
    }
}

fn times(facts: &Metadata) -> Times {
    Times {
        mtime_ns: facts.mtime_ns,
        ctime_ns: facts.ctime_ns,
    }
}
