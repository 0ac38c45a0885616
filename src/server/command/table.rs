//! The table of commands.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{
    Command, Effect, Keys, Lasting, Place, Run, client, config, counter, expiry, info,
    introspection, keyspace, multi, scan, strings,
};

/// Longer names are not looked up.
const NAME_BYTES_MAX: usize = 32;

const fn read(name: &'static str, arity: i64, keys: Keys, run: Run) -> Command {
    Command {
        name,
        arity,
        effect: Effect::Read,
        place: Place::Anywhere,
        keys,
        lasting: Lasting::No,
        run,
    }
}

const fn write(name: &'static str, arity: i64, keys: Keys, run: Run) -> Command {
    Command {
        effect: Effect::Write,
        ..read(name, arity, keys, run)
    }
}

const fn session(name: &'static str, arity: i64, place: Place, run: Run) -> Command {
    Command {
        place,
        ..read(name, arity, Keys::None, run)
    }
}

const fn lasting(lasting: Lasting, command: Command) -> Command {
    Command { lasting, ..command }
}

/// Every command: name, number of words, which of them are keys, function.
pub(super) static COMMANDS: &[Command] = &[
    read("get", 2, Keys::One, strings::get),
    read("mget", -2, Keys::All, strings::mget),
    read("strlen", 2, Keys::One, strings::strlen),
    write("set", -3, Keys::One, strings::set),
    write("setnx", 3, Keys::One, strings::setnx),
    write("mset", -3, Keys::Pairs, strings::mset),
    write("msetnx", -3, Keys::Pairs, strings::msetnx),
    write("getset", 3, Keys::One, strings::getset),
    write("getdel", 2, Keys::One, strings::getdel),
    write("append", 3, Keys::One, strings::append),
    write("incr", 2, Keys::One, counter::incr),
    write("incrby", 3, Keys::One, counter::incrby),
    write("decr", 2, Keys::One, counter::decr),
    write("decrby", 3, Keys::One, counter::decrby),
    read("exists", -2, Keys::All, keyspace::exists),
    read("type", 2, Keys::One, keyspace::type_of),
    read("dbsize", 1, Keys::None, keyspace::dbsize),
    lasting(Lasting::Yes, read("keys", 2, Keys::None, scan::keys)),
    lasting(
        Lasting::WithOptions,
        read("scan", -2, Keys::None, scan::scan),
    ),
    write("del", -2, Keys::All, keyspace::del),
    write("unlink", -2, Keys::All, keyspace::del),
    lasting(
        Lasting::Yes,
        write("flushdb", -1, Keys::None, keyspace::flushdb),
    ),
    lasting(
        Lasting::Yes,
        write("flushall", -1, Keys::None, keyspace::flushall),
    ),
    read("ttl", 2, Keys::One, expiry::ttl),
    read("pttl", 2, Keys::One, expiry::ttl),
    read("expiretime", 2, Keys::One, expiry::ttl),
    read("pexpiretime", 2, Keys::One, expiry::ttl),
    read("persist", 2, Keys::One, expiry::persist),
    read("getex", -2, Keys::One, expiry::getex),
    read("expire", -3, Keys::One, expiry::refuse),
    read("pexpire", -3, Keys::One, expiry::refuse),
    read("expireat", -3, Keys::One, expiry::refuse),
    read("pexpireat", -3, Keys::One, expiry::refuse),
    read("setex", 4, Keys::One, expiry::refuse),
    read("psetex", 4, Keys::One, expiry::refuse),
    session("multi", 1, Place::Immediate, multi::multi),
    session("exec", 1, Place::Immediate, multi::exec),
    session("discard", 1, Place::Immediate, multi::discard),
    Command {
        keys: Keys::All,
        ..session("watch", -2, Place::Immediate, multi::watch)
    },
    session("unwatch", 1, Place::Anywhere, multi::unwatch),
    session("ping", -1, Place::Anywhere, client::ping),
    session("echo", 2, Place::Anywhere, client::echo),
    session("select", 2, Place::Anywhere, client::select),
    session("auth", -2, Place::OutsideMulti, client::auth),
    session("hello", -1, Place::OutsideMulti, client::hello),
    session("reset", 1, Place::Immediate, client::reset),
    session("quit", -1, Place::Immediate, client::quit),
    session("client", -2, Place::Anywhere, client::client),
    session("config", -2, Place::Anywhere, config::config),
    session("command", -1, Place::Anywhere, introspection::command),
    session("info", -1, Place::Alone, info::info),
    session("checkpoint", 1, Place::Alone, info::checkpoint),
];

static BY_NAME: LazyLock<HashMap<&'static [u8], &'static Command>> = LazyLock::new(|| {
    let rows = COMMANDS.iter();
    rows.map(|command| (command.name.as_bytes(), command))
        .collect()
});

/// The command of that name, in any case.
pub(super) fn find(name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    BY_NAME.get(&*lower).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name_in_any_case() {
        for command in COMMANDS {
            assert!(command.name.len() <= NAME_BYTES_MAX);
            let upper = command.name.to_ascii_uppercase();
            let found = find(upper.as_bytes()).unwrap();
            assert!(std::ptr::eq(found, command), "{} twice", command.name);
        }
        assert!(find(&[b'x'; 1000]).is_none());
        assert!(find(b"").is_none());
    }
}
