//! Packs: files of many units of content, compressed in frames.
//!
//! A pack is a header, frames without a gap, a directory, a trailer. All numbers are little endian.
//!
//! ```text
//! header
//! offset size
//!      0    8  magic "SFSPACK\x01"
//!      8    4  format version, 1
//!     12    4  flags, 0
//!     16   16  repository id
//!     32   16  pack id
//!     48   12  reserved, 0
//!     60    4  crc32 of bytes 0 .. 60
//!     64       frames
//!
//! directory: an entry for each frame, in the order of the file
//! offset size
//!      0    4  stored bytes
//!      4    4  crc32 of those
//!      8    4  slots, at least 1
//!     12    1  form: 1 plain, 2 zstd, 3 lz4
//!     13   11  reserved, 0
//!
//! then one for each slot
//! offset size
//!      0   32  digest
//!     32    4  bytes before compression; 0 of an emptied slot
//!
//! trailer, the last bytes of the file
//! offset size
//!      0    8  offset of the directory
//!      8    4  frames
//!     12    4  slots
//!     16    4  reserved, 0
//!     20    4  crc32 of the directory, then bytes 0 .. 20 of this
//!     24    8  magic "SFSPEND\x01"
//! ```
//!
//! * Where a frame begins and which slots are in it follows from the frames before it, so that no two
//!   can overlap and none can be missing.
//! * A slot is found by its number for ever: prune empties slots, it never moves them (BK2).

mod builder;
mod directory;

use std::fmt;

use crate::repository::digest::Digest;
use crate::repository::hex;

pub use self::builder::{PackBuilder, SealedFrame};
pub use self::directory::PackDirectory;

/// Name of a pack: drawn at random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(pub [u8; 16]);

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackId({self})")
    }
}

impl PackId {
    /// The object that it is.
    #[must_use]
    pub fn object(&self) -> String {
        format!("packs/{self}")
    }

    /// The pack of this name, without the folder; `None` for what others put there.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        hex::decode(name).map(Self)
    }
}

/// Newest version of the format.
pub const PACK_VERSION: u32 = 1;
/// Units of a frame together have at most so many bytes, unless one alone has more.
pub const FRAME_BYTES: usize = 512 << 10;
/// A pack is closed when its frames have so many bytes.
pub const PACK_BYTES: usize = 16 << 20;
/// Largest unit.
pub const UNIT_BYTES_MAX: usize = 64 << 10;
/// A pack has at most so many slots, which bounds its directory.
///
/// A builder that is closed at [`PACK_BYTES`] stays below it, however small its units are.
pub const SLOTS_MAX: u32 = 1 << 20;

const MAGIC: [u8; 8] = *b"SFSPACK\x01";
const END_MAGIC: [u8; 8] = *b"SFSPEND\x01";
const HEADER_BYTES: usize = 64;
const FRAME_ENTRY_BYTES: usize = 24;
const SLOT_ENTRY_BYTES: usize = 36;
const TRAILER_BYTES: usize = 32;

/// One unit of content in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes before compression; 0 for a slot that prune has emptied.
    pub bytes: u32,
}

/// A group of units that was compressed as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// How it is stored.
    pub compression: FrameForm,
    /// Where it begins in the pack.
    pub offset: u64,
    /// Its bytes there.
    pub stored_bytes: u32,
    /// crc32 of those.
    pub crc: u32,
    /// Its first slot.
    pub first_slot: u32,
    /// Its slots.
    pub slot_count: u32,
}

/// How a frame is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameForm {
    /// As it is.
    Plain = 1,
    /// Zstandard.
    Zstd = 2,
    /// LZ4 block.
    Lz4 = 3,
}

impl FrameForm {
    pub(in crate::repository) fn of_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Plain),
            2 => Some(Self::Zstd),
            3 => Some(Self::Lz4),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
