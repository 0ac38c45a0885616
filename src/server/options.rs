//! How a server is set up.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::border::{Access, OpenAccess, Statements};
use super::error::ServerError;

/// How a server is set up. The default listens on 127.0.0.1:6379 and on no path.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The TCP address; port 0 lets the system choose. One that other machines can reach needs an
    /// `access` that asks for a password. There is no encryption.
    pub listen: Option<SocketAddr>,
    /// The path of a Unix socket, which only this user can connect to.
    ///
    /// It may be of any length, but most clients reach no more than 107 bytes from their directory.
    pub unix: Option<PathBuf>,
    /// How many clients may be connected at once.
    pub connections_max: usize,
    /// How many of them may be connected without having given the password, where one is needed.
    /// Whoever comes next takes the place of the one who has been silent for longest.
    pub strangers_max: usize,
    /// What the requests and replies of all clients may take in memory together, in bytes.
    pub memory_max: usize,
    /// How long a client may take from connecting to its first command, and to the password where
    /// one is needed.
    pub greeting_timeout: Duration,
    /// How long a client may take from the first byte of a command to its last, and for each 16 KiB
    /// that came a second more.
    pub request_timeout: Duration,
    /// How long a client may take to take its replies, and for each 16 KiB that it took a second more.
    pub write_timeout: Duration,
    /// How long `stop` waits for clients to take their last replies.
    pub stop_grace: Duration,
    /// Statements that others answer, such as those about backups.
    pub statements: Option<Arc<dyn Statements>>,
    /// Who may use the server.
    pub access: Arc<dyn Access>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 6379))),
            unix: None,
            connections_max: 10_000,
            strangers_max: 256,
            memory_max: 1 << 30,
            greeting_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
            statements: None,
            access: Arc::new(OpenAccess),
        }
    }
}

impl ServerOptions {
    /// Refuses an address that strangers can reach, as long as nobody asks them who they are.
    ///
    /// Errors: `PasswordNeeded`.
    pub fn refuse_open(&self, address: SocketAddr) -> Result<(), ServerError> {
        if address.ip().to_canonical().is_loopback() || self.access.is_required() {
            return Ok(());
        }
        Err(ServerError::PasswordNeeded { address })
    }
}
