//! The models: what runs beside a reader, and which wrong orders must be found.

use super::*;

/// S1, N2: one page is captured and overwritten in two halves while it is read.
fn overwrite(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 1, 1, 1));
    let reader = reader(&world, 0, 1, answers);
    world.write_back(&[0], &[0]);
    reader.join().unwrap();
}

/// S1, N1: two pages in one batch, stored and published together, read as one range.
fn batch(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 1, 2, 2));
    let reader = reader(&world, 0, 2, answers);
    world.write_back(&[0], &[0, 1]);
    reader.join().unwrap();
}

/// S3, N3: a pin ends, and its slot goes to another page while it is still read.
fn reuse(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 2, 2, 2));
    // The second pin does not have the first page.
    world.known[1].lock().unwrap().slots[0] = Some(u32::MAX);
    world.write_back(&[0], &[0]);
    let reader = reader(&world, 0, 1, answers);
    let writer = {
        let world = world.clone();
        thread::spawn(move || world.write_back(&[1], &[1]))
    };
    world.end(0);
    writer.join().unwrap();
    reader.join().unwrap();
}

/// S3, N3: a pin ends, and another thread overwrites a page that it lacks: the pin is in its list.
fn end_and_overwrite(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 1, 1, 1));
    let reader = reader(&world, 0, 1, answers);
    let writer = {
        let world = world.clone();
        thread::spawn(move || world.write_back(&[0], &[0]))
    };
    world.end(0);
    writer.join().unwrap();
    reader.join().unwrap();
}

/// S3: a pin ends and leaves the list, and another thread overwrites with no pin to look at.
fn overwrite_without_pins(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 1, 1, 1));
    let list = Arc::new(Mutex::new(vec![0]));
    let reader = reader(&world, 0, 1, answers);
    let writer = {
        let (world, list) = (world.clone(), list.clone());
        thread::spawn(move || {
            let pins = list.lock().unwrap().clone();
            world.write_back(&pins, &[0]);
        })
    };
    world.end(0);
    list.lock().unwrap().clear();
    writer.join().unwrap();
    reader.join().unwrap();
}

/// N3: another incarnation that knows no pin: first its epoch, then it overwrites.
fn fencing(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 1, 1, 1));
    let reader = reader(&world, 0, 1, answers);
    world.stranger(0);
    reader.join().unwrap();
}

/// D5, N3: the next incarnation adopts the pin: its reads never fail, and never show what is written.
fn adoption(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 1, 1, 1));
    let reader = reader(&world, 0, 1, answers);
    world.next_incarnation(&[0], 0);
    reader.join().unwrap();
}

/// D5, E11: the one before was killed between the two copies of the header, having adopted the pin.
fn second_adoption(bug: Bug, answers: &'static Answers) {
    let world = World::new(bug, 1, 1, 1);
    world.epochs[0].store(EPOCH + 1, Relaxed);
    world.indexes[0]
        .accepted
        .store(both(EPOCH, EPOCH + 1), Relaxed);
    let world = Arc::new(world);
    let reader = reader(&world, 0, 1, answers);
    world.next_incarnation(&[0], 0);
    reader.join().unwrap();
}

/// D5, E10: the next incarnation does not adopt the pin: it is fenced before anything is written.
fn passed_over(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 1, 1, 1));
    let reader = reader(&world, 0, 1, answers);
    world.next_incarnation(&[], 0);
    reader.join().unwrap();
}

/// S7, N3: the next incarnation does not adopt the pin, and fills its slot anew.
fn slot_passed_over(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 1, 1, 1));
    world.write_back(&[0], &[0]);
    let reader = reader(&world, 0, 1, answers);
    let fill = || store(&world.slots[0], [NEWER; 2]);
    if bug == Bug::SlotBeforeTakeover {
        fill();
    }
    let mut steps = Takeover {
        world: &world,
        pins: &[],
    };
    take_over(&mut steps).unwrap();
    fill();
    reader.join().unwrap();
}

/// S5: two pins share a slot; the end of one takes nothing from the other.
fn shared_slot(bug: Bug, answers: &'static Answers) {
    let world = Arc::new(World::new(bug, 2, 2, 3));
    let reader = reader(&world, 1, 1, answers);
    world.write_back(&[0, 1], &[0]);
    world.end(0);
    world.write_back(&[1], &[1]);
    reader.join().unwrap();
}

#[test]
fn overwritten_page_reads_as_pinned() {
    holds(overwrite, Refusals::Never);
}

#[test]
fn overwrite_needs_its_order() {
    breaks(overwrite, Bug::PublishAfterOverwrite);
    breaks(overwrite, Bug::NoFenceAfterCapture);
    breaks(overwrite, Bug::NoFenceAroundSlot);
    breaks(overwrite, Bug::NoReaderFence(0));
    breaks(overwrite, Bug::NoReaderFence(1));
    breaks(overwrite, Bug::EntriesBeforeLive);
}

#[test]
fn batch_reads_as_pinned() {
    holds(batch, Refusals::Never);
}

#[test]
fn batch_needs_its_order() {
    breaks(batch, Bug::PublishAfterOverwrite);
    breaks(batch, Bug::NoFenceAfterCapture);
    breaks(batch, Bug::NoFenceAroundSlot);
    breaks(batch, Bug::EntriesBeforeLive);
}

#[test]
fn reused_slot_is_never_served() {
    holds(reuse, Refusals::Possible);
}

#[test]
fn reuse_needs_its_order() {
    breaks(reuse, Bug::SlotsBeforeCut);
    breaks(reuse, Bug::LookFirst);
    breaks(reuse, Bug::NoFenceAroundSlot);
}

#[test]
fn uncaptured_overwrite_after_the_end_is_never_served() {
    holds(end_and_overwrite, Refusals::Possible);
    holds(overwrite_without_pins, Refusals::Possible);
}

#[test]
fn end_needs_its_order() {
    breaks(end_and_overwrite, Bug::LookFirst);
    breaks(end_and_overwrite, Bug::NoFenceAfterCapture);
    breaks(overwrite_without_pins, Bug::NoFenceWithoutPins);
}

#[test]
fn overwrite_of_another_incarnation_is_never_served() {
    holds(fencing, Refusals::Possible);
}

#[test]
fn fencing_needs_its_order() {
    breaks(fencing, Bug::LookFirst);
    breaks(fencing, Bug::OverwriteBeforeEpoch);
}

#[test]
fn adopted_pin_reads_on_through_the_takeover() {
    holds(adoption, Refusals::Never);
    holds(second_adoption, Refusals::Never);
}

#[test]
fn adoption_needs_its_order() {
    refuses(adoption, Bug::EpochBeforeAcceptance);
    refuses(second_adoption, Bug::CopiesNotUnited);
    breaks(adoption, Bug::AdoptedNotCaptured);
}

#[test]
fn pin_that_is_passed_over_is_fenced() {
    holds(passed_over, Refusals::Possible);
    holds(slot_passed_over, Refusals::Possible);
}

#[test]
fn passing_over_needs_its_order() {
    breaks(passed_over, Bug::OverwriteBeforeTakeover);
    breaks(slot_passed_over, Bug::SlotBeforeTakeover);
    breaks(slot_passed_over, Bug::NoReaderFence(2));
}

#[test]
fn shared_slot_lasts_as_long_as_one_pin_holds_it() {
    holds(shared_slot, Refusals::Never);
}

#[test]
fn shared_slot_needs_its_order() {
    breaks(shared_slot, Bug::PublishAfterOverwrite);
    breaks(shared_slot, Bug::EntriesBeforeLive);
}
