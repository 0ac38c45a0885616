//! Reading a log back: which whole commits are there, and which pages they wrote.

#![deny(clippy::indexing_slicing)]

mod read;

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use read::{next_candidate, read_record, window_of, write_again};

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, FileRole, LogFault, Result};
use crate::engine::wal::record::{CommitRecord, RECORD_HEADER_BYTES, RecordKind, page_of};
use crate::engine::wal::segment::{
    SEGMENT_HEADER_BYTES, SealedSegment, SegmentFile, SegmentHeader, open_segments,
};
use crate::engine::wal::window::Window;
use crate::fault::{self, Fault};
use crate::id::{DatabaseId, HistoryId};
use crate::lsn::Lsn;
use crate::os::Disk;
use crate::page::{PageNo, PageSize};

/// What it means that no segment covers the start of the scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissingLog {
    /// Commits are lost.
    IsError,
    /// The header says that the page file stands by itself.
    MeansClean,
}

/// Where a page's record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPosition {
    segment: usize,
    offset: u64,
}

/// Where a page's record is, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScannedPage {
    pub(crate) page: PageNo,
    pub(crate) is_image: bool,
    pub(crate) position: RecordPosition,
    payload_bytes: usize,
}

/// What a page's record says, its checksum right: to be decoded as an image or as a delta.
#[derive(Clone, Debug)]
pub(crate) struct PagePayload<'a> {
    pub(crate) is_image: bool,
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// One whole commit: its pages in the order of the log, and the state that it leaves.
#[derive(Debug)]
pub(crate) struct ScannedVisit<'a> {
    pub(crate) pages: &'a [ScannedPage],
    pub(crate) point: CommitPoint,
    /// For reading its records again.
    pub(crate) scan: &'a Scan,
    /// What was read last.
    window: &'a Window<'a>,
}

impl ScannedVisit<'_> {
    /// The record of one of its pages. Cost: none as a rule, a read where the commit is a large one.
    ///
    /// Errors: `Log`, `Io` if it must be read again and is not what it was.
    pub(crate) fn payload(&self, scanned: &ScannedPage) -> Result<PagePayload<'_>> {
        let offset = scanned.position.offset + RECORD_HEADER_BYTES as u64;
        match self.window.look_back(offset, scanned.payload_bytes) {
            Some(bytes) => Ok(PagePayload {
                is_image: scanned.is_image,
                bytes: Cow::Borrowed(bytes),
            }),
            None => self.scan.read_page(scanned.position),
        }
    }
}

/// A log that was read.
#[derive(Debug)]
pub(crate) struct Scan {
    /// Where the next segment must start.
    pub(crate) end: Lsn,
    /// A number that no segment has.
    pub(crate) next_sequence: u64,
    segments: Vec<SegmentFile>,
    /// Those that count, by their index, and where each starts.
    starts: Vec<(usize, Lsn)>,
    page_size: PageSize,
    /// What the newest commit knows to be synced.
    synced: Lsn,
    /// The bytes that no commit knows to be synced: segment, and range in its file.
    unsynced: Option<(usize, Range<u64>)>,
}

/// Bytes of the log that are read at once.
const SCAN_WINDOW_BYTES: usize = 1 << 20;
/// The same where one record is wanted; most are shorter.
const RECORD_WINDOW_BYTES: usize = 4 << 10;
/// More than what a record has beside the image of a page.
const AROUND_IMAGE_BYTES: usize = 64;

/// Reads the log in `dir` from `from` on and calls `visit` for each whole commit.
///
/// Errors: `Log`, `ForeignLog`, `FutureVersion`, `Io`; and what `visit` fails with.
pub(crate) fn scan(
    disk: &dyn Disk,
    dir: &Path,
    (database, history): (DatabaseId, HistoryId),
    page_size: PageSize,
    from: Lsn,
    missing: MissingLog,
    visit: &mut dyn FnMut(ScannedVisit<'_>) -> Result<()>,
) -> Result<Scan> {
    let segments = open_segments(disk, dir)?;
    let next_sequence = segments
        .last()
        .map_or(1, |last| last.sequence.saturating_add(1));
    let mut scan = Scan {
        end: from,
        next_sequence,
        segments,
        starts: Vec::new(),
        page_size,
        synced: Lsn::ZERO,
        unsynced: None,
    };
    let headers = scan.usable_headers(database, history)?;
    let starts = headers.iter().map(|(index, header)| (*index, header.start));
    scan.starts = starts.collect();
    let first = headers.iter().rposition(|(_, header)| header.start <= from);
    let covers = first
        .and_then(|first| headers.get(first))
        .is_some_and(|(index, header)| scan.covers(*index, header, from, missing));
    let lost = || EngineError::Log {
        segment: dir.to_owned(),
        at: from,
        fault: LogFault::Missing { wanted: from },
    };
    let Some(first) = first.filter(|_| covers) else {
        let is_later = headers.iter().any(|(_, header)| header.start > from);
        return if missing == MissingLog::IsError || is_later {
            Err(lost())
        } else {
            Ok(scan)
        };
    };
    let mut at = from;
    for (place, (index, header)) in headers.iter().enumerate().skip(first) {
        let next = headers.get(place + 1).map(|(_, next)| next.start);
        at = scan.read_segment(*index, header, at, next, visit)?;
    }
    scan.unsynced = scan.find_unsynced(headers.get(first..).unwrap_or_default(), from);
    Ok(scan)
}

/// The segments of a history in `dir` that count, in order.
///
/// Errors: `Log`, `ForeignLog`, `FutureVersion`, `Io`.
pub(crate) fn usable_segments(
    disk: &dyn Disk,
    dir: &Path,
    (database, history): (DatabaseId, HistoryId),
    page_size: PageSize,
) -> Result<Vec<(SegmentFile, SegmentHeader)>> {
    let scan = Scan {
        end: Lsn::ZERO,
        next_sequence: 1,
        segments: open_segments(disk, dir)?,
        starts: Vec::new(),
        page_size,
        synced: Lsn::ZERO,
        unsynced: None,
    };
    let headers = scan.usable_headers(database, history)?.into_iter();
    let found =
        headers.filter_map(|(index, header)| Some((scan.segments.get(index)?.clone(), header)));
    Ok(found.collect())
}

impl Scan {
    /// The headers of the segments that count, in order.
    fn usable_headers(
        &self,
        database: DatabaseId,
        history: HistoryId,
    ) -> Result<Vec<(usize, SegmentHeader)>> {
        let mut headers: Vec<(usize, SegmentHeader)> = Vec::new();
        for (index, segment) in self.segments.iter().enumerate() {
            let Some(header) = &segment.header else {
                // The header is durable before anything follows it: a longer file was damaged
                // later, a shorter one was being made when the machine went down.
                if segment.bytes > SEGMENT_HEADER_BYTES {
                    return Err(self.fault(segment, Lsn::ZERO, LogFault::SegmentHeader));
                }
                continue;
            };
            let path = || segment.path.clone();
            if header.database != database {
                return Err(EngineError::foreign_database(
                    path(),
                    database,
                    header.database,
                ));
            }
            if header.history != history {
                return Err(EngineError::foreign_history(
                    path(),
                    history,
                    header.history,
                ));
            }
            let wrong =
                |field, found| self.fault(segment, header.start, LogFault::Record { field, found });
            if header.page_size != self.page_size.get() {
                return Err(wrong("page size", u64::from(header.page_size)));
            }
            if headers
                .last()
                .is_some_and(|(_, last)| last.start > header.start)
            {
                return Err(wrong("start", header.start.0));
            }
            let is_abandoned = headers
                .last()
                .is_some_and(|(before, last)| self.is_abandoned(*before, last, segment, header));
            if !is_abandoned {
                headers.push((index, header.clone()));
            }
        }
        Ok(headers)
    }

    /// Whether `header` is of a rotation that failed: its file may be found although it was removed,
    /// and the segment before went on past its start. A rotation that succeeds has synced the
    /// segment before with exactly that length.
    fn is_abandoned(
        &self,
        before: usize,
        last: &SegmentHeader,
        segment: &SegmentFile,
        header: &SegmentHeader,
    ) -> bool {
        let goes_on = self
            .segments
            .get(before)
            .is_some_and(|before| before.offset_of(last.start, header.start) < before.bytes);
        goes_on && header.epoch == last.epoch && segment.bytes <= SEGMENT_HEADER_BYTES
    }

    /// Whether the segment, the last one that does not begin after `from`, has the log from there on.
    ///
    /// Where a header needs the log, a segment begins at its log start, durably before the header says so (E7).
    /// The end of the one before is no stand-in for one that was lost, nor is what lies behind it (W10).
    fn covers(&self, index: usize, header: &SegmentHeader, from: Lsn, missing: MissingLog) -> bool {
        let segment = self.segments.get(index);
        match missing {
            MissingLog::IsError => header.start == from,
            MissingLog::MeansClean => segment
                .is_some_and(|segment| segment.offset_of(header.start, from) <= segment.bytes),
        }
    }

    /// A segment is synced before the next is made, so only the newest one with records has bytes
    /// that may not be. Shape: the segments that were read, from `from` on.
    fn find_unsynced(
        &self,
        headers: &[(usize, SegmentHeader)],
        from: Lsn,
    ) -> Option<(usize, Range<u64>)> {
        let newest = headers
            .iter()
            .rfind(|(_, header)| header.start < self.end)?;
        let (index, header) = newest;
        let segment = self.segments.get(*index)?;
        let offset = |lsn| segment.offset_of(header.start, lsn);
        Some((*index, offset(self.synced.max(from))..offset(self.end)))
    }

    /// Of every page in it.
    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn fault(&self, segment: &SegmentFile, at: Lsn, fault: LogFault) -> EngineError {
        EngineError::Log {
            segment: segment.path.clone(),
            at,
            fault,
        }
    }

    /// Reads one segment from `at` up to `next`, the start of the following one. Gives the position
    /// that was reached.
    fn read_segment(
        &mut self,
        index: usize,
        header: &SegmentHeader,
        mut at: Lsn,
        next: Option<Lsn>,
        visit: &mut dyn FnMut(ScannedVisit<'_>) -> Result<()>,
    ) -> Result<Lsn> {
        let Some(segment) = self.segments.get(index).cloned() else {
            return Ok(at);
        };
        let mut window = window_of(&segment, SCAN_WINDOW_BYTES);
        let mut pages = Vec::new();
        while next.is_none_or(|next| at < next) {
            let offset = segment.offset_of(header.start, at);
            let Some(record) = read_record(&mut window, &segment, header, offset, at)? else {
                return self.bad_record(&segment, header, at, next);
            };
            let end = at.checked_add(record.bytes).unwrap_or(Lsn::MAX);
            let position = RecordPosition {
                segment: index,
                offset,
            };
            match record.kind {
                RecordKind::PageImage | RecordKind::PageDelta => {
                    let page = page_of(record.payload).ok_or_else(|| {
                        let found = record.payload.len() as u64;
                        self.fault(
                            &segment,
                            at,
                            LogFault::Record {
                                field: "page",
                                found,
                            },
                        )
                    })?;
                    let is_image = record.kind == RecordKind::PageImage;
                    pages.push(ScannedPage {
                        page,
                        is_image,
                        position,
                        payload_bytes: record.payload.len(),
                    });
                }
                RecordKind::Commit => {
                    let commit = CommitRecord::decode(record.payload)
                        .map_err(|fault| self.fault(&segment, at, fault))?;
                    self.synced = self.synced.max(commit.synced);
                    visit(ScannedVisit {
                        pages: &pages,
                        point: commit.point(end),
                        scan: self,
                        window: &window,
                    })?;
                    pages.clear();
                }
                RecordKind::CheckpointBegin
                | RecordKind::CheckpointEnd
                | RecordKind::PageSummary => {}
            }
            at = end;
            if pages.is_empty() {
                self.end = at;
            }
        }
        if next.is_some_and(|next| next != at) {
            let found = at.0;
            return Err(self.fault(
                &segment,
                at,
                LogFault::Record {
                    field: "end",
                    found,
                },
            ));
        }
        Ok(at)
    }

    /// W5: the end of the log, or damage before what is known to have been synced.
    fn bad_record(
        &self,
        segment: &SegmentFile,
        header: &SegmentHeader,
        at: Lsn,
        next: Option<Lsn>,
    ) -> Result<Lsn> {
        if let Some(next) = next {
            return Err(self.fault(segment, at, LogFault::Gap { next }));
        }
        let mut window = window_of(segment, RECORD_WINDOW_BYTES);
        let mut later = at;
        while let Some(candidate) = next_candidate(segment, header, later)? {
            later = candidate;
            let offset = segment.offset_of(header.start, later);
            let Some(record) = read_record(&mut window, segment, header, offset, later)? else {
                continue;
            };
            if record.kind == RecordKind::Commit
                && !fault::is(Fault::DamageTakenForTail)
                && let Ok(commit) = CommitRecord::decode(record.payload)
                && commit.synced > at
            {
                let fault = LogFault::BeforeSynced {
                    synced: commit.synced,
                };
                return Err(self.fault(segment, at, fault));
            }
        }
        Ok(at)
    }

    /// Reads a page's record again.
    ///
    /// Errors: `Log` if it is not what was scanned; `Io`.
    pub(crate) fn read_page(&self, position: RecordPosition) -> Result<PagePayload<'static>> {
        let lost = || EngineError::Log {
            segment: Default::default(),
            at: Lsn::ZERO,
            fault: LogFault::Record {
                field: "position",
                found: position.offset,
            },
        };
        let segment = self.segments.get(position.segment).ok_or_else(lost)?;
        let header = segment.header.as_ref().ok_or_else(lost)?;
        let into = position.offset.saturating_sub(SEGMENT_HEADER_BYTES);
        let at = header.start.checked_add(into).ok_or_else(lost)?;
        let most = self.page_size.get() as usize + AROUND_IMAGE_BYTES;
        let mut window = window_of(segment, most);
        let record = read_record(&mut window, segment, header, position.offset, at)?;
        let record = record.ok_or_else(lost)?;
        Ok(PagePayload {
            is_image: record.kind == RecordKind::PageImage,
            bytes: Cow::Owned(record.payload.to_vec()),
        })
    }

    /// Makes what was read durable, before anything depends on it.
    ///
    /// Errors: `Io`.
    pub(crate) fn sync(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        if fault::is(Fault::RecoveryUnsynced) {
            return Ok(());
        }
        if let Some((index, range)) = &self.unsynced
            && let Some(segment) = self.segments.get(*index)
        {
            write_again(segment, range.clone()).map_err(EngineError::io_at(
                "write again",
                FileRole::WalSegment,
                &segment.path,
            ))?;
        }
        for segment in &self.segments {
            segment.file.sync_data().map_err(EngineError::io_at(
                "sync",
                FileRole::WalSegment,
                &segment.path,
            ))?;
        }
        if self.segments.is_empty() {
            return Ok(());
        }
        disk.sync_dir(dir)
            .map_err(EngineError::io_at("sync", FileRole::WalSegment, dir))
    }

    /// Gives back what lies past its end: zeros, or what is left of an old segment (W10, W11). Best effort, and not
    /// durable before a sync.
    pub(crate) fn cut_rest(&self) {
        let Some((index, start)) = self.starts.last() else {
            return;
        };
        let Some(segment) = self.segments.get(*index) else {
            return;
        };
        let end = segment.offset_of(*start, self.end);
        if *start <= self.end && end < segment.bytes {
            let _ = segment.file.set_len(end);
        }
    }

    /// The segments, for the log that goes on after them. One that does not count goes with the one before.
    pub(crate) fn sealed(&self) -> Vec<SealedSegment> {
        let mut end = Lsn::ZERO;
        let ended = self.segments.iter().enumerate().map(|(index, segment)| {
            let place = self.starts.iter().position(|(one, _)| *one == index);
            if let Some(place) = place {
                let next = self.starts.get(place + 1);
                end = next.map_or(self.end, |(_, start)| *start).min(self.end);
            }
            SealedSegment {
                path: segment.path.clone(),
                end,
                bytes: segment.file.len().unwrap_or(segment.bytes),
                touched: None,
                is_noted: false,
                is_own: false,
            }
        });
        ended.collect()
    }
}
