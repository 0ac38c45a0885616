//! The pin server: one thread that accepts, and one for each connection.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use super::connection::{Shared, converse, turn_away};
use super::error::PinError;
use super::limits::{EndPins, PinServerLimits};
use super::messages::RefusalKind;
use super::seats::Seats;
use super::service::PinService;
use crate::os::readiness::{Deadline, Interest, StopSignal, Wake, wait};
use crate::os::unix_socket::{Incumbent, PrivateListener, peer_credentials};

/// How long to let be after a failed accept: the cause, such as too many open files, stays.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running pin server; dropping it stops it and ends all pins.
pub struct PinServer {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
    /// Keeps the socket's name; the accepting thread has a descriptor of its own.
    listener: Option<PrivateListener>,
}

impl fmt::Debug for PinServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinServer")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

impl PinServer {
    /// Listens at `socket_path`, mode 0600, for clients of this user or root.
    ///
    /// The caller holds the directory's lock, so a socket that is there already is a dead one's,
    /// and is removed.
    ///
    /// Errors: `Io`; also where something else than a socket has that name.
    pub fn start(
        socket_path: &Path,
        service: Arc<dyn PinService>,
        limits: PinServerLimits,
    ) -> Result<Self, PinError> {
        let failed = |op| {
            move |source| PinError::Io {
                op,
                path: socket_path.to_owned(),
                source,
            }
        };
        let stop = StopSignal::new().map_err(failed("make a stop signal for"))?;
        // Both ends of that pair are ours, so its peer's user is the one that we run as.
        let own = peer_credentials(stop.watched()).map_err(failed("learn the user of"))?;
        let listener =
            PrivateListener::bind(socket_path, Incumbent::Dead).map_err(failed("listen at"))?;
        let socket = listener.socket().try_clone().map_err(failed("prepare"))?;
        socket.set_nonblocking(true).map_err(failed("prepare"))?;
        let shared = Arc::new(Shared {
            service,
            limits,
            stop,
            at_stop: Mutex::new(EndPins::Yes),
            connections: Seats::new(limits.connections),
            pins: Seats::new(limits.pins),
            own_uid: own.uid,
        });
        let for_thread = Arc::clone(&shared);
        let accepting = Builder::new()
            .name("pin-accept".to_owned())
            .spawn(move || accept_all(&for_thread, &socket))
            .map_err(failed("start a thread for"))?;
        Ok(Self {
            shared,
            accepting: Some(accepting),
            listener: Some(listener),
        })
    }

    /// Removes the socket, closes every connection and waits until all of its threads are gone;
    /// after that the server calls neither the service nor a lease.
    ///
    /// Blocks as long as a `pin` call of the service that is under way: what that makes ends.
    pub fn stop(mut self, end_pins: EndPins) {
        self.stop_now(end_pins);
    }

    fn stop_now(&mut self, end_pins: EndPins) {
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        self.listener = None;
        *self.shared.at_stop.lock() = end_pins;
        self.shared.stop.raise();
        log_panic(accepting);
    }
}

impl Drop for PinServer {
    fn drop(&mut self) {
        self.stop_now(EndPins::Yes);
    }
}

fn accept_all(shared: &Arc<Shared>, listener: &UnixListener) {
    let mut conversations: Vec<JoinHandle<()>> = Vec::new();
    let mut tending = Deadline::after(shared.limits.tending);
    loop {
        let woken = wait(
            listener.as_fd(),
            Interest::Read,
            Some(&shared.stop),
            tending,
        );
        if matches!(woken, Ok(Wake::Stopped)) {
            break;
        }
        if tending.is_over() {
            shared.service.tend();
            tending = Deadline::after(shared.limits.tending);
        }
        if matches!(woken, Ok(Wake::TimedOut)) {
            continue;
        }
        conversations
            .extract_if(.., |thread| thread.is_finished())
            .for_each(log_panic);
        match listener.accept() {
            Ok((stream, _)) => conversations.extend(admit(shared, stream)),
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the control socket");
                pause(shared);
            }
        }
    }
    conversations.into_iter().for_each(log_panic);
}

/// Whether the next accept may well succeed.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock)
}

/// Sleeps, but not through a stop: then the next wait tells of it.
fn pause(shared: &Shared) {
    let signal = shared.stop.watched().as_fd();
    // An error of this wait only makes the pause shorter.
    let _ = wait(signal, Interest::Read, None, Deadline::after(ACCEPT_PAUSE));
}

/// Gives a connection its thread, unless its user or the number of them forbids it.
fn admit(shared: &Arc<Shared>, stream: UnixStream) -> Option<JoinHandle<()>> {
    let peer = peer_credentials(&stream)
        .inspect_err(|error| tracing::warn!(%error, "cannot tell who connects"))
        .ok()?;
    if !may_connect(peer.uid, shared.own_uid) {
        tracing::warn!(uid = peer.uid, "refused a connection of another user");
        turn_away(
            stream,
            RefusalKind::Forbidden,
            "only the engine's user may pin",
        );
        return None;
    }
    let Some(seat) = shared.connections.take() else {
        let limit = shared.connections.limit();
        let message = format!("there are {limit} connections already, as many as there may be");
        turn_away(stream, RefusalKind::TooManyConnections, &message);
        return None;
    };
    let for_thread = Arc::clone(shared);
    Builder::new()
        .name("pin-client".to_owned())
        .spawn(move || {
            converse(&for_thread, stream, peer);
            drop(seat);
        })
        .inspect_err(|error| tracing::warn!(%error, "cannot start a thread for a connection"))
        .ok()
}

/// Root may read every file anyway.
fn may_connect(peer_uid: u32, own_uid: u32) -> bool {
    peer_uid == own_uid || peer_uid == 0
}

fn log_panic(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a thread of the pin server panicked; the pins that it held have ended");
    }
}

#[cfg(test)]
mod tests;
