//! A connected socket of either kind.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

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

    /// Reads up to `out.len()` bytes; 0 at the end.
    pub(super) fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(out),
            Self::Unix(stream) => (&*stream).read(out),
        }
    }

    /// Writes all of `bytes`.
    pub(super) fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => (&*stream).write_all(bytes),
            Self::Unix(stream) => (&*stream).write_all(bytes),
        }
    }

    /// Ends reading, or both. A socket that the client has already ended is no error.
    pub(super) fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }
}
