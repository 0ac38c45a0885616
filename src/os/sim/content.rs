//! What a simulated file holds: what the page cache shows, what the disk has, and what is between.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::os::random::SeededRandom;

/// What the disk writes in one piece.
pub(super) const SECTOR_BYTES: usize = 512;

/// The unit of allocation, as on most file systems.
pub(super) const BLOCK_BYTES: usize = 4096;

/// Un-synced bytes that the kernel lets gather in one file before it writes the oldest by itself.
const PENDING_BYTES_MAX: usize = 64 << 20;

/// Sparse bytes and a size. Bytes at or past the size are zero whenever it is not being replayed.
#[derive(Clone, Debug, Default)]
struct Content {
    size: u64,
    blocks: BTreeMap<u64, Arc<[u8; BLOCK_BYTES]>>,
}

/// A change that is in the page cache only.
#[derive(Clone, Debug)]
enum Change {
    Data { offset: u64, bytes: Arc<[u8]> },
    Punch { offset: u64, bytes: u64 },
    Grow { size: u64 },
    Shrink { size: u64 },
}

/// A file's content in the page cache and on the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct FileContent {
    current: Content,
    durable: Content,
    /// In the order in which they were made.
    pending: VecDeque<Change>,
    pending_bytes: usize,
}

/// How likely a change that was not synced is on the disk, in eighths.
///
/// Drawn per file and crash, so that "all of this file and nothing of that one" is seen often.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeepOdds(u64);

impl KeepOdds {
    pub(super) fn draw(random: &SeededRandom) -> Self {
        let index = random.below(5);
        Self(
            [0, 1, 4, 7, 8]
                .into_iter()
                .nth(usize::try_from(index).unwrap_or(0))
                .unwrap_or(4),
        )
    }

    pub(super) fn keeps(self, random: &SeededRandom) -> bool {
        random.below(8) < self.0
    }
}

impl FileContent {
    pub(super) fn size(&self) -> u64 {
        self.current.size
    }

    /// Bytes that the page cache's view of the file occupies on the disk.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.current.blocks.len() as u64 * BLOCK_BYTES as u64
    }

    pub(super) fn read(&self, out: &mut [u8], offset: u64) -> usize {
        self.current.read(out, offset)
    }

    /// How many of `length` bytes from `offset` on fit if `free_blocks` blocks may be allocated.
    pub(super) fn bytes_that_fit(&self, offset: u64, length: usize, mut free_blocks: u64) -> usize {
        for (block, _, range) in pieces(offset, length, BLOCK_BYTES) {
            if !self.current.blocks.contains_key(&block) {
                if free_blocks == 0 {
                    return range.start;
                }
                free_blocks -= 1;
            }
        }
        length
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        self.current.put(bytes, offset);
        self.pending_bytes += bytes.len();
        self.pending.push_back(Change::Data {
            offset,
            bytes: bytes.into(),
        });
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.current.size {
            self.current.size = end;
            self.pending.push_back(Change::Grow { size: end });
        }
        self.write_back_the_oldest();
    }

    pub(super) fn set_len(&mut self, size: u64) {
        let change = match size.cmp(&self.current.size) {
            std::cmp::Ordering::Less => Change::Shrink { size },
            std::cmp::Ordering::Equal => return,
            std::cmp::Ordering::Greater => Change::Grow { size },
        };
        self.current.resize(size);
        self.pending.push_back(change);
    }

    /// Like data that are zeros, but their blocks are free.
    pub(super) fn punch(&mut self, offset: u64, bytes: u64) {
        self.current.punch(offset, bytes);
        self.pending.push_back(Change::Punch { offset, bytes });
    }

    /// What a sync that succeeds does: the disk gets everything that was not lost before.
    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            self.durable.apply(&change);
        }
        self.pending_bytes = 0;
        // A sync that failed may have lost a size; this one vouches for the size of today.
        self.durable.resize(self.current.size);
    }

    /// What a sync that fails does: of each change it is decided for good whether the disk has it.
    ///
    /// The page cache goes on to show all of it, and a later sync does not write it again: this is
    /// what Linux does after it could not write a page.
    pub(super) fn fail_sync(&mut self, random: &SeededRandom) {
        self.durable = self.after_crash(random);
        self.pending.clear();
        self.pending_bytes = 0;
    }

    /// A file that a machine finds after it crashed; nothing of it is un-synced.
    pub(super) fn crashed(&self, random: &SeededRandom) -> Self {
        let durable = self.after_crash(random);
        Self {
            current: durable.clone(),
            durable,
            ..Self::default()
        }
    }

    fn after_crash(&self, random: &SeededRandom) -> Content {
        let (data, sizes) = (KeepOdds::draw(random), KeepOdds::draw(random));
        let mut content = self.durable.clone();
        for change in &self.pending {
            match change {
                Change::Data { offset, bytes } => {
                    for (_, at, range) in pieces(*offset, bytes.len(), SECTOR_BYTES) {
                        if data.keeps(random) {
                            content.put(bytes.get(range).unwrap_or_default(), at);
                        }
                    }
                }
                Change::Punch { .. } | Change::Grow { .. } | Change::Shrink { .. } => {
                    if sizes.keeps(random) {
                        content.apply(change);
                    }
                }
            }
        }
        let size = content.size;
        content.resize(size);
        content
    }

    fn write_back_the_oldest(&mut self) {
        if self.pending_bytes <= PENDING_BYTES_MAX {
            return;
        }
        while self.pending_bytes > PENDING_BYTES_MAX / 2 {
            let Some(change) = self.pending.pop_front() else {
                break;
            };
            if let Change::Data { bytes, .. } = &change {
                self.pending_bytes -= bytes.len();
            }
            self.durable.apply(&change);
        }
    }
}

impl Content {
    fn read(&self, out: &mut [u8], offset: u64) -> usize {
        let rest = self.size.saturating_sub(offset);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(out.len());
        for (block, at, range) in pieces(offset, length, BLOCK_BYTES) {
            let start = within_block(at);
            let target = out.get_mut(range).unwrap_or_default();
            match self.blocks.get(&block) {
                Some(bytes) => {
                    let source = bytes.iter().skip(start);
                    target
                        .iter_mut()
                        .zip(source)
                        .for_each(|(target, byte)| *target = *byte);
                }
                None => target.fill(0),
            }
        }
        length
    }

    /// Puts bytes in place and leaves the size alone.
    fn put(&mut self, bytes: &[u8], offset: u64) {
        for (block, at, range) in pieces(offset, bytes.len(), BLOCK_BYTES) {
            let target = self
                .blocks
                .entry(block)
                .or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
            let target = Arc::make_mut(target).iter_mut().skip(within_block(at));
            let source = bytes.get(range).unwrap_or_default();
            target
                .zip(source)
                .for_each(|(target, byte)| *target = *byte);
        }
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Data { offset, bytes } => self.put(bytes, *offset),
            Change::Punch { offset, bytes } => self.punch(*offset, *bytes),
            Change::Grow { size } => self.size = *size,
            Change::Shrink { size } => self.resize(*size),
        }
    }

    fn punch(&mut self, offset: u64, bytes: u64) {
        let end = offset.saturating_add(bytes);
        let unit = BLOCK_BYTES as u64;
        let touched: Vec<u64> = self
            .blocks
            .range(offset / unit..end.div_ceil(unit))
            .map(|(block, _)| *block)
            .collect();
        for block in touched {
            let first = offset.max(block * unit) - block * unit;
            let last = end.min((block + 1) * unit) - block * unit;
            if (first, last) == (0, unit) {
                self.blocks.remove(&block);
            } else if let Some(bytes) = self.blocks.get_mut(&block) {
                Arc::make_mut(bytes)
                    .iter_mut()
                    .zip(0..last)
                    .filter(|(_, at)| *at >= first)
                    .for_each(|(byte, _)| *byte = 0);
            }
        }
    }

    /// Sets the size; what lies past it is gone for good and reads as zeros if the file grows again.
    fn resize(&mut self, size: u64) {
        self.size = size;
        let whole_blocks = size.div_ceil(BLOCK_BYTES as u64);
        drop(self.blocks.split_off(&whole_blocks));
        let kept = within_block(size);
        if kept > 0
            && let Some(last) = self.blocks.get_mut(&(size / BLOCK_BYTES as u64))
        {
            Arc::make_mut(last)
                .iter_mut()
                .skip(kept)
                .for_each(|byte| *byte = 0);
        }
    }
}

fn within_block(offset: u64) -> usize {
    usize::try_from(offset % BLOCK_BYTES as u64).expect("less than a block")
}

/// Cuts `length` bytes at `offset` where units of `unit_bytes` begin: the number of the unit, the
/// offset of the piece in the file, and its range in the buffer.
fn pieces(
    offset: u64,
    length: usize,
    unit_bytes: usize,
) -> impl Iterator<Item = (u64, u64, std::ops::Range<usize>)> {
    let unit = unit_bytes as u64;
    let mut start = 0;
    std::iter::from_fn(move || {
        if start >= length {
            return None;
        }
        let at = offset.saturating_add(start as u64);
        let room = unit_bytes - usize::try_from(at % unit).expect("less than a unit");
        let end = length.min(start.saturating_add(room));
        let piece = (at / unit, at, start..end);
        start = end;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn bytes_of(file: &FileContent) -> Vec<u8> {
        let mut out = vec![0xee; usize::try_from(file.size()).unwrap()];
        assert_eq!(file.read(&mut out, 0), out.len());
        out
    }

    fn crash(file: &FileContent, seed: u64) -> Vec<u8> {
        bytes_of(&file.crashed(&SeededRandom::new(seed)))
    }

    #[test]
    fn pieces_end_where_units_begin() {
        let cut: Vec<_> = pieces(500, 600, 512).collect();
        assert_eq!(
            cut,
            [(0, 500, 0..12), (1, 512, 12..524), (2, 1024, 524..600)]
        );
        assert_eq!(
            pieces(512, 512, 512).collect::<Vec<_>>(),
            [(1, 512, 0..512)]
        );
        assert_eq!(pieces(5, 0, 512).count(), 0);
    }

    #[test]
    fn shrunken_part_reads_as_zeros_after_growing_again() {
        let mut file = FileContent::default();
        file.write(&[7; 9000], 0);
        file.set_len(5000);
        file.set_len(9000);
        let bytes = bytes_of(&file);
        assert!(bytes[..5000].iter().all(|byte| *byte == 7));
        assert!(bytes[5000..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn allocation_counts_blocks_that_were_written_and_no_holes() {
        let mut file = FileContent::default();
        file.set_len(1 << 40);
        assert_eq!(file.allocated_bytes(), 0);
        file.write(&[1], 1 << 30);
        assert_eq!(file.allocated_bytes(), BLOCK_BYTES as u64);
        assert_eq!(file.bytes_that_fit((1 << 30) + 4000, 5000, 0), 96);
        assert_eq!(file.bytes_that_fit((1 << 30) + 4000, 5000, 1), 96 + 4096);
        file.set_len(0);
        assert_eq!(file.allocated_bytes(), 0);
    }

    #[test]
    fn hole_reads_as_zeros_frees_whole_blocks_and_keeps_the_size() {
        let mut file = FileContent::default();
        file.write(&[7; 5 * BLOCK_BYTES], 0);
        file.sync();
        file.punch(100, 3 * BLOCK_BYTES as u64);
        assert_eq!(file.allocated_bytes(), 3 * BLOCK_BYTES as u64);
        let bytes = bytes_of(&file);
        let end = 100 + 3 * BLOCK_BYTES;
        assert!((100..end).all(|at| bytes[at] == 0));
        assert!((0..100).chain(end..bytes.len()).all(|at| bytes[at] == 7));
        let seen: BTreeSet<u8> = (0..100).map(|seed| crash(&file, seed)[200]).collect();
        assert_eq!(seen, BTreeSet::from([0, 7]), "kept or lost, as a write is");
    }

    #[test]
    fn synced_content_survives_every_crash() {
        let mut file = FileContent::default();
        file.write(&[1; 3000], 100);
        file.sync();
        for seed in 0..200 {
            assert_eq!(crash(&file, seed), bytes_of(&file));
        }
    }

    /// Each sector of an overwrite is the old one or the new one, never a mixture, and every
    /// combination of two sectors comes up.
    #[test]
    fn unsynced_overwrite_tears_between_sectors_and_nowhere_else() {
        let mut file = FileContent::default();
        file.write(&[1; 1024], 0);
        file.sync();
        file.write(&[2; 1024], 0);
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let bytes = crash(&file, seed);
            assert_eq!(bytes.len(), 1024);
            let sectors: Vec<u8> = bytes
                .chunks(SECTOR_BYTES)
                .map(|sector| {
                    assert!(sector.iter().all(|byte| *byte == sector[0]), "seed {seed}");
                    sector[0]
                })
                .collect();
            seen.insert(sectors);
        }
        let every = [[1, 1], [1, 2], [2, 1], [2, 2]].map(|pair| pair.to_vec());
        assert_eq!(seen, BTreeSet::from(every));
    }

    /// A later write may be on the disk while an earlier one to another place is not.
    #[test]
    fn unsynced_writes_reach_the_disk_in_any_order() {
        let mut file = FileContent::default();
        file.set_len(1024);
        file.sync();
        file.write(&[1], 0);
        file.write(&[2], 512);
        let seen: BTreeSet<_> = (0..200)
            .map(|seed| crash(&file, seed))
            .map(|bytes| (bytes[0], bytes[512]))
            .collect();
        assert_eq!(seen, BTreeSet::from([(0, 0), (0, 2), (1, 0), (1, 2)]));
    }

    /// Zeros where the size arrived without the data, and a short file where only the data did.
    #[test]
    fn unsynced_append_may_lose_size_or_data() {
        let mut file = FileContent::default();
        file.write(&[1; 512], 0);
        file.sync();
        file.write(&[2; 512], 512);
        let seen: BTreeSet<_> = (0..200)
            .map(|seed| crash(&file, seed))
            .map(|bytes| (bytes.len(), bytes.get(512).copied()))
            .collect();
        assert_eq!(
            seen,
            BTreeSet::from([(512, None), (1024, Some(0)), (1024, Some(2))])
        );
    }

    #[test]
    fn unsynced_cut_may_be_lost_and_a_synced_one_may_not() {
        let mut file = FileContent::default();
        file.write(&[1; 2048], 0);
        file.sync();
        file.set_len(100);
        let seen: BTreeSet<_> = (0..200).map(|seed| crash(&file, seed).len()).collect();
        assert_eq!(seen, BTreeSet::from([100, 2048]));
        file.sync();
        assert!((0..200).all(|seed| crash(&file, seed) == [1; 100]));
    }

    /// The page cache shows the data, the next sync succeeds, and yet the disk may never get them.
    #[test]
    fn data_of_a_failed_sync_may_be_lost_for_good() {
        let mut kept = BTreeSet::new();
        for seed in 0..100 {
            let mut file = FileContent::default();
            file.write(&[1; 512], 0);
            file.sync();
            file.write(&[2; 512], 0);
            file.fail_sync(&SeededRandom::new(seed));
            assert_eq!(bytes_of(&file), [2; 512]);
            file.write(&[3; 512], 512);
            file.sync();
            let found = crash(&file, 0);
            assert_eq!(found.len(), 1024);
            assert!(
                found[512..].iter().all(|byte| *byte == 3),
                "synced after the failure"
            );
            kept.insert(found[0]);
        }
        assert_eq!(kept, BTreeSet::from([1, 2]));
    }

    /// The failed sync may have lost the size, but what is written and synced after it counts.
    #[test]
    fn sync_after_a_failed_one_vouches_for_the_size() {
        for seed in 0..100 {
            let mut file = FileContent::default();
            file.write(&[1; 1024], 0);
            file.fail_sync(&SeededRandom::new(seed));
            file.write(&[2; 1024], 0);
            file.sync();
            assert_eq!(crash(&file, 0), [2; 1024]);
        }
    }

    #[test]
    fn files_that_are_never_synced_do_not_gather_changes_for_ever() {
        let mut file = FileContent::default();
        for _ in 0..130 {
            file.write(&vec![1; 1 << 20], 0);
        }
        assert!(file.pending_bytes <= PENDING_BYTES_MAX);
        assert!(file.pending.len() < 130);
    }
}
