//! Waiting for a socket, bounded by a deadline and by a stop signal, and the end of such a wait.

#![allow(clippy::disallowed_methods)]

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A moment after which nobody waits any longer.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Waits for ever.
    pub const NEVER: Self = Self(None);

    /// The moment `duration` from this one; one too far away to be a moment is never.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self(Instant::now().checked_add(duration))
    }

    /// Whether that moment has come.
    #[must_use]
    pub fn is_over(self) -> bool {
        self.remaining().is_some_and(|left| left.is_zero())
    }

    /// How long until then; `None` is for ever.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        self.0
            .map(|moment| moment.saturating_duration_since(Instant::now()))
    }
}

/// A flag that wakes every thread that waits with it, once and for all.
#[derive(Debug)]
pub struct StopSignal {
    raised: UnixStream,
    watched: UnixStream,
}

impl StopSignal {
    /// A signal that is not raised. Costs two descriptors.
    pub fn new() -> io::Result<Self> {
        let (raised, watched) = UnixStream::pair()?;
        Ok(Self { raised, watched })
    }

    /// Wakes every present and later wait.
    pub fn raise(&self) {
        // The end of the stream stays readable for all who watch it, unlike a byte.
        // An error would mean that it is shut down already.
        let _ = self.raised.shutdown(Shutdown::Both);
    }

    /// Whether it was raised. Errors: the system's, for want of memory.
    pub fn is_raised(&self) -> io::Result<bool> {
        self.wait(Deadline::after(Duration::ZERO))
    }

    /// Waits until it is raised, or `deadline` passes; whether it was raised. Errors: the system's, for
    /// want of memory.
    pub fn wait(&self, deadline: Deadline) -> io::Result<bool> {
        Ok(wait(self.watched.as_fd(), Interest::Read, None, deadline)? == Wake::Ready)
    }

    /// The end that is watched: a socket whose peer is this very process.
    #[must_use]
    pub fn watched(&self) -> &UnixStream {
        &self.watched
    }
}

/// What a socket is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes, a connection to accept, or the end of the stream.
    Read,
    /// Room to write.
    Write,
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The socket is ready, or has an error that the next call on it will tell.
    Ready,
    /// The stop signal was raised; this goes before everything else.
    Stopped,
    /// The deadline passed.
    TimedOut,
}

/// Waits until `socket` is ready, `stop` is raised or `deadline` passes. Signals do not end it.
///
/// Errors: the system's, for want of memory.
pub fn wait(
    socket: BorrowedFd<'_>,
    interest: Interest,
    stop: Option<&StopSignal>,
    deadline: Deadline,
) -> io::Result<Wake> {
    let flags = match interest {
        Interest::Read => PollFlags::POLLIN,
        Interest::Write => PollFlags::POLLOUT,
    };
    let watched = stop.map_or(socket, |stop| stop.watched.as_fd());
    let mut sockets = [
        PollFd::new(socket, flags),
        PollFd::new(watched, PollFlags::POLLIN),
    ];
    let polled = if stop.is_some() {
        &mut sockets[..]
    } else {
        &mut sockets[..1]
    };
    loop {
        match poll(polled, timeout_until(deadline)) {
            Ok(0) if deadline.remaining().is_some_and(|left| left.is_zero()) => {
                return Ok(Wake::TimedOut);
            }
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) if polled.get(1).is_some_and(is_ready) => return Ok(Wake::Stopped),
            Ok(_) => return Ok(Wake::Ready),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether a descriptor has an error or a hang-up right now. Never waits.
///
/// Errors: the system's, for want of memory.
pub fn has_failed(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // Nothing is asked for, so what comes is what the kernel tells unasked.
    let mut watched = [PollFd::new(fd, PollFlags::empty())];
    loop {
        match poll(&mut watched, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            polled => return Ok(polled? != 0),
        }
    }
}

/// Makes a blocked and every later `accept` of a listening socket fail (`shutdown`).
///
/// Errors: the system's.
pub fn stop_accepting(listener: OwnedFd) -> io::Result<()> {
    // Linux ends the wait of accept when a listening socket is shut down, whatever its family.
    UnixStream::from(listener).shutdown(Shutdown::Both)
}

fn is_ready(socket: &PollFd<'_>) -> bool {
    // Flags that nix does not know are an event all the same.
    socket.any().unwrap_or(true)
}

/// Rounded up to whole milliseconds, so that a wait never turns into a busy loop.
fn timeout_until(deadline: Deadline) -> PollTimeout {
    let Some(left) = deadline.remaining() else {
        return PollTimeout::NONE;
    };
    let millis = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    #[test]
    fn silent_socket_times_out_and_one_with_bytes_is_ready() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let waited = wait(far.as_fd(), Interest::Read, None, Deadline::after(SOON));
        assert_eq!(waited.unwrap(), Wake::TimedOut);
        near.write_all(b"x").unwrap();
        let waited = wait(far.as_fd(), Interest::Read, None, Deadline::NEVER);
        assert_eq!(waited.unwrap(), Wake::Ready);
    }

    /// Bytes to read are no failure.
    #[test]
    fn only_the_end_of_a_stream_is_a_failure() {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"x").unwrap();
        assert!(!has_failed(far.as_fd()).unwrap());
        drop(near);
        assert!(has_failed(far.as_fd()).unwrap());
    }

    #[test]
    fn stopped_listener_wakes_its_accept() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| listener.accept().is_err());
            stop_accepting(listener.try_clone().unwrap().into()).unwrap();
            assert!(accepting.join().unwrap());
        });
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s.sock")).unwrap();
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| listener.accept().is_err());
            stop_accepting(listener.try_clone().unwrap().into()).unwrap();
            assert!(accepting.join().unwrap());
        });
    }

    #[test]
    fn raised_signal_wakes_every_wait_even_on_a_ready_socket() {
        let (_near, far) = UnixStream::pair().unwrap();
        let stop = StopSignal::new().unwrap();
        let woken = || wait(far.as_fd(), Interest::Write, Some(&stop), Deadline::NEVER).unwrap();
        assert_eq!(woken(), Wake::Ready);
        assert!(!stop.is_raised().unwrap());
        stop.raise();
        assert!(stop.is_raised().unwrap());
        assert_eq!(woken(), Wake::Stopped);
        assert_eq!(woken(), Wake::Stopped);
    }
}
