//! Packs on their way in: what is in one, and its frames taken apart.

#![deny(clippy::indexing_slicing)]

use super::{
    END_MAGIC, FRAME_BYTES, FRAME_ENTRY_BYTES, Frame, FrameForm, HEADER_BYTES, MAGIC, PACK_VERSION,
    PackId, SLOT_ENTRY_BYTES, SLOTS_MAX, Slot, TRAILER_BYTES, UNIT_BYTES_MAX,
};
use crate::codec::{get_array, get_u32, get_u64};
use crate::fault;
use crate::repository::compression::decompress;
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::store::Store;

/// What is in a pack, read from its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackDirectory {
    /// The pack.
    pub id: PackId,
    /// Bytes of the whole object.
    pub object_bytes: u64,
    /// Its frames, in the order of their slots.
    pub frames: Vec<Frame>,
    /// Its slots.
    pub slots: Vec<Slot>,
}

/// What is wrong with a pack.
type Fault = &'static str;

/// What the trailer says.
struct Trailer {
    directory_offset: u64,
    frame_count: u32,
    slot_count: u32,
    crc: u32,
}

impl PackDirectory {
    /// Reads and checks header, directory and size of a pack; the frames are not read.
    ///
    /// A pack that is replaced while it is read is read once more.
    ///
    /// Errors: `Missing`, `Cut`, `Version`, `Damaged`, `Io`.
    pub fn read(store: &dyn Store, repository: [u8; 16], id: PackId) -> Result<Self> {
        match Self::read_once(store, repository, id) {
            Err(RepositoryError::Damaged { .. } | RepositoryError::Cut { .. }) => {
                Self::read_once(store, repository, id)
            }
            result => result,
        }
    }

    fn read_once(store: &dyn Store, repository: [u8; 16], id: PackId) -> Result<Self> {
        let object = id.object();
        let object_bytes = store.size(&object)?;
        let least = (HEADER_BYTES + TRAILER_BYTES) as u64;
        let mut header = [0; HEADER_BYTES];
        store.read_at(&object, 0, &mut header)?;
        check_header(&object, &header, repository, id)?;
        let damaged = |what| RepositoryError::Damaged {
            object: object.clone(),
            what,
        };
        let Some(directory_max) = object_bytes.checked_sub(least) else {
            return Err(RepositoryError::Cut {
                object,
                bytes: object_bytes,
                needed: least,
            });
        };
        let mut trailer = [0; TRAILER_BYTES];
        let trailer_offset = object_bytes - TRAILER_BYTES as u64;
        store.read_at(&object, trailer_offset, &mut trailer)?;
        let parsed = Trailer::decode(&trailer).map_err(damaged)?;
        let bytes = parsed.directory_bytes(directory_max).map_err(damaged)?;
        if parsed.directory_offset.checked_add(bytes as u64) != Some(trailer_offset) {
            return Err(damaged(
                "its directory does not end where the trailer begins",
            ));
        }
        let mut directory = vec![0; bytes];
        store.read_at(&object, parsed.directory_offset, &mut directory)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&directory);
        hasher.update(trailer.get(..20).unwrap_or_default());
        if hasher.finalize() != parsed.crc {
            return Err(damaged("the checksum of its directory is wrong"));
        }
        let (frames, slots) = parsed.take_apart(&directory).map_err(damaged)?;
        Ok(Self {
            id,
            object_bytes,
            frames,
            slots,
        })
    }

    /// The frame that slot `slot` is in. Errors: `None` if there is no such slot.
    #[must_use]
    pub fn frame_of(&self, slot: u32) -> Option<usize> {
        let after = self
            .frames
            .partition_point(|frame| frame.first_slot <= slot);
        let index = after.checked_sub(1)?;
        let frame = self.frames.get(index)?;
        (slot - frame.first_slot < frame.slot_count).then_some(index)
    }

    /// The slots of frame `index`; none if there is no such frame.
    #[must_use]
    pub fn slots_of(&self, index: usize) -> &[Slot] {
        let slots = self.frames.get(index).and_then(|frame| {
            let first = usize::try_from(frame.first_slot).ok()?;
            let count = usize::try_from(frame.slot_count).ok()?;
            self.slots.get(first..first.checked_add(count)?)
        });
        slots.unwrap_or_default()
    }

    /// Reads frame `index` and takes it apart: the units of its slots, one after the other, each of the
    /// digest that its slot says.
    ///
    /// Errors: `Missing`, `Cut`, `Damaged`, `OtherContent`, `Io`.
    pub fn read_frame(&self, store: &dyn Store, index: usize) -> Result<Vec<u8>> {
        let object = self.id.object();
        let damaged = |what| RepositoryError::Damaged {
            object: object.clone(),
            what,
        };
        let frame = self.frames.get(index);
        let frame = frame.ok_or_else(|| damaged("it has no such frame"))?;
        let mut stored = vec![0; frame.stored_bytes as usize];
        store.read_at(&object, frame.offset, &mut stored)?;
        if crc32fast::hash(&stored) != frame.crc {
            return Err(damaged("the checksum of a frame is wrong"));
        }
        let slots = self.slots_of(index);
        let raw_bytes = slots.iter().map(|slot| slot.bytes as usize).sum();
        let raw = decompress(frame.compression, stored, raw_bytes);
        let raw = raw.ok_or_else(|| damaged("a frame cannot be decompressed"))?;
        let mut rest = &raw[..];
        for slot in slots.iter().filter(|slot| slot.bytes > 0) {
            let (unit, after) = rest
                .split_at_checked(slot.bytes as usize)
                .ok_or_else(|| damaged("a frame is shorter than its slots"))?;
            rest = after;
            let found = Digest::of(unit);
            if found != slot.digest && !fault::is(fault::Fault::DigestUnchecked) {
                return Err(RepositoryError::OtherContent {
                    object,
                    expected: slot.digest,
                    found,
                });
            }
        }
        Ok(raw)
    }
}

fn check_header(
    object: &str,
    header: &[u8; HEADER_BYTES],
    repository: [u8; 16],
    id: PackId,
) -> Result<()> {
    let damaged = |what| RepositoryError::Damaged {
        object: object.to_owned(),
        what,
    };
    if get_array(header, 0) != Some(MAGIC) {
        return Err(damaged("it does not begin as a pack"));
    }
    let found = get_u32(header, 8).unwrap_or_default();
    if found > PACK_VERSION {
        return Err(RepositoryError::Version {
            object: object.to_owned(),
            found,
            known: PACK_VERSION,
        });
    }
    let crc = crc32fast::hash(header.get(..60).unwrap_or_default());
    if found == 0 || get_u32(header, 60) != Some(crc) {
        return Err(damaged("the checksum of its header is wrong"));
    }
    if get_array(header, 16) != Some(repository) {
        return Err(damaged("it belongs to another repository"));
    }
    if get_array(header, 32) != Some(id.0) {
        return Err(damaged("it is another pack under this name"));
    }
    Ok(())
}

impl Trailer {
    fn decode(bytes: &[u8; TRAILER_BYTES]) -> Result<Self, Fault> {
        if get_array(bytes, 24) != Some(END_MAGIC) {
            return Err("it does not end as a pack");
        }
        let fields = || {
            Some(Self {
                directory_offset: get_u64(bytes, 0)?,
                frame_count: get_u32(bytes, 8)?,
                slot_count: get_u32(bytes, 12)?,
                crc: get_u32(bytes, 20)?,
            })
        };
        fields().ok_or("it does not end as a pack")
    }

    /// Size of the directory, which is at most `bytes_max` and a bounded number of slots.
    fn directory_bytes(&self, bytes_max: u64) -> Result<usize, Fault> {
        if self.slot_count > SLOTS_MAX || self.frame_count > self.slot_count {
            return Err("its directory has an impossible size");
        }
        let frames = u64::from(self.frame_count) * FRAME_ENTRY_BYTES as u64;
        let bytes = frames + u64::from(self.slot_count) * SLOT_ENTRY_BYTES as u64;
        match usize::try_from(bytes) {
            Ok(size) if bytes <= bytes_max => Ok(size),
            _ => Err("its directory is larger than the pack"),
        }
    }

    /// The directory's entries, each within what it may be.
    fn take_apart(&self, directory: &[u8]) -> Result<(Vec<Frame>, Vec<Slot>), Fault> {
        let frames_end = self.frame_count as usize * FRAME_ENTRY_BYTES;
        let split = directory.split_at_checked(frames_end);
        let (frame_entries, slot_entries) = split.ok_or("its directory is too short")?;
        let (slot_entries, rest) = slot_entries.as_chunks::<SLOT_ENTRY_BYTES>();
        if !rest.is_empty() || slot_entries.len() != self.slot_count as usize {
            return Err("its directory is too short");
        }
        let slots: Vec<_> = slot_entries.iter().map(slot_of).collect();
        let (mut offset, mut first_slot) = (HEADER_BYTES as u64, 0_u32);
        let mut frames = Vec::with_capacity(self.frame_count as usize);
        for entry in frame_entries.as_chunks::<FRAME_ENTRY_BYTES>().0 {
            let frame =
                frame_of(entry, offset, first_slot).ok_or("the form of a frame is unknown")?;
            check_frame(&frame, &slots)?;
            // Neither can overflow: both are bounded by counts and sizes of 32 bits, few of them.
            offset += u64::from(frame.stored_bytes);
            first_slot += frame.slot_count;
            frames.push(frame);
        }
        if first_slot != self.slot_count {
            return Err("its frames do not hold all of its slots");
        }
        if offset != self.directory_offset {
            return Err("its frames do not end where the directory begins");
        }
        Ok((frames, slots))
    }
}

fn slot_of(entry: &[u8; SLOT_ENTRY_BYTES]) -> Slot {
    let digest = get_array(entry, 0).unwrap_or_default();
    Slot {
        digest: Digest(digest),
        bytes: get_u32(entry, 32).unwrap_or_default(),
    }
}

fn frame_of(entry: &[u8; FRAME_ENTRY_BYTES], offset: u64, first_slot: u32) -> Option<Frame> {
    let [form] = get_array(entry, 12)?;
    Some(Frame {
        compression: FrameForm::of_code(form)?,
        offset,
        stored_bytes: get_u32(entry, 0)?,
        crc: get_u32(entry, 4)?,
        first_slot,
        slot_count: get_u32(entry, 8)?,
    })
}

/// The slots of `frame` are there and together as large as a frame may be, and no larger is stored.
fn check_frame(frame: &Frame, slots: &[Slot]) -> Result<(), Fault> {
    if frame.slot_count == 0 {
        return Err("a frame has no slots");
    }
    let first = frame.first_slot as usize;
    let end = first.checked_add(frame.slot_count as usize);
    let own = end.and_then(|end| slots.get(first..end));
    let own = own.ok_or("a frame has slots beyond the last")?;
    let mut raw_bytes = 0_usize;
    for slot in own {
        let bytes = slot.bytes as usize;
        if bytes > UNIT_BYTES_MAX {
            return Err("a unit is larger than any can be");
        }
        raw_bytes += bytes;
        if raw_bytes > FRAME_BYTES {
            return Err("a frame is larger than any can be");
        }
    }
    let stored_bytes = frame.stored_bytes as usize;
    let fits = match frame.compression {
        FrameForm::Plain => stored_bytes == raw_bytes,
        FrameForm::Zstd | FrameForm::Lz4 => stored_bytes < raw_bytes,
    };
    match fits {
        true => Ok(()),
        false => Err("a frame is larger than what it holds"),
    }
}
