//! Which pages of a pinned state are in the log, and in which frame: sorted, the newest frame of each.

#![deny(clippy::indexing_slicing)]

/// A page that is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Logged {
    /// SQLite's number of the page, from 1 on.
    pub(super) page: u32,
    /// Its newest frame in the pinned state, from 1 on.
    pub(super) frame: u32,
}

/// Fewer frames than this are not worth the time to trim them.
const TRIM_FROM: usize = 1 << 20;

/// Collects frames in any order.
#[derive(Debug, Default)]
pub(super) struct PageIndexBuilder {
    entries: Vec<Logged>,
    /// How many there were after they were trimmed.
    trimmed: usize,
}

impl PageIndexBuilder {
    /// Adds a frame; `false` if that is a frame of no page, which no log has.
    pub(super) fn push(&mut self, page: u32, frame: u32) -> bool {
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

/// Sorts, and leaves one entry of each page.
fn keep_newest(entries: &mut Vec<Logged>) {
    entries.sort_unstable();
    // The newest frame of a page stands last among its equals.
    entries.reverse();
    entries.dedup_by_key(|entry| entry.page);
    entries.reverse();
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
