//! Which pages of a file were reached.

#![deny(clippy::indexing_slicing)]

use crate::page::PageNo;

/// A set of pages of a file: one bit for each.
pub(super) struct Bitmap {
    words: Vec<u64>,
    page_count: u64,
}

impl Bitmap {
    /// An empty set for a file of `page_count` pages.
    pub(super) fn new(page_count: u64) -> Self {
        let words = usize::try_from(page_count.div_ceil(64)).expect("64-bit memory sizes");
        Self {
            words: vec![0; words],
            page_count,
        }
    }

    /// Whether `page` is a page of the file.
    pub(super) fn holds(&self, page: PageNo) -> bool {
        page.0 < self.page_count
    }

    fn word(&self, page: PageNo) -> Option<usize> {
        let word = usize::try_from(page.0 / 64).ok();
        word.filter(|_| self.holds(page))
    }

    /// Whether `page` is in the set.
    pub(super) fn contains(&self, page: PageNo) -> bool {
        let word = self.word(page).and_then(|word| self.words.get(word));
        word.is_some_and(|word| word & (1 << (page.0 % 64)) != 0)
    }

    /// Adds `page`; returns whether it is a page of the file that was not in the set.
    pub(super) fn insert(&mut self, page: PageNo) -> bool {
        let word = self.word(page).and_then(|word| self.words.get_mut(word));
        let bit = 1 << (page.0 % 64);
        word.is_some_and(|word| std::mem::replace(word, *word | bit) & bit == 0)
    }
}
