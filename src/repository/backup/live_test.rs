//! Plain files that are read as they are at the moment, not as they were at the pin.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::fixture::{Rig, Source, noise, options};
use super::*;
use crate::os::path::{FileType, Metadata};
use crate::os::{File, FileIdentity, LockKind, OpenMode, write_all_at};
use crate::view::tree::{Content, LiveError, LiveFile};

/// What happens to the file at each of its reads.
type Event = Box<dyn Fn(&dyn File, u64) + Send + Sync>;

/// A file of the simulated disk, which has no times: its time of change is counted by hand.
struct Plain {
    file: Arc<dyn File>,
    mtime_ns: Arc<Mutex<i64>>,
    refusal: Option<fn() -> LiveError>,
    /// What `stat` says of its size, if that is not the size.
    claim: Option<u64>,
    event: Arc<Event>,
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain")
    }
}

impl Plain {
    fn new(rig: &Rig, name: &str, bytes: &[u8]) -> Self {
        let path = Path::new("/").join(name);
        let file = rig.machine.disk.clone();
        let file = crate::os::Disk::open(&file, &path, OpenMode::CreateNew).unwrap();
        write_all_at(&*file, bytes, 0).unwrap();
        Self {
            file,
            mtime_ns: Arc::new(Mutex::new(5)),
            refusal: None,
            claim: None,
            event: Arc::new(Box::new(|_, _| {})),
        }
    }

    fn refused(rig: &Rig, name: &str, refusal: fn() -> LiveError) -> Self {
        Self {
            refusal: Some(refusal),
            ..Self::new(rig, name, b"never read")
        }
    }

    fn with(self, event: impl Fn(&dyn File, u64) + Send + Sync + 'static) -> Self {
        let event: Event = Box::new(event);
        let event = Arc::new(event);
        Self { event, ..self }
    }
}

impl LiveFile for Plain {
    fn stat(&self) -> Result<Metadata, LiveError> {
        Ok(Metadata {
            identity: FileIdentity {
                device: 1,
                inode: 1,
            },
            file_type: FileType::File,
            mode: 0o4711,
            uid: 8,
            gid: 9,
            link_count: 1,
            size: self.claim.unwrap_or_else(|| self.file.len().unwrap()),
            blocks: 0,
            mtime_ns: *self.mtime_ns.lock(),
            ctime_ns: 0,
        })
    }

    fn open(&self) -> Result<Arc<dyn File>, LiveError> {
        match self.refusal {
            Some(refusal) => Err(refusal()),
            None => Ok(Arc::new(Watched {
                file: self.file.clone(),
                event: self.event.clone(),
            })),
        }
    }

    fn xattr_names(&self) -> Result<Vec<OsString>, LiveError> {
        Ok(Vec::new())
    }

    fn xattr(&self, _name: &OsStr) -> Result<Option<Vec<u8>>, LiveError> {
        Ok(None)
    }
}

struct Watched {
    file: Arc<dyn File>,
    event: Arc<Event>,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl File for Watched {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        (self.event)(&*self.file, offset);
        self.file.read_at(out, offset)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn set_len(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.file.identity()
    }

    fn try_lock(&self, _kind: LockKind) -> io::Result<bool> {
        Ok(false)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn live(file: Plain) -> Content {
    Content::Live(Arc::new(file))
}

fn left_out(facts: &BackupFacts) -> Vec<(&str, &str)> {
    let facts = facts.left_out.iter();
    facts.map(|fact| (&*fact.path, &*fact.reason)).collect()
}

#[test]
fn a_live_file_is_what_it_was_when_it_was_opened() {
    let rig = Rig::new(1);
    let bytes = noise(1, 3 << 20);
    let source = Source::new("tree")
        .with("a", live(Plain::new(&rig, "a", &bytes)))
        .with("empty", live(Plain::new(&rig, "empty", b"")));
    let facts = rig
        .backup(source.subject(), &options(Wanted::Auto))
        .unwrap()
        .facts;
    assert_eq!(left_out(&facts), []);
    assert!(rig.content(&facts, "a") == bytes);
    assert!(rig.content(&facts, "empty").is_empty());
    assert!(facts.databases.is_empty());
    let manifest = rig.manifest(&facts);
    let entry = manifest.entries.iter().find(|entry| entry.path == b"a");
    let entry = entry.unwrap();
    assert_eq!((entry.mode, entry.uid, entry.mtime_ns), (0o4711, 8, 5));
}

/// Names whose file cannot be had are left out and said, and so is every other name of theirs.
#[test]
fn what_cannot_be_had_is_left_out() {
    let rig = Rig::new(2);
    let denied = || LiveError::Io {
        op: "open",
        source: io::ErrorKind::PermissionDenied.into(),
    };
    let mut source = Source::new("tree").file("here", b"here");
    let gone = live(Plain::refused(&rig, "a", || LiveError::Gone));
    let gone = source.add("gone", gone);
    source.link("zzz", gone);
    let source = source
        .with(
            "new",
            live(Plain::refused(&rig, "b", || LiveError::Replaced)),
        )
        .with(
            "db",
            live(Plain::refused(&rig, "c", || LiveError::BecameDatabase)),
        )
        .with("secret", live(Plain::refused(&rig, "d", denied)));
    let facts = rig
        .backup(source.subject(), &options(Wanted::Auto))
        .unwrap()
        .facts;
    let paths: Vec<_> = left_out(&facts).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["db", "gone", "new", "secret", "zzz"]);
    assert!(facts.left_out.iter().all(|fact| !fact.is_wanted));
    assert_eq!(rig.manifest(&facts).entries.len(), 2);
    let source = Source::new("tree").with(
        "sick",
        live(Plain::refused(&rig, "e", || LiveError::Io {
            op: "open",
            source: io::Error::other("the disk is sick"),
        })),
    );
    let ended = rig.backup(source.subject(), &options(Wanted::Auto));
    assert!(
        matches!(ended, Err(RepositoryError::Live { .. })),
        "{ended:?}"
    );
}

/// A file without content can have any size, which must not cost memory.
#[test]
fn a_file_of_an_absurd_size_is_left_out() {
    for claim in [1 << 59, 1 << 62, i64::MAX as u64, u64::MAX] {
        let rig = Rig::new(6);
        let mut file = Plain::new(&rig, "a", b"some");
        file.claim = Some(claim);
        let source = Source::new("tree").with("a", live(file)).file("b", b"b");
        let facts = rig
            .backup(source.subject(), &options(Wanted::Auto))
            .unwrap()
            .facts;
        let [(path, reason)] = left_out(&facts)[..] else {
            panic!("{:?}", facts.left_out);
        };
        assert!(path == "a" && reason.contains("size"), "{reason}");
        assert_eq!(rig.content(&facts, "b"), b"b");
    }
}

/// A file that changes while it is read is stored as far as it was read, and that is said.
#[test]
fn a_file_that_changes_while_it_is_read_is_kept_and_said() {
    const BYTES: usize = 4 << 20;
    let bytes = noise(3, BYTES);
    // What is left of it, and how it is changed by the read at 2 MiB.
    let cases: [(usize, u64); 4] = [
        (BYTES, 9 << 20),
        (3 << 20, 3 << 20),
        ((1 << 20) + 77, (1 << 20) + 77),
        (0, 0),
    ];
    for (kept, size) in cases {
        let rig = Rig::new(3);
        let file = Plain::new(&rig, "a", &bytes).with(move |file, offset| {
            if offset == 2 << 20 {
                file.set_len(size).unwrap();
            }
        });
        let source = Source::new("tree").with("a", live(file));
        let options = BackupOptions {
            workers: 1,
            ..options(Wanted::Auto)
        };
        let facts = rig.backup(source.subject(), &options).unwrap().facts;
        assert_eq!(left_out(&facts), [("a", "changed while it was read")]);
        // One worker reads in order: what lay before the cut was read before it.
        let kept = kept.clamp(2 << 20, BYTES);
        assert!(rig.content(&facts, "a") == bytes[..kept], "cut to {size}");
    }
}

/// Content that is written over leaves the size, and the time of change tells.
#[test]
fn a_file_that_is_written_over_is_said() {
    let rig = Rig::new(4);
    let plain = Plain::new(&rig, "a", &noise(4, 100_000));
    let mtime_ns = plain.mtime_ns.clone();
    let plain = plain.with(move |_, _| *mtime_ns.lock() += 1);
    let source = Source::new("tree").with("a", live(plain));
    let facts = rig
        .backup(source.subject(), &options(Wanted::Auto))
        .unwrap()
        .facts;
    assert_eq!(left_out(&facts), [("a", "changed while it was read")]);
}

/// A file of which nothing is new costs its reading alone.
#[test]
fn an_unchanged_file_is_read_and_not_stored() {
    let rig = Rig::new(5);
    let mut bytes = noise(5, 1 << 20);
    let one = |name: &str, bytes: &[u8]| {
        let source = Source::new("tree").with("a", live(Plain::new(&rig, name, bytes)));
        rig.backup(source.subject(), &options(Wanted::Auto))
            .unwrap()
            .facts
    };
    one("1", &bytes);
    let second = one("2", &bytes).statistics;
    assert_eq!((second.units_read, second.units_new), (16, 0));
    bytes[70_000] ^= 1;
    let third = one("3", &bytes);
    assert_eq!(
        (third.statistics.units_read, third.statistics.units_new),
        (16, 1)
    );
    assert!(rig.content(&third, "a") == bytes);
}
