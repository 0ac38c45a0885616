//! A connected socket of either kind.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::pace::Pace;

/// A client's socket. Reading, writing and ending may go on from several threads.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Sends what is written at once, and lets a write fail that moves nothing for that long.
    pub(super) fn set_up(&self, write_timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(write_timeout))
            }
            Self::Unix(stream) => stream.set_write_timeout(Some(write_timeout)),
        }
    }

    /// Lets a read fail with `WouldBlock` that gets nothing for that long; `None` is for ever.
    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
            Self::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    /// Reads up to `out.len()` bytes; 0 at the end.
    pub(super) fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(out),
            Self::Unix(stream) => (&*stream).read(out),
        }
    }

    /// Writes all of `bytes`, to a client that takes them at a fair pace.
    ///
    /// Errors: `WouldBlock` if nothing moves for as long as was set up; `TimedOut`; the system's.
    pub(super) fn write_all(&self, bytes: &[u8], grace: Duration) -> io::Result<()> {
        let pace = Pace::start(grace);
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let written = match self {
                Self::Tcp(stream) => (&*stream).write(rest),
                Self::Unix(stream) => (&*stream).write(rest),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if done < bytes.len() && pace.is_lost(done) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Ends reading, or both. A socket that the client has already ended is no error.
    pub(super) fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }
}
