//! One page of a commit as a record of the log.

use std::ops::Range;

use crate::engine::wal::delta;
use crate::engine::wal::record::{
    COMMIT_BYTES, IMAGE_HEAD_BYTES, RecordKind, encode_image, framed_bytes,
};
use crate::lsn::Lsn;
use crate::page::{PAGE_HEADER_BYTES, PageBuf, PageNo};

/// A run of zeros in a page, which the record of its image leaves out.
pub(crate) type Hole = Range<usize>;

/// How a page stands in the log. It is fixed before the page is sealed: every page carries the LSN of
/// its commit's end, so the sizes of all records come first.
#[derive(Debug)]
pub(crate) enum Form {
    Image { hole: Hole },
    Delta(Change),
}

/// Where a page differs from what it was, LSN and checksum aside.
#[derive(Debug)]
pub(crate) struct Change {
    /// LSN of the page before.
    pub(crate) base: Lsn,
    /// Ascending, with equal bytes between them.
    pub(crate) ranges: Vec<Range<usize>>,
}

/// Where a page may differ from what it was, LSN and checksum aside.
#[derive(Debug)]
pub(crate) enum Extent {
    Anywhere,
    /// Nowhere else: in any order, and they may overlap.
    Within(Vec<Range<usize>>),
}

/// More places than this are not remembered.
const PLACES_MAX: usize = 32;

impl Extent {
    /// Here too.
    pub(crate) fn add(&mut self, place: Range<usize>) {
        match self {
            Self::Within(places)
                if place.start < PAGE_HEADER_BYTES || places.len() >= PLACES_MAX =>
            {
                *self = Self::Anywhere;
            }
            Self::Within(places) => places.push(place),
            Self::Anywhere => {}
        }
    }

    /// The places as `changed_ranges` wants them.
    fn into_ranges(self, page_bytes: usize) -> Vec<Range<usize>> {
        let Self::Within(mut places) = self else {
            return delta::anywhere(page_bytes).to_vec();
        };
        places.sort_unstable_by_key(|place| place.start);
        places.dedup_by(|next, last| {
            let is_apart = next.start > last.end;
            if !is_apart {
                last.end = last.end.max(next.end);
            }
            !is_apart
        });
        places
    }
}

/// Bytes of the log that a Commit record takes.
pub(crate) fn commit_record_bytes() -> u64 {
    framed_bytes(COMMIT_BYTES) as u64
}

impl Form {
    /// A delta to `before`, the committed image that one may refer to, where it takes less than half
    /// of an image. Outside of `extent` both are the same.
    pub(crate) fn of(before: Option<&PageBuf>, after: &[u8], extent: Extent) -> Self {
        let delta = before.and_then(|before| {
            let within = extent.into_ranges(after.len());
            let ranges = delta::changed_ranges(before, after, &within, after.len() / 2)?;
            debug_assert!(is_whole_change(before, after, &ranges));
            let base = before.lsn();
            Some(Self::Delta(Change { base, ranges }))
        });
        delta.unwrap_or_else(|| Self::Image {
            hole: longest_zeros(after),
        })
    }

    /// Bytes of the log that the record of a page of `page_bytes` takes.
    pub(crate) fn record_bytes(&self, page_bytes: usize) -> u64 {
        let payload_bytes = match self {
            Self::Image { hole } => IMAGE_HEAD_BYTES + page_bytes - hole.len(),
            Self::Delta(change) => delta::delta_bytes(&change.ranges),
        };
        framed_bytes(payload_bytes) as u64
    }

    /// The record of `page`, whose image `after` is sealed.
    pub(crate) fn encode(&self, page: PageNo, after: &[u8]) -> (RecordKind, Vec<u8>) {
        match self {
            Self::Image { hole } => (
                RecordKind::PageImage,
                encode_image(page, after, hole.clone()),
            ),
            Self::Delta(Change { base, ranges }) => (
                RecordKind::PageDelta,
                delta::encode_delta(page, *base, after, ranges),
            ),
        }
    }
}

/// Whether a look at all bytes finds the same.
fn is_whole_change(before: &[u8], after: &[u8], ranges: &[Range<usize>]) -> bool {
    let anywhere = delta::anywhere(after.len());
    delta::changed_ranges(before, after, &anywhere, usize::MAX).as_deref() == Some(ranges)
}

/// The longest run of zero words in the body: unused space in a node, the tail of a short page.
pub(crate) fn longest_zeros(page: &[u8]) -> Hole {
    let mut best = 0..0;
    let mut run = 0..0;
    for (index, word) in page.chunks_exact(8).enumerate().skip(4) {
        if word == [0; 8] {
            if run.is_empty() {
                run.start = index * 8;
            }
            run.end = index * 8 + 8;
            if run.len() > best.len() {
                best = run.clone();
            }
        } else {
            run = 0..0;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec;
    use crate::page::{PageKind, PageSize};

    proptest! {
        /// Recovery takes the ranges for all that changed. Those found in the places that were written are those that
        /// a look at the whole page finds; with too many places the whole page is looked at.
        #[test]
        fn ranges_within_what_was_written_are_those_of_the_whole_page(
            writes in proptest::collection::vec((32_usize..8100, 1_usize..120, any::<u8>()), 0..40),
        ) {
            let mut before = PageBuf::formatted(PageSize::DEFAULT, PageNo(7), PageKind::Leaf);
            before.seal(Lsn(9));
            let mut after = before.clone();
            let mut extent = Extent::Within(Vec::new());
            for (offset, bytes, step) in writes {
                // What is written where something is written already is often the same.
                let end = (offset + bytes).min(after.len());
                let place = after.get(offset..end).unwrap_or_default();
                let new: Vec<u8> = place.iter().map(|byte| byte ^ (step & 3)).collect();
                codec::put(&mut after, offset, &new);
                extent.add(offset..end);
            }
            let anywhere = Form::of(Some(&before), &after, Extent::Anywhere);
            let Form::Delta(anywhere) = anywhere else {
                return Ok(());
            };
            let Form::Delta(within) = Form::of(Some(&before), &after, extent) else {
                return Err(TestCaseError::fail("the same differences make the same form"));
            };
            prop_assert_eq!(&within.ranges, &anywhere.ranges);
            prop_assert_eq!(within.base, anywhere.base);
            let mut whole = after.clone();
            whole.seal(Lsn(55));
            after.seal_changed(&before, &within.ranges, Lsn(55));
            prop_assert!(after == whole);
        }
    }
}
