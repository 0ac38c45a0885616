//! A database as a server that speaks the Redis protocol, RESP2 and, after `HELLO 3`, RESP3.
//!
//! The process that holds the engine runs it: `stillfs serve`, or an application that embeds a
//! database and wants other languages to reach it.
//!
//! ```text
//! accept loop (one per listener) --> loops: threads for many connections each
//!
//!   receive -> framing -> pending requests -> batch: one transaction -> replies -> send
//!                                               |
//!                                               begin, run commands, commit, and only then reply
//!
//!   a batch runs   in its loop             if it only reads, and is short
//!                  with the writer         if it writes: in one transaction with others (group.rs)
//!                  in a thread of its own  if it may last
//! ```
//!
//! * R1 A reply that tells of a change leaves after the commit of that change has returned. If it
//!   fails, every command of the batch that used the transaction answers an error.
//! * R2 All complete commands that a connection has sent run in one transaction, up to a bound; each
//!   sees what those before it did. A batch in which nothing writes uses a read transaction.
//! * R3 A command that answers an error has changed nothing: it checks before its first change. An
//!   engine that fails in the middle of a command makes the whole batch fail.
//! * R4 EXEC runs its commands within one transaction, without those of any other connection between.
//! * R5 No transaction is open while a reply is sent, and nobody waits for a socket to take one, so a client
//!   that never reads harms nobody else.
//! * R6 Nothing is allocated by a length that a client announces, and received bytes are looked at
//!   once: memory and time are bounded by what arrived.
//! * R7 Only a loopback address is listened on as long as no client is asked for a password, and a
//!   Unix socket is its owner's alone. A connection that speaks HTTP is dropped before any of its
//!   lines is taken for a command.
//! * R8 After `stop` no thread of the server runs, and it holds no handle of the database.
//! * R9 What connections take in memory is counted before it is taken, and bounded for all of them
//!   together; below 32 KiB a command needs nothing of that. Who has not given the password gets
//!   16 KiB, one command at a time, and a place among few, which the next newcomer may take.
//! * R10 No wait for a client is for ever, except that of one who is known between two commands.
//! * R11 While the seat is closed nothing reads or writes the database, and whatever would need it answers
//!   LOADING; a batch that runs when it is closed is finished first.
//! * R12 Batches that share a transaction run whole, one after the other, and if its commit fails each of
//!   them is told so. One that is large shares none, and neither does that of a client whose last one made a
//!   transaction fail; those that were not tried before it wait for the next one.
//! * R13 A loop waits for no client, no writer, no sync and no statement: it reads what has come, runs what only
//!   reads and is short, and sends what the sockets take. What may last has a thread of its own, and its
//!   connection takes no steps before that is done. No client has more than a batch of a turn.
//!
//! Connections share the registry and the scan positions, each behind a lock that is held for moments and never
//! across I/O or a transaction. What belongs to one connection is with its loop, or with the one thread that
//! runs a batch of it (desk.rs). A command that breaks down closes its connection, and those that shared
//! its transaction. Threads of single batches have a small stack, so nothing here recurses by a client's
//! will.
//!
//! Keys do not expire, and there are no types but strings; a command that would need either is
//! refused. Databases 0 to 15 are the tables `redis.0` to `redis.15`. What a client sees of other
//! tables is nothing. Replication, clusters, scripts and subscriptions are not offered.

mod batch;
mod border;
mod bound;
mod budget;
mod command;
mod connection;
mod desk;
mod errands;
mod error;
mod group;
mod listener;
mod options;
mod pace;
mod password;
mod protocol;
mod registry;
mod round;
mod seat;
mod session;
mod store;
mod stream;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use border::{Access, AccessDecision, OpenAccess, Statements};
pub use bound::Bound;
pub use error::ServerError;
pub use options::ServerOptions;
pub use password::{PASSWORD_BYTES_MAX, Password};
pub use protocol::Reply;
pub use seat::{ClosedSeat, Seat};

use crate::database::Database;
use listener::Listener;

/// Most threads that connections are spread over; there are no more than processors. Batches that write gather
/// from all of them, so more loops make no smaller commits.
const LOOPS_MAX: usize = 4;

/// What the connections of a server have in common.
#[derive(Debug)]
struct Shared {
    seat: Seat,
    /// Where the database is.
    directory: PathBuf,
    options: ServerOptions,
    registry: Arc<registry::Registry>,
    /// One of each loop; never empty.
    inboxes: Vec<Arc<desk::Inbox>>,
    group: group::Group,
    errands: errands::Errands,
    scans: command::Scans,
    budget: Arc<budget::Budget>,
    /// Makes the next batch that wrote fail where it would commit.
    #[cfg(test)]
    break_next_commit: std::sync::atomic::AtomicBool,
    /// Makes each change of this key fail.
    #[cfg(test)]
    breaking_key: parking_lot::Mutex<Option<bytes::Bytes>>,
}

impl Shared {
    /// Where the loop of a connection is reached.
    fn inbox_of(&self, id: session::ConnectionId) -> &desk::Inbox {
        let loops = self.inboxes.len() as u64;
        let index = usize::try_from(id.0 % loops).unwrap_or_default();
        &self.inboxes[index]
    }
}

#[cfg(test)]
impl Shared {
    /// Gives `store` up if it was asked for the key of which changes are to fail.
    fn break_for_a_test(&self, request: &protocol::Request, store: &mut store::Store<'_>) {
        let key = self.breaking_key.lock();
        if key.is_some() && request.words.get(1) == key.as_ref() {
            store.break_commit(crate::engine::error::EngineError::ReadOnly);
        }
    }

    /// `store` as it is, or given up if the next commit is to fail.
    fn broken_by_a_test<'a>(&self, mut store: store::Store<'a>) -> store::Store<'a> {
        let order = std::sync::atomic::Ordering::SeqCst;
        if self.break_next_commit.swap(false, order) {
            store.break_commit(crate::engine::error::EngineError::ReadOnly);
        }
        store
    }
}

/// A running server. Dropping it stops it, as `stop` does.
#[derive(Debug)]
pub struct Server {
    shared: Option<Arc<Shared>>,
    accepting: Vec<(Arc<Listener>, JoinHandle<()>)>,
    loops: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens, and serves clients on threads of its own until `stop`.
    ///
    /// Errors: `NoListener`; `PasswordNeeded`; `Bind` and `BindPath`; `Thread`.
    pub fn start(database: Database, options: ServerOptions) -> Result<Self, ServerError> {
        Bound::nowhere(options).serve(database)
    }

    fn accept(
        seat: Seat,
        options: ServerOptions,
        listeners: Vec<Listener>,
    ) -> Result<Self, ServerError> {
        let directory = seat
            .database()
            .map(|database| database.directory().to_owned());
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let inboxes = (0..processors.min(LOOPS_MAX)).map(|_| desk::Inbox::new().map(Arc::new));
        let inboxes = inboxes.collect::<Result<_, _>>();
        let shared = Arc::new(Shared {
            seat,
            directory: directory.unwrap_or_default(),
            budget: budget::Budget::new(options.memory_max),
            options,
            registry: Arc::default(),
            inboxes: inboxes.map_err(|source| ServerError::Thread { source })?,
            group: group::Group::default(),
            errands: errands::Errands::default(),
            scans: command::Scans::new(),
            #[cfg(test)]
            break_next_commit: std::sync::atomic::AtomicBool::new(false),
            #[cfg(test)]
            breaking_key: parking_lot::Mutex::default(),
        });
        let mut server = Self {
            shared: Some(Arc::clone(&shared)),
            accepting: Vec::new(),
            loops: Vec::new(),
            writer: None,
        };
        for inbox in &shared.inboxes {
            let round = round::Round::new(Arc::clone(&shared), Arc::clone(inbox));
            server.loops.push(start("loop", move || round.run())?);
        }
        let own = Arc::clone(&shared);
        server.writer = Some(start("writer", move || group::write_all(&own))?);
        for listener in listeners {
            let listener = Arc::new(listener);
            let (shared, own) = (Arc::clone(&shared), Arc::clone(&listener));
            let thread = start("accept", move || listener::accept_all(&shared, &own))?;
            server.accepting.push((listener, thread));
        }
        Ok(server)
    }

    /// The TCP address that it listens on, with the port that the system chose for port 0.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        let mut listeners = self.accepting.iter();
        listeners.find_map(|(listener, _)| listener.address())
    }

    /// Lets nobody in any more, lets running batches finish and their replies be taken, closes the
    /// connections and joins the threads.
    ///
    /// Takes as long as the running batches do, and for clients that do not take their replies up to
    /// the grace of the options. A batch that runs longer than that is finished, but its client may
    /// not learn of it.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(shared) = self.shared.take() else {
            return;
        };
        shared.registry.begin_stop();
        for (listener, thread) in self.accepting.drain(..) {
            if let Err(error) = listener.stop() {
                tracing::error!(%error, "cannot stop accepting; a thread is left behind");
                continue;
            }
            if thread.join().is_err() {
                tracing::error!("an accepting thread panicked");
            }
        }
        shared.registry.finish_stop(shared.options.stop_grace);
        for inbox in &shared.inboxes {
            inbox.post(|mail| mail.is_last = true);
        }
        shared.group.end();
        for thread in self.loops.drain(..).chain(self.writer.take()) {
            if thread.join().is_err() {
                tracing::error!("a thread of the server panicked");
            }
        }
        shared.errands.join();
    }
}

/// Starts a thread of the server. Errors: `Thread`.
fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ServerError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|source| ServerError::Thread { source })
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
