//! A database on read-only media: nobody writes, nobody recovers, no lock is needed (Q10).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::os::path::Metadata;
use crate::os::{Clock, File};
use crate::source::SourceError;
use crate::source::sqlite::Unpinnable;
use crate::source::sqlite::change_time::{FileTimes, LogSeen, StateName, changed_ns};
use crate::source::sqlite::extent::Extent;
use crate::source::sqlite::live_files::facts;
use crate::source::sqlite::page_index::PageIndex;
use crate::source::sqlite::wal_pin::{Hold, WalPin, WalPinParts};
use crate::source::sqlite::wal_scan::{NoLog, Scanned, scan};

/// See the head of the file.
#[derive(Debug)]
pub(super) struct MediaPrepared {
    path: PathBuf,
    database: Arc<dyn File>,
    log: Option<Arc<dyn File>>,
}

impl MediaPrepared {
    pub(super) fn new(path: &Path, database: Arc<dyn File>, log: Option<Arc<dyn File>>) -> Self {
        let path = path.to_owned();
        Self {
            path,
            database,
            log,
        }
    }

    fn refused(&self, reason: Unpinnable) -> SourceError {
        let path = self.path.clone();
        SourceError::Sqlite { path, reason }
    }

    fn io(&self, op: &'static str) -> impl FnOnce(io::Error) -> SourceError {
        SourceError::io(op, &self.path)
    }

    fn facts(&self) -> Result<(Metadata, Option<Metadata>), SourceError> {
        let log = self.log.as_ref().map(|log| facts(&**log)).transpose();
        let log = log.map_err(self.io("look at the -wal of"))?;
        let database = facts(&*self.database).map_err(self.io("look at"))?;
        Ok((database, log))
    }

    /// Reads the log and makes the view's source.
    ///
    /// Errors: `Sqlite` (`Damaged`, `Changed`); `Io`.
    pub(super) fn finish(self, clock: &dyn Clock) -> Result<(WalPin, Duration), SourceError> {
        let before = self.facts()?;
        let at = clock.monotonic();
        let scanned = match self.log.as_ref().map(|log| scan(&**log)).transpose() {
            Ok(None | Some(Err(NoLog::Ignored))) => None,
            Ok(Some(Err(NoLog::Future))) => {
                let what = "its -wal file is of a version that is not known";
                return Err(self.refused(Unpinnable::Damaged { what }));
            }
            Ok(Some(Ok(scanned))) => Some(scanned).filter(|scanned| scanned.frame_count > 0),
            Err(error) => return Err(self.io("read the -wal of")(error)),
        };
        let (database_facts, log_facts) = before;
        let name = scanned
            .as_ref()
            .map_or(StateName::default(), |scanned| StateName {
                salts: scanned.salts,
                frame_count: scanned.frame_count,
                checksum: scanned.checksum,
            });
        let changed = match (&scanned, &log_facts) {
            (Some(_), Some(log)) => log,
            _ => &database_facts,
        };
        let changed_ns = changed_ns(
            changed,
            LogSeen::AtRest,
            FileTimes::Fine,
            clock.wall_ns(),
            name,
        );
        let (extent, index) = self.measure(scanned, &database_facts)?;
        let after = self.facts()?;
        if after != (database_facts, log_facts) {
            return Err(self.refused(Unpinnable::Changed));
        }
        let pin = WalPin::new(WalPinParts {
            hold: Hold::Media(log_facts),
            database: self.database,
            log: self.log,
            salts: name.salts,
            frame_count: name.frame_count,
            extent,
            index,
            database_facts,
            head: None,
            changed_ns,
        });
        Ok((pin, at))
    }

    fn measure(
        &self,
        scanned: Option<Scanned>,
        database: &Metadata,
    ) -> Result<(Extent, PageIndex), SourceError> {
        let Some(scanned) = scanned else {
            let extent = Extent::of_file(&*self.database, database.size, None);
            return Ok((extent.map_err(self.io("read"))?, PageIndex::default()));
        };
        let extent = Extent::of_pages(scanned.page_bytes, scanned.page_count, &scanned.index);
        if database.size < extent.file_bytes {
            let what = "the file is shorter than the database";
            return Err(self.refused(Unpinnable::Damaged { what }));
        }
        Ok((extent, scanned.index))
    }
}
