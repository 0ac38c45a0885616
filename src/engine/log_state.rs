//! How far the log of a database may be archived: no crash takes back what lies before.

use std::path::Path;

use crate::engine::create::PAGE_FILE;
use crate::engine::directory::{
    Patience, Role, lock_dir, note_holder, refuse_remote, refuse_untrusted,
};
use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::header::{self, Fork, Header, HeaderState};
use crate::engine::wal::{self, LOG_DIR, LogSegment, MissingLog};
use crate::engine::{Engine, Identity};
use crate::id::{DatabaseId, HistoryId};
use crate::lsn::Lsn;
use crate::os::{Disk, Host, OpenMode};
use crate::page::PageSize;

/// Whose log it is, and how far it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    /// The database.
    pub database: DatabaseId,
    /// The history.
    pub history: HistoryId,
    /// Whose commits it goes on from.
    pub fork: Option<Fork>,
    /// Size of a page.
    pub page_size: PageSize,
    /// What lies before this survives every crash (LA1).
    pub durable: Lsn,
}

impl LogState {
    fn of(header: &Header, durable: Lsn) -> Self {
        Self {
            database: header.database,
            history: header.history,
            fork: header.fork,
            page_size: header.page_size,
            durable,
        }
    }

    /// Of the database in `dir`, whose engine says that it is `identity` and synced up to `durable`.
    ///
    /// Errors: `NotADatabase`, `Header`, `FutureVersion`, `Io`.
    pub fn of_running(
        host: &Host,
        dir: &Path,
        (database, history): (DatabaseId, HistoryId),
        durable: Lsn,
    ) -> Result<Option<Self>> {
        let header = read_header(host, dir)?;
        let is_same = (header.database, header.history) == (database, history);
        Ok(is_same.then(|| Self::of(&header, durable)))
    }

    /// Of the database in `dir`, on which no engine runs. What recovery would keep is made durable first, as
    /// an opening would; nothing else is changed.
    ///
    /// Errors: `InUse` at once if anybody holds the directory; `NotADatabase`, `Header`, `FutureVersion`,
    /// `Log`, `ForeignLog`, `Untrusted`, `RemoteFileSystem`, `Io`.
    pub fn settle(host: &Host, dir: &Path) -> Result<Self> {
        let lock = lock_dir(host, dir, Patience::None)?;
        refuse_untrusted(&*lock, dir)?;
        note_holder(host, dir, Role::Mount);
        refuse_remote(&*lock, dir)?;
        let header = read_header(host, dir)?;
        let missing = match header.state {
            HeaderState::Clean => MissingLog::MeansClean,
            HeaderState::LogNeeded => MissingLog::IsError,
        };
        let log_dir = dir.join(LOG_DIR);
        let scan = wal::scan(
            &*host.disk,
            &log_dir,
            (header.database, header.history),
            header.page_size,
            header.log_start,
            missing,
            &mut |_| Ok(()),
        )?;
        scan.sync(&*host.disk, &log_dir)?;
        Ok(Self::of(&header, scan.end))
    }

    /// The segments of this log in `dir`, oldest first, as far as they are durable.
    ///
    /// Errors: `Log`, `ForeignLog`, `FutureVersion`, `Io`; one of these, too, if the engine removes some
    /// meanwhile: then it is to be asked again.
    pub(crate) fn segments(&self, disk: &dyn Disk, dir: &Path) -> Result<Vec<LogSegment>> {
        let ids = (self.database, self.history);
        wal::durable_segments(disk, &dir.join(LOG_DIR), ids, self.page_size, self.durable)
    }
}

fn read_header(host: &Host, dir: &Path) -> Result<Header> {
    let path = dir.join(PAGE_FILE);
    let data = host.disk.open(&path, OpenMode::Read).map_err(|source| {
        match source.kind() == std::io::ErrorKind::NotFound {
            true => EngineError::NotADatabase {
                dir: dir.to_owned(),
                missing: PAGE_FILE,
            },
            false => EngineError::io_at("open", FileRole::PageFile, &path)(source),
        }
    })?;
    header::read(&*data, &path)
}

impl Engine {
    /// How far its log may be archived at this moment.
    #[must_use]
    pub fn log_state(&self) -> LogState {
        let Identity {
            database, history, ..
        } = self.identity();
        LogState {
            database,
            history,
            fork: self.header().fork,
            page_size: self.page_size(),
            durable: Lsn(self.stats().log_durable),
        }
    }
}
