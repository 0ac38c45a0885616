//! An engine behind the mounts, with its pins, as `stillfs status` shows it.

use std::path::Path;

use serde::Serialize;

use super::{seconds, shown};
use crate::cli::output;
use crate::database::SOCKET_FILE;
use crate::pin::{Bound, OnShadowFull, PinClient, PinError, PinState, StatusReport};

/// What an engine says of itself; the names are stable.
#[derive(Debug, Serialize)]
pub(super) struct EngineShown {
    source: String,
    /// `running`, `poisoned` or `not running`.
    state: String,
    database_id: Option<String>,
    history_id: Option<String>,
    timestamp: Option<u64>,
    lsn: Option<u64>,
    wal_bytes: Option<u64>,
    shadow_bytes: Option<u64>,
    wal_bytes_max: Option<u64>,
    /// Of the log: what is kept for an archive alone.
    wal_kept_bytes: Option<u64>,
    free_bytes: Option<u64>,
    free_floor_bytes: Option<u64>,
    pins: Vec<PinShown>,
}

#[derive(Debug, Serialize)]
struct PinShown {
    pin: String,
    holder: String,
    mount_point: Option<String>,
    state: String,
    timestamp: u64,
    lsn: u64,
    age_seconds: u64,
    max_age_seconds: u64,
    /// Until it reaches its maximum age.
    ends_in_seconds: u64,
    /// `break` or `hold`.
    on_full: String,
    /// `null` if it has none.
    shadow_limit_bytes: Option<u64>,
    /// Over the last minutes.
    growth_bytes_per_second: u64,
    /// When it can keep no more, at the rates of the last minutes; `null` if never.
    full_in_seconds: Option<u64>,
    /// What is full then: `shadow`, its limit; `disk`, to what pins leave free; `log`, its limit.
    full_first: Option<String>,
    /// For how long checkpoints have waited for it; `null` if they do not.
    holding_seconds: Option<u64>,
    pages_spilled: u64,
    pages_captured: u64,
    shadow_bytes: u64,
}

/// What the engine of a stillfs database says.
pub(super) fn show(source: &Path) -> EngineShown {
    let asked = PinClient::connect(&source.join(SOCKET_FILE), "stillfs status")
        .and_then(|mut client| client.status());
    match asked {
        Ok(report) => engine_shown(source, &report),
        Err(error) => EngineShown {
            source: shown(source),
            state: match error {
                PinError::NotRunning { .. } => "not running".to_owned(),
                error => format!("no answer: {error}"),
            },
            database_id: None,
            history_id: None,
            timestamp: None,
            lsn: None,
            wal_bytes: None,
            shadow_bytes: None,
            wal_bytes_max: None,
            wal_kept_bytes: None,
            free_bytes: None,
            free_floor_bytes: None,
            pins: Vec::new(),
        },
    }
}

fn engine_shown(source: &Path, report: &StatusReport) -> EngineShown {
    let engine = &report.engine;
    let pins = report.pins.iter().map(|pin| PinShown {
        pin: pin.pin_id.to_string(),
        holder: pin.holder.to_string(),
        mount_point: Some(shown(pin.mount_point.as_path())).filter(|path| !path.is_empty()),
        state: match pin.state {
            PinState::Spilling => "being taken".to_owned(),
            PinState::Granted => "held".to_owned(),
            PinState::Holding => "holding checkpoints".to_owned(),
            PinState::Adopted => "adopted, not reclaimed yet".to_owned(),
            PinState::Ended { reason } => format!("ended: {reason}"),
        },
        timestamp: pin.timestamp.0,
        lsn: pin.lsn.0,
        age_seconds: pin.age_ms / 1000,
        max_age_seconds: pin.max_age_ms / 1000,
        ends_in_seconds: pin.max_age_ms.saturating_sub(pin.age_ms) / 1000,
        on_full: match pin.on_full {
            OnShadowFull::Break => "break".to_owned(),
            OnShadowFull::Hold => "hold".to_owned(),
        },
        shadow_limit_bytes: Some(pin.shadow_limit_bytes).filter(|limit| *limit > 0),
        growth_bytes_per_second: pin.growth_bytes_per_second,
        full_in_seconds: pin.forecast.map(|forecast| forecast.in_ms / 1000),
        full_first: pin.forecast.map(|forecast| name(forecast.bound).to_owned()),
        holding_seconds: pin.holding_ms.map(|ms| ms / 1000),
        pages_spilled: pin.spilled_pages,
        pages_captured: pin.captured_pages,
        shadow_bytes: pin.shadow_bytes,
    });
    EngineShown {
        source: shown(source),
        state: match engine.state {
            crate::pin::EngineState::Running => "running".to_owned(),
            crate::pin::EngineState::Poisoned => "poisoned".to_owned(),
        },
        database_id: Some(engine.database_id.to_string()),
        history_id: Some(engine.history_id.to_string()),
        timestamp: Some(engine.timestamp.0),
        lsn: Some(engine.lsn.0),
        wal_bytes: Some(engine.wal_bytes),
        shadow_bytes: Some(engine.shadow_bytes),
        wal_bytes_max: Some(engine.wal_bytes_max),
        wal_kept_bytes: Some(engine.log_kept_bytes),
        free_bytes: engine.free_bytes,
        free_floor_bytes: Some(engine.free_floor_bytes),
        pins: pins.collect(),
    }
}

pub(super) fn print(engine: &EngineShown) {
    output::line(&format!("engine {}", engine.source));
    output::line(&format!("  state     {}", engine.state));
    if let (Some(timestamp), Some(lsn)) = (engine.timestamp, engine.lsn) {
        output::line(&format!("  newest    commit {timestamp}, LSN {lsn}"));
    }
    if let (Some(wal), Some(shadow)) = (engine.wal_bytes, engine.shadow_bytes) {
        let (wal, shadow) = (output::bytes(wal), output::bytes(shadow));
        let limit = output::bytes(engine.wal_bytes_max.unwrap_or_default());
        output::line(&format!(
            "  on disk   log {wal} of {limit}, shadow {shadow}"
        ));
    }
    if let (Some(free), Some(floor)) = (engine.free_bytes, engine.free_floor_bytes) {
        let (free, floor) = (output::bytes(free), output::bytes(floor));
        output::line(&format!("  free      {free}; pins leave {floor}"));
    }
    engine.pins.iter().for_each(print_pin);
}

fn print_pin(pin: &PinShown) {
    output::line(&format!(
        "  pin       {} by {}: {}, commit {}, age {} of {}",
        pin.pin,
        pin.holder,
        pin.state,
        pin.timestamp,
        seconds(pin.age_seconds),
        seconds(pin.max_age_seconds)
    ));
    let limit = pin
        .shadow_limit_bytes
        .map_or("no limit".to_owned(), output::bytes);
    output::line(&format!(
        "    shadow  {} of {limit}, then {}; {} spilled, {} captured",
        output::bytes(pin.shadow_bytes),
        pin.on_full,
        pin.pages_spilled,
        pin.pages_captured
    ));
    let full = pin.full_in_seconds.zip(pin.full_first.as_deref());
    let full = full.map(|(left, what)| format!(", {what} full in {}", seconds(left)));
    let held = pin
        .holding_seconds
        .map(|since| format!(", checkpoints wait for {}", seconds(since)));
    output::line(&format!(
        "    growth  {}/s{}{}",
        output::bytes(pin.growth_bytes_per_second),
        full.unwrap_or_default(),
        held.unwrap_or_default()
    ));
}

fn name(bound: Bound) -> &'static str {
    match bound {
        Bound::Shadow => "shadow",
        Bound::Disk => "disk",
        Bound::Log => "log",
    }
}
