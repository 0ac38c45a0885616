//! The files of a source: header copies, segments, indexes of pins. Only looked at; `check` walks.

use std::path::Path;
use std::time::Duration;

use super::bounded;
use super::engine::{Running, pin_of};
use super::finding::{Finding, Id, quoted};
use crate::database::{Header, LOG_DIR, PAGE_FILE, SHADOW_DIR};
use crate::engine::header::{FORMAT_VERSION, HEADER_BYTES, decode_version};
use crate::engine::wal::SegmentHeader;
use crate::os::path::symlink_metadata;
use crate::os::{self, File, Host, OpenMode, lock_table};
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
        findings.extend(bounded(foreign_segments(host, dir, header)));
    }
    findings.extend(bounded(unheld_indexes(host, dir, running)));
    if !running.is_locked {
        findings.extend(bounded(moved_under_pins(host, dir)));
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

/// Indexes whose pins nobody holds: an engine that starts ends them, and removes the files.
fn unheld_indexes(host: &Host, dir: &Path, running: &Running) -> Vec<Finding> {
    // The engine knows its own pins; where it does not say, nothing is said here either.
    if running.is_locked && running.pins.is_none() {
        return Vec::new();
    }
    let folder = dir.join(SHADOW_DIR);
    let names = host.disk.list(&folder).unwrap_or_default().into_iter();
    let unheld = names.take(FILES_MAX).filter_map(|name| {
        let path = folder.join(&name);
        if path.extension()? != "pin" {
            return None;
        }
        let known = running.pins.as_ref().zip(pin_of(&name));
        if known.is_some_and(|(pins, pin)| pins.contains(&pin)) || is_in_use(host, &path)? {
            return None;
        }
        let remove = format!("rm -- {}", quoted(&path));
        let text = "is the index of a pin that nobody holds; the next start of an engine ends it";
        Some(Finding::warning(Id::UnheldIndex, path.display(), text).mended_by(remove))
    });
    unheld.collect()
}

/// Whether somebody holds the index, or has it open; `None` if it is gone or cannot be told.
fn is_in_use(host: &Host, path: &Path) -> Option<bool> {
    let identity = symlink_metadata(path).ok()?.identity;
    // First, because the own descriptor would be found.
    if lock_table::is_open_somewhere(identity).ok()? {
        return Some(true);
    }
    let file = match host.disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => return Some(false),
        Err(_) => return None,
    };
    Some(!lock_table::holders(file.as_fd()?).ok()?.is_empty())
}

/// Pins of another page file than the one that is there, held while no engine runs.
fn moved_under_pins(host: &Host, dir: &Path) -> Vec<Finding> {
    let (folder, data) = (dir.join(SHADOW_DIR), dir.join(PAGE_FILE));
    let Ok(there) = symlink_metadata(&data).map(|found| found.identity) else {
        return Vec::new();
    };
    let names = host.disk.list(&folder).unwrap_or_default().into_iter();
    let moved = names.take(FILES_MAX).filter_map(|name| {
        let path = folder.join(&name);
        if path.extension()? != "pin" {
            return None;
        }
        let index = IndexHeader::decode(&start_of(host, &path, INDEX_SECTOR_BYTES)?).ok()?;
        if index.live == there || !is_in_use(host, &path)? {
            return None;
        }
        let text = format!(
            "was replaced under the pin {}: its readers get errors",
            index.pin
        );
        let shows = "stillfs status";
        Some(Finding::problem(Id::MovedPageFile, data.display(), text).mended_by(shows))
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
