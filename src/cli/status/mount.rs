//! One mount, as `stillfs status` shows it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::{seconds, shown};
use crate::cli::kind;
use crate::cli::members::{self, Members};
use crate::cli::mount::pinned;
use crate::cli::omitted::Omitted;
use crate::cli::output;
use crate::cli::probe::status_of;
use crate::mount::registry::{Listed, Liveness};
use crate::os::Host;
use crate::source::Kind;
use crate::source::native::rfc3339;

/// Of how many databases people are told one by one.
const DATABASES_MAX: usize = 8;

/// A mount; the names are stable.
#[derive(Debug, Serialize)]
pub(super) struct MountShown {
    mount_point: String,
    source: String,
    kind: String,
    /// `held`, `no engine`, `engine gone`, `ended`, `dead` or `no answer`.
    state: String,
    reason: Option<String>,
    pin: Option<String>,
    timestamp: Option<u64>,
    lsn: Option<u64>,
    snapshot: Option<String>,
    age_seconds: u64,
    ends_in_seconds: Option<u64>,
    warning: Option<String>,
    process_id: u32,
    bytes_served: Option<u64>,
    live_pages: Option<u64>,
    shadow_pages: Option<u64>,
    failed_checks: Option<u64>,
    /// The last read that failed while the pin held.
    failed_read: Option<String>,
    /// How often an engine that started gave the pin back.
    reconnects: Option<u64>,
    /// Microseconds between the first and the last pin of its databases.
    skew_us: Option<u64>,
    /// Whether all of them were pinned at one instant, whatever the time that took.
    is_atomic_set: bool,
    #[serde(flatten)]
    members: Members,
    #[serde(flatten)]
    omitted: Omitted,
}

/// What is known of a mount: by its record, and by its daemon where that answers.
pub(super) fn show(host: &Host, listed: &Listed) -> MountShown {
    let record = &listed.record;
    let alive = listed.liveness == Liveness::Alive;
    let asked = if alive {
        status_of(&record.mount_point)
    } else {
        None
    };
    let state = match (&asked, alive) {
        (Some(status), _) => status.state.clone(),
        (None, true) => "no answer".to_owned(),
        (None, false) => "dead".to_owned(),
    };
    let reason = match (&asked, alive) {
        (Some(status), _) => status.reason.clone(),
        (None, true) => Some(format!(
            "stillfs doctor {} says why",
            record.mount_point.display()
        )),
        (None, false) => Some(format!(
            "its daemon died: stillfs umount {} cleans it",
            record.mount_point.display()
        )),
    };
    let fact = |name: &str| record.facts.get(name)?.parse::<u64>().ok();
    let age_ns = host.clock.wall_ns().saturating_sub(record.started_wall_ns);
    MountShown {
        mount_point: shown(&record.mount_point),
        source: shown(&record.source),
        kind: record.source_kind.clone(),
        state,
        reason,
        pin: record.pin_id.clone(),
        timestamp: record.timestamp,
        lsn: fact("lsn"),
        snapshot: record.snapshot_wall_ns.map(rfc3339),
        age_seconds: Duration::from_nanos(age_ns).as_secs(),
        ends_in_seconds: asked.as_ref().map(|status| status.ends_in_seconds),
        warning: asked.as_ref().and_then(|status| status.warning.clone()),
        process_id: record.pid,
        bytes_served: asked.as_ref().map(|status| status.bytes_served),
        live_pages: asked.as_ref().map(|status| status.live_pages),
        shadow_pages: asked.as_ref().map(|status| status.shadow_pages),
        failed_checks: asked.as_ref().map(|status| status.failed_checks),
        failed_read: asked.as_ref().and_then(|status| status.failed_read.clone()),
        reconnects: asked.as_ref().map(|status| status.reconnects),
        skew_us: fact("skew_us"),
        is_atomic_set: fact("is_atomic_set") == Some(1),
        members: match &asked {
            Some(status) => status.members.clone(),
            None => Members {
                database_count: fact("database_count").unwrap_or_default(),
                ..Members::default()
            },
        },
        omitted: match asked {
            Some(status) => status.omitted,
            None => Omitted {
                count: fact("left_out_count").unwrap_or_default(),
                ..Omitted::default()
            },
        },
    }
}

pub(super) fn print(mount: &MountShown) {
    output::line(&format!("mount  {}", name_of(&mount.mount_point)));
    line("of", &name_of(&mount.source));
    let reason = mount.reason.as_ref().map(|reason| format!(" ({reason})"));
    line(
        "state",
        &format!("{}{}", mount.state, reason.unwrap_or_default()),
    );
    let since = output::duration(Duration::from_secs(mount.age_seconds));
    let left = mount.ends_in_seconds.map(seconds);
    let left = left.map(|left| format!(", ends in {left}"));
    line("age", &format!("{since}{}", left.unwrap_or_default()));
    if let Some(warning) = &mount.warning {
        line("warning", warning);
    }
    if let Some(failed) = &mount.failed_read {
        line("failed", &format!("a read: {failed}"));
    }
    if let Some(times) = mount.reconnects.filter(|times| *times > 0) {
        line(
            "engine",
            &format!("restarted, and gave the pin back: {times} times"),
        );
    }
    let at = mount.snapshot.as_deref().unwrap_or("?");
    let is_native = kind::of_name(&mount.kind) == Kind::Native;
    match (mount.timestamp, mount.lsn) {
        (Some(timestamp), Some(lsn)) => {
            line("snapshot", &format!("commit {timestamp}, LSN {lsn}, {at}"));
        }
        _ if is_native => {}
        _ => {
            let skew = mount.skew_us.filter(|_| !mount.is_atomic_set);
            let databases = pinned(mount.members.database_count, skew);
            line("snapshot", &format!("{at}, {databases}"));
        }
    }
    if let (Some(served), Some(live), Some(shadow)) =
        (mount.bytes_served, mount.live_pages, mount.shadow_pages)
    {
        let served = output::bytes(served);
        let second = if is_native {
            "the shadow"
        } else {
            "logs and copies"
        };
        let first = if is_native {
            "the live file"
        } else {
            "live files"
        };
        line(
            "served",
            &format!("{served}: {live} pages from {first}, {shadow} from {second}"),
        );
    }
    if !is_native {
        print_members(mount);
    }
}

fn print_members(mount: &MountShown) {
    let members = &mount.members;
    if members.held_wal_bytes > 0 {
        let full = members.full_in_seconds.zip(members.full_first.as_deref());
        let full = full.map(|(left, path)| {
            let name = name(mount, path);
            format!("; {name} is at its limit in {}", seconds(left))
        });
        let text = format!(
            "{} kept for it, growing {}/s{}",
            output::bytes(members.held_wal_bytes),
            output::bytes(members.growth_bytes_per_second),
            full.unwrap_or_default()
        );
        line("log", &text);
    }
    if members.scratch_bytes > 0 {
        line("copies", &output::bytes(members.scratch_bytes));
    }
    let shown = members.databases.iter().take(DATABASES_MAX);
    for row in shown.clone() {
        line("database", &members::line(row, &name(mount, &row.path)));
        if let Some(warning) = &row.warning {
            output::line(&format!("    warning {warning}"));
        }
    }
    let more = members.database_count.saturating_sub(shown.len() as u64);
    if more > 0 && !members.databases.is_empty() {
        line("database", &format!("and {more} more"));
    }
    // A name that is no text did not come here as it is.
    let can_be_named = |path: &str| !path.contains(char::REPLACEMENT_CHARACTER);
    let mut rows = members.databases.iter();
    if let Some(row) = rows.find(|row| row.state != "ended" && can_be_named(&row.path)) {
        line("open", &open_command(mount, &row.path, &row.open_with));
    }
    for text in mount.omitted.lines() {
        line("left out", &text);
    }
}

/// A database's name in the view: its path, or that of the source itself.
fn name(mount: &MountShown, path: &str) -> String {
    if !path.is_empty() {
        return name_of(path);
    }
    let name = Path::new(&mount.source).file_name();
    name.map_or_else(
        || name_of(&mount.source),
        |name| output::path(Path::new(name)),
    )
}

/// A path as a terminal takes it.
fn name_of(path: &str) -> String {
    output::path(Path::new(path))
}

/// How a database is opened where it stands in the mount.
fn open_command(mount: &MountShown, path: &str, with: &str) -> String {
    let own = || Path::new(&mount.source).file_name().unwrap_or_default();
    let inside = match path {
        "" => Path::new(own()),
        path => Path::new(path),
    };
    let file: PathBuf = Path::new(&mount.mount_point).join(inside);
    let query = if with.contains('=') {
        format!("?{with}")
    } else {
        String::new()
    };
    format!("sqlite3 'file:{}{query}'", uri_path(&file))
}

/// A path as SQLite's URIs have it, and as a shell takes it between single quotes.
fn uri_path(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'~' | b'+' | b',' | b'=' | b'@' | b':' => {
                text.push(char::from(*byte));
            }
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(*byte)),
            byte => text.push_str(&format!("%{byte:02x}")),
        }
    }
    text
}

fn line(what: &str, text: &str) {
    output::line(&format!("  {what:<9} {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_uri_keeps_its_bytes() {
        let uri = |path: &str| uri_path(Path::new(path));
        assert_eq!(uri("/mnt/still/app.db"), "/mnt/still/app.db");
        assert_eq!(uri("/a b/c'd?e#f%g"), "/a%20b/c%27d%3fe%23f%25g");
        assert_eq!(uri("/\u{e4}"), "/%c3%a4");
    }
}
