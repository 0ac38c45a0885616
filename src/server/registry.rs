//! Which connections there are, and how they end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::thread::JoinHandle;
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
    thread: JoinHandle<()>,
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
    finished: Vec<JoinHandle<()>>,
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
    /// No thread could be had.
    Thread(io::Error),
}

/// The connections of one server. Its lock is held for moments only and never across I/O.
#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    changed: Condvar,
}

impl Registry {
    /// Enters a connection and starts the thread for it. A stranger too many takes the place of the
    /// one who came first, so that strangers can keep nobody out who gives the password at once.
    ///
    /// The thread must call `leave` with its number at its end; `spawn` itself must not, because it
    /// is called under the lock. Errors: as named; nothing is entered then.
    pub(super) fn enter(
        &self,
        stream: Arc<Stream>,
        peer: String,
        places: Places,
        spawn: impl FnOnce(ConnectionId) -> io::Result<JoinHandle<()>>,
    ) -> Result<(), Refused> {
        // The thread cannot leave before it is entered, because that takes this lock.
        let mut state = self.state.lock();
        let finished = std::mem::take(&mut state.finished);
        let result = if state.is_stopping {
            Err(Refused::Stopping)
        } else if state.is_full(places) {
            Err(Refused::Full)
        } else {
            let id = ConnectionId(state.accepted + 1);
            let standing = if places.is_stranger {
                state.make_room(places.strangers_max);
                Standing::Stranger
            } else {
                Standing::Known
            };
            spawn(id).map_err(Refused::Thread).map(|thread| {
                let entry = Entry {
                    stream,
                    peer,
                    name: Bytes::new(),
                    standing,
                    thread,
                };
                state.accepted += 1;
                state.running.insert(id, entry);
            })
        };
        drop(state);
        // Somebody who lost its place may be waiting.
        if places.is_stranger {
            self.changed.notify_all();
        }
        join(finished);
        result
    }

    /// Takes a connection out, as the last thing that its thread does.
    pub(super) fn leave(&self, id: ConnectionId) {
        let mut state = self.state.lock();
        if let Some(entry) = state.running.remove(&id) {
            state.finished.push(entry.thread);
        }
        drop(state);
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

    /// As `pause`, for a connection that may lose its place meanwhile.
    pub(super) fn pause_client(&self, id: ConnectionId, duration: Duration) {
        let mut state = self.state.lock();
        let goes_on = |state: &mut State| {
            let entry = state.running.get(&id);
            let has_place = entry.is_some_and(|entry| entry.standing != Standing::Evicted);
            has_place && !state.is_stopping
        };
        self.changed.wait_while_for(&mut state, goes_on, duration);
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

    /// Ends all connections after their running batches, and joins their threads.
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
        let finished = std::mem::take(&mut state.finished);
        drop(state);
        join(finished);
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

/// Waits for threads that have left, so for moments only.
fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("the thread of a connection panicked");
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
    fn a_connection_without_a_thread_is_not_entered() {
        let registry = Registry::default();
        let fail = |_| Err(io::ErrorKind::WouldBlock.into());
        let result = registry.enter(stream(), String::new(), ONE, fail);
        assert!(matches!(result, Err(Refused::Thread(_))));
        assert_eq!((registry.count(), registry.accepted()), (0, 0));
    }

    #[test]
    fn nobody_enters_after_the_stop_began() {
        let registry = Registry::default();
        registry.begin_stop();
        let never = |_| unreachable!("no thread may be started");
        let result = registry.enter(stream(), String::new(), ONE, never);
        assert!(matches!(result, Err(Refused::Stopping)));
        // Neither of these may wait for anything.
        registry.pause(Duration::from_secs(3600));
        registry.finish_stop(Duration::from_secs(3600));
    }
}
