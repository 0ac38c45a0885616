//! A socket that listens at a path for its owner only, and how its name comes and goes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::socket::Backlog;
use nix::sys::stat::{FileStat, Mode, fchmod, fstatat, lstat};
use nix::unistd::{UnlinkatFlags, unlink, unlinkat};

use super::{SocketPlace, connect_within, new_socket};
use crate::os::FileIdentity;
use crate::os::descriptor::{FileKind, identity_of, kind_of};
use crate::os::trust::is_trusted_user;

/// How long a listener may have no room in its queue: it listens, then, and that is what is asked.
const QUEUE_PATIENCE: Duration = Duration::from_millis(100);

/// What is known of a socket that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incumbent {
    /// Its process is dead, as a lock that the caller holds proves: it is replaced.
    Dead,
    /// Nothing: it is replaced if it refuses connections.
    Unknown,
}

/// A listening socket of mode 0600, whose name goes when this is dropped.
#[derive(Debug)]
pub struct PrivateListener {
    socket: UnixListener,
    path: PathBuf,
    identity: FileIdentity,
}

impl PrivateListener {
    /// Listens at `path`, of any length, so that only this user can connect.
    ///
    /// The address that the listener itself tells is of no use. Blocks for a tenth of a second at most,
    /// if an unknown incumbent has a full queue.
    ///
    /// Errors: `AddrInUse` where somebody listens; `AlreadyExists` if the name is of something else
    /// than a socket, which stays; `InvalidInput` if the last part is too long or none;
    /// `PermissionDenied` if the file system gives the name a wider mode; the system's.
    pub fn bind(path: &Path, incumbent: Incumbent) -> io::Result<Self> {
        if socket_at(path)?.is_some() {
            if incumbent == Incumbent::Unknown {
                refuse_if_alive(path)?;
            }
            remove_socket(path)?;
        }
        let (socket, identity) = bind(path)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            identity,
        })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &UnixListener {
        &self.socket
    }
}

impl Drop for PrivateListener {
    fn drop(&mut self) {
        // Somebody may have put another file in place; only the own name is taken away.
        let is_own = matches!(socket_at(&self.path), Ok(Some(found)) if found == self.identity);
        if !is_own {
            return;
        }
        if let Err(error) = remove_socket(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a socket");
        }
    }
}

/// Errors: `AddrInUse` if somebody listens at `path`; the system's if that cannot be told.
fn refuse_if_alive(path: &Path) -> io::Result<()> {
    match connect_within(path, QUEUE_PATIENCE) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Binds and listens where nothing has the name. The identity is that of the name.
fn bind(path: &Path) -> io::Result<(UnixListener, FileIdentity)> {
    let place = SocketPlace::open(path)?;
    let socket = new_socket()?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &place.address()?)?;
    let named = prepared(&place, &socket).inspect_err(|_| {
        // The error that led here says more than one of this removal could.
        let _ = unlinkat(&place.folder, &place.name, UnlinkatFlags::NoRemoveDir);
    })?;
    Ok((UnixListener::from(socket), identity_of(&named)))
}

/// Looks at the name that a socket got, and lets the socket listen if nobody else may connect.
fn prepared(place: &SocketPlace, socket: &OwnedFd) -> io::Result<FileStat> {
    let named = fstatat(&place.folder, &place.name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if named.st_mode & 0o077 != 0 {
        return Err(Errno::EACCES.into());
    }
    nix::sys::socket::listen(socket, Backlog::MAXCONN)?;
    Ok(named)
}

/// The socket that `path` names, or `None` where nothing has that name.
///
/// Errors: `AlreadyExists` if the name is of something else than a socket, or of somebody else's; the
/// system's.
fn socket_at(path: &Path) -> io::Result<Option<FileIdentity>> {
    match lstat(path) {
        Ok(stat) if kind_of(&stat) != FileKind::Socket => {
            let text = "something that is no socket is there; remove it, or name another path";
            Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
        }
        // Root could take it away, and it is not ours to judge whether it is abandoned.
        Ok(stat) if !is_trusted_user(stat.st_uid) => {
            let text = format!("a socket of user {} is there", stat.st_uid);
            Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
        }
        Ok(stat) => Ok(Some(identity_of(&stat))),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes the name of a socket; nothing there is no error.
fn remove_socket(path: &Path) -> io::Result<()> {
    match unlink(path) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::os::unix::fs::PermissionsExt;

    use super::super::connect;
    use super::*;

    const BOTH: [Incumbent; 2] = [Incumbent::Dead, Incumbent::Unknown];

    fn mode_of(path: &Path) -> u32 {
        let metadata = std::fs::symlink_metadata(path).unwrap();
        metadata.permissions().mode() & 0o777
    }

    #[test]
    fn nobody_else_may_connect_and_the_name_goes_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = PrivateListener::bind(&path, Incumbent::Unknown).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    /// The widest umask, in a thread with a umask of its own, so that no other test notices.
    #[test]
    fn socket_is_private_under_any_umask_and_leaves_it_alone() {
        use nix::sys::stat::umask;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let probe = std::thread::spawn(move || {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).is_err() {
                return None;
            }
            umask(Mode::empty());
            let _listener = PrivateListener::bind(&path, Incumbent::Unknown).unwrap();
            Some((mode_of(&path), umask(Mode::empty()).bits()))
        });
        match probe.join().unwrap() {
            Some(found) => assert_eq!(found, (0o600, 0)),
            None => println!("skipped: no thread may have a umask of its own here"),
        }
    }

    #[test]
    fn a_live_socket_is_not_taken_over_but_an_abandoned_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let first = UnixListener::bind(&path).unwrap();
        let error = PrivateListener::bind(&path, Incumbent::Unknown).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        connect(&path).unwrap();
        drop(first);
        PrivateListener::bind(&path, Incumbent::Unknown).unwrap();
    }

    /// Its listener is alive, and whoever starts beside it must neither hang nor take its name.
    #[test]
    fn a_live_socket_with_a_full_queue_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let first = PrivateListener::bind(&path, Incumbent::Unknown).unwrap();
        // A queue of length 0 still takes one connection.
        nix::sys::socket::listen(first.socket(), Backlog::new(0).unwrap()).unwrap();
        let _queued = connect(&path).unwrap();
        let error = PrivateListener::bind(&path, Incumbent::Unknown).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
    }

    /// Somebody who holds the lock knows better than the socket, which a child may have inherited.
    #[test]
    fn a_socket_known_to_be_dead_is_replaced_without_asking() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let old = PrivateListener::bind(&path, Incumbent::Unknown).unwrap();
        let new = PrivateListener::bind(&path, Incumbent::Dead).unwrap();
        drop(old);
        connect(&path).unwrap();
        drop(new);
        assert!(!path.exists());
    }

    /// A file that somebody keeps under the socket's name is not ours to delete.
    #[test]
    fn a_file_that_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        std::fs::write(&path, b"precious").unwrap();
        for incumbent in BOTH {
            let error = PrivateListener::bind(&path, incumbent).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_file_put_in_place_of_the_socket_outlives_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = PrivateListener::bind(&path, Incumbent::Unknown).unwrap();
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        std::fs::write(&path, b"precious").unwrap();
        drop(listener);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn name_that_fits_no_address_is_invalid() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("n".repeat(120));
        let refused = |path: &Path| PrivateListener::bind(path, Incumbent::Unknown).unwrap_err();
        assert_eq!(refused(&path).kind(), io::ErrorKind::InvalidInput);
        // The root is a folder, which a socket cannot replace.
        assert_eq!(refused(Path::new("/")).kind(), io::ErrorKind::AlreadyExists);
    }
}
