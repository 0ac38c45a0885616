//! One page of a commit as a record of the log.

use std::ops::Range;

use crate::engine::wal::delta;
use crate::engine::wal::record::{
    COMMIT_BYTES, IMAGE_HEAD_BYTES, RecordKind, encode_image, framed_bytes,
};
use crate::lsn::Lsn;
use crate::page::{PageBuf, PageNo};

/// A run of zeros in a page, which the record of its image leaves out.
pub(crate) type Hole = Range<usize>;

/// How a page stands in the log. It is fixed before the page is sealed: every page carries the LSN of
/// its commit's end, so the sizes of all records come first.
#[derive(Debug)]
pub(crate) enum Form {
    Image {
        hole: Hole,
    },
    Delta {
        base: Lsn,
        ranges: Vec<Range<usize>>,
    },
}

/// Bytes of the log that a Commit record takes.
pub(crate) fn commit_record_bytes() -> u64 {
    framed_bytes(COMMIT_BYTES) as u64
}

impl Form {
    /// A delta to `before`, the committed image that one may refer to, where it takes less than half
    /// of an image.
    pub(crate) fn of(before: Option<&PageBuf>, after: &[u8]) -> Self {
        let delta = before.and_then(|before| {
            let ranges = delta::changed_ranges(before, after, after.len() / 2)?;
            let base = before.lsn();
            Some(Self::Delta { base, ranges })
        });
        delta.unwrap_or_else(|| Self::Image {
            hole: longest_zeros(after),
        })
    }

    /// Bytes of the log that the record of a page of `page_bytes` takes.
    pub(crate) fn record_bytes(&self, page_bytes: usize) -> u64 {
        let payload_bytes = match self {
            Self::Image { hole } => IMAGE_HEAD_BYTES + page_bytes - hole.len(),
            Self::Delta { ranges, .. } => delta::delta_bytes(ranges),
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
            Self::Delta { base, ranges } => (
                RecordKind::PageDelta,
                delta::encode_delta(page, *base, after, ranges),
            ),
        }
    }
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
