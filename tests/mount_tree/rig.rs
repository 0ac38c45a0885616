//! What the tests have in common: a tree, its mount, and the same tree as plain files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::unistd::{getegid, geteuid};
use stillfs::mount::{
    MountOptions, MountPoint, MountRecord, MountedSession, Registry, StatusSource, mount,
};
use stillfs::os::Clock;
use stillfs::page::PageNo;
use stillfs::view::tree::{Attributes, Content, EndSeen, Node, NodeId, RangeRead, ReadError, Tree};

/// Size of the large file: no multiple of anything.
pub const LARGE_BYTES: u64 = (64 << 20) + 4097;
/// mtime of the large file; the others count up from it.
pub const CHANGED_NS: u64 = 1_700_000_000_123_456_789;
/// Content of the small file.
pub const TINY: &[u8] = b"a few bytes\n";

/// What the generated file does when it is read.
pub const GOOD: u8 = 0;
pub const ENDED: u8 = 1;
pub const UNREADABLE: u8 = 2;

/// A file whose bytes follow from their offsets.
#[derive(Debug)]
pub struct Generated {
    pub behaviour: AtomicU8,
    pub bytes_read: AtomicU64,
    size: u64,
}

impl Generated {
    pub fn new(size: u64) -> Self {
        Self {
            behaviour: AtomicU8::new(GOOD),
            bytes_read: AtomicU64::new(0),
            size,
        }
    }
}

/// The bytes of the generated file from `offset` on.
pub fn fill(offset: u64, out: &mut [u8]) {
    let mut word = [0; 8];
    let mut word_number = u64::MAX;
    for (at, byte) in (offset..).zip(out) {
        if at / 8 != word_number {
            word_number = at / 8;
            let mut mixed = word_number.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word = (mixed ^ (mixed >> 31)).to_le_bytes();
        }
        *byte = word[usize::try_from(at % 8).unwrap()];
    }
}

pub fn expected(offset: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    fill(offset, &mut bytes);
    bytes
}

impl RangeRead for Generated {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        assert!(offset + out.len() as u64 <= self.size, "reads stay inside");
        self.bytes_read
            .fetch_add(out.len() as u64, Ordering::Relaxed);
        match self.behaviour.load(Ordering::Relaxed) {
            ENDED => Err(ReadError::PinEnded {
                reason: EndSeen::IndexCut,
            }),
            UNREADABLE => Err(ReadError::Unreadable { page: PageNo(7) }),
            _ => {
                fill(offset, out);
                Ok(())
            }
        }
    }
}

/// A file, a tree and a mount.
pub struct Rig {
    pub large: Arc<Generated>,
    pub mnt: PathBuf,
    pub session: Option<MountedSession>,
    pub registry: Registry,
    base: PathBuf,
    _owned: Option<tempfile::TempDir>,
}

/// Why a test cannot run here, printed; `true` if it can.
pub fn can_mount() -> bool {
    let device = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    match device {
        Ok(_) => true,
        Err(error) => {
            println!("SKIPPED: /dev/fuse cannot be opened: {error}");
            false
        }
    }
}

/// `false`, and a printed reason, if a tool is missing.
pub fn has_tool(name: &str) -> bool {
    let found = Command::new(name)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_err() {
        println!("SKIPPED: {name} is not installed");
    }
    found.is_ok()
}

/// `false`, and a printed reason, for users who may not do what the test needs.
pub fn is_root() -> bool {
    if !geteuid().is_root() {
        println!("SKIPPED: needs root");
    }
    geteuid().is_root()
}

/// Owner of all nodes: somebody else, where tools may restore that.
pub fn owner() -> (u32, u32) {
    if geteuid().is_root() {
        (1000, 1001)
    } else {
        (geteuid().as_raw(), getegid().as_raw())
    }
}

fn attributes(mode: u16, number: u64) -> Attributes {
    let (uid, gid) = owner();
    Attributes {
        mode,
        uid,
        gid,
        changed_ns: CHANGED_NS + number,
    }
}

fn put(tree: &mut Tree, parent: NodeId, name: &str, number: u64, content: Content) -> NodeId {
    let mode = match content {
        Content::Directory(_) => 0o750,
        _ => 0o640,
    };
    let xattrs = BTreeMap::from([("user.stillfs.kind".into(), name.as_bytes().to_vec())]);
    let node = Node {
        id: NodeId(1000 + number),
        parent,
        attributes: attributes(mode, number),
        content,
        xattrs,
    };
    tree.insert(OsStr::new(name), node)
}

/// `data.pages`, `empty`, `tiny`, `folder/inner/leaf`, `.stillfs/snapshot.json`, and `many` files.
fn tree(large: Arc<Generated>, many: u64) -> Tree {
    let xattrs = BTreeMap::from([("user.stillfs.pin".into(), b"beef".to_vec())]);
    let mut tree = Tree::new(attributes(0o755, 0), xattrs);
    let bytes = |bytes: &[u8]| Content::Bytes(bytes.into());
    let directory = || Content::Directory(BTreeMap::new());
    put(
        &mut tree,
        NodeId::ROOT,
        "data.pages",
        1,
        Content::Paged(large),
    );
    put(&mut tree, NodeId::ROOT, "empty", 2, bytes(b""));
    put(&mut tree, NodeId::ROOT, "tiny", 3, bytes(TINY));
    let folder = put(&mut tree, NodeId::ROOT, "folder", 4, directory());
    let inner = put(&mut tree, folder, "inner", 5, directory());
    put(&mut tree, inner, "leaf", 6, bytes(b"leaf"));
    let facts = put(&mut tree, NodeId::ROOT, ".stillfs", 7, directory());
    put(&mut tree, facts, "snapshot.json", 8, bytes(b"{}"));
    if many > 0 {
        let folder = put(&mut tree, NodeId::ROOT, "many", 9, directory());
        for number in 0..many {
            let name = format!("a-name-of-some-length-{number:06}");
            put(&mut tree, folder, &name, 10 + number, bytes(b""));
        }
    }
    tree
}

impl Rig {
    /// Mounts the tree; `None` where that is not possible.
    pub fn new() -> Option<Self> {
        Self::with("", 0)
    }

    /// Mounts with options, and with a directory of `many` files.
    pub fn with(options: &str, many: u64) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let base = tempfile::tempdir().unwrap();
        let mut rig = Self::unmounted(base);
        rig.mount(options, many);
        Some(rig)
    }

    /// A rig with nothing mounted yet.
    pub fn unmounted(owned: tempfile::TempDir) -> Self {
        let mut rig = Self::at(owned.path());
        rig._owned = Some(owned);
        rig
    }

    /// The rig of another process, or a new one, in `base`.
    pub fn at(base: &Path) -> Self {
        let base = base.canonicalize().unwrap();
        let mnt = base.join("mnt");
        for dir in ["mnt", "source"] {
            // A mount that is there, live or dead, is not to be touched.
            let _ = fs::create_dir(base.join(dir));
        }
        let large = Arc::new(Generated::new(LARGE_BYTES));
        Self {
            large,
            mnt,
            session: None,
            registry: Registry::at(base.join("registry")).unwrap(),
            base,
            _owned: None,
        }
    }

    pub fn mount(&mut self, options: &str, many: u64) {
        let point = self.check().unwrap();
        let tree = Arc::new(tree(self.large.clone(), many));
        let options: MountOptions = options.parse().unwrap();
        let large = self.large.clone();
        let status = StatusSource::new(move || {
            let read = large.bytes_read.load(Ordering::Relaxed);
            format!("{{\"bytes_read\":{read}}}")
        });
        let name = OsStr::new("/var/lib/a,b c");
        self.session = Some(mount(tree, &point, options, name, status).unwrap());
    }

    pub fn check(&self) -> Result<MountPoint, stillfs::mount::point::PointError> {
        MountPoint::check(&self.mnt, &self.path("source"), &self.registry)
    }

    pub fn record(&self) -> MountRecord {
        MountRecord {
            mount_point: self.mnt.clone(),
            source: self.path("source"),
            source_kind: "test".to_owned(),
            pid: std::process::id(),
            started_wall_ns: 1,
            pin_id: None,
            timestamp: None,
            snapshot_wall_ns: None,
            expires_wall_ns: None,
            facts: BTreeMap::new(),
        }
    }

    /// A path beside the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    pub fn large_path(&self) -> PathBuf {
        self.mnt.join("data.pages")
    }

    /// The same files as the mount lists, made by hand.
    pub fn plain_copy(&self) -> PathBuf {
        let plain = self.path("plain");
        fs::create_dir_all(plain.join("folder/inner")).unwrap();
        let large = expected(0, usize::try_from(LARGE_BYTES).unwrap());
        fs::write(plain.join("data.pages"), large).unwrap();
        fs::write(plain.join("empty"), b"").unwrap();
        fs::write(plain.join("tiny"), TINY).unwrap();
        fs::write(plain.join("folder/inner/leaf"), b"leaf").unwrap();
        plain
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Whatever a test left, and also while it panics: nothing stays mounted.
        while umount2(&self.mnt, MntFlags::MNT_DETACH).is_ok() {}
        if !geteuid().is_root() {
            let mut helper = Command::new("fusermount3");
            let _ = helper.args(["-u", "-z", "-q"]).arg(&self.mnt).output();
        }
    }
}

/// Runs a command and returns what it printed; fails with what it complained about.
pub fn run(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

/// The errno that an operation fails with.
pub fn errno_of<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("an operation succeeded that must fail"),
        Err(error) => error.raw_os_error().unwrap(),
    }
}

/// Waits for what another thread or process is about to do; fails after a long time.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether something of ours is mounted at `path`.
pub fn is_mounted(path: &Path) -> bool {
    let entry = stillfs::os::mount_table::find(path).unwrap();
    entry.is_some_and(|entry| stillfs::mount::mountinfo::is_ours(&entry))
}

/// The real clock.
#[derive(Debug)]
pub struct RealClock(pub Instant);

impl Clock for RealClock {
    fn wall_ns(&self) -> u64 {
        0
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}
