//! Deltas: which bytes of a page changed, and the page that they make.

use std::ops::Range;

use crate::codec;
use crate::engine::error::LogFault;
use crate::engine::wal::record::{DELTA_HEAD_BYTES, DeltaRecord, RANGE_HEAD_BYTES};
use crate::fault::{self, Fault};
use crate::lsn::Lsn;
use crate::page::{self, LSN_FIELD, PageBuf, PageNo};

/// Equal bytes between two changes that are worth a range of their own.
const GAP_BYTES: usize = 16;

/// The ranges in which `after` differs from `before`, LSN and checksum aside: they follow from the commit. Bytes
/// outside of `within` are not looked at and have not changed. `None` as soon as the record of the ranges would have
/// more than `payload_bytes_max` bytes.
///
/// Shape: `within` ascends, none reaches into the next or into these two fields.
pub(super) fn changed_ranges(
    before: &[u8],
    after: &[u8],
    within: &[Range<usize>],
    payload_bytes_max: usize,
) -> Option<Vec<Range<usize>>> {
    let is_front = |at: usize| at < LSN_FIELD.start;
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut bytes = DELTA_HEAD_BYTES;
    for part in within {
        let mut at = part.start;
        while let Some(found) = first_difference(before, after, at..part.end) {
            match ranges.last_mut() {
                Some(last)
                    if found - last.end < GAP_BYTES && is_front(last.start) == is_front(found) =>
                {
                    bytes += found + 1 - last.end;
                    last.end = found + 1;
                }
                _ => {
                    bytes += RANGE_HEAD_BYTES + 1;
                    ranges.push(found..found + 1);
                }
            }
            if bytes > payload_bytes_max {
                return None;
            }
            at = found + 1;
        }
    }
    Some(ranges)
}

/// Where two pages of so many bytes can differ at all, LSN and checksum aside.
pub(super) fn anywhere(page_bytes: usize) -> [Range<usize>; 2] {
    [4..LSN_FIELD.start, LSN_FIELD.end..page_bytes]
}

fn first_difference(before: &[u8], after: &[u8], within: Range<usize>) -> Option<usize> {
    let (old, new) = (&before[within.clone()], &after[within.clone()]);
    // Blocks first, then words: most of a page is equal.
    let skip = equal_blocks::<64>(old, new);
    let skip = skip + equal_blocks::<8>(&old[skip..], &new[skip..]);
    let rest = old[skip..]
        .iter()
        .zip(&new[skip..])
        .position(|(old, new)| old != new)?;
    Some(within.start + skip + rest)
}

/// Length in bytes of the blocks at the beginning that are equal.
fn equal_blocks<const BYTES: usize>(old: &[u8], new: &[u8]) -> usize {
    let (old, new) = (old.as_chunks::<BYTES>().0, new.as_chunks::<BYTES>().0);
    let blocks = old.iter().zip(new);
    BYTES * blocks.take_while(|(old, new)| old == new).count()
}

/// The payload of a PageDelta record; `after` is sealed.
pub(super) fn encode_delta(
    page: PageNo,
    base: Lsn,
    after: &[u8],
    ranges: &[Range<usize>],
) -> Vec<u8> {
    let count = u32::try_from(ranges.len()).expect("a page has at most 64 KiB");
    let mut out = Vec::with_capacity(delta_bytes(ranges));
    out.extend_from_slice(&page.0.to_le_bytes());
    out.extend_from_slice(&base.0.to_le_bytes());
    out.extend_from_slice(&page::stored_crc(after).to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    for range in ranges {
        let offset = u32::try_from(range.start).expect("a page has at most 64 KiB");
        let bytes = u32::try_from(range.len()).expect("a page has at most 64 KiB");
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&after[range.clone()]);
    }
    out
}

/// Bytes of the payload that [`encode_delta`] makes.
pub(super) fn delta_bytes(ranges: &[Range<usize>]) -> usize {
    DELTA_HEAD_BYTES
        + ranges
            .iter()
            .map(|range| RANGE_HEAD_BYTES + range.len())
            .sum::<usize>()
}

/// The page that `delta` makes of `before`, sealed with the LSN of its commit.
///
/// Errors: `Delta` if `before` is not the page that the delta was made from, or the result is not
/// the one that was committed.
pub(crate) fn apply_delta(
    before: &PageBuf,
    delta: &DeltaRecord<'_>,
    commit_end: Lsn,
) -> Result<PageBuf, LogFault> {
    let mismatch = LogFault::Delta { page: delta.page };
    if before.lsn() != delta.base && !fault::is(Fault::TornDeltaAccepted) {
        return Err(mismatch);
    }
    let mut after = before.clone();
    for (offset, bytes) in &delta.ranges {
        codec::put(&mut after, *offset as usize, bytes);
    }
    after.seal(commit_end);
    if page::stored_crc(&after) == delta.result_crc || fault::is(Fault::TornDeltaAccepted) {
        Ok(after)
    } else {
        Err(mismatch)
    }
}

/// A page while the records of the log are applied to it, in their order. It is proved once, by what the last
/// of them says that it is; what an earlier one got wrong shows there too.
#[derive(Debug)]
pub(crate) struct PageReplay {
    page: PageBuf,
    /// Of the page as it is now; its header may say an older one.
    lsn: Lsn,
    /// No later commit may have written it.
    limit: Lsn,
    /// What its checksum is, by the last delta; an image has its own in it.
    result_crc: Option<u32>,
}

impl PageReplay {
    /// Begins with an image that a commit before `limit` or the one that ends there wrote.
    pub(crate) fn of(image: PageBuf, limit: Lsn) -> Self {
        Self {
            lsn: image.lsn(),
            page: image,
            limit,
            result_crc: None,
        }
    }

    /// Makes it the page of the commit that ends at `commit_end`.
    ///
    /// Errors: `Delta` if the delta was made from another page.
    pub(crate) fn apply(
        &mut self,
        delta: &DeltaRecord<'_>,
        commit_end: Lsn,
    ) -> Result<(), LogFault> {
        if self.lsn != delta.base && !fault::is(Fault::TornDeltaAccepted) {
            return Err(LogFault::Delta { page: delta.page });
        }
        for (offset, bytes) in &delta.ranges {
            codec::put(&mut self.page, *offset as usize, bytes);
        }
        (self.lsn, self.limit) = (commit_end, commit_end);
        self.result_crc = Some(delta.result_crc);
        Ok(())
    }

    /// The page, sealed.
    ///
    /// Errors: `Delta` if it is not what was committed as `page`.
    pub(crate) fn prove(mut self, page: PageNo) -> Result<PageBuf, LogFault> {
        let mismatch = LogFault::Delta { page };
        if let Some(result_crc) = self.result_crc {
            self.page.seal(self.lsn);
            let is_same = page::stored_crc(&self.page) == result_crc;
            if !is_same && !fault::is(Fault::TornDeltaAccepted) {
                return Err(mismatch);
            }
        }
        page::check(&self.page, page, self.limit).map_err(|_| mismatch)?;
        Ok(self.page)
    }
}
