//! One connection: receive, run, send, in steps none of which waits, until the client goes or the server
//! stops.

use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::Shared;
use super::batch::{self, BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, Course, Sent, Work};
use super::budget::{FREE_BYTES, OverBudget, Share};
use super::desk::{Desk, Errand, Found, Inbox, Newcomer};
use super::errands;
use super::pace::{Pace, now};
use super::protocol::{Framing, ProtocolError, Reply, Speaker};
use super::session::{ConnectionId, Session};
use super::stream::Stream;
use crate::os::event_queue::{Event, EventQueue};

/// The most that one read takes, of a client that is known and of one that is not. From busy ones a read
/// should bring as many commands as a batch can take.
pub(super) const READ_BYTES_MAX: usize = FREE_BYTES / 2;
const STRANGER_READ_BYTES_MAX: usize = 4 << 10;
/// A buffer that a large request has made larger than this is given back after it.
/// Whoever waits holds nothing of the budget.
const KEPT_BYTES_MAX: usize = FREE_BYTES - READ_BYTES_MAX;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// The client said QUIT or went away, or the server stops.
    Closed,
    /// The client did not greet in time, or is too slow with a request.
    TooSlow,
    /// The socket failed, or the client did not take its replies.
    Io(io::Error),
}

/// What a connection needs after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// An event of its socket, its work back, or its deadline.
    Wait,
    /// Another step, after those of the others.
    Again,
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

/// What a turn of the loop lends to the connections.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) is_stopping: bool,
    /// Where one read goes.
    pub(super) read: &'a mut [u8],
    /// What the writer is to get at its end.
    pub(super) writes: &'a mut Vec<Errand>,
    pub(super) queue: &'a EventQueue,
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct Connection {
    id: ConnectionId,
    stream: Arc<Stream>,
    desk: Arc<Desk>,
    /// `None` while it is with another thread.
    work: Option<Box<Work>>,
    framing: Framing,
    received: BytesMut,
    /// The memory of `received` and of the requests in it.
    requests: Share,
    awaited: Awaited,
    /// What follows the requests that were taken cannot be understood.
    broken: Option<ProtocolError>,
    /// A read may find something.
    is_readable: bool,
    has_ended: bool,
    is_cut: bool,
    /// A batch was run, and the client has not got all of its replies.
    was_run: bool,
    /// Since when replies wait for room in the socket.
    sending: Option<Pace>,
    /// Until when a guess at the password is not answered.
    paused_until: Option<Duration>,
    /// It has a place among those that have a step to do.
    pub(super) is_queued: bool,
    /// When it has one to do without an event, as its loop knows it.
    pub(super) timer: Option<Duration>,
}

impl Connection {
    pub(super) fn new(shared: &Shared, newcomer: Newcomer, inbox: Arc<Inbox>) -> Self {
        let Newcomer { id, stream } = newcomer;
        let is_known = !shared.options.access.is_required();
        let session = Session::new(id, is_known, shared.budget.share());
        Self {
            id,
            stream,
            desk: Desk::new(id, inbox),
            work: Some(Work::new(session, shared.budget.share())),
            framing: Framing::new(),
            received: BytesMut::new(),
            requests: shared.budget.share(),
            awaited: Awaited::Greeting(Pace::start(shared.options.greeting_timeout)),
            broken: None,
            is_readable: true,
            has_ended: false,
            is_cut: false,
            was_run: false,
            sending: None,
            paused_until: None,
            is_queued: false,
            timer: None,
        }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Remembers what its socket has told.
    pub(super) fn note(&mut self, event: Event) {
        self.is_readable = true;
        self.has_ended |= event.has_ended;
        self.is_cut |= event.is_cut;
    }

    /// When it has a step to do without an event; R10.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let work = self.work.as_ref()?;
        if self.paused_until.is_some() {
            return self.paused_until;
        }
        if let Some(pace) = &self.sending {
            return Some(pace.end(work.sent));
        }
        match &self.awaited {
            Awaited::Greeting(pace) | Awaited::Rest(pace) => Some(pace.end(self.received.len())),
            Awaited::Anything => None,
        }
    }

    /// Goes on as far as one read and one batch take it.
    ///
    /// Errors: how it ends. An errand to the writer may be among those of the turn.
    pub(super) fn step(&mut self, turn: &mut Turn<'_>) -> Result<Next, End> {
        if !self.fetch()? || self.is_paused(turn) {
            return Ok(Next::Wait);
        }
        if let Some(next) = self.send(turn)? {
            return Ok(next);
        }
        if self.take_requests() {
            return self.run(turn);
        }
        if let Some(error) = self.broken.take() {
            return self.refuse(turn, error);
        }
        let found = match self.receive(turn) {
            Ok(found) => found,
            Err(Stopped::End(end)) => return Err(end),
            Err(Stopped::Memory(error)) => {
                tracing::warn!(id = self.id.0, %error, "dropped a connection that sends too much");
                return self.say_last(turn, &Reply::error(format_args!("OOM {error}")));
            }
        };
        if found && self.take_requests() {
            return self.run(turn);
        }
        if let Some(error) = self.broken.take() {
            return self.refuse(turn, error);
        }
        self.expect_next(turn, false);
        Ok(match self.is_readable {
            true => Next::Again,
            false => Next::Wait,
        })
    }

    /// Gets the work back, if it is to be had; whether it is here.
    fn fetch(&mut self) -> Result<bool, End> {
        if self.work.is_some() {
            return Ok(true);
        }
        match self.desk.look() {
            Found::Nothing => Ok(false),
            Found::Back(work) => {
                self.receive_back(work);
                Ok(true)
            }
            Found::Lost => Err(End::Io(io::Error::other(
                "the thread that ran its batch broke down",
            ))),
        }
    }

    /// After a batch.
    fn receive_back(&mut self, mut work: Box<Work>) {
        let penalty = work.session.penalty.take();
        self.paused_until = penalty.map(|penalty| now().saturating_add(penalty));
        self.work = Some(work);
        self.was_run = true;
    }

    fn is_paused(&mut self, turn: &Turn<'_>) -> bool {
        let is_paused = self.paused_until.is_some_and(|until| now() < until);
        if !is_paused || turn.is_stopping || self.is_cut {
            self.paused_until = None;
            return false;
        }
        true
    }

    /// Sends the replies; what is to be waited for before the rest of them can go, or `None` if all are with the
    /// socket. R5: until then nothing more is received of the client, nor run for it.
    ///
    /// Errors: it is closing, or took too long.
    fn send(&mut self, turn: &Turn<'_>) -> Result<Option<Next>, End> {
        let Some(work) = &mut self.work else {
            return Ok(Some(Next::Wait));
        };
        if !work.out.is_empty() {
            let before = work.sent;
            let sent = work.send(&self.stream).map_err(End::Io)?;
            let has_moved = sent == Sent::All || work.sent > before;
            if sent != Sent::All {
                let is_new = self.sending.is_none();
                let grace = turn.shared.options.write_timeout;
                let pace = self.sending.get_or_insert_with(|| Pace::start(grace));
                if has_moved {
                    pace.move_on();
                } else if pace.is_lost(work.sent) {
                    return Err(End::Io(io::ErrorKind::TimedOut.into()));
                }
                if is_new {
                    self.watch_room(turn, true)?;
                }
                return Ok(Some(match sent {
                    Sent::Part => Next::Again,
                    _ => Next::Wait,
                }));
            }
        }
        if self.sending.take().is_some() {
            self.watch_room(turn, false)?;
        }
        let is_closing = self.work.as_ref().is_some_and(|w| w.session.is_closing);
        if is_closing || turn.is_stopping {
            return Err(End::Closed);
        }
        // Only now: while its replies are on their way nothing is received of a client, however fast it sends.
        if mem::take(&mut self.was_run) {
            self.expect_next(turn, true);
        }
        Ok(None)
    }

    fn watch_room(&self, turn: &Turn<'_>, watches: bool) -> Result<(), End> {
        use std::os::fd::AsFd;
        let socket = self.stream.as_fd();
        let set = turn.queue.set_watches_room(socket, self.id.0, watches);
        set.map_err(End::Io)
    }

    /// Moves complete requests from the received bytes to those that are pending, up to the bounds of a
    /// batch; whether there are any.
    fn take_requests(&mut self) -> bool {
        let Some(work) = &mut self.work else {
            return false;
        };
        if !work.pending.is_empty() || self.broken.is_some() {
            return !work.pending.is_empty();
        }
        let mut bytes = 0;
        // What comes after the password is not looked at before that was.
        let (speaker, requests_max) = match work.session.is_authenticated {
            true => (Speaker::Known, BATCH_COMMANDS_MAX),
            false => (Speaker::Stranger, 1),
        };
        while work.pending.len() < requests_max && bytes < BATCH_BYTES_MAX {
            match self.framing.next(&mut self.received, speaker) {
                Ok(Some(request)) => {
                    bytes += request.bytes;
                    work.pending.push_back(request);
                }
                Ok(None) => break,
                Err(error) => {
                    self.broken = Some(error);
                    break;
                }
            }
        }
        !work.pending.is_empty()
    }

    /// Runs a batch of what is pending, here or elsewhere.
    fn run(&mut self, turn: &mut Turn<'_>) -> Result<Next, End> {
        let Some(work) = self.work.take() else {
            return Ok(Next::Wait);
        };
        let (intent, course) = batch::plan(turn.shared, &work);
        match course {
            Course::Here | Course::Outside => {
                let shared = turn.shared;
                let run = AssertUnwindSafe(move || match course {
                    Course::Outside => batch::run_outside(shared, work),
                    _ => batch::run(shared, work, intent, course),
                });
                let Ok(work) = catch_unwind(run) else {
                    let what = "a command of its batch broke down";
                    return Err(End::Io(io::Error::other(what)));
                };
                self.receive_back(work);
                if self.is_paused(turn) {
                    return Ok(Next::Wait);
                }
                if let Some(next) = self.send(turn)? {
                    return Ok(next);
                }
                Ok(match self.has_more() {
                    true => Next::Again,
                    false => Next::Wait,
                })
            }
            Course::Shared => {
                let errand = self.errand(work);
                turn.writes.push(errand);
                Ok(Next::Wait)
            }
            Course::Alone => {
                let errand = self.errand(work);
                errands::start(turn.shared, errand, intent).map_err(End::Io)?;
                Ok(Next::Wait)
            }
        }
    }

    /// Whether there is something to do when the work is back and the replies are sent.
    fn has_more(&self) -> bool {
        let pending = self.work.as_ref().map_or(0, |work| work.pending.len());
        pending > 0
            || self.is_readable
            || self.broken.is_some()
            || !self.received.is_empty()
            || self.received.capacity() > KEPT_BYTES_MAX
            || self.requests.held() > FREE_BYTES
    }

    fn errand(&self, work: Box<Work>) -> Errand {
        let (desk, stream) = (Arc::clone(&self.desk), Arc::clone(&self.stream));
        Errand::new(desk, stream, work, self.has_more())
    }

    /// Says why what the client sent cannot be understood, and closes.
    fn refuse(&mut self, turn: &Turn<'_>, error: ProtocolError) -> Result<Next, End> {
        let id = self.id.0;
        if error == ProtocolError::Http {
            tracing::warn!(id, "dropped a connection that speaks HTTP");
            return Err(End::Closed);
        }
        tracing::info!(id, %error, "dropped a connection that breaks the protocol");
        self.say_last(turn, &Reply::error(error))
    }

    /// Says why the connection is closed next; it has as long for that as for any other reply.
    fn say_last(&mut self, turn: &Turn<'_>, reply: &Reply) -> Result<Next, End> {
        if let Some(work) = &mut self.work {
            work.session.is_closing = true;
            reply.encode(work.session.version, &mut work.out);
        }
        self.send(turn).map(|next| next.unwrap_or(Next::Wait))
    }

    /// What to wait for, and for how long, after requests were run or there were none.
    fn expect_next(&mut self, turn: &Turn<'_>, was_request: bool) {
        let options = &turn.shared.options;
        let is_between = self.received.is_empty();
        let session = self.work.as_ref().map(|work| &work.session);
        let is_known = session.is_some_and(|session| session.is_authenticated);
        let awaited = mem::replace(&mut self.awaited, Awaited::Anything);
        self.awaited = match awaited {
            // A known client that asks to be forgotten begins anew.
            Awaited::Rest(_) | Awaited::Anything if !is_known => {
                Awaited::Greeting(Pace::start(options.greeting_timeout))
            }
            Awaited::Greeting(pace) if !is_known || !was_request => Awaited::Greeting(pace),
            _ if is_between => Awaited::Anything,
            Awaited::Rest(pace) if !was_request => Awaited::Rest(pace),
            _ => Awaited::Rest(Pace::start(options.request_timeout)),
        };
    }

    /// Reads once; whether that brought anything.
    ///
    /// Errors: how the connection ends.
    fn receive(&mut self, turn: &mut Turn<'_>) -> Result<bool, Stopped> {
        if self.received.is_empty() && self.received.capacity() > KEPT_BYTES_MAX {
            self.received = BytesMut::new();
        }
        self.account(0)?;
        let session = self.work.as_ref().map(|work| &work.session);
        let most = match session.is_some_and(|session| session.is_authenticated) {
            true => READ_BYTES_MAX,
            false => STRANGER_READ_BYTES_MAX,
        };
        let into = turn.read.get_mut(..most).unwrap_or_default();
        let count = match self.is_readable {
            true => match self.stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(Stopped::End(End::Io(error))),
                Ok(0) => return Err(Stopped::End(End::Closed)),
                Ok(count) => count,
            },
            false => 0,
        };
        // A read that gets less than it could has emptied the socket, but for the end of the stream.
        self.is_readable = self.is_readable && count > 0 && (count == most || self.has_ended);
        let so_far = self.received.len() + count;
        if let Awaited::Greeting(pace) | Awaited::Rest(pace) = &mut self.awaited {
            if pace.is_lost(so_far) {
                return Err(Stopped::End(End::TooSlow));
            }
            if count > 0 {
                pace.move_on();
            }
        }
        if count == 0 {
            return Ok(false);
        }
        self.account(count)?;
        let read = turn.read.get(..count).unwrap_or_default();
        self.received.extend_from_slice(read);
        Ok(true)
    }

    /// Counts what is received, what more is to come in, and what the decoding of both will take.
    fn account(&mut self, more: usize) -> Result<(), OverBudget> {
        let bytes = self.received.len() + more;
        // A buffer that is full doubles.
        let buffer = match self.received.capacity() < bytes {
            true => self.received.capacity().saturating_mul(2).max(bytes),
            false => self.received.capacity(),
        };
        self.requests.hold(buffer + self.framing.frame_bytes())
    }
}

/// Why nothing more is received.
enum Stopped {
    End(End),
    /// What the client sends takes more memory than there is.
    Memory(OverBudget),
}

impl From<OverBudget> for Stopped {
    fn from(error: OverBudget) -> Self {
        Self::Memory(error)
    }
}
