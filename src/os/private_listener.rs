//! A Unix socket that only its owner can connect to.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

use super::FileIdentity;

/// A listening Unix socket with mode 0600, whose name goes when this is dropped.
#[derive(Debug)]
pub struct PrivateListener {
    listener: UnixListener,
    path: PathBuf,
    identity: FileIdentity,
}

impl PrivateListener {
    /// Binds and listens at `path`. A socket that nobody listens on any more is replaced.
    ///
    /// The mode is set before the name appears, so that there is no moment at which others could
    /// connect; the process-wide umask, which other threads share, is left alone.
    ///
    /// Shape: `path` has at most 107 bytes, which is what an address can hold.
    /// Errors: `AddrInUse` where somebody listens or where the name is not a socket; the system's.
    pub fn bind(path: &Path) -> io::Result<Self> {
        remove_abandoned(path)?;
        let fd = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        // Linux takes the mode of the new name from the inode of the unbound socket.
        fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        let identity = identity_of(path)?;
        listen(&fd, Backlog::MAXCONN)?;
        Ok(Self {
            listener: UnixListener::from(fd),
            path: path.to_owned(),
            identity,
        })
    }

    /// The socket.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for PrivateListener {
    fn drop(&mut self) {
        // Somebody may have put another file in place; only the own name is taken away.
        if identity_of(&self.path).is_ok_and(|found| found == self.identity) {
            #[allow(
                clippy::disallowed_methods,
                reason = "a socket is not a file of a Disk"
            )]
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity_of(path: &Path) -> io::Result<FileIdentity> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok(FileIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
    })
}

/// Removes a socket that a process left behind when it died.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused =>
        {
            #[allow(
                clippy::disallowed_methods,
                reason = "a socket is not a file of a Disk"
            )]
            std::fs::remove_file(path)
        }
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Makes a blocked and every later `accept` of a listening socket fail (`shutdown`).
///
/// Errors: the system's.
pub fn stop_accepting(listener: OwnedFd) -> io::Result<()> {
    // Linux ends the wait of accept when a listening socket is shut down, whatever its family.
    UnixStream::from(listener).shutdown(std::net::Shutdown::Both)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nobody_else_may_connect_and_the_name_goes_with_the_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = PrivateListener::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_socket_is_not_taken_over_but_an_abandoned_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let first = UnixListener::bind(&path).unwrap();
        let error = PrivateListener::bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        PrivateListener::bind(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        std::fs::write(&path, b"precious").unwrap();
        assert!(PrivateListener::bind(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_stopped_listener_wakes_its_accept() {
        let dir = tempfile::tempdir().unwrap();
        let listener = PrivateListener::bind(&dir.path().join("s.sock")).unwrap();
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| listener.listener().accept().is_err());
            stop_accepting(listener.listener().try_clone().unwrap().into()).unwrap();
            assert!(accepting.join().unwrap());
        });
    }
}
