//! Which pages of a pinned state are in the log, and in which frame: sorted, the newest frame of each.

#![deny(clippy::indexing_slicing)]

use std::mem;

/// A page that is in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Logged {
    /// SQLite's number of the page, from 1 on.
    pub(super) page: u32,
    /// Its newest frame in the pinned state, from 1 on.
    pub(super) frame: u32,
}

/// Fewer frames than this are not worth the time to trim them.
const TRIM_FROM: usize = 1 << 20;

/// Collects frames, of each page the newest last.
#[derive(Debug, Default)]
pub(super) struct PageIndexBuilder {
    entries: Vec<Logged>,
    /// How many there were after they were trimmed.
    trimmed: usize,
}

impl PageIndexBuilder {
    /// Adds a frame, newer than those of its page before it; `false` if that is a frame of no page, which no log has.
    pub(super) fn push(&mut self, page: u32, frame: u32) -> bool {
        debug_assert_ne!(frame, 0, "frames count from 1 on");
        self.entries.push(Logged { page, frame });
        page != 0
    }

    /// Throws out the frames that newer ones stand for, when there are twice as many as last time: a log
    /// may have any number of frames, of few pages. Only where all that are added count.
    pub(super) fn trim(&mut self) {
        if self.entries.len() >= TRIM_FROM.max(2 * self.trimmed) {
            keep_newest(&mut self.entries);
            self.trimmed = self.entries.len();
        }
    }

    /// How many frames are kept.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The index of the first `frames` that are kept, for a state of `page_count` pages. Pages after
    /// those are left out: they were cut off.
    pub(super) fn finish(self, frames: usize, page_count: u32) -> PageIndex {
        let Self { mut entries, .. } = self;
        entries.truncate(frames);
        entries.retain(|entry| entry.page <= page_count);
        keep_newest(&mut entries);
        entries.shrink_to_fit();
        PageIndex(entries)
    }
}

/// Sorts by page, and leaves the newest frame of each: the last one that was added.
///
/// A pin waits for this. Memory: as much again as the entries.
fn keep_newest(entries: &mut Vec<Logged>) {
    let highest = entries.iter().map(|entry| entry.page).max().unwrap_or(0);
    match usize::try_from(highest).is_ok_and(|highest| highest / 2 <= entries.len()) {
        true => keep_newest_of_dense(entries, highest),
        false => keep_newest_of_sparse(entries, highest),
    }
}

/// By a table with a place for each page: where most of them are in the log, it costs one look at each frame
/// and one at each page.
fn keep_newest_of_dense(entries: &mut Vec<Logged>, highest: u32) {
    // Frames count from 1 on.
    let mut newest = vec![
        0_u32;
        usize::try_from(highest)
            .unwrap_or(usize::MAX)
            .saturating_add(1)
    ];
    for entry in entries.iter() {
        let place = usize::try_from(entry.page).unwrap_or(usize::MAX);
        if let Some(place) = newest.get_mut(place) {
            *place = entry.frame;
        }
    }
    let mut kept = 0_usize;
    for (page, frame) in (0_u32..).zip(newest) {
        if let Some(place) = entries.get_mut(kept) {
            *place = Logged { page, frame };
        }
        // Without a branch, which would be guessed wrong for each third page.
        kept += usize::from(frame != 0);
    }
    entries.truncate(kept);
}

/// By sorting.
fn keep_newest_of_sparse(entries: &mut Vec<Logged>, highest: u32) {
    sort_by_page(entries, highest);
    let mut kept = 0_usize;
    let mut before = u64::MAX;
    for at in 0..entries.len() {
        let Some(entry) = entries.get(at).copied() else {
            break;
        };
        // Without a branch, which would be guessed wrong for each third page.
        kept += usize::from(u64::from(entry.page) != before);
        before = u64::from(entry.page);
        if let Some(last) = entries.get_mut(kept - 1) {
            *last = entry;
        }
    }
    entries.truncate(kept);
}

/// Bits of the number of a page by which one pass sorts: the counts stay in the first cache.
const DIGIT_BITS: u32 = 11;

/// Sorts by page and leaves equals in their order: a radix sort from the lowest digit on. Sorting by comparison
/// takes five times as long for the frames of a log of 1 GiB.
fn sort_by_page(entries: &mut Vec<Logged>, highest: u32) {
    let mut sorted = vec![Logged::default(); entries.len()];
    let mut shift = 0;
    while shift < u32::BITS && highest >> shift != 0 {
        let digit = |entry: &Logged| ((entry.page >> shift) & ((1 << DIGIT_BITS) - 1)) as usize;
        // Per digit: how many have it, and then where the next of them goes.
        let mut places = [0_usize; 1 << DIGIT_BITS];
        for entry in entries.iter() {
            places
                .get_mut(digit(entry))
                .into_iter()
                .for_each(|count| *count += 1);
        }
        let mut before = 0;
        for place in &mut places {
            before += mem::replace(place, before);
        }
        for entry in entries.iter() {
            let place = places.get_mut(digit(entry));
            let place = place.map(|place| mem::replace(place, *place + 1));
            if let Some(slot) = place.and_then(|place| sorted.get_mut(place)) {
                *slot = *entry;
            }
        }
        mem::swap(entries, &mut sorted);
        shift += DIGIT_BITS;
    }
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct PageIndex(Vec<Logged>);

impl PageIndex {
    /// The pages from `page` on that are in the log, in order.
    pub(super) fn from(&self, page: u64) -> &[Logged] {
        let before = self.0.partition_point(|entry| u64::from(entry.page) < page);
        self.0.get(before..).unwrap_or_default()
    }

    /// All pages that are in the log, in order.
    pub(super) fn all(&self) -> &[Logged] {
        &self.0
    }

    /// The last of `page_count` pages that must be in the database file: not in the log, and not
    /// `never`, which is nowhere. 0 if there is none.
    pub(super) fn last_unlogged(&self, page_count: u32, never: u64) -> u32 {
        let mut last = page_count;
        let mut logged = self.0.iter().rev().map(|entry| entry.page).peekable();
        while last > 0 {
            if logged.next_if_eq(&last).is_none() && u64::from(last) != never {
                break;
            }
            last -= 1;
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(page_count: u32, frames: &[(u32, u32)]) -> PageIndex {
        let mut builder = PageIndexBuilder::default();
        for (page, frame) in frames {
            assert!(builder.push(*page, *frame));
        }
        builder.push(1, 99);
        builder.finish(frames.len(), page_count)
    }

    fn pairs(entries: &[Logged]) -> Vec<(u32, u32)> {
        let pairs = entries.iter().map(|entry| (entry.page, entry.frame));
        pairs.collect()
    }

    #[test]
    fn newest_frame_of_a_page_wins_and_pages_that_were_cut_off_are_left_out() {
        let index = index(5, &[(3, 1), (1, 2), (3, 3), (6, 4), (5, 5), (3, 4)]);
        assert_eq!(pairs(index.all()), [(1, 2), (3, 4), (5, 5)]);
        assert_eq!(pairs(index.from(2)), [(3, 4), (5, 5)]);
        assert_eq!(pairs(index.from(6)), []);
        assert!(!PageIndexBuilder::default().push(0, 1));
    }

    #[test]
    fn pages_of_all_sizes_are_sorted_and_the_newest_frame_of_each_is_kept() {
        let mut state = 7_u64;
        for bits in [1, 8, 11, 12, 22, 23, 32] {
            let mut newest = std::collections::BTreeMap::new();
            let mut frames = Vec::new();
            for frame in 1..5000 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let random = u32::try_from(state >> 32).unwrap();
                let page = (random >> (32 - bits)).max(1);
                frames.push((page, frame));
                newest.insert(page, frame);
            }
            let expected: Vec<(u32, u32)> = newest.into_iter().collect();
            assert_eq!(
                pairs(index(u32::MAX, &frames).all()),
                expected,
                "{bits} bits"
            );
        }
    }

    #[test]
    fn log_of_many_frames_and_few_pages_takes_little_memory() {
        let mut builder = PageIndexBuilder::default();
        for frame in 0..3_000_000 {
            assert!(builder.push(frame % 1000 + 1, frame + 1));
            builder.trim();
            assert!(builder.len() <= TRIM_FROM);
        }
        let frames = builder.len();
        let index = builder.finish(frames, 1000);
        assert_eq!(
            pairs(index.from(999)),
            [(999, 2_999_999), (1000, 3_000_000)]
        );
        assert_eq!(index.all().len(), 1000);
    }

    #[test]
    fn last_page_that_the_file_must_have_is_found() {
        let logged = index(9, &[(9, 1), (8, 2), (6, 3)]);
        assert_eq!(logged.last_unlogged(9, 0), 7);
        assert_eq!(logged.last_unlogged(9, 7), 5);
        assert_eq!(logged.last_unlogged(6, 0), 6);
        assert_eq!(index(2, &[(1, 1), (2, 2)]).last_unlogged(2, 0), 0);
        assert_eq!(PageIndex::default().last_unlogged(3, 0), 3);
    }
}
