//! COMMAND: the table of commands, told to clients.

use bytes::Bytes;

use super::table::{self, COMMANDS};
use super::{Command, CommandError, Context, Effect, Keys, Place, Reply, SHOWN_BYTES, is, shown};

type Answer = Result<Reply, CommandError>;

/// More than a row takes, with its encoding.
const ROW_BYTES: usize = 1024;

pub(super) fn command(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let Some(name) = words.get(1) else {
        return Ok(Reply::Array(rows(context)));
    };
    let rest = words.get(2..).unwrap_or_default();
    if is(name, "count") && rest.is_empty() {
        return Ok(Reply::count(rows(context).len() as u64));
    }
    if is(name, "list") && rest.is_empty() {
        let names = COMMANDS.iter().map(|command| command.name);
        let names = names.chain(statements(context)).map(Reply::text);
        return Ok(Reply::Array(names.collect()));
    }
    if is(name, "docs") {
        // An empty answer makes redis-cli fall back to the hints that are built into it.
        return Ok(Reply::Map(Vec::new()));
    }
    if is(name, "info") {
        if rest.is_empty() {
            return Ok(Reply::Array(rows(context)));
        }
        context.memory.grow(rest.len().saturating_mul(ROW_BYTES))?;
        let rows = rest.iter().map(|name| match table::find(name) {
            Some(found) => row(found),
            None => {
                let mut known = statements(context);
                known
                    .find(|known| is(name, known))
                    .map_or(Reply::NullArray, row_of_statement)
            }
        });
        return Ok(Reply::Array(rows.collect()));
    }
    Err(CommandError::UnknownSubcommand {
        command: "command",
        name: shown(name, SHOWN_BYTES),
    })
}

/// What others answer, as far as no command has the name.
fn statements(context: &Context<'_, '_>) -> impl Iterator<Item = &'static str> {
    let statements = context.shared.options.statements.as_ref();
    let names = statements.map_or(&[][..], |statements| statements.names());
    let names: Vec<&'static str> = names.to_vec();
    let is_free = |name: &&'static str| table::find(name.as_bytes()).is_none();
    names.into_iter().filter(is_free)
}

fn rows(context: &Context<'_, '_>) -> Vec<Reply> {
    let statements = statements(context).map(row_of_statement);
    COMMANDS.iter().map(row).chain(statements).collect()
}

fn row_of_statement(name: &'static str) -> Reply {
    const WORDS_MIN: i64 = 2;
    Reply::Array(vec![
        Reply::text(name),
        Reply::Integer(-WORDS_MIN),
        Reply::Array(vec![Reply::Status("no_multi".into())]),
        Reply::Integer(0),
        Reply::Integer(0),
        Reply::Integer(0),
    ])
}

fn row(command: &Command) -> Reply {
    let mut flags = Vec::new();
    match command.effect {
        Effect::Write => flags.push(Reply::Status("write".into())),
        Effect::Read if command.keys != Keys::None => flags.push(Reply::Status("readonly".into())),
        Effect::Read => {}
    }
    if matches!(command.place, Place::OutsideMulti | Place::Alone) {
        flags.push(Reply::Status("no_multi".into()));
    }
    let (first, last, step) = match command.keys {
        Keys::None => (0, 0, 0),
        Keys::One => (1, 1, 1),
        Keys::All => (1, -1, 1),
        Keys::Pairs => (1, -1, 2),
    };
    Reply::Array(vec![
        Reply::text(command.name),
        Reply::Integer(command.arity),
        Reply::Array(flags),
        Reply::Integer(first),
        Reply::Integer(last),
        Reply::Integer(step),
    ])
}
