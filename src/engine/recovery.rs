//! Recovery: from the log back to the newest commit.
//!
//! The log is scanned once and gives, per page, its newest image and the deltas after it; only then
//! are the pages made, one by one. They become versions in the page table, as if their commits had
//! just happened; the next checkpoint writes them to the live file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, LogFault, Result};
use crate::engine::header::{Header, HeaderState};
use crate::engine::page_table::PageTable;
use crate::engine::readers::ReaderRegistry;
use crate::engine::wal::{
    LOG_DIR, MissingLog, PageRecord, RecordPosition, Scan, ScannedPage, SealedSegment, apply_delta,
    scan,
};
use crate::lsn::Lsn;
use crate::os::Host;
use crate::page::{PageBuf, PageNo, PageRef};

/// What the log gave.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The newest commit.
    pub(crate) point: CommitPoint,
    /// Where the next segment starts.
    pub(crate) log_end: Lsn,
    pages: Vec<(PageNo, PageRef)>,
    scan: Option<Scan>,
}

/// The records that make one page: an image first, deltas after it.
#[derive(Debug, Default)]
struct Parts(Vec<(RecordPosition, Lsn)>);

/// Replays the log in memory; changes nothing on disk.
///
/// Errors: `Log`, `ForeignLog`, `FutureVersion`, `Io`.
pub(crate) fn recover(host: &Host, dir: &Path, header: &Header) -> Result<Recovered> {
    let log_dir = dir.join(LOG_DIR);
    let missing = match header.state {
        HeaderState::Clean => MissingLog::MeansClean,
        HeaderState::LogNeeded => MissingLog::IsError,
    };
    let mut parts: HashMap<PageNo, Parts> = HashMap::new();
    let mut point = header.point;
    let ids = (header.database, header.history);
    let from = header.log_start;
    let read = scan(
        &*host.disk,
        &log_dir,
        ids,
        header.page_size,
        from,
        missing,
        &mut |commit| {
            if let Some((field, found)) = commit.point.fault(header.page_size) {
                let (at, fault) = (commit.point.lsn, LogFault::Record { field, found });
                return Err(EngineError::Log {
                    segment: log_dir.clone(),
                    at,
                    fault,
                });
            }
            if commit.point.timestamp <= point.timestamp || commit.point.wall_ns <= point.wall_ns {
                let found = commit.point.timestamp.0;
                let fault = LogFault::Record {
                    field: "timestamp",
                    found,
                };
                return Err(EngineError::Log {
                    segment: log_dir.clone(),
                    at: commit.point.lsn,
                    fault,
                });
            }
            point = commit.point;
            commit
                .pages
                .iter()
                .try_for_each(|page| add_part(&mut parts, page, point, &log_dir))
        },
    )?;
    let mut pages = Vec::with_capacity(parts.len());
    for (page, parts) in parts {
        pages.push((page, Arc::new(make_page(&read, page, &parts, &log_dir)?)));
    }
    let log_end = read.end;
    Ok(Recovered {
        point,
        log_end,
        pages,
        scan: Some(read),
    })
}

fn add_part(
    parts: &mut HashMap<PageNo, Parts>,
    page: &ScannedPage,
    commit: CommitPoint,
    log_dir: &Path,
) -> Result<()> {
    let fault = if page.page.0 < 2 || page.page.0 >= commit.page_count {
        LogFault::Record {
            field: "page",
            found: page.page.0,
        }
    } else if page.is_image {
        parts.insert(page.page, Parts(vec![(page.position, commit.lsn)]));
        return Ok(());
    } else if let Some(parts) = parts.get_mut(&page.page) {
        parts.0.push((page.position, commit.lsn));
        return Ok(());
    } else {
        LogFault::Delta { page: page.page }
    };
    Err(EngineError::Log {
        segment: log_dir.to_owned(),
        at: commit.lsn,
        fault,
    })
}

fn make_page(scan: &Scan, page: PageNo, parts: &Parts, log_dir: &Path) -> Result<PageBuf> {
    let mut made: Option<PageBuf> = None;
    for &(position, commit_end) in &parts.0 {
        let damaged = |fault| EngineError::Log {
            segment: log_dir.to_owned(),
            at: commit_end,
            fault,
        };
        let next = match (scan.read_page(position)?, made) {
            (PageRecord::Image(image), _) => image,
            (PageRecord::Delta(delta), Some(before)) => {
                apply_delta(&before, &delta, commit_end).map_err(damaged)?
            }
            (PageRecord::Delta(_), None) => return Err(damaged(LogFault::Delta { page })),
        };
        crate::page::check(&next, page, commit_end)
            .map_err(|_| damaged(LogFault::Delta { page }))?;
        made = Some(next);
    }
    made.ok_or(EngineError::Log {
        segment: log_dir.to_owned(),
        at: scan.end,
        fault: LogFault::Delta { page },
    })
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

    /// Whether the log has `page`.
    pub(crate) fn holds(&self, page: PageNo) -> bool {
        self.pages.iter().any(|found| found.0 == page)
    }

    /// Makes the replayed log durable, before anything that depends on it is.
    pub(crate) fn sync(&self, host: &Host, dir: &Path) -> Result<()> {
        self.scan
            .as_ref()
            .map_or(Ok(()), |scan| scan.sync(&*host.disk, &dir.join(LOG_DIR)))
    }

    /// The segments that were read, for the log that goes on after them.
    pub(crate) fn sealed(&self) -> Vec<SealedSegment> {
        self.scan.as_ref().map(Scan::sealed).unwrap_or_default()
    }

    /// A number that no segment has.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.scan.as_ref().map_or(1, |scan| scan.next_sequence)
    }

    /// Makes the replayed pages versions of the table.
    pub(crate) fn publish(self, table: &PageTable, registry: &ReaderRegistry) {
        let readers = registry.snapshot();
        for (page, image) in self.pages {
            table.publish(page, image, &readers);
        }
    }
}
