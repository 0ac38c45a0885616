//! What all parts of an open engine share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::engine::commit_point::{CommitPoint, FixedTarget};
use crate::engine::create::PAGE_FILE;
use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::gate::Gate;
use crate::engine::header::Header;
use crate::engine::options::EngineOptions;
use crate::engine::page_table::{Lookup, PageTable};
use crate::engine::readers::ReaderRegistry;
use crate::engine::relief::Relief;
use crate::engine::sink::PreImageSink;
use crate::engine::spool::Spool;
use crate::engine::wal::Log;
use crate::engine::writeback::offset_of;
use crate::fault::{self, Fault};
use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::Lsn;
use crate::os::{self, File, Host};
use crate::page::{self, PageBuf, PageFault, PageNo, PageRef, PageSet, PageSize};

/// Which database, which line of commits, which incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn at creation.
    pub database: DatabaseId,
    /// Line of commits.
    pub history: HistoryId,
    /// Drawn at this open.
    pub epoch: Epoch,
}

/// Sizes that steer an engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Log bytes since the last checkpoint that start one.
    pub(crate) checkpoint_bytes: u64,
    /// Log bytes at which a new transaction waits for a checkpoint.
    pub(crate) log_bytes_max: u64,
    /// Pages changed since the last checkpoint that start one: it writes them where they belong,
    /// before memory has no room for them and the spool must take them.
    pub(crate) checkpoint_pages: u64,
    /// Images in memory: of the page table, and of the transaction that writes.
    pub(crate) table_images: u64,
    pub(crate) transaction_images: u64,
}

impl Sizes {
    /// Of an engine that only reads.
    pub(crate) fn reading(cache_bytes: u64, page_size: PageSize) -> Self {
        Self {
            checkpoint_bytes: u64::MAX,
            log_bytes_max: u64::MAX,
            checkpoint_pages: u64::MAX,
            table_images: cache_bytes / u64::from(page_size.get()),
            transaction_images: 0,
        }
    }

    /// Of an engine that writes: a quarter of the memory is for the transaction, and lent to clean pages while it
    /// does not need it.
    pub(crate) fn writing(options: &EngineOptions, page_size: PageSize) -> Self {
        let images = options.cache_bytes / u64::from(page_size.get());
        let table_images = images - images / 4;
        let starts_by_itself = options.checkpoint_bytes < u64::MAX;
        Self {
            checkpoint_bytes: options.checkpoint_bytes,
            log_bytes_max: options.log_bytes_max,
            checkpoint_pages: if starts_by_itself {
                (table_images / 2).max(CHECKPOINT_PAGES_MIN)
            } else {
                u64::MAX
            },
            table_images,
            transaction_images: images / 4,
        }
    }
}

/// However little memory there is, so many changed pages are worth a checkpoint.
const CHECKPOINT_PAGES_MIN: u64 = 1024;

/// What the order of commits protects; its lock serialises appends to the log.
#[derive(Debug, Default)]
pub(crate) struct Append {
    /// E6: pages with a full image in the log since the newest checkpoint began.
    pub(crate) imaged: PageSet,
}

/// Counters for `status` and the benchmarks.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) pages_written: AtomicU64,
    pub(crate) pages_read: AtomicU64,
}

/// One writer at a time, for the life of its transaction.
#[derive(Debug, Default)]
pub(crate) struct WriterSlot {
    taken: Mutex<bool>,
    freed: Condvar,
    /// As `taken`, for a look without the lock.
    is_taken: AtomicBool,
}

/// Looks at a taken slot before the thread sleeps: a short transaction ends sooner than a sleep.
const LOOKS: u32 = 200;

impl WriterSlot {
    pub(crate) fn take(&self) {
        for _ in 0..LOOKS {
            if !self.is_taken.load(Ordering::Relaxed) {
                break;
            }
            std::hint::spin_loop();
        }
        let mut taken = self.taken.lock();
        while *taken {
            self.freed.wait(&mut taken);
        }
        *taken = true;
        self.is_taken.store(true, Ordering::Relaxed);
    }

    pub(crate) fn free(&self) {
        let mut taken = self.taken.lock();
        *taken = false;
        self.is_taken.store(false, Ordering::Relaxed);
        drop(taken);
        self.freed.notify_one();
    }
}

/// See the head of the file. Lock order: writer slot, checkpoint, append, registry, points; the gate
/// is passed with the checkpoint lock held and none of the others.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) host: Host,
    pub(crate) dir: PathBuf,
    pub(crate) data_path: PathBuf,
    pub(crate) data: Arc<dyn File>,
    /// Held for its lock: no other engine while it is open.
    pub(crate) dir_lock: Option<Arc<dyn File>>,
    /// Held for its lock: shows that an engine has the directory, and not a mount.
    pub(crate) holder_lock: Option<Arc<dyn File>>,
    pub(crate) page_size: PageSize,
    pub(crate) identity: Identity,
    pub(crate) sizes: Sizes,
    /// `None` when opened for reading only.
    pub(crate) log: Option<Arc<Log>>,
    pub(crate) table: PageTable,
    /// `None` when opened for reading only.
    pub(crate) spool: Option<Arc<Spool>>,
    pub(crate) registry: ReaderRegistry,
    pub(crate) writer: WriterSlot,
    pub(crate) append: Mutex<Append>,
    pub(crate) gate: Gate,
    /// One checkpoint at a time, and one writer of the header. A checkpoint waits at the gate with
    /// this held, so nobody may want it who holds the gate.
    pub(crate) checkpoint_lock: Mutex<Option<FixedTarget>>,
    /// One sync of the live file at a time.
    pub(crate) live_sync: Mutex<()>,
    /// Set before a live page is written, cleared before the live file is synced.
    pub(crate) is_live_unsynced: AtomicBool,
    /// The header as it stands in the file; locked for copies only.
    pub(crate) header: Mutex<Header>,
    pub(crate) sink: Option<Arc<dyn PreImageSink>>,
    pub(crate) relief: Relief,
    pub(crate) counters: Counters,
    /// Locked while the sink is told: whoever hears of it too waits until that is done.
    pub(crate) is_poison_told: Mutex<bool>,
    /// Rung when the log has grown enough for a checkpoint.
    pub(crate) bell: Bell,
}

/// Wakes the checkpointer.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    pub(crate) state: Mutex<BellState>,
    pub(crate) rung: Condvar,
}

/// What the checkpointer is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum BellState {
    #[default]
    Quiet,
    Wanted,
    /// Not before a while is over.
    Resting,
    Stop,
}

impl Bell {
    pub(crate) fn ring(&self, wanted: BellState) {
        let mut state = self.state.lock();
        let is_deaf = match *state {
            BellState::Stop => true,
            // Each commit rings while the log is long, and each try costs a look at all that is left.
            BellState::Resting => wanted != BellState::Stop,
            BellState::Quiet | BellState::Wanted => false,
        };
        if !is_deaf {
            *state = wanted;
        }
        drop(state);
        self.rung.notify_all();
    }

    /// Lets the checkpointer wait for `pause`, deaf to all but a stop.
    pub(crate) fn rest(&self, pause: Duration, then: BellState) {
        let mut state = self.state.lock();
        if *state == BellState::Stop {
            return;
        }
        *state = BellState::Resting;
        let deadline =
            self.rung
                .wait_while_for(&mut state, |state| *state == BellState::Resting, pause);
        if deadline.timed_out() {
            *state = then;
        }
    }
}

impl Shared {
    /// The parts of an engine that only reads `data`, as it stands at `point`. One that will write has
    /// a spool.
    pub(crate) fn reading(
        host: &Host,
        dir: &Path,
        data: Arc<dyn File>,
        header: Header,
        point: CommitPoint,
        sizes: Sizes,
        spool: Option<Arc<Spool>>,
    ) -> Self {
        let Header {
            database,
            history,
            epoch,
            page_size,
            ..
        } = header;
        let table = PageTable::new(sizes.table_images, spool.clone());
        table.lend(sizes.transaction_images, 0);
        Self {
            host: host.clone(),
            dir: dir.to_owned(),
            data_path: dir.join(PAGE_FILE),
            data,
            dir_lock: None,
            holder_lock: None,
            page_size,
            identity: Identity {
                database,
                history,
                epoch,
            },
            log: None,
            table,
            spool,
            sizes,
            registry: ReaderRegistry::new(point),
            writer: WriterSlot::default(),
            append: Mutex::default(),
            gate: Gate::default(),
            checkpoint_lock: Mutex::default(),
            live_sync: Mutex::default(),
            is_live_unsynced: AtomicBool::default(),
            header: Mutex::new(header),
            sink: None,
            relief: Relief::default(),
            counters: Counters::default(),
            is_poison_told: Mutex::default(),
            bell: Bell::default(),
        }
    }

    /// The page at `at`, by rule E3, checked.
    ///
    /// Errors: `Page` if the live page is damaged; `Io`.
    pub(crate) fn read_page(&self, page: PageNo, at: Lsn) -> Result<PageRef> {
        let mut fault = PageFault::Short { found: 0 };
        // A page that is overwritten while it is read looks damaged or too new; what it held is then
        // in its chain (E5), where the next look finds it. A checkpoint can pass twice at most
        // between two looks of one reader, unless the reader sleeps; a few tries are plenty.
        for _ in 0..8 {
            let (generation, memory) = match self.table.lookup(page, at) {
                Lookup::Found(image) => return Ok(image),
                Lookup::Backed(backing, lsn) => return self.table.load(page, lsn, &*backing),
                Lookup::Live(generation, memory) => (generation, memory),
            };
            let new = || Arc::new(PageBuf::zeroed(self.page_size));
            let mut image = memory.unwrap_or_else(new);
            let bytes = Arc::get_mut(&mut image).expect("nobody else holds it");
            let offset = offset_of(self.page_size, page)?;
            let found = os::read_up_to(&*self.data, bytes, offset).map_err(EngineError::io_at(
                "read",
                FileRole::PageFile,
                &self.data_path,
            ))?;
            self.counters.pages_read.fetch_add(1, Ordering::Relaxed);
            // The memory has had another page: what was not read over must be seen by nobody.
            let checked = if found < image.len() {
                Err(PageFault::Short { found })
            } else {
                page::check(&image, page, at)
            };
            match checked {
                Ok(()) => {
                    self.table.fill(page, generation, image.clone());
                    return Ok(image);
                }
                Err(found) => fault = found,
            }
        }
        Err(EngineError::Page {
            file: FileRole::PageFile,
            page,
            fault,
        })
    }

    /// Errors: `ReadOnly`.
    pub(crate) fn log(&self) -> Result<&Log> {
        self.log.as_deref().ok_or(EngineError::ReadOnly)
    }

    /// Errors: `ReadOnly`.
    pub(crate) fn spool(&self) -> Result<&Arc<Spool>> {
        self.spool.as_ref().ok_or(EngineError::ReadOnly)
    }

    /// Refuses a transaction that memory has no room for (E13).
    ///
    /// Errors: `Io` of the spool; it can be tried again.
    pub(crate) fn refuse_if_strained(&self) -> Result<()> {
        if !self.table.is_strained() || self.table.relieve_all().is_ok() {
            return Ok(());
        }
        // What a checkpoint writes back needs no spool, and the log that it lets go is space.
        let _ = self.checkpoint();
        self.relief
            .with(self.sink.as_deref(), || self.table.relieve_all())
    }

    /// Makes the log durable through `point` (E1).
    ///
    /// Errors: `Poisoned`, after which nothing is written any more.
    pub(crate) fn make_durable(&self, point: CommitPoint) -> Result<()> {
        self.hear_poison(self.log()?.flush(point.lsn))?;
        self.registry.advance_durable(point);
        Ok(())
    }

    /// Tells the sink once that nothing more is written; no error that says so goes on before (E8).
    pub(crate) fn hear_poison<T>(&self, outcome: Result<T>) -> Result<T> {
        let is_poisoned = || self.log.as_deref().is_some_and(Log::is_poisoned);
        if outcome.is_err()
            && is_poisoned()
            && !fault::is(Fault::PoisonUnheard)
            && let Some(sink) = &self.sink
        {
            let mut is_told = self.is_poison_told.lock();
            if !*is_told {
                sink.poisoned();
                *is_told = true;
            }
        }
        outcome
    }
}
