//! Where clients come in.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::Shared;
use super::desk::Newcomer;
use super::error::ServerError;
use super::protocol::{Reply, RespVersion};
use super::registry::{Places, Refused};
use super::stream::Stream;
use crate::os::readiness::stop_accepting;
use crate::os::trust::refuse_place;
use crate::os::unix_socket::{Incumbent, PrivateListener};

/// How long to wait after a failed accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(PrivateListener),
}

impl Listener {
    /// Listens on an address. Errors: `Bind`.
    pub(super) fn tcp(address: SocketAddr) -> Result<Self, ServerError> {
        TcpListener::bind(address)
            .map(Self::Tcp)
            .map_err(|source| ServerError::Bind { address, source })
    }

    /// Listens on a path. Errors: `BindPath`.
    pub(super) fn unix(path: &Path) -> Result<Self, ServerError> {
        let failed = |source| ServerError::BindPath {
            path: path.to_owned(),
            source,
        };
        // Whoever could put a socket of his own in place would hear passwords.
        refuse_place(folder_of(path)).map_err(|distrust| failed(io::Error::other(distrust)))?;
        PrivateListener::bind(path, Incumbent::Unknown)
            .map(Self::Unix)
            .map_err(failed)
    }

    /// The TCP address, with the port that the system chose.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Stream::Tcp(stream), peer.to_string()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.socket().accept()?;
                Ok((Stream::Unix(stream), "unix:0".to_owned()))
            }
        }
    }

    /// Ends the accepting of another thread. Errors: the system's.
    pub(super) fn stop(&self) -> io::Result<()> {
        stop_accepting(match self {
            Self::Tcp(listener) => listener.try_clone()?.into(),
            Self::Unix(listener) => listener.socket().try_clone()?.into(),
        })
    }
}

/// The folder that a path is in, also where it is a name alone.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Lets clients in until the server stops.
pub(super) fn accept_all(shared: &Arc<Shared>, listener: &Listener) {
    while !shared.registry.is_stopping() {
        match listener.accept() {
            Ok((stream, peer)) => admit(shared, stream, peer),
            Err(_) if shared.registry.is_stopping() => return,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                shared.registry.pause(ACCEPT_PAUSE);
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: Stream, peer: String) {
    if let Err(error) = stream.set_up() {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let stream = Arc::new(stream);
    let places = Places {
        connections_max: shared.options.connections_max,
        strangers_max: shared.options.strangers_max,
        is_stranger: shared.options.access.is_required(),
    };
    match shared.registry.enter(Arc::clone(&stream), peer, places) {
        Ok(id) => {
            let inbox = shared.inbox_of(id);
            inbox.post(|mail| mail.newcomers.push(Newcomer { id, stream }));
        }
        Err(Refused::Stopping) => {}
        Err(Refused::Full) => {
            let mut out = BytesMut::new();
            Reply::error("ERR max number of clients reached").encode(RespVersion::Two, &mut out);
            // The few bytes fit any empty socket.
            let _ = stream.write(&out);
        }
    }
}
