//! Readers that no engine knows of any more: the epoch in the live header ends them.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::os::{self, Disk, OpenMode, SimulatedHost};
use crate::view::PinnedFile;
use crate::view::tree::{EndSeen, RangeRead, ReadError};

fn open(machine: &SimulatedHost) -> Database {
    Database::open_on(&machine.host, "/db", &EngineOptions::default()).unwrap()
}

fn fill(database: &Database, byte: u8) {
    let mut write = database.begin_write().unwrap();
    write.put("t", b"key", &[byte; 100]).unwrap();
    write.commit().unwrap();
    database.checkpoint().unwrap();
}

/// The view of `pin` as another process has it, which outlives the engine's.
fn view_elsewhere(machine: &SimulatedHost, pin: &Pin) -> PinnedFile {
    view_of(machine, &format!("{}.pin", pin.id()))
}

fn view_of(machine: &SimulatedHost, index: &str) -> PinnedFile {
    let disk = machine.disk.another_process();
    let file = |path: String| disk.open(Path::new(&path), OpenMode::Read).unwrap();
    PinnedFile::open(
        file("/db/data.pages".to_owned()),
        file("/db/shadow/slots".to_owned()),
        file(format!("/db/shadow/{index}")),
        Arc::new(NativeHeader),
    )
    .unwrap()
}

fn read(view: &PinnedFile) -> Result<Vec<u8>, ReadError> {
    let mut out = vec![0; usize::try_from(view.size()).unwrap()];
    view.read_range(0, &mut out).map(|()| out)
}

#[track_caller]
fn expect_fenced(view: &PinnedFile) {
    let seen = read(view).map(|bytes| bytes.len());
    let fenced = EndSeen::Fenced;
    assert!(
        matches!(seen, Err(ReadError::PinEnded { reason }) if reason == fenced),
        "a reader that the engine does not know must be fenced: {seen:?}"
    );
}

fn remove_all(machine: &SimulatedHost, folder: &str) {
    let folder = Path::new(folder);
    for name in machine.host.disk.list(folder).unwrap() {
        machine.host.disk.remove(&folder.join(name)).unwrap();
    }
}

/// N3, E10: with `shadow/` deleted by hand the next engine knows nothing of a pin, and cuts nothing;
/// its epoch alone keeps the reader from bytes that it has written since.
#[test]
fn pin_whose_folder_was_deleted_is_fenced_before_the_next_engine_writes() {
    let machine = Host::simulated(31);
    let database = open(&machine);
    fill(&database, 1);
    let pin = database.pin().unwrap();
    let view = view_elsewhere(&machine, &pin);
    let whole = read(&view).unwrap();
    let machine = machine.process_crash();
    assert_eq!(read(&view).unwrap(), whole, "nobody writes the live file");
    remove_all(&machine, "/db/shadow");
    let next = open(&machine);
    expect_fenced(&view);
    fill(&next, 2);
    expect_fenced(&view);
}

/// N3, E10: epochs are drawn and not counted. Where an old copy is put back, a counter would give the
/// next engine the very number that readers of the file before accept.
#[test]
fn pin_is_fenced_when_an_old_copy_of_the_page_file_was_put_back() {
    let machine = Host::simulated(32);
    let database = open(&machine);
    fill(&database, 1);
    database.close().unwrap();
    let data = |machine: &SimulatedHost| {
        let path = Path::new("/db/data.pages");
        machine.host.disk.open(path, OpenMode::ReadWrite).unwrap()
    };
    let file = data(&machine);
    let mut copy = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    os::read_exact_at(&*file, &mut copy, 0).unwrap();
    drop((database, file));
    let database = open(&machine);
    let pin = database.pin().unwrap();
    let view = view_elsewhere(&machine, &pin);
    read(&view).unwrap();
    let machine = machine.process_crash();
    for folder in ["/db/shadow", "/db/wal"] {
        remove_all(&machine, folder);
    }
    os::write_all_at(&*data(&machine), &copy, 0).unwrap();
    let next = open(&machine);
    expect_fenced(&view);
    fill(&next, 2);
    expect_fenced(&view);
}

/// D5, S7: an engine that knew nothing of a pin has overwritten what it needs. A later one that finds
/// the pin again, held and whole, must not make it readable by adopting it.
#[test]
fn pin_that_an_engine_in_between_did_not_know_is_not_adopted() {
    let machine = Host::simulated(33);
    let database = open(&machine);
    fill(&database, 1);
    let pin = database.pin().unwrap();
    let index = format!("{}.pin", pin.id());
    let other = machine.with_disk(machine.disk.another_process());
    let held = pin.hand_over(&other.host).unwrap();
    let view = view_of(&machine, &index);
    let machine = machine.process_crash();
    let disk = &machine.host.disk;
    let (shadow, away) = (Path::new("/db/shadow"), Path::new("/away"));
    disk.create_dir(away).unwrap();
    let names = [index.as_str(), "slots"];
    for name in names {
        disk.rename(&shadow.join(name), &away.join(name)).unwrap();
    }
    let between = open(&machine);
    fill(&between, 2);
    let machine = machine.process_crash();
    drop(between);
    let disk = &machine.host.disk;
    for name in names {
        disk.rename(&away.join(name), &shadow.join(name)).unwrap();
    }
    let next = open(&machine);
    assert_eq!(next.stats().pins, 0, "it is not adopted");
    expect_fenced(&view);
    fill(&next, 3);
    expect_fenced(&view);
    drop(held);
}
