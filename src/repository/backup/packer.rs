//! Frames into packs, and packs into the repository.
//!
//! One pack is filled, [`QUEUE_PACKS`] wait, and one is written: so a sync of the disk stops no worker,
//! and a disk that is slower than they are does, before memory runs out.

use std::sync::mpsc::{Receiver, SyncSender};

use parking_lot::Mutex;

use crate::os::priority;
use crate::repository::backup::blob_index::{BlobIndex, BlobNo};
use crate::repository::backup::job::{Alarm, Failure, Job};
use crate::repository::catalog::Repository;
use crate::repository::compression::Compression;
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::pack::{FRAME_BYTES, PACK_BYTES, PackBuilder, PackId, SealedFrame, Slot};
use crate::repository::store::Put;

/// Packs that wait to be written.
pub(super) const QUEUE_PACKS: usize = 3;
/// Units of a frame at most: of tiny files there could be half a million.
const FRAME_UNITS_MAX: usize = 4096;

/// Takes frames from all workers.
#[derive(Debug)]
pub(super) struct Packer {
    filling: Mutex<Filling>,
}

#[derive(Debug)]
struct Filling {
    /// The pack, and its number in the index.
    pack: Option<(PackBuilder, u32)>,
    /// `None` after the last.
    full: Option<SyncSender<PackBuilder>>,
}

impl Packer {
    /// Gives full packs to `full`.
    pub(super) fn new(full: SyncSender<PackBuilder>) -> Self {
        let pack = None;
        Self {
            filling: Mutex::new(Filling {
                pack,
                full: Some(full),
            }),
        }
    }

    /// Adds a frame that holds `blobs`. Waits while too many packs wait to be written.
    ///
    /// Errors: `Io` if no name can be drawn; `WorkerLost` if nobody writes any more, who said why.
    pub(super) fn push(
        &self,
        frame: SealedFrame,
        blobs: &[BlobNo],
        repository: &Repository,
        index: &Mutex<BlobIndex>,
    ) -> Result<()> {
        let mut filling = self.filling.lock();
        let (mut pack, number) = match filling.pack.take() {
            Some(pack) => pack,
            None => {
                let id = draw_id(repository)?;
                let number = index.lock().add_pack(id);
                (PackBuilder::new(repository.id(), id), number)
            }
        };
        let first_slot = pack.push(frame);
        index.lock().place(blobs, number, first_slot);
        if pack.bytes() >= PACK_BYTES {
            return send(filling.full.as_ref(), pack);
        }
        filling.pack = Some((pack, number));
        Ok(())
    }

    /// Sends the last pack, unless somebody failed, and lets the writer end.
    pub(super) fn finish(&self, failure: &Failure) {
        let mut filling = self.filling.lock();
        let full = filling.full.take();
        if let Some((pack, _)) = filling.pack.take()
            && !failure.is_stopped()
            && let Err(error) = send(full.as_ref(), pack)
        {
            failure.fail(error);
        }
    }
}

fn send(full: Option<&SyncSender<PackBuilder>>, pack: PackBuilder) -> Result<()> {
    let sent = full.and_then(|full| full.send(pack).ok());
    sent.ok_or(RepositoryError::WorkerLost)
}

fn draw_id(repository: &Repository) -> Result<PackId> {
    let mut id = [0; 16];
    let drawn = repository.host().random.fill(&mut id);
    drawn.map_err(RepositoryError::io("draw a name for", "a pack"))?;
    Ok(PackId(id))
}

/// The thread that writes: ends when no pack can come any more, or at the first failure, which every
/// worker then learns by the closed queue.
pub(super) fn write_packs(job: &Job<'_>, full: Receiver<PackBuilder>) {
    let _alarm = Alarm(&job.failure);
    priority::stand_back();
    for pack in full {
        if job.failure.is_stopped() {
            return;
        }
        let store = &**job.repository.store();
        let go_on = || job.go_on();
        let stored = match job.courtesy.is_wanted() {
            true => pack.finish_slowly(store, Put::New, &job.courtesy.disk_rest(&go_on)),
            false => pack.finish(store, Put::New),
        };
        match stored {
            Ok(bytes) => job.control.add_stored(bytes),
            Err(error) => return job.failure.fail(error),
        }
    }
}

/// New units on their way into one frame.
#[derive(Debug)]
pub(super) struct FrameFill {
    raw: Vec<u8>,
    slots: Vec<Slot>,
    blobs: Vec<BlobNo>,
    compression: Compression,
}

impl FrameFill {
    /// An empty frame, with room for all that it may hold.
    pub(super) fn new(compression: Compression) -> Self {
        Self {
            raw: Vec::with_capacity(FRAME_BYTES),
            slots: Vec::new(),
            blobs: Vec::new(),
            compression,
        }
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Whether so many bytes more are too many.
    pub(super) fn is_full_for(&self, bytes: usize) -> bool {
        let is_long = self.raw.len() + bytes > FRAME_BYTES;
        !self.is_empty() && (is_long || self.blobs.len() >= FRAME_UNITS_MAX)
    }

    /// Adds a unit, its bytes too unless they are all elsewhere (see [`FrameFill::seal_bytes`]).
    pub(super) fn add(&mut self, bytes: &[u8], digest: Digest, blob: BlobNo) {
        self.raw.extend_from_slice(bytes);
        self.note(bytes.len(), digest, blob);
    }

    /// Notes a unit whose bytes are given to [`FrameFill::seal_bytes`].
    pub(super) fn note(&mut self, bytes: usize, digest: Digest, blob: BlobNo) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.slots.push(Slot { digest, bytes });
        self.blobs.push(blob);
    }

    /// Compresses what was added; the fill is empty after.
    pub(super) fn seal(&mut self) -> (SealedFrame, Vec<BlobNo>) {
        let raw = std::mem::take(&mut self.raw);
        let sealed = self.seal_bytes(&raw);
        self.raw = raw;
        self.raw.clear();
        sealed
    }

    /// Compresses `raw`, the bytes of all units that were noted.
    pub(super) fn seal_bytes(&mut self, raw: &[u8]) -> (SealedFrame, Vec<BlobNo>) {
        let slots = std::mem::take(&mut self.slots);
        let frame = SealedFrame::seal(raw, slots, self.compression);
        (frame, std::mem::take(&mut self.blobs))
    }
}
