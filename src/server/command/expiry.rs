//! Commands about times to live, which no key has.

use bytes::Bytes;

use super::{CommandError, Context, Reply, is, strings, word};

type Answer = Result<Reply, CommandError>;

/// -1 for a key that never expires, -2 for one that is not there.
pub(super) fn ttl(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let is_there = context
        .store
        .contains(context.session.table, word(words, 1)?)?;
    Ok(Reply::Integer(if is_there { -1 } else { -2 }))
}

/// No key has a time to live to be removed.
pub(super) fn persist(_context: &mut Context<'_, '_>, _words: &[Bytes]) -> Answer {
    Ok(Reply::Integer(0))
}

/// GET, as long as no time to live is asked for.
pub(super) fn getex(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    for option in words.iter().skip(2) {
        refuse_option(option)?;
        if words.len() != 3 || !is(option, "persist") {
            return Err(CommandError::Syntax);
        }
    }
    strings::get(context, words)
}

/// A command whose only purpose is a time to live.
pub(super) fn refuse(_context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    Err(refusal(word(words, 0)?))
}

/// Refuses the options of SET and GETEX that ask for a time to live.
pub(super) fn refuse_option(option: &[u8]) -> Result<(), CommandError> {
    let mut known = ["ex", "px", "exat", "pxat"].into_iter();
    if known.any(|name| is(option, name)) {
        return Err(refusal(option));
    }
    Ok(())
}

fn refusal(option: &[u8]) -> CommandError {
    CommandError::Expiry {
        option: String::from_utf8_lossy(option).to_ascii_uppercase(),
    }
}
