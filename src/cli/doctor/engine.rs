//! The engine of a source: who holds the directory, whether its pin server answers, who holds pins.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bounded;
use super::finding::{Finding, Id, quoted};
use crate::amount::Many;
use crate::cli::output;
use crate::database::{LOCK_FILE, PAGE_FILE, SHADOW_DIR, SOCKET_FILE};
use crate::engine::header;
use crate::id::PinId;
use crate::os::lock_table::{self, LockHolder, OpenFile};
use crate::os::path::{FileType, file_type_of, symlink_metadata};
use crate::os::{self, Disk, File, Host, LockKind, OpenMode, real_disk::RealDisk};
use crate::pin::{
    EngineState, PinClient, PinClientTimeouts, PinError, PinState, PinStatus, StatusReport,
};

/// How long a pin server may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is left of a pin's life when it is warned of.
const LAST_MINUTES: Duration = Duration::from_secs(600);

/// What is known of the engine on a directory.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Whether somebody holds the directory's lock exclusively.
    pub(super) is_locked: bool,
    /// The pins that the pin server knows; `None` if it did not answer.
    pub(super) pins: Option<BTreeSet<PinId>>,
    /// Bytes that its shadow leaves free; `None` if it did not answer.
    pub(super) floor_bytes: Option<u64>,
}

pub(super) fn look(host: &Host, dir: &Path, findings: &mut Vec<Finding>) -> Running {
    let handle = match host.disk.open(dir, OpenMode::Directory) {
        Ok(handle) => handle,
        Err(error) => {
            let text = format!("cannot be opened: {error}");
            findings.push(Finding::problem(Id::Engine, dir.display(), text));
            return Running::default();
        }
    };
    let holders = holders_of(&*handle);
    let engine = holders.iter().find(|one| one.kind == LockKind::Exclusive);
    let is_locked = engine.is_some() || (holders.is_empty() && is_locked_unseen(&*handle));
    findings.push(match (engine, is_locked) {
        (Some(engine), _) => held(host, dir, engine),
        (None, true) => Finding::ok(
            Id::Engine,
            dir.display(),
            format!(
                "is held by a process that is not seen from here; {}",
                noted(host, dir)
            ),
        ),
        (None, false) => nobody(dir, &holders),
    });
    let mut running = Running {
        is_locked,
        ..Running::default()
    };
    if is_locked {
        if let Some(report) = pin_server(dir, findings) {
            running.pins = Some(report.pins.iter().map(|pin| pin.pin_id).collect());
            running.floor_bytes = Some(report.engine.free_floor_bytes);
        }
        findings.extend(engine.and_then(|engine| moved_page_file(dir, engine.process)));
    } else if file_type_of(&dir.join(SOCKET_FILE)).is_ok_and(|kind| kind == FileType::Socket) {
        let socket = dir.join(SOCKET_FILE);
        let remove = format!("rm -- {}", quoted(&socket));
        let text = "was left by an engine that crashed; the next one replaces it";
        let finding = Finding::warning(Id::StaleSocket, socket.display(), text);
        findings.push(finding.mended_by(remove));
    }
    running
}

fn holders_of(handle: &dyn File) -> Vec<LockHolder> {
    let found = handle.as_fd().map(lock_table::holders);
    found.and_then(Result::ok).unwrap_or_default()
}

/// Whether the lock is held by a process of another pid namespace: only a lock of one's own can tell,
/// shared, for an instant, which an engine that starts waits for.
fn is_locked_unseen(handle: &dyn File) -> bool {
    matches!(handle.try_lock(LockKind::Shared), Ok(false))
}

fn held(host: &Host, dir: &Path, engine: &LockHolder) -> Finding {
    let line = lock_table::command_line(engine.process);
    let line = line.map_or_else(String::new, |line| format!(" ({line})"));
    let noted = noted(host, dir);
    let who = noted.split_once(',').map_or(&*noted, |(who, _)| who);
    let is_it = who == format!("process {}", engine.process);
    let but = if is_it {
        String::new()
    } else {
        format!("; {LOCK_FILE} says: {noted}")
    };
    let text = format!("is held by process {}{line}{but}", engine.process);
    Finding::ok(Id::Engine, dir.display(), text)
}

fn nobody(dir: &Path, holders: &[LockHolder]) -> Finding {
    let readers: Vec<String> = holders.iter().map(|one| one.process.to_string()).collect();
    let text = match readers.is_empty() {
        true => "no engine runs on it".to_owned(),
        false => format!(
            "no engine runs on it; process {} reads it",
            readers.join(", ")
        ),
    };
    Finding::ok(Id::Engine, dir.display(), text)
}

/// What the last holder wrote about itself.
fn noted(host: &Host, dir: &Path) -> String {
    let mut bytes = [0; 128];
    let read = host.disk.open(&dir.join(LOCK_FILE), OpenMode::Read);
    let read = read.and_then(|file| os::read_up_to(&*file, &mut bytes, 0));
    let text = String::from_utf8_lossy(bytes.get(..read.unwrap_or(0)).unwrap_or_default());
    match text.trim() {
        "" => "nothing".to_owned(),
        text => text.to_owned(),
    }
}

/// Asks the pin server; gives what it answers.
fn pin_server(dir: &Path, findings: &mut Vec<Finding>) -> Option<StatusReport> {
    let (id, socket) = (Id::PinServer, dir.join(SOCKET_FILE));
    let timeouts = PinClientTimeouts {
        answer: PATIENCE,
        grant: PATIENCE,
    };
    let asked = PinClient::connect_within(&socket, "stillfs doctor", timeouts)
        .and_then(|mut client| client.status());
    let report = match asked {
        Ok(report) => report,
        Err(PinError::NotRunning { .. }) => {
            let text = "nobody listens, though an engine runs: it was opened without a pin server, \
                        or somebody removed the socket; restart the engine with PinServing::On";
            findings.push(Finding::problem(id, socket.display(), text));
            return None;
        }
        Err(error) => {
            findings.push(Finding::problem(id, socket.display(), error));
            return None;
        }
    };
    let engine = &report.engine;
    let up = output::duration(Duration::from_millis(engine.uptime_ms));
    let facts = format!(
        "up {up}, commit {}, {}",
        engine.timestamp,
        Many(report.pins.len() as u64, "pin")
    );
    findings.push(match engine.state {
        EngineState::Running => Finding::ok(id, socket.display(), format!("answers: {facts}")),
        EngineState::Poisoned => {
            let text = format!("the engine writes no more, since a sync failed ({facts})");
            let restart = format!(
                "kill {} && stillfs serve {}",
                engine.process_id,
                quoted(dir)
            );
            Finding::problem(id, socket.display(), text).mended_by(restart)
        }
    });
    findings.extend(bounded(report.pins.iter().map(pin).collect()));
    Some(report)
}

fn pin(pin: &PinStatus) -> Finding {
    let age = Duration::from_millis(pin.age_ms);
    let left = Duration::from_millis(pin.max_age_ms.saturating_sub(pin.age_ms));
    let point = pin.mount_point.as_path();
    let at = match point.as_os_str().is_empty() {
        true => String::new(),
        false => format!(" at {}", point.display()),
    };
    let facts = format!(
        "by {}{at}, process {}: commit {}, age {}, {} in the shadow",
        pin.holder,
        pin.peer_process_id,
        pin.timestamp,
        output::duration(age),
        output::bytes(pin.shadow_bytes)
    );
    let subject = format!("pin {}", pin.pin_id);
    let warning = match pin.state {
        PinState::Holding => "checkpoints wait for it, and the log grows".to_owned(),
        PinState::Ended { reason } => format!("has ended: {reason}"),
        _ if left < LAST_MINUTES => format!("ends in {}", output::duration(left)),
        _ => return Finding::ok(Id::Pin, subject, facts),
    };
    let finding = Finding::warning(Id::Pin, subject, format!("{warning}; {facts}"));
    match at.is_empty() {
        true => finding,
        false => finding.mended_by(format!("stillfs umount {}", quoted(point))),
    }
}

/// Whether the engine has another page file open than the one at its path, which is the one that a
/// restart would take up.
fn moved_page_file(dir: &Path, engine: u32) -> Option<Finding> {
    let path = dir.join(PAGE_FILE);
    let there = symlink_metadata(&path).ok()?.identity;
    let open = lock_table::open_files(engine)
        .ok()
        .filter(|open| !open.is_empty())?;
    if open.iter().any(|file| file.identity == there) {
        return None;
    }
    let text = format!("is not the file that the engine (process {engine}) has open");
    let finding =
        |more: &str| Finding::problem(Id::MovedPageFile, path.display(), format!("{text}: {more}"));
    // An image of a header page in a slot begins like a page file too.
    let shadow = dir.join(SHADOW_DIR);
    let mut named = open.iter().filter(|file| !file.link.starts_with(&shadow));
    Some(match named.find_map(renamed_page_file) {
        Some(real) => {
            let (real, word) = (quoted(&real), quoted(&path));
            finding("put the right one back before the engine stops")
                .mended_by(format!("mv -f -- {real} {word}"))
        }
        None => {
            finding("the right one has no name any more; save its content by the engine's clients")
        }
    })
}

/// The path of an open file that begins like a page file and still has that name.
fn renamed_page_file(open: &OpenFile) -> Option<PathBuf> {
    let file = RealDisk.open(&open.link, OpenMode::Read).ok()?;
    let mut bytes = [0; header::HEADER_BYTES];
    let found = os::read_up_to(&*file, &mut bytes, 0).ok()?;
    let is_it = file.identity().ok()? == open.identity
        && header::has_magic(bytes.get(..found).unwrap_or_default());
    is_it.then(|| open.link.clone())
}

/// The pin that an index file's name stands for.
pub(super) fn pin_of(name: &OsString) -> Option<PinId> {
    let stem = name.to_str()?.strip_suffix(".pin")?;
    let is_hex = stem.len() == 32 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_hex.then(|| u128::from_str_radix(stem, 16).ok())??;
    Some(PinId(number.to_be_bytes()))
}
