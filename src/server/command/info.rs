//! INFO and CHECKPOINT, which look at the whole server.

use std::fmt::Write as _;

use bytes::Bytes;

use super::{CommandError, Context, Reply, is};
use crate::server::store::Table;

type Answer = Result<Reply, CommandError>;

/// The version of Redis whose behaviour the commands follow. Clients decide by it what to send.
pub(super) const REDIS_VERSION: &str = "7.0.0";

const SECTIONS: [&str; 6] = [
    "server",
    "clients",
    "persistence",
    "stats",
    "replication",
    "keyspace",
];

pub(super) fn info(context: &mut Context<'_, '_>, words: &[Bytes]) -> Answer {
    let wanted = words.get(1..).unwrap_or_default();
    let every = ["all", "default", "everything"];
    let has_all = wanted.is_empty()
        || wanted
            .iter()
            .any(|word| every.iter().any(|name| is(word, name)));
    let mut text = String::new();
    for section in SECTIONS {
        if has_all || wanted.iter().any(|word| is(word, section)) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            write_section(context, section, &mut text)?;
        }
    }
    Ok(Reply::text(text))
}

fn write_section(
    context: &mut Context<'_, '_>,
    section: &'static str,
    text: &mut String,
) -> Result<(), CommandError> {
    let (first, rest) = section.split_at(1);
    line(text, format_args!("# {}{rest}", first.to_ascii_uppercase()));
    let shared = context.shared;
    match section {
        "server" => {
            line(text, format_args!("redis_version:{REDIS_VERSION}"));
            let own = env!("CARGO_PKG_VERSION");
            line(text, format_args!("stillfs_version:{own}"));
            line(text, format_args!("redis_mode:standalone"));
            line(text, format_args!("process_id:{}", std::process::id()));
            let port = shared.options.listen.map_or(0, |listen| listen.port());
            line(text, format_args!("tcp_port:{port}"));
        }
        "clients" => {
            let count = shared.registry.count();
            line(text, format_args!("connected_clients:{count}"));
            let limit = shared.options.connections_max;
            line(text, format_args!("maxclients:{limit}"));
        }
        "persistence" => {
            let is_loading = u8::from(context.store.database().is_none());
            line(text, format_args!("loading:{is_loading}"));
            line(text, format_args!("aof_enabled:1"));
            line(text, format_args!("aof_last_write_status:ok"));
        }
        "replication" => {
            line(text, format_args!("role:master"));
            line(text, format_args!("connected_slaves:0"));
        }
        "stats" => write_stats(context, text),
        _ => write_keyspace(context, text)?,
    }
    Ok(())
}

/// Whatever the database counts, under the names that it gives.
fn write_stats(context: &Context<'_, '_>, text: &mut String) {
    let accepted = context.shared.registry.accepted();
    line(text, format_args!("total_connections_received:{accepted}"));
    let Some(database) = context.store.database() else {
        return;
    };
    let stats = serde_json::to_value(database.stats()).unwrap_or_default();
    for (name, value) in stats.as_object().into_iter().flatten() {
        if let Some(number) = value.as_u64() {
            line(text, format_args!("stillfs_{name}:{number}"));
        }
    }
}

fn write_keyspace(context: &mut Context<'_, '_>, text: &mut String) -> Result<(), CommandError> {
    if context.store.database().is_none() {
        return Ok(());
    }
    for table in Table::all() {
        let count = context.store.count(table)?;
        if count > 0 {
            let index = table.index();
            line(
                text,
                format_args!("db{index}:keys={count},expires=0,avg_ttl=0"),
            );
        }
    }
    Ok(())
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{line}\r\n");
}

/// Copies the log into the live file.
pub(super) fn checkpoint(context: &mut Context<'_, '_>, _words: &[Bytes]) -> Answer {
    let database = context.store.database().ok_or(CommandError::Loading)?;
    let report = database.checkpoint()?;
    Ok(Reply::Map(vec![
        (
            Reply::text("pages_written"),
            Reply::count(report.pages_written),
        ),
        (
            Reply::text("log_bytes_freed"),
            Reply::count(report.log_bytes_freed),
        ),
    ]))
}
