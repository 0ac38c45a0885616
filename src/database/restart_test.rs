//! Pins that last by the lock on their index: handed over in a running engine, and over its restarts.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::os::SimulatedHost;
use crate::page::PageSize;
use crate::view::PinnedFile;
use crate::view::tree::{RangeRead, ReadError};

const PAGE: u64 = 4096;

fn open(host: &Host) -> Database {
    let options = EngineOptions {
        page_size: PageSize::new(PAGE).unwrap(),
        checkpoint_bytes: u64::MAX,
        ..EngineOptions::default()
    };
    Database::open_on(host, "/db", &options).unwrap()
}

/// Overwrites all keys, so that nearly every page changes.
fn fill(database: &Database, round: u8) {
    let mut write = database.begin_write().unwrap();
    for key in 0..200_u32 {
        write.put("t", &key.to_be_bytes(), &[round; 100]).unwrap();
    }
    write.commit().unwrap();
}

fn read_all(view: &PinnedFile) -> Result<Vec<u8>, ReadError> {
    let mut out = vec![0; usize::try_from(view.size()).unwrap()];
    view.read_range(0, &mut out)?;
    Ok(out)
}

/// A pin that another process of the same machine holds, and what it shows.
fn handed_over(machine: &SimulatedHost, database: &Database) -> (HandedOver, Vec<u8>) {
    let other = machine.with_disk(machine.disk.another_process());
    let pin = database.pin().unwrap().hand_over(&other.host).unwrap();
    let whole = read_all(&pin.view).unwrap();
    (pin, whole)
}

/// A holder that is gone leaves no trace but its lock, which is no more.
#[test]
fn handed_over_pin_lasts_as_long_as_its_view() {
    let machine = Host::simulated(1);
    let database = open(&machine.host);
    fill(&database, 1);
    let (pin, whole) = handed_over(&machine, &database);
    for round in 2..5 {
        fill(&database, round);
        database.checkpoint().unwrap();
        database.tend();
        assert_eq!(read_all(&pin.view).unwrap(), whole);
    }
    let second = Arc::clone(&pin.view);
    drop(pin);
    database.tend();
    assert_eq!(read_all(&second).unwrap(), whole);
    drop(second);
    database.tend();
    assert_eq!(database.stats().pins, 0);
    assert_eq!(database.stats().shadow_slots, 0);
}

/// Only a pin that was adopted waits for anybody: one that has its holder is nobody else's.
#[test]
fn pin_of_a_running_engine_cannot_be_reclaimed() {
    let machine = Host::simulated(2);
    let database = open(&machine.host);
    fill(&database, 1);
    let (pin, whole) = handed_over(&machine, &database);
    let refused = database.reclaim(pin.database, pin.id, &pin.token);
    assert!(matches!(
        refused,
        Err(DatabaseError::NotReclaimable { pin: id }) if id == pin.id
    ));
    machine.clock.advance(Duration::from_secs(3600));
    database.tend();
    assert_eq!(read_all(&pin.view).unwrap(), whole);
}
