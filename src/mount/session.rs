//! One mount and the threads that serve it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

use fuser::{Config, Session, SessionACL};

use super::MountOptions;
use super::filesystem::{
    EndedNodes, LateNotifier, StatusSource, THREADS, TreeFilesystem, spawn_invalidator,
};
use super::kernel::{self, AttachError};
use super::mountinfo::is_ours;
use super::options::Audience;
use super::point::MountPoint;
use super::unmount::{Lazy, UnmountError, unmount_identity};
use crate::os::mount_table::{self, MountIdentity};
use crate::os::process::raise_file_limit;
use crate::view::tree::Tree;

/// Why a tree was not mounted. What was mounted on the way was unmounted again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount was not made.
    #[error("cannot mount on {}: {source}", path.display())]
    Attach {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: AttachError,
    },
    /// Kernel and daemon did not come to terms.
    #[error("cannot open the FUSE session of {}: {source}", path.display())]
    Handshake {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mount was made, and then was not in the mount table: somebody unmounted it at once, or
    /// mounted something else on it.
    #[error("{} was unmounted while it was being mounted", path.display())]
    Vanished {
        /// The mount point.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {op}: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// Why a session ended in another way than by unmounting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The kernel's requests could not be read.
    #[error("the FUSE session failed: {source}")]
    Requests {
        /// Why.
        source: io::Error,
    },
    /// A session thread panicked.
    #[error("the FUSE session panicked")]
    Panicked,
}

/// Mounts `tree` at `point`, read-only. `source` is what the mount table shows as mounted; `status`
/// gives the JSON of the root's unlisted attribute `user.stillfs.status`.
///
/// When it returns, the mount is usable: the handshake is done and requests are served.
///
/// Errors: any [`MountError`].
pub fn mount(
    tree: Arc<Tree>,
    point: &MountPoint,
    options: MountOptions,
    source: &OsStr,
    status: StatusSource,
) -> Result<MountedSession, MountError> {
    let path = point.path();
    let (ended, stale) = EndedNodes::new();
    let late = LateNotifier::default();
    let filesystem = TreeFilesystem::new(tree, options, status, ended, late.clone());
    // Every live file that is open takes a descriptor. Whoever may not raise the limit has the old one.
    if let Err(error) = raise_file_limit() {
        tracing::debug!(%error, "the limit of open files stays");
    }
    let device = kernel::attach(path, options, source).map_err(|source| MountError::Attach {
        path: path.to_owned(),
        source,
    })?;
    let own = own_mount(path)?;
    let alive = device.try_clone().map(Arc::new);
    let alive = alive.map_err(|source| MountError::Io {
        op: "duplicate the device",
        source,
    })?;
    let unmounter = Unmounter {
        own,
        device: Arc::downgrade(&alive),
    };
    let mut attached = Attached(Some(unmounter.clone()));

    let acl = acl(options.audience);
    let session = Session::from_fd(filesystem, device, acl, config(acl)).map_err(|source| {
        let path = path.to_owned();
        MountError::Handshake { path, source }
    })?;
    late.set(session.notifier());
    let start = |op| move |source| MountError::Io { op, source };
    let invalidator = spawn_invalidator(stale, session.notifier())
        .map_err(start("start the thread that drops caches"))?;
    let requests = spawn_session(session, alive).map_err(start("start the session"))?;
    attached.0 = None;
    kernel::raise_read_ahead(own);
    Ok(MountedSession {
        unmounter,
        path: path.to_owned(),
        threads: Some(Threads {
            requests,
            invalidator,
        }),
    })
}

/// Takes the mount away again unless mounting came to its end.
#[derive(Debug)]
struct Attached(Option<Unmounter>);

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(unmounter) = &self.0 {
            detach_silently(unmounter);
        }
    }
}

fn detach_silently(unmounter: &Unmounter) {
    if let Err(error) = unmounter.unmount(Lazy::Yes) {
        tracing::warn!(%error, "a mount is left behind");
    }
}

fn own_mount(path: &Path) -> Result<MountIdentity, MountError> {
    let entry = mount_table::find(path).map_err(|source| MountError::Io {
        op: "read the mount table",
        source,
    })?;
    match entry.filter(is_ours) {
        Some(entry) => Ok(entry.identity),
        None => Err(MountError::Vanished {
            path: path.to_owned(),
        }),
    }
}

fn acl(audience: Audience) -> SessionACL {
    match audience {
        Audience::Owner => SessionACL::Owner,
        Audience::Everybody => SessionACL::All,
    }
}

fn config(acl: SessionACL) -> Config {
    let mut config = Config::default();
    config.acl = acl;
    config.n_threads = Some(THREADS);
    config
}

/// Serves until the mount is gone. `alive` tells an [`Unmounter`] that the session lasts; it is given
/// up with the session, since an open device would keep a mount that nobody serves any more.
fn spawn_session(
    session: Session<TreeFilesystem>,
    alive: Arc<OwnedFd>,
) -> io::Result<JoinHandle<io::Result<()>>> {
    thread::Builder::new()
        .name("stillfs-mount".to_owned())
        .spawn(move || {
            let outcome = session.run();
            drop(alive);
            outcome
        })
}

/// A mounted tree. Dropping it unmounts it, lazily; a panic leaves it, to give errors (M5).
#[derive(Debug)]
pub struct MountedSession {
    unmounter: Unmounter,
    path: PathBuf,
    threads: Option<Threads>,
}

#[derive(Debug)]
struct Threads {
    requests: JoinHandle<io::Result<()>>,
    invalidator: JoinHandle<()>,
}

impl Threads {
    /// The invalidator ends by itself, since the session takes the file system with it.
    fn join(self) -> Result<(), SessionError> {
        let requests = self.requests.join();
        let invalidator = self.invalidator.join();
        match (requests, invalidator) {
            (Ok(Ok(())), Ok(())) => Ok(()),
            (Ok(Err(source)), _) => Err(SessionError::Requests { source }),
            (Err(_), _) | (_, Err(_)) => Err(SessionError::Panicked),
        }
    }
}

impl MountedSession {
    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A handle that unmounts from another thread, while this one waits.
    #[must_use]
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Blocks until the mount is gone, whoever unmounted it, and its last user with it.
    ///
    /// Errors: the session failed; the mount point then gives ENOTCONN until it is unmounted.
    pub fn wait(mut self) -> Result<(), SessionError> {
        match self.threads.take() {
            Some(threads) => threads.join(),
            None => Ok(()),
        }
    }

    /// Unmounts; [`MountedSession::wait`] then returns, when nobody uses it any more.
    ///
    /// Errors: those of [`Unmounter::unmount`].
    pub fn unmount(&self, lazy: Lazy) -> Result<(), UnmountError> {
        self.unmounter.unmount(lazy)
    }
}

impl Drop for MountedSession {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take()
            && !thread::panicking()
        {
            detach_silently(&self.unmounter);
            drop(threads);
        }
    }
}

/// Unmounts one mount and no other, however the mount point is used by then (M6).
///
/// The numbers of a mount are given to another as soon as it is gone. But the device's is not as long
/// as the session is connected, and that the device itself tells.
#[derive(Clone, Debug)]
pub struct Unmounter {
    own: MountIdentity,
    device: Weak<OwnedFd>,
}

impl Unmounter {
    /// Unmounts; a mount that is gone already is no error.
    ///
    /// Errors: `Busy` unless lazily; `Covered`; `Helper`; `Io`.
    pub fn unmount(&self, lazy: Lazy) -> Result<(), UnmountError> {
        match self.device.upgrade() {
            Some(device) if kernel::is_connected(&device) => unmount_identity(self.own, lazy),
            _ => Ok(()),
        }
    }
}
