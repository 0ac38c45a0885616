//! The file of a pin, `shadow/<pin id>.pin`: a header and one u64 per page. Little endian:
//!
//! ```text
//! offset size
//!      0    8  magic "SFSPIN\0\x01"
//!      8    4  format version, 1
//!     12    4  page size in bytes
//!     16   16  database id
//!     32   16  history id of the live file
//!     48   16  pin id
//!     64   32  SHA-256 of the holder's token
//!     96    8  first accepted epoch
//!    104    8  second accepted epoch; equal to the first until an engine adopts the pin
//!    112    8  timestamp of the pinned commit
//!    120    8  its LSN
//!    128    8  its page count
//!    136    8  its wall clock, nanoseconds since 1970
//!    144    8  device of the live file
//!    152    8  inode of the live file
//!    160    4  flags: bit 0 = granted
//!    164    4  when the shadow is full: 0 break the pin, 1 hold checkpoints
//!    168    8  device of the slot file
//!    176    8  inode of the slot file
//!    184    8  when the pin was taken: milliseconds since the machine's start
//!    192    8  maximum age in milliseconds, 0 = none
//!    200    8  shadow limit in bytes, 0 = none
//!    208    8  sequence of the live header when the pin was taken
//!    216  292  reserved, 0
//!    508    4  crc32 of bytes 0 .. 508
//!    512 3584  reserved, 0
//!   4096       entries: 8 bytes per page
//! ```
//!
//! An entry is 0 (not shadowed) or `(slot + 1) << 32 | crc32`, where the crc32 is the one in the header
//! of the image; `0xffff_ffff` in the high half says that the page was unreadable when it was to be
//! captured. A file of 0 bytes is a pin that has ended.

#![deny(clippy::indexing_slicing)]

use std::time::Duration;

use crate::codec;
use crate::id::{DatabaseId, Epoch, HistoryId, PinId};
use crate::lsn::{Lsn, Timestamp};
use crate::os::FileIdentity;
use crate::page::{PageNo, PageSize};

/// Bytes before the first entry.
pub const INDEX_HEADER_BYTES: u64 = 4096;
/// Bytes at the start that hold all of the header.
pub const INDEX_SECTOR_BYTES: usize = 512;
/// Bytes of an entry.
pub const ENTRY_BYTES: u64 = 8;
/// Highest slot number plus one.
pub const SLOT_COUNT_MAX: u32 = u32::MAX - 1;

const MAGIC: [u8; 8] = *b"SFSPIN\0\x01";
const VERSION: u32 = 1;
const GRANTED: u32 = 1;
const UNREADABLE: u32 = u32::MAX;

/// What happens when a pin's shadow can take no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// The pin ends, and writers go on.
    #[default]
    Break,
    /// Checkpoints wait, as long as the log may grow.
    Hold,
}

/// What an index says of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The live page is that of the pin.
    NotShadowed,
    /// The image is in a slot and carries this checksum.
    Slot {
        /// Number of the slot, 0-based.
        slot: u32,
        /// The checksum in the image's page header.
        crc: u32,
    },
    /// The page could not be read when it was to be captured.
    Unreadable,
}

impl Entry {
    /// As it stands in the file.
    #[must_use]
    pub fn encode(self) -> u64 {
        match self {
            Self::NotShadowed => 0,
            Self::Slot { slot, crc } => (u64::from(slot) + 1) << 32 | u64::from(crc),
            Self::Unreadable => u64::from(UNREADABLE) << 32,
        }
    }

    /// Errors: `None` for a value that no engine writes.
    #[must_use]
    pub fn decode(entry: u64) -> Option<Self> {
        let high = u32::try_from(entry >> 32).ok()?;
        let low = u32::try_from(entry & 0xffff_ffff).ok()?;
        match high {
            0 => (low == 0).then_some(Self::NotShadowed),
            UNREADABLE => (low == 0).then_some(Self::Unreadable),
            slot => Some(Self::Slot {
                slot: slot - 1,
                crc: low,
            }),
        }
    }
}

/// Offset of a page's entry in bytes. Errors: `None` on overflow.
#[must_use]
pub fn entry_offset(page: PageNo) -> Option<u64> {
    page.0
        .checked_mul(ENTRY_BYTES)?
        .checked_add(INDEX_HEADER_BYTES)
}

/// The facts of a pin, as its file has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexHeader {
    /// Page size of the live file.
    pub page_size: PageSize,
    /// Its database.
    pub database: DatabaseId,
    /// Its history.
    pub history: HistoryId,
    /// The pin.
    pub pin: PinId,
    /// SHA-256 of the token by which the holder reclaims the pin.
    pub token_digest: [u8; 32],
    /// Epochs of the live header under which the pin may be read.
    pub accepted_epochs: [Epoch; 2],
    /// The pinned commit.
    pub timestamp: Timestamp,
    /// Its LSN.
    pub lsn: Lsn,
    /// Its page count.
    pub page_count: u64,
    /// Its wall clock, nanoseconds since 1970.
    pub wall_ns: u64,
    /// The live file.
    pub live: FileIdentity,
    /// Whether every page that differs from the live file at the pin is in the shadow.
    pub granted: bool,
    /// What happens when the shadow can take no more.
    pub on_full: OnFull,
    /// The slot file.
    pub slots: FileIdentity,
    /// When the pin was taken, since the machine's start; whole milliseconds.
    pub taken: Duration,
    /// How old it may become; whole milliseconds.
    pub max_age: Option<Duration>,
    /// How much it may make the shadow grow, in bytes.
    pub shadow_limit_bytes: Option<u64>,
    /// Sequence of the live header when the pin was taken: a live file with an older header is not the
    /// one that was pinned, but an old copy put over it.
    pub live_sequence: u64,
}

/// What is wrong with an index header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFault {
    /// The file is cut: the pin has ended.
    #[error("the index is cut")]
    Cut,
    /// Magic or checksum are wrong.
    #[error("the index header is damaged")]
    Damaged,
    /// A later version of stillfs wrote it.
    #[error("the index has format version {0}")]
    FutureVersion(u32),
}

impl IndexHeader {
    /// The first [`INDEX_SECTOR_BYTES`] of the file.
    #[must_use]
    pub fn encode(&self) -> [u8; INDEX_SECTOR_BYTES] {
        let mut out = [0; INDEX_SECTOR_BYTES];
        let flags = if self.granted { GRANTED } else { 0 };
        codec::put(&mut out, 0, &MAGIC);
        codec::put(&mut out, 8, &VERSION.to_le_bytes());
        codec::put(&mut out, 12, &self.page_size.get().to_le_bytes());
        codec::put(&mut out, 16, &self.database.0);
        codec::put(&mut out, 32, &self.history.0);
        codec::put(&mut out, 48, &self.pin.0);
        codec::put(&mut out, 64, &self.token_digest);
        let [first, second] = self.accepted_epochs;
        for (offset, value) in [
            (96, first.0),
            (104, second.0),
            (112, self.timestamp.0),
            (120, self.lsn.0),
            (128, self.page_count),
            (136, self.wall_ns),
            (144, self.live.device),
            (152, self.live.inode),
            (168, self.slots.device),
            (176, self.slots.inode),
            (184, whole_ms(self.taken)),
            (192, self.max_age.map_or(0, |age| whole_ms(age).max(1))),
            (200, self.shadow_limit_bytes.map_or(0, |limit| limit.max(1))),
            (208, self.live_sequence),
        ] {
            codec::put(&mut out, offset, &value.to_le_bytes());
        }
        codec::put(&mut out, 160, &flags.to_le_bytes());
        let on_full: u32 = match self.on_full {
            OnFull::Break => 0,
            OnFull::Hold => 1,
        };
        codec::put(&mut out, 164, &on_full.to_le_bytes());
        let crc = crc32fast::hash(out.get(..508).unwrap_or_default());
        codec::put(&mut out, 508, &crc.to_le_bytes());
        out
    }

    /// Decodes the start of an index file, `bytes` being what there is of it.
    ///
    /// Errors: [`IndexFault`].
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexFault> {
        if bytes.len() < INDEX_SECTOR_BYTES {
            return Err(IndexFault::Cut);
        }
        let crc = crc32fast::hash(bytes.get(..508).unwrap_or_default());
        if codec::get_array(bytes, 0) != Some(MAGIC) || codec::get_u32(bytes, 508) != Some(crc) {
            return Err(IndexFault::Damaged);
        }
        let field = |offset| codec::get_u64(bytes, offset).unwrap_or_default();
        let version = codec::get_u32(bytes, 8).unwrap_or_default();
        if version != VERSION {
            return Err(IndexFault::FutureVersion(version));
        }
        let page_bytes = u64::from(codec::get_u32(bytes, 12).unwrap_or_default());
        let flags = codec::get_u32(bytes, 160).unwrap_or_default();
        let page_size = PageSize::new(page_bytes).ok_or(IndexFault::Damaged)?;
        let on_full = match codec::get_u32(bytes, 164) {
            Some(0) => OnFull::Break,
            Some(1) => OnFull::Hold,
            _ => return Err(IndexFault::Damaged),
        };
        if page_size.offset_of(PageNo(field(128))).is_none() {
            return Err(IndexFault::Damaged);
        }
        Ok(Self {
            page_size,
            database: DatabaseId(codec::get_array(bytes, 16).unwrap_or_default()),
            history: HistoryId(codec::get_array(bytes, 32).unwrap_or_default()),
            pin: PinId(codec::get_array(bytes, 48).unwrap_or_default()),
            token_digest: codec::get_array(bytes, 64).unwrap_or_default(),
            accepted_epochs: [Epoch(field(96)), Epoch(field(104))],
            timestamp: Timestamp(field(112)),
            lsn: Lsn(field(120)),
            page_count: field(128),
            wall_ns: field(136),
            live: FileIdentity {
                device: field(144),
                inode: field(152),
            },
            granted: flags & GRANTED != 0,
            on_full,
            slots: FileIdentity {
                device: field(168),
                inode: field(176),
            },
            taken: Duration::from_millis(field(184)),
            max_age: Some(field(192))
                .filter(|ms| *ms > 0)
                .map(Duration::from_millis),
            shadow_limit_bytes: Some(field(200)).filter(|bytes| *bytes > 0),
            live_sequence: field(208),
        })
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> IndexHeader {
        IndexHeader {
            page_size: PageSize::DEFAULT,
            database: DatabaseId([1; 16]),
            history: HistoryId([2; 16]),
            pin: PinId([3; 16]),
            token_digest: [4; 32],
            accepted_epochs: [Epoch(5), Epoch(6)],
            timestamp: Timestamp(7),
            lsn: Lsn(8),
            page_count: 9,
            wall_ns: 10,
            live: FileIdentity {
                device: 11,
                inode: 12,
            },
            granted: true,
            on_full: OnFull::Hold,
            slots: FileIdentity {
                device: 11,
                inode: 13,
            },
            taken: Duration::from_millis(14),
            max_age: Some(Duration::from_millis(15)),
            shadow_limit_bytes: Some(16),
            live_sequence: 17,
        }
    }

    #[test]
    fn header_survives_the_round_trip_and_no_flipped_bit() {
        let bytes = sample().encode();
        assert_eq!(IndexHeader::decode(&bytes), Ok(sample()));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(IndexHeader::decode(&bad).is_err(), "bit {bit}");
        }
        assert_eq!(IndexHeader::decode(&bytes[..511]), Err(IndexFault::Cut));
        assert_eq!(IndexHeader::decode(&[]), Err(IndexFault::Cut));
        let unbounded = IndexHeader {
            max_age: None,
            shadow_limit_bytes: None,
            on_full: OnFull::Break,
            ..sample()
        };
        assert_eq!(IndexHeader::decode(&unbounded.encode()), Ok(unbounded));
    }

    #[test]
    fn entries_survive_the_round_trip() {
        let last = Entry::Slot {
            slot: SLOT_COUNT_MAX - 1,
            crc: u32::MAX,
        };
        let first = Entry::Slot { slot: 0, crc: 0 };
        for entry in [Entry::NotShadowed, Entry::Unreadable, first, last] {
            assert_eq!(Entry::decode(entry.encode()), Some(entry));
        }
        assert_eq!(Entry::decode(1), None);
        assert_eq!(Entry::decode(u64::MAX), None);
    }
}
