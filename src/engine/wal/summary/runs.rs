//! Sets of pages as runs.

#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use crate::page::PageNo;

/// Pages in ascending runs that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageRuns(Vec<Range<u64>>);

impl PageRuns {
    pub(super) fn from_pages(pages: &[PageNo]) -> Self {
        let mut gathered = Gathering::default();
        pages.iter().for_each(|page| gathered.add_page(*page));
        gathered.finish()
    }

    pub(super) fn into_ranges(self) -> Vec<Range<u64>> {
        self.0
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The payload of an entry. Where that would be longer than `bytes_max`, small gaps are closed: the
    /// set then has more pages, never fewer.
    pub(super) fn encode(&self, bytes_max: usize) -> (Vec<u8>, usize) {
        let mut gap = 1;
        let mut set = self.clone();
        loop {
            let payload = set.payload();
            if payload.len() <= bytes_max || set.count() <= 1 {
                return (payload, set.count());
            }
            set = Self(merged(set.0.into_iter(), gap));
            gap = gap.saturating_mul(2);
        }
    }

    fn payload(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * 3);
        let mut last = 0;
        for run in &self.0 {
            push_leb128(&mut out, run.start - last);
            push_leb128(&mut out, run.end - run.start);
            last = run.end;
        }
        out
    }

    /// Errors: `None` if it is not `count` runs and nothing else.
    pub(super) fn decode(payload: &[u8], count: u32) -> Option<Self> {
        let mut bytes = payload.iter().copied();
        let mut runs = Vec::new();
        let mut last = 0_u64;
        for _ in 0..count {
            let start = last.checked_add(take_leb128(&mut bytes)?)?;
            let end = start.checked_add(take_leb128(&mut bytes)?)?;
            if start == end || (start == last && !runs.is_empty()) {
                return None;
            }
            runs.push(start..end);
            last = end;
        }
        bytes.next().is_none().then_some(Self(runs))
    }
}

/// A set in the making: takes runs in any order.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    all: Vec<Range<u64>>,
    /// Not sorted in yet.
    later: Vec<Range<u64>>,
}

/// So many runs wait at least before they are sorted in: memory is for the runs that are in the set, as
/// many again, and these.
const LATER_MIN: usize = 1 << 16;

impl Gathering {
    pub(super) fn add_page(&mut self, page: PageNo) {
        self.add(page.0..page.0.saturating_add(1));
    }

    pub(super) fn add_all(&mut self, runs: PageRuns) {
        runs.0.into_iter().for_each(|run| self.add(run));
    }

    fn add(&mut self, run: Range<u64>) {
        self.later.push(run);
        if self.later.len() > self.all.len() + LATER_MIN {
            self.sort_in();
        }
    }

    fn sort_in(&mut self) {
        self.all.append(&mut self.later);
        self.all.sort_unstable_by_key(|run| run.start);
        self.all = merged(std::mem::take(&mut self.all).into_iter(), 0);
    }

    pub(super) fn finish(mut self) -> PageRuns {
        self.sort_in();
        PageRuns(self.all)
    }
}

/// Joins ascending runs that overlap or have no more than `gap` pages between them.
fn merged(runs: impl Iterator<Item = Range<u64>>, gap: u64) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    for run in runs {
        match out.last_mut() {
            Some(last) if run.start <= last.end.saturating_add(gap) => {
                last.end = last.end.max(run.end);
            }
            _ => out.push(run),
        }
    }
    out
}

pub(super) fn push_leb128(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

pub(super) fn take_leb128(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.next()?;
        let bits = u64::from(byte & 0x7f);
        if bits.checked_shl(shift)? >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::random::SeededRandom;

    fn draw(random: &SeededRandom) -> Vec<PageNo> {
        let count = random.next() % 400;
        let pages = (0..count).map(|_| random.next() >> (random.next() % 60));
        pages.map(PageNo).collect()
    }

    fn numbers(runs: &PageRuns) -> u64 {
        runs.0.iter().map(|run| run.end - run.start).sum()
    }

    /// W7: an encoded set has all its pages, and no others unless it would be too long.
    #[test]
    fn encoded_runs_decode_to_at_least_themselves() {
        let random = SeededRandom::new(5);
        for _ in 0..300 {
            let pages = draw(&random);
            let runs = PageRuns::from_pages(&pages);
            let (payload, count) = runs.encode(usize::MAX);
            let count = u32::try_from(count).unwrap();
            assert_eq!(PageRuns::decode(&payload, count), Some(runs.clone()));
            assert_eq!(PageRuns::decode(&payload, count + 1), None);
            let bytes_max = 1 + usize::try_from(random.next() % 200).unwrap();
            let (payload, count) = runs.encode(bytes_max);
            assert!(payload.len() <= bytes_max || count <= 1);
            let coarse = PageRuns::decode(&payload, u32::try_from(count).unwrap()).unwrap();
            assert!(numbers(&coarse) >= numbers(&runs));
            for page in pages {
                assert!(coarse.0.iter().any(|run| run.contains(&page.0)));
            }
        }
    }

    /// Whatever the bytes are, they are runs in order or nothing.
    #[test]
    fn runs_of_random_bytes_are_refused_or_in_order() {
        let random = SeededRandom::new(6);
        let mut accepted = 0;
        for _ in 0..20_000 {
            let length = random.next() % 12;
            let mask = if random.next().is_multiple_of(2) {
                0x7f
            } else {
                0xff
            };
            let bytes: Vec<u8> = (0..length)
                .map(|_| u8::try_from(random.next() & mask).unwrap())
                .collect();
            let count = u32::try_from(length / 2).unwrap();
            let Some(runs) = PageRuns::decode(&bytes, count) else {
                continue;
            };
            accepted += 1;
            assert!(runs.0.iter().all(|run| run.start < run.end));
            assert!(runs.0.windows(2).all(|two| two[0].end < two[1].start));
        }
        assert!(accepted > 100, "{accepted}");
    }

    #[test]
    fn gathered_pages_are_the_same_in_any_order() {
        let mut gathering = Gathering::default();
        for page in (0..300_000).rev() {
            gathering.add_page(PageNo(page % 70_000 * 2));
        }
        let all: Vec<_> = (0..70_000).map(|page| page * 2..page * 2 + 1).collect();
        assert_eq!(gathering.finish().into_ranges(), all);
    }
}
