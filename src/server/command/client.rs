//! Commands about the connection itself.

use std::time::Duration;

use bytes::Bytes;

use super::info::REDIS_VERSION;
use super::{CommandError, Context, Reply, SHOWN_BYTES, integer, is, shown, word};
use crate::server::border::AccessDecision;

use crate::server::protocol::RespVersion;
use crate::server::session::Session;
use crate::server::store::Table;

type Answer = Result<Reply, CommandError>;

/// Longest name of a client: it is kept as long as the client, and told to whoever asks.
const NAME_BYTES_MAX: usize = 256;

pub(super) fn ping(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    match words {
        [_] => Ok(Reply::Status("PONG".into())),
        [_, text] => {
            context.memory.grow(text.len())?;
            Ok(Reply::Bulk(text.clone()))
        }
        _ => Err(CommandError::Arity { command: "ping" }),
    }
}

pub(super) fn echo(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    context.memory.grow(word(words, 1)?.len())?;
    Ok(Reply::Bulk(word(words, 1)?.clone()))
}

pub(super) fn select(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let index = integer(word(words, 1)?)?;
    context.session.table = Table::new(index).ok_or(CommandError::TableIndex)?;
    Ok(Reply::OK)
}

pub(super) fn auth(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    match words {
        [_, password] => authenticate(context, b"default", password),
        [_, user, password] => authenticate(context, user, password),
        _ => Err(CommandError::Syntax),
    }
}

fn authenticate(context: &mut Context<'_, '_>, user: &[u8], password: &[u8]) -> Answer {
    match context.shared.options.access.authenticate(user, password) {
        AccessDecision::Granted => {
            context.session.is_authenticated = true;
            let id = context.session.id;
            context.shared.registry.set_known(id, true);
            Ok(Reply::OK)
        }
        AccessDecision::Denied => {
            punish(context);
            Err(CommandError::WrongPassword)
        }
        AccessDecision::NoPasswordSet => Err(CommandError::NoPasswordSet),
    }
}

/// Each wrong password costs twice the time of the one before, and the last one the connection. Only
/// the one who guesses waits, after its transaction.
fn punish(context: &mut Context<'_, '_>) {
    const FIRST_WAIT: Duration = Duration::from_millis(100);
    const GUESSES_MAX: u32 = 5;
    let session = &mut *context.session;
    if session.wrong_passwords == 0 {
        let peer = context.shared.registry.peer(session.id);
        tracing::warn!(id = session.id.0, peer, "a client gave a wrong password");
    }
    session.penalty = Some(FIRST_WAIT * 2_u32.pow(session.wrong_passwords.min(GUESSES_MAX)));
    session.wrong_passwords += 1;
    session.is_closing |= session.wrong_passwords >= GUESSES_MAX;
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`; nothing changes unless all of it is right.
pub(super) fn hello(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let version = match words.get(1).map(|word| &**word) {
        None => context.session.version,
        Some(b"2") => RespVersion::Two,
        Some(b"3") => RespVersion::Three,
        Some(_) => return Err(CommandError::ProtocolVersion),
    };
    let (mut name, mut rest) = (None, words.get(2..).unwrap_or_default());
    let mut credentials = None;
    while let [option, tail @ ..] = rest {
        rest = match tail {
            [user, password, tail @ ..] if is(option, "auth") => {
                credentials = Some((user, password));
                tail
            }
            [new, tail @ ..] if is(option, "setname") => {
                name = Some(checked_name(new)?);
                tail
            }
            _ => return Err(CommandError::Syntax),
        };
    }
    if let Some((user, password)) = credentials {
        authenticate(context, user, password)?;
    }
    if !context.session.is_authenticated {
        return Err(CommandError::HelloWithoutAuth);
    }
    if let Some(name) = name {
        rename(context, name);
    }
    context.session.version = version;
    Ok(greeting(context.session))
}

fn greeting(session: &Session) -> Reply {
    let protocol = match session.version {
        RespVersion::Two => 2,
        RespVersion::Three => 3,
    };
    // Client libraries look at the name and the version to decide what they may send.
    Reply::Map(vec![
        (Reply::text("server"), Reply::text("redis")),
        (Reply::text("version"), Reply::text(REDIS_VERSION)),
        (Reply::text("proto"), Reply::Integer(protocol)),
        (Reply::text("id"), Reply::count(session.id.0)),
        (Reply::text("mode"), Reply::text("standalone")),
        (Reply::text("role"), Reply::text("master")),
        (Reply::text("modules"), Reply::Array(Vec::new())),
    ])
}

pub(super) fn reset(context: &mut Context<'_, '_>, _words: &[Bytes]) -> Answer {
    let is_authenticated = !context.shared.options.access.is_required();
    let (id, wrong_passwords) = (context.session.id, context.session.wrong_passwords);
    *context.session = Session {
        wrong_passwords,
        ..Session::new(id, is_authenticated, context.shared.budget.share())
    };
    context.shared.registry.set_known(id, is_authenticated);
    rename(context, Bytes::new());
    Ok(Reply::Status("RESET".into()))
}

pub(super) fn quit(context: &mut Context<'_, '_>, _words: &[Bytes]) -> Answer {
    context.session.is_closing = true;
    Ok(Reply::OK)
}

pub(super) fn client(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let name = word(words, 1)?;
    let known = [
        "id", "getname", "list", "info", "setname", "setinfo", "no-evict", "no-touch", "reply",
    ];
    let known = known.into_iter().find(|known| is(name, known));
    match (known, words.len()) {
        (Some("id"), 2) => Ok(Reply::count(context.session.id.0)),
        (Some("getname"), 2) => Ok(Reply::Bulk(context.session.name.clone())),
        (Some("list"), _) => Ok(Reply::text(context.shared.registry.list(None))),
        (Some("info"), 2) => {
            let own = Some(context.session.id);
            Ok(Reply::text(context.shared.registry.list(own)))
        }
        (Some("setname"), 3) => {
            let name = checked_name(word(words, 2)?)?;
            rename(context, name);
            Ok(Reply::OK)
        }
        // Nothing is evicted, and what a library is called is not kept.
        (Some("setinfo"), 4) | (Some("no-evict" | "no-touch"), 3) => Ok(Reply::OK),
        // A client that wants no replies would not learn that a write failed.
        (Some("reply"), 3) if is(word(words, 2)?, "on") => Ok(Reply::OK),
        (Some("reply"), 3) => Err(CommandError::Syntax),
        (Some(_), _) => Err(CommandError::Arity { command: "client" }),
        (None, _) => Err(CommandError::UnknownSubcommand {
            command: "client",
            name: shown(name, SHOWN_BYTES),
        }),
    }
}

fn checked_name(name: &Bytes) -> Result<Bytes, CommandError> {
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(CommandError::ClientName);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(CommandError::ClientNameLength {
            limit: NAME_BYTES_MAX,
        });
    }
    Ok(Bytes::copy_from_slice(name))
}

fn rename(context: &mut Context<'_, '_>, name: Bytes) {
    let id = context.session.id;
    context.shared.registry.rename(id, name.clone());
    context.session.name = name;
}
