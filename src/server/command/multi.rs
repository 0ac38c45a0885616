//! MULTI, EXEC, DISCARD, WATCH and UNWATCH.
//!
//! EXEC runs the queued commands in the transaction of its batch, so they are atomic because that
//! is. WATCH remembers a digest of each value and EXEC compares, inside the transaction: a change
//! is noticed whoever made it, also an application that shares the database without this server; a
//! value that was changed and changed back counts as unchanged.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{Command, CommandError, Context, Effect, Reply};
use crate::server::budget::OverBudget;
use crate::server::session::{Digest, Queue, Watched};
use crate::server::store::Table;

type Answer = Result<Reply, CommandError>;

const QUEUE_COMMANDS_MAX: usize = 1_048_576;
const QUEUE_BYTES_MAX: usize = 256 << 20;
const WATCHED_MAX: usize = 65_536;
/// What a watched key takes beside its own bytes.
const WATCH_BYTES: usize = 128;

pub(super) fn multi(context: &mut Context<'_, '_>, _words: &[Bytes]) -> Answer {
    if context.session.queue.is_some() {
        return Err(CommandError::NestedMulti);
    }
    context.session.queue = Some(Queue::default());
    Ok(Reply::OK)
}

/// Keeps a command for EXEC.
pub(super) fn enqueue(
    context: &mut Context<'_, '_>,
    command: &'static Command,
    words: &[Bytes],
) -> Answer {
    let queue = context.session.queue.get_or_insert_default();
    let bytes = words
        .iter()
        .fold(0, |sum, word| sum + word.len() + size_of::<Bytes>());
    // Its words, a place in the queue, and what the allocator adds to each.
    const FRAME_BYTES: usize = 64;
    let frame_bytes = FRAME_BYTES * (words.len() + 1);
    if context.session.kept.grow(bytes + frame_bytes).is_err() {
        queue.commands = Vec::new();
        queue.is_aborted = true;
        return Err(CommandError::OutOfMemory(OverBudget));
    }
    queue.bytes += bytes;
    queue.writes |= command.effect == Effect::Write;
    queue.lasts |= command.lasts(words.len());
    let (what, limit) = if queue.bytes > QUEUE_BYTES_MAX {
        ("bytes", QUEUE_BYTES_MAX)
    } else if queue.commands.len() >= QUEUE_COMMANDS_MAX {
        ("commands", QUEUE_COMMANDS_MAX)
    } else {
        // A slice would keep the whole receive buffer that it points into.
        let own = words.iter().map(|word| Bytes::copy_from_slice(word));
        if !queue.is_aborted {
            queue.commands.push((command, own.collect()));
        }
        return Ok(Reply::Status("QUEUED".into()));
    };
    queue.commands = Vec::new();
    Err(CommandError::TransactionTooLong { what, limit })
}

pub(super) fn exec(context: &mut Context<'_, '_>, _words: &[Bytes]) -> Answer {
    let queue = context.session.queue.take();
    let queue = queue.ok_or(CommandError::OutsideMulti { command: "EXEC" })?;
    let watched = std::mem::take(&mut context.session.watched);
    let answer = run(context, queue, watched);
    // Only after that nothing of the queue is in memory any more.
    context.session.settle();
    answer
}

fn run(context: &mut Context<'_, '_>, queue: Queue, watched: Watched) -> Answer {
    if queue.is_aborted {
        return Err(CommandError::ExecAborted);
    }
    for ((table, key), digest) in watched {
        if digest_of(context, table, &key)? != digest {
            return Ok(Reply::NullArray);
        }
    }
    let mut replies = Vec::new();
    for (command, words) in queue.commands {
        replies.push((command.run)(context, &words).unwrap_or_else(Reply::error));
    }
    Ok(Reply::Array(replies))
}

pub(super) fn discard(context: &mut Context<'_, '_>, _words: &[Bytes]) -> Answer {
    let queue = context.session.queue.take();
    queue.ok_or(CommandError::OutsideMulti { command: "DISCARD" })?;
    context.session.forget();
    Ok(Reply::OK)
}

pub(super) fn watch(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    if context.session.queue.is_some() {
        return Err(CommandError::WatchInsideMulti);
    }
    let table = context.session.table;
    for key in words.iter().skip(1) {
        if context.session.watched.contains_key(&(table, key.clone())) {
            // The first look counts: the client may have read the value since.
            continue;
        }
        if context.session.watched.len() >= WATCHED_MAX {
            return Err(CommandError::TooManyWatched { limit: WATCHED_MAX });
        }
        let digest = digest_of(context, table, key)?;
        context.session.kept.grow(key.len() + WATCH_BYTES)?;
        let key = Bytes::copy_from_slice(key);
        context.session.watched.insert((table, key), digest);
    }
    Ok(Reply::OK)
}

pub(super) fn unwatch(context: &mut Context<'_, '_>, _words: &[Bytes]) -> Answer {
    context.session.watched.clear();
    context.session.settle();
    Ok(Reply::OK)
}

fn digest_of(
    context: &mut Context<'_, '_>,
    table: Table,
    key: &[u8],
) -> Result<Digest, CommandError> {
    let before = context.memory.held();
    let value = context.value(table, key)?;
    let digest = value.map(|value| Sha256::digest(&value).into());
    context.memory.hold(before)?;
    Ok(digest)
}
