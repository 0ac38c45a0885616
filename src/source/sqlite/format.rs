//! The words of SQLite's files: where what stands, and whether it can be right.
//!
//! ```text
//! database      0 "SQLite format 3\0"   16 page size   18 write version   19 read version   28 pages
//! -wal          0 magic   4 version   8 page size   12 checkpoints   16 salts   24 checksum of 0..24
//!   frame       0 page   4 pages after a commit, else 0   8 salts   16 checksum so far   24 the page
//! -shm          0 header   48 the same again   96 backfilled   100 five read marks   128 attempted
//!   header      0 version   8 changes   12 valid   13 big-endian   14 page size   16 frames
//!               20 pages   24 checksum of the last frame   32 salts   40 checksum of 0..40
//!   136         4062 page numbers, then hashes; at each 32768 after: 4096 page numbers, then hashes
//! ```
//!
//! Numbers of the database and the log are big-endian, those of the index in the order of the machine;
//! salts are compared as bytes. Nothing here reads a file; every input is hostile.
//! Source: SQLite's file format and wal-index documents, and `wal.c`.

#![deny(clippy::indexing_slicing)]

use std::ops::Range;

/// How a database file begins, unless it is encrypted.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Bytes that [`DatabaseHeader::parse`] wants to see.
pub(crate) const DATABASE_HEADER_BYTES: usize = 100;
/// The first of two magics of a log; the last bit says that its checksums are big-endian.
const WAL_MAGIC: u32 = 0x377f_0682;
/// The only version of a log, and of its index.
const VERSION: u32 = 3_007_000;
/// Bytes of the header of a log.
pub(crate) const WAL_HEADER_BYTES: usize = 32;
/// Bytes of the header of a frame.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;
/// Bytes of one of the two headers of an index.
pub(crate) const INDEX_HEADER_BYTES: usize = 48;
/// Bytes of an index before its page numbers.
pub(crate) const INDEX_START_BYTES: usize = 136;
/// Read marks.
pub(crate) const MARK_COUNT: usize = 5;
/// Where the first read mark is.
const MARKS_OFFSET: usize = 100;
/// Page numbers in the first block of an index, which begins with the header.
const FIRST_BLOCK_FRAMES: u64 = 4062;
/// Page numbers in every other block.
const BLOCK_FRAMES: u64 = 4096;
/// Bytes of a block.
const BLOCK_BYTES: u64 = 32_768;
/// Where SQLite locks a database file: no content is in the page that holds this byte.
pub(crate) const PENDING_BYTE: u64 = 0x4000_0000;

/// Salts of a log: drawn anew each time that it begins from the start.
pub(crate) type Salts = [u8; 8];

/// Which order the numbers are in that a checksum adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    /// Most significant first.
    Big,
    /// Least significant first.
    Little,
}

impl ByteOrder {
    const NATIVE: Self = if cfg!(target_endian = "big") {
        Self::Big
    } else {
        Self::Little
    };

    fn number(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Big => u32::from_be_bytes(bytes),
            Self::Little => u32::from_le_bytes(bytes),
        }
    }

    fn short(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Big => u16::from_be_bytes(bytes),
            Self::Little => u16::from_le_bytes(bytes),
        }
    }
}

/// SQLite's checksum, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checksum(u32, u32);

impl Checksum {
    /// Adds `bytes`, whose length is a multiple of 8; what is left over does not count.
    pub(crate) fn add(mut self, order: ByteOrder, bytes: &[u8]) -> Self {
        let (pairs, _) = bytes.as_chunks::<8>();
        for [a, b, c, d, e, f, g, h] in pairs {
            let first = order.number([*a, *b, *c, *d]);
            let second = order.number([*e, *f, *g, *h]);
            self.0 = self.0.wrapping_add(first).wrapping_add(self.1);
            self.1 = self.1.wrapping_add(second).wrapping_add(self.0);
        }
        self
    }

    /// Its two numbers in one.
    pub(crate) fn number(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.1)
    }

    fn at(order: ByteOrder, bytes: &[u8], offset: usize) -> Option<Self> {
        Some(Self(
            order.number(array(bytes, offset)?),
            order.number(array(bytes, offset + 4)?),
        ))
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Checksum {
    pub(crate) fn add_native(self, bytes: &[u8]) -> Self {
        self.add(ByteOrder::NATIVE, bytes)
    }

    pub(crate) fn native_bytes(self) -> [u8; 8] {
        let [a, b, c, d] = mark_bytes(self.0);
        let [e, f, g, h] = mark_bytes(self.1);
        [a, b, c, d, e, f, g, h]
    }

    pub(crate) fn big_bytes(self) -> [u8; 8] {
        self.number().to_be_bytes()
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl WalHeader {
    /// Makes the checksum right; gives how frames after it are to be made so.
    pub(crate) fn mend(bytes: &mut [u8]) -> Option<(ByteOrder, usize)> {
        let order = match big(bytes, 0)? & 1 {
            1 => ByteOrder::Big,
            _ => ByteOrder::Little,
        };
        let checksum = Checksum::default().add(order, bytes.get(..24)?);
        bytes
            .get_mut(24..32)?
            .copy_from_slice(&checksum.big_bytes());
        let page_bytes = usize::try_from(big(bytes, 8)?).ok()?;
        is_page_size(page_bytes as u64).then_some((order, page_bytes))
    }
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn big(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_be_bytes)
}

fn native(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(|number| ByteOrder::NATIVE.number(number))
}

fn is_page_size(bytes: u64) -> bool {
    (512..=65_536).contains(&bytes) && bytes.is_power_of_two()
}

/// The page size that 16 bits stand for: 1 is 65536. `None` if it is none, 0 included.
fn short_page_size(short: u16) -> Option<u64> {
    let bytes = match short {
        1 => 65_536,
        other => u64::from(other),
    };
    is_page_size(bytes).then_some(bytes)
}

/// How a database that is not encrypted begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DatabaseHeader {
    /// Bytes of a page.
    pub(crate) page_bytes: u64,
    /// 1 rollback journal, 2 log, 3 two logs.
    pub(crate) write_version: u8,
    /// The same for readers.
    pub(crate) read_version: u8,
}

impl DatabaseHeader {
    /// The header at the start of `bytes`; `None` if it is none. Only the first 20 bytes count.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let page_size = array(bytes, 16).map(u16::from_be_bytes)?;
        let header = Self {
            page_bytes: short_page_size(page_size)?,
            write_version: *bytes.get(18)?,
            read_version: *bytes.get(19)?,
        };
        bytes.starts_with(MAGIC).then_some(header)
    }
}

/// The header of a log, its checksum being right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalHeader {
    /// Bytes of a page.
    pub(crate) page_bytes: u64,
    /// Its salts.
    pub(crate) salts: Salts,
    /// The order of its checksums.
    pub(crate) order: ByteOrder,
    /// Its checksum, from which that of the first frame goes on.
    pub(crate) checksum: Checksum,
}

impl WalHeader {
    /// The header at the start of `bytes`; `None` if it is none that SQLite would take.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        Self::of_any_version(bytes).filter(|_| big(bytes, 4) == Some(VERSION))
    }

    /// Whether it is whole, and of a version that SQLite refuses.
    pub(crate) fn is_of_future(bytes: &[u8]) -> bool {
        Self::of_any_version(bytes).is_some() && big(bytes, 4) != Some(VERSION)
    }

    fn of_any_version(bytes: &[u8]) -> Option<Self> {
        let magic = big(bytes, 0)?;
        let page_bytes = u64::from(big(bytes, 8)?);
        if magic & !1 != WAL_MAGIC || !is_page_size(page_bytes) {
            return None;
        }
        let order = match magic & 1 {
            1 => ByteOrder::Big,
            _ => ByteOrder::Little,
        };
        let checksum = Checksum::default().add(order, bytes.get(..24)?);
        let salts = array(bytes, 16)?;
        (Checksum::at(ByteOrder::Big, bytes, 24)? == checksum).then_some(Self {
            page_bytes,
            salts,
            order,
            checksum,
        })
    }
}

/// The header of a frame, as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// SQLite's number of the page, from 1 on.
    pub(crate) page: u32,
    /// Pages of the database after the commit that ends here; 0 if none does.
    pub(crate) commit_pages: u32,
    /// The salts of the log that it belongs to.
    pub(crate) salts: Salts,
    /// The checksum of all frames up to this one.
    pub(crate) checksum: Checksum,
}

impl FrameHeader {
    /// The header at the start of `bytes`; `None` if they are too few.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            page: big(bytes, 0)?,
            commit_pages: big(bytes, 4)?,
            salts: array(bytes, 8)?,
            checksum: Checksum::at(ByteOrder::Big, bytes, 16)?,
        })
    }
}

/// Where frame `frame`, from 1 on, begins in a log.
pub(crate) fn frame_offset(frame: u32, page_bytes: u64) -> u64 {
    let frames = u64::from(frame.saturating_sub(1));
    WAL_HEADER_BYTES as u64 + frames * (FRAME_HEADER_BYTES as u64 + page_bytes)
}

/// The header of an index: one committed state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexHeader {
    /// Bytes of a page; `None` if no transaction was in the log when the index was made.
    pub(crate) page_bytes: Option<u64>,
    /// Frames of the log up to the last commit.
    pub(crate) frame_count: u32,
    /// Pages of the database; 0 if only the size of its file tells.
    pub(crate) page_count: u32,
    /// The checksum of the last frame.
    pub(crate) frame_checksum: Checksum,
    /// The salts of the log.
    pub(crate) salts: Salts,
}

impl IndexHeader {
    /// The header of which `bytes` begin with both copies; `None` while one is written, and if it is
    /// damaged.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let first: [u8; INDEX_HEADER_BYTES] = array(bytes, 0)?;
        let second: [u8; INDEX_HEADER_BYTES] = array(bytes, INDEX_HEADER_BYTES)?;
        let [.., is_valid, _, _, _] = *first.first_chunk::<16>()?;
        let checksum = Checksum::default().add(ByteOrder::NATIVE, first.get(..40)?);
        let is_right = first == second
            && is_valid != 0
            && native(&first, 0)? == VERSION
            && Checksum::at(ByteOrder::NATIVE, &first, 40)? == checksum;
        if !is_right {
            return None;
        }
        let page_size = array(&first, 14).map(|short| ByteOrder::NATIVE.short(short))?;
        let frame_count = native(&first, 16)?;
        let page_bytes = short_page_size(page_size);
        // A page size is known as soon as there is a frame, and a commit leaves at least one page.
        let page_count = native(&first, 20)?;
        let is_empty = page_size == 0 && frame_count == 0 && page_count == 0;
        if page_bytes.is_none() && !is_empty || page_count == 0 && frame_count != 0 {
            return None;
        }
        Some(Self {
            page_bytes,
            frame_count,
            page_count,
            frame_checksum: Checksum::at(ByteOrder::NATIVE, &first, 24)?,
            salts: array(&first, 32)?,
        })
    }
}

/// What an index has beside its header: what checkpoints did, and what readers hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointState {
    /// Frames that are in the database file already.
    pub(crate) backfilled: u32,
    /// The read marks.
    pub(crate) marks: [u32; MARK_COUNT],
}

impl CheckpointState {
    /// The state in the start of an index; `None` if the bytes are too few.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut marks = [0; MARK_COUNT];
        for (slot, mark) in marks.iter_mut().enumerate() {
            *mark = native(bytes, MARKS_OFFSET + 4 * slot)?;
        }
        let backfilled = native(bytes, 96)?;
        Some(Self { backfilled, marks })
    }
}

/// Where the mark of `slot` stands in an index.
pub(crate) fn mark_offset(slot: usize) -> u64 {
    MARKS_OFFSET as u64 + 4 * slot as u64
}

/// A mark as it is written.
pub(crate) fn mark_bytes(mark: u32) -> [u8; 4] {
    match ByteOrder::NATIVE {
        ByteOrder::Big => mark.to_be_bytes(),
        ByteOrder::Little => mark.to_le_bytes(),
    }
}

/// The page numbers in `bytes`, as they stand in an index.
pub(crate) fn page_numbers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    let (numbers, _) = bytes.as_chunks::<4>();
    numbers
        .iter()
        .map(|number| ByteOrder::NATIVE.number(*number))
}

/// The bytes of an index that hold the page numbers of the frames from `first` on, in one piece, and
/// how many frames those are: at most up to `last`.
///
/// Shape: `1 <= first <= last`.
pub(crate) fn page_number_bytes(first: u32, last: u32) -> (Range<u64>, u32) {
    let index = u64::from(first.saturating_sub(1));
    let (start, in_block) = match index.checked_sub(FIRST_BLOCK_FRAMES) {
        None => (
            INDEX_START_BYTES as u64 + 4 * index,
            FIRST_BLOCK_FRAMES - index,
        ),
        Some(rest) => {
            let (block, inside) = (rest / BLOCK_FRAMES + 1, rest % BLOCK_FRAMES);
            (block * BLOCK_BYTES + 4 * inside, BLOCK_FRAMES - inside)
        }
    };
    let wanted = u64::from(last) - index.min(u64::from(last));
    let count = wanted.min(in_block);
    let frames = u32::try_from(count).expect("a block has fewer frames");
    (start..start + 4 * count, frames)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::disallowed_methods)]

    use super::*;

    /// A header of page size 512, without its checksum.
    const LOG_START: &str = "377f0682002de218000002000000000000112233445566778899aabbccddeeff";

    #[test]
    fn numbers_of_pages_are_found_block_by_block() {
        assert_eq!(page_number_bytes(1, 10), (136..176, 10));
        assert_eq!(page_number_bytes(4062, 4063), (16_380..16_384, 1));
        assert_eq!(page_number_bytes(4063, 9000), (32_768..49_152, 4096));
        assert_eq!(page_number_bytes(8158, 8159), (49_148..49_152, 1));
        assert_eq!(page_number_bytes(8159, 8159), (65_536..65_540, 1));
        let (range, count) = page_number_bytes(u32::MAX, u32::MAX);
        assert_eq!((range.end - range.start, count), (4, 1));
    }

    #[test]
    fn page_sizes_are_powers_of_two_and_one_stands_for_the_largest() {
        for (short, expected) in [
            (0, None),
            (1, Some(65_536)),
            (2, None),
            (256, None),
            (512, Some(512)),
            (513, None),
            (32_768, Some(32_768)),
            (u16::MAX, None),
        ] {
            assert_eq!(short_page_size(short), expected, "{short}");
        }
    }

    #[test]
    fn log_header_counts_only_with_its_checksum_in_either_order() {
        for magic in [0x377f_0682_u32, 0x377f_0683] {
            let mut bytes = decoded(LOG_START);
            bytes[..4].copy_from_slice(&magic.to_be_bytes());
            assert_eq!(WalHeader::parse(&bytes), None);
            WalHeader::mend(&mut bytes).unwrap();
            let header = WalHeader::parse(&bytes).unwrap();
            assert_eq!(header.page_bytes, 512);
            let order = if magic & 1 == 1 {
                ByteOrder::Big
            } else {
                ByteOrder::Little
            };
            assert_eq!(header.order, order);
            for at in 0..bytes.len() {
                let mut other = bytes.clone();
                other[at] ^= 1;
                assert_eq!(WalHeader::parse(&other), None, "byte {at}");
                assert_eq!(WalHeader::parse(&bytes[..at]), None);
            }
            bytes[7] += 1;
            WalHeader::mend(&mut bytes).unwrap();
            assert_eq!(WalHeader::parse(&bytes), None);
            assert!(WalHeader::is_of_future(&bytes));
        }
    }

    #[test]
    fn index_header_counts_only_whole_twice_and_with_its_checksum() {
        let bytes = index_start(1, 4096, 3, 9);
        let header = IndexHeader::parse(&bytes).unwrap();
        assert_eq!((header.frame_count, header.page_count), (3, 9));
        assert_eq!(header.page_bytes, Some(4096));
        for at in 0..2 * INDEX_HEADER_BYTES {
            let mut other = bytes;
            other[at] ^= 1;
            assert_eq!(IndexHeader::parse(&other), None, "byte {at}");
            assert_eq!(IndexHeader::parse(&bytes[..at]), None);
        }
        assert_eq!(IndexHeader::parse(&index_start(0, 4096, 3, 9)), None);
        assert_eq!(IndexHeader::parse(&index_start(1, 4097, 3, 9)), None);
        assert_eq!(IndexHeader::parse(&index_start(1, 0, 3, 9)), None);
        assert_eq!(IndexHeader::parse(&index_start(1, 4096, 3, 0)), None);
        let empty = IndexHeader::parse(&index_start(1, 0, 0, 0)).unwrap();
        assert_eq!(empty.page_bytes, None);
    }

    #[test]
    fn frame_offset_cannot_overflow() {
        assert_eq!(frame_offset(1, 4096), 32);
        assert_eq!(frame_offset(3, 512), 32 + 2 * 536);
        assert_eq!(frame_offset(u32::MAX, 65_536), 32 + 0xffff_fffe * 65_560);
    }

    fn index_start(valid: u8, page_size: u16, frames: u32, pages: u32) -> [u8; INDEX_START_BYTES] {
        let mut bytes = [0; INDEX_START_BYTES];
        bytes[..4].copy_from_slice(&mark_bytes(VERSION));
        bytes[12] = valid;
        let [a, b, c, d] = mark_bytes(u32::from(page_size));
        let page_size = match ByteOrder::NATIVE {
            ByteOrder::Little => [a, b],
            ByteOrder::Big => [c, d],
        };
        bytes[14..16].copy_from_slice(&page_size);
        bytes[16..20].copy_from_slice(&mark_bytes(frames));
        bytes[20..24].copy_from_slice(&mark_bytes(pages));
        let checksum = Checksum::default().add_native(&bytes[..40]);
        bytes[40..48].copy_from_slice(&checksum.native_bytes());
        bytes.copy_within(..48, 48);
        bytes
    }

    fn decoded(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks_exact(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    }
}
