//! How a pin ends, and why it is refused: by the engine's restart, by a disk that fails, by a commit that
//! cannot be made durable. What a reader then gets is an error, and never other bytes.

#![allow(clippy::disallowed_methods)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stillfs::database::{Database, EngineOptions, NativeHeader, Pin};
use stillfs::os::sim::{Fault, Faults, Operation, SimDisk};
use stillfs::os::{Disk, Host, OpenMode, read_up_to, write_all_at};
use stillfs::page::{PageNo, PageSize};
use stillfs::shadow::EndReason;
use stillfs::shadow::index::entry_offset;
use stillfs::view::PinnedFile;
use stillfs::view::tree::{RangeRead, ReadError};

const PAGE_BYTES: usize = 4096;
const PAGES: &str = "/db/data.pages";

fn open(host: &Host) -> Database {
    let options = EngineOptions {
        page_size: PageSize::new(PAGE_BYTES as u64).expect("a valid size"),
        checkpoint_bytes: u64::MAX,
        ..EngineOptions::default()
    };
    Database::open_on(host, "/db", &options).expect("a database")
}

/// Changes every page that holds entries, and the count in the catalog.
fn put(database: &Database, round: u32) {
    let mut write = database.begin_write().expect("a transaction");
    for key in 0..200_u32 {
        let (key, value) = (key.to_be_bytes(), [round.to_le_bytes(); 16].concat());
        write.put("t", &key, &value).expect("a put");
    }
    let key = (1000 + round).to_be_bytes();
    write.put("t", &key, b"one more").expect("a put");
    write.commit().expect("a commit");
}

fn whole(view: &PinnedFile) -> Result<Vec<u8>, ReadError> {
    let mut out = vec![0; usize::try_from(view.size()).expect("small")];
    view.read_range(0, &mut out)?;
    Ok(out)
}

fn content(disk: &SimDisk, path: &str) -> Vec<u8> {
    let file = disk.open(Path::new(path), OpenMode::Read).expect("a file");
    let mut out = vec![0; usize::try_from(file.len().expect("a size")).expect("small")];
    read_up_to(&*file, &mut out, 0).expect("its bytes");
    out
}

fn index_path(pin: &Pin) -> PathBuf {
    Path::new("/db/shadow").join(format!("{}.pin", pin.id()))
}

/// The view of `pin` as another process has it, which lives on when the engine's dies.
fn view_elsewhere(disk: &SimDisk, pin: &Pin) -> PinnedFile {
    let open = |path: &Path| disk.open(path, OpenMode::Read).expect("a file");
    let (live, slots) = (open(Path::new(PAGES)), open(Path::new("/db/shadow/slots")));
    let index = open(&index_path(pin));
    PinnedFile::open(live, slots, index, Arc::new(NativeHeader)).expect("a granted pin")
}

/// D5, S3: until an engine starts again the readers of the dead one go on; then they see the end, and
/// not what the new engine writes.
#[test]
fn restarted_engine_ends_the_pins_of_its_predecessor() {
    let first = Host::simulated(1);
    let database = open(&first.host);
    put(&database, 1);
    database.checkpoint().expect("a checkpoint");
    put(&database, 2);
    let pin = database.pin().expect("a pin");
    let view = view_elsewhere(&first.disk.another_process(), &pin);
    let pinned = whole(&view).expect("the view");
    let second = first.process_crash();
    assert_eq!(whole(&view).expect("nobody writes"), pinned);
    drop((pin, database));
    assert_eq!(whole(&view).expect("nobody writes"), pinned);

    let before = content(&second.disk, PAGES);
    let database = open(&second.host);
    assert!(matches!(whole(&view), Err(ReadError::PinEnded { .. })));
    let pages = |bytes: &[u8]| bytes[2 * PAGE_BYTES..].to_vec();
    let opened = content(&second.disk, PAGES);
    assert_eq!(pages(&opened), pages(&before), "only the header is written");
    put(&database, 3);
    database.checkpoint().expect("a checkpoint");
    assert!(matches!(whole(&view), Err(ReadError::PinEnded { .. })));
    assert_eq!(database.stats().pins, 0);
}

/// D4, E8: a commit that a power cut could take away is never handed out.
#[test]
fn pin_is_refused_when_its_commit_cannot_be_made_durable() {
    let machine = Host::simulated(2);
    let database = open(&machine.host);
    put(&database, 1);
    let kept = database.pin().expect("a pin");
    let failing = Fault::kind(Operation::SyncData, io::ErrorKind::Other);
    machine.disk.set_faults(Faults::none().with(failing));
    let mut write = database.begin_write().expect("a transaction");
    write.put("t", b"lost", b"v").expect("a put");
    assert!(write.commit().is_err());
    machine.disk.set_faults(Faults::none());
    assert!(database.pin().is_err(), "its newest commit is not durable");
    assert_eq!(kept.ended(), Some(EndReason::Poisoned));
    assert_eq!(database.stats().pins, 0);
    let left = machine.disk.list(Path::new("/db/shadow")).expect("names");
    assert_eq!(left, ["slots"]);
}

/// S6: with no room for a pre-image the writer goes on and the pin does not, visibly.
#[test]
fn pin_whose_pre_image_cannot_be_kept_ends_and_the_checkpoint_goes_on() {
    let machine = Host::simulated(3);
    let database = open(&machine.host);
    put(&database, 1);
    database.checkpoint().expect("a checkpoint");
    let pin = database.pin().expect("a pin");
    put(&database, 2);
    let full = Fault::kind(Operation::Write, io::ErrorKind::StorageFull);
    let full = full.on("slots").times(u64::MAX);
    machine.disk.set_faults(Faults::none().with(full));
    database.checkpoint().expect("writers are not held up");
    assert_eq!(pin.ended(), Some(EndReason::DiskFull));
    assert!(matches!(whole(pin.view()), Err(ReadError::PinEnded { .. })));
}

/// S1, S6: if not even the end can be made visible, nothing is overwritten until it can, or until the
/// pre-image is kept after all.
#[test]
fn nothing_is_overwritten_while_a_pin_can_neither_be_kept_nor_ended() {
    let machine = Host::simulated(4);
    let database = open(&machine.host);
    put(&database, 1);
    database.checkpoint().expect("a checkpoint");
    let pin = database.pin().expect("a pin");
    let pinned = whole(pin.view()).expect("the view");
    put(&database, 2);
    let before = content(&machine.disk, PAGES);
    let name = index_path(&pin);
    let name = name.file_name().expect("a name");
    let kind = io::ErrorKind::StorageFull;
    let full = Fault::kind(Operation::Write, kind).on("slots");
    let stuck = Fault::kind(Operation::SetLen, kind).on(name);
    let faults = Faults::none()
        .with(full.times(u64::MAX))
        .with(stuck.times(u64::MAX));
    machine.disk.set_faults(faults);
    assert!(database.checkpoint().is_err());
    assert!(
        content(&machine.disk, PAGES) == before,
        "nothing is overwritten"
    );
    machine.disk.set_faults(Faults::none());
    assert!(whole(pin.view()).expect("the pin lasts") == pinned);
    // Nobody knows whether the index is cut: the pin ends as soon as that can be made visible.
    database.checkpoint().expect("the end is visible now");
    assert!(content(&machine.disk, PAGES) != before);
    assert!(whole(pin.view()).is_err());
    assert!(pin.ended().is_some());
}

/// S4: an entry that somebody else wrote into the index makes the engine neither skip a capture nor do
/// one twice.
#[test]
fn engine_does_not_believe_what_stands_in_an_index() {
    let machine = Host::simulated(5);
    let database = open(&machine.host);
    put(&database, 1);
    database.checkpoint().expect("a checkpoint");
    let pin = database.pin().expect("a pin");
    let pinned = whole(pin.view()).expect("the view");
    let index = machine.disk.open(&index_path(&pin), OpenMode::ReadWrite);
    let index = index.expect("the index");
    let catalog = PageNo(2);
    let scribble = |entry: u64| {
        let offset = entry_offset(catalog).expect("a small page");
        write_all_at(&*index, &entry.to_le_bytes(), offset).expect("a write");
    };
    scribble(1 << 32 | 7);
    put(&database, 2);
    database.checkpoint().expect("a checkpoint");
    assert!(whole(pin.view()).expect("captured all the same") == pinned);
    let captured = pin.counts().captured_pages;
    scribble(0);
    put(&database, 3);
    database.checkpoint().expect("a checkpoint");
    assert_eq!(pin.counts().captured_pages, captured);
    assert!(
        whole(pin.view()).is_err(),
        "the live page is of a later commit"
    );
}

/// E2: commits alone change nothing of the live file, and neither does a reader or a pin.
#[test]
fn live_file_is_written_by_checkpoints_only() {
    let machine = Host::simulated(6);
    let database = open(&machine.host);
    put(&database, 1);
    database.checkpoint().expect("a checkpoint");
    let before = content(&machine.disk, PAGES);
    let read = database.begin_read().expect("a reader");
    (2..20).for_each(|round| put(&database, round));
    let pin = database.pin().expect("a pin");
    put(&database, 20);
    pin.release().expect("a release");
    drop(read);
    assert!(content(&machine.disk, PAGES) == before);
    database.checkpoint().expect("a checkpoint");
    assert!(content(&machine.disk, PAGES) != before);
}

/// D2, S2, N1: what was spilled, what was captured and what is still live make up the state at S,
/// however often it is written over, and for pins of several commits at once.
#[test]
fn views_are_the_states_of_their_commits_through_checkpoints() {
    let machine = Host::simulated(7);
    let database = open(&machine.host);
    let mut pinned = Vec::new();
    for round in 1..8 {
        put(&database, round);
        if round % 3 == 0 {
            database.checkpoint().expect("a checkpoint");
        }
        let (pin, read) = database.pin_and_read().expect("a pin");
        let count = pin.view().header().page_count;
        let pages = (2..count).map(|page| read.snapshot().page(PageNo(page)));
        let pages = pages.map(|page| page.expect("a page at S").to_vec());
        pinned.push((pin, pages.collect::<Vec<_>>().concat()));
        for (pin, pages) in &pinned {
            let found = whole(pin.view()).expect("a view");
            assert!(found[2 * PAGE_BYTES..] == pages[..], "after {round}");
        }
    }
    let spilled = pinned.iter().map(|(pin, _)| pin.counts().spilled_pages);
    let captured = pinned.iter().map(|(pin, _)| pin.counts().captured_pages);
    assert!(spilled.max() > Some(2) && captured.max() > Some(0));
}

/// The view of a small database, whose file ends before the place of a larger page's header copy.
#[test]
fn small_view_opens_as_a_database_at_every_page_size() {
    for bytes in [4096, 8192, 16384, 32768, 65536] {
        let machine = Host::simulated(bytes);
        let options = EngineOptions {
            page_size: PageSize::new(bytes).expect("a valid size"),
            ..EngineOptions::default()
        };
        let database = Database::open_on(&machine.host, "/db", &options).expect("a database");
        put(&database, 1);
        let pin = database.pin().expect("a pin");
        let still = pin.open(0).expect("a view is a database");
        assert!(still.check().expect("a walk").is_clean());
        assert!(
            still
                .begin_read()
                .contains("t", &1001_u32.to_be_bytes())
                .expect("a read")
        );
    }
}
