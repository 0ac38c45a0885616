//! Pages: their number, size, common header and checksum. Every page of `data.pages` starts so:
//!
//! ```text
//! offset size
//!      0    4  crc32 of bytes 4 .. page size
//!      4    1  kind
//!      5    1  format version of the page, 1
//!      6    2  reserved, 0
//!      8    8  page number
//!     16    8  LSN: end of the commit that wrote this content
//!     24    8  reserved, 0
//!     32       body
//! ```
//!
//! A page of zeros is never valid: no kind is 0, and the crc32 of zeros is not 0.

#![deny(clippy::indexing_slicing)]

mod difference;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::iter;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::codec;
use crate::lsn::Lsn;

/// Bytes of the common page header; the body starts here.
pub const PAGE_HEADER_BYTES: usize = 32;
/// The only format version of a page so far.
pub const PAGE_VERSION: u8 = 1;

/// Where a page has the LSN of its commit.
pub(crate) const LSN_FIELD: Range<usize> = 16..24;

/// Number of a page, 0-based.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(pub u64);

impl fmt::Display for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Size of a page in bytes: a power of two from 4 KiB to 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// What a database gets unless it asks for another: 8 KiB.
    pub const DEFAULT: Self = Self(8192);

    /// Errors: `None` unless `bytes` is a power of two in 4096 ..= 65536.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        let bytes = u32::try_from(bytes).ok()?;
        (bytes.is_power_of_two() && (4096..=65536).contains(&bytes)).then_some(Self(bytes))
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// The size in bytes, as formats write it.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Offset in bytes of `page` in a page file. Errors: `None` on overflow.
    #[must_use]
    pub fn offset_of(self, page: PageNo) -> Option<u64> {
        page.0.checked_mul(u64::from(self.0))
    }
}

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageKind {
    /// One of the two copies of the database header (pages 0 and 1).
    Header = 1,
    /// A leaf of a B+tree.
    Leaf = 2,
    /// An inner node of a B+tree.
    Inner = 3,
    /// A piece of a value too long for its leaf.
    Overflow = 4,
    /// A free page that never held anything.
    Free = 5,
    /// A page of the free list that names other free pages.
    FreeTrunk = 6,
}

impl PageKind {
    /// Errors: `None` for a number that no kind has.
    #[must_use]
    pub fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::Header,
            2 => Self::Leaf,
            3 => Self::Inner,
            4 => Self::Overflow,
            5 => Self::Free,
            6 => Self::FreeTrunk,
            _ => return None,
        })
    }
}

/// Why bytes are not the page that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageFault {
    /// The stored checksum is not that of the bytes.
    #[error("checksum {found:08x} where the content has {expected:08x}")]
    Checksum {
        /// Computed over the bytes.
        expected: u32,
        /// Stored in them.
        found: u32,
    },
    /// The page says that it is another one.
    #[error("page says it is number {found}")]
    Number {
        /// The number that it carries.
        found: PageNo,
    },
    /// The page is of a commit after the one that is read.
    #[error("page is of LSN {found}, which is after {limit}")]
    Newer {
        /// The page's LSN.
        found: Lsn,
        /// The newest that may be seen.
        limit: Lsn,
    },
    /// The kind or the version is none that this build knows.
    #[error("unknown page kind {kind} or version {version}")]
    Unknown {
        /// The kind byte.
        kind: u8,
        /// The version byte.
        version: u8,
    },
    /// Fewer bytes than a page has.
    #[error("only {found} bytes of the page are there")]
    Short {
        /// How many.
        found: usize,
    },
}

/// The bytes of one page, owned.
pub struct PageBuf {
    bytes: Box<[u8]>,
    /// See [`PageBuf::is_vetted`].
    is_vetted: AtomicBool,
    /// See [`PageBuf::is_disjoint`].
    is_disjoint: AtomicBool,
}

/// A page shared between readers.
pub type PageRef = Arc<PageBuf>;

impl PageBuf {
    /// A page of zeros, which is not valid before it is formatted and sealed.
    #[must_use]
    pub fn zeroed(size: PageSize) -> Self {
        vec![0; size.bytes()].into_boxed_slice().into()
    }

    /// A page with its kind and number set and an empty body; not sealed yet.
    #[must_use]
    pub fn formatted(size: PageSize, page: PageNo, kind: PageKind) -> Self {
        let mut buf = Self::zeroed(size);
        format_header(&mut buf, page, kind);
        buf
    }

    /// Copies `bytes`, whatever they hold.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Box::<[u8]>::from(bytes).into()
    }

    /// Stamps the LSN and the checksum. A page is written only sealed.
    pub fn seal(&mut self, lsn: Lsn) {
        // What a structure says of a page rests on neither.
        seal(&mut self.bytes, lsn);
    }

    /// As [`PageBuf::seal`], of a page that was made from `before`, which is sealed. Shape: see [`seal_changed`].
    pub(crate) fn seal_changed(&mut self, before: &Self, ranges: &[Range<usize>], lsn: Lsn) {
        seal_changed(&mut self.bytes, before, ranges, lsn);
    }

    /// Makes it the same page as `newer`, from which it differs at most in the common header and in `ranges`.
    pub(crate) fn catch_up(&mut self, newer: &Self, ranges: &[Range<usize>]) {
        let header = 0..PAGE_HEADER_BYTES;
        for range in iter::once(&header).chain(ranges) {
            let bytes = newer.get(range.clone()).unwrap_or_default();
            codec::put(&mut self.bytes, range.start, bytes);
        }
        *self.is_vetted.get_mut() = newer.is_vetted();
        *self.is_disjoint.get_mut() = newer.is_disjoint();
        debug_assert!(self == newer, "they differ somewhere else");
    }

    /// Whether somebody said by [`PageBuf::set_vetted`] that these very bytes keep all rules of the
    /// structure that they belong to. Any change of them, but for a seal, makes it false.
    #[must_use]
    pub(crate) fn is_vetted(&self) -> bool {
        self.is_vetted.load(Ordering::Relaxed)
    }

    /// See [`PageBuf::is_vetted`].
    pub(crate) fn set_vetted(&self) {
        self.is_vetted.store(true, Ordering::Relaxed);
    }

    /// Whether somebody said by [`PageBuf::set_disjoint`] that no two parts of these very bytes overlap that the
    /// structure which they belong to knows as different ones. Ends as [`PageBuf::is_vetted`] does.
    #[must_use]
    pub(crate) fn is_disjoint(&self) -> bool {
        self.is_disjoint.load(Ordering::Relaxed)
    }

    /// See [`PageBuf::is_disjoint`]. Says also that the page is vetted.
    pub(crate) fn set_disjoint(&self) {
        self.set_vetted();
        self.is_disjoint.store(true, Ordering::Relaxed);
    }

    /// The kind, or `None` for a byte that is none.
    #[must_use]
    pub fn kind(&self) -> Option<PageKind> {
        self.get(4).copied().and_then(PageKind::from_u8)
    }

    /// The LSN that the page carries.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        lsn(self)
    }
}

impl From<Box<[u8]>> for PageBuf {
    fn from(bytes: Box<[u8]>) -> Self {
        Self {
            bytes,
            is_vetted: AtomicBool::new(false),
            is_disjoint: AtomicBool::new(false),
        }
    }
}

impl Clone for PageBuf {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            is_vetted: AtomicBool::new(self.is_vetted()),
            is_disjoint: AtomicBool::new(self.is_disjoint()),
        }
    }
}

impl PartialEq for PageBuf {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for PageBuf {}

impl Deref for PageBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PageBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        *self.is_vetted.get_mut() = false;
        *self.is_disjoint.get_mut() = false;
        &mut self.bytes
    }
}

/// What maps from page numbers hash with: they are no secret, and looked up several times for each read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0xd6e8_feb8_6659_fd93);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// A map from page numbers.
pub(crate) type PageMap<V> = HashMap<PageNo, V, BuildHasherDefault<PageHasher>>;
/// A set of page numbers.
pub(crate) type PageSet = HashSet<PageNo, BuildHasherDefault<PageHasher>>;

impl fmt::Debug for PageBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = codec::get_u64(self, 8).unwrap_or_default();
        write!(
            f,
            "PageBuf(page {number}, {:?}, LSN {})",
            self.kind(),
            self.lsn()
        )
    }
}

/// Sets kind, version and number of a page; LSN and checksum are set by [`seal`].
pub fn format_header(bytes: &mut [u8], page: PageNo, kind: PageKind) {
    codec::put(bytes, 4, &[kind as u8, PAGE_VERSION, 0, 0]);
    codec::put(bytes, 8, &page.0.to_le_bytes());
}

/// Stamps the LSN and the checksum of a page.
pub fn seal(bytes: &mut [u8], lsn: Lsn) {
    codec::put(bytes, LSN_FIELD.start, &lsn.0.to_le_bytes());
    let crc = content_crc(bytes);
    codec::put(bytes, 0, &crc.to_le_bytes());
}

/// What a further range costs, in bytes of a page that are read for a checksum.
const RANGE_COST_BYTES: usize = 512;

/// As [`seal`], of a page that was made from `before`, which is sealed.
///
/// Shape: `ranges` cover every difference but that of LSN and checksum; they ascend, none reaches into the next or
/// into these two fields.
/// Cost: that of the ranges, where they are few.
pub(crate) fn seal_changed(bytes: &mut [u8], before: &[u8], ranges: &[Range<usize>], lsn: Lsn) {
    let cost = |range: &Range<usize>| RANGE_COST_BYTES + range.len();
    if before.len() != bytes.len() || ranges.iter().map(cost).sum::<usize>() > bytes.len() / 2 {
        return seal(bytes, lsn);
    }
    codec::put(bytes, LSN_FIELD.start, &lsn.0.to_le_bytes());
    let front = ranges.partition_point(|range| range.start < LSN_FIELD.start);
    let (front, back) = ranges.split_at_checked(front).unwrap_or_default();
    let places = front.iter().chain(iter::once(&LSN_FIELD)).chain(back);
    // The checksum itself is not among what it is of.
    let places = places.map(|place| place.start - 4..place.end - 4);
    let (old, new) = (before.get(4..), bytes.get(4..));
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    let crc = difference::crc_after(stored_crc(before), old, new, places);
    debug_assert_eq!(
        crc,
        content_crc(bytes),
        "a difference outside of the ranges"
    );
    codec::put(bytes, 0, &crc.to_le_bytes());
}

/// The LSN in a page's header.
#[must_use]
pub fn lsn(bytes: &[u8]) -> Lsn {
    Lsn(codec::get_u64(bytes, 16).unwrap_or_default())
}

/// The checksum in a page's header.
#[must_use]
pub fn stored_crc(bytes: &[u8]) -> u32 {
    codec::get_u32(bytes, 0).unwrap_or_default()
}

/// The checksum that a page of this content must carry.
#[must_use]
pub fn content_crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes.get(4..).unwrap_or_default())
}

/// Checks that `bytes` are a valid image of `page`, not newer than `limit`.
///
/// Errors: the first thing that is wrong, checksum first.
pub fn check(bytes: &[u8], page: PageNo, limit: Lsn) -> Result<(), PageFault> {
    let (expected, found) = (content_crc(bytes), stored_crc(bytes));
    if expected != found {
        return Err(PageFault::Checksum { expected, found });
    }
    let [kind, version] = codec::get_array(bytes, 4).unwrap_or_default();
    if PageKind::from_u8(kind).is_none() || version != PAGE_VERSION {
        return Err(PageFault::Unknown { kind, version });
    }
    let number = PageNo(codec::get_u64(bytes, 8).unwrap_or_default());
    if number != page {
        return Err(PageFault::Number { found: number });
    }
    if lsn(bytes) > limit {
        return Err(PageFault::Newer {
            found: lsn(bytes),
            limit,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_page_passes_and_every_flipped_bit_is_found() {
        let mut page = PageBuf::formatted(PageSize::DEFAULT, PageNo(7), PageKind::Leaf);
        page.seal(Lsn(99));
        assert_eq!(check(&page, PageNo(7), Lsn(99)), Ok(()));
        for bit in (0..page.len() * 8).step_by(61) {
            let mut bad = page.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&bad, PageNo(7), Lsn(99)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn zeros_other_numbers_and_newer_pages_are_refused() {
        let zeros = PageBuf::zeroed(PageSize::DEFAULT);
        assert!(matches!(
            check(&zeros, PageNo(0), Lsn::MAX),
            Err(PageFault::Checksum { .. })
        ));
        let mut page = PageBuf::formatted(PageSize::DEFAULT, PageNo(7), PageKind::Leaf);
        page.seal(Lsn(99));
        assert_eq!(
            check(&page, PageNo(8), Lsn(99)),
            Err(PageFault::Number { found: PageNo(7) })
        );
        assert!(matches!(
            check(&page, PageNo(7), Lsn(98)),
            Err(PageFault::Newer { .. })
        ));
    }

    #[test]
    fn page_sealed_by_what_changed_is_the_one_that_is_sealed_whole() {
        let mut before = PageBuf::formatted(PageSize::DEFAULT, PageNo(7), PageKind::Leaf);
        before.seal(Lsn(99));
        for ranges in [
            vec![],
            vec![5..6, 100..217],
            vec![7000..7001, 8191..8192],
            vec![32..40, 41..8000],
        ] {
            let mut after = before.clone();
            for range in &ranges {
                after.get_mut(range.clone()).unwrap().fill(3);
            }
            let mut whole = after.clone();
            whole.seal(Lsn(1234));
            after.seal_changed(&before, &ranges, Lsn(1234));
            assert!(after == whole, "{ranges:?}");
            let mut behind = before.clone();
            after.set_disjoint();
            behind.catch_up(&after, &ranges);
            assert!(behind == after && behind.is_vetted() && behind.is_disjoint());
        }
    }

    /// B4 rests on this: what was found of bytes holds for no others.
    #[test]
    fn any_change_but_a_seal_takes_the_vetting_away() {
        let mut page = PageBuf::formatted(PageSize::DEFAULT, PageNo(7), PageKind::Leaf);
        assert!(!page.is_vetted());
        page.set_vetted();
        page.seal(Lsn(5));
        let mut copy = page.clone();
        assert!(page.is_vetted() && copy.is_vetted() && copy == page);
        copy[40] ^= 1;
        assert!(page.is_vetted() && !copy.is_vetted());
        codec::put(&mut page, 40, &[1]);
        assert!(!page.is_vetted() && page == copy);
        page.set_disjoint();
        page.seal(Lsn(6));
        let mut copy = page.clone();
        assert!(copy.is_vetted() && copy.is_disjoint());
        copy[40] ^= 1;
        assert!(!copy.is_vetted() && !copy.is_disjoint());
    }

    #[test]
    fn numbers_of_neighbours_and_of_far_pages_hash_to_different_places() {
        let hash = |number: u64| {
            let mut hasher = PageHasher::default();
            hasher.write_u64(number);
            hasher.finish()
        };
        for step in [1, 64, 4096, 1 << 32] {
            let hashes: HashSet<u64> = (0..4096).map(|at| hash(at * step) & 0xffff).collect();
            assert!(hashes.len() > 3500, "{step}: {}", hashes.len());
        }
    }

    #[test]
    fn page_sizes_are_powers_of_two_from_4_to_64_kib() {
        for good in [4096, 8192, 16384, 32768, 65536] {
            assert_eq!(
                PageSize::new(good).map(PageSize::bytes),
                usize::try_from(good).ok()
            );
        }
        for bad in [0, 512, 2048, 5000, 131_072, u64::MAX] {
            assert_eq!(PageSize::new(bad), None);
        }
    }
}
