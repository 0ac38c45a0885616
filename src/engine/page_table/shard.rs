//! A part of the page table, under one mutex: chains of versions, clean pages, and what leaves memory.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::clean::CleanPages;
use crate::engine::page_table::{Backing, Content, Readers};
use crate::engine::wal::Change;
use crate::lsn::Lsn;
use crate::page::{PageMap, PageNo, PageRef};

/// The part of a shard's images that clean pages may take even where versions want it.
const CLEAN_PART: usize = 4;
/// Fewest images of a shard of which one may be a spare.
const SPARE_FROM: usize = 8;

/// How many images a shard may have in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// Of versions and clean pages.
    pub(super) own: usize,
    /// More clean pages, while nobody else needs the memory.
    pub(super) lent: usize,
}

impl Bound {
    /// Whether one of them may be a spare.
    fn has_spare(self) -> bool {
        self.own >= SPARE_FROM
    }

    /// Versions and clean pages, without the spare.
    fn kept_max(self) -> usize {
        self.versions_max().saturating_add(self.lent)
    }

    /// Of those in its own share.
    fn versions_max(self) -> usize {
        self.own - usize::from(self.has_spare())
    }
}

/// One committed image of a page. At least one of `image` and `backing` is there.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) lsn: Lsn,
    image: Option<PageRef>,
    backing: Option<Arc<dyn Backing>>,
    /// Of the newest of its chain: where it differs from the one before it.
    change: Option<Change>,
    pub(super) referenced: bool,
}

impl Version {
    fn new(lsn: Lsn, content: Content, change: Option<Change>) -> Self {
        let (image, backing) = match content {
            Content::Image(image) => (Some(image), None),
            Content::Backed(backing) => (None, Some(backing)),
        };
        Self {
            lsn,
            image,
            backing,
            change,
            referenced: false,
        }
    }

    pub(super) fn content(&self) -> Content {
        match (&self.image, &self.backing) {
            (Some(image), _) => Content::Image(image.clone()),
            (None, Some(backing)) => Content::Backed(backing.clone()),
            (None, None) => unreachable!("an image leaves memory only when it has a backing"),
        }
    }
}

#[derive(Debug, Default)]
struct Chain {
    versions: Vec<Version>,
    /// LSN of the newest version that this incarnation wrote to the live file; 0 if none.
    live: Lsn,
    /// The live page is about to be overwritten: what stands here must not fall through to it.
    is_overwriting: bool,
}

/// A version's image that must get a backing before it leaves memory.
#[derive(Debug)]
pub(super) struct Victim {
    pub(super) page: PageNo,
    pub(super) lsn: Lsn,
    pub(super) image: PageRef,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Shard {
    chains: PageMap<Chain>,
    clean: CleanPages,
    /// Versions with an image in memory, oldest first; some are gone meanwhile.
    version_clock: VecDeque<(PageNo, Lsn)>,
    /// Versions with an image in memory.
    version_images: usize,
    pub(super) generation: u64,
}

impl Shard {
    /// The version that the rule gives at `at`.
    pub(super) fn version_at(&mut self, page: PageNo, at: Lsn) -> Option<&mut Version> {
        let chain = self.chains.get_mut(&page)?;
        chain
            .versions
            .iter_mut()
            .rev()
            .find(|version| version.lsn <= at)
    }

    fn version(&mut self, page: PageNo, lsn: Lsn) -> Option<&mut Version> {
        self.version_at(page, lsn).filter(|found| found.lsn == lsn)
    }

    /// The clean page, unless it is newer than `at`.
    pub(super) fn clean_page(&mut self, page: PageNo, at: Lsn) -> Option<PageRef> {
        self.clean.get(page, at)
    }

    /// See [`CleanPages::take_memory`].
    pub(super) fn take_memory(&mut self) -> Option<PageRef> {
        self.clean.take_memory()
    }

    /// LSN of the live page, as far as this incarnation wrote it, and whether it is being overwritten.
    pub(super) fn live_state(&self, page: PageNo) -> (Lsn, bool) {
        let chain = self.chains.get(&page);
        chain.map_or((Lsn::ZERO, false), |c| (c.live, c.is_overwriting))
    }

    /// Adds the pages with a version at `at` that the live file does not hold.
    pub(super) fn unwritten_pages(&self, at: Lsn, pages: &mut Vec<PageNo>) {
        let unwritten = self.chains.iter().filter(|(_, chain)| {
            let mut newest_first = chain.versions.iter().rev();
            let version = newest_first.find(|version| version.lsn <= at);
            version.is_some_and(|version| version.lsn > chain.live)
        });
        pages.extend(unwritten.map(|(&page, _)| page));
    }

    /// The pages with a chain.
    pub(super) fn pages(&self) -> Vec<PageNo> {
        self.chains.keys().copied().collect()
    }

    /// The clean page makes room: whoever reads on reads the version, and memory would hold both.
    pub(super) fn add_newest(
        &mut self,
        page: PageNo,
        lsn: Lsn,
        content: Content,
        change: Option<Change>,
    ) {
        self.clean.forget(page);
        let version = Version::new(lsn, content, change);
        self.note_image(page, &version);
        let versions = &mut self.chains.entry(page).or_default().versions;
        if let Some(last) = versions.last_mut() {
            debug_assert!(last.lsn < lsn);
            last.change = None;
        }
        versions.push(version);
    }

    /// See [`super::PageTable::take_replaced`]. The newest version stays, so rule E4 is that of [`Shard::trim`].
    pub(super) fn take_replaced(
        &mut self,
        page: PageNo,
        newest: Lsn,
        readers: &Readers,
    ) -> Option<(PageRef, Vec<Range<usize>>)> {
        let versions = &mut self.chains.get_mut(&page)?.versions;
        let [.., old, new] = versions.as_mut_slice() else {
            return None;
        };
        let image = old.image.as_ref()?;
        let is_known = new
            .change
            .as_ref()
            .is_some_and(|change| change.base == old.lsn);
        // Nobody finds it but through this table, so nobody holds it from here on.
        let is_free = Arc::strong_count(image) == 1 && !readers.any_in(old.lsn, new.lsn);
        if new.lsn != newest || !is_known || !is_free {
            return None;
        }
        let change = new.change.take()?;
        let old = versions.remove(versions.len() - 2);
        self.version_images -= 1;
        Some((old.image?, change.ranges))
    }

    /// Puts an image in front of the chain, unless one as old is there.
    pub(super) fn add_oldest(&mut self, page: PageNo, image: PageRef) {
        let version = Version::new(image.lsn(), Content::Image(image), None);
        let versions = &self.chains.entry(page).or_default().versions;
        if versions
            .first()
            .is_some_and(|first| first.lsn <= version.lsn)
        {
            return;
        }
        self.note_image(page, &version);
        let versions = &mut self.chains.entry(page).or_default().versions;
        versions.insert(0, version);
    }

    /// Announces an overwrite; gives the LSN of the oldest version, if the page has a chain.
    pub(super) fn begin_overwrite(&mut self, page: PageNo) -> Option<Option<Lsn>> {
        let chain = self.chains.get_mut(&page)?;
        chain.is_overwriting = true;
        Some(chain.versions.first().map(|version| version.lsn))
    }

    /// Notes which version the live file holds.
    pub(super) fn note_live(&mut self, page: PageNo, lsn: Lsn) {
        self.generation += 1;
        let chain = self.chains.entry(page).or_default();
        chain.live = lsn;
        chain.is_overwriting = false;
    }

    /// Keeps the live page, which was just written.
    pub(super) fn keep_clean(&mut self, page: PageNo, image: PageRef) {
        self.clean.keep(page, image);
    }

    /// Takes the live page, which was just read: whether it stays is for [`CleanPages`] to say where memory is full.
    pub(super) fn fill(&mut self, page: PageNo, image: PageRef, bound: Bound) {
        let kept = self.version_images + self.clean.kept_count();
        if bound.has_spare() && kept >= bound.kept_max() {
            self.clean.judge(page, image, bound.own);
        } else {
            self.clean.keep(page, image);
        }
    }

    /// Counts the image of a version that comes into memory.
    fn note_image(&mut self, page: PageNo, version: &Version) {
        if version.image.is_some() {
            self.version_images += 1;
            self.version_clock.push_back((page, version.lsn));
            self.forget_stale_hands();
        }
    }

    /// Of the clock's entries no more than about half are of images that are gone.
    fn forget_stale_hands(&mut self) {
        if self.version_clock.len() <= 2 * self.version_images + 64 {
            return;
        }
        let mut clock = std::mem::take(&mut self.version_clock);
        clock.retain(|&(page, lsn)| {
            self.version(page, lsn)
                .is_some_and(|version| version.image.is_some())
        });
        self.version_clock = clock;
    }

    /// Puts the image of a version back into memory, if that version is still there without one.
    pub(super) fn readmit(&mut self, page: PageNo, lsn: Lsn, image: &PageRef) {
        let Some(version) = self.version(page, lsn) else {
            return;
        };
        if version.image.is_none() {
            version.image = Some(image.clone());
            self.version_images += 1;
            self.version_clock.push_back((page, lsn));
        }
    }

    /// Lets images go until they are within `bound`. Gives one that needs a backing first; the caller answers with
    /// [`Shard::back`] or [`Shard::stay`].
    pub(super) fn evict(&mut self, bound: Bound) -> Option<Victim> {
        loop {
            self.evict_clean(bound);
            // What is lent is not for versions: that it is wanted back must not send them to the spool.
            let clean = self.clean.kept_count().min(bound.own / CLEAN_PART);
            if self.version_images + clean <= bound.versions_max() {
                return None;
            }
            let (page, lsn) = self.version_clock.pop_front()?;
            let Some(version) = self.version(page, lsn) else {
                continue;
            };
            let Some(image) = &version.image else {
                continue;
            };
            if version.referenced {
                version.referenced = false;
                self.version_clock.push_back((page, lsn));
            } else if version.backing.is_some() {
                version.image = None;
                self.version_images -= 1;
            } else {
                let image = image.clone();
                return Some(Victim { page, lsn, image });
            }
        }
    }

    /// Lets clean pages go until all images are within `bound`, but for the part that versions cannot take from them.
    pub(super) fn evict_clean(&mut self, bound: Bound) {
        while self.version_images + self.clean.kept_count() > bound.kept_max()
            && self.clean.kept_count() > bound.own / CLEAN_PART
        {
            self.clean.evict(bound.has_spare());
        }
    }

    /// The victim has a backing: its image leaves memory.
    pub(super) fn back(&mut self, page: PageNo, lsn: Lsn, backing: Arc<dyn Backing>) {
        if let Some(version) = self.version(page, lsn)
            && version.image.take().is_some()
        {
            version.backing = Some(backing);
            self.version_images -= 1;
        }
    }

    /// The victim could get no backing: its image stays.
    pub(super) fn stay(&mut self, page: PageNo, lsn: Lsn) {
        self.version_clock.push_back((page, lsn));
    }

    pub(super) fn old_version_count(&self, page: PageNo) -> u64 {
        let versions = self
            .chains
            .get(&page)
            .map_or(0, |chain| chain.versions.len());
        versions.saturating_sub(1) as u64
    }

    /// Entries of both clocks.
    #[cfg(test)]
    pub(super) fn clock_hands(&self) -> usize {
        self.clean.clock_hands() + self.version_clock.len()
    }

    /// Images in memory: (in chains, clean).
    pub(super) fn image_counts(&self) -> (u64, u64) {
        (self.version_images as u64, self.clean.image_count() as u64)
    }

    /// Images that are in memory when it has only `own` ones and clean pages have made room.
    pub(super) fn images_without_loan(&self, own: usize) -> usize {
        let clean = self.clean.image_count();
        let least = self.version_images + clean.min(own / CLEAN_PART);
        (self.version_images + clean).min(own.max(least))
    }

    /// Keeps rule E4 for one chain.
    pub(super) fn trim(&mut self, page: PageNo, readers: &Readers) {
        let Some(chain) = self.chains.get_mut(&page) else {
            return;
        };
        let mut index = 0;
        while index + 1 < chain.versions.len() {
            let (from, to) = (chain.versions[index].lsn, chain.versions[index + 1].lsn);
            if readers.any_in(from, to) {
                index += 1;
            } else {
                let gone = chain.versions.remove(index);
                self.version_images -= usize::from(gone.image.is_some());
            }
        }
        let live_holds_first = chain
            .versions
            .first()
            .is_some_and(|first| first.lsn == chain.live);
        if live_holds_first && !chain.is_overwriting {
            let first = chain.versions.remove(0);
            self.version_images -= usize::from(first.image.is_some());
            if chain.versions.is_empty() {
                self.chains.remove(&page);
                if let Some(image) = first.image {
                    self.keep_clean(page, image);
                }
            }
        }
    }
}
