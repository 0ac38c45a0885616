//! Runs what one connection has sent as one transaction.

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

/// A reply that is kept back until the commit.
struct Answer {
    reply: Reply,
    version: RespVersion,
    /// Whether the command saw or changed the database.
    depends_on_commit: bool,
}

/// Runs commands from the head of `pending` and appends their replies to `out`.
///
/// At least one command is taken. A command that must run alone ends the batch before it. Nothing
/// is appended before the transaction has ended, and it ends before this returns, so that a client
/// that does not take its replies holds nobody up. `memory` counts what `out` takes.
pub(super) fn run(
    shared: &Shared,
    session: &mut Session,
    pending: &mut VecDeque<Request>,
    memory: &mut Share,
    out: &mut BytesMut,
) {
    let entered = shared.seat.enter();
    let database = entered.as_ref().and_then(Entered::database);
    let mut store = Store::new(database, intent(shared, session, pending));
    let mut answers: Vec<Answer> = Vec::new();
    let mut reply_bytes = 0;
    while let Some(request) = pending.pop_front() {
        let alone = session.queue.is_none() && runs_alone(shared, &request.words);
        if alone && !answers.is_empty() {
            pending.push_front(request);
            break;
        }
        let before = store.accesses();
        let reply = command::dispatch(
            &mut Context::new(shared, session, &mut store, memory),
            &request,
        );
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
    #[cfg(test)]
    if shared
        .break_next_commit
        .swap(false, std::sync::atomic::Ordering::SeqCst)
    {
        store.break_commit(crate::engine::error::EngineError::ReadOnly);
    }
    finish(store, answers, out);
}

/// Ends the transaction and lets the replies out, or what must be said in their place.
fn finish(store: Store<'_>, answers: Vec<Answer>, out: &mut BytesMut) {
    let failure = store.finish().err().map(|error| {
        tracing::error!(%error, "a batch of commands was not committed");
        Reply::error(format_args!("ERR not committed: {error}"))
    });
    for answer in answers {
        let reply = match &failure {
            Some(failure) if answer.depends_on_commit => failure,
            _ => &answer.reply,
        };
        reply.encode(answer.version, out);
    }
}

/// Whether the batch may change the database. May say so wrongly, never the other way round.
fn intent(shared: &Shared, session: &Session, pending: &VecDeque<Request>) -> Intent {
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
