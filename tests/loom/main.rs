//! Model checking of the order that keeps the promise: `shadow::capture` against `view::merged_read`.
//!
//! The functions that run here are the library's own (`capture`, `end_pin`, `fill_slots`,
//! `read_merged`), over files that are loom's atomics. loom tries every interleaving, and for each load
//! every value that the memory model lets it see.
//!
//! What is modelled: a page is two halves, each one relaxed atomic, so an overwrite tears. Index
//! entries, the length of an index and the epoch of the live header are relaxed atomics too. So pread and
//! pwrite order nothing by themselves; what orders are the fences that the traits ask for, and the engine's
//! mutexes among its own threads. Cutting an index makes it short first and zero then. The page
//! checks are off: the order alone has to do.
//!
//! A fence is only an acquire and release fence here. That is less than the SeqCst fence that the library
//! makes, and it must be enough; loom's SeqCst fence orders more than the memory model says, and its
//! search does not branch on it.
//!
//! What is not: an entry is one atomic, as an aligned word of 8 bytes is in the page cache; loads do not
//! see stores of their future (loom has no load buffering).
//!
//! Each model is run with the orders right, where no run may break the promise, and with one
//! order wrong, where loom must find the run that does.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "the whole file is a test, and its numbers are small"
)]

mod batches;
mod hand_over;
mod judge;
mod models;

use loom::sync::atomic::{
    AtomicU64, Ordering::AcqRel, Ordering::Relaxed, Ordering::Release, fence,
};
use loom::sync::{Arc, Mutex};
use loom::thread;

use judge::{Answers, Refusals, breaks, breaks_within, holds, holds_within, reader, refuses};
use stillfs::engine::takeover::{TakeoverSteps, take_over};
use stillfs::page::PageNo;
use stillfs::shadow::capture::{CaptureSteps, EndSteps, Lacked, capture, end_pin, fill_slots};
use stillfs::shadow::index::Entry;
use stillfs::view::merged_read::{MergeSource, read_merged};
use stillfs::view::tree::{EndSeen, ReadError};

/// One order that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// Nothing is wrong.
    None,
    /// The writer overwrites, then captures what it had read.
    PublishAfterOverwrite,
    /// The capture does not fence before the overwrite.
    NoFenceAfterCapture,
    /// A slot's image is not fenced from the entry that leads to it, nor from the slot's last use.
    NoFenceAroundSlot,
    /// With no pin that lacks a page the overwrite is not fenced.
    NoFenceWithoutPins,
    /// The reader leaves out its first fence, its second, or its third.
    NoReaderFence(u32),
    /// The reader looks into the index before it reads the live file.
    EntriesBeforeLive,
    /// The reader looks for the end first, and not at last.
    LookFirst,
    /// The pin's slots are given back before its index is cut.
    SlotsBeforeCut,
    /// A stranger overwrites before its epoch is in the live header.
    OverwriteBeforeEpoch,
    /// An engine that adopts writes its epoch before the index accepts it.
    EpochBeforeAcceptance,
    /// An engine that adopts does not capture for the pin.
    AdoptedNotCaptured,
    /// An engine that adopts nothing writes before its epoch.
    OverwriteBeforeTakeover,
    /// An engine that does not know the pin uses its slot before its epoch is in the live header.
    SlotBeforeTakeover,
    /// The copies of the live header are not united before the index forgets an epoch.
    CopiesNotUnited,
    /// A batch publishes for a pin that ended meanwhile.
    PublishIntoCutIndex,
    /// A slot that a batch fills for several pins has one holder.
    OneHolderForAll,
    /// The batches of a checkpoint are captured for the pins that its first one found.
    PinsListedOnce,
    /// A pin is taken while a batch is in flight.
    PinBesideBatch,
}

const EPOCH: u64 = 1;
/// The epoch of the incarnation that comes.
const NEXT_EPOCH: u64 = 7;

fn both(first: u64, second: u64) -> u64 {
    first << 8 | second
}

/// What a page holds after the overwrite, both halves.
const NEWER: u64 = 99;

/// What a page holds at the pin, both halves.
fn pinned(page: usize) -> u64 {
    10 + page as u64
}

type Page = [AtomicU64; 2];

fn page_of(value: u64) -> Page {
    [AtomicU64::new(value), AtomicU64::new(value)]
}

fn load(page: &Page) -> [u64; 2] {
    [page[0].load(Relaxed), page[1].load(Relaxed)]
}

fn store(page: &Page, image: [u64; 2]) {
    page[0].store(image[0], Relaxed);
    page[1].store(image[1], Relaxed);
}

/// One pin's index file.
struct Index {
    is_whole: AtomicU64,
    /// Two epochs of 8 bits each: one atomic, as the header's checksum makes it one.
    accepted: AtomicU64,
    entries: Vec<AtomicU64>,
}

/// What the engine knows of a pin, under the pin's lock.
#[derive(Clone, Default)]
struct Known {
    slots: Vec<Option<u32>>,
    is_ended: bool,
}

/// A page, and its image instead of its LSN.
type SlotKey = (usize, [u64; 2]);

/// Who holds the slots, under the store's lock: per slot what is in it, and its holders.
#[derive(Default)]
struct Holders(Vec<(SlotKey, u32)>);

/// The files that both sides see, and the engine's own memory.
struct World {
    bug: Bug,
    live: Vec<Page>,
    /// The two copies of the live header.
    epochs: [AtomicU64; 2],
    slots: Vec<Page>,
    indexes: Vec<Index>,
    known: Vec<Mutex<Known>>,
    holders: Mutex<Holders>,
}

impl World {
    fn new(bug: Bug, pins: usize, pages: usize, slots: usize) -> Self {
        let index = |_| Index {
            is_whole: AtomicU64::new(1),
            accepted: AtomicU64::new(both(EPOCH, EPOCH)),
            entries: (0..pages).map(|_| AtomicU64::new(0)).collect(),
        };
        let known = Known {
            slots: vec![None; pages],
            is_ended: false,
        };
        Self {
            bug,
            live: (0..pages).map(|page| page_of(pinned(page))).collect(),
            epochs: [AtomicU64::new(EPOCH), AtomicU64::new(EPOCH)],
            slots: (0..slots).map(|_| page_of(0)).collect(),
            indexes: (0..pins).map(index).collect(),
            known: (0..pins).map(|_| Mutex::new(known.clone())).collect(),
            holders: Mutex::default(),
        }
    }

    /// The slots of pages, filled with their images unless they are there; so many more holders of each.
    fn acquire(&self, wanted: &[(usize, [u64; 2], u32)]) -> Vec<u32> {
        let mut holders = self.holders.lock().unwrap();
        let mut fresh = Vec::new();
        let mut slots = Vec::new();
        for &(page, image, more) in wanted {
            let key = (page, image);
            let position = |is: &dyn Fn(&(SlotKey, u32)) -> bool| holders.0.iter().position(is);
            let known = position(&|&(of, count)| of == key && count > 0);
            let slot = known.or_else(|| position(&|&(_, count)| count == 0));
            let slot = slot.unwrap_or(holders.0.len());
            if slot == holders.0.len() {
                holders.0.push((key, 0));
            }
            holders.0[slot] = (key, holders.0[slot].1 + more);
            if known.is_none() {
                fresh.push((slot, image));
            }
            slots.push(u32::try_from(slot).unwrap());
        }
        let order = || {
            if self.bug != Bug::NoFenceAroundSlot {
                fence(AcqRel);
            }
        };
        let write = || {
            fresh
                .iter()
                .for_each(|&(slot, image)| store(&self.slots[slot], image));
            Ok::<(), ()>(())
        };
        fill_slots(order, write).unwrap();
        slots
    }

    fn release(&self, slot: u32) {
        self.holders.lock().unwrap().0[slot as usize].1 -= 1;
    }

    fn overwrite(&self, page: usize) {
        store(&self.live[page], [NEWER; 2]);
    }

    /// What writeback does with a batch.
    fn write_back(&self, pins: &[usize], pages: &[usize]) {
        let batch = Batch { world: self, pins };
        let numbers: Vec<PageNo> = pages.iter().map(|&page| PageNo(page as u64)).collect();
        if self.bug == Bug::PublishAfterOverwrite {
            let late = Late(batch, self.live.iter().map(load).collect());
            pages.iter().for_each(|&page| self.overwrite(page));
            capture(&late, &numbers).unwrap();
            return;
        }
        capture(&batch, &numbers).unwrap();
        pages.iter().for_each(|&page| self.overwrite(page));
    }

    fn end(&self, pin: usize) {
        if self.bug == Bug::SlotsBeforeCut {
            let mut known = self.known[pin].lock().unwrap();
            let held = known.slots.iter_mut().filter_map(Option::take);
            held.for_each(|slot| self.release(slot));
        }
        end_pin(&End { world: self, pin }).unwrap();
    }

    /// Another incarnation, which knows nothing of the pin: its epoch, then its writes.
    fn stranger(&self, page: usize) {
        let steps: [&dyn Fn(); 2] = [&|| self.write_epoch(EPOCH + 1), &|| self.overwrite(page)];
        let is_right = self.bug != Bug::OverwriteBeforeEpoch;
        steps[usize::from(!is_right)]();
        // The sync of the header, which the engine waits for.
        fence(AcqRel);
        steps[usize::from(is_right)]();
    }

    fn write_epoch(&self, epoch: u64) {
        for copy in &self.epochs {
            copy.store(epoch, Relaxed);
            // Each copy is synced.
            fence(AcqRel);
        }
    }

    /// The next incarnation: it takes the live file over, adopts `pins`, and overwrites `page`.
    fn next_incarnation(&self, pins: &[usize], page: usize) {
        if self.bug == Bug::OverwriteBeforeTakeover {
            self.overwrite(page);
        }
        let mut steps = Takeover { world: self, pins };
        if self.bug == Bug::EpochBeforeAcceptance {
            steps.write_epoch().unwrap();
        }
        take_over(&mut steps).unwrap();
        match self.bug {
            Bug::AdoptedNotCaptured => self.overwrite(page),
            _ => self.write_back(pins, &[page]),
        }
    }

    /// A read of `count` pages from the first on, as `pin` sees them.
    fn read(&self, pin: usize, count: usize) -> Result<Vec<u8>, ReadError> {
        let mut out = vec![0; 2 * count];
        let source = Reader {
            world: self,
            pin,
            fences: std::cell::Cell::new(0),
        };
        match self.bug {
            Bug::EntriesBeforeLive => {
                read_merged(&Swapped::new(source), PageNo(0), &mut out)?;
            }
            Bug::LookFirst => {
                source.last_look()?;
                read_merged(&source, PageNo(0), &mut out)?;
            }
            _ => {
                read_merged(&source, PageNo(0), &mut out)?;
            }
        }
        Ok(out)
    }
}

/// A batch of writeback.
struct Batch<'a> {
    world: &'a World,
    /// The active pins, as the engine listed them.
    pins: &'a [usize],
}

impl CaptureSteps for Batch<'_> {
    type Pin = usize;
    type Image = [u64; 2];
    type Error = ();

    fn pins_lacking(&self, page: PageNo) -> Vec<usize> {
        let lacks = |&&pin: &&usize| {
            let known = self.world.known[pin].lock().unwrap();
            !known.is_ended && known.slots[page.0 as usize].is_none()
        };
        self.pins.iter().filter(lacks).copied().collect()
    }

    fn pre_images(&self, pages: &[PageNo]) -> Vec<[u64; 2]> {
        let live = pages.iter().map(|page| &self.world.live[page.0 as usize]);
        live.map(load).collect()
    }

    /// One page goes the other way.
    fn store_and_publish_all(&self, lacked: &[Lacked<usize, [u64; 2]>]) -> Result<bool, ()> {
        if lacked.len() == 1 {
            return Ok(false);
        }
        let holders = |one: &Lacked<_, _>| match self.world.bug {
            Bug::OneHolderForAll => 1,
            _ => one.pins.len() as u32,
        };
        let wanted = lacked
            .iter()
            .map(|one| (one.page.0 as usize, one.image, holders(one)));
        let slots = self.world.acquire(&wanted.collect::<Vec<_>>());
        for &pin in self.pins {
            let of_pin = lacked.iter().zip(&slots);
            let of_pin = of_pin.filter(|(one, _)| one.pins.contains(&pin));
            let entries: Vec<_> = of_pin
                .map(|(one, &slot)| (one.page.0 as usize, slot))
                .collect();
            self.publish(pin, &entries);
        }
        Ok(true)
    }

    fn store_and_publish(&self, pin: &usize, page: PageNo, image: &[u64; 2]) -> Result<(), ()> {
        let page = page.0 as usize;
        let slots = self.world.acquire(&[(page, *image, 1)]);
        self.publish(*pin, &[(page, slots[0])]);
        Ok(())
    }

    fn fence(&self) {
        let is_left_out = match self.world.bug {
            Bug::NoFenceAfterCapture => true,
            Bug::NoFenceWithoutPins => self.pins.is_empty(),
            _ => false,
        };
        if !is_left_out {
            fence(AcqRel);
        }
    }
}

impl Batch<'_> {
    /// Puts slots into a pin's index, or gives them back if it has ended.
    fn publish(&self, pin: usize, entries: &[(usize, u32)]) {
        let mut known = self.world.known[pin].lock().unwrap();
        for &(page, slot) in entries {
            if known.is_ended && self.world.bug != Bug::PublishIntoCutIndex {
                self.world.release(slot);
                continue;
            }
            let index = &self.world.indexes[pin];
            let entry = Entry::Slot { slot, crc: 0 }.encode();
            index.entries[page].store(entry, Relaxed);
            match known.slots.get_mut(page) {
                Some(known) => *known = Some(slot),
                // What is written to a cut file makes it long again.
                None => index.is_whole.store(1, Relaxed),
            }
        }
    }
}

/// A capture of images that were read before the overwrite that is done already.
struct Late<'a>(Batch<'a>, Vec<[u64; 2]>);

impl CaptureSteps for Late<'_> {
    type Pin = usize;
    type Image = [u64; 2];
    type Error = ();

    fn pins_lacking(&self, page: PageNo) -> Vec<usize> {
        self.0.pins_lacking(page)
    }

    fn pre_images(&self, pages: &[PageNo]) -> Vec<[u64; 2]> {
        pages.iter().map(|page| self.1[page.0 as usize]).collect()
    }

    fn store_and_publish_all(&self, lacked: &[Lacked<usize, [u64; 2]>]) -> Result<bool, ()> {
        self.0.store_and_publish_all(lacked)
    }

    fn store_and_publish(&self, pin: &usize, page: PageNo, image: &[u64; 2]) -> Result<(), ()> {
        self.0.store_and_publish(pin, page, image)
    }

    fn fence(&self) {
        self.0.fence();
    }
}

/// An incarnation that takes the live file over.
struct Takeover<'a> {
    world: &'a World,
    /// The pins that it adopts.
    pins: &'a [usize],
}

impl TakeoverSteps for Takeover<'_> {
    type Error = ();

    fn unite_copies(&mut self) -> Result<(), ()> {
        if self.world.bug != Bug::CopiesNotUnited {
            let newest = self.world.epochs[0].load(Relaxed);
            self.world.epochs[1].store(newest, Relaxed);
            fence(AcqRel);
        }
        Ok(())
    }

    fn prepare_sink(&mut self) -> Result<(), ()> {
        let carried = self.world.epochs[0].load(Relaxed);
        for &pin in self.pins {
            let accepted = both(carried, NEXT_EPOCH);
            self.world.indexes[pin].accepted.store(accepted, Relaxed);
        }
        Ok(())
    }

    fn fence(&self) {
        fence(AcqRel);
    }

    fn write_epoch(&mut self) -> Result<(), ()> {
        self.world.write_epoch(NEXT_EPOCH);
        Ok(())
    }
}

struct End<'a> {
    world: &'a World,
    pin: usize,
}

impl EndSteps for End<'_> {
    type Freed = Vec<u32>;
    type Error = ();

    fn cut_index(&self) -> Result<Vec<u32>, ()> {
        let mut known = self.world.known[self.pin].lock().unwrap();
        let index = &self.world.indexes[self.pin];
        index.is_whole.store(0, Relaxed);
        for entry in &index.entries {
            entry.store(0, Release);
        }
        known.is_ended = true;
        Ok(known.slots.drain(..).flatten().collect())
    }

    fn fence(&self) {
        fence(AcqRel);
    }

    fn free_slots(&self, freed: Vec<u32>) {
        freed.into_iter().for_each(|slot| self.world.release(slot));
    }
}

fn cut() -> ReadError {
    ReadError::PinEnded {
        reason: EndSeen::IndexCut,
    }
}

/// A reader of one pin.
struct Reader<'a> {
    world: &'a World,
    pin: usize,
    fences: std::cell::Cell<u32>,
}

impl MergeSource for Reader<'_> {
    fn page_bytes(&self) -> usize {
        2
    }

    fn read_live(&self, first: PageNo, out: &mut [u8]) -> Result<usize, ReadError> {
        let pages = &self.world.live[first.0 as usize..];
        for (bytes, page) in out.chunks_exact_mut(2).zip(pages) {
            bytes.copy_from_slice(&load(page).map(|half| half as u8));
        }
        Ok(out.len())
    }

    fn fence(&self) {
        let number = self.fences.replace(self.fences.get() + 1);
        if self.world.bug != Bug::NoReaderFence(number) {
            fence(AcqRel);
        }
    }

    fn read_entries(&self, first: PageNo, out: &mut [Entry]) -> Result<(), ReadError> {
        let index = &self.world.indexes[self.pin];
        if index.is_whole.load(Relaxed) == 0 {
            return Err(cut());
        }
        let found = &index.entries[first.0 as usize..];
        for (entry, found) in out.iter_mut().zip(found) {
            *entry = Entry::decode(found.load(Relaxed)).expect("an entry");
        }
        Ok(())
    }

    fn read_slot(&self, _page: PageNo, slot: u32, out: &mut [u8]) -> Result<(), ReadError> {
        out.copy_from_slice(&load(&self.world.slots[slot as usize]).map(|half| half as u8));
        Ok(())
    }

    fn check(&self, _page: PageNo, _bytes: &[u8], _crc: Option<u32>) -> Result<(), ReadError> {
        Ok(())
    }

    fn last_look(&self) -> Result<(), ReadError> {
        if self.world.bug == Bug::LookFirst && self.fences.get() > 0 {
            return Ok(());
        }
        let carried = [0, 1].map(|copy: usize| self.world.epochs[copy].load(Relaxed));
        fence(AcqRel);
        let index = &self.world.indexes[self.pin];
        if index.is_whole.load(Relaxed) == 0 {
            return Err(cut());
        }
        let accepted = index.accepted.load(Relaxed);
        let accepted = [accepted >> 8, accepted & 0xff];
        if carried.iter().all(|epoch| accepted.contains(epoch)) {
            return Ok(());
        }
        Err(ReadError::PinEnded {
            reason: EndSeen::Fenced,
        })
    }
}

/// A reader that looks into the index before it reads the live file.
struct Swapped<'a>(Reader<'a>, std::cell::RefCell<Vec<Entry>>);

impl<'a> Swapped<'a> {
    fn new(reader: Reader<'a>) -> Self {
        Self(reader, Default::default())
    }
}

impl MergeSource for Swapped<'_> {
    fn page_bytes(&self) -> usize {
        2
    }

    fn read_live(&self, first: PageNo, out: &mut [u8]) -> Result<usize, ReadError> {
        let mut entries = vec![Entry::NotShadowed; out.len() / 2];
        self.0.read_entries(first, &mut entries)?;
        self.0.fence();
        *self.1.borrow_mut() = entries;
        self.0.read_live(first, out)
    }

    fn fence(&self) {
        self.0.fence();
    }

    fn read_entries(&self, _first: PageNo, out: &mut [Entry]) -> Result<(), ReadError> {
        out.copy_from_slice(&self.1.borrow());
        Ok(())
    }

    fn read_slot(&self, page: PageNo, slot: u32, out: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_slot(page, slot, out)
    }

    fn check(&self, page: PageNo, bytes: &[u8], crc: Option<u32>) -> Result<(), ReadError> {
        self.0.check(page, bytes, crc)
    }

    fn last_look(&self) -> Result<(), ReadError> {
        self.0.last_look()
    }
}
