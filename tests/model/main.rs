//! The model test of pin, capture and merged read (invariants S1 to S6, N1 to N4, D1 to D4).
//!
//! Writers, checkpoints, growth, deletes and overlapping pins run at once. At each pin the content at S
//! is taken by an in-process read transaction, and replayed from the acknowledged commits; the merged
//! view must give exactly that, and no page check may fail. The negative controls (tests/negative.rs)
//! make this very run with one deliberate bug each.

mod rig;
mod workload;

use std::path::Path;

use stillfs::database::{Database, PinServing};
use stillfs::os::Host;
use stillfs::os::random::SeededRandom;
use stillfs::view::tree::RangeRead;

use rig::{Pinned, options, run};
use workload::{History, Plan};

/// How many pins a run takes.
fn pins_total() -> u64 {
    std::env::var("STILLFS_MODEL_PINS")
        .ok()
        .and_then(|pins| pins.parse().ok())
        .unwrap_or(1000)
}

/// What the runs follow from.
fn seed() -> u64 {
    std::env::var("STILLFS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1)
}

#[test]
fn thousand_overlapping_pins_give_exactly_their_commit() {
    let seed = seed();
    let simulated = Host::simulated(seed);
    run(&simulated.host, Path::new("/db"), seed, pins_total());
}

/// The same on the real disk, through real descriptors.
#[test]
fn overlapping_pins_on_the_real_disk_give_exactly_their_commit() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("db");
    run(&Host::system(), &path, seed() + 1, pins_total() / 5);
}

/// D3, S5: pins of one commit are equal to the byte and share their slots.
#[test]
fn sixteen_pins_of_one_commit_use_the_slots_of_one() {
    let simulated = Host::simulated(3);
    let database = Database::open_on(&simulated.host, "/db", &options()).expect("a new database");
    let history = History::default();
    history.commit(&database, &Plan::initial());
    database.checkpoint().expect("a checkpoint");
    let random = SeededRandom::new(3);
    (0..20).for_each(|_| history.commit(&database, &Plan::draw(&random)));
    let one = database.pin().expect("a pin");
    let after_one = database.stats().shadow_slots;
    let fifteen: Vec<_> = (0..15).map(|_| database.pin().expect("a pin")).collect();
    assert_eq!(
        database.stats().shadow_slots,
        after_one,
        "the spill of one serves all"
    );
    (0..200).for_each(|_| history.commit(&database, &Plan::draw(&random)));
    database.checkpoint().expect("a checkpoint");
    let captured = one.counts().shadowed_pages;
    assert_eq!(
        database.stats().shadow_slots,
        captured,
        "and so does the capture for one"
    );
    let read = |pin: &stillfs::database::Pin| {
        let size = usize::try_from(pin.view().size()).expect("small");
        let mut out = vec![0; size];
        pin.view().read_range(0, &mut out).expect("the whole view");
        out
    };
    let whole = read(&one);
    assert!(
        fifteen.iter().all(|pin| read(pin) == whole),
        "header pages included"
    );
}

/// The library's own way in: open with a pin server and without, and read a view.
#[test]
fn view_is_read_only_and_outlives_a_clean_stop() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let database =
        Database::open(dir.path().join("db"), &options(), PinServing::On).expect("a new database");
    let history = History::default();
    history.commit(&database, &Plan::initial());
    let pinned = Pinned::take(&database);
    history.commit(&database, &Plan::draw(&SeededRandom::new(5)));
    database.close().expect("a clean stop");
    pinned.check_pages(&SeededRandom::new(6));
    assert!(
        database.begin_write().is_err(),
        "nothing is written after a stop"
    );
}
