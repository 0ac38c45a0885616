//! The slot file: images by number, shared between pins (S5).

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use parking_lot::Mutex;

use crate::fault::{self, Fault};
use crate::lsn::Lsn;
use crate::os::{self, File};
use crate::page::{self, PageNo, PageSize};
use crate::shadow::adopt::{FoundSlots, ImageFacts};
use crate::shadow::capture::fill_slot;
use crate::shadow::index::{Entry, SLOT_COUNT_MAX};
use crate::shadow::room::Room;
use crate::shadow::{HeldPin, ShadowError};

/// The most free slots that are looked for between those that are found held: a file of holes must not
/// cost memory. What is not found is free again when no pin is left.
const FREE_FOUND_MAX: usize = 1 << 20;

#[derive(Debug)]
struct Slot {
    /// `None` for a page whose stored checksum does not tell it from another of the same LSN.
    key: Option<(PageNo, Lsn)>,
    holders: u32,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<u32, Slot>,
    by_key: HashMap<(PageNo, Lsn), Entry>,
    /// Numbers that nobody holds and whose space is still there.
    free: BTreeSet<u32>,
    /// Numbers that nobody holds and that have no space.
    holes: BTreeSet<u32>,
    next: u32,
    /// Numbers below this may be somebody else's: they are never free, and stay in the file.
    kept: u32,
}

impl State {
    /// A number whose space is not there yet.
    fn grow(&mut self, bytes: u64, room: &Room) -> Result<u32, ShadowError> {
        if self.holes.is_empty() && self.next == SLOT_COUNT_MAX {
            return Err(ShadowError::Exhausted);
        }
        if !room.take(bytes) {
            return Err(ShadowError::NoRoom {
                free_bytes: room.free_bytes(),
                floor_bytes: room.floor_bytes(),
            });
        }
        Ok(self.holes.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        }))
    }

    fn release(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        slot.holders -= 1;
        if slot.holders > 0 {
            return;
        }
        let key = slot.key;
        self.slots.remove(&number);
        if let Some(key) = key {
            self.by_key.remove(&key);
        }
        if number >= self.kept {
            self.free.insert(number);
        }
    }

    /// One more holder of a slot that was found with `image` in it.
    fn hold(&mut self, number: u32, entry: Entry, image: &ImageFacts) {
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.holders += 1;
            return;
        }
        let key = (image.page, image.lsn);
        let key = (!self.by_key.contains_key(&key)).then_some(key);
        if let Some(key) = key {
            self.by_key.insert(key, entry);
        }
        self.slots.insert(number, Slot { key, holders: 1 });
    }
}

/// Which slots of a slot file that is gone on with may be filled anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FreeSlots {
    /// Those that no pin of ours holds.
    Unclaimed,
    /// None that the file has.
    None,
}

/// See the head of the file.
#[derive(Debug)]
pub(super) struct SlotStore {
    file: Arc<dyn File>,
    page_size: PageSize,
    state: Mutex<State>,
}

impl SlotStore {
    pub(super) fn new(file: Arc<dyn File>, page_size: PageSize) -> Self {
        Self {
            file,
            page_size,
            state: Mutex::default(),
        }
    }

    /// The slots of an earlier incarnation: those that `pins` hold stay theirs.
    pub(super) fn restored(
        found: FoundSlots,
        page_size: PageSize,
        pins: &[Arc<HeldPin>],
        free: FreeSlots,
    ) -> Self {
        let mut state = State::default();
        for entry in pins.iter().flat_map(|pin| pin.entries()) {
            if let Entry::Slot { slot: number, .. } = entry
                && let Some(image) = found.images.get(&number)
            {
                state.hold(number, entry, image);
            }
        }
        let claimed_end = state.slots.keys().max().map_or(0, |last| last + 1);
        match free {
            FreeSlots::Unclaimed => {
                state.next = claimed_end;
                let is_free = |number: &u32| !state.slots.contains_key(number);
                let free = (0..claimed_end).filter(is_free).take(FREE_FOUND_MAX);
                state.free = free.collect();
            }
            FreeSlots::None => {
                let count = found.count.min(u64::from(SLOT_COUNT_MAX));
                state.next = u32::try_from(count).unwrap_or(SLOT_COUNT_MAX);
                state.kept = state.next;
            }
        }
        Self {
            file: found.file,
            page_size,
            state: Mutex::new(state),
        }
    }

    /// Gives back what the file has behind the last slot; only while an engine runs.
    pub(super) fn cut_tail(&self) -> io::Result<()> {
        let state = self.state.lock();
        let used = u64::from(state.next) * u64::from(self.page_size.get());
        if self.file.len()? > used {
            self.file.set_len(used)?;
        }
        Ok(())
    }

    pub(super) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The entry for an image of `page`, written unless it is there already; one more holder.
    /// Says whether the image was written.
    ///
    /// Errors: `NoRoom` if it needs space that `room` does not have; `Io`, `Exhausted`; no slot is then
    /// taken.
    pub(super) fn acquire(
        &self,
        page: PageNo,
        image: &[u8],
        room: &Room,
    ) -> Result<(Entry, bool), ShadowError> {
        let order = || fence(Ordering::SeqCst);
        let mut state = self.state.lock();
        let crc = page::stored_crc(image);
        let key = (page, page::lsn(image));
        match state.by_key.get(&key).copied() {
            Some(entry @ Entry::Slot { slot, crc: known }) if known == crc => {
                let one = u32::from(!fault::is(Fault::SlotHolderUncounted));
                state
                    .slots
                    .entry(slot)
                    .and_modify(|slot| slot.holders += one);
                fill_slot(order, || Ok::<(), ShadowError>(()))?;
                return Ok((entry, false));
            }
            _ => {}
        }
        let spare = state.free.pop_first();
        let number = match spare {
            Some(number) => number,
            None => state.grow(u64::from(self.page_size.get()), room)?,
        };
        let offset = u64::from(number) * u64::from(self.page_size.get());
        let write = || os::write_all_at(&*self.file, image, offset);
        if let Err(error) = fill_slot(order, write) {
            match spare {
                Some(number) => state.free.insert(number),
                None => state.holes.insert(number),
            };
            return Err(ShadowError::io("write", "shadow/slots")(error));
        }
        let entry = Entry::Slot { slot: number, crc };
        // Only a valid image is told from others by its key: a damaged one is kept by itself.
        let valid = page::content_crc(image) == crc && !state.by_key.contains_key(&key);
        let key = valid.then_some(key);
        if let Some(key) = key {
            state.by_key.insert(key, entry);
        }
        state.slots.insert(number, Slot { key, holders: 1 });
        Ok((entry, true))
    }

    /// One holder less for each; what has lost its last one may be used for another image.
    pub(super) fn release(&self, entries: Vec<Entry>) {
        let mut state = self.state.lock();
        for entry in entries {
            if let Entry::Slot { slot, .. } = entry {
                state.release(slot);
            }
        }
        self.trim(&mut state);
    }

    /// Gives the space of all that nobody holds back to the file system (L5); says how much that was.
    pub(super) fn give_back(&self) -> u64 {
        let mut state = self.state.lock();
        let before = state.free.len();
        self.trim(&mut state);
        let page_bytes = u64::from(self.page_size.get());
        let free: Vec<u32> = std::mem::take(&mut state.free).into_iter().collect();
        for run in free.chunk_by(|one, next| one + 1 == *next) {
            let first = run.first().map_or(0, |slot| u64::from(*slot));
            let bytes = run.len() as u64 * page_bytes;
            // A file system that cannot punch keeps them as they are.
            match self.file.punch(first * page_bytes, bytes) {
                Ok(()) => state.holes.extend(run),
                Err(_) => state.free.extend(run),
            }
        }
        (before - state.free.len()) as u64 * page_bytes
    }

    /// Cuts what nobody holds at the end of the file. A reader of a pin that has ended may find its slot
    /// gone, and its last look tells it why.
    fn trim(&self, state: &mut State) {
        let is_held = |slot: &u32| state.slots.contains_key(slot);
        let last = (state.kept..state.next).rev().find(is_held);
        let next = last.map_or(state.kept, |slot| slot + 1);
        let bytes = u64::from(next) * u64::from(self.page_size.get());
        if next < state.next && self.file.set_len(bytes).is_ok() {
            state.next = next;
            state.free.split_off(&next);
            state.holes.split_off(&next);
        }
    }

    /// Slots in use, and bytes of space that the file takes.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.state.lock();
        let slots = u64::from(state.next) - state.holes.len() as u64;
        (
            state.slots.len() as u64,
            slots * u64::from(self.page_size.get()),
        )
    }
}
