//! Opening: the directory's lock, creation, recovery, the new epoch.
//!
//! ```text
//! lock the directory -> read the header -> replay the log into the page table -> sync that log
//!   -> a new segment, synced -> both header copies carry one epoch (E11)
//!   -> the sink prepares itself (held pins accept the new epoch, others end or will be fenced)
//!   -> both header copies carry the new epoch, synced (E10) -> writeback may begin
//! ```

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use parking_lot::Mutex;

use crate::engine::Engine;
use crate::engine::checkpoint::Checkpointer;
use crate::engine::commit_point::CommitPoint;
use crate::engine::create::{
    PAGE_FILE, create_page_file, refuse_foreign_content, unused_page_file,
};
use crate::engine::directory::{
    Patience, Role, lock_dir, make_dir, note_holder, refuse_remote, refuse_untrusted,
};
use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::header::{self, Header, HeaderState};
use crate::engine::history;
use crate::engine::options::{Create, EngineOptions};
use crate::engine::recovery::{self, Recovered, ReplayRoom};
use crate::engine::shared::{Identity, Shared, Sizes};
use crate::engine::sink::PreImageSink;
use crate::engine::spool::Spool;
use crate::engine::takeover::{TakeoverSteps, take_over};
use crate::engine::wal::{LOG_DIR, Log, LogIdentity};
use crate::fault::{self, Fault};
use crate::id::Epoch;
use crate::os::{self, File, FileIdentity, Host, OpenMode, random};
use crate::page::{PageFault, PageNo, PageSize};

/// What a sink learns when the engine opens, before anything may be written back.
#[derive(Clone, Copy, Debug)]
pub struct OpenFacts {
    /// Ids and the new epoch, which the live file does not carry yet.
    pub identity: Identity,
    /// Page size.
    pub page_size: PageSize,
    /// The live file.
    pub live: FileIdentity,
    /// Sequence of its header.
    pub live_sequence: u64,
    /// The epochs in the valid copies of its header: one and the same where an engine starts (E11).
    pub carried: [Epoch; 2],
    /// The epoch that they are about to carry; `None` where no engine starts.
    pub next: Option<Epoch>,
    /// The newest commit.
    pub point: CommitPoint,
}

/// Makes the sink of an engine that is being opened.
pub type PrepareSink<'a> =
    &'a mut dyn FnMut(
        &OpenFacts,
    )
        -> Result<Arc<dyn PreImageSink>, Box<dyn std::error::Error + Send + Sync>>;

/// The lock of a database's directory, as an engine has it. It goes with its last clone.
#[derive(Clone, Debug)]
pub struct DirLock {
    dir: Arc<dyn File>,
    holder: Option<Arc<dyn File>>,
}

impl Engine {
    /// Opens the database in `dir` for reading and writing, after recovering it if need be.
    ///
    /// Errors: `InUse`, `NotADatabase`, `Header`, `FutureVersion`, `Log`, `ForeignLog`,
    /// `RemoteFileSystem`, `Untrusted`, `Sink`, `Io`. Nothing is changed before the log was found whole.
    pub fn open(
        host: &Host,
        dir: &Path,
        options: &EngineOptions,
        prepare_sink: Option<PrepareSink<'_>>,
    ) -> Result<Self> {
        let lock = Self::lock(host, dir, options.create)?;
        Self::open_locked(host, dir, options, prepare_sink, lock)
    }

    /// Takes the directory for an engine to come; makes it if `create` says so.
    ///
    /// Errors: `InUse`, `NotADatabase` if there is no directory, `RemoteFileSystem`, `Untrusted`, `Io`.
    pub fn lock(host: &Host, dir: &Path, create: Create) -> Result<DirLock> {
        if create == Create::IfMissing {
            make_dir(host, dir)?;
        }
        let dir_lock = lock_dir(host, dir, Patience::Looks)?;
        refuse_untrusted(&*dir_lock, dir)?;
        let holder = note_holder(host, dir, Role::Engine);
        refuse_remote(&*dir_lock, dir)?;
        Ok(DirLock {
            dir: dir_lock,
            holder,
        })
    }

    /// The lock that it has on its directory, if it writes there: who keeps it can open another engine
    /// there with nobody in between.
    #[must_use]
    pub fn dir_lock(&self) -> Option<DirLock> {
        self.shared.log.as_ref()?;
        Some(DirLock {
            dir: self.shared.dir_lock.clone()?,
            holder: self.shared.holder_lock.clone(),
        })
    }

    /// As [`Self::open`], of a directory that is locked already.
    ///
    /// Errors: as for [`Self::open`], but for those of [`Self::lock`].
    pub fn open_locked(
        host: &Host,
        dir: &Path,
        options: &EngineOptions,
        prepare_sink: Option<PrepareSink<'_>>,
        lock: DirLock,
    ) -> Result<Self> {
        let data_path = dir.join(PAGE_FILE);
        let data = open_page_file(host, dir, &data_path, options)?;
        let header = header::read(&*data, &data_path)?;
        let sizes = Sizes::writing(options, header.page_size);
        let spool = Some(Spool::new(host, dir, header.page_size));
        let room = ReplayRoom::new(options.cache_bytes, spool.clone());
        let mut recovered = recovery::recover(host, dir, &header, &room)?;
        refuse_short(&*data, &data_path, &header, &recovered)?;
        recovered.cut_rest();
        recovered.sync(host, dir)?;
        let header = history::leave_view(host, dir, (&*data, &data_path), header)?;
        let before = header.epoch;
        let epoch = match before {
            Epoch(1..) if fault::is(Fault::EpochUnchanged) => before,
            Epoch(1..) if fault::is(Fault::EpochCounted) => Epoch(before.0 + 1),
            _ => random::nonzero(&*host.random)
                .map(Epoch)
                .map_err(EngineError::io("draw an epoch for", FileRole::Directory))?,
        };
        let identity = Identity {
            database: header.database,
            history: header.history,
            epoch,
        };
        let log = start_log(host, dir, &header, identity, &mut recovered)?;
        let reading = Shared::reading(host, dir, data, header, recovered.point, sizes, spool);
        let log = Arc::new(log.kept_for_archives(dir, options).with_spare(options));
        reading.relief.heed(Arc::downgrade(&log));
        let mut shared = Shared {
            dir_lock: Some(lock.dir),
            holder_lock: lock.holder,
            identity,
            log: Some(log),
            ..reading
        };
        take_over(&mut Takeover {
            shared: &mut shared,
            prepare_sink,
            recovered: &recovered,
        })?;
        // Both copies of the header say so by now: what is older stays for an archive alone.
        let log_start = shared.header.lock().log_start;
        shared.log()?.know_needless(log_start);
        recovered.publish(&shared.table, &shared.registry);
        let shared = Arc::new(shared);
        let checkpointer = Checkpointer::start(shared.clone())?;
        Ok(Self {
            shared,
            checkpointer: Mutex::new(Some(checkpointer)),
        })
    }

    /// Looks whether anybody writes the database in `dir`.
    ///
    /// Errors: `InUse` if so; `NotADatabase`, `Io`.
    pub fn refuse_if_used(host: &Host, dir: &Path) -> Result<()> {
        lock_dir(host, dir, Patience::Looker).map(drop)
    }

    /// Opens the database in `dir` for reading only: a copy, a mount, or one that was not stopped
    /// cleanly, whose log is then replayed in memory. Nothing in `dir` is changed.
    ///
    /// Errors: `InUse` if an engine runs there; otherwise as for [`Engine::open`].
    pub fn open_read_only(host: &Host, dir: &Path, cache_bytes: u64) -> Result<Self> {
        let dir_lock = lock_dir(host, dir, Patience::Looker)?;
        let data_path = dir.join(PAGE_FILE);
        let data = host
            .disk
            .open(&data_path, OpenMode::Read)
            .map_err(|source| missing_or_io(source, dir, &data_path))?;
        let header = header::read(&*data, &data_path)?;
        let room = ReplayRoom::new(cache_bytes, None);
        let recovered = recovery::recover(host, dir, &header, &room)?;
        refuse_short(&*data, &data_path, &header, &recovered)?;
        let mut engine = Self::read_only(host, dir, data, header, recovered, cache_bytes);
        Arc::get_mut(&mut engine.shared)
            .expect("nobody else has it yet")
            .dir_lock = Some(dir_lock);
        Ok(engine)
    }

    /// Opens the database in `dir`, on which no engine runs, in order to pin it: the log is replayed in
    /// memory, and made durable as far as it was read. Nothing else in `dir` is changed here.
    ///
    /// Errors: `InUse` at once if anybody holds the directory; otherwise as for [`Engine::open`],
    /// `Untrusted` among them.
    pub fn open_offline(
        host: &Host,
        dir: &Path,
        cache_bytes: u64,
        prepare_sink: PrepareSink<'_>,
    ) -> Result<Self> {
        let dir_lock = lock_dir(host, dir, Patience::None)?;
        refuse_untrusted(&*dir_lock, dir)?;
        note_holder(host, dir, Role::Mount);
        refuse_remote(&*dir_lock, dir)?;
        let data_path = dir.join(PAGE_FILE);
        let data = host
            .disk
            .open(&data_path, OpenMode::Read)
            .map_err(|source| missing_or_io(source, dir, &data_path))?;
        let header = header::read(&*data, &data_path)?;
        let spool = Some(Spool::new(host, dir, header.page_size));
        let room = ReplayRoom::new(cache_bytes, spool);
        let recovered = recovery::recover(host, dir, &header, &room)?;
        refuse_short(&*data, &data_path, &header, &recovered)?;
        recovered.sync(host, dir)?;
        // What a killed engine wrote may be in the page cache only.
        data.sync_data()
            .map_err(EngineError::io_at("sync", FileRole::PageFile, &data_path))?;
        let copies = header::read_copies(&*data, header.page_size)?;
        let mut carried = [header.epoch; 2];
        for (carried, copy) in carried.iter_mut().zip(&copies) {
            *carried = copy.epoch;
        }
        let facts = OpenFacts {
            identity: Identity {
                database: header.database,
                history: header.history,
                epoch: header.epoch,
            },
            page_size: header.page_size,
            live: identity_of(&*data)?,
            live_sequence: header.sequence,
            carried,
            next: None,
            point: recovered.point,
        };
        let sink = prepare_sink(&facts).map_err(|source| EngineError::Sink { source })?;
        let mut engine = Self::read_only(host, dir, data, header, recovered, cache_bytes);
        let shared = Arc::get_mut(&mut engine.shared).expect("nobody else has it yet");
        shared.dir_lock = Some(dir_lock);
        shared.sink = Some(sink);
        Ok(engine)
    }

    /// Opens a still page file, such as the view of a pin, which needs no log.
    ///
    /// Errors: `Header`, `FutureVersion`, `Io`; `Log` if the header asks for a log.
    pub fn open_still(host: &Host, file: Arc<dyn File>, cache_bytes: u64) -> Result<Self> {
        let path = PathBuf::from(PAGE_FILE);
        let header = header::read(&*file, &path)?;
        let recovered = Recovered::nothing(&header);
        refuse_short(&*file, &path, &header, &recovered)?;
        if header.state != HeaderState::Clean {
            let fault = crate::engine::error::LogFault::Missing {
                wanted: header.log_start,
            };
            return Err(EngineError::Log {
                segment: path,
                at: header.log_start,
                fault,
            });
        }
        Ok(Self::read_only(
            host,
            Path::new(""),
            file,
            header,
            recovered,
            cache_bytes,
        ))
    }

    fn read_only(
        host: &Host,
        dir: &Path,
        data: Arc<dyn File>,
        header: Header,
        recovered: Recovered,
        cache_bytes: u64,
    ) -> Self {
        let sizes = Sizes::reading(cache_bytes, header.page_size);
        let shared = Shared::reading(host, dir, data, header, recovered.point, sizes, None);
        recovered.publish(&shared.table, &shared.registry);
        Self {
            shared: Arc::new(shared),
            checkpointer: Mutex::default(),
        }
    }
}

/// The engine's steps of a takeover.
struct Takeover<'a, 'b> {
    shared: &'a mut Shared,
    prepare_sink: Option<PrepareSink<'b>>,
    recovered: &'a Recovered,
}

impl TakeoverSteps for Takeover<'_, '_> {
    type Error = EngineError;

    fn unite_copies(&mut self) -> Result<()> {
        // The newer copy may be in the page cache only, and the older one is about to be overwritten.
        self.shared.sync_live()?;
        let newest = self.shared.header.lock().clone();
        let copies = header::read_copies(&*self.shared.data, newest.page_size)?;
        let whose = |header: &Header| (header.database, header.history, header.epoch);
        if copies.iter().all(|copy| whose(copy) == whose(&newest)) {
            return Ok(());
        }
        self.shared.write_header_copy(newest)
    }

    fn prepare_sink(&mut self) -> Result<()> {
        let Some(prepare) = self.prepare_sink.take() else {
            return Ok(());
        };
        let header = self.shared.header.lock().clone();
        let identity = self.shared.identity;
        let facts = OpenFacts {
            identity,
            page_size: header.page_size,
            live: identity_of(&*self.shared.data)?,
            live_sequence: header.sequence,
            carried: [header.epoch; 2],
            next: Some(identity.epoch),
            point: self.recovered.point,
        };
        let sink = prepare(&facts).map_err(|source| EngineError::Sink { source })?;
        self.shared.sink = Some(sink);
        Ok(())
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn write_epoch(&mut self) -> Result<()> {
        let mut next = self.shared.header.lock().clone();
        if next.state == HeaderState::Clean {
            next.log_start = self.recovered.log_end;
        }
        if !fault::is(Fault::EpochLate) {
            next.epoch = self.shared.identity.epoch;
        }
        next.state = HeaderState::LogNeeded;
        self.shared.write_header_copy(next)?;
        let next = self.shared.header.lock().clone();
        self.shared.write_header_copy(next)?;
        self.shared.header.lock().epoch = self.shared.identity.epoch;
        Ok(())
    }
}

fn identity_of(data: &dyn File) -> Result<FileIdentity> {
    data.identity()
        .map_err(EngineError::io("look at", FileRole::PageFile))
}

/// A page file holds every page that its header counts, but for those that the log has: a checkpoint
/// does not write what was changed again before it came to it. One that lacks others was cut.
fn refuse_short(data: &dyn File, path: &Path, header: &Header, log: &Recovered) -> Result<()> {
    let bytes = data
        .len()
        .map_err(EngineError::io_at("look at", FileRole::PageFile, path))?;
    let whole = bytes / u64::from(header.page_size.get());
    if whole >= header.point.page_count {
        return Ok(());
    }
    let logged: HashSet<PageNo> = log.pages().collect();
    let missing = (whole..header.point.page_count)
        .map(PageNo)
        .find(|page| !logged.contains(page));
    missing.map_or(Ok(()), |page| {
        Err(EngineError::Page {
            file: FileRole::PageFile,
            page,
            fault: PageFault::Short { found: 0 },
        })
    })
}

fn missing_or_io(source: io::Error, dir: &Path, path: &Path) -> EngineError {
    if source.kind() == io::ErrorKind::NotFound {
        EngineError::NotADatabase {
            dir: dir.to_owned(),
            missing: PAGE_FILE,
        }
    } else {
        EngineError::io_at("open", FileRole::PageFile, path)(source)
    }
}

fn open_page_file(
    host: &Host,
    dir: &Path,
    path: &Path,
    options: &EngineOptions,
) -> Result<Arc<dyn File>> {
    let page_size = match host.disk.open(path, OpenMode::ReadWrite) {
        Ok(file) => match unused_page_file(host, dir, &*file)? {
            Some(page_size) => page_size,
            None => {
                // Whoever put a copy here may not have synced its name, and a log without a page
                // file would be taken for a loss.
                host.disk.sync_dir(dir).map_err(EngineError::io_at(
                    "sync",
                    FileRole::Directory,
                    dir,
                ))?;
                return Ok(file);
            }
        },
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && options.create == Create::IfMissing =>
        {
            refuse_foreign_content(host, dir)?;
            options.page_size
        }
        Err(error) => return Err(missing_or_io(error, dir, path)),
    };
    create_page_file(host, dir, page_size)?;
    host.disk
        .open(path, OpenMode::ReadWrite)
        .map_err(|source| missing_or_io(source, dir, path))
}

fn start_log(
    host: &Host,
    dir: &Path,
    header: &Header,
    identity: Identity,
    recovered: &mut Recovered,
) -> Result<Log> {
    let log_identity = LogIdentity {
        database: identity.database,
        history: identity.history,
        epoch: identity.epoch,
        page_size: header.page_size,
    };
    let (sealed, sequence) = (recovered.sealed(), recovered.next_sequence());
    let start = match header.state {
        HeaderState::Clean => {
            recovered.close_log();
            Log::start_after_clean_stop
        }
        HeaderState::LogNeeded => Log::start,
    };
    let mut log = start(
        host,
        &dir.join(LOG_DIR),
        log_identity,
        sealed,
        sequence,
        recovered.log_end,
    )?;
    log.write_zeros_ahead();
    Ok(log)
}

/// Whether `dir` holds something that [`Engine::open`] would take for a database of its own.
///
/// Errors: none; what cannot be looked at is not one.
#[must_use]
pub fn looks_like_database(host: &Host, dir: &Path) -> bool {
    let Ok(file) = host.disk.open(&dir.join(PAGE_FILE), OpenMode::Read) else {
        return false;
    };
    let mut bytes = [0; header::HEADER_BYTES];
    let found = os::read_up_to(&*file, &mut bytes, 0).unwrap_or_default();
    header::has_magic(&bytes[..found]) || header::read(&*file, dir).is_ok()
}
