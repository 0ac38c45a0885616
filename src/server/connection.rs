//! One connection: receive, run, send, until the client goes or the server stops.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::BytesMut;

use super::Shared;
use super::batch::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, Work};
use super::budget::{FREE_BYTES, OverBudget, Share};
use super::group;
use super::pace::Pace;
use super::protocol::{Framing, ProtocolError, Reply, Request, Speaker};
use super::session::Session;
use super::stream::Stream;

/// The least and the most that one read takes. Idle clients are many and should be cheap; from busy
/// ones a read should bring as many commands as a batch can take.
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = FREE_BYTES / 2;
/// A buffer that a large request has made larger than this is given back after it.
/// Whoever waits holds nothing of the budget.
const KEPT_BYTES_MAX: usize = FREE_BYTES - READ_BYTES_MAX;

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// The client said QUIT or went away, or the server stops.
    Closed,
    /// What the client sent cannot be understood.
    Protocol(ProtocolError),
    /// What the client sends takes more memory than there is.
    Memory(OverBudget),
    /// The client did not greet in time, or is too slow with a request.
    TooSlow,
    /// The socket failed, or the client did not take its replies.
    Io(io::Error),
}

/// What the client is expected to do next, and since when.
#[derive(Debug)]
enum Awaited {
    /// Its first command, and the password where one is needed.
    Greeting(Pace),
    /// The rest of a request.
    Rest(Pace),
    /// Another request, some time.
    Anything,
}

/// Serves a connection to its end. Blocks in reads, in writes up to the write timeout, and in the
/// database; never in a write while it holds a transaction.
pub(super) fn serve(shared: &Shared, stream: &Stream, session: Session) {
    let id = session.id.0;
    let mut connection = Connection {
        shared,
        stream,
        session,
        framing: Framing::new(),
        received: BytesMut::new(),
        read: vec![0; READ_BYTES_MIN],
        requests: shared.budget.share(),
        awaited: Awaited::Greeting(Pace::start(shared.options.greeting_timeout)),
        read_timeout: None,
    };
    match connection.run() {
        End::Closed => {}
        End::Protocol(ProtocolError::Http) => {
            tracing::warn!(id, "dropped a connection that speaks HTTP");
        }
        End::Protocol(error) => {
            tracing::info!(id, %error, "dropped a connection that breaks the protocol");
            connection.say_last(&Reply::error(error));
        }
        End::Memory(error) => {
            tracing::warn!(id, %error, "dropped a connection that sends too much");
            connection.say_last(&Reply::error(format_args!("OOM {error}")));
        }
        End::TooSlow => tracing::info!(id, "dropped a connection that is silent or too slow"),
        End::Io(error) => tracing::debug!(id, %error, "a connection failed"),
    }
}

struct Connection<'a> {
    shared: &'a Shared,
    stream: &'a Stream,
    session: Session,
    framing: Framing,
    received: BytesMut,
    read: Vec<u8>,
    /// The memory of `received` and of the requests in it.
    requests: Share,
    awaited: Awaited,
    /// What the socket was last told.
    read_timeout: Option<Duration>,
}

impl Connection<'_> {
    fn run(&mut self) -> End {
        let mut pending = VecDeque::new();
        loop {
            let taken = self.take_requests(&mut pending);
            let is_full = !pending.is_empty();
            if let Err(error) = self.run_batches(&mut pending) {
                return End::Io(error);
            }
            if self.session.is_closing || self.shared.registry.is_stopping() {
                return End::Closed;
            }
            if let Err(error) = taken {
                return End::Protocol(error);
            }
            self.expect_next(is_full);
            // Complete requests may be left in the buffer when a batch was full.
            if is_full {
                continue;
            }
            if let Err(end) = self.receive() {
                return end;
            }
        }
    }

    /// Moves complete requests from the received bytes to `pending`, up to the bounds of a batch.
    ///
    /// Errors: the protocol's, for what comes after the requests that were taken.
    fn take_requests(&mut self, pending: &mut VecDeque<Request>) -> Result<(), ProtocolError> {
        let mut bytes = 0;
        // What comes after the password is not looked at before that was.
        let (speaker, requests_max) = match self.session.is_authenticated {
            true => (Speaker::Known, BATCH_COMMANDS_MAX),
            false => (Speaker::Stranger, 1),
        };
        while pending.len() < requests_max && bytes < BATCH_BYTES_MAX {
            let Some(request) = self.framing.next(&mut self.received, speaker)? else {
                break;
            };
            bytes += request.bytes;
            pending.push_back(request);
        }
        Ok(())
    }

    /// Runs all of `pending`, mostly as one batch, and sends the replies of each when it is done.
    fn run_batches(&mut self, pending: &mut VecDeque<Request>) -> io::Result<()> {
        while !pending.is_empty() && !self.session.is_closing {
            let id = self.session.id;
            let nobody = Session::new(id, false, self.shared.budget.share());
            let work = Work {
                session: std::mem::replace(&mut self.session, nobody),
                pending: std::mem::take(pending),
                memory: self.shared.budget.share(),
                out: BytesMut::new(),
            };
            let Some(work) = group::run(self.shared, work) else {
                return Err(io::Error::other("the thread that ran its batch broke down"));
            };
            self.session = work.session;
            *pending = work.pending;
            if let Some(penalty) = self.session.penalty.take() {
                self.shared.registry.pause_client(id, penalty);
            }
            let grace = self.shared.options.write_timeout;
            self.stream.write_all(&work.out, grace)?;
        }
        Ok(())
    }

    /// What to wait for, and for how long, after a round in which requests were taken or not.
    fn expect_next(&mut self, was_request: bool) {
        let options = &self.shared.options;
        let is_between = self.received.is_empty();
        self.awaited = match &self.awaited {
            // A known client that asks to be forgotten begins anew.
            Awaited::Rest(_) | Awaited::Anything if !self.session.is_authenticated => {
                Awaited::Greeting(Pace::start(options.greeting_timeout))
            }
            Awaited::Greeting(pace) if !self.session.is_authenticated || !was_request => {
                Awaited::Greeting(*pace)
            }
            _ if is_between => Awaited::Anything,
            Awaited::Rest(pace) if !was_request => Awaited::Rest(*pace),
            _ => Awaited::Rest(Pace::start(options.request_timeout)),
        };
    }

    /// Says why the connection is closed next; whether that arrives does not matter.
    fn say_last(&self, reply: &Reply) {
        let mut out = BytesMut::new();
        reply.encode(self.session.version, &mut out);
        let _ = self
            .stream
            .write_all(&out, self.shared.options.write_timeout);
    }

    /// Reads once; the next time more at once if there was plenty, and less if there was little.
    ///
    /// Errors: how the connection ends.
    fn receive(&mut self) -> Result<(), End> {
        if self.received.is_empty() && self.received.capacity() > KEPT_BYTES_MAX {
            self.received = BytesMut::new();
        }
        self.account(0).map_err(End::Memory)?;
        self.set_read_timeout().map_err(End::Io)?;
        let count = loop {
            match self.stream.read(&mut self.read) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(End::TooSlow);
                }
                Err(error) => return Err(End::Io(error)),
                Ok(0) => return Err(End::Closed),
                Ok(count) => break count,
            }
        };
        if let Awaited::Greeting(pace) | Awaited::Rest(pace) = &self.awaited
            && pace.is_lost(self.received.len() + count)
        {
            return Err(End::TooSlow);
        }
        self.account(count).map_err(End::Memory)?;
        self.received
            .extend_from_slice(self.read.get(..count).unwrap_or_default());
        let is_busy = count == self.read.len() && self.session.is_authenticated;
        if is_busy && count < READ_BYTES_MAX {
            self.read.resize(count * 4, 0);
        } else if count < self.read.len() / 4 {
            self.read
                .truncate((self.read.len() / 4).max(READ_BYTES_MIN));
            self.read.shrink_to_fit();
        }
        Ok(())
    }

    /// Counts what is received, what more is to come in, and what the decoding of both will take.
    fn account(&mut self, more: usize) -> Result<(), OverBudget> {
        let bytes = self.received.len() + more;
        // A buffer that is full doubles.
        let buffer = match self.received.capacity() < bytes {
            true => self.received.capacity().saturating_mul(2).max(bytes),
            false => self.received.capacity(),
        };
        self.requests
            .hold(buffer + self.framing.frame_bytes() + self.read.len())
    }

    /// No single wait is longer than what the client may take in all.
    fn set_read_timeout(&mut self) -> io::Result<()> {
        let timeout = match &self.awaited {
            Awaited::Greeting(_) => Some(self.shared.options.greeting_timeout),
            Awaited::Rest(_) => Some(self.shared.options.request_timeout),
            Awaited::Anything => None,
        };
        if timeout != self.read_timeout {
            self.stream.set_read_timeout(timeout)?;
            self.read_timeout = timeout;
        }
        Ok(())
    }
}
