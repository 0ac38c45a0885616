//! One connection: receive, run, send, until the client goes or the server stops.

use std::collections::VecDeque;
use std::io;

use bytes::BytesMut;

use super::Shared;
use super::batch::{self, BATCH_BYTES_MAX, BATCH_COMMANDS_MAX};
use super::protocol::{Framing, ProtocolError, Reply, Request};
use super::session::Session;
use super::stream::Stream;

/// The least and the most that one read takes. Idle clients are many and should be cheap; from busy
/// ones a read should bring as many commands as a batch can take.
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = 256 << 10;
/// A buffer that a large request has made larger than this is given back after it.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// The client said QUIT or went away, or the server stops.
    Closed,
    /// What the client sent cannot be understood.
    Protocol(ProtocolError),
    /// The socket failed, or the client did not take its replies.
    Io(io::Error),
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
    };
    match connection.run() {
        End::Closed => {}
        End::Protocol(ProtocolError::Http) => {
            tracing::warn!(id, "dropped a connection that speaks HTTP");
        }
        End::Protocol(error) => {
            tracing::info!(id, %error, "dropped a connection that breaks the protocol");
            let mut out = BytesMut::new();
            Reply::error(error).encode(connection.session.version, &mut out);
            // It is closed next anyway.
            let _ = stream.write_all(&out);
        }
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
            // Complete requests may be left in the buffer when a batch was full.
            if is_full {
                continue;
            }
            match self.receive() {
                Ok(0) => return End::Closed,
                Ok(_) => {}
                Err(error) => return End::Io(error),
            }
        }
    }

    /// Moves complete requests from the received bytes to `pending`, up to the bounds of a batch.
    ///
    /// Errors: the protocol's, for what comes after the requests that were taken.
    fn take_requests(&mut self, pending: &mut VecDeque<Request>) -> Result<(), ProtocolError> {
        let mut bytes = 0;
        while pending.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
            let Some(request) = self.framing.next(&mut self.received)? else {
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
            let mut out = BytesMut::new();
            batch::run(self.shared, &mut self.session, pending, &mut out);
            self.stream.write_all(&out)?;
        }
        Ok(())
    }

    /// Reads once, and reads more at once the next time if there was plenty.
    fn receive(&mut self) -> io::Result<usize> {
        if self.received.is_empty() && self.received.capacity() > KEPT_BYTES_MAX {
            self.received = BytesMut::new();
        }
        let count = loop {
            match self.stream.read(&mut self.read) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.received
            .extend_from_slice(self.read.get(..count).unwrap_or_default());
        if count == self.read.len() && count < READ_BYTES_MAX {
            self.read.resize(count * 4, 0);
        }
        Ok(count)
    }
}
