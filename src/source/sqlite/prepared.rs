//! One database on the way to its pin, in steps, so that many can be pinned close together.
//!
//! `open` decides under SHARED what the database is, in SQLite's order: a hot journal first, then the
//! log beside it, then the header.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::os::file_system::refuse_remote;
use crate::os::media::Writers;
use crate::os::path::{FileType, Metadata, canonical};
use crate::os::range_lock::{obstacle, try_lock};
use crate::os::{File, Host, LockKind, OpenMode, media, read_up_to};
use crate::source::sqlite::format::{DATABASE_HEADER_BYTES, DatabaseHeader};
use crate::source::sqlite::journal::is_hot;
use crate::source::sqlite::live_files::{LiveFiles, Names, NamesSeen, facts};
use crate::source::sqlite::lock_bytes::{
    BackOff, DEAD_MAN, Holder, SHARED, drop_shared, holder, take_shared,
};
use crate::source::sqlite::media_prepared::MediaPrepared;
use crate::source::sqlite::recovery::{self, Anchor};
use crate::source::sqlite::rollback::RollbackPrepared;
use crate::source::sqlite::site::Site;
use crate::source::sqlite::wal_index::{IndexAccess, IndexFile};
use crate::source::sqlite::wal_prepared::WalPrepared;
use crate::source::sqlite::{PinnedSqlite, SqliteView, Unpinnable};
use crate::source::{Recovery, SourceError, SqliteOptions};
use crate::view::tree::Attributes;

/// How long a lock that lets nobody in is waited for: a commit in rollback mode takes less.
const SHARED_PATIENCE: Duration = Duration::from_secs(2);
/// How long the header of an index may be in the middle of a write.
const HEADER_PATIENCE: Duration = Duration::from_millis(200);
/// How often all is begun anew because something changed meanwhile.
const TRIES: u32 = 5;

/// A database with its files open, about to be pinned. Dropping it lets everything go.
#[derive(Debug)]
pub(in crate::source) struct Prepared {
    host: Host,
    site: Site,
    options: SqliteOptions,
    facts: Metadata,
    way: Way,
    is_pinned: bool,
    /// Keeps what SQLite made until it is pinned.
    kept_open: Option<Anchor>,
}

/// How it is pinned.
#[derive(Debug)]
enum Way {
    Wal(Box<WalPrepared>),
    Rollback(Box<RollbackPrepared>),
    Media(Box<MediaPrepared>),
}

/// What one look at the files came to.
enum Opened {
    Ready(Metadata, Way),
    /// Something changed meanwhile.
    Again(Unpinnable),
    /// SQLite would roll back or mend something first.
    NeedsSqlite,
    /// Nobody uses the index, if there is one: SQLite would make it.
    NoIndex,
}

impl Prepared {
    /// Opens the files, recovers what must be recovered, and in rollback mode copies ahead. Takes no lock
    /// that stops a writer.
    ///
    /// Errors: `Sqlite`, `Io`.
    pub(in crate::source) fn open(
        host: &Host,
        path: &Path,
        options: &SqliteOptions,
    ) -> Result<Self, SourceError> {
        let canonical = canonical(path).and_then(|path| Site::of(&path));
        let site = canonical.map_err(SourceError::io("look at", path))?;
        Self::open_at(host, site, options)
    }

    /// As [`Self::open`], wherever the path of `site` leads by now.
    ///
    /// Errors: as those of `open`.
    pub(in crate::source) fn open_at(
        host: &Host,
        site: Site,
        options: &SqliteOptions,
    ) -> Result<Self, SourceError> {
        let opening = Opening {
            host,
            site: &site,
            options,
        };
        refuse_remote(&site.way())
            .map_err(|found| opening.refused(Unpinnable::FileSystem(found)))?;
        let mut anchor = None;
        let mut last = Unpinnable::Replaced;
        let mut has_waited = false;
        for _ in 0..TRIES {
            match opening.look()? {
                Opened::Ready(facts, way) => {
                    return Ok(Self {
                        host: host.clone(),
                        options: options.clone(),
                        site,
                        facts,
                        way,
                        is_pinned: false,
                        kept_open: anchor,
                    });
                }
                Opened::Again(reason) => last = reason,
                // Its application may have changed the mode or gone since, under a SQLite that keeps
                // nothing in the mode of before.
                Opened::NeedsSqlite | Opened::NoIndex if anchor.take().is_some() => {
                    last = Unpinnable::NotRecovered;
                }
                Opened::NeedsSqlite => anchor = Some(opening.recover()?),
                Opened::NoIndex => match opening.lasting_user()? {
                    None => anchor = Some(opening.recover()?),
                    Some(by) if has_waited => {
                        return Err(opening.refused(Unpinnable::OtherIndex { by }));
                    }
                    // He may have been about to use it.
                    Some(_) => has_waited = true,
                },
            }
        }
        Err(opening.refused(last))
    }

    /// Whether its pin is a copy, for which a lock is held until `finish`, and which may be made by it.
    pub(in crate::source) fn pins_by_copy(&self) -> bool {
        matches!(self.way, Way::Rollback(_))
    }

    /// Does again what `open` did ahead, where the database was written since: then `stop_writers` has a
    /// chance. Holds nothing.
    ///
    /// Errors: `Sqlite`, `Io`.
    pub(in crate::source) fn catch_up(&mut self) -> Result<(), SourceError> {
        match &mut self.way {
            Way::Wal(_) | Way::Media(_) => Ok(()),
            Way::Rollback(rollback) => rollback.catch_up(),
        }
    }

    /// For a set of one instant only: keeps every writer from committing, until `let_writers_go`. At once
    /// or not at all: nobody is waited for.
    ///
    /// Errors: `Sqlite`, `Io`; nobody is then stopped.
    pub(in crate::source) fn stop_writers(&mut self) -> Result<(), SourceError> {
        match &mut self.way {
            Way::Wal(wal) => wal.stop_writers(),
            // The lock of the pin itself does it.
            Way::Rollback(rollback) => rollback.stop_writers(),
            Way::Media(_) => Ok(()),
        }
    }

    /// Takes the pin: microseconds in WAL mode; in rollback mode the lock under which `finish` verifies
    /// or copies.
    ///
    /// Errors: `Sqlite`, `Io`.
    pub(in crate::source) fn pin(&mut self) -> Result<(), SourceError> {
        match &mut self.way {
            Way::Wal(wal) => match wal.pin() {
                Err(SourceError::Sqlite {
                    reason: Unpinnable::NeedsRecovery,
                    ..
                }) => self.pin_recovered()?,
                pinned => pinned?,
            },
            Way::Rollback(rollback) => rollback.pin()?,
            Way::Media(_) => {}
        }
        self.is_pinned = true;
        Ok(())
    }

    /// A writer died in the middle of the header after it was opened: the next reader mends it.
    fn pin_recovered(&mut self) -> Result<(), SourceError> {
        let (host, site, options) = (&self.host, &self.site, &self.options);
        let opening = Opening {
            host,
            site,
            options,
        };
        let Way::Wal(wal) = &mut self.way else {
            return Ok(());
        };
        let has_stopped = wal.has_stopped_writers();
        wal.let_writers_go();
        self.kept_open = Some(opening.recover()?);
        if has_stopped {
            wal.stop_writers()?;
        }
        wal.pin()
    }

    /// Undoes `stop_writers`, as far as the pin does not still need it. Must not fail.
    pub(in crate::source) fn let_writers_go(&mut self) {
        match &mut self.way {
            Way::Wal(wal) => wal.let_writers_go(),
            Way::Rollback(_) if self.is_pinned => {}
            Way::Rollback(rollback) => rollback.let_writers_go(),
            Way::Media(_) => {}
        }
    }

    /// Builds the view of the pin; no lock that stops a writer is held after.
    ///
    /// Errors: `Sqlite`, `Io`.
    pub(in crate::source) fn finish(mut self) -> Result<PinnedSqlite, SourceError> {
        self.let_writers_go();
        let (pin, pinned_at) = match self.way {
            Way::Rollback(rollback) => return rollback.finish(),
            Way::Wal(wal) => wal.finish()?,
            Way::Media(media) => media.finish(&*self.host.clock)?,
        };
        let attributes = attributes(&self.facts, pin.changed_ns());
        let log = pin.log();
        let view = SqliteView::of_wal(&self.host, pin, &self.options, self.site.path())?;
        Ok(PinnedSqlite {
            view,
            identity: self.facts.identity,
            attributes,
            log,
            pinned_at,
        })
    }
}

fn attributes(facts: &Metadata, changed_ns: u64) -> Attributes {
    Attributes {
        mode: u16::try_from(facts.mode & 0o7777).expect("twelve bits"),
        uid: facts.uid,
        gid: facts.gid,
        changed_ns,
    }
}

/// One opening of one database.
struct Opening<'a> {
    host: &'a Host,
    site: &'a Site,
    options: &'a SqliteOptions,
}

impl Opening<'_> {
    fn refused(&self, reason: Unpinnable) -> SourceError {
        let path = self.site.path().to_owned();
        SourceError::Sqlite { path, reason }
    }

    fn io(&self, op: &'static str) -> impl FnOnce(io::Error) -> SourceError {
        SourceError::io(op, self.site.path())
    }

    fn recover(&self) -> Result<Anchor, SourceError> {
        if self.options.recovery == Recovery::Refused {
            return Err(self.refused(Unpinnable::NeedsRecovery));
        }
        recovery::open_once(self.site, self.options).map_err(|reason| self.refused(reason))
    }

    fn open_file(&self, name: &OsStr, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.host
            .disk
            .open(&self.site.folder().way().join(name), mode)
    }

    /// Who has the database open in WAL mode, and goes on to. Where nobody uses the index of this name, he has
    /// another, and another log: through another name of the file, or since ours were put in the place of
    /// his. What this name leads to is then no state of the database at all, and he does not see our locks.
    fn lasting_user(&self) -> Result<Option<Holder>, SourceError> {
        let database = self.host.disk.open(&self.site.way(), OpenMode::Read);
        let database = database.map_err(self.io("open"))?;
        let mut back_off = BackOff::new(&*self.host.clock, HEADER_PATIENCE);
        loop {
            let user = holder(&*database, LockKind::Exclusive, SHARED);
            match user.map_err(self.io("look at the locks of"))? {
                None => return Ok(None),
                Some(user) if !back_off.pause() => return Ok(Some(user)),
                Some(_) => {}
            }
        }
    }

    /// From the first lock on; whatever is not ready lets all of them go.
    fn look(&self) -> Result<Opened, SourceError> {
        let way = self.site.way();
        let database = self.host.disk.open(&way, OpenMode::Read);
        let database = database.map_err(self.io("open"))?;
        let names = Names::of(self.site);
        let clock = &*self.host.clock;
        let taken = take_shared(&*database, clock, SHARED_PATIENCE);
        if let Some(by) = taken.map_err(self.io("lock"))? {
            return Err(self.refused(Unpinnable::Locked { by }));
        }
        let is_there = names.leads_to(&names.database, &*database);
        if !is_there.map_err(self.io("look at"))? {
            return Ok(Opened::Again(Unpinnable::Replaced));
        }
        let found = facts(&*database).map_err(self.io("look at"))?;
        let is_hot = is_hot(&*self.host.disk, &*database, &way);
        let is_hot = is_hot.map_err(self.io("look at the -journal of"))?;
        let writers = media::writers(&way, &*database).map_err(self.io("look at"))?;
        match writers {
            Writers::Nobody if is_hot => {
                return Err(self.refused(Unpinnable::HotJournalOnReadOnlyMedia));
            }
            Writers::Nobody => return self.open_on_media(&names, database, found),
            Writers::Here | Writers::Elsewhere if is_hot => return Ok(Opened::NeedsSqlite),
            Writers::Here | Writers::Elsewhere => {}
        }
        if self.is_wal(&names, &*database, &found)? {
            let opened = self.open_wal(names, database, found)?;
            return match (opened, writers) {
                // SQLite cannot make an index there, and somebody may start to use it elsewhere.
                (Opened::NeedsSqlite | Opened::NoIndex, Writers::Elsewhere) => {
                    Err(self.refused(Unpinnable::OthersMayWrite))
                }
                (opened, _) => Ok(opened),
            };
        }
        drop_shared(&*database).map_err(self.io("unlock"))?;
        let rollback = RollbackPrepared::open(self.host, database, self.site, self.options)?;
        Ok(Opened::Ready(found, Way::Rollback(Box::new(rollback))))
    }

    /// Where nobody can write, what SQLite would make of the files is made of them by reading alone.
    fn open_on_media(
        &self,
        names: &Names,
        database: Arc<dyn File>,
        found: Metadata,
    ) -> Result<Opened, SourceError> {
        let is_wal = self.is_wal(names, &*database, &found)?;
        let log = match self.open_file(&names.log, OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened.map_err(self.io("open the -wal of"))?),
        };
        let log = log.filter(|_| is_wal);
        let media = MediaPrepared::new(self.site.path(), database, log);
        Ok(Opened::Ready(found, Way::Media(Box::new(media))))
    }

    /// Whether SQLite would open it in WAL mode: a log that is not empty is beside it
    /// (`pagerOpenWalIfPresent`), or the header says so (`lockBtree`).
    fn is_wal(
        &self,
        names: &Names,
        database: &dyn File,
        found: &Metadata,
    ) -> Result<bool, SourceError> {
        let log = names.folder.metadata(&names.log);
        let log = log.map_err(self.io("look at the -wal of"))?;
        let has_log = log.is_some_and(|log| log.size > 0);
        if found.size == 0 {
            return match has_log {
                true => Err(self.refused(Unpinnable::EmptyBesideLog)),
                false => Ok(false),
            };
        }
        let mut bytes = [0; DATABASE_HEADER_BYTES];
        let count = read_up_to(database, &mut bytes, 0).map_err(self.io("read"))?;
        match DatabaseHeader::parse(bytes.get(..count).unwrap_or_default()) {
            Some(header) if header.write_version >= 3 || header.read_version >= 3 => {
                Err(self.refused(Unpinnable::TwoLogs))
            }
            Some(header) => Ok(has_log || header.read_version == 2),
            // Encrypted: what lies beside it tells.
            None => Ok(has_log || self.has_index(names)?),
        }
    }

    fn has_index(&self, names: &Names) -> Result<bool, SourceError> {
        let found = names.folder.metadata(&names.index);
        let found = found.map_err(self.io("look at the -shm of"))?;
        Ok(found.is_some_and(|found| found.size > 0))
    }

    fn open_wal(
        &self,
        names: Names,
        database: Arc<dyn File>,
        found: Metadata,
    ) -> Result<Opened, SourceError> {
        let index = match self.open_index(&names)? {
            Some(index) => index,
            None => return Ok(Opened::NoIndex),
        };
        if !self.is_live(&index)? {
            return Ok(Opened::NoIndex);
        }
        let found_log = names.folder.metadata(&names.log);
        let found_log = found_log.map_err(self.io("look at the -wal of"))?;
        if found_log.is_some_and(|log| log.file_type != FileType::File) {
            return Err(self.refused(Unpinnable::StrangeFile { file: "-wal" }));
        }
        let log = match self.open_file(&names.log, OpenMode::Read) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Opened::Again(Unpinnable::LogRemoved));
            }
            Err(error) => return Err(self.io("open the -wal of")(error)),
        };
        let files = LiveFiles {
            names,
            database,
            log,
            index,
        };
        let names = files.look_at_names().map_err(self.io("look at"))?;
        if names != NamesSeen::Good {
            return Ok(Opened::Again(Unpinnable::Replaced));
        }
        let mut back_off = BackOff::new(&*self.host.clock, HEADER_PATIENCE);
        loop {
            let start = files.index.start().map_err(self.io("read the -shm of"))?;
            if start.is_some_and(|start| start.header.is_some()) {
                let wal = WalPrepared::new(self.host, self.site.path(), files);
                return Ok(Opened::Ready(found, Way::Wal(Box::new(wal))));
            }
            // Whoever wrote it died in the middle, which the next reader mends.
            if !back_off.pause() {
                return Ok(Opened::NeedsSqlite);
            }
        }
    }

    /// The index, if there is one that is a plain file of one name: through another name somebody might
    /// have us write into a file that is none of the database's.
    fn open_index(&self, names: &Names) -> Result<Option<IndexFile>, SourceError> {
        let found = names.folder.metadata(&names.index);
        let Some(found) = found.map_err(self.io("look at the -shm of"))? else {
            return Ok(None);
        };
        let strange = || self.refused(Unpinnable::StrangeFile { file: "-shm" });
        if found.file_type != FileType::File || found.link_count > 1 {
            return Err(strange());
        }
        let opened = match self.open_file(&names.index, OpenMode::ReadWrite) {
            Err(error) if is_read_only(&error) => self
                .open_file(&names.index, OpenMode::Read)
                .map(|file| (file, IndexAccess::ReadOnly)),
            opened => opened.map(|file| (file, IndexAccess::Write)),
        };
        let (file, access) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("open the -shm of")(error)),
        };
        if facts(&*file)
            .map_err(self.io("look at the -shm of"))?
            .link_count
            > 1
        {
            return Err(strange());
        }
        Ok(Some(IndexFile { file, access }))
    }

    /// Whether somebody uses the index, so that it is as he left it; then we do so too. As SQLite does it
    /// (`unixLockSharedMemory`): whoever finds it unused has to make it anew, which is not for us.
    fn is_live(&self, index: &IndexFile) -> Result<bool, SourceError> {
        let mut back_off = BackOff::new(&*self.host.clock, HEADER_PATIENCE);
        loop {
            let user = obstacle(&*index.file, LockKind::Exclusive, DEAD_MAN);
            match user.map_err(self.io("look at the locks of"))? {
                None => return Ok(false),
                Some(user) if user.kind == LockKind::Shared => {
                    let taken = try_lock(&*index.file, LockKind::Shared, DEAD_MAN);
                    if taken.map_err(self.io("lock the -shm of"))? {
                        return Ok(true);
                    }
                }
                // He is making it.
                Some(_) => {}
            }
            if !back_off.pause() {
                return Err(self.refused(Unpinnable::NoMark));
            }
        }
    }
}

fn is_read_only(error: &io::Error) -> bool {
    let kinds = [
        io::ErrorKind::PermissionDenied,
        io::ErrorKind::ReadOnlyFilesystem,
    ];
    kinds.contains(&error.kind())
}
