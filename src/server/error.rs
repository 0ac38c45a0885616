//! Why a server does not start.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Any failure of starting a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Neither an address nor a socket path was given.
    #[error("nothing to listen on: give an address, a socket path, or both")]
    NoListener,
    /// The address can be reached from other machines, and nothing would ask them who they are.
    #[error(
        "refusing to listen on {address} without a password: everybody who reaches it could read and change everything; give --password-file FILE, or a loopback address (127.0.0.1, [::1])"
    )]
    PasswordNeeded {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {}: {source}", path.display())]
    BindPath {
        /// What was asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread that accepts connections: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}
