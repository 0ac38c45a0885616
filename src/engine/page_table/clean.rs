//! The clean pages of a shard: what the live file holds too, kept for those who read it again.
//!
//! ```text
//! read --> spare --> its memory is used --> ghost --> read once more --> kept
//!                                             |                           |
//!                            another page has its place      not looked up for a round of the clock
//!                                             v                           v
//!                                            gone                     the spare's memory
//! ```
//!
//! Where memory has room, and of inner nodes, every page is kept. Elsewhere a page that is read for the first
//! time would push out one that was read more often: it stays only until its memory takes the next
//! page, and a ghost, its number alone, for longer. So a scan leaves the cache as it is, and most pages are
//! read into memory that the processor's caches still hold. The price: a page that is wanted twice and then no
//! more is read twice.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::lsn::Lsn;
use crate::page::{PageKind, PageMap, PageNo, PageRef};

#[derive(Debug)]
struct Kept {
    image: PageRef,
    referenced: bool,
}

/// Memory for the next page, with what it holds until then.
#[derive(Debug)]
struct Spare {
    /// `None` where what it holds may be given to nobody.
    page: Option<PageNo>,
    image: PageRef,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct CleanPages {
    kept: PageMap<Kept>,
    /// Kept pages, oldest first; some are gone meanwhile.
    clock: VecDeque<PageNo>,
    spare: Option<Spare>,
    /// Each at the place that its hash gives it; empty until memory has no room.
    ghosts: Vec<PageNo>,
    /// State of the coin that ghosts are tossed for.
    coin: u64,
}

impl CleanPages {
    /// Pages kept, without the spare.
    pub(super) fn kept_count(&self) -> usize {
        self.kept.len()
    }

    /// Images in memory.
    pub(super) fn image_count(&self) -> usize {
        self.kept.len() + usize::from(self.spare.is_some())
    }

    /// Entries of the clock.
    #[cfg(test)]
    pub(super) fn clock_hands(&self) -> usize {
        self.clock.len()
    }

    /// The page, unless it is newer than `at`.
    pub(super) fn get(&mut self, page: PageNo, at: Lsn) -> Option<PageRef> {
        let image = match self.kept.get_mut(&page) {
            Some(kept) => {
                kept.referenced = true;
                &kept.image
            }
            None => match &self.spare {
                Some(spare) if spare.page == Some(page) => &spare.image,
                _ => return None,
            },
        };
        (image.lsn() <= at).then(|| image.clone())
    }

    /// Memory for a page that is about to be read, which nobody else holds.
    pub(super) fn take_memory(&mut self) -> Option<PageRef> {
        let mut spare = self.spare.take()?;
        if Arc::get_mut(&mut spare.image).is_none() {
            self.spare = Some(spare);
            return None;
        }
        Some(spare.image)
    }

    /// What stands here of `page` is not the live page any more.
    pub(super) fn forget(&mut self, page: PageNo) {
        self.kept.remove(&page);
        self.forget_spare(page);
    }

    fn forget_spare(&mut self, page: PageNo) {
        if let Some(spare) = &mut self.spare
            && spare.page == Some(page)
        {
            spare.page = None;
        }
    }

    /// Keeps `image` as the one of `page`.
    pub(super) fn keep(&mut self, page: PageNo, image: PageRef) {
        self.forget_spare(page);
        if let Some(kept) = self.kept.get_mut(&page) {
            kept.image = image;
            return;
        }
        let referenced = false;
        self.kept.insert(page, Kept { image, referenced });
        self.clock.push_back(page);
        if self.clock.len() > 2 * self.kept.len() + 64 {
            self.clock = self.kept.keys().copied().collect();
        }
    }

    /// Takes a page that was read where memory has no room, and keeps it if it is worth that. Shape: the shard has
    /// `images` images in its own right, of which one may be the spare.
    pub(super) fn judge(&mut self, page: PageNo, image: PageRef, images: usize) {
        if image.kind() == Some(PageKind::Inner)
            || self.kept.contains_key(&page)
            || self.was_ghost(page, images)
        {
            self.keep(page, image);
            // Or the clock would take it before pages that were all looked up since it came by.
            if let Some(kept) = self.kept.get_mut(&page) {
                kept.referenced = true;
            }
        } else {
            let page = Some(page);
            self.spare = Some(Spare { page, image });
        }
    }

    /// Whether `page` was read not long ago; from here on it was, if it was not, and its place is free. Of two pages
    /// with one place the coin says which stays: if the later one always did, pages that are read in turn, each more
    /// often than what is kept, would drive each other out for ever.
    fn was_ghost(&mut self, page: PageNo, images: usize) -> bool {
        if self.ghosts.is_empty() {
            let count = (images / 2).next_power_of_two();
            self.ghosts = vec![PageNo::default(); count];
        }
        let mask = self.ghosts.len() as u64 - 1;
        let place = usize::try_from(self.kept.hasher().hash_one(page) & mask);
        let Some(ghost) = place.ok().and_then(|place| self.ghosts.get_mut(place)) else {
            return false;
        };
        let (none, was_ghost) = (PageNo::default(), *ghost == page);
        if was_ghost {
            *ghost = none;
        } else {
            // Knuth's generator: a run is as the one before.
            self.coin = self.coin.wrapping_mul(6_364_136_223_846_793_005);
            self.coin = self.coin.wrapping_add(1_442_695_040_888_963_407);
            if *ghost == none || self.coin >> 63 == 1 {
                *ghost = page;
            }
        }
        was_ghost
    }

    /// Lets go of the page that was not looked up for longest, about; `has_spare` says whether its memory may be the
    /// spare.
    pub(super) fn evict(&mut self, has_spare: bool) {
        while let Some(victim) = self.clock.pop_front() {
            match self.kept.get_mut(&victim) {
                Some(kept) if kept.referenced => {
                    kept.referenced = false;
                    self.clock.push_back(victim);
                }
                Some(_) => {
                    let gone = self.kept.remove(&victim);
                    if has_spare && self.spare.is_none() {
                        self.spare = gone.map(|Kept { image, .. }| Spare { page: None, image });
                    }
                    return;
                }
                None => {}
            }
        }
    }
}
