//! `stillfs status`: mounts and pins, also those of dead daemons.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::daemon::ViewStatus;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::cli::probe;
use crate::database::SOCKET_FILE;
use crate::mount::Registry;
use crate::mount::registry::{Listed, Liveness};
use crate::os::Host;
use crate::os::path::file_type_of;
use crate::pin::{Bound, OnShadowFull, PinClient, PinError, PinState, StatusReport};
use crate::source::{self, SourceError, native::rfc3339};

/// Arguments of `stillfs status`.
#[derive(Debug, Args)]
#[command(after_help = "\
A mount is held; or it was made while no engine ran, and none has since; or its engine is gone, and
the view stands; or its pin has ended, with the reason.

Examples:
  stillfs status                       every mount of this user, and the engines behind them
  stillfs status /var/lib/app          one engine with all its pins
  stillfs status /mnt/still --json     one mount, for programs")]
pub(crate) struct StatusArgs {
    /// A source or a mount point; everything if absent.
    path: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is shown; the names are stable.
#[derive(Debug, Default, Serialize)]
struct Status {
    mounts: Vec<MountShown>,
    engines: Vec<EngineShown>,
}

#[derive(Debug, Serialize)]
struct MountShown {
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
}

#[derive(Debug, Serialize)]
struct EngineShown {
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

pub(crate) fn run(args: &StatusArgs) -> Outcome {
    let host = Host::system();
    let registry = Registry::of_this_user()?;
    let mut listed = registry.list()?;
    let mut sources: Vec<PathBuf> = Vec::new();
    if let Some(path) = &args.path {
        let path = probe::reach(path)?;
        listed.retain(|one| one.record.mount_point == path || one.record.source == path);
        // A view is not asked for anything here: its daemon may hang.
        if !probe::is_view(&path) {
            if listed.is_empty() && file_type_of(&path.join(SOCKET_FILE)).is_err() {
                source::recognise(&host, &path).map_err(|error| no_view(&path, &error))?;
            }
            if listed.iter().all(|one| one.record.mount_point != path) {
                sources.push(path);
            }
        }
    }
    sources.extend(listed.iter().map(|one| one.record.source.clone()));
    sources.sort();
    sources.dedup();
    let status = Status {
        mounts: listed.iter().map(|one| show_mount(&host, one)).collect(),
        engines: sources.iter().map(|source| show_engine(source)).collect(),
    };
    if args.json {
        output::json(&status);
    } else {
        print(&status);
    }
    Ok(Exit::Done)
}

/// A path as text; JSON cannot say what is not UTF-8.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn show_mount(host: &Host, listed: &Listed) -> MountShown {
    let record = &listed.record;
    let alive = listed.liveness == Liveness::Alive;
    let asked = if alive {
        ask_daemon(&record.mount_point)
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
    let age_ns = host.clock.wall_ns().saturating_sub(record.started_wall_ns);
    MountShown {
        mount_point: shown(&record.mount_point),
        source: shown(&record.source),
        kind: record.source_kind.clone(),
        state,
        reason,
        pin: record.pin_id.clone(),
        timestamp: record.timestamp,
        lsn: record.facts.get("lsn").and_then(|lsn| lsn.parse().ok()),
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
    }
}

/// The outcome of reading `path`, unless that is a mount whose pin has ended: then what failed says
/// nothing about the database.
///
/// Errors: `PinLost`; those of the outcome.
pub(crate) fn refuse_ended(path: &Path, outcome: Outcome) -> Outcome {
    if matches!(outcome, Ok(Exit::Done)) {
        return outcome;
    }
    let asked = ask_daemon(path).or_else(|| ask_daemon(path.parent()?));
    match asked.filter(|status| status.state == "ended") {
        None => outcome,
        Some(status) => Err(Failure::new(
            Exit::PinLost,
            anyhow::anyhow!(
                "the pin of the view at {} has ended ({}): unmount it and mount again",
                path.display(),
                status.reason.unwrap_or_default()
            ),
        )),
    }
}

/// Asks the daemon through its mount. One that hangs costs a moment, nothing more.
pub(crate) fn ask_daemon(mount_point: &Path) -> Option<ViewStatus> {
    probe::ask(mount_point)?.status
}

fn show_engine(source: &Path) -> EngineShown {
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
        free_bytes: engine.free_bytes,
        free_floor_bytes: Some(engine.free_floor_bytes),
        pins: pins.collect(),
    }
}

fn print(status: &Status) {
    if status.mounts.is_empty() && status.engines.is_empty() {
        output::line("no mounts");
    }
    for mount in &status.mounts {
        let since = output::duration(Duration::from_secs(mount.age_seconds));
        output::line(&format!("mount  {}", mount.mount_point));
        output::line(&format!("  of        {}", mount.source));
        let reason = mount.reason.as_ref().map(|reason| format!(" ({reason})"));
        output::line(&format!(
            "  state     {}{}",
            mount.state,
            reason.unwrap_or_default()
        ));
        let left = mount.ends_in_seconds.map(seconds);
        let left = left.map(|left| format!(", ends in {left}"));
        output::line(&format!("  age       {since}{}", left.unwrap_or_default()));
        if let Some(warning) = &mount.warning {
            output::line(&format!("  warning   {warning}"));
        }
        if let Some(failed) = &mount.failed_read {
            output::line(&format!("  failed    a read: {failed}"));
        }
        if let Some(times) = mount.reconnects.filter(|times| *times > 0) {
            output::line(&format!(
                "  engine    restarted, and gave the pin back: {times} times"
            ));
        }
        if let (Some(timestamp), Some(lsn)) = (mount.timestamp, mount.lsn) {
            let at = mount.snapshot.as_deref().unwrap_or("?");
            output::line(&format!("  snapshot  commit {timestamp}, LSN {lsn}, {at}"));
        }
        if let (Some(served), Some(live), Some(shadow)) =
            (mount.bytes_served, mount.live_pages, mount.shadow_pages)
        {
            let served = output::bytes(served);
            output::line(&format!(
                "  served    {served}: {live} pages from the live file, {shadow} from the shadow"
            ));
        }
    }
    for engine in &status.engines {
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

fn seconds(count: u64) -> String {
    output::duration(Duration::from_secs(count))
}

/// Neither a view nor a source.
fn no_view(path: &Path, error: &SourceError) -> anyhow::Error {
    let (path, why) = (path.display().to_string(), error.to_string());
    let why = match why.strip_prefix(&path) {
        Some(rest) => format!("it{rest}"),
        None => why,
    };
    anyhow::anyhow!("no view is mounted at {path}: {why}")
}
