//! The old end of the log: what goes, and what is kept for archives.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::{Log, LogIdentity, Tail, remove_segment};
use crate::engine::error::{ErrorKind, Result};
use crate::engine::options::EngineOptions;
use crate::engine::wal::archive::ArchiveWatch;
use crate::engine::wal::segment::SealedSegment;
use crate::fault::{self, Fault};
use crate::lsn::Lsn;
use crate::os::Host;

/// What a removal takes.
struct Going {
    /// Segments that end at or before it.
    until: Lsn,
    /// Whether the open segment, too, is archived.
    is_tail_archived: bool,
    /// Whether anybody archives.
    is_watched: bool,
}

/// Whether what segments touched is looked up in their records.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Allowed,
    /// Space is wanted at once: what is not at hand is a hole (W7).
    Skipped,
}

impl Log {
    /// The sealed segments that end at or before `lsn` and were not noted yet. The caller notes them.
    fn take_unnoted(&self, lsn: Lsn) -> Vec<SealedSegment> {
        let mut tail = self.tail.lock();
        let going = tail.sealed.iter_mut().take_while(|one| one.end <= lsn);
        let unnoted = going.filter(|one| !one.is_noted);
        let taken = unnoted.map(|one| {
            one.is_noted = true;
            let touched = one.touched.take();
            SealedSegment {
                touched,
                ..one.clone()
            }
        });
        taken.collect()
    }

    /// [`Log::start`] after a clean stop, when none of `sealed` is needed: on a full disk the oldest go (LA4).
    ///
    /// Errors: `Io`.
    pub(crate) fn start_after_clean_stop(
        host: &Host,
        dir: &Path,
        identity: LogIdentity,
        mut sealed: Vec<SealedSegment>,
        sequence: u64,
        start: Lsn,
    ) -> Result<Self> {
        loop {
            match Self::start(host, dir, identity, sealed.clone(), sequence, start) {
                Err(error) if error.kind() == ErrorKind::NoSpace && !sealed.is_empty() => {
                    let oldest = sealed.remove(0);
                    tell_shed(std::slice::from_ref(&oldest.path));
                    remove_segment(host, &oldest.path)?;
                }
                outcome => return outcome,
            }
        }
    }

    /// The same, which from here on keeps what an archive of the database in `dir` lacks, as long as all
    /// segments together have room within the limit of `options` (LA3, LA4).
    pub(crate) fn kept_for_archives(self, dir: &Path, options: &EngineOptions) -> Self {
        let (limit, checkpoint_bytes) = (options.log_bytes_max, options.checkpoint_bytes);
        let archives = Some(ArchiveWatch::new(dir, limit, checkpoint_bytes));
        Self { archives, ..self }
    }

    /// Bytes of the segments that are kept for an archive alone.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.kept_bytes.load(Ordering::Relaxed)
    }

    /// Notes that no log before `lsn` is needed: a durable header says so.
    pub(crate) fn know_needless(&self, lsn: Lsn) {
        let mut needless = self.needless.lock();
        *needless = lsn.max(*needless);
        self.count_kept(*needless);
    }

    fn count_kept(&self, needless: Lsn) {
        let tail = self.tail.lock();
        let kept = tail.sealed.iter().take_while(|one| one.end <= needless);
        let bytes = kept.map(|one| one.bytes).sum();
        self.kept_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Removes the sealed segments that end at or before `lsn`, oldest first, after what they touched was
    /// noted (W7), but for those that an archive lacks and that have room.
    ///
    /// Errors: `Io`; what could not be removed is tried again the next time.
    pub(crate) fn remove_before(&self, lsn: Lsn) -> Result<()> {
        let archives = self.archives.as_ref();
        let limit = archives.map_or(u64::MAX, |one| one.after_checkpoint_bytes_max);
        let mut needless = self.needless.lock();
        *needless = lsn.max(*needless);
        self.let_go(*needless, limit, Reading::Allowed)
    }

    /// Lets go what is kept for an archive alone and has no room any more (LA4).
    ///
    /// Errors: `Io`.
    pub(crate) fn shed_above_limit(&self) -> Result<()> {
        let needless = self.needless.lock();
        if self.bytes() > self.log_bytes_max() {
            self.drop_spare();
        }
        if self.bytes() > self.log_bytes_max() {
            self.drop_rest();
        }
        self.let_go(*needless, self.log_bytes_max(), Reading::Allowed)
    }

    /// Lets go what is kept to be used again, or where there is none, all that is kept for an archive alone; says
    /// whether there was any: for a full disk (LA4).
    pub(crate) fn shed_kept(&self) -> bool {
        // Waits for no removal.
        if self.forgo_spare() {
            return true;
        }
        let before = self.bytes();
        let needless = self.needless.lock();
        if let Err(error) = self.let_go(*needless, 0, Reading::Skipped) {
            tracing::warn!(%error, dir = %self.dir.display(), "cannot let log go that is kept for an archive");
        }
        self.bytes() < before
    }

    fn log_bytes_max(&self) -> u64 {
        let archives = self.archives.as_ref();
        archives.map_or(u64::MAX, |archives| archives.log_bytes_max)
    }

    /// Removes what of the segments before `needless` is archived, or has no room in `bytes_max` bytes.
    fn let_go(&self, needless: Lsn, bytes_max: u64, reading: Reading) -> Result<()> {
        let going = self.going(needless, bytes_max);
        // W11: what an archive reads stays what it is.
        if going.is_watched {
            self.drop_spare();
        }
        let removed = self.remove_sealed(&going, reading);
        self.count_kept(needless);
        removed
    }

    /// How far segments go if those before `needless` may, and all that stay are to have `bytes_max` bytes.
    /// What is not archived goes only for want of room.
    fn going(&self, needless: Lsn, bytes_max: u64) -> Going {
        let ids = (self.identity.database, self.identity.history);
        let archives = self.archives.as_ref();
        let archived = archives.and_then(|one| one.archived(&*self.host.disk, ids, &|| self.end()));
        let Some(archived) = archived else {
            return Going {
                until: needless,
                is_tail_archived: true,
                is_watched: false,
            };
        };
        let tail = self.tail.lock();
        let (mut until, mut left) = (archived.min(needless), tail.offset());
        let stays = tail.sealed.iter().filter(|one| one.end > until);
        left = stays.fold(left, |left, one| left.saturating_add(one.bytes));
        let mut shed = Vec::new();
        for one in &tail.sealed {
            if left > bytes_max && one.end > until && one.end <= needless {
                until = one.end;
                left = left.saturating_sub(one.bytes);
                shed.push(one.path.clone());
            }
        }
        let is_tail_archived = archived >= tail.end;
        drop(tail);
        tell_shed(&shed);
        Going {
            until,
            is_tail_archived,
            is_watched: true,
        }
    }

    fn remove_sealed(&self, going: &Going, reading: Reading) -> Result<()> {
        let mut unnoted = self.take_unnoted(going.until);
        unnoted.retain(|one| one.touched.is_some() || reading == Reading::Allowed);
        self.summaries.keep(&unnoted);
        let keeps = !going.is_watched;
        self.remove_noted(going.until, keeps)
    }

    /// Removes the segments that end at or before `lsn`, but for one that is kept to be used again (W11).
    fn remove_noted(&self, lsn: Lsn, keeps_spare: bool) -> Result<()> {
        let mut tail = self.tail.lock();
        let going = tail.sealed.iter().take_while(|one| one.end <= lsn).count();
        let spare = Self::next_spare(&tail, going).filter(|_| keeps_spare);
        let mut put_aside = None;
        let removed = self.remove_first(&mut tail, going, spare.as_deref(), &mut put_aside);
        drop(tail);
        let synced = match going {
            0 => Ok(()),
            _ if put_aside.is_some() && fault::is(Fault::SpareNameUnsynced) => Ok(()),
            _ => self.sync_dir(),
        };
        match (put_aside, removed.and(synced)) {
            (Some(bytes), Ok(())) => self.keep_spare(bytes),
            (Some(_), Err(error)) => {
                self.drop_put_aside();
                return Err(error);
            }
            (None, outcome) => outcome?,
        }
        Ok(())
    }

    /// Removes the first `count` sealed segments, and puts `spare` aside instead; tells its bytes.
    fn remove_first(
        &self,
        tail: &mut Tail,
        count: usize,
        spare: Option<&Path>,
        put_aside: &mut Option<u64>,
    ) -> Result<()> {
        for _ in 0..count {
            let Some(oldest) = tail.sealed.first() else {
                break;
            };
            if spare == Some(&*oldest.path) && self.put_aside(&oldest.path) {
                *put_aside = Some(oldest.bytes);
            } else {
                remove_segment(&self.host, &oldest.path)?;
            }
            tail.sealed.remove(0);
        }
        Ok(())
    }

    /// Removes every segment, the open one last: the header says that no log is needed. What an archive
    /// lacks stays (LA3).
    pub(crate) fn remove_all(&self) -> Result<()> {
        self.poison("the database is closed");
        let _needless = self.needless.lock();
        self.forgo_spare();
        let going = self.going(Lsn::MAX, self.log_bytes_max());
        if !going.is_tail_archived {
            return self.remove_sealed(&going, Reading::Allowed);
        }
        let mut unnoted = self.take_unnoted(Lsn::MAX);
        unnoted.push(self.tail.lock().as_sealed());
        self.summaries.keep(&unnoted);
        self.remove_noted(Lsn::MAX, false)?;
        remove_segment(&self.host, &self.tail.lock().path)?;
        self.sync_dir()
    }
}

/// Said without any lock: writing it may take its time.
fn tell_shed(segments: &[PathBuf]) {
    for segment in segments {
        tracing::warn!(
            segment = %segment.display(),
            "log goes that is not archived yet, for want of room: the archive has a gap"
        );
    }
}
