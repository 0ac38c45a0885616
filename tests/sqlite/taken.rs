//! A view of one database, pinned in this process or mounted by the command.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use stillfs::os::Host;
use stillfs::source::{self, PinAs, PinnedSource, WalFull};
use stillfs::view::tree::{Node, NodeId};

use crate::process::{end_of, stillfs, succeed};

/// How views are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By the library, in this process.
    Library,
    /// By `stillfs mount`.
    Mount,
}

/// See the head of the file.
#[derive(Debug)]
pub enum Taken {
    Library(Box<PinnedSource>),
    Mount { point: PathBuf, name: PathBuf },
}

/// What is asked of a pin in this process: the command under test runs SQLite, not this test.
pub fn pin_as() -> PinAs<'static> {
    let mut pin_as = PinAs::plain("the stress test");
    pin_as.sqlite.helper = Some(env!("CARGO_BIN_EXE_stillfs").into());
    pin_as
}

/// The bytes of a file of a pinned source, read in pieces of odd lengths.
pub fn content(pinned: &PinnedSource, node: &Node) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; usize::try_from(node.size()).unwrap()];
    let mut offset = 0;
    for piece in bytes.chunks_mut(100_003) {
        let read = pinned.tree.read(node, offset, piece);
        let count = read.map_err(|error| error.to_string())?;
        assert_eq!(count, piece.len(), "a read is whole or fails");
        offset += count as u64;
    }
    Ok(bytes)
}

impl Taken {
    /// Pins the database; `spill_at` is how much log is held before the view is kept by a copy instead.
    ///
    /// Errors: why it was refused.
    pub fn take(
        via: Via,
        database: &Path,
        scratch: &Path,
        spill_at: Option<u64>,
    ) -> Result<Self, String> {
        match via {
            Via::Library => {
                let mut pin_as = pin_as();
                pin_as.sqlite.wal_limit_bytes = spill_at;
                pin_as.sqlite.wal_full = WalFull::Spill;
                pin_as.sqlite.scratch = Some(scratch.to_owned());
                source::pin(&Host::system(), database, &pin_as)
                    .map(|pinned| Self::Library(Box::new(pinned)))
                    .map_err(|error| error.to_string())
            }
            Via::Mount => {
                let point = scratch.join("point");
                fs::create_dir_all(&point).unwrap();
                let mounted = end_of(stillfs().arg("mount").arg(database).arg(&point));
                let name = database.file_name().unwrap().into();
                match mounted.status.success() {
                    true => Ok(Self::Mount { point, name }),
                    false => Err(mounted.err),
                }
            }
        }
    }

    fn node(pinned: &PinnedSource) -> &Node {
        let found = pinned.tree.lookup(NodeId::ROOT, "app.db".as_ref());
        found.expect("the database in the tree")
    }

    /// The whole view, past every cache. Errors: what the read said.
    pub fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Library(pinned) => content(pinned, Self::node(pinned)),
            Self::Mount { point, name } => {
                let path = point.join(name);
                let read = || -> std::io::Result<Vec<u8>> {
                    let file = fs::File::open(&path)?;
                    posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
                    fs::read(&path)
                };
                read().map_err(|error| error.to_string())
            }
        }
    }

    /// The time of the last change, as the view shows it.
    pub fn changed_ns(&self) -> u64 {
        match self {
            Self::Library(pinned) => Self::node(pinned).attributes.changed_ns,
            Self::Mount { point, name } => {
                let found = fs::metadata(point.join(name)).unwrap();
                let ns = found.mtime() * 1_000_000_000 + found.mtime_nsec();
                u64::try_from(ns).unwrap()
            }
        }
    }

    /// What keeps the view: `held`, `kept` or `ended`. Looks after its limits first, as a daemon does.
    pub fn state(&mut self) -> String {
        match self {
            Self::Library(pinned) => {
                pinned.lease.watch(Duration::ZERO, None);
                pinned.reads.members().remove(0).state
            }
            Self::Mount { .. } => String::new(),
        }
    }

    /// What is read, as the status says it: `wal`, `file`, `copy` ...
    pub fn how(&self) -> String {
        match self {
            Self::Library(pinned) => pinned.reads.members().remove(0).how,
            Self::Mount { .. } => String::new(),
        }
    }

    /// Ends the view, which must still hold.
    pub fn give_up(self) {
        match self {
            Self::Library(pinned) => {
                pinned.reads.look().expect("the pin holds to its end");
                pinned.lease.release().expect("a release");
            }
            Self::Mount { point, .. } => {
                succeed(stillfs().arg("umount").arg(&point));
            }
        }
    }
}
