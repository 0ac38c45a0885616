//! Recovery: from the log back to the newest commit.
//!
//! The log is read once. The newest image of each page is kept in memory, and deltas are applied to it as they
//! come; at the end each page is proved to be the one that was committed. They become versions in the page
//! table, as if their commits had just happened; the next checkpoint writes them to the live file.
//!
//! What stays in memory is bounded (E13): images for half of the cache. Of the other pages the images stay in
//! the log until they are used: one entry per page, and as many positions of deltas as the cache has room for.
//! When there are more, these pages are made and go to the spool.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, LogFault, Result};
use crate::engine::header::{Header, HeaderState};
use crate::engine::page_table::{Backing, Content, PageTable};
use crate::engine::readers::ReaderRegistry;
use crate::engine::spool::{Slot, Spool};
use crate::engine::wal::{
    LOG_DIR, MissingLog, PagePayload, PageReplay, RecordPosition, Scan, ScannedPage, ScannedVisit,
    SealedSegment, decode_delta, decode_image, scan,
};
use crate::lsn::Lsn;
use crate::os::Host;
use crate::page::{PageBuf, PageMap, PageNo, PageSize};

/// Positions of records that recovery may keep however small the cache is.
const RECORDS_MIN: u64 = 1 << 14;
/// Bytes of the cache for each position: a position takes about 24.
const CACHE_BYTES_PER_RECORD: u64 = 64;
/// The part of the cache that images may fill.
const IMAGES_PART: u64 = 2;

/// What the log gave.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The newest commit.
    pub(crate) point: CommitPoint,
    /// Where the next segment starts.
    pub(crate) log_end: Lsn,
    pages: Vec<(PageNo, Lsn, Content)>,
    scan: Option<Arc<Scan>>,
}

/// How much memory recovery may use, and where the rest goes.
#[derive(Clone, Debug)]
pub(crate) struct ReplayRoom {
    cache_bytes: u64,
    /// `None` for a database that is only read: then nothing is bounded but the images.
    spool: Option<Arc<Spool>>,
}

impl ReplayRoom {
    pub(crate) fn new(cache_bytes: u64, spool: Option<Arc<Spool>>) -> Self {
        Self { cache_bytes, spool }
    }
}

/// A page that the log changed.
#[derive(Debug)]
enum Logged {
    /// In memory, with all that was read so far.
    Here(PageReplay),
    /// Not made yet.
    There(Parts),
}

/// What makes one page: an image, and the deltas after it.
#[derive(Debug, Default)]
struct Parts {
    /// The page as it was made before, if the records below are deltas only.
    made: Option<(Arc<Slot>, Lsn)>,
    /// Each with the end of its commit.
    records: Vec<(RecordPosition, Lsn)>,
}

/// A page whose newest image the log gives.
#[derive(Debug)]
struct LoggedPage {
    scan: Arc<Scan>,
    log_dir: Arc<PathBuf>,
    parts: Parts,
}

impl Backing for LoggedPage {
    fn load(&self, page: PageNo, _lsn: Lsn) -> Result<PageBuf> {
        make_page(&self.scan, page, &self.parts, &self.log_dir)
    }
}

/// Looks at the log without changing anything on disk.
///
/// Errors: `Log`, `ForeignLog`, `FutureVersion`, `Io`.
pub(crate) fn recover(
    host: &Host,
    dir: &Path,
    header: &Header,
    room: &ReplayRoom,
) -> Result<Recovered> {
    let log_dir = Arc::new(dir.join(LOG_DIR));
    let missing = match header.state {
        HeaderState::Clean => MissingLog::MeansClean,
        HeaderState::LogNeeded => MissingLog::IsError,
    };
    let mut replay = Replay::new(&log_dir, header, room);
    let ids = (header.database, header.history);
    let from = header.log_start;
    let read = scan(
        &*host.disk,
        &log_dir,
        ids,
        header.page_size,
        from,
        missing,
        &mut |commit| replay.add_commit(&commit),
    )?;
    let Replay { pages, point, .. } = replay;
    let (log_end, read) = (read.end, Arc::new(read));
    refuse_uncovered(pages.keys(), header, point, &log_dir)?;
    let pages = pages.into_iter().map(|(page, logged)| match logged {
        Logged::Here(replay) => {
            let image = prove(replay, page, point.lsn, &log_dir)?;
            Ok((page, image.lsn(), Content::Image(Arc::new(image))))
        }
        Logged::There(parts) => {
            let lsn = make_page(&read, page, &parts, &log_dir)?.lsn();
            let (scan, log_dir) = (read.clone(), log_dir.clone());
            let logged = LoggedPage {
                scan,
                log_dir,
                parts,
            };
            Ok((page, lsn, Content::Backed(Arc::new(logged))))
        }
    });
    Ok(Recovered {
        point,
        log_end,
        pages: pages.collect::<Result<_>>()?,
        scan: Some(read),
    })
}

/// E9: a page below the page count is in the page file or was replayed. A count that lies would be
/// believed by whatever walks or counts the pages.
fn refuse_uncovered<'a>(
    pages: impl Iterator<Item = &'a PageNo>,
    header: &Header,
    point: CommitPoint,
    log_dir: &Path,
) -> Result<()> {
    let replayed = pages.map(|page| page.0.saturating_add(1)).max();
    if point.page_count <= header.point.page_count.max(replayed.unwrap_or_default()) {
        return Ok(());
    }
    let fault = LogFault::Record {
        field: "page count",
        found: point.page_count,
    };
    Err(damaged(log_dir, point.lsn, fault))
}

/// The commits so far.
struct Replay<'a> {
    log_dir: &'a Path,
    header: &'a Header,
    spool: Option<&'a Arc<Spool>>,
    point: CommitPoint,
    pages: PageMap<Logged>,
    /// Of the images that are in memory, and how many there may be.
    image_count: u64,
    images_max: u64,
    /// Of the positions of the other pages.
    record_count: u64,
    records_max: u64,
}

impl<'a> Replay<'a> {
    fn new(log_dir: &'a Path, header: &'a Header, room: &'a ReplayRoom) -> Self {
        Self {
            log_dir,
            header,
            spool: room.spool.as_ref(),
            point: header.point,
            pages: PageMap::default(),
            image_count: 0,
            images_max: room.cache_bytes / IMAGES_PART / u64::from(header.page_size.get()),
            record_count: 0,
            records_max: (room.cache_bytes / CACHE_BYTES_PER_RECORD).max(RECORDS_MIN),
        }
    }

    fn damaged(&self, at: Lsn, fault: LogFault) -> EngineError {
        damaged(self.log_dir, at, fault)
    }

    fn add_commit(&mut self, commit: &ScannedVisit<'_>) -> Result<()> {
        let ScannedVisit {
            pages, point, scan, ..
        } = *commit;
        let wrong = |field, found| self.damaged(point.lsn, LogFault::Record { field, found });
        if let Some((field, found)) = point.fault(self.header.page_size) {
            return Err(wrong(field, found));
        }
        if point.timestamp <= self.point.timestamp || point.wall_ns <= self.point.wall_ns {
            return Err(wrong("timestamp", point.timestamp.0));
        }
        self.point = point;
        for page in pages {
            self.add_record(commit, page)?;
        }
        if self.record_count > self.records_max {
            self.fold(scan)?;
        }
        Ok(())
    }

    fn add_record(&mut self, commit: &ScannedVisit<'_>, scanned: &ScannedPage) -> Result<()> {
        let (page, end) = (scanned.page, self.point.lsn);
        if page.0 < 2 || page.0 >= self.point.page_count {
            let fault = LogFault::Record {
                field: "page",
                found: page.0,
            };
            return Err(self.damaged(end, fault));
        }
        if scanned.is_image {
            return self.add_image(commit, scanned);
        }
        match self.pages.get_mut(&page) {
            Some(Logged::Here(replay)) => {
                let payload = commit.payload(scanned)?;
                apply(replay, &payload.bytes, end, self.header.page_size)
                    .map_err(|fault| self.damaged(end, fault))
            }
            Some(Logged::There(parts)) => {
                parts.records.push((scanned.position, end));
                self.record_count += 1;
                Ok(())
            }
            None => Err(self.damaged(end, LogFault::Delta { page })),
        }
    }

    /// It replaces whatever the page was.
    fn add_image(&mut self, commit: &ScannedVisit<'_>, scanned: &ScannedPage) -> Result<()> {
        let (page, end) = (scanned.page, self.point.lsn);
        let is_here = match self.pages.get(&page) {
            Some(Logged::Here(_)) => true,
            Some(Logged::There(parts)) => {
                self.record_count -= parts.records.len() as u64;
                false
            }
            None => false,
        };
        let logged = if is_here || self.image_count < self.images_max {
            let payload = commit.payload(scanned)?;
            let image = decode_image(&payload.bytes, self.header.page_size)
                .map_err(|fault| self.damaged(end, fault))?;
            self.image_count += u64::from(!is_here);
            Logged::Here(PageReplay::of(image, end))
        } else {
            self.record_count += 1;
            Logged::There(Parts {
                made: None,
                records: vec![(scanned.position, end)],
            })
        };
        self.pages.insert(page, logged);
        Ok(())
    }

    /// Makes the pages that have deltas and puts them into the spool. Where it refuses, memory grows:
    /// that is better than a database that does not open.
    fn fold(&mut self, scan: &Scan) -> Result<()> {
        let Some(spool) = self.spool else {
            return Ok(());
        };
        for (page, logged) in &mut self.pages {
            let Logged::There(parts) = logged else {
                continue;
            };
            if parts.made.is_none() && parts.records.len() < 2 || parts.records.is_empty() {
                continue;
            }
            let image = make_page(scan, *page, parts, self.log_dir)?;
            match spool.store(&image) {
                Ok(slot) => {
                    self.record_count -= parts.records.len() as u64;
                    let (made, records) = (Some((slot, image.lsn())), Vec::new());
                    *parts = Parts { made, records };
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot put replayed pages into the spool; memory grows");
                    self.records_max = u64::MAX;
                    return Ok(());
                }
            }
        }
        // Images alone may be more than that: then the next look is worth it later only.
        self.records_max = self.records_max.max(2 * self.record_count);
        Ok(())
    }
}

fn apply(
    replay: &mut PageReplay,
    payload: &[u8],
    commit_end: Lsn,
    page_size: PageSize,
) -> Result<(), LogFault> {
    replay.apply(&decode_delta(payload, page_size)?, commit_end)
}

fn prove(replay: PageReplay, page: PageNo, at: Lsn, log_dir: &Path) -> Result<PageBuf> {
    let proved = replay.prove(page);
    proved.map_err(|fault| damaged(log_dir, at, fault))
}

fn damaged(log_dir: &Path, at: Lsn, fault: LogFault) -> EngineError {
    EngineError::Log {
        segment: log_dir.to_owned(),
        at,
        fault,
    }
}

fn make_page(scan: &Scan, page: PageNo, parts: &Parts, log_dir: &Path) -> Result<PageBuf> {
    let mut made = match &parts.made {
        Some((slot, lsn)) => Some(PageReplay::of(slot.load(page, *lsn)?, *lsn)),
        None => None,
    };
    let mut last = scan.end;
    for &(position, commit_end) in &parts.records {
        last = commit_end;
        let PagePayload { is_image, bytes } = scan.read_page(position)?;
        let added = match &mut made {
            _ if is_image => decode_image(&bytes, scan.page_size())
                .map(|image| made = Some(PageReplay::of(image, commit_end))),
            Some(before) => apply(before, &bytes, commit_end, scan.page_size()),
            None => Err(LogFault::Delta { page }),
        };
        added.map_err(|fault| damaged(log_dir, commit_end, fault))?;
    }
    let made = made.ok_or_else(|| damaged(log_dir, last, LogFault::Delta { page }))?;
    prove(made, page, last, log_dir)
}

impl Recovered {
    /// Of a page file that needs no log.
    pub(crate) fn nothing(header: &Header) -> Self {
        Self {
            point: header.point,
            log_end: header.log_start,
            pages: Vec::new(),
            scan: None,
        }
    }

    /// The pages that the log has.
    pub(crate) fn pages(&self) -> impl Iterator<Item = PageNo> {
        self.pages.iter().map(|found| found.0)
    }

    /// Makes the replayed log durable, before anything that depends on it is.
    pub(crate) fn sync(&self, host: &Host, dir: &Path) -> Result<()> {
        self.scan
            .as_ref()
            .map_or(Ok(()), |scan| scan.sync(&*host.disk, &dir.join(LOG_DIR)))
    }

    /// Has the log that goes on after it take no room behind what was read; durable with [`Recovered::sync`].
    pub(crate) fn cut_rest(&self) {
        if let Some(scan) = &self.scan {
            scan.cut_rest();
        }
    }

    /// The segments that were read, for the log that goes on after them.
    pub(crate) fn sealed(&self) -> Vec<SealedSegment> {
        let scan = self.scan.as_ref();
        scan.map(|scan| scan.sealed()).unwrap_or_default()
    }

    /// Closes the files of a log of which no page is needed: one that is removed gives its room back then.
    pub(crate) fn close_log(&mut self) {
        self.scan = None;
    }

    /// A number that no segment has.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.scan.as_ref().map_or(1, |scan| scan.next_sequence)
    }

    /// Makes the replayed pages versions of the table.
    pub(crate) fn publish(self, table: &PageTable, registry: &ReaderRegistry) {
        let readers = registry.snapshot();
        for (page, lsn, content) in self.pages {
            table.publish(page, lsn, content, None, &readers);
        }
    }
}
