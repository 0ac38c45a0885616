//! Runs what one connection has sent in one transaction.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::Shared;
use super::budget::Share;
use super::command::{self, Context, Effect, Place, Resolved};
use super::pace::now;
use super::protocol::{Reply, Request, RespVersion};
use super::seat::Entered;
use super::session::Session;
use super::store::{Intent, Store};
use super::stream::Stream;
use crate::database::Database;

/// Most commands of one batch.
pub(super) const BATCH_COMMANDS_MAX: usize = 1024;
/// A batch takes no further command once it holds this many bytes.
pub(super) const BATCH_BYTES_MAX: usize = 64 << 10;
/// A batch ends after the reply with which its replies reach this many bytes.
const REPLY_BYTES_TARGET: usize = 16 << 20;

/// A batch that asks for more than this has a thread and a transaction of its own: a full one fits, unless
/// its last command is a large one.
const LARGE_BYTES: usize = 2 * BATCH_BYTES_MAX;
/// So does one with more words than this.
const WORDS_MAX: usize = 4 << 10;
/// A batch in a loop ends after the command with which it has taken longer than this, and the next ones of its client
/// have threads of their own.
const SLOW: Duration = Duration::from_millis(2);
/// So many batches after a slow one a client is taken for slow.
const SLOW_BATCHES: u8 = 4;
/// What is sent of one client's replies at once, so that a client which takes them as they come is not the only one.
const SEND_BYTES_MAX: usize = 1 << 20;
/// A buffer that has become longer than this is given back.
const KEPT_REPLY_BYTES: usize = 4 << 10;

/// What a connection hands over to have a batch run.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) session: Session,
    /// What it has sent. What is left after a batch is for the next one.
    pub(super) pending: VecDeque<Request>,
    /// Counts what `out` takes.
    pub(super) memory: Share,
    /// The replies.
    pub(super) out: BytesMut,
    /// As many bytes of them are with the socket.
    pub(super) sent: usize,
    /// So many of its next batches have a thread of their own, since one of the last took long.
    slow_batches: u8,
}

impl Work {
    pub(super) fn new(session: Session, memory: Share) -> Box<Self> {
        Box::new(Self {
            session,
            pending: VecDeque::new(),
            memory,
            out: BytesMut::new(),
            sent: 0,
            slow_batches: 0,
        })
    }

    /// Sends as much of the replies as the socket takes now, and no more than is right while others wait.
    /// Errors: the system's.
    pub(super) fn send(&mut self, stream: &Stream) -> io::Result<Sent> {
        let rest = self.out.get(self.sent..).unwrap_or_default();
        let now = rest.get(..SEND_BYTES_MAX).unwrap_or(rest);
        let taken = stream.write(now)?;
        self.sent += taken;
        if self.sent < self.out.len() {
            return Ok(match taken < now.len() {
                true => Sent::Full,
                false => Sent::Part,
            });
        }
        self.sent = 0;
        self.out.clear();
        if self.out.capacity() > KEPT_REPLY_BYTES {
            self.out = BytesMut::new();
        }
        let given_back = self.memory.hold(0);
        given_back.expect("whoever holds nothing is within every budget");
        Ok(Sent::All)
    }

    /// Takes note of a batch, and how long or large it was.
    fn remember(&mut self, is_slow: bool) {
        self.slow_batches = match is_slow {
            true => SLOW_BATCHES,
            false => self.slow_batches.saturating_sub(1),
        };
    }
}

/// How far the replies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// With the socket.
    All,
    /// The socket has room for more.
    Part,
    /// The socket has room for no more.
    Full,
}

/// Where a batch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// In the loop: it reads, and not much.
    Here,
    /// In the loop and without a database: the seat is closed, and the writer may be in it yet.
    Outside,
    /// With the writer, in one transaction with others.
    Shared,
    /// In a thread of its own: it may last, or may take others along when it fails.
    Alone,
}

/// A reply that is kept back until the commit.
#[derive(Debug)]
pub(super) struct Answer {
    reply: Reply,
    version: RespVersion,
    /// Whether the command saw or changed the database.
    depends_on_commit: bool,
}

/// Runs commands from the head of what is pending in a transaction of their own, and gives the work back with
/// their replies.
///
/// At least one command is taken. A command that must run alone ends the batch before it. Nothing
/// is appended before the transaction has ended, and it ends before this returns, so that a client
/// that does not take its replies holds nobody up.
pub(super) fn run(shared: &Shared, work: Box<Work>, intent: Intent, course: Course) -> Box<Work> {
    let entered = shared.seat.enter();
    run_with(
        shared,
        entered.as_ref().and_then(Entered::database),
        work,
        intent,
        course,
    )
}

/// The same without a database, whatever is in the seat.
pub(super) fn run_outside(shared: &Shared, work: Box<Work>) -> Box<Work> {
    run_with(shared, None, work, Intent::Read, Course::Outside)
}

fn run_with(
    shared: &Shared,
    database: Option<&Database>,
    mut work: Box<Work>,
    intent: Intent,
    course: Course,
) -> Box<Work> {
    let begun = now();
    let mut store = Store::new(database, intent);
    let until = (course == Course::Here).then(|| begun.saturating_add(SLOW));
    let answers = run_in(shared, &mut work, &mut store, until);
    // Forgiven with the first one that writes and works.
    work.session.breaks_batches &= intent == Intent::Read || store.is_failed();
    if intent == Intent::Read {
        work.remember(now().saturating_sub(begun) > SLOW);
    }
    let failure = commit(shared, store);
    answer(answers, failure.as_ref(), &mut work.out);
    work
}

/// Runs commands from the head of what is pending in the transaction of `store`; no further one after `until`.
pub(super) fn run_in(
    shared: &Shared,
    work: &mut Work,
    store: &mut Store<'_>,
    until: Option<Duration>,
) -> Vec<Answer> {
    let Work {
        session,
        pending,
        memory,
        ..
    } = work;
    let mut answers: Vec<Answer> = Vec::new();
    let mut reply_bytes = 0;
    while let Some(request) = pending.pop_front() {
        let alone = session.queue.is_none() && runs_alone(shared, &request.words);
        if alone && !answers.is_empty() {
            pending.push_front(request);
            break;
        }
        let before = store.accesses();
        let reply = command::dispatch(&mut Context::new(shared, session, store, memory), &request);
        #[cfg(test)]
        shared.break_for_a_test(&request, store);
        reply_bytes += reply.bytes();
        answers.push(Answer {
            reply,
            version: session.version,
            depends_on_commit: store.accesses() != before,
        });
        let is_late = until.is_some_and(|until| now() > until);
        if alone || session.is_closing || reply_bytes >= REPLY_BYTES_TARGET || is_late {
            break;
        }
    }
    if reply_bytes > SEND_BYTES_MAX {
        work.remember(true);
    }
    answers
}

/// Ends the transaction; what must be said in place of the replies that depend on it, if it failed.
pub(super) fn commit(shared: &Shared, store: Store<'_>) -> Option<Reply> {
    #[cfg(test)]
    let store = shared.broken_by_a_test(store);
    let _ = shared;
    store.finish().err().map(|error| {
        tracing::error!(%error, "a batch of commands was not committed");
        Reply::error(format_args!("ERR not committed: {error}"))
    })
}

/// Lets the replies out, or what must be said in their place.
pub(super) fn answer(answers: Vec<Answer>, failure: Option<&Reply>, out: &mut BytesMut) {
    for answer in answers {
        let reply = match failure {
            Some(failure) if answer.depends_on_commit => failure,
            _ => &answer.reply,
        };
        reply.encode(answer.version, out);
    }
}

/// What a look at the commands to come tells.
#[derive(Clone, Copy, Debug, Default)]
struct Outlook {
    writes: bool,
    lasts: bool,
    words: usize,
    bytes: usize,
}

/// Whether the batch may change the database, and where it is to run. May say wrongly that it changes it,
/// never the other way round.
pub(super) fn plan(shared: &Shared, work: &Work) -> (Intent, Course) {
    let Work {
        session, pending, ..
    } = work;
    // What is watched is looked at again.
    let mut outlook = Outlook {
        words: session.watched.len(),
        ..Outlook::default()
    };
    if !session.is_authenticated && pending.len() == 1 {
        // Whatever it is: it is refused, or it is the password. Neither needs the database.
        return (Intent::Read, Course::Here);
    }
    for (index, request) in pending.iter().enumerate() {
        let found = command::resolve(shared, &request.words);
        if index == 0 && session.queue.is_none() && found.as_ref().is_some_and(is_alone) {
            return (Intent::Read, Course::Alone);
        }
        let command = found.and_then(|found| match found {
            Resolved::Command(command) => Some(command),
            Resolved::Statement(_) => None,
        });
        if let Some(command) = command {
            outlook.writes |= command.effect == Effect::Write;
            outlook.lasts |= command.lasts(request.words.len());
        }
        outlook.words += request.words.len();
        outlook.bytes = outlook.bytes.saturating_add(request.bytes);
    }
    if let Some(queue) = &session.queue {
        outlook.writes |= queue.writes;
        outlook.lasts |= queue.lasts;
        outlook.bytes = outlook.bytes.saturating_add(queue.bytes);
    }
    let lasts = outlook.lasts || outlook.words > WORDS_MAX || outlook.bytes > LARGE_BYTES;
    match outlook.writes {
        true if lasts || session.breaks_batches || work.slow_batches > 0 => {
            (Intent::Write, Course::Alone)
        }
        true if shared.seat.enter().is_none() => (Intent::Write, Course::Outside),
        true => (Intent::Write, Course::Shared),
        false if lasts || work.slow_batches > 0 => (Intent::Read, Course::Alone),
        false => (Intent::Read, Course::Here),
    }
}

fn runs_alone(shared: &Shared, words: &[Bytes]) -> bool {
    command::resolve(shared, words).is_some_and(|found| is_alone(&found))
}

fn is_alone(found: &Resolved<'_>) -> bool {
    match found {
        Resolved::Command(command) => command.place == Place::Alone,
        Resolved::Statement(_) => true,
    }
}
