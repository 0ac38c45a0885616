//! CONFIG: what clients and benchmarks ask before they begin.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::glob::Glob;
use super::{CommandError, Context, Reply, SHOWN_BYTES, is, shown, word};
use crate::server::protocol::{ARGUMENT_BYTES_MAX, Reply as R};

type Answer = Result<Reply, CommandError>;

/// Names and values that are true of this server. A commit is always synced to the log.
fn settings(context: &Context<'_, '_>) -> Vec<(&'static str, String)> {
    let shared = context.shared;
    let listen = shared.options.listen;
    let unix = shared.options.unix.as_ref();
    vec![
        ("appendfsync", "always".to_owned()),
        ("appendonly", "yes".to_owned()),
        ("bind", listen.map_or(String::new(), |l| l.ip().to_string())),
        ("databases", "16".to_owned()),
        ("dir", shared.directory.display().to_string()),
        ("maxclients", shared.options.connections_max.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", listen.map_or(0, |l| l.port()).to_string()),
        ("proto-max-bulk-len", ARGUMENT_BYTES_MAX.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
        (
            "unixsocket",
            unix.map_or(String::new(), |path| path.display().to_string()),
        ),
    ]
}

pub(super) fn config(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let name = word(words, 1)?;
    if is(name, "get") {
        let patterns = words.get(2..).unwrap_or_default();
        if patterns.is_empty() {
            return Err(CommandError::Arity {
                command: "config|get",
            });
        }
        // One after the other: a pattern takes much memory, and there may be many.
        let mut wanted = BTreeMap::new();
        let settings = settings(context);
        for pattern in patterns {
            let glob = Glob::checked(&pattern.to_ascii_lowercase())?;
            let found = settings
                .iter()
                .filter(|(name, _)| glob.is_match(name.as_bytes()));
            wanted.extend(found.map(|(name, value)| (*name, value)));
        }
        let pairs = wanted
            .iter()
            .map(|(name, value)| (R::text(name), R::text(value)));
        return Ok(Reply::Map(pairs.collect()));
    }
    if is(name, "resetstat") && words.len() == 2 {
        return Ok(Reply::OK);
    }
    if is(name, "set") || is(name, "rewrite") {
        return Err(CommandError::FixedConfiguration);
    }
    Err(CommandError::UnknownSubcommand {
        command: "config",
        name: shown(name, SHOWN_BYTES),
    })
}
