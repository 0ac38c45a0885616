//! The metrics of engines and mounts: what pins keep, and when there is no more room for it.

use std::io;
use std::path::Path;

use super::exposition::{Exposition, count, seconds};
use crate::cli::probe::status_of;
use crate::database::SOCKET_FILE;
use crate::engine::ArchiveCursor;
use crate::mount::Registry;
use crate::mount::registry::Liveness;
use crate::os::Host;
use crate::os::path::file_type_of;
use crate::pin::{EngineState, EngineStatus, PinClient, PinError};

/// Of those sources that are databases of stillfs.
///
/// An engine that does not let us ask it has no samples: nobody knows how it is.
pub(super) fn of_sources<'a>(
    host: &Host,
    sources: impl Iterator<Item = &'a Path>,
    exposition: &mut Exposition,
) {
    for source in sources {
        let socket = source.join(SOCKET_FILE);
        if file_type_of(&socket).is_err() {
            continue;
        }
        let place = source.to_string_lossy();
        let labels = [("source", &*place)];
        let mut gauge = |name, help, value| exposition.gauge(name, help, &labels, value);
        let asked = PinClient::connect(&socket, "stillfs metrics");
        let report = match asked.and_then(|mut client| client.status()) {
            Ok(report) => report,
            Err(error) if is_forbidden(&error) => continue,
            Err(_) => {
                let help = "Whether the engine runs and takes writes: 1, or 0.";
                gauge("stillfs_engine_up", help, 0.0);
                continue;
            }
        };
        let engine = &report.engine;
        let is_up = matches!(engine.state, EngineState::Running);
        let help = "Whether the engine runs and takes writes: 1, or 0.";
        gauge("stillfs_engine_up", help, f64::from(u8::from(is_up)));
        let help = "Bytes of the engine's log, which pins, checkpoints and archives may hold, and which wait to be used again.";
        gauge("stillfs_engine_log_bytes", help, count(engine.wal_bytes));
        let help = "Bytes at which the log is full.";
        gauge(
            "stillfs_engine_log_limit_bytes",
            help,
            count(engine.wal_bytes_max),
        );
        let help = "Bytes of the log that are kept for archives alone.";
        gauge(
            "stillfs_engine_log_kept_bytes",
            help,
            count(engine.log_kept_bytes),
        );
        let help = "Bytes of old pages that pins keep.";
        gauge(
            "stillfs_engine_shadow_bytes",
            help,
            count(engine.shadow_bytes),
        );
        gauge(
            "stillfs_engine_pins",
            "Pins of the engine.",
            count(report.pins.len() as u64),
        );
        let full = report.pins.iter().filter_map(|pin| pin.forecast);
        if let Some(in_ms) = full.map(|forecast| forecast.in_ms).min() {
            let help = "When the first pin can keep no more, at the rates of the last minutes.";
            let in_ns = in_ms.saturating_mul(1_000_000);
            gauge("stillfs_engine_full_seconds", help, seconds(in_ns));
        }
        of_archives(host, source, engine, exposition);
    }
}

fn is_forbidden(error: &PinError) -> bool {
    use io::ErrorKind::PermissionDenied;
    matches!(error, PinError::Io { source, .. } if source.kind() == PermissionDenied)
}

/// How long ago the last commit was that each archive of the log is known to have, unless it has all.
fn of_archives(host: &Host, source: &Path, engine: &EngineStatus, exposition: &mut Exposition) {
    let now_ns = host.clock.wall_ns();
    let place = source.to_string_lossy();
    for (repository, cursor) in ArchiveCursor::list(host, source) {
        let is_current = cursor.history == engine.history_id;
        let lag_ns = match is_current && cursor.archived >= engine.log_durable {
            true => 0,
            false => now_ns.saturating_sub(cursor.wall_ns),
        };
        let labels = [("source", &*place), ("repository_id", &*repository)];
        let help = "How long ago the log was last archived, if something of it is not: else 0.";
        exposition.gauge(
            "stillfs_archive_lag_seconds",
            help,
            &labels,
            seconds(lag_ns),
        );
    }
}

/// Of the mounts of this user.
pub(super) fn of_mounts(exposition: &mut Exposition) {
    let Ok(registry) = Registry::of_this_user() else {
        return;
    };
    for listed in registry.list().unwrap_or_default() {
        let place = listed.record.mount_point.to_string_lossy();
        let source = listed.record.source.to_string_lossy();
        let labels = [("mount_point", &*place), ("source", &*source)];
        let asked = match listed.liveness == Liveness::Alive {
            true => status_of(&listed.record.mount_point),
            false => None,
        };
        let mut gauge = |name, help, value| exposition.gauge(name, help, &labels, value);
        let is_held = asked.as_ref().is_some_and(|status| status.state == "held");
        let help = "Whether the mount's pin is held: 1, or 0.";
        gauge("stillfs_mount_held", help, f64::from(u8::from(is_held)));
        let Some(status) = asked else {
            continue;
        };
        let help =
            "Bytes of logs of SQLite databases that cannot be used anew while it is mounted.";
        gauge(
            "stillfs_mount_held_log_bytes",
            help,
            count(status.members.held_wal_bytes),
        );
        let help = "Until the pin reaches its maximum age.";
        gauge(
            "stillfs_mount_ends_in_seconds",
            help,
            count(status.ends_in_seconds),
        );
        if let Some(in_seconds) = status.members.full_in_seconds {
            let help = "When the first of these logs is at its limit.";
            gauge("stillfs_mount_full_seconds", help, count(in_seconds));
        }
    }
}
