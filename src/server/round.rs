//! The loop: one thread for many connections, none of which it waits for.
//!
//! ```text
//! wait for events --> a step of each connection that has one to do --> what they write, to the writer
//! ```
//!
//! * R13 A loop waits for no client, no writer, no sync and no statement: it reads what has come, runs what only
//!   reads and is short, and sends what the sockets take. What may last has a thread of its own, and its
//!   connection takes no steps before that is done. No client has more than a batch of a turn.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::connection::{Connection, End, Next, READ_BYTES_MAX, Turn};
use super::desk::{Errand, Inbox, Newcomer};
use super::pace::now;
use super::session::ConnectionId;
use crate::os::event_queue::Event;

/// How long to wait after a failed wait, for want of memory.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Round {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    connections: HashMap<ConnectionId, Connection>,
    /// Those that have a step to do, in the order in which they came.
    ready: VecDeque<ConnectionId>,
    timers: BTreeSet<(Duration, ConnectionId)>,
    read: Vec<u8>,
    events: Vec<Event>,
    writes: Vec<Errand>,
    /// Nobody comes any more.
    is_last: bool,
}

impl Round {
    pub(super) fn new(shared: Arc<Shared>, inbox: Arc<Inbox>) -> Self {
        Self {
            shared,
            inbox,
            connections: HashMap::new(),
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            read: vec![0; READ_BYTES_MAX],
            events: Vec::new(),
            writes: Vec::new(),
            is_last: false,
        }
    }

    /// Serves connections until it is told that none comes any more, and the last one has gone.
    pub(super) fn run(mut self) {
        while !self.is_last || !self.connections.is_empty() {
            let turn = AssertUnwindSafe(|| {
                self.wait();
                self.gather();
                self.take_steps();
            });
            if catch_unwind(turn).is_err() {
                tracing::error!("a turn of a loop broke down; it goes on");
                self.shared.registry.pause(FAILURE_PAUSE);
            }
        }
    }

    fn wait(&mut self) {
        let timeout = match (self.ready.is_empty(), self.timers.first()) {
            (false, _) => Some(Duration::ZERO),
            (true, Some((moment, _))) => Some(moment.saturating_sub(now())),
            (true, None) => None,
        };
        if let Err(error) = self.inbox.queue.wait(&mut self.events, timeout) {
            tracing::error!(%error, "cannot wait for clients");
            self.shared.registry.pause(FAILURE_PAUSE);
        }
    }

    /// Finds who has a step to do.
    fn gather(&mut self) {
        for event in &self.events {
            let id = ConnectionId(event.token);
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.note(*event);
                queue(&mut self.ready, id, connection);
            }
        }
        let mail = self.inbox.take();
        self.is_last |= mail.is_last;
        for newcomer in mail.newcomers {
            self.let_in(newcomer);
        }
        let due: Vec<_> = match self.timers.is_empty() {
            true => Vec::new(),
            false => {
                let now = now();
                let due = self.timers.iter().take_while(|(moment, _)| *moment <= now);
                due.map(|(_, id)| *id).collect()
            }
        };
        for id in mail.returned.into_iter().chain(due) {
            if let Some(connection) = self.connections.get_mut(&id) {
                queue(&mut self.ready, id, connection);
            }
        }
    }

    fn let_in(&mut self, newcomer: Newcomer) {
        let id = newcomer.id;
        let mut connection = Connection::new(&self.shared, newcomer, Arc::clone(&self.inbox));
        let added = self.inbox.queue.add(connection.stream().as_fd(), id.0);
        if let Err(error) = added {
            tracing::warn!(%error, "cannot watch a connection");
            drop(connection);
            return self.shared.registry.leave(id);
        }
        queue(&mut self.ready, id, &mut connection);
        self.connections.insert(id, connection);
    }

    /// One step of each that has one to do.
    fn take_steps(&mut self) {
        let is_stopping = self.shared.registry.is_stopping();
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else {
                break;
            };
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            connection.is_queued = false;
            let mut turn = Turn {
                shared: &self.shared,
                is_stopping,
                read: &mut self.read,
                writes: &mut self.writes,
                queue: &self.inbox.queue,
            };
            // What breaks down is one connection, whatever the reason.
            let step = AssertUnwindSafe(|| connection.step(&mut turn));
            let step = catch_unwind(step)
                .unwrap_or_else(|_| Err(End::Io(std::io::Error::other("its step broke down"))));
            if let Ok(Next::Again) = step {
                queue(&mut self.ready, id, connection);
            }
            let deadline = step.as_ref().ok().and_then(|_| connection.deadline());
            if deadline != connection.timer {
                if let Some(moment) = connection.timer {
                    self.timers.remove(&(moment, id));
                }
                self.timers.extend(deadline.map(|moment| (moment, id)));
                connection.timer = deadline;
            }
            if let Err(end) = step {
                self.close(id, &end);
            }
        }
        if !self.writes.is_empty() {
            self.shared.group.add(&mut self.writes);
        }
    }

    fn close(&mut self, id: ConnectionId, end: &End) {
        match end {
            End::Closed => {}
            End::TooSlow => {
                tracing::info!(id = id.0, "dropped a connection that is silent or too slow");
            }
            End::Io(error) => tracing::debug!(id = id.0, %error, "a connection failed"),
        }
        if let Some(connection) = self.connections.remove(&id) {
            // The registry holds the socket too, so it would be watched for a moment yet.
            let _ = self.inbox.queue.remove(connection.stream().as_fd());
        }
        self.shared.registry.leave(id);
    }
}

fn queue(ready: &mut VecDeque<ConnectionId>, id: ConnectionId, connection: &mut Connection) {
    if !connection.is_queued {
        connection.is_queued = true;
        ready.push_back(id);
    }
}
