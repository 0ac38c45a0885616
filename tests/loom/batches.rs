//! Pins that end while a batch is captured, and one that becomes active between two batches.
//!
//! `Shadow::end` goes by `end_pin` and `Batch` by `capture` and `fill_slots`, as here. What is between them is
//! modelled: a pin's lock and the slot store's, who holds a slot, and the gate of writeback, which is a mutex
//! here, since one batch at a time is in flight.
//!
//! Most have too many runs to try all of them each time: a thread is stopped at most three times for another
//! where it could go on. With two, loom does not find all of the wrong orders any more.

use super::*;

const STOPS: Option<usize> = Some(3);

/// What a page holds before the pin's version is written back, both halves.
const OLDER: u64 = 5;

/// A batch on another thread, and then one of the third page alone for the second pin, which has the first
/// two already. Into the page's slot goes what is free first.
fn write_back_twice(world: &Arc<World>, pins: &'static [usize]) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || {
        world.write_back(pins, &[0, 1]);
        world.write_back(&[1], &[2]);
    })
}

/// S1, S3: a pin ends while a batch is captured for it, for both pages, one or none.
fn end_in_batch(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 1, 2, 2));
    let reader = reader(&world, 0, 2, answers);
    let writer = {
        let world = world.clone();
        thread::spawn(move || world.write_back(&[0], &[0, 1]))
    };
    world.end(0);
    writer.join().unwrap();
    reader.join().unwrap();
}

/// S3, N3: the same, and its slots go to another pin's page: those that it had, and those that the
/// batch filled in vain.
fn reuse_in_batch(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 2, 3, 3));
    for page in [0, 1] {
        world.known[1].lock().unwrap().slots[page] = Some(u32::MAX);
    }
    let reader = reader(&world, 0, 1, answers);
    let writer = write_back_twice(&world, &[0]);
    world.end(0);
    writer.join().unwrap();
    reader.join().unwrap();
}

/// S5: a batch is captured for two pins and one of them ends: the other reads on, and keeps its slots.
fn end_beside_another(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 2, 3, 4));
    let reader = reader(&world, 1, 1, answers);
    let writer = write_back_twice(&world, &[0, 1]);
    world.end(0);
    writer.join().unwrap();
    reader.join().unwrap();
}

/// What the commit lock guards.
#[derive(Default)]
struct Committed {
    /// The active pins.
    pins: Vec<usize>,
    /// Whether there are versions behind the pin.
    has_newer: bool,
}

/// An engine that takes a pin while it writes back.
struct Engine {
    world: Arc<World>,
    gate: Mutex<()>,
    committed: Mutex<Committed>,
    /// Whether the live file has the pin's version of the first page.
    is_written: Mutex<bool>,
}

impl Engine {
    /// Steps 1 and 2 of a pin, and then a commit.
    fn take_pin(&self) {
        let is_beside = self.world.bug == Bug::PinBesideBatch;
        let closed = (!is_beside).then(|| self.gate.lock().unwrap());
        self.committed.lock().unwrap().pins.push(0);
        let is_written = *self.is_written.lock().unwrap();
        if !is_written {
            let slots = self.world.acquire(&[(0, [pinned(0); 2], 1)]);
            let spill = Batch {
                world: &self.world,
                pins: &[],
            };
            spill.publish(0, &[(0, slots[0])]);
        }
        drop(closed);
        self.committed.lock().unwrap().has_newer = true;
    }

    fn pins(&self) -> Vec<usize> {
        self.committed.lock().unwrap().pins.clone()
    }

    /// One batch with the pin's version of the first page, and one with newer pages, if there are any yet.
    fn write_back(&self) {
        let passage = self.gate.lock().unwrap();
        let found = self.pins();
        let batch = Batch {
            world: &self.world,
            pins: &found,
        };
        capture(&batch, &[PageNo(0)]).unwrap();
        store(&self.world.live[0], [pinned(0); 2]);
        *self.is_written.lock().unwrap() = true;
        drop(passage);
        if !self.committed.lock().unwrap().has_newer {
            return;
        }
        let _passage = self.gate.lock().unwrap();
        let pins = match self.world.bug {
            Bug::PinsListedOnce => found,
            _ => self.pins(),
        };
        self.world.write_back(&pins, &[0, 1]);
    }
}

/// S1, D1, D2: a pin becomes active before, between or behind the batches, never beside one.
fn pin_between_batches(bug: Bug, answers: &'static Answers) {
    let world = World::new(bug, 1, 2, 4);
    store(&world.live[0], [OLDER; 2]);
    let engine = Arc::new(Engine {
        world: Arc::new(world),
        gate: Mutex::new(()),
        committed: Mutex::default(),
        is_written: Mutex::new(false),
    });
    let writer = {
        let engine = engine.clone();
        thread::spawn(move || engine.write_back())
    };
    engine.take_pin();
    // It is granted now.
    answers.judge(engine.world.read(0, 2));
    writer.join().unwrap();
}

#[test]
fn pin_that_ends_in_a_batch_shows_no_newer_page() {
    holds_within(end_in_batch, Refusals::Possible, STOPS);
}

#[test]
fn end_in_a_batch_needs_its_order() {
    breaks_within(end_in_batch, Bug::LookFirst, STOPS);
    breaks_within(end_in_batch, Bug::NoFenceAfterCapture, STOPS);
    breaks_within(end_in_batch, Bug::PublishIntoCutIndex, STOPS);
}

#[test]
fn pin_that_ends_in_a_batch_shows_no_slot_of_another() {
    holds_within(reuse_in_batch, Refusals::Possible, STOPS);
}

#[test]
fn slots_of_a_batch_need_their_order() {
    breaks_within(reuse_in_batch, Bug::SlotsBeforeCut, STOPS);
    breaks_within(reuse_in_batch, Bug::NoFenceAroundSlot, STOPS);
    breaks_within(reuse_in_batch, Bug::LookFirst, STOPS);
}

#[test]
fn end_in_a_batch_takes_nothing_from_another_pin() {
    holds(end_beside_another, Refusals::Never);
}

#[test]
fn other_pin_of_a_batch_needs_its_order() {
    breaks(end_beside_another, Bug::OneHolderForAll);
    breaks(end_beside_another, Bug::NoFenceAroundSlot);
}

#[test]
fn pin_between_two_batches_reads_as_pinned() {
    holds_within(pin_between_batches, Refusals::Never, STOPS);
}

#[test]
fn pin_between_two_batches_needs_its_order() {
    breaks_within(pin_between_batches, Bug::PinsListedOnce, STOPS);
    breaks_within(pin_between_batches, Bug::PinBesideBatch, STOPS);
    breaks_within(pin_between_batches, Bug::NoFenceAfterCapture, STOPS);
}
