//! The files of a source: header copies, segments, indexes of pins. Only looked at; `check` walks.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bounded;
use super::engine::{Running, pin_of};
use super::finding::{Finding, Id, quoted};
use crate::database::{Header, LOG_DIR, PAGE_FILE, SHADOW_DIR};
use crate::engine::header::{FORMAT_VERSION, HEADER_BYTES, HeaderState, decode_version};
use crate::engine::wal::{RECORD_HEADER_BYTES, SegmentHeader};
use crate::id::PinId;
use crate::os::path::symlink_metadata;
use crate::os::{self, File, Host, LockKind, OpenMode, lock_table};
use crate::page::PageSize;
use crate::shadow::index::{INDEX_SECTOR_BYTES, IndexHeader};

/// How often a header copy that looks torn is looked at: an engine may be writing it.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(20);
/// Most files of a folder that are looked at.
const FILES_MAX: usize = 10_000;

pub(super) fn look(host: &Host, dir: &Path, running: &Running, findings: &mut Vec<Finding>) {
    let header = header_copies(host, dir, findings);
    if let Some(header) = &header {
        findings.extend(short_page_file(host, dir, header));
        findings.extend(bounded(foreign_segments(host, dir, header)));
    }
    match &running.pins {
        Some(pins) => findings.extend(bounded(unknown_indexes(host, dir, pins))),
        // The engine knows its own pins; where it does not say, nothing is said here either.
        None if running.is_locked => {}
        None => findings.extend(without_engine(host, dir)),
    }
}

/// Looks at both copies; gives the one that counts.
fn header_copies(host: &Host, dir: &Path, findings: &mut Vec<Finding>) -> Option<Header> {
    let (id, path) = (Id::HeaderCopy, dir.join(PAGE_FILE));
    let subject = path.display();
    let file = match host.disk.open(&path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) => {
            findings.push(Finding::problem(
                id,
                subject,
                format!("cannot be read: {error}"),
            ));
            return None;
        }
    };
    let first = copy(host, &*file, 0);
    let sizes = (12..=16).filter_map(|bits| PageSize::new(1 << bits));
    let page_size = first
        .as_ref()
        .map_or(PageSize::DEFAULT, |header| header.page_size);
    // Without the first copy the page size is not known, and the second stands where some size says.
    let mut places = std::iter::once(page_size).chain(sizes.filter(|_| first.is_err()));
    let second = places.find_map(|size| {
        let found = copy(host, &*file, u64::from(size.get())).ok()?;
        (found.page_size == size).then_some(found)
    });
    match (first, second) {
        (Ok(one), Some(other)) => {
            findings.push(Finding::ok(id, subject, "both header copies are whole"));
            Some(if one.sequence >= other.sequence {
                one
            } else {
                other
            })
        }
        (Ok(header), None) | (Err(_), Some(header)) => {
            let text =
                "one of the two header copies is damaged; the next start of an engine writes both";
            let start = format!("stillfs serve {}", quoted(dir));
            findings.push(Finding::warning(id, subject, text).mended_by(start));
            Some(header)
        }
        (Err(Some(version)), None) => {
            let text =
                format!("has format version {version}; this build reads up to {FORMAT_VERSION}");
            findings.push(Finding::problem(id, subject, text));
            None
        }
        (Err(None), None) => {
            let text = "both header copies are damaged: restore the directory from a backup";
            findings.push(Finding::problem(id, subject, text));
            None
        }
    }
}

/// One copy. Errors: the version, where a later build wrote it.
fn copy(host: &Host, file: &dyn File, offset: u64) -> Result<Header, Option<u32>> {
    let mut bytes = [0; HEADER_BYTES];
    let mut later = None;
    for look in 0..LOOKS {
        if look > 0 {
            host.clock.sleep(PAUSE);
        }
        let found = os::read_up_to(file, &mut bytes, offset).unwrap_or_default();
        let bytes = bytes.get(..found).unwrap_or_default();
        later = decode_version(bytes).filter(|version| *version > FORMAT_VERSION);
        match Header::decode(bytes) {
            Ok(header) if later.is_none() => return Ok(header),
            _ => {}
        }
    }
    Err(later)
}

/// A page file that lacks pages which its header counts. While the log is needed it may hold the last ones
/// alone; replaying it is not for here, so it counts as holding them unless it is too small for that.
fn short_page_file(host: &Host, dir: &Path, header: &Header) -> Option<Finding> {
    let path = dir.join(PAGE_FILE);
    let file = host.disk.open(&path, OpenMode::Read).ok()?;
    let (found, counted) = (file.len().ok()?, header.point.page_count);
    let whole = found / u64::from(header.page_size.get());
    let missing = counted.checked_sub(whole).filter(|missing| *missing > 0)?;
    let log_bytes = match header.state {
        HeaderState::Clean => 0,
        HeaderState::LogNeeded => log_bytes(host, &dir.join(LOG_DIR)),
    };
    if missing <= log_bytes / RECORD_HEADER_BYTES as u64 {
        return None;
    }
    let text = format!(
        "has {whole} of the {counted} pages that its header counts, and the log does not have the others: \
         it was cut; restore the directory from a backup"
    );
    Some(Finding::problem(Id::PageFile, path.display(), text))
}

/// Bytes of all segments.
fn log_bytes(host: &Host, folder: &Path) -> u64 {
    let names = host.disk.list(folder).unwrap_or_default().into_iter();
    let sizes = names.filter_map(|name| {
        if Path::new(&name).extension()? != "wal" {
            return None;
        }
        let segment = host.disk.open(&folder.join(name), OpenMode::Read);
        segment.and_then(|segment| segment.len()).ok()
    });
    sizes.sum()
}

/// Segments that an engine neither replays nor removes, but refuses to start with.
fn foreign_segments(host: &Host, dir: &Path, header: &Header) -> Vec<Finding> {
    let folder = dir.join(LOG_DIR);
    let names = host.disk.list(&folder).unwrap_or_default().into_iter();
    let foreign = names.take(FILES_MAX).filter_map(|name| {
        let path = folder.join(&name);
        if path.extension()? != "wal" {
            return None;
        }
        let start = start_of(host, &path, INDEX_SECTOR_BYTES)?;
        let segment = SegmentHeader::decode(&start)?.ok()?;
        let is_own = (segment.database, segment.history) == (header.database, header.history);
        if is_own {
            return None;
        }
        let text = format!(
            "is of another history ({}) than the page file ({}): no engine starts with it",
            segment.history, header.history
        );
        let aside = quoted(&dir.join("wal-foreign"));
        let mend = format!("mkdir -p {aside} && mv -- {} {aside}", quoted(&path));
        Some(Finding::problem(Id::ForeignSegment, path.display(), text).mended_by(mend))
    });
    foreign.collect()
}

/// The indexes in `shadow/`, with their names.
fn indexes(host: &Host, dir: &Path) -> Vec<(OsString, PathBuf)> {
    let folder = dir.join(SHADOW_DIR);
    let names = host.disk.list(&folder).unwrap_or_default().into_iter();
    let all = names.map(|name| {
        let path = folder.join(&name);
        (name, path)
    });
    let is_index =
        |(_, path): &(OsString, PathBuf)| path.extension().is_some_and(|end| end == "pin");
    all.filter(is_index).take(FILES_MAX).collect()
}

fn unheld(path: &Path) -> Finding {
    let text = "is the index of a pin that nobody holds; the next start of an engine ends it";
    let remove = format!("rm -- {}", quoted(path));
    Finding::warning(Id::UnheldIndex, path.display(), text).mended_by(remove)
}

/// Indexes that are of no pin of the engine that runs. One that it is making is open.
fn unknown_indexes(host: &Host, dir: &Path, pins: &BTreeSet<PinId>) -> Vec<Finding> {
    let mut unknown = indexes(host, dir);
    unknown.retain(|(name, _)| pin_of(name).is_none_or(|pin| !pins.contains(&pin)));
    if unknown.is_empty() {
        return Vec::new();
    }
    let open = lock_table::all_open_files().unwrap_or_default();
    let is_open = |path: &Path| {
        let found = symlink_metadata(path);
        found.is_ok_and(|found| open.contains(&found.identity))
    };
    let unknown = unknown.iter().filter(|(_, path)| !is_open(path));
    unknown.map(|(_, path)| unheld(path)).collect()
}

/// Where no engine runs, only the lock on an index says whether somebody holds the pin. It is tried
/// under the shared lock of the directory, for which an engine that starts waits: whoever adopts pins
/// never meets it.
fn without_engine(host: &Host, dir: &Path) -> Vec<Finding> {
    let handle = host.disk.open(dir, OpenMode::Directory);
    let looks = handle.and_then(|handle| Ok((handle.try_lock(LockKind::Shared)?, handle)));
    let Ok((true, _looking)) = looks else {
        return Vec::new();
    };
    let all = indexes(host, dir);
    let (held, free): (Vec<_>, Vec<_>) = all
        .into_iter()
        .filter_map(|(_, path)| Some((is_held(host, &path)?, path)))
        .partition(|(is_held, _)| *is_held);
    let mut found = bounded(free.iter().map(|(_, path)| unheld(path)).collect());
    found.extend(bounded(moved_under_pins(host, dir, &held)));
    found
}

/// Whether somebody holds the lock of the index; `None` if it is gone or cannot be told.
fn is_held(host: &Host, path: &Path) -> Option<bool> {
    match host.disk.open(path, OpenMode::Read) {
        Ok(file) => Some(!file.try_lock(LockKind::Exclusive).ok()?),
        // No file at all.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Some(false),
        Err(_) => None,
    }
}

/// Pins of another page file than the one that is there, held while no engine runs.
fn moved_under_pins(host: &Host, dir: &Path, held: &[(bool, PathBuf)]) -> Vec<Finding> {
    let data = dir.join(PAGE_FILE);
    let Ok(there) = symlink_metadata(&data).map(|found| found.identity) else {
        return Vec::new();
    };
    let moved = held.iter().filter_map(|(_, path)| {
        let index = IndexHeader::decode(&start_of(host, path, INDEX_SECTOR_BYTES)?).ok()?;
        if index.live == there {
            return None;
        }
        let text = format!(
            "was replaced under the pin {}: its readers get errors",
            index.pin
        );
        let finding = Finding::problem(Id::MovedPageFile, data.display(), text);
        Some(finding.mended_by("stillfs status"))
    });
    moved.collect()
}

/// The first bytes of a regular file; fewer where it is shorter.
fn start_of(host: &Host, path: &Path, count: usize) -> Option<Vec<u8>> {
    let file = host.disk.open(path, OpenMode::Read).ok()?;
    let mut bytes = vec![0; count];
    let found = os::read_up_to(&*file, &mut bytes, 0).ok()?;
    bytes.truncate(found);
    Some(bytes)
}
