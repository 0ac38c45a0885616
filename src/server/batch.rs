//! Runs what one connection has sent in one transaction.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::Shared;
use super::budget::Share;
use super::command::{self, Command, Context, Effect, Place, Resolved};
use super::protocol::{Reply, Request, RespVersion};
use super::seat::Entered;
use super::session::Session;
use super::store::{Intent, Store};

/// Most commands of one batch.
pub(super) const BATCH_COMMANDS_MAX: usize = 1024;
/// A batch takes no further command once it holds this many bytes.
pub(super) const BATCH_BYTES_MAX: usize = 16 << 20;
/// A batch ends after the reply with which its replies reach this many bytes.
const REPLY_BYTES_TARGET: usize = 16 << 20;

/// A batch that asks for more than this has a transaction of its own.
const SHARING_BYTES_MAX: usize = 64 << 10;

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
}

impl Work {
    /// Whether it is too large to share a transaction.
    pub(super) fn is_large(&self) -> bool {
        let queued = self.session.queue.as_ref().map_or(0, |queue| queue.bytes);
        let pending = self.pending.iter().map(|request| request.bytes);
        pending.fold(queued, usize::saturating_add) > SHARING_BYTES_MAX
    }
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
pub(super) fn run(shared: &Shared, mut work: Work, intent: Intent) -> Work {
    let entered = shared.seat.enter();
    let database = entered.as_ref().and_then(Entered::database);
    let mut store = Store::new(database, intent);
    let answers = run_in(shared, &mut work, &mut store);
    // Forgiven with the first one that writes and works.
    work.session.breaks_batches &= intent == Intent::Read || store.is_failed();
    let failure = commit(shared, store);
    answer(answers, failure.as_ref(), &mut work.out);
    work
}

/// Runs commands from the head of what is pending in the transaction of `store`.
pub(super) fn run_in(shared: &Shared, work: &mut Work, store: &mut Store<'_>) -> Vec<Answer> {
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
        if alone || session.is_closing || reply_bytes >= REPLY_BYTES_TARGET {
            break;
        }
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

/// Whether the batch may change the database. May say so wrongly, never the other way round.
pub(super) fn intent(shared: &Shared, session: &Session, pending: &VecDeque<Request>) -> Intent {
    let writes = |command: &Command| command.effect == Effect::Write;
    let first = pending.front().map(|request| &request.words);
    if session.queue.is_none() && first.is_some_and(|words| runs_alone(shared, words)) {
        return Intent::Read;
    }
    let mut queued = session.queue.iter().flat_map(|queue| &queue.commands);
    let mut coming = pending.iter();
    let writing = queued.any(|(command, _)| writes(command))
        || coming.any(|request| match command::resolve(shared, &request.words) {
            Some(Resolved::Command(command)) => writes(command),
            Some(Resolved::Statement(_)) | None => false,
        });
    if writing { Intent::Write } else { Intent::Read }
}

fn runs_alone(shared: &Shared, words: &[Bytes]) -> bool {
    match command::resolve(shared, words) {
        Some(Resolved::Command(command)) => command.place == Place::Alone,
        Some(Resolved::Statement(_)) => true,
        None => false,
    }
}
