//! Unix stream sockets: at paths of any length, private, and able to carry descriptors.
//!
//! Engine and mount daemon use it: the one listens, the other connects and is given open files. So
//! does the server, for clients on its own machine.
//!
//! An address has room for 107 bytes of path, and databases lie deeper than that. So the folder is
//! opened and the socket addressed as `/proc/self/fd/N/name`; only the name itself must fit.
//!
//! The umask, which belongs to the whole process, is left alone: an application that embeds us may
//! be making files in other threads. Instead the mode is put on the socket before it gets its name
//! (Linux names it with that mode), looked at on the name, and only then does the socket listen:
//! until then every connect is refused, whoever tries.
//!
//! * U1 No descriptor that came in is lost: it is returned, or closed before the error is.
//! * U2 No descriptor outlives an exec.
//! * U3 A name is taken away only from a socket: from the own one at the end, and from one whose
//!   process is dead.
//!
//! Waiting is the socket's own (timeouts, O_NONBLOCK); the functions that are called `try_` never
//! wait, `connect_within` waits at most so long. Two processes that replace the same abandoned socket
//! at once are not kept apart: whoever needs that holds a lock.

mod fd_passing;
mod private_listener;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::stat::Mode;

pub use self::fd_passing::{
    DESCRIPTORS_MAX, receive_with_fds, send_with_fds, try_receive_with_fds, try_send_with_fds,
};
pub use self::private_listener::{Incumbent, PrivateListener};

/// Who is at the other end of a socket, as of the time when it connected.
///
/// The process id is for people only: by now it may name another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// Connects to the socket at `path`, of any length; waits while its queue is full.
///
/// Errors: `ConnectionRefused` if nobody listens there, `NotFound`; `InvalidInput` if the last part is
/// too long or none; the system's.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    connect_to(path, None)
}

/// As [`connect`], but waits at most `patience` for a place in the queue.
///
/// Errors: those of [`connect`]; `WouldBlock` after `patience`; `InvalidInput` if that is 0.
pub fn connect_within(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    connect_to(path, Some(patience))
}

fn connect_to(path: &Path, patience: Option<Duration>) -> io::Result<UnixStream> {
    let place = SocketPlace::open(path)?;
    let stream = UnixStream::from(new_socket()?);
    stream.set_write_timeout(patience)?;
    nix::sys::socket::connect(stream.as_raw_fd(), &place.address()?)?;
    stream.set_write_timeout(None)?;
    Ok(stream)
}

fn new_socket() -> io::Result<OwnedFd> {
    let socket = nix::sys::socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    Ok(socket)
}

/// The folder of a socket, held open, and the socket's name in it.
struct SocketPlace {
    folder: OwnedFd,
    name: PathBuf,
}

impl SocketPlace {
    fn open(path: &Path) -> io::Result<Self> {
        let name = PathBuf::from(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = nix::fcntl::open(parent, flags, Mode::empty())?;
        Ok(Self { folder, name })
    }

    fn address(&self) -> io::Result<UnixAddr> {
        let folder = PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd()));
        UnixAddr::new(&folder.join(&self.name)).map_err(|error| match error {
            Errno::ENAMETOOLONG => io::ErrorKind::InvalidInput.into(),
            error => error.into(),
        })
    }
}

/// Who is at the other end. Errors: the system's.
pub fn peer_credentials(stream: &UnixStream) -> io::Result<PeerCredentials> {
    let peer = nix::sys::socket::getsockopt(stream, sockopt::PeerCredentials)?;
    Ok(PeerCredentials {
        pid: peer.pid(),
        uid: peer.uid(),
        gid: peer.gid(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::Backlog;

    use super::*;

    fn bound(path: &Path) -> PrivateListener {
        PrivateListener::bind(path, Incumbent::Unknown).unwrap()
    }

    fn long_folder(root: &Path) -> PathBuf {
        let mut folder = root.to_path_buf();
        for _ in 0..4 {
            folder.push("d".repeat(60));
            std::fs::create_dir(&folder).unwrap();
        }
        folder
    }

    #[test]
    fn socket_at_a_path_longer_than_an_address_carries_bytes() {
        let root = tempfile::tempdir().unwrap();
        let path = long_folder(root.path()).join("control.sock");
        assert!(path.as_os_str().len() > 108);
        let listener = bound(&path);
        let mut client = connect(&path).unwrap();
        let (mut server, _) = listener.socket().accept().unwrap();
        client.write_all(b"ping").unwrap();
        let mut out = [0; 4];
        server.read_exact(&mut out).unwrap();
        assert_eq!(&out, b"ping");
        let me = nix::unistd::Uid::effective().as_raw();
        let expected_pid = i32::try_from(std::process::id()).unwrap();
        for stream in [&client, &server] {
            let peer = peer_credentials(stream).unwrap();
            assert_eq!((peer.uid, peer.pid), (me, expected_pid));
        }
    }

    #[test]
    fn stale_socket_refuses_and_missing_one_is_not_found() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        assert_eq!(connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(
            connect(&path).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }

    #[test]
    fn name_that_fits_no_address_is_invalid() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("n".repeat(120));
        assert_eq!(
            connect(&path).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            connect(Path::new("/")).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn connect_gives_up_on_a_full_queue() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("s");
        let listener = bound(&path);
        // A queue of length 0 still takes one connection.
        nix::sys::socket::listen(listener.socket(), Backlog::new(0).unwrap()).unwrap();
        let first = connect_within(&path, Duration::from_secs(5)).unwrap();
        assert_eq!(first.write_timeout().unwrap(), None);
        let error = connect_within(&path, Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
