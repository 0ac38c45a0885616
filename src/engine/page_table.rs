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
//! Locking: one mutex per shard, held for hash look-ups and pointer copies, or for one pass over the
//! shard's chains (`sweep`, `unwritten_pages`), never across I/O.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::fault::{self, Fault};
use crate::lsn::Lsn;
use crate::page::{PageNo, PageRef};

const SHARD_COUNT: u64 = 64;
/// Fewest old versions that are worth a sweep when a reader ends.
const SWEEP_AT_MIN: u64 = 1024;

/// Where a page's content at some LSN is.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// Here.
    Found(PageRef),
    /// In the live file; pass the number to [`PageTable::fill`] with what was read.
    Live(Generation),
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

#[derive(Debug)]
struct Version {
    lsn: Lsn,
    image: PageRef,
}

#[derive(Debug, Default)]
struct Chain {
    versions: Vec<Version>,
    /// LSN of the newest version that this incarnation wrote to the live file; 0 if none.
    live: Lsn,
    /// The live page is about to be overwritten: what stands here must not fall through to it.
    is_overwriting: bool,
}

#[derive(Debug)]
struct CleanPage {
    image: PageRef,
    referenced: bool,
}

#[derive(Debug, Default)]
struct Shard {
    chains: HashMap<PageNo, Chain>,
    clean: HashMap<PageNo, CleanPage>,
    clock: VecDeque<PageNo>,
    generation: u64,
}

/// The table; see the head of the file.
#[derive(Debug)]
pub(crate) struct PageTable {
    shards: Box<[Mutex<Shard>]>,
    clean_pages_max: usize,
    /// Versions in chains beside the newest of each.
    old_versions: AtomicU64,
    sweep_at: AtomicU64,
}

impl PageTable {
    /// A table that keeps about `clean_pages_max` clean pages of the live file.
    pub(crate) fn new(clean_pages_max: u64) -> Self {
        let shards = (0..SHARD_COUNT).map(|_| Mutex::default()).collect();
        let per_shard = usize::try_from(clean_pages_max / SHARD_COUNT).unwrap_or(usize::MAX);
        Self {
            shards,
            clean_pages_max: per_shard.max(4),
            old_versions: AtomicU64::new(0),
            sweep_at: AtomicU64::new(SWEEP_AT_MIN),
        }
    }

    fn shard(&self, page: PageNo) -> &Mutex<Shard> {
        let index = page.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        &self.shards[usize::try_from(index).expect("six bits")]
    }

    /// Where the content of `page` at `at` is.
    pub(crate) fn lookup(&self, page: PageNo, at: Lsn) -> Lookup {
        let mut shard = self.shard(page).lock();
        if let Some(chain) = shard.chains.get(&page)
            && let Some(version) = chain.versions.iter().rev().find(|v| v.lsn <= at)
        {
            return Lookup::Found(version.image.clone());
        }
        let generation = Generation(shard.generation);
        match shard.clean.get_mut(&page) {
            Some(clean) if clean.image.lsn() <= at => {
                clean.referenced = true;
                Lookup::Found(clean.image.clone())
            }
            _ => Lookup::Live(generation),
        }
    }

    /// Caches a page read from the live file, unless one of its shard was overwritten since the
    /// look-up that gave `generation`: then the bytes may be of the past.
    pub(crate) fn fill(&self, page: PageNo, generation: Generation, image: PageRef) {
        let mut shard = self.shard(page).lock();
        if Generation(shard.generation) == generation {
            shard.keep_clean(page, image, self.clean_pages_max);
        }
    }

    /// Adds a committed version. It is newer than every reader's state, so nobody sees it before
    /// its commit becomes the newest.
    pub(crate) fn publish(&self, page: PageNo, image: PageRef, readers: &Readers) {
        let mut shard = self.shard(page).lock();
        self.counted(&mut shard, page, |shard| {
            let chain = shard.chains.entry(page).or_default();
            debug_assert!(
                chain
                    .versions
                    .last()
                    .is_none_or(|last| last.lsn < image.lsn())
            );
            chain.versions.push(Version {
                lsn: image.lsn(),
                image,
            });
            shard.trim(page, readers, self.clean_pages_max);
        });
    }

    /// The version of `page` at `at`, if the live file does not hold it: what a spill must store,
    /// and what a checkpoint at `at` must write.
    pub(crate) fn unwritten(&self, page: PageNo, at: Lsn) -> Option<PageRef> {
        let shard = self.shard(page).lock();
        let chain = shard.chains.get(&page)?;
        let version = chain
            .versions
            .iter()
            .rev()
            .find(|version| version.lsn <= at)?;
        if chain.is_overwriting && fault::is(Fault::CleanInFlight) {
            return None;
        }
        (version.lsn > chain.live).then(|| version.image.clone())
    }

    /// Pages with a version at `at` that the live file does not hold, ascending.
    pub(crate) fn unwritten_pages(&self, at: Lsn) -> Vec<PageNo> {
        let mut pages = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let unwritten = shard.chains.iter().filter(|(_, chain)| {
                let version = chain
                    .versions
                    .iter()
                    .rev()
                    .find(|version| version.lsn <= at);
                version.is_some_and(|version| version.lsn > chain.live)
            });
            pages.extend(unwritten.map(|(&page, _)| page));
        }
        pages.sort_unstable();
        pages
    }

    /// Announces that the live `page` will be overwritten with its version `new`, and says whether
    /// that would take from a registered reader the content that the rule gives it now. From here
    /// until [`PageTable::written`] no version is dropped because the live file holds it.
    pub(crate) fn begin_overwrite(&self, page: PageNo, new: Lsn, readers: &Readers) -> bool {
        let mut shard = self.shard(page).lock();
        let Some(chain) = shard.chains.get_mut(&page) else {
            return false;
        };
        chain.is_overwriting = true;
        let first = chain.versions.first().map_or(new, |version| version.lsn);
        readers
            .registered
            .first()
            .is_some_and(|&oldest| oldest < first)
    }

    /// Puts the content that the live file is about to lose in front of the chain (E5).
    pub(crate) fn keep_old(&self, page: PageNo, image: PageRef) {
        let mut shard = self.shard(page).lock();
        self.counted(&mut shard, page, |shard| {
            let chain = shard.chains.entry(page).or_default();
            if chain
                .versions
                .first()
                .is_none_or(|first| image.lsn() < first.lsn)
            {
                chain.versions.insert(
                    0,
                    Version {
                        lsn: image.lsn(),
                        image,
                    },
                );
            }
        });
    }

    /// Notes that the live file holds `image` of `page`, whose write has returned.
    pub(crate) fn written(&self, page: PageNo, image: PageRef, readers: &Readers) {
        let mut shard = self.shard(page).lock();
        shard.generation += 1;
        self.counted(&mut shard, page, |shard| {
            let chain = shard.chains.entry(page).or_default();
            chain.live = image.lsn();
            chain.is_overwriting = false;
            shard.keep_clean(page, image, self.clean_pages_max);
            shard.trim(page, readers, self.clean_pages_max);
        });
    }

    /// Changes one chain and keeps count of its old versions.
    fn counted(&self, shard: &mut Shard, page: PageNo, change: impl FnOnce(&mut Shard)) {
        let before = shard.old_version_count(page);
        change(shard);
        let after = shard.old_version_count(page);
        self.old_versions.fetch_add(after, Ordering::Relaxed);
        self.old_versions.fetch_sub(before, Ordering::Relaxed);
    }

    /// Drops every version that nobody needs any more. Cost: one pass over all chains.
    pub(crate) fn sweep(&self, readers: &Readers) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let pages: Vec<_> = shard.chains.keys().copied().collect();
            for page in pages {
                self.counted(&mut shard, page, |shard| {
                    shard.trim(page, readers, self.clean_pages_max);
                });
            }
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

    /// Images held: (in chains, clean).
    pub(crate) fn image_counts(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(versions, clean), shard| {
            let shard = shard.lock();
            let in_chains: usize = shard
                .chains
                .values()
                .map(|chain| chain.versions.len())
                .sum();
            (
                versions + in_chains as u64,
                clean + shard.clean.len() as u64,
            )
        })
    }
}

impl Shard {
    fn old_version_count(&self, page: PageNo) -> u64 {
        let versions = self
            .chains
            .get(&page)
            .map_or(0, |chain| chain.versions.len());
        versions.saturating_sub(1) as u64
    }

    fn keep_clean(&mut self, page: PageNo, image: PageRef, pages_max: usize) {
        if let Some(clean) = self.clean.get_mut(&page) {
            clean.image = image;
            return;
        }
        while self.clean.len() >= pages_max {
            let Some(victim) = self.clock.pop_front() else {
                break;
            };
            match self.clean.get_mut(&victim) {
                Some(clean) if clean.referenced => {
                    clean.referenced = false;
                    self.clock.push_back(victim);
                }
                _ => {
                    self.clean.remove(&victim);
                }
            }
        }
        self.clean.insert(
            page,
            CleanPage {
                image,
                referenced: false,
            },
        );
        self.clock.push_back(page);
    }

    /// Keeps rule E4 for one chain.
    fn trim(&mut self, page: PageNo, readers: &Readers, pages_max: usize) {
        let Some(chain) = self.chains.get_mut(&page) else {
            return;
        };
        let mut index = 0;
        while index + 1 < chain.versions.len() {
            let (from, to) = (chain.versions[index].lsn, chain.versions[index + 1].lsn);
            if readers.any_in(from, to) {
                index += 1;
            } else {
                chain.versions.remove(index);
            }
        }
        let live_holds_first = chain
            .versions
            .first()
            .is_some_and(|first| first.lsn == chain.live);
        if live_holds_first && !chain.is_overwriting {
            let first = chain.versions.remove(0);
            if chain.versions.is_empty() {
                self.chains.remove(&page);
                self.keep_clean(page, first.image, pages_max);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::page::{PageBuf, PageKind, PageSize};

    const P: PageNo = PageNo(9);

    fn image(lsn: u64) -> PageRef {
        let mut page = PageBuf::formatted(PageSize::DEFAULT, P, PageKind::Leaf);
        page.seal(Lsn(lsn));
        Arc::new(page)
    }

    fn readers(registered: &[u64], durable: u64) -> Readers {
        Readers {
            registered: registered.iter().map(|&l| Lsn(l)).collect(),
            durable: Lsn(durable),
        }
    }

    fn lsn_at(table: &PageTable, at: u64) -> Option<u64> {
        match table.lookup(P, Lsn(at)) {
            Lookup::Found(page) => Some(page.lsn().0),
            Lookup::Live(_) => None,
        }
    }

    /// E3: every reader gets the newest version that it may see.
    #[test]
    fn lookup_gives_the_version_at_the_readers_lsn() {
        let table = PageTable::new(64);
        let both = readers(&[10, 20], 5);
        table.publish(P, image(10), &both);
        table.publish(P, image(20), &both);
        assert_eq!(lsn_at(&table, 9), None);
        assert_eq!(lsn_at(&table, 10), Some(10));
        assert_eq!(lsn_at(&table, 19), Some(10));
        assert_eq!(lsn_at(&table, 25), Some(20));
    }

    /// E4: a version that only a reader still to come may want stays until its successor is durable.
    #[test]
    fn version_stays_until_its_successor_is_durable() {
        let table = PageTable::new(64);
        table.publish(P, image(10), &readers(&[], 5));
        table.publish(P, image(20), &readers(&[], 10));
        assert_eq!(lsn_at(&table, 10), Some(10));
        table.sweep(&readers(&[], 20));
        assert_eq!(lsn_at(&table, 10), None);
        assert_eq!(lsn_at(&table, 20), Some(20));
    }

    /// E5: what the live file loses is in the chain while a reader needs it.
    #[test]
    fn old_content_is_kept_for_the_reader_that_needs_it() {
        let table = PageTable::new(64);
        let old = readers(&[7], 10);
        table.publish(P, image(10), &old);
        assert!(table.begin_overwrite(P, Lsn(10), &old));
        table.keep_old(P, image(3));
        table.written(P, image(10), &old);
        assert_eq!(lsn_at(&table, 7), Some(3));
        assert_eq!(lsn_at(&table, 10), Some(10));
        table.sweep(&readers(&[], 10));
        assert_eq!(
            lsn_at(&table, 7),
            None,
            "a clean page newer than the reader is not given out"
        );
        assert_eq!(
            lsn_at(&table, 10),
            Some(10),
            "and the newest is a clean page"
        );
        assert_eq!(table.image_counts().0, 0);
    }

    /// E4: once an overwrite is announced, the content that the live file loses stays in the chain,
    /// although at that moment the live file still holds it.
    #[test]
    fn version_in_the_live_file_stays_while_it_is_overwritten() {
        let table = PageTable::new(64);
        let both = readers(&[7, 12], 20);
        table.publish(P, image(5), &both);
        table.publish(P, image(10), &both);
        table.written(P, image(10), &both);
        table.publish(P, image(20), &both);
        assert!(
            !table.begin_overwrite(P, Lsn(20), &both),
            "all that readers need is in the chain"
        );
        table.sweep(&readers(&[12], 20));
        table.written(P, image(20), &readers(&[12], 20));
        assert_eq!(lsn_at(&table, 12), Some(10));
    }

    /// A page read before an overwrite and filled in after it must not become the cached one.
    #[test]
    fn fill_after_an_overwrite_is_dropped() {
        let table = PageTable::new(64);
        let Lookup::Live(generation) = table.lookup(P, Lsn(100)) else {
            panic!("nothing is there")
        };
        table.publish(P, image(10), &readers(&[], 10));
        table.written(P, image(10), &readers(&[], 10));
        table.fill(P, generation, image(3));
        assert_eq!(lsn_at(&table, 100), Some(10));
    }

    #[test]
    fn unwritten_names_the_version_at_the_lsn_and_not_the_newest() {
        let table = PageTable::new(64);
        let all = readers(&[10], 10);
        table.publish(P, image(10), &all);
        table.publish(P, image(20), &all);
        assert_eq!(
            table.unwritten(P, Lsn(15)).map(|page| page.lsn()),
            Some(Lsn(10))
        );
        assert_eq!(table.unwritten_pages(Lsn(9)), []);
        table.written(P, image(10), &all);
        assert_eq!(table.unwritten(P, Lsn(15)), None);
        assert_eq!(table.unwritten_pages(Lsn(20)), [P]);
    }

    #[test]
    fn clean_pages_stay_within_their_bound() {
        let table = PageTable::new(0);
        for number in 0..10_000 {
            let page = PageNo(number);
            let Lookup::Live(generation) = table.lookup(page, Lsn::MAX) else {
                continue;
            };
            table.fill(page, generation, image(1));
        }
        assert!(table.image_counts().1 <= 64 * 4);
    }
}
