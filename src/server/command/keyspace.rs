//! Commands about which keys there are.

use bytes::Bytes;

use super::{CommandError, Context, Reply, is, word};
use crate::server::store::Table;

type Answer = Result<Reply, CommandError>;

/// Counts a key as often as it is named, as Redis does.
pub(super) fn exists(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let mut count = 0;
    for key in words.iter().skip(1) {
        count += u64::from(context.store.contains(context.session.table, key)?);
    }
    Ok(Reply::count(count))
}

pub(super) fn type_of(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let is_there = context
        .store
        .contains(context.session.table, word(words, 1)?)?;
    Ok(Reply::Status(
        if is_there { "string" } else { "none" }.into(),
    ))
}

pub(super) fn dbsize(context: &mut Context<'_, '_>, _words: &[Bytes]) -> Answer {
    Ok(Reply::count(context.store.count(context.session.table)?))
}

pub(super) fn del(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let mut count = 0;
    for key in words.iter().skip(1) {
        count += u64::from(context.store.delete(context.session.table, key)?);
    }
    Ok(Reply::count(count))
}

pub(super) fn flushdb(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    checked_flush_mode(words)?;
    context.store.clear(context.session.table)?;
    Ok(Reply::OK)
}

pub(super) fn flushall(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    checked_flush_mode(words)?;
    for table in Table::all() {
        if context.store.count(table)? > 0 {
            context.store.clear(table)?;
        }
    }
    Ok(Reply::OK)
}

/// ASYNC and SYNC are accepted and mean the same: the keys are gone when the reply comes.
fn checked_flush_mode(words: &[Bytes]) -> Result<(), CommandError> {
    match words {
        [_] => Ok(()),
        [_, mode] if is(mode, "async") || is(mode, "sync") => Ok(()),
        _ => Err(CommandError::Syntax),
    }
}
