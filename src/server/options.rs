//! How a server is set up.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::border::{Access, OpenAccess, Statements};

/// How a server is set up. The default listens on 127.0.0.1:6379 and on no path.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The TCP address, which must be a loopback address; port 0 lets the system choose.
    pub listen: Option<SocketAddr>,
    /// The path of a Unix socket, which only this user can connect to.
    ///
    /// It may be of any length, but most clients reach no more than 107 bytes from their directory.
    pub unix: Option<PathBuf>,
    /// How many clients may be connected at once.
    pub connections_max: usize,
    /// How long a client may take no byte of its replies before it is disconnected.
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
            write_timeout: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
            statements: None,
            access: Arc::new(OpenAccess),
        }
    }
}
