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
use crate::shadow::capture::fill_slots;
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
    /// Numbers for `count` images of `bytes` bytes each, those with space first.
    ///
    /// Errors: `Exhausted`, `NoRoom`; none is then taken.
    fn take(&mut self, count: usize, bytes: u64, room: &Room) -> Result<Taken, ShadowError> {
        let spare = count.min(self.free.len());
        let grown = (count - spare) as u64;
        let left = self.holes.len() as u64 + u64::from(SLOT_COUNT_MAX - self.next);
        if grown > left {
            return Err(ShadowError::Exhausted);
        }
        if grown > 0 && !room.take(grown * bytes) {
            return Err(ShadowError::NoRoom {
                free_bytes: room.free_bytes(),
                floor_bytes: room.floor_bytes(),
            });
        }
        let numbers = (0..count).map(|_| {
            let lowest = self.free.pop_first().or_else(|| self.holes.pop_first());
            lowest.unwrap_or_else(|| {
                self.next += 1;
                self.next - 1
            })
        });
        Ok(Taken {
            numbers: numbers.collect(),
            spare,
        })
    }

    /// The slot in which `image` is already.
    fn find(&self, page: PageNo, image: &[u8]) -> Option<u32> {
        match self.by_key.get(&(page, page::lsn(image))) {
            Some(Entry::Slot { slot, crc }) if *crc == page::stored_crc(image) => Some(*slot),
            _ => None,
        }
    }

    /// A slot that was filled.
    fn add(&mut self, number: u32, entry: Entry, holders: u32, (page, image): (PageNo, &[u8])) {
        let key = (page, page::lsn(image));
        // Only a valid image is told from others by its key: a damaged one is kept by itself.
        let is_valid = page::content_crc(image) == page::stored_crc(image);
        let key = (is_valid && !self.by_key.contains_key(&key)).then_some(key);
        if let Some(key) = key {
            self.by_key.insert(key, entry);
        }
        self.slots.insert(number, Slot { key, holders });
    }

    fn hold_more(&mut self, number: u32, holders: u32) {
        self.slots
            .entry(number)
            .and_modify(|slot| slot.holders += holders);
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

/// Slots that are to be filled.
#[derive(Debug)]
struct Taken {
    numbers: Vec<u32>,
    /// So many of the first have space.
    spare: usize,
}

/// Where an image is, or is to be written.
#[derive(Clone, Copy, Debug)]
struct Place {
    slot: u32,
    is_fresh: bool,
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
    /// Errors: as for [`Self::acquire_all`].
    pub(super) fn acquire(
        &self,
        page: PageNo,
        image: &[u8],
        room: &Room,
    ) -> Result<(Entry, bool), ShadowError> {
        let mut stored = self.acquire_all(&[(page, 1)], image, room)?;
        Ok(stored.pop().expect("one for each page"))
    }

    /// The entries for images of several pages, which lie one behind the other in `images`; for each page
    /// so many more holders. Those that are not there yet are written, by one call for a row of slots.
    /// Says of each whether it was written.
    ///
    /// Errors: `NoRoom` if they need space that `room` does not have; `Io`, `Exhausted`; no slot is then
    /// taken.
    pub(super) fn acquire_all(
        &self,
        pages: &[(PageNo, u32)],
        images: &[u8],
        room: &Room,
    ) -> Result<Vec<(Entry, bool)>, ShadowError> {
        let page_bytes = self.page_size.bytes();
        debug_assert_eq!(images.len(), pages.len() * page_bytes, "an image each");
        let mut state = self.state.lock();
        let found = images.chunks_exact(page_bytes).zip(pages);
        let found: Vec<_> = found
            .map(|(image, (page, _))| state.find(*page, image))
            .collect();
        let missing = found.iter().filter(|slot| slot.is_none()).count();
        let taken = state.take(missing, u64::from(self.page_size.get()), room)?;
        let mut fresh = taken.numbers.iter().copied();
        let places: Vec<Place> = found
            .into_iter()
            .filter_map(|known| {
                let slot = known.or_else(|| fresh.next())?;
                let is_fresh = known.is_none();
                Some(Place { slot, is_fresh })
            })
            .collect();
        let order = || fence(Ordering::SeqCst);
        if let Err(error) = fill_slots(order, || self.write_rows(&places, images)) {
            self.put_back(&mut state, taken);
            return Err(ShadowError::io("write", "shadow/slots")(error));
        }
        let stored = pages
            .iter()
            .zip(places)
            .zip(images.chunks_exact(page_bytes));
        let stored = stored.map(|(((page, holders), place), image)| {
            let holders = match fault::is(Fault::SlotHolderUncounted) {
                true => u32::from(place.is_fresh),
                false => *holders,
            };
            let crc = page::stored_crc(image);
            let entry = Entry::Slot {
                slot: place.slot,
                crc,
            };
            match place.is_fresh {
                true => state.add(place.slot, entry, holders, (*page, image)),
                false => state.hold_more(place.slot, holders),
            }
            (entry, place.is_fresh)
        });
        Ok(stored.collect())
    }

    /// Writes the images that are not there yet: what lies in a row both here and there, at once.
    fn write_rows(&self, places: &[Place], images: &[u8]) -> io::Result<()> {
        let page_bytes = self.page_size.bytes();
        let mut rest = images;
        let is_row =
            |one: &Place, next: &Place| one.is_fresh && next.is_fresh && one.slot + 1 == next.slot;
        for row in places.chunk_by(is_row) {
            let (bytes, behind) = rest.split_at(row.len() * page_bytes);
            rest = behind;
            if let Some(Place { slot, is_fresh }) = row.first()
                && *is_fresh
            {
                let offset = u64::from(*slot) * u64::from(self.page_size.get());
                os::write_all_at(&*self.file, bytes, offset)?;
            }
        }
        Ok(())
    }

    /// Takes back what could not be filled. Part of it may have got space: that goes back too.
    fn put_back(&self, state: &mut State, taken: Taken) {
        let (spare, grown) = taken.numbers.split_at(taken.spare);
        let page_bytes = u64::from(self.page_size.get());
        state.free.extend(spare);
        state.holes.extend(grown);
        for number in grown {
            // Where that cannot be done, the file system counts them and we do not.
            let _ = self.file.punch(u64::from(*number) * page_bytes, page_bytes);
        }
        self.trim(state);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::os::sim::{Fault, Faults, Operation, SimDisk};
    use crate::os::{Disk, OpenMode};
    use crate::page::{PageBuf, PageKind};

    const PAGE: u64 = 4096;

    fn store(disk: &SimDisk) -> (SlotStore, Room) {
        disk.create_dir(Path::new("/db")).unwrap();
        let file = disk.open(Path::new("/db/slots"), OpenMode::CreateNew);
        let room = Room::new(Arc::new(disk.clone()), "/db".into(), 0);
        let page_size = PageSize::new(PAGE).unwrap();
        (SlotStore::new(file.unwrap(), page_size), room)
    }

    /// Images of pages, one behind the other, and each with one holder.
    fn images(pages: impl Iterator<Item = u64>) -> (Vec<(PageNo, u32)>, Vec<u8>) {
        let size = PageSize::new(PAGE).unwrap();
        let mut bytes = Vec::new();
        let pages = pages.map(PageNo).map(|page| {
            let mut image = PageBuf::formatted(size, page, PageKind::Leaf);
            image.seal(Lsn(7));
            bytes.extend_from_slice(&image);
            (page, 1)
        });
        (pages.collect(), bytes)
    }

    fn number(entry: Entry) -> u32 {
        match entry {
            Entry::Slot { slot, .. } => slot,
            other => panic!("{other:?}"),
        }
    }

    /// S5: images that are there are shared, and the others go into as few writes as there are rows.
    #[test]
    fn images_of_a_batch_are_written_in_rows_and_each_once() {
        let disk = SimDisk::new(1);
        let (store, room) = store(&disk);
        let (pages, bytes) = images(0..40);
        let before = disk.count(Operation::Write);
        let stored = store.acquire_all(&pages, &bytes, &room).unwrap();
        assert_eq!(disk.count(Operation::Write) - before, 1);
        assert!(stored.iter().all(|(_, is_fresh)| *is_fresh));
        let (more, more_bytes) = images(30..60);
        let again = store.acquire_all(&more, &more_bytes, &room).unwrap();
        assert_eq!(disk.count(Operation::Write) - before, 2);
        assert_eq!(
            stored[30..],
            again[..10]
                .iter()
                .map(|(entry, _)| (*entry, true))
                .collect::<Vec<_>>()
        );
        assert!(again[..10].iter().all(|(_, is_fresh)| !is_fresh));
        assert_eq!(store.counts(), (60, 60 * PAGE));
        // Every slot holds its image, and lasts as long as one of its holders.
        store.release(stored.iter().map(|(entry, _)| *entry).collect());
        assert_eq!(store.counts().0, 30);
        for ((entry, _), image) in again.iter().zip(more_bytes.chunks_exact(4096)) {
            let mut out = [0; 4096];
            let offset = u64::from(number(*entry)) * PAGE;
            os::read_exact_at(&**store.file(), &mut out, offset).unwrap();
            assert!(out == image);
        }
        // What is free is used first, also where it is in pieces.
        let odd = again.iter().filter(|(entry, _)| number(*entry) % 2 == 1);
        store.release(odd.map(|(entry, _)| *entry).collect());
        let (others, other_bytes) = images(100..120);
        let others = store.acquire_all(&others, &other_bytes, &room).unwrap();
        assert!(others.iter().all(|(entry, _)| number(*entry) < 60));
    }

    /// L1, L4: images that do not all fit take no space and no slot, wherever it ends.
    #[test]
    fn batch_that_does_not_fit_leaves_nothing_behind() {
        for (fitting, is_told) in [(0, true), (5, true), (5, false), (19, false)] {
            let disk = SimDisk::new(2);
            let (store, room) = store(&disk);
            let (first, first_bytes) = images(200..203);
            let kept = store.acquire_all(&first, &first_bytes, &room).unwrap();
            // A hole that may be filled again, between two that are held.
            store.release(vec![kept[1].0]);
            store.give_back();
            disk.set_capacity(Some((2 + fitting) * PAGE));
            if !is_told {
                // The file system says that there is room until something is written.
                let silent = Fault::kind(Operation::FreeBytes, io::ErrorKind::Other);
                disk.set_faults(Faults::none().with(silent.times(u64::MAX)));
            }
            let (pages, bytes) = images(0..20);
            let error = store.acquire_all(&pages, &bytes, &room).unwrap_err();
            assert!(error.is_shortage(), "{error}");
            disk.set_faults(Faults::none());
            assert_eq!(disk.free_bytes(Path::new("/db")).unwrap(), fitting * PAGE);
            assert_eq!(store.counts(), (2, 2 * PAGE));
            let fits = usize::try_from(fitting).unwrap();
            room.forget();
            let some = store.acquire_all(&pages[..fits], &bytes[..fits * 4096], &room);
            assert_eq!(some.unwrap().len(), fits);
        }
    }
}
