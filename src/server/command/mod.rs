//! The commands: one table, and a function for each.
//!
//! A command checks everything that can be wrong with it before its first change, so that one that
//! answers an error has changed nothing.

mod client;
mod config;
mod counter;
mod expiry;
mod glob;
mod info;
mod introspection;
mod keyspace;
mod multi;
mod scan;
mod strings;
mod table;

use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use super::border::Statements;
use super::budget::{OverBudget, Share};
use super::protocol::{Reply, Request};
use super::session::Session;
use super::store::{KEY_BYTES_MAX, Store, Table, VALUE_BYTES_MAX};
use crate::engine::error::EngineError;

pub(super) use scan::Scans;

/// Most bytes of values and keys that the replies of one command, or one EXEC, may hold.
const REPLY_BYTES_MAX: usize = 256 << 20;

/// What a command does to the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing, or it only looks.
    Read,
    /// It may change something.
    Write,
}

/// Where a command may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Anywhere; between MULTI and EXEC it is queued.
    Anywhere,
    /// Anywhere; between MULTI and EXEC it runs at once.
    Immediate,
    /// Not between MULTI and EXEC.
    OutsideMulti,
    /// Not between MULTI and EXEC, and in a batch of its own, because it must not wait for the
    /// transaction of its own connection.
    Alone,
}

/// Which of a command's words are keys, as COMMAND tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// None.
    None,
    /// The second word.
    One,
    /// All words but the name.
    All,
    /// Every other word from the second on.
    Pairs,
}

/// Whether a command may take long, however short its words are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasting {
    /// It does not.
    No,
    /// It does where there are more words than it needs: options say how much it is to look at.
    WithOptions,
    /// It does.
    Yes,
}

/// How a command is run: its words, the name first, become a reply.
pub(super) type Run = fn(&mut Context<'_, '_>, &[Bytes]) -> Result<Reply, CommandError>;

/// A row of the table.
#[derive(Debug)]
pub(super) struct Command {
    /// In lower case.
    pub(super) name: &'static str,
    /// Number of words; if negative, the least number.
    pub(super) arity: i64,
    pub(super) effect: Effect,
    pub(super) place: Place,
    pub(super) keys: Keys,
    pub(super) lasting: Lasting,
    pub(super) run: Run,
}

impl Command {
    fn accepts(&self, words: usize) -> bool {
        let words = i64::try_from(words).unwrap_or(i64::MAX);
        words == self.arity || (self.arity < 0 && words >= -self.arity)
    }

    /// Whether it may take long with so many words.
    pub(super) fn lasts(&self, words: usize) -> bool {
        match self.lasting {
            Lasting::No => false,
            Lasting::WithOptions => words as u64 > self.arity.unsigned_abs(),
            Lasting::Yes => true,
        }
    }
}

/// What a command works with.
#[derive(Debug)]
pub(super) struct Context<'a, 'd> {
    pub(super) shared: &'a Shared,
    pub(super) session: &'a mut Session,
    pub(super) store: &'a mut Store<'d>,
    /// The memory of values that were read and of replies, up to the end of the batch.
    memory: &'a mut Share,
    reply_bytes_left: usize,
}

impl<'a, 'd> Context<'a, 'd> {
    /// For one command.
    pub(super) fn new(
        shared: &'a Shared,
        session: &'a mut Session,
        store: &'a mut Store<'d>,
        memory: &'a mut Share,
    ) -> Self {
        Self {
            shared,
            session,
            store,
            memory,
            reply_bytes_left: REPLY_BYTES_MAX,
        }
    }

    /// The value of a key, for which there is memory once more: a reply is made of it, or another value.
    ///
    /// Errors: `OutOfMemory`, before it is read; those of the store.
    fn value(&mut self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, CommandError> {
        let admit = |bytes: usize| Ok(self.memory.grow(bytes.saturating_mul(2))?);
        self.store.get(table, key, admit)
    }

    /// Counts bytes that go into the reply. Errors: there would be too many.
    fn charge(&mut self, bytes: usize) -> Result<(), CommandError> {
        self.reply_bytes_left = self
            .reply_bytes_left
            .checked_sub(bytes)
            .ok_or(CommandError::ReplyTooLong)?;
        Ok(())
    }

    /// A value as a reply; nil where there is none.
    fn bulk(&mut self, value: Option<Vec<u8>>) -> Result<Reply, CommandError> {
        let Some(value) = value else {
            return Ok(Reply::Null);
        };
        self.charge(value.len())?;
        Ok(Reply::Bulk(value.into()))
    }
}

/// Why a command is refused. The text is what the client gets.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("ERR syntax error")]
    Syntax,
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    #[error("ERR decrement would overflow")]
    DecrementOverflow,
    #[error("ERR invalid cursor")]
    InvalidCursor,
    #[error("ERR the cursor is not known any more; start the scan again with cursor 0")]
    ForgottenCursor,
    #[error("ERR DB index is out of range")]
    TableIndex,
    #[error(
        "ERR expiry is not supported: stillfs keeps a key until it is deleted, so '{option}' is refused"
    )]
    Expiry { option: String },
    #[error("ERR a key has {found} bytes; it must have 1 to {KEY_BYTES_MAX}")]
    KeyLength { found: usize },
    #[error("ERR a value has {found} bytes; at most {VALUE_BYTES_MAX} can be stored")]
    ValueLength { found: usize },
    #[error("ERR the reply would be too long (more than {REPLY_BYTES_MAX} bytes)")]
    ReplyTooLong,
    #[error("OOM {0}")]
    OutOfMemory(#[from] OverBudget),
    #[error("ERR unknown command '{name}', with args beginning with: {beginning}")]
    Unknown { name: String, beginning: String },
    #[error("ERR unknown subcommand '{name}' of '{command}'")]
    UnknownSubcommand { command: &'static str, name: String },
    #[error("ERR wrong number of arguments for '{command}' command")]
    Arity { command: &'static str },
    #[error("NOAUTH Authentication required.")]
    NotAuthenticated,
    #[error(
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
    )]
    HelloWithoutAuth,
    #[error(
        "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"
    )]
    NoPasswordSet,
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    WrongPassword,
    #[error("NOPROTO unsupported protocol version")]
    ProtocolVersion,
    #[error("ERR Client names cannot contain spaces, newlines or special characters.")]
    ClientName,
    #[error("ERR Client names cannot be longer than {limit} bytes.")]
    ClientNameLength { limit: usize },
    #[error("ERR a pattern has {found} bytes; at most {limit} can be used")]
    PatternLength { found: usize, limit: usize },
    #[error("ERR Command not allowed inside a transaction")]
    InsideMulti,
    #[error("ERR MULTI calls can not be nested")]
    NestedMulti,
    #[error("ERR WATCH inside MULTI is not allowed")]
    WatchInsideMulti,
    #[error("ERR {command} without MULTI")]
    OutsideMulti { command: &'static str },
    #[error("EXECABORT Transaction discarded because of previous errors.")]
    ExecAborted,
    #[error("ERR the transaction is too long: more than {limit} {what}")]
    TransactionTooLong { what: &'static str, limit: usize },
    #[error("ERR too many watched keys: more than {limit}")]
    TooManyWatched { limit: usize },
    #[error("ERR the configuration cannot be changed while the server runs")]
    FixedConfiguration,
    #[error("ERR no transaction fits this command; this is a bug of the server")]
    NotBegun,
    #[error("LOADING the database is being exchanged for another one; try again later")]
    Loading,
    #[error("ERR {0}")]
    Engine(#[from] EngineError),
    #[error("ERR not committed: {0}")]
    Batch(Arc<EngineError>),
}

/// Who answers a request.
#[derive(Debug)]
pub(super) enum Resolved<'a> {
    Command(&'static Command),
    Statement(&'a dyn Statements),
}

/// Finds who answers a request by its name.
pub(super) fn resolve<'a>(shared: &'a Shared, words: &[Bytes]) -> Option<Resolved<'a>> {
    let name = words.first()?;
    if let Some(command) = table::find(name) {
        return Some(Resolved::Command(command));
    }
    let statements = shared.options.statements.as_deref()?;
    let is_meant = |known: &&str| known.as_bytes().eq_ignore_ascii_case(name);
    let is_known = statements.names().iter().any(is_meant);
    is_known.then_some(Resolved::Statement(statements))
}

/// Runs, queues or refuses one request.
pub(super) fn dispatch(context: &mut Context<'_, '_>, request: &Request) -> Reply {
    admit(context, &request.words).unwrap_or_else(|error| {
        if let Some(queue) = &mut context.session.queue {
            // Redis aborts the transaction for what cannot be queued, and only for that.
            queue.is_aborted |= !matches!(
                error,
                CommandError::NestedMulti | CommandError::WatchInsideMulti
            );
        }
        Reply::error(error)
    })
}

fn admit(context: &mut Context<'_, '_>, words: &[Bytes]) -> Result<Reply, CommandError> {
    let resolved = resolve(context.shared, words).ok_or_else(|| unknown(words))?;
    let before_auth = ["auth", "hello", "quit", "reset"];
    let is_open = context.session.is_authenticated
        || matches!(&resolved, Resolved::Command(command) if before_auth.contains(&command.name));
    if !is_open {
        return Err(CommandError::NotAuthenticated);
    }
    let in_multi = context.session.queue.is_some();
    match resolved {
        Resolved::Command(command)
            if context.store.database().is_none() && !NEED_NO_DATABASE.contains(&command.name) =>
        {
            // Who gets this for an EXEC is out of the transaction.
            if in_multi && command.name == "exec" {
                multi::discard(context, words)?;
            }
            Err(CommandError::Loading)
        }
        Resolved::Command(command) if !command.accepts(words.len()) => Err(CommandError::Arity {
            command: command.name,
        }),
        Resolved::Command(command) => match command.place {
            Place::Anywhere if in_multi => multi::enqueue(context, command, words),
            Place::OutsideMulti | Place::Alone if in_multi => Err(CommandError::InsideMulti),
            _ => (command.run)(context, words),
        },
        Resolved::Statement(_) if in_multi => Err(CommandError::InsideMulti),
        Resolved::Statement(statements) => Ok(statements.run(&context.shared.seat, words)),
    }
}

/// What is answered while the seat is closed.
const NEED_NO_DATABASE: [&str; 13] = [
    "ping", "echo", "select", "auth", "hello", "reset", "quit", "client", "config", "command",
    "info", "discard", "unwatch",
];

/// As much of what is not known as an error repeats.
const SHOWN_BYTES: usize = 128;

/// The beginning of a word, as text.
fn shown(word: &Bytes, bytes: usize) -> String {
    let word = word.get(..bytes).unwrap_or(word);
    String::from_utf8_lossy(word).into_owned()
}

/// The form in which Redis names a command that it does not know.
fn unknown(words: &[Bytes]) -> CommandError {
    let mut beginning = String::new();
    for word in words.iter().skip(1) {
        if beginning.len() >= SHOWN_BYTES {
            break;
        }
        let word = shown(word, SHOWN_BYTES - beginning.len());
        beginning.push_str(&format!("'{word}' "));
    }
    let name = words.first().map(|name| shown(name, SHOWN_BYTES));
    CommandError::Unknown {
        name: name.unwrap_or_default(),
        beginning,
    }
}

/// The word at `index`. Errors: `Syntax`; where the arity promises a word it does not occur.
fn word(words: &[Bytes], index: usize) -> Result<&Bytes, CommandError> {
    words.get(index).ok_or(CommandError::Syntax)
}

/// Whether a word is `name`, which is in lower case.
fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

/// Reads a number in the only spelling that Redis accepts: no plus, no leading zero, no space.
fn integer(text: &[u8]) -> Result<i64, CommandError> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_canonical = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let text = std::str::from_utf8(text).ok().filter(|_| is_canonical);
    text.and_then(|text| text.parse().ok())
        .ok_or(CommandError::NotInteger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_one_spelling() {
        for (text, number) in [
            ("0", 0),
            ("-1", -1),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(text.as_bytes()).unwrap(), number);
        }
        for text in [
            "",
            "-",
            "+1",
            " 1",
            "1 ",
            "01",
            "-0",
            "-01",
            "1.0",
            "0x1",
            "9223372036854775808",
        ] {
            assert!(integer(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_unknown_command_is_named_as_redis_names_it() {
        let words: Vec<Bytes> = vec!["foo".into(), "a".into(), "b".into()];
        assert_eq!(
            unknown(&words).to_string(),
            "ERR unknown command 'foo', with args beginning with: 'a' 'b' "
        );
        let long: Vec<Bytes> = vec!["x".into(), vec![b'y'; 1 << 20].into()];
        assert!(unknown(&long).to_string().len() < 256);
    }
}
