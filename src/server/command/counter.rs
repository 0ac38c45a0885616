//! Commands that count.

use bytes::Bytes;

use super::{CommandError, Context, Reply, integer, word};
use crate::server::store::checked_key;

type Answer = Result<Reply, CommandError>;

pub(super) fn incr(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    add(context, word(words, 1)?, 1)
}

pub(super) fn incrby(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let step = integer(word(words, 2)?)?;
    add(context, word(words, 1)?, step)
}

pub(super) fn decr(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    add(context, word(words, 1)?, -1)
}

pub(super) fn decrby(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let step = integer(word(words, 2)?)?;
    let step = step.checked_neg().ok_or(CommandError::DecrementOverflow)?;
    add(context, word(words, 1)?, step)
}

/// A key without a value counts from 0.
fn add(context: &mut Context<'_, '_>, key: &Bytes, step: i64) -> Answer {
    checked_key(key)?;
    let table = context.session.table;
    let old = match context.value(table, key)? {
        Some(value) => integer(&value)?,
        None => 0,
    };
    let sum = old.checked_add(step).ok_or(CommandError::Overflow)?;
    context.store.put(table, key, sum.to_string().as_bytes())?;
    Ok(Reply::Integer(sum))
}
