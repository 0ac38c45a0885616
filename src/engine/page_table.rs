//! Versions of pages that the live file does not hold (yet, or any more), and clean pages of it.
//!
//! ```text
//! a chain, ascending:  [ kept for old readers ... | written to the live file | newer, not written ]
//!                                                             ^ Chain::live names its LSN
//! ```
//!
//! The rule that everything rests on (E3): the page at S is the newest version with LSN <= S in its
//! chain; if there is none, it is the live page. A version leaves its chain only when that rule gives
//! the same answer without it, for every registered reader and every one still to come (E4).
//!
//! * E13 The images in memory stay within a bound. Clean pages may take what the transaction that writes does not
//!   need of its own, and give it back before it is used. A version whose image leaves memory has a backing
//!   that gives it again, the spool or the log; where no backing can be made, the image stays.
//!
//! Locking: one mutex per shard, held for hash look-ups and pointer copies, or for one pass over the
//! shard's chains (`sweep`, `unwritten_pages`), never across I/O.

mod clean;
mod shard;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::engine::error::Result;
use crate::engine::spool::Spool;
use crate::engine::wal::Change;
use crate::fault::{self, Fault};
use crate::lsn::Lsn;
use crate::page::{PageBuf, PageNo, PageRef};

use shard::{Bound, Shard, Victim};

const SHARD_COUNT: u64 = 64;
/// Images that the transaction that writes has for itself, so that a short one takes nothing back.
const NEVER_LENT: u64 = SHARD_COUNT;
/// More differences than this are not remembered: they would take memory, and a copy of the page hardly more time.
const RANGES_MAX: usize = 32;
/// Fewest images that a shard keeps, whatever the bound.
const SHARD_IMAGES_MIN: u64 = 2;
/// Fewest old versions that are worth a sweep when a reader ends.
const SWEEP_AT_MIN: u64 = 1024;

/// Gives a version's image again after it left memory.
pub(crate) trait Backing: fmt::Debug + Send + Sync {
    /// The image of `page` that the commit at `lsn` wrote, sealed.
    ///
    /// Errors: `Io`; `Spool` or `Log` if the bytes are not what they were.
    fn load(&self, page: PageNo, lsn: Lsn) -> Result<PageBuf>;
}

/// Where the image of a version is.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// In memory.
    Image(PageRef),
    /// Outside of it.
    Backed(Arc<dyn Backing>),
}

/// Where a page's content at some LSN is.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// Here.
    Found(PageRef),
    /// In the backing of the version with this LSN; [`PageTable::load`] gets it.
    Backed(Arc<dyn Backing>, Lsn),
    /// In the live file; pass the number to [`PageTable::fill`] with what was read. The image, if there is one, is
    /// memory to read into, which nobody else holds.
    Live(Generation, Option<PageRef>),
}

/// Number of overwrites in a shard so far: a page read from the live file may be cached only if
/// none happened meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u64);

/// Who may still want an old version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readers {
    /// LSNs of the registered readers, ascending.
    pub(crate) registered: Vec<Lsn>,
    /// No reader still to come is older than this.
    pub(crate) durable: Lsn,
}

impl Readers {
    /// Whether somebody may read the state at an LSN in `from .. to`.
    fn any_in(&self, from: Lsn, to: Lsn) -> bool {
        if to > self.durable {
            return true;
        }
        let first = self.registered.partition_point(|&lsn| lsn < from);
        self.registered.get(first).is_some_and(|&lsn| lsn < to)
    }
}

/// The table; see the head of the file.
#[derive(Debug)]
pub(crate) struct PageTable {
    shards: Box<[Mutex<Shard>]>,
    /// Images of each shard in its own right.
    shard_images_max: usize,
    /// Images of each shard beside that; see [`PageTable::lend`].
    shard_lent: AtomicUsize,
    /// Where images go that memory has no room for; `None` if the engine only reads.
    spool: Option<Arc<Spool>>,
    /// The spool refused an image, which is still in memory.
    is_strained: AtomicBool,
    /// Versions in chains beside the newest of each.
    old_versions: AtomicU64,
    sweep_at: AtomicU64,
}

impl PageTable {
    /// A table that keeps at most about `images_max` images in memory, and what it is lent; others go to `spool`.
    pub(crate) fn new(images_max: u64, spool: Option<Arc<Spool>>) -> Self {
        let shards = (0..SHARD_COUNT).map(|_| Mutex::default()).collect();
        let per_shard = (images_max / SHARD_COUNT).max(SHARD_IMAGES_MIN);
        Self {
            shards,
            shard_images_max: usize::try_from(per_shard).unwrap_or(usize::MAX),
            shard_lent: AtomicUsize::new(0),
            spool,
            is_strained: AtomicBool::new(false),
            old_versions: AtomicU64::new(0),
            sweep_at: AtomicU64::new(SWEEP_AT_MIN),
        }
    }

    fn shard(&self, page: PageNo) -> &Mutex<Shard> {
        let index = page.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        &self.shards[usize::try_from(index).expect("six bits")]
    }

    /// Loaded under a shard's lock, so that whoever comes there after [`PageTable::lend`] did goes by what it said.
    fn bound(&self) -> Bound {
        Bound {
            own: self.shard_images_max,
            lent: self.shard_lent.load(Ordering::Relaxed),
        }
    }

    /// Says that the transaction that writes needs at most `needed` of its `share` of images: clean pages may take the
    /// rest until it is said otherwise. They are within it when this returns (E13). Only whoever has the writer slot
    /// says so.
    pub(crate) fn lend(&self, share: u64, needed: u64) {
        let rest = share.saturating_sub(needed.max(NEVER_LENT)) / SHARD_COUNT;
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        let before = self.shard_lent.load(Ordering::Relaxed);
        if before == rest {
            return;
        }
        self.shard_lent.store(rest, Ordering::Relaxed);
        if before > rest {
            for shard in &self.shards {
                let mut shard = shard.lock();
                shard.evict_clean(self.bound());
            }
        }
    }

    /// Where the content of `page` at `at` is.
    pub(crate) fn lookup(&self, page: PageNo, at: Lsn) -> Lookup {
        let mut shard = self.shard(page).lock();
        if let Some(version) = shard.version_at(page, at) {
            version.referenced = true;
            return match version.content() {
                Content::Image(image) => Lookup::Found(image),
                Content::Backed(backing) => Lookup::Backed(backing, version.lsn),
            };
        }
        let generation = Generation(shard.generation);
        match shard.clean_page(page, at) {
            Some(image) => Lookup::Found(image),
            None => Lookup::Live(generation, shard.take_memory()),
        }
    }

    /// Brings the image of the version at `lsn` back into memory.
    ///
    /// Errors: those of [`Backing::load`].
    pub(crate) fn load(&self, page: PageNo, lsn: Lsn, backing: &dyn Backing) -> Result<PageRef> {
        let image = Arc::new(backing.load(page, lsn)?);
        self.bounded(page, |shard| shard.readmit(page, lsn, &image));
        Ok(image)
    }

    /// Takes a page read from the live file into the cache, unless one of its shard was overwritten since
    /// the look-up that gave `generation`: then the bytes may be of the past.
    pub(crate) fn fill(&self, page: PageNo, generation: Generation, image: PageRef) {
        self.bounded(page, |shard| {
            if Generation(shard.generation) == generation {
                shard.fill(page, image, self.bound());
            }
        });
    }

    /// Adds a committed version, of which `change` says where it differs from the one before it. It is newer than
    /// every reader's state, so nobody sees it before its commit becomes the newest.
    pub(crate) fn publish(
        &self,
        page: PageNo,
        lsn: Lsn,
        content: Content,
        change: Option<Change>,
        readers: &Readers,
    ) {
        let change = change.filter(|change| change.ranges.len() <= RANGES_MAX);
        self.change(page, |shard| {
            shard.add_newest(page, lsn, content, change);
            shard.trim(page, readers);
        });
    }

    /// Takes the version out that the newest one, at `newest`, has replaced, if nobody wants it any more, and it is
    /// known where they differ, LSN and checksum aside. Nobody else holds its image.
    pub(crate) fn take_replaced(
        &self,
        page: PageNo,
        newest: Lsn,
        readers: &Readers,
    ) -> Option<(PageRef, Vec<Range<usize>>)> {
        let mut shard = self.shard(page).lock();
        let taken = shard.take_replaced(page, newest, readers);
        if taken.is_some() {
            self.old_versions.fetch_sub(1, Ordering::Relaxed);
        }
        taken
    }

    /// The version of `page` at `at`, if the live file does not hold it: what a spill must store,
    /// and what a checkpoint at `at` must write.
    ///
    /// Errors: those of [`Backing::load`].
    pub(crate) fn unwritten(&self, page: PageNo, at: Lsn) -> Result<Option<PageRef>> {
        let (content, lsn) = {
            let mut shard = self.shard(page).lock();
            let (live, is_overwriting) = shard.live_state(page);
            let Some(version) = shard.version_at(page, at) else {
                return Ok(None);
            };
            if version.lsn <= live || (is_overwriting && fault::is(Fault::CleanInFlight)) {
                return Ok(None);
            }
            (version.content(), version.lsn)
        };
        match content {
            Content::Image(image) => Ok(Some(image)),
            Content::Backed(backing) => Ok(Some(Arc::new(backing.load(page, lsn)?))),
        }
    }

    /// Pages with a version at `at` that the live file does not hold, ascending.
    pub(crate) fn unwritten_pages(&self, at: Lsn) -> Vec<PageNo> {
        let mut pages = Vec::new();
        for shard in &self.shards {
            shard.lock().unwritten_pages(at, &mut pages);
        }
        pages.sort_unstable();
        pages
    }

    /// Announces that the live `page` will be overwritten with its version `new`, and says whether
    /// that would take from a registered reader the content that the rule gives it now. From here
    /// until [`PageTable::written`] no version is dropped because the live file holds it.
    pub(crate) fn begin_overwrite(&self, page: PageNo, new: Lsn, readers: &Readers) -> bool {
        let Some(first) = self.shard(page).lock().begin_overwrite(page) else {
            return false;
        };
        let first = first.unwrap_or(new);
        readers
            .registered
            .first()
            .is_some_and(|&oldest| oldest < first)
    }

    /// Puts the content that the live file is about to lose in front of the chain (E5).
    pub(crate) fn keep_old(&self, page: PageNo, image: PageRef) {
        self.change(page, |shard| shard.add_oldest(page, image));
    }

    /// Notes that the live file holds `image` of `page`, whose write has returned.
    pub(crate) fn written(&self, page: PageNo, image: PageRef, readers: &Readers) {
        self.change(page, |shard| {
            shard.note_live(page, image.lsn());
            shard.keep_clean(page, image);
            shard.trim(page, readers);
        });
    }

    /// Changes one chain, keeps count of its old versions, and brings memory back within its bound.
    fn change(&self, page: PageNo, change: impl FnOnce(&mut Shard)) {
        self.bounded(page, |shard| self.counted(shard, page, change));
    }

    /// E13: changes one shard and brings it back within its bound, or leaves it over it where the spool
    /// refuses.
    fn bounded(&self, page: PageNo, change: impl FnOnce(&mut Shard)) {
        let place = self.shard(page);
        let victim = {
            let mut shard = place.lock();
            change(&mut shard);
            shard.evict(self.bound())
        };
        if let Err(error) = self.relieve(place, victim)
            && !self.is_strained.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "cannot put committed pages into the spool; they stay in memory");
        }
    }

    fn counted(&self, shard: &mut Shard, page: PageNo, change: impl FnOnce(&mut Shard)) {
        let before = shard.old_version_count(page);
        change(shard);
        let after = shard.old_version_count(page);
        self.old_versions.fetch_add(after, Ordering::Relaxed);
        self.old_versions.fetch_sub(before, Ordering::Relaxed);
    }

    /// Puts one victim after the other into the spool until the shard is within its bound.
    fn relieve(&self, place: &Mutex<Shard>, mut victim: Option<Victim>) -> Result<()> {
        while let (Some(Victim { page, lsn, image }), Some(spool)) = (victim, &self.spool) {
            let stored = spool.store(&image);
            let mut shard = place.lock();
            match stored {
                Ok(slot) => shard.back(page, lsn, slot),
                Err(error) => {
                    shard.stay(page, lsn);
                    return Err(error);
                }
            }
            victim = shard.evict(self.bound());
        }
        Ok(())
    }

    /// Whether images are in memory that the spool refused.
    pub(crate) fn is_strained(&self) -> bool {
        self.is_strained.load(Ordering::Relaxed)
    }

    /// Offers the spool again what it refused.
    ///
    /// Errors: `Io` if it still refuses, and memory is over its bound.
    pub(crate) fn relieve_all(&self) -> Result<()> {
        self.is_strained.store(false, Ordering::Relaxed);
        let outcome = self.shards.iter().try_for_each(|place| {
            let victim = place.lock().evict(self.bound());
            self.relieve(place, victim)
        });
        if outcome.is_err() {
            self.is_strained.store(true, Ordering::Relaxed);
            // The next transaction takes back what is lent, from clean pages.
            let own = self.shard_images_max;
            let images = |shard: &Mutex<Shard>| shard.lock().images_without_loan(own) as u64;
            if self.shards.iter().map(images).sum::<u64>() <= SHARD_COUNT * own as u64 {
                return Ok(());
            }
        }
        outcome
    }

    /// Drops every version that nobody needs any more, and gives back what the spool has free. Cost:
    /// one pass over all chains.
    pub(crate) fn sweep(&self, readers: &Readers) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            for page in shard.pages() {
                self.counted(&mut shard, page, |shard| shard.trim(page, readers));
            }
        }
        if let Some(spool) = &self.spool {
            spool.give_back();
        }
    }

    /// Sweeps if enough old versions have gathered since the last time to be worth a pass.
    pub(crate) fn sweep_if_worth(&self, readers: impl FnOnce() -> Readers) {
        let old = self.old_versions.load(Ordering::Relaxed);
        if old >= self.sweep_at.load(Ordering::Relaxed) {
            self.sweep(&readers());
            let left = self.old_versions.load(Ordering::Relaxed);
            self.sweep_at
                .store(2 * left + SWEEP_AT_MIN, Ordering::Relaxed);
        }
    }

    /// Images in memory: (in chains, clean).
    pub(crate) fn image_counts(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(versions, clean), shard| {
            let (in_chains, in_cache) = shard.lock().image_counts();
            (versions + in_chains, clean + in_cache)
        })
    }

    /// Bytes of images in the spool.
    pub(crate) fn spool_bytes(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.bytes())
    }
}
