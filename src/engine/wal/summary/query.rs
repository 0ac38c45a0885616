//! Reading: which pages may differ between two commits.

#![deny(clippy::indexing_slicing)]

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::wal::LOG_DIR;
use crate::engine::wal::segment::{
    CommitMark, SEGMENT_HEADER_BYTES, SegmentHeader, header_of, sequence_of_segment,
};
use crate::engine::wal::summary::CHANGES_DIR;
use crate::engine::wal::summary::file::{EntryPlace, entries_of, sequences};
use crate::engine::wal::summary::format::{LogRange, file_name};
use crate::engine::wal::summary::runs::Gathering;
use crate::engine::wal::summary::walk::walk_segment;
use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::Lsn;
use crate::os::{Disk, File, OpenMode};
use crate::page::PageNo;

/// How often it is looked again when files went while they were looked at.
const TRIES: u32 = 4;
/// The copies of the header, which no log has.
const HEADER_PAGES: Range<u64> = 0..2;

/// Which of the log is asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    database: DatabaseId,
    history: HistoryId,
    since: Lsn,
    until: Lsn,
}

impl Asked {
    fn concerns(&self, range: LogRange) -> bool {
        range.start < self.until && range.end > self.since
    }
}

/// What is known of the log.
#[derive(Debug, Default)]
struct Known {
    ranges: Vec<LogRange>,
    /// Of all of these.
    touched: Gathering,
    /// A file went while it was looked at.
    is_one_gone: bool,
}

/// Every page of the database in `dir` that may differ between its commits at `since` and at `until`,
/// both of `history`, as ascending ranges; the header pages are always among them. `None` if the log
/// between the two is not known without a hole (W8). `until` must be durable, as the commit of a pin is.
///
/// Any process may ask, whether an engine works in `dir` or not, and whatever it does meanwhile: an entry
/// is durable before its segment goes, and the segments are looked at first.
///
/// Errors: `Io`. Cost: reads the heads of all summaries, those asked for, and what the log still has.
pub fn changed_pages(
    disk: &dyn Disk,
    dir: &Path,
    database: DatabaseId,
    history: HistoryId,
    since: Lsn,
    until: Lsn,
) -> Result<Option<Vec<Range<u64>>>> {
    if since >= until {
        return Ok((since == until).then(Vec::new));
    }
    let asked = Asked {
        database,
        history,
        since,
        until,
    };
    for tries_left in (0..TRIES).rev() {
        let (log_dir, mut known) = (dir.join(LOG_DIR), Known::default());
        add_logged(disk, &log_dir, &asked, &mut known).map_err(EngineError::io_at(
            "read",
            FileRole::WalSegment,
            log_dir,
        ))?;
        let folder = dir.join(CHANGES_DIR);
        add_kept(disk, &folder, &asked, &mut known).map_err(EngineError::io_at(
            "read",
            FileRole::Summary,
            folder,
        ))?;
        let is_settled = !known.is_one_gone || tries_left == 0;
        let united = unite(known, &asked);
        if united.is_some() || is_settled {
            return Ok(united);
        }
    }
    Ok(None)
}

/// A segment of the log.
type Segment = (SegmentHeader, Arc<dyn File>, u64);

/// The segments of one database and history, in their order, with their sizes in bytes. Tells whether one
/// went while it was looked at.
fn segments_of(
    disk: &dyn Disk,
    dir: &Path,
    database: DatabaseId,
    history: HistoryId,
    is_one_gone: &mut bool,
) -> io::Result<Vec<Segment>> {
    let names = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names?,
    };
    let mut numbered: Vec<_> = names
        .iter()
        .filter_map(|name| Some((sequence_of_segment(name)?, name)))
        .collect();
    numbered.sort_unstable();
    let mut segments = Vec::new();
    for (sequence, name) in numbered {
        let Some(file) = open(disk, &dir.join(name))? else {
            *is_one_gone = true;
            continue;
        };
        let Some(header) = header_of(&*file)?.filter(|header| header.sequence == sequence) else {
            // It may have become another one (W11).
            *is_one_gone = true;
            continue;
        };
        let is_own = (header.database, header.history) == (database, history);
        if is_own {
            let bytes = file.len()?;
            segments.push((header, file, bytes));
        }
    }
    Ok(segments)
}

/// Whether a segment that was read to somewhere became another one meanwhile, the header first (W11): then it is gone.
fn is_gone(file: &dyn File, header: &SegmentHeader) -> io::Result<bool> {
    Ok(header_of(file)?.as_ref() != Some(header))
}

/// The incarnation whose log has the commit at `lsn` of `history`; `None` if neither the log nor what is
/// kept of it says. Two commits of one number and history are the same one if it is the same: a directory
/// whose past was put back goes on in another.
///
/// Errors: `Io`. Cost: reads the heads of segments; of summaries only if no segment has it.
pub fn incarnation_of(
    disk: &dyn Disk,
    dir: &Path,
    database: DatabaseId,
    history: HistoryId,
    lsn: Lsn,
) -> Result<Option<Epoch>> {
    let log_dir = dir.join(LOG_DIR);
    let segments = segments_of(disk, &log_dir, database, history, &mut false);
    let segments = segments.map_err(EngineError::io_at("read", FileRole::WalSegment, log_dir))?;
    let logged = segments.iter().rfind(|(header, ..)| header.start < lsn);
    if let Some((header, ..)) = logged {
        return Ok(Some(header.epoch));
    }
    let folder = dir.join(CHANGES_DIR);
    kept_incarnation(disk, &folder, (database, history), lsn).map_err(EngineError::io_at(
        "read",
        FileRole::Summary,
        folder,
    ))
}

fn kept_incarnation(
    disk: &dyn Disk,
    dir: &Path,
    whose: (DatabaseId, HistoryId),
    lsn: Lsn,
) -> io::Result<Option<Epoch>> {
    let mut found = None;
    for sequence in sequences(disk, dir)? {
        let Some(file) = open(disk, &dir.join(file_name(sequence)))? else {
            continue;
        };
        let Some((header, entries, _)) = entries_of(&*file)? else {
            continue;
        };
        let is_own = (header.database, header.history) == whose;
        for range in entries.iter().filter(|_| is_own).map(EntryPlace::range) {
            let has_it = range.start < lsn && lsn <= range.end;
            if has_it && found.is_some_and(|epoch| epoch != range.epoch) {
                return Ok(None);
            }
            if has_it {
                found = Some(range.epoch);
            }
        }
    }
    Ok(found)
}

/// Where the segment at `place` of `segments` ends; `None` for the last one. As when the log is replayed, that
/// is where the next one starts, unless that is of a rotation that failed.
fn end_of(segments: &[Segment], place: usize) -> Option<Lsn> {
    let (header, _, bytes) = segments.get(place)?;
    let end_of_file = header
        .start
        .checked_add(bytes.saturating_sub(SEGMENT_HEADER_BYTES));
    let is_abandoned = |next: &SegmentHeader, next_bytes: u64| {
        next_bytes <= SEGMENT_HEADER_BYTES
            && next.epoch == header.epoch
            && end_of_file.is_some_and(|end| next.start < end)
    };
    let mut next = segments.iter().skip(place + 1);
    let next = next.find(|(next, _, next_bytes)| !is_abandoned(next, *next_bytes));
    next.map(|(next, ..)| next.start)
}

/// The commit of `history` that ends at `lsn`: who wrote it, and its wall clock. `None` if there is none, or
/// neither the log nor what is kept of it says so (W9). A machine that was put back with its memory goes on as
/// the same incarnation; there it is the wall clock that tells a commit from another one at the same LSN.
///
/// Errors: `Io`. Cost: reads one segment; of summaries the heads, and an entry, only if no segment has it.
pub fn commit_at(
    disk: &dyn Disk,
    dir: &Path,
    (database, history): (DatabaseId, HistoryId),
    lsn: Lsn,
) -> Result<Option<(Epoch, u64)>> {
    let log_dir = dir.join(LOG_DIR);
    let logged = logged_commit(disk, &log_dir, (database, history), lsn);
    match logged.map_err(EngineError::io_at("read", FileRole::WalSegment, log_dir))? {
        Logged::Other => Ok(None),
        Logged::Commit(epoch, wall_ns) => Ok(Some((epoch, wall_ns))),
        Logged::Gone => {
            let folder = dir.join(CHANGES_DIR);
            let kept = kept_commit(disk, &folder, (database, history), lsn);
            kept.map_err(EngineError::io_at("read", FileRole::Summary, folder))
        }
    }
}

/// What the log has at an LSN.
enum Logged {
    /// A commit ends there.
    Commit(Epoch, u64),
    /// None does.
    Other,
    /// That part of the log is gone.
    Gone,
}

fn logged_commit(
    disk: &dyn Disk,
    dir: &Path,
    (database, history): (DatabaseId, HistoryId),
    lsn: Lsn,
) -> io::Result<Logged> {
    let segments = segments_of(disk, dir, database, history, &mut false)?;
    for (place, (header, file, _)) in segments.iter().enumerate().rev() {
        let is_before = |end| end < lsn;
        if header.start >= lsn || end_of(&segments, place).is_some_and(is_before) {
            continue;
        }
        let mut found = None;
        let mut look = |mark: CommitMark| {
            if mark.lsn == lsn {
                found = Some(mark.wall_ns);
            }
        };
        let mut none = Gathering::default();
        walk_segment(&**file, header, Lsn::MAX, lsn, &mut none, &mut look)?;
        if found.is_none() && is_gone(&**file, header)? {
            break;
        }
        return Ok(found.map_or(Logged::Other, |wall| Logged::Commit(header.epoch, wall)));
    }
    Ok(Logged::Gone)
}

fn kept_commit(
    disk: &dyn Disk,
    dir: &Path,
    whose: (DatabaseId, HistoryId),
    lsn: Lsn,
) -> io::Result<Option<(Epoch, u64)>> {
    let mut found = None;
    for sequence in sequences(disk, dir)? {
        let Some(file) = open(disk, &dir.join(file_name(sequence)))? else {
            continue;
        };
        let Some((header, entries, _)) = entries_of(&*file)? else {
            continue;
        };
        let is_own = (header.database, header.history) == whose;
        for place in entries.iter().filter(|_| is_own) {
            let range = place.range();
            if range.start >= lsn || lsn > range.end {
                continue;
            }
            let marks = place.read(&*file)?.map(|(_, marks)| marks);
            let mark = marks.and_then(|marks| marks.into_iter().find(|mark| mark.lsn == lsn));
            let known = mark.map(|mark| (range.epoch, mark.wall_ns));
            // One that was noted twice may have the mark once; two that differ are of two pasts.
            if found.is_some() && known.is_some() && found != known {
                return Ok(None);
            }
            found = found.or(known);
        }
    }
    Ok(found)
}

/// Adds what the segments say.
fn add_logged(disk: &dyn Disk, dir: &Path, asked: &Asked, known: &mut Known) -> io::Result<()> {
    let segments = segments_of(
        disk,
        dir,
        asked.database,
        asked.history,
        &mut known.is_one_gone,
    )?;
    for (place, (header, file, _)) in segments.iter().enumerate() {
        let until = end_of(&segments, place).map_or(asked.until, |end| end.min(asked.until));
        if until <= header.start || until <= asked.since {
            continue;
        }
        let touched = &mut known.touched;
        let (end, last_commit) =
            walk_segment(&**file, header, asked.since, until, touched, &mut |_| {})?;
        known.is_one_gone |= end < until && is_gone(&**file, header)?;
        known.ranges.push(LogRange {
            start: header.start,
            end,
            epoch: header.epoch,
            last_commit,
        });
    }
    Ok(())
}

/// Adds what the summaries say.
fn add_kept(disk: &dyn Disk, dir: &Path, asked: &Asked, known: &mut Known) -> io::Result<()> {
    for sequence in sequences(disk, dir)? {
        let Some(file) = open(disk, &dir.join(file_name(sequence)))? else {
            known.is_one_gone = true;
            continue;
        };
        let Some((header, entries, _)) = entries_of(&*file)? else {
            continue;
        };
        let is_own = (header.database, header.history) == (asked.database, asked.history);
        for place in entries.iter().filter(|_| is_own) {
            let range = place.range();
            if asked.concerns(range)
                && let Some((pages, _)) = place.read(&*file)?
            {
                known.ranges.push(range);
                if range.last_commit > asked.since {
                    known.touched.add_all(pages);
                }
            }
        }
    }
    Ok(())
}

/// Errors: the system's; `None` if it is gone.
fn open(disk: &dyn Disk, path: &Path) -> io::Result<Option<Arc<dyn File>>> {
    match disk.open(path, OpenMode::Read) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// W8: what was touched, if the ranges cover what is asked for and do not contradict each other.
fn unite(known: Known, asked: &Asked) -> Option<Vec<Range<u64>>> {
    let Known {
        mut ranges,
        mut touched,
        ..
    } = known;
    ranges.retain(|range| asked.concerns(*range));
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut covered: Option<LogRange> = None;
    for range in ranges {
        let reached = covered.map_or(asked.since, |covered| covered.end);
        if range.start > reached {
            return None;
        }
        let is_same = |other: LogRange| (other.start, other.epoch) == (range.start, range.epoch);
        match covered {
            // Two that wrote the same bytes of the log: the past of a directory was put back by hand.
            Some(covered) if range.start < covered.end && !is_same(covered) => return None,
            _ => {}
        }
        if range.end > reached {
            covered = Some(range);
        }
    }
    if covered?.end < asked.until {
        return None;
    }
    HEADER_PAGES.for_each(|page| touched.add_page(PageNo(page)));
    Some(touched.finish().into_ranges())
}
