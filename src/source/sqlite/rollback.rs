//! Pins a database in rollback-journal mode: by a copy that is the file at one committed moment.
//!
//! Runs in whatever pins. Writers of such a database write the file itself, under an EXCLUSIVE lock;
//! our SHARED keeps them from it, and so from committing, as any reader's does. It is held for as short as
//! can be:
//!
//! ```text
//! open     SHARED: roll back first what is hot, look --- no lock: copy ahead ---
//! pin                                                     SHARED: look again ...
//! finish   ... unchanged: the copy counts, microseconds
//!          ... changed: clone it, or copy it within --max-lock ... SHARED goes
//! ```
//!
//! * J1 The bytes of a copy count if the file was not written from before the first of them was read until
//!   SHARED was held with no hot journal there.
//! * J2 Whether it was written is told by size, times and change counter, both times looked at under
//!   SHARED: no write is then under way that has set a time and not yet its bytes. A time so young that
//!   the next write could have the same counts as changed.
//! * J3 A hot journal is rolled back by SQLite before anything of the file counts.
//! * J4 No SHARED of ours lasts longer than `max_lock` for a copy, nor beyond `finish`.
//!
//! Blocks: for SHARED up to `PATIENCE`, and while it copies. Journal modes DELETE, TRUNCATE and PERSIST
//! are the same here; after a crash in MEMORY or OFF nothing tells that the file is not whole.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::fault::{self, Fault};
use crate::os::path::{Metadata, metadata_of, symlink_metadata};
use crate::os::{File, Host, file_times, read_up_to};
use crate::source::sqlite::change_time::{is_whole_second, tick};
use crate::source::sqlite::journal::is_hot;
use crate::source::sqlite::lock_bytes::{drop_shared, take_shared};
use crate::source::sqlite::scratch::{Place, ScratchError, clone_whole, copy_whole};
use crate::source::sqlite::site::Site;
use crate::source::sqlite::view::Kept;
use crate::source::sqlite::wal_pin::Shape;
use crate::source::sqlite::{PinnedSqlite, SqliteView, Unpinnable, recovery};
use crate::source::{Recovery, SourceError, SqliteOptions};
use crate::view::tree::{Attributes, ReadError};

/// How long a writer may take to let us in.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often SQLite is asked to roll back.
const RECOVERIES: u32 = 3;
/// Up to this many bytes are copied without asking how long it takes.
const SMALL_BYTES: u64 = 1 << 20;
/// How often is copied ahead in vain.
const COPIES_AHEAD: u32 = 4;
/// What is looked at of the header.
const HEADER_BYTES: usize = 100;
/// What is taken from a time that the next state may share is less than this, in nanoseconds.
const UNSURE_NS: u64 = 1 << 20;

/// What lets SQLite roll a database back.
type Recover = fn(&Site, &SqliteOptions) -> Result<(), Unpinnable>;

/// A database in rollback mode on the way to its pin. Dropping it lets everything go.
#[derive(Debug)]
pub(super) struct RollbackPrepared {
    host: Host,
    file: Arc<dyn File>,
    site: Site,
    options: SqliteOptions,
    recover: Recover,
    pub(super) patience: Duration,
    ahead: Option<Copied>,
    /// Whether the file system clones.
    clones: bool,
    /// How fast this file was copied, in bytes per second; `None` before the first copy.
    pub(super) copied_per_second: Option<u64>,
    pinned: Option<Pinned>,
    /// Whether the pin is one of a set of one instant, and so cannot be taken again.
    is_of_set: bool,
}

/// A copy, and what the file was when it was begun.
#[derive(Debug)]
struct Copied {
    kept: Kept,
    seen: Seen,
}

impl Copied {
    /// Whether it is the file as it is `seen` (J1, J2).
    fn is_of(&self, seen: &Seen) -> bool {
        self.seen.is_settled && self.seen.is_same(seen) || fault::is(Fault::CopyUnverified)
    }
}

/// The moment of the pin.
#[derive(Debug)]
struct Pinned {
    lock: SharedLock,
    seen: Seen,
}

/// What tells one state of the file from the next, looked at under SHARED.
#[derive(Clone, Debug)]
struct Seen {
    metadata: Metadata,
    header: Vec<u8>,
    /// Whether the next write has another time for sure.
    is_settled: bool,
}

/// SHARED on a database. Dropping it lets it go.
#[derive(Debug)]
struct SharedLock {
    host: Host,
    file: Arc<dyn File>,
    since: Duration,
}

impl SharedLock {
    fn held(&self) -> Duration {
        self.host.clock.monotonic().saturating_sub(self.since)
    }
}

impl Drop for SharedLock {
    fn drop(&mut self) {
        if let Err(error) = drop_shared(&*self.file) {
            // It goes with the open file, which nobody else has.
            tracing::warn!(%error, "cannot let a SHARED lock go");
        }
    }
}

impl RollbackPrepared {
    /// Rolls back what is hot, and copies ahead. Takes SHARED for moments only.
    ///
    /// Shape: `file` is the database at `site`, open for reading, with no lock on it that
    /// is not ours, and is used for nothing else. Errors: `Sqlite`, `Io`.
    pub(super) fn open(
        host: &Host,
        file: Arc<dyn File>,
        site: &Site,
        options: &SqliteOptions,
    ) -> Result<Self, SourceError> {
        let recover = |site: &Site, options: &SqliteOptions| {
            if options.recovery == Recovery::Refused {
                return Err(Unpinnable::NeedsRecovery);
            }
            // What SQLite rolled back stays so without it.
            recovery::open_once(site, options).map(drop)
        };
        Self::open_with(host, file, site, options, recover)
    }

    pub(super) fn open_with(
        host: &Host,
        file: Arc<dyn File>,
        site: &Site,
        options: &SqliteOptions,
        recover: Recover,
    ) -> Result<Self, SourceError> {
        let mut prepared = Self {
            host: host.clone(),
            file,
            site: site.clone(),
            options: options.clone(),
            recover,
            patience: PATIENCE,
            ahead: None,
            clones: true,
            copied_per_second: None,
            pinned: None,
            is_of_set: false,
        };
        prepared.copy_ahead()?;
        Ok(prepared)
    }

    /// Copies ahead once more if the file was written since, and copying it under the lock would take too
    /// long.
    ///
    /// Errors: `Sqlite`, `Io`.
    pub(super) fn catch_up(&mut self) -> Result<(), SourceError> {
        self.pinned = None;
        let (lock, seen) = self.lock()?;
        drop(lock);
        match self.is_in_bounds(&seen) {
            true => Ok(()),
            false => self.copy_ahead(),
        }
    }

    /// Takes the pin as [`Self::pin`] does, but at once or not at all, and makes no copy.
    ///
    /// Errors: `Sqlite`, `Io`; nothing is then locked.
    pub(super) fn stop_writers(&mut self) -> Result<(), SourceError> {
        let patience = std::mem::replace(&mut self.patience, Duration::ZERO);
        let locked = self.lock();
        self.patience = patience;
        let (lock, seen) = locked?;
        if !self.is_in_bounds(&seen) {
            return Err(self.too_long(&seen, self.estimate(&seen)));
        }
        self.pinned = Some(Pinned { lock, seen });
        self.is_of_set = true;
        Ok(())
    }

    /// Undoes [`Self::stop_writers`].
    pub(super) fn let_writers_go(&mut self) {
        self.pinned = None;
        self.is_of_set = false;
    }

    /// Whether `finish` has nothing to copy, or may. What is small is copied without an estimate, which
    /// says more of the machine at that moment than of the file; the bound is kept all the same.
    fn is_in_bounds(&self, seen: &Seen) -> bool {
        self.is_copied(seen)
            || self.clones
            || seen.metadata.size <= SMALL_BYTES
            || self.estimate(seen) <= self.options.max_lock
    }

    /// Takes the pin: SHARED is held from here to `finish`. If the file was written since it was copied,
    /// and copying it under the lock would take too long, it is copied ahead again first, a few times. Nothing
    /// happens if it is pinned already.
    ///
    /// Errors: `Sqlite`, `Io`; nothing is then locked.
    pub(super) fn pin(&mut self) -> Result<(), SourceError> {
        if self.pinned.is_some() {
            return Ok(());
        }
        for round in 1.. {
            let (lock, seen) = self.lock()?;
            if self.is_in_bounds(&seen) {
                self.pinned = Some(Pinned { lock, seen });
                return Ok(());
            }
            drop(lock);
            if round >= COPIES_AHEAD {
                return Err(self.too_long(&seen, self.estimate(&seen)));
            }
            self.copy_ahead()?;
        }
        unreachable!("the rounds are counted")
    }

    /// Builds the view of the pin. SHARED is gone after it, whatever it gives.
    ///
    /// Errors: `Sqlite` where a copy cannot be made or takes too long; `Io`, `View`.
    pub(super) fn finish(mut self) -> Result<PinnedSqlite, SourceError> {
        let mut round = 1;
        let (lock, seen, kept) = loop {
            self.pin()?;
            let Some(Pinned { lock, seen }) = self.pinned.take() else {
                unreachable!("it has just been pinned")
            };
            // The space of a copy that does not count is wanted.
            let ahead = self.ahead.take();
            match self.kept(&lock, &seen, ahead) {
                Ok(kept) => break (lock, seen, kept),
                // The machine may have been busy with others.
                Err(SourceError::Sqlite {
                    reason: Unpinnable::CopyTooLong { .. },
                    ..
                }) if !self.is_of_set && round < COPIES_AHEAD => {
                    drop(lock);
                    round += 1;
                    self.copy_ahead()?;
                }
                Err(error) => return Err(error),
            }
        };
        // Somebody who heeds locks cannot have written; whoever does not has made this a copy of nothing.
        let is_same = self.look()?.has_content_of(&seen);
        let (pinned_at, lock_held) = (lock.since, lock.held());
        drop(lock);
        if !is_same {
            return Err(self.refused(Unpinnable::LockIgnored));
        }
        let (host, options, path) = (&self.host, &self.options, self.site.path());
        let view = SqliteView::of_kept(host, kept, seen.shape(), options, path, lock_held)?;
        Ok(PinnedSqlite {
            view,
            identity: seen.metadata.identity,
            attributes: Attributes {
                mode: u16::try_from(seen.metadata.mode & 0o7777).expect("twelve bits"),
                uid: seen.metadata.uid,
                gid: seen.metadata.gid,
                changed_ns: seen.changed_ns(file_times::are_fine(&self.site.way())),
            },
            log: None,
            pinned_at,
        })
    }

    /// SHARED, with nothing hot, and what is seen under it.
    fn lock(&self) -> Result<(SharedLock, Seen), SourceError> {
        for _ in 0..RECOVERIES {
            let taken = take_shared(&*self.file, &*self.host.clock, self.patience);
            if let Some(by) = taken.map_err(SourceError::io("lock", self.site.path()))? {
                return Err(self.refused(Unpinnable::Locked { by }));
            }
            let lock = SharedLock {
                host: self.host.clone(),
                file: Arc::clone(&self.file),
                since: self.host.clock.monotonic(),
            };
            self.require_name()?;
            let is_hot = is_hot(&*self.host.disk, &*self.file, &self.site.way());
            let is_hot =
                is_hot.map_err(SourceError::io("look at the journal of", self.site.path()))?;
            if !is_hot {
                let seen = self.look()?;
                if seen.is_wal() || self.has_log(&seen)? {
                    return Err(self.refused(Unpinnable::ModeChanged));
                }
                return Ok((lock, seen));
            }
            // SQLite needs the file for itself.
            drop(lock);
            tracing::info!(database = %self.site.path().display(), "has a hot journal; SQLite is asked to roll it back");
            (self.recover)(&self.site, &self.options).map_err(|reason| self.refused(reason))?;
        }
        Err(self.refused(Unpinnable::StaysHot))
    }

    /// Whether SQLite would use a log by what lies beside the file, as at its opening. Where the header
    /// is encrypted that alone tells, and what is committed may then be in the log only.
    fn has_log(&self, seen: &Seen) -> Result<bool, SourceError> {
        let has_content = |ending: &str| {
            let mut name = self.site.way().into_os_string();
            name.push(ending);
            match symlink_metadata(name.as_ref()) {
                Ok(found) => Ok(found.size > 0),
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(other) => Err(SourceError::io("look beside", self.site.path())(other)),
            }
        };
        Ok(has_content("-wal")? || !seen.is_sqlite() && has_content("-shm")?)
    }

    /// A journal belongs to a name, so the name must lead to the file that we have.
    fn require_name(&self) -> Result<(), SourceError> {
        let error = SourceError::io("look at", self.site.path());
        let named = match symlink_metadata(&self.site.way()) {
            Ok(found) => Some(found.identity),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => None,
            Err(other) => return Err(error(other)),
        };
        if named == Some(self.file.identity().map_err(error)?) {
            return Ok(());
        }
        Err(self.refused(Unpinnable::Replaced))
    }

    fn look(&self) -> Result<Seen, SourceError> {
        let look = || {
            let fd = self.file.as_fd().ok_or(io::ErrorKind::Unsupported)?;
            let metadata = metadata_of(fd)?;
            let mut header = vec![0; HEADER_BYTES];
            let found = read_up_to(&*self.file, &mut header, 0)?;
            header.truncate(found);
            Ok(Seen {
                is_settled: is_settled(metadata.mtime_ns, self.host.clock.wall_ns()),
                metadata,
                header,
            })
        };
        look().map_err(SourceError::io("look at", self.site.path()))
    }

    /// Whether the copy is the file as it is `seen` (J1, J2).
    fn is_copied(&self, seen: &Seen) -> bool {
        self.ahead.as_ref().is_some_and(|copied| copied.is_of(seen))
    }

    /// The copy that was made ahead if it is the file as it is `seen`; one made now if not.
    fn kept(
        &mut self,
        lock: &SharedLock,
        seen: &Seen,
        ahead: Option<Copied>,
    ) -> Result<Kept, SourceError> {
        match ahead.filter(|copied| copied.is_of(seen)) {
            Some(copied) => Ok(copied.kept),
            None => self.copy_under(lock, seen),
        }
    }

    /// Copies without a lock what may still be the file when it is pinned.
    fn copy_ahead(&mut self) -> Result<(), SourceError> {
        self.ahead = None;
        let (lock, mut seen) = self.lock()?;
        drop(lock);
        if !seen.is_settled {
            // A write in the same tick would not be seen: one pause, and somebody who writes all the
            // time is not waited for.
            self.host.clock.sleep(tick(seen.metadata.mtime_ns));
            seen = self.lock()?.1;
        }
        let began = self.host.clock.monotonic();
        if self.clones {
            match clone_whole(&self.host, self.site.path(), &*self.file, &self.options) {
                Ok(file) => {
                    let kept = cloned(file);
                    self.ahead = Some(Copied { kept, seen });
                    return Ok(());
                }
                Err(error) => {
                    tracing::debug!(database = %self.site.path().display(), %error, "no clone");
                    self.clones = false;
                }
            }
        }
        let bytes = seen.metadata.size;
        let kept = self.copy(bytes, || true);
        let kept = match kept {
            // It was cut while it was copied, so this is no copy of anything.
            Err(ScratchError::Read(ReadError::Io { source, .. }))
                if source.kind() == io::ErrorKind::UnexpectedEof =>
            {
                return Ok(());
            }
            kept => kept.map_err(|error| self.refused(Unpinnable::NoCopy(error)))?,
        };
        let elapsed = self.host.clock.monotonic().saturating_sub(began);
        let per_second = u128::from(bytes) * 1_000_000 / elapsed.as_micros().max(1);
        // The fastest says most of the file, the others of what else the machine did.
        let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
        self.copied_per_second = self.copied_per_second.max(Some(per_second));
        self.ahead = Some(Copied { kept, seen });
        Ok(())
    }

    fn copy(&self, bytes: u64, goes_on: impl FnMut() -> bool) -> Result<Kept, ScratchError> {
        let place = Place::of_copies(&self.host, &self.options);
        let read = |offset, out: &mut [u8]| {
            let file = "the database file";
            crate::os::read_exact_at(&*self.file, out, offset).map_err(|source| ReadError::Io {
                op: "read",
                file,
                offset,
                source,
            })
        };
        copy_whole(&place, bytes, read, goes_on)
    }

    /// Copies while writers wait (J4).
    fn copy_under(&mut self, lock: &SharedLock, seen: &Seen) -> Result<Kept, SourceError> {
        let max_lock = self.options.max_lock;
        if self.clones {
            let file = clone_whole(&self.host, self.site.path(), &*self.file, &self.options);
            return file
                .map(cloned)
                .map_err(|error| self.refused(Unpinnable::NoCopy(error)));
        }
        let goes_on = || lock.held() < max_lock;
        self.copy(seen.metadata.size, goes_on)
            .map_err(|error| match error {
                ScratchError::GivenUp => self.too_long(seen, lock.held()),
                error => self.refused(Unpinnable::NoCopy(error)),
            })
    }

    /// How long it takes to copy the file, by how long that took.
    fn estimate(&self, seen: &Seen) -> Duration {
        let Some(per_second) = self.copied_per_second else {
            return Duration::MAX;
        };
        let us = u128::from(seen.metadata.size) * 1_000_000 / u128::from(per_second.max(1));
        Duration::from_micros(u64::try_from(us).unwrap_or(u64::MAX))
    }

    fn too_long(&self, seen: &Seen, estimate: Duration) -> SourceError {
        self.refused(Unpinnable::CopyTooLong {
            bytes: seen.metadata.size,
            estimate,
            max_lock: self.options.max_lock,
        })
    }

    fn refused(&self, reason: Unpinnable) -> SourceError {
        let path = self.site.path().to_owned();
        SourceError::Sqlite { path, reason }
    }
}

fn cloned(file: Arc<dyn File>) -> Kept {
    let (how, scratch_bytes) = ("clone", 0);
    Kept {
        file,
        how,
        scratch_bytes,
    }
}

/// Whether a write from this moment on has another time than `mtime_ns`.
fn is_settled(mtime_ns: i64, wall_ns: u64) -> bool {
    let now = i64::try_from(wall_ns).unwrap_or(i64::MAX);
    Duration::from_nanos(now.abs_diff(mtime_ns)) > tick(mtime_ns)
}

impl Seen {
    /// Whether nothing was written between the two. A change of owner or mode counts as one as well, since
    /// the time of that cannot be set back by anybody.
    fn is_same(&self, other: &Self) -> bool {
        self.has_content_of(other) && self.metadata.ctime_ns == other.metadata.ctime_ns
    }

    /// The same of what a write changes by itself.
    fn has_content_of(&self, other: &Self) -> bool {
        let facts = |seen: &Self| {
            let found = &seen.metadata;
            (found.identity, found.size, found.mtime_ns)
        };
        // The header has the change counter.
        facts(self) == facts(other) && self.header == other.header
    }

    fn number(&self, offset: usize) -> Option<u32> {
        let bytes = self.header.get(offset..)?.first_chunk()?;
        Some(u32::from_be_bytes(*bytes))
    }

    fn is_sqlite(&self) -> bool {
        self.header.starts_with(b"SQLite format 3\0")
    }

    fn is_wal(&self) -> bool {
        self.is_sqlite() && self.header.get(18..20) == Some(&[2, 2])
    }

    /// The view is the file to its last byte. What SQLite counts may be less, where a crash left more
    /// behind or pages are not given back yet; but a copy of the file is what anybody else would make of
    /// it, and SQLite reads the one as the other.
    fn shape(&self) -> Shape {
        let bytes = self.metadata.size;
        let short = self.header.get(16..).and_then(|rest| rest.first_chunk());
        let short = short.map_or(0, |short| u64::from(u16::from_be_bytes(*short)));
        let page_bytes = match short {
            1 => 65_536,
            size if size.is_power_of_two() && size >= 512 => size,
            _ => 0,
        };
        let page_bytes = if self.is_sqlite() { page_bytes } else { 0 };
        // The count is only right if whoever changed the file last knew of it.
        let is_counted = self.number(24) == self.number(92);
        let counted = self.number(28).filter(|count| is_counted && *count > 0);
        let by_size = bytes.checked_div(page_bytes).unwrap_or(0);
        Shape {
            page_bytes,
            page_count: counted.map_or(by_size, u64::from).min(by_size),
            bytes,
        }
    }

    /// Nanoseconds since 1970 of the last change at or before the pin: less something that tells this
    /// state from the next, where both may have the same time.
    fn changed_ns(&self, times_are_fine: bool) -> u64 {
        let time = u64::try_from(self.metadata.mtime_ns).unwrap_or(0);
        let is_fine = times_are_fine && !is_whole_second(self.metadata.mtime_ns);
        if self.is_settled || is_fine {
            return time;
        }
        let counter = u64::from(self.number(24).unwrap_or(0));
        let mut mixed = self.metadata.size;
        for part in [counter, u64::from(self.number(28).unwrap_or(0))] {
            mixed = (mixed ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed ^= mixed >> 32;
        }
        time.saturating_sub(1 + mixed % (UNSURE_NS - 1))
    }
}
