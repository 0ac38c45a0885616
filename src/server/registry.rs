//! Which connections there are, and how they end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::session::ConnectionId;
use super::stream::Stream;

#[derive(Debug)]
struct Entry {
    stream: Arc<Stream>,
    peer: String,
    name: Bytes,
    standing: Standing,
}

/// What is known of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It gave the password, or none is asked for.
    Known,
    /// It has not given the password.
    Stranger,
    /// It had not, and gave up its place to somebody else.
    Evicted,
}

/// How many may come in, and as what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) connections_max: usize,
    pub(super) strangers_max: usize,
    /// Whether the newcomer must give a password first.
    pub(super) is_stranger: bool,
}

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<ConnectionId, Entry>,
    accepted: u64,
    is_stopping: bool,
}

/// Why a connection was turned away.
#[derive(Debug)]
pub(super) enum Refused {
    /// There are as many as may be.
    Full,
    /// The server is about to end.
    Stopping,
}

/// The connections of one server. Its lock is held for moments only and never across I/O.
#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    changed: Condvar,
}

impl Registry {
    /// Enters a connection, whose loop must call `leave` with its number at its end. A stranger too many takes
    /// the place of the one who came first, so that strangers can keep nobody out who gives the password
    /// at once.
    ///
    /// Errors: as named; nothing is entered then.
    pub(super) fn enter(
        &self,
        stream: Arc<Stream>,
        peer: String,
        places: Places,
    ) -> Result<ConnectionId, Refused> {
        let mut state = self.state.lock();
        if state.is_stopping {
            return Err(Refused::Stopping);
        }
        if state.is_full(places) {
            return Err(Refused::Full);
        }
        let standing = match places.is_stranger {
            true => {
                state.make_room(places.strangers_max);
                Standing::Stranger
            }
            false => Standing::Known,
        };
        state.accepted += 1;
        let id = ConnectionId(state.accepted);
        let entry = Entry {
            stream,
            peer,
            name: Bytes::new(),
            standing,
        };
        state.running.insert(id, entry);
        Ok(id)
    }

    /// Takes a connection out, as the last thing that is done for it.
    pub(super) fn leave(&self, id: ConnectionId) {
        let left = self.state.lock().running.remove(&id);
        drop(left);
        self.changed.notify_all();
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.state.lock().running.len()
    }

    /// How many there have been.
    pub(super) fn accepted(&self) -> u64 {
        self.state.lock().accepted
    }

    /// Remembers what a client calls itself.
    pub(super) fn rename(&self, id: ConnectionId, name: Bytes) {
        if let Some(entry) = self.state.lock().running.get_mut(&id) {
            entry.name = name;
        }
    }

    /// The lines of CLIENT LIST, or the one of a single connection.
    pub(super) fn list(&self, only: Option<ConnectionId>) -> String {
        let mut text = String::new();
        for (id, entry) in &self.state.lock().running {
            if only.is_none_or(|only| only == *id) {
                let (id, peer, name) = (id.0, &entry.peer, String::from_utf8_lossy(&entry.name));
                // Writing to a string cannot fail.
                let _ = writeln!(text, "id={id} addr={peer} name={name}");
            }
        }
        text
    }

    /// Whether the server is about to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.state.lock().is_stopping
    }

    /// Waits a while, or until the server is about to end.
    pub(super) fn pause(&self, duration: Duration) {
        let mut state = self.state.lock();
        self.changed
            .wait_while_for(&mut state, |state| !state.is_stopping, duration);
    }

    /// Remembers whether a client has given the password.
    pub(super) fn set_known(&self, id: ConnectionId, is_known: bool) {
        if let Some(entry) = self.state.lock().running.get_mut(&id)
            && entry.standing != Standing::Evicted
        {
            entry.standing = match is_known {
                true => Standing::Known,
                false => Standing::Stranger,
            };
        }
    }

    /// Where a client comes from.
    pub(super) fn peer(&self, id: ConnectionId) -> String {
        let state = self.state.lock();
        let entry = state.running.get(&id);
        entry.map(|entry| entry.peer.clone()).unwrap_or_default()
    }

    /// Lets no connection in any more.
    pub(super) fn begin_stop(&self) {
        self.state.lock().is_stopping = true;
        self.changed.notify_all();
    }

    /// Ends all connections after their running batches.
    ///
    /// A client that does not take its replies within `grace` is cut off.
    pub(super) fn finish_stop(&self, grace: Duration) {
        self.shut_down(Shutdown::Read);
        let mut state = self.state.lock();
        self.changed
            .wait_while_for(&mut state, |state| !state.running.is_empty(), grace);
        drop(state);
        self.shut_down(Shutdown::Both);
        let mut state = self.state.lock();
        self.changed
            .wait_while(&mut state, |state| !state.running.is_empty());
    }

    fn shut_down(&self, how: Shutdown) {
        for entry in self.state.lock().running.values() {
            entry.stream.shutdown(how);
        }
    }
}

impl State {
    /// Those who lost their place are as good as gone, unless very many are on their way out.
    fn is_full(&self, places: Places) -> bool {
        let count = self.running.len();
        let is_leaving = |entry: &&Entry| entry.standing == Standing::Evicted;
        count >= places.connections_max && {
            let leaving = self.running.values().filter(is_leaving).count();
            leaving > places.strangers_max || count - leaving >= places.connections_max
        }
    }

    /// Lets those strangers go who came first, until one more may come.
    fn make_room(&mut self, strangers_max: usize) {
        let is_stranger = |entry: &&mut Entry| entry.standing == Standing::Stranger;
        let count = self.running.values_mut().filter(is_stranger).count();
        let too_many = (count + 1).saturating_sub(strangers_max.max(1));
        let strangers = self.running.values_mut().filter(is_stranger);
        for entry in strangers.take(too_many) {
            entry.standing = Standing::Evicted;
            entry.stream.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn stream() -> Arc<Stream> {
        Arc::new(Stream::Unix(UnixStream::pair().unwrap().0))
    }

    const ONE: Places = Places {
        connections_max: 1,
        strangers_max: 1,
        is_stranger: false,
    };

    #[test]
    fn nobody_enters_after_the_stop_began() {
        let registry = Registry::default();
        registry.begin_stop();
        let result = registry.enter(stream(), String::new(), ONE);
        assert!(matches!(result, Err(Refused::Stopping)));
        // Neither of these may wait for anything.
        registry.pause(Duration::from_secs(3600));
        registry.finish_stop(Duration::from_secs(3600));
    }
}
