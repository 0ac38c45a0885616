//! Units of one frame taken into another pack, each of them checked.

use crate::repository::compression::Compression;
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::pack::{Frame, FrameForm, PackDirectory, SealedFrame, Slot};
use crate::repository::store::Store;

/// A slot that keeps its number and has no content.
const EMPTIED: Slot = Slot {
    digest: Digest([0; 32]),
    bytes: 0,
};

/// Frames of which a part is left are compressed so. The level that they had is not on record.
const ZSTD_LEVEL: i32 = 3;

/// What becomes of the slots of units that are not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwanted {
    /// They stay and are empty, so that the others keep their numbers.
    Emptied,
    /// They go.
    LeftOut,
}

/// Frame `index` of `directory` with the units of the slots that are `wanted`; `None` if no slot is left.
///
/// A frame that is wanted whole is taken as it is stored. Errors: as for [`PackDirectory::read_frame`].
pub(super) fn copied(
    store: &dyn Store,
    directory: &PackDirectory,
    index: usize,
    wanted: &dyn Fn(u32) -> bool,
    unwanted: Unwanted,
) -> Result<Option<SealedFrame>> {
    let Some(frame) = directory.frames.get(index) else {
        return Ok(None);
    };
    let slots = directory.slots_of(index);
    let kept = (frame.first_slot..).zip(slots);
    let kept: Vec<_> = kept
        .map(|(number, slot)| if wanted(number) { *slot } else { EMPTIED })
        .collect();
    let is_whole = kept == slots;
    let is_empty = kept.iter().all(|slot| *slot == EMPTIED);
    let raw = match is_empty {
        true => Vec::new(),
        false => directory.read_frame(store, index)?,
    };
    if is_whole && !is_empty {
        return as_stored(store, directory, frame, kept).map(Some);
    }
    let raw = remaining(&raw, slots, &kept);
    let kept = match unwanted {
        Unwanted::Emptied => kept,
        Unwanted::LeftOut => kept.into_iter().filter(|slot| *slot != EMPTIED).collect(),
    };
    if kept.is_empty() {
        return Ok(None);
    }
    let compression = compression_of(frame.compression);
    Ok(Some(SealedFrame::seal(&raw, kept, compression)))
}

/// The frame as it is; what was read to check it may have been another one of a pack replaced meanwhile.
fn as_stored(
    store: &dyn Store,
    directory: &PackDirectory,
    frame: &Frame,
    slots: Vec<Slot>,
) -> Result<SealedFrame> {
    let object = directory.id.object();
    let mut stored = vec![0; usize::try_from(frame.stored_bytes).unwrap_or(usize::MAX)];
    store.read_at(&object, frame.offset, &mut stored)?;
    if crc32fast::hash(&stored) != frame.crc {
        let what = "the checksum of a frame is wrong";
        return Err(RepositoryError::Damaged { object, what });
    }
    Ok(SealedFrame {
        form: frame.compression,
        stored,
        crc: frame.crc,
        slots,
    })
}

/// The units of `raw` that are not emptied in `kept`.
fn remaining(raw: &[u8], slots: &[Slot], kept: &[Slot]) -> Vec<u8> {
    let mut rest = raw;
    let mut out = Vec::with_capacity(raw.len());
    for (slot, kept) in slots.iter().zip(kept) {
        let bytes = usize::try_from(slot.bytes).unwrap_or(usize::MAX);
        let (unit, after) = rest.split_at(bytes.min(rest.len()));
        rest = after;
        if *kept != EMPTIED {
            out.extend_from_slice(unit);
        }
    }
    out
}

/// What was not worth compressing as a whole is not in parts.
fn compression_of(form: FrameForm) -> Compression {
    match form {
        FrameForm::Plain => Compression::None,
        FrameForm::Zstd => Compression::Zstd(ZSTD_LEVEL),
        FrameForm::Lz4 => Compression::Lz4,
    }
}
