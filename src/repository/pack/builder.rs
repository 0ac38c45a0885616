//! Packs on their way out: frames compressed, collected, stored as one object.

use super::{
    END_MAGIC, FRAME_ENTRY_BYTES, FrameForm, HEADER_BYTES, MAGIC, PACK_VERSION, PackId,
    SLOT_ENTRY_BYTES, Slot, TRAILER_BYTES,
};
use crate::codec::put;
use crate::repository::compression::Compression;
use crate::repository::error::Result;
use crate::repository::store::{ObjectName, Put, Store};

/// A compressed frame on its way into a pack.
#[derive(Clone, Debug)]
pub struct SealedFrame {
    /// How it is stored.
    pub form: FrameForm,
    /// What is stored.
    pub stored: Vec<u8>,
    /// crc32 of that.
    pub crc: u32,
    /// Its units, in order.
    pub slots: Vec<Slot>,
}

impl SealedFrame {
    /// Compresses `raw`, which is the units of `slots` one after the other; as it is, where that does not
    /// make it smaller.
    ///
    /// Shape: at least one slot; their bytes add up to those of `raw`, at most [`super::FRAME_BYTES`].
    #[must_use]
    pub fn seal(raw: &[u8], slots: Vec<Slot>, compression: Compression) -> Self {
        let (form, stored) = compression.compress(raw);
        let crc = crc32fast::hash(&stored);
        Self {
            form,
            stored,
            crc,
            slots,
        }
    }
}

/// A pack that is being filled, in memory.
#[derive(Debug)]
pub struct PackBuilder {
    repository: [u8; 16],
    id: PackId,
    frames: Vec<Vec<u8>>,
    frame_bytes: usize,
    slot_count: u32,
    /// Entries of the frames, and of the slots, as they will be in the directory.
    frame_entries: Vec<u8>,
    slot_entries: Vec<u8>,
}

impl PackBuilder {
    /// An empty pack of the repository `repository`.
    #[must_use]
    pub fn new(repository: [u8; 16], id: PackId) -> Self {
        Self {
            repository,
            id,
            frames: Vec::new(),
            frame_bytes: 0,
            slot_count: 0,
            frame_entries: Vec::new(),
            slot_entries: Vec::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> PackId {
        self.id
    }

    /// Adds a frame and returns its first slot.
    ///
    /// # Panics
    /// If it has no slots, or 2^32 of them: a bug of the caller.
    pub fn push(&mut self, frame: SealedFrame) -> u32 {
        let first_slot = self.slot_count;
        let count = u32::try_from(frame.slots.len()).expect("a frame has few slots");
        assert!(count > 0, "a frame has at least one slot");
        let stored_bytes = u32::try_from(frame.stored.len()).expect("a frame is small");
        let mut entry = [0; FRAME_ENTRY_BYTES];
        put(&mut entry, 0, &stored_bytes.to_le_bytes());
        put(&mut entry, 4, &frame.crc.to_le_bytes());
        put(&mut entry, 8, &count.to_le_bytes());
        put(&mut entry, 12, &[frame.form as u8]);
        self.frame_entries.extend_from_slice(&entry);
        for slot in &frame.slots {
            self.slot_entries.extend_from_slice(&slot.digest.0);
            self.slot_entries.extend(slot.bytes.to_le_bytes());
        }
        self.slot_count += count;
        self.frame_bytes += frame.stored.len();
        self.frames.push(frame.stored);
        first_slot
    }

    /// Bytes of it so far: frames, and what the directory says of them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frame_bytes + self.frame_entries.len() + self.slot_entries.len()
    }

    /// Bytes of the object that [`PackBuilder::finish`] would store.
    #[must_use]
    pub fn object_bytes(&self) -> u64 {
        (HEADER_BYTES + self.bytes() + TRAILER_BYTES) as u64
    }

    /// Slots so far.
    #[must_use]
    pub fn slot_count(&self) -> u32 {
        self.slot_count
    }

    /// Stores it as a new object, or in the place of the one of its name; returns its bytes. Not durable
    /// before [`Store::settle`].
    ///
    /// Errors: those of [`Store::put`].
    pub fn finish(self, store: &dyn Store, put: Put) -> Result<u64> {
        self.finish_by(|name, parts| store.put(name, parts, put))
    }

    /// As [`PackBuilder::finish`], by [`Store::put_slowly`].
    pub fn finish_slowly(self, store: &dyn Store, put: Put, rest: &dyn Fn()) -> Result<u64> {
        self.finish_by(|name, parts| store.put_slowly(name, parts, put, rest))
    }

    fn finish_by(self, store: impl FnOnce(&ObjectName, &[&[u8]]) -> Result<()>) -> Result<u64> {
        let (header, trailer) = (self.header(), self.trailer());
        let mut parts: Vec<&[u8]> = Vec::with_capacity(self.frames.len() + 4);
        parts.push(&header);
        parts.extend(self.frames.iter().map(Vec::as_slice));
        parts.extend([&self.frame_entries[..], &self.slot_entries, &trailer]);
        store(&self.id.object(), &parts)?;
        Ok(self.object_bytes())
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        put(&mut header, 0, &MAGIC);
        put(&mut header, 8, &PACK_VERSION.to_le_bytes());
        put(&mut header, 16, &self.repository);
        put(&mut header, 32, &self.id.0);
        let crc = crc32fast::hash(&header[..60]);
        put(&mut header, 60, &crc.to_le_bytes());
        header
    }

    fn trailer(&self) -> [u8; TRAILER_BYTES] {
        debug_assert_eq!(
            self.slot_entries.len(),
            self.slot_count as usize * SLOT_ENTRY_BYTES
        );
        let frame_count = u32::try_from(self.frames.len()).expect("each frame has a slot");
        let mut trailer = [0; TRAILER_BYTES];
        let offset = (HEADER_BYTES + self.frame_bytes) as u64;
        put(&mut trailer, 0, &offset.to_le_bytes());
        put(&mut trailer, 8, &frame_count.to_le_bytes());
        put(&mut trailer, 12, &self.slot_count.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.frame_entries);
        hasher.update(&self.slot_entries);
        hasher.update(&trailer[..20]);
        put(&mut trailer, 20, &hasher.finalize().to_le_bytes());
        put(&mut trailer, 24, &END_MAGIC);
        trailer
    }
}
