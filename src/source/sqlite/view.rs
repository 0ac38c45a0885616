//! The view of one pinned SQLite database: what it is read from, how that changes, how it ends.
//!
//! Runs in the mount daemon. The order in which it changes and ends is that of `hand_over`, with its
//! invariants H1 to H5; any number of threads may read meanwhile, and none waits for a change.
//!
//! Its counts call the pages from the database file live, and those from its log or from a private copy
//! shadow pages.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use crate::os::path::metadata;
use crate::os::{self, File, FileIdentity, Host};
use crate::source::sqlite::format::Salts;
use crate::source::sqlite::hand_over::{self, HandOver, Stage};
use crate::source::sqlite::mark::Mark;
use crate::source::sqlite::recognition;
use crate::source::sqlite::shown_header::{JournalShown, ShownHeader};
use crate::source::sqlite::tend::{self, Tending};
use crate::source::sqlite::wal_pin::{Shape, WalPin};
use crate::source::sqlite::{KIND, Unpinnable};
use crate::source::{Keeping, MemberStatus, SourceError, SqliteOptions};
use crate::view::ReadCounts;
use crate::view::tree::{Attributes, EndSeen, RangeRead, ReadError};

/// What a page counts as where its size is not known.
const UNKNOWN_PAGE_BYTES: u64 = 4096;

/// A pinned database, ready to be put into a tree.
#[derive(Debug)]
pub(in crate::source) struct PinnedSqlite {
    /// Its content.
    pub(in crate::source) view: Arc<SqliteView>,
    /// Which file it is.
    pub(in crate::source) identity: FileIdentity,
    /// Mode and owner of the original, and the time of its last change at or before the pin.
    pub(in crate::source) attributes: Attributes,
    /// Where the pinned state ends in the log, if a log has part of it or had.
    pub(in crate::source) log: Option<PinnedLog>,
    /// When it was pinned, by the monotonic clock.
    pub(in crate::source) pinned_at: Duration,
}

/// The log that a pinned state is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::source) struct PinnedLog {
    /// Which log: drawn anew each time that it begins from the start.
    pub(in crate::source) salts: Salts,
    /// Its frames up to the pinned commit.
    pub(in crate::source) frame_count: u32,
}

/// See the head of the file. Any number of threads may read it. Dropping it releases it.
#[derive(Debug)]
pub(in crate::source) struct SqliteView {
    inner: Arc<Inner>,
}

/// A private file with the whole content of a view.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) file: Arc<dyn File>,
    /// `clone` or `copy`.
    pub(super) how: &'static str,
    /// Bytes that it takes of its own; 0 for a clone, which shares them.
    pub(super) scratch_bytes: u64,
}

/// What the view and the thread that copies for it share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) host: Host,
    pub(super) database: PathBuf,
    pub(super) options: SqliteOptions,
    pub(super) shape: Shape,
    header: ShownHeader,
    stage: AtomicU64,
    mark: RwLock<Option<Arc<dyn Mark>>>,
    kept: RwLock<Option<Kept>>,
    lock_held: Duration,
    served_bytes: AtomicU64,
    live_pages: AtomicU64,
    shadow_pages: AtomicU64,
    last_failure: Mutex<Option<String>>,
    pub(super) tending: Mutex<Tending>,
}

impl SqliteView {
    /// The view of a pin in WAL mode; with `-o clone` it is kept by a clone when this returns.
    ///
    /// Errors: `Sqlite` where what is asked for cannot be had; `View` if the header cannot be read. The pin
    /// is then gone.
    pub(in crate::source) fn of_wal(
        host: &Host,
        pin: WalPin,
        options: &SqliteOptions,
        database: &Path,
    ) -> Result<Arc<Self>, SourceError> {
        Self::of_mark(host, Arc::new(pin), options, database)
    }

    /// As [`Self::of_wal`], of any lock in a live database.
    pub(super) fn of_mark(
        host: &Host,
        mark: Arc<dyn Mark>,
        options: &SqliteOptions,
        database: &Path,
    ) -> Result<Arc<Self>, SourceError> {
        let shape = mark.shape();
        let read = |out: &mut [u8]| mark.read_range(0, out).map(drop);
        let header = shown_header(options, shape, database, read)?;
        let inner = Inner {
            stage: AtomicU64::new(Stage::Mark.encode()),
            mark: RwLock::new(Some(mark)),
            ..Inner::new(host, options, database, shape, header)
        };
        let view = Self {
            inner: Arc::new(inner),
        };
        if options.keeping == Keeping::Clone {
            tend::keep_by_clone(&view.inner).map_err(|error| SourceError::Sqlite {
                path: database.to_owned(),
                reason: Unpinnable::NoClone(error),
            })?;
        }
        tend::tend(&view.inner);
        if let Stage::Ended(EndSeen::WalLimit) = view.inner.stage() {
            return Err(SourceError::Sqlite {
                path: database.to_owned(),
                reason: Unpinnable::LogAtLimit {
                    limit_bytes: options.wal_limit_bytes.unwrap_or_default(),
                },
            });
        }
        Ok(Arc::new(view))
    }

    /// The view of a private file that has the whole content. `lock_held` is for how long writers were
    /// kept from committing while it was made.
    ///
    /// Errors: as those of [`Self::of_wal`].
    pub(super) fn of_kept(
        host: &Host,
        kept: Kept,
        shape: Shape,
        options: &SqliteOptions,
        database: &Path,
        lock_held: Duration,
    ) -> Result<Arc<Self>, SourceError> {
        let read = |out: &mut [u8]| kept.read(0, out);
        let header = shown_header(options, shape, database, read)?;
        let view = Inner {
            stage: AtomicU64::new(Stage::Kept.encode()),
            kept: RwLock::new(Some(kept)),
            lock_held,
            ..Inner::new(host, options, database, shape, header)
        };
        Ok(Arc::new(Self {
            inner: Arc::new(view),
        }))
    }

    /// How it is. The path is left to whoever knows what it is relative to.
    pub(in crate::source) fn status(&self) -> MemberStatus {
        self.inner.status()
    }

    /// What the shown header says.
    pub(in crate::source) fn journal_shown(&self) -> JournalShown {
        self.inner.header.journal
    }

    /// What reading it cost so far.
    pub(in crate::source) fn counts(&self) -> ReadCounts {
        ReadCounts {
            served_bytes: self.inner.served_bytes.load(Ordering::Relaxed),
            live_pages: self.inner.live_pages.load(Ordering::Relaxed),
            shadow_pages: self.inner.shadow_pages.load(Ordering::Relaxed),
            failed_checks: 0,
        }
    }

    /// Why a read failed while the pin held, if one did: the last. It names the database.
    pub(in crate::source) fn last_failure(&self) -> Option<String> {
        self.inner.last_failure.lock().clone()
    }

    /// Whether it holds at this moment. Errors: any [`ReadError`].
    pub(in crate::source) fn look(&self) -> Result<(), ReadError> {
        self.inner.look()
    }

    /// Looks after its limits: to be called about twice a second. Spills or ends it where they say so.
    pub(in crate::source) fn tend(&self) {
        tend::tend(&self.inner);
    }

    /// Whether somebody has found that it does not hold any more. Asks nobody.
    pub(in crate::source) fn has_ended(&self) -> bool {
        matches!(self.inner.stage(), Stage::Ended(_))
    }

    /// Whether its log has a limit, to which it must be held all the time.
    pub(in crate::source) fn has_limit(&self) -> bool {
        self.inner.options.wal_limit_bytes.is_some()
    }

    /// Ends it at its maximum age, and lets every lock go.
    pub(in crate::source) fn expire(&self) {
        self.inner.end(EndSeen::Expired);
    }

    /// Ends it and lets every lock go.
    pub(in crate::source) fn release(&self) {
        self.inner.end(EndSeen::Released);
    }
}

impl Drop for SqliteView {
    fn drop(&mut self) {
        self.release();
    }
}

impl RangeRead for SqliteView {
    fn size(&self) -> u64 {
        self.inner.shape.bytes
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let (bytes, size) = (out.len() as u64, self.size());
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(ReadError::Range {
                offset,
                bytes,
                size,
            });
        }
        if out.is_empty() {
            return self.look();
        }
        self.inner.read_range(offset, out)
    }

    fn page_bytes(&self) -> Option<u32> {
        let bytes = u32::try_from(self.inner.shape.page_bytes).ok();
        bytes.filter(|bytes| *bytes > 0)
    }

    /// When the log, and the database itself, were changed.
    fn write_mark(&self) -> Option<u64> {
        let database = &self.inner.database;
        let changed = |path: &Path| metadata(path).ok().map(|found| found.mtime_ns);
        let [log, ..] = recognition::sidecars(database);
        let changes = [changed(database)?, changed(&log).unwrap_or(0)];
        let changes = changes.map(i64::to_le_bytes);
        Some(u64::from(crc32fast::hash(changes.as_flattened())))
    }
}

fn shown_header(
    options: &SqliteOptions,
    shape: Shape,
    database: &Path,
    read: impl FnOnce(&mut [u8]) -> Result<(), ReadError>,
) -> Result<ShownHeader, SourceError> {
    let header = ShownHeader::of(options.header, shape.bytes, read)?;
    header.ok_or_else(|| SourceError::Sqlite {
        path: database.to_owned(),
        reason: Unpinnable::HeaderUnreadable,
    })
}

impl Kept {
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let file = "the private copy";
        os::read_exact_at(&*self.file, out, offset).map_err(|source| ReadError::Io {
            op: "read",
            file,
            offset,
            source,
        })
    }
}

impl Inner {
    fn new(
        host: &Host,
        options: &SqliteOptions,
        database: &Path,
        shape: Shape,
        header: ShownHeader,
    ) -> Self {
        Self {
            host: host.clone(),
            database: database.to_owned(),
            options: options.clone(),
            shape,
            header,
            stage: AtomicU64::new(Stage::Ended(EndSeen::Released).encode()),
            mark: RwLock::default(),
            kept: RwLock::default(),
            lock_held: Duration::ZERO,
            served_bytes: AtomicU64::new(0),
            live_pages: AtomicU64::new(0),
            shadow_pages: AtomicU64::new(0),
            last_failure: Mutex::default(),
            tending: Mutex::default(),
        }
    }

    /// The mark, whose lock may have been let go since the stage was looked at.
    pub(super) fn mark(&self) -> Result<Arc<dyn Mark>, ReadError> {
        self.mark.read().clone().ok_or_else(left)
    }

    pub(super) fn kept(&self) -> Result<Kept, ReadError> {
        self.kept.read().clone().ok_or_else(left)
    }

    /// Reads as the database is, header and all, whatever is shown of it.
    pub(super) fn read_as_it_is(&self, offset: u64, out: &mut [u8]) -> Result<u64, ReadError> {
        // Only one of the two is at it at a time, and the buffer is one.
        let out = std::cell::RefCell::new(out);
        hand_over::read(
            self,
            || self.mark()?.read_range(offset, &mut out.borrow_mut()),
            || {
                let mut out = out.borrow_mut();
                self.kept()?.read(offset, &mut out)?;
                Ok(self.page_count(offset, out.len() as u64))
            },
        )
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let from_elsewhere = self
            .read_as_it_is(offset, out)
            .inspect_err(|error| self.note_failure(error))?;
        self.header.apply(offset, out);
        let bytes = out.len() as u64;
        let live = self
            .page_count(offset, bytes)
            .saturating_sub(from_elsewhere);
        self.served_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.shadow_pages
            .fetch_add(from_elsewhere, Ordering::Relaxed);
        self.live_pages.fetch_add(live, Ordering::Relaxed);
        Ok(())
    }

    /// How many pages a range touches.
    fn page_count(&self, offset: u64, bytes: u64) -> u64 {
        let page_bytes = match self.shape.page_bytes {
            0 => UNKNOWN_PAGE_BYTES,
            known => known,
        };
        (offset % page_bytes + bytes).div_ceil(page_bytes)
    }

    fn note_failure(&self, error: &ReadError) {
        if !matches!(error, ReadError::PinEnded { .. } | ReadError::Range { .. }) {
            *self.last_failure.lock() = Some(format!("{}: {error}", self.database.display()));
        }
    }

    /// Ends the view, says so, and lets go what kept it.
    pub(super) fn end(&self, reason: EndSeen) {
        if hand_over::end(self, reason) && !matches!(reason, EndSeen::Released) {
            tracing::warn!(database = %self.database.display(), %reason, "the view has ended");
        }
    }

    /// Reads on from `kept`, which is complete, and lets the mark go; `false` if the view has ended.
    pub(super) fn keep(&self, kept: Kept) -> bool {
        *self.kept.write() = Some(kept);
        let is_kept = hand_over::keep(self);
        if !is_kept {
            self.drop_kept();
        }
        is_kept
    }

    fn status(&self) -> MemberStatus {
        let stage = self.stage();
        let mut status = MemberStatus {
            kind: KIND.to_owned(),
            page_size: self.shape.page_bytes,
            page_count: self.shape.page_count,
            open_with: self.header.open_with().to_owned(),
            wal_limit_bytes: self.options.wal_limit_bytes,
            lock_held_us: u64::try_from(self.lock_held.as_micros()).unwrap_or(u64::MAX),
            ..MemberStatus::default()
        };
        match stage {
            Stage::Mark => self.held_status(&mut status),
            Stage::Kept => "kept".clone_into(&mut status.state),
            Stage::Ended(reason) => {
                "ended".clone_into(&mut status.state);
                status.reason = Some(self.end_reason(reason));
            }
        }
        if let Some(kept) = &*self.kept.read() {
            kept.how.clone_into(&mut status.how);
            status.scratch_bytes = kept.scratch_bytes;
        }
        status
    }
}

impl Inner {
    /// Why it ended, and where a copy was to keep it, why there is none.
    fn end_reason(&self, reason: EndSeen) -> String {
        let failed_copy = self.tending.lock().failed_copy();
        match failed_copy.filter(|_| reason == EndSeen::WalLimit) {
            Some(failed) => format!("{reason}; {failed}"),
            None => reason.to_string(),
        }
    }

    fn held_status(&self, status: &mut MemberStatus) {
        let tending = self.tending.lock();
        "held".clone_into(&mut status.state);
        let has_log = self.mark().is_ok_and(|mark| mark.reads_log());
        if has_log { "wal" } else { "file" }.clone_into(&mut status.how);
        status.held_wal_bytes = tending.held.bytes;
        status.growth_bytes_per_second = tending.growth_bytes_per_second;
        status.warning.clone_from(&tending.warning);
    }
}

/// What a read meets that comes too late: the stage has changed, and says what counts.
fn left() -> ReadError {
    ReadError::PinEnded {
        reason: EndSeen::Released,
    }
}

impl HandOver for Inner {
    fn stage(&self) -> Stage {
        Stage::decode(self.stage.load(Ordering::SeqCst))
    }

    fn change(&self, from: Stage, to: Stage) -> bool {
        let (from, to) = (from.encode(), to.encode());
        let order = Ordering::SeqCst;
        self.stage.compare_exchange(from, to, order, order).is_ok()
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn let_go(&self) {
        // Reads that are under way keep the files open, and not the locks.
        if let Some(mark) = self.mark.write().take() {
            mark.let_go();
        }
    }

    fn drop_kept(&self) {
        drop(self.kept.write().take());
    }
}
