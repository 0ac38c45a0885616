//! Commands about the value of a key.

use bytes::Bytes;

use super::{CommandError, Context, Reply, expiry, is, word};
use crate::server::store::{checked_key, checked_value};

type Answer = Result<Reply, CommandError>;

pub(super) fn get(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let value = context.value(context.session.table, word(words, 1)?)?;
    context.bulk(value)
}

pub(super) fn mget(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let table = context.session.table;
    let mut values = Vec::new();
    for key in words.iter().skip(1) {
        let value = context.value(table, key)?;
        values.push(context.bulk(value)?);
    }
    Ok(Reply::Array(values))
}

pub(super) fn strlen(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let table = context.session.table;
    let bytes = context.store.value_bytes(table, word(words, 1)?)?;
    Ok(Reply::count(bytes.unwrap_or(0) as u64))
}

/// When SET sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Always,
    IfAbsent,
    IfPresent,
}

/// What SET answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answering {
    Outcome,
    OldValue,
}

fn set_options(words: &[Bytes]) -> Result<(Condition, Answering), CommandError> {
    let (mut condition, mut answering) = (Condition::Always, Answering::Outcome);
    for option in words.iter().skip(3) {
        let wanted = if is(option, "nx") {
            Condition::IfAbsent
        } else if is(option, "xx") {
            Condition::IfPresent
        } else if is(option, "get") {
            answering = Answering::OldValue;
            continue;
        } else if is(option, "keepttl") {
            // No key has a time to live, so keeping it is what happens anyway.
            continue;
        } else {
            expiry::refuse_option(option)?;
            return Err(CommandError::Syntax);
        };
        if condition != Condition::Always && condition != wanted {
            return Err(CommandError::Syntax);
        }
        condition = wanted;
    }
    Ok((condition, answering))
}

pub(super) fn set(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let (key, value) = (word(words, 1)?, word(words, 2)?);
    let (condition, answering) = set_options(words)?;
    checked_key(key)?;
    checked_value(value.len())?;
    let table = context.session.table;
    let (was_there, old) = match (condition, answering) {
        (_, Answering::OldValue) => {
            let old = context.value(table, key)?;
            (old.is_some(), context.bulk(old)?)
        }
        (Condition::Always, Answering::Outcome) => (false, Reply::Null),
        (_, Answering::Outcome) => (context.store.contains(table, key)?, Reply::Null),
    };
    let sets = match condition {
        Condition::Always => true,
        Condition::IfAbsent => !was_there,
        Condition::IfPresent => was_there,
    };
    if sets {
        context.store.put(table, key, value)?;
    }
    Ok(match answering {
        Answering::OldValue => old,
        Answering::Outcome if sets => Reply::OK,
        Answering::Outcome => Reply::Null,
    })
}

pub(super) fn setnx(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let (key, value) = (word(words, 1)?, word(words, 2)?);
    checked_key(key)?;
    checked_value(value.len())?;
    let table = context.session.table;
    if context.store.contains(table, key)? {
        return Ok(Reply::Integer(0));
    }
    context.store.put(table, key, value)?;
    Ok(Reply::Integer(1))
}

/// The pairs of MSET and MSETNX, all of which can be stored.
fn checked_pairs<'w>(
    words: &'w [Bytes],
    command: &'static str,
) -> Result<Vec<(&'w Bytes, &'w Bytes)>, CommandError> {
    let (pairs, rest) = words.get(1..).unwrap_or_default().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(CommandError::Arity { command });
    }
    for [key, value] in pairs {
        checked_key(key)?;
        checked_value(value.len())?;
    }
    Ok(pairs.iter().map(|[key, value]| (key, value)).collect())
}

pub(super) fn mset(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    for (key, value) in checked_pairs(words, "mset")? {
        context.store.put(context.session.table, key, value)?;
    }
    Ok(Reply::OK)
}

pub(super) fn msetnx(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let pairs = checked_pairs(words, "msetnx")?;
    let table = context.session.table;
    for (key, _) in &pairs {
        if context.store.contains(table, key)? {
            return Ok(Reply::Integer(0));
        }
    }
    for (key, value) in pairs {
        context.store.put(table, key, value)?;
    }
    Ok(Reply::Integer(1))
}

pub(super) fn getset(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let (key, value) = (word(words, 1)?, word(words, 2)?);
    checked_key(key)?;
    checked_value(value.len())?;
    let table = context.session.table;
    let old = context.value(table, key)?;
    let old = context.bulk(old)?;
    context.store.put(table, key, value)?;
    Ok(old)
}

pub(super) fn getdel(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let (table, key) = (context.session.table, word(words, 1)?);
    let old = context.value(table, key)?;
    let old = context.bulk(old)?;
    context.store.delete(table, key)?;
    Ok(old)
}

pub(super) fn append(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let (key, tail) = (word(words, 1)?, word(words, 2)?);
    checked_key(key)?;
    let table = context.session.table;
    let before = context.store.value_bytes(table, key)?.unwrap_or(0);
    checked_value(before.saturating_add(tail.len()))?;
    context.memory.grow(tail.len())?;
    let mut value = context.value(table, key)?.unwrap_or_default();
    value.extend_from_slice(tail);
    context.store.put(table, key, &value)?;
    Ok(Reply::count(value.len() as u64))
}
