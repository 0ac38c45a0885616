//! Databases made by the real code: what the patches of the fuzzer start from.

use std::path::Path;
use std::sync::LazyLock;

use stillfs::database::{Create, Engine};
use stillfs::id::HistoryId;
use stillfs::os::{Host, SimulatedHost};
use stillfs::page::PageSize;
use stillfs::{Database, EngineOptions};

use crate::memory_file::{Files, read_all, write_all};

/// Where every database here is.
pub const DIR: &str = "/db";
/// Its folders.
pub const FOLDERS: [&str; 3] = ["/db", "/db/wal", "/db/shadow"];

/// How they are opened.
pub fn options() -> EngineOptions {
    EngineOptions {
        create: Create::IfMissing,
        page_size: PageSize::new(4096).expect("4 KiB is a page size"),
        cache_bytes: 1 << 20,
        checkpoint_bytes: 1 << 20,
        log_bytes_max: 8 << 20,
        ..EngineOptions::default()
    }
}

/// A database that was closed: a page file that needs no log.
pub static CLOSED: LazyLock<Files> = LazyLock::new(|| {
    let machine = Host::simulated(1);
    let engine = open(&machine);
    engine.close().expect("nothing fails on this machine");
    drop(engine);
    read_all(&machine.disk, &FOLDERS[..1])
});

/// A database whose process was killed: the log has several commits that the page file lacks.
pub static KILLED: LazyLock<Files> = LazyLock::new(|| {
    let machine = Host::simulated(2);
    let engine = open(&machine);
    write_more(&engine);
    read_all(&machine.disk, &FOLDERS[..2])
});

/// A database whose process was killed while it had two pins, with spilled and captured pages.
pub static PINNED: LazyLock<Files> = LazyLock::new(|| {
    let machine = Host::simulated(3);
    drop(open(&machine));
    let database =
        Database::open_on(&machine.host, DIR, &options()).expect("the database is sound");
    let first = database.pin().expect("a sound database can be pinned");
    write_more(database.engine());
    let second = database.pin().expect("a sound database can be pinned");
    database.checkpoint().expect("nothing fails here");
    write_more(database.engine());
    let files = read_all(&machine.disk, &FOLDERS);
    drop((first, second));
    files
});

/// What a restore to a point in time begins with.
#[derive(Clone, Debug)]
pub struct Archived {
    /// A page file that needs no log.
    pub page_file: Vec<u8>,
    /// The segment that goes on from it.
    pub segment: Vec<u8>,
    /// The number of the commit that the page file shows.
    pub timestamp: u64,
    /// The history of both.
    pub history: HistoryId,
}

/// A page file, and several commits after it.
pub static ARCHIVED: LazyLock<Archived> = LazyLock::new(|| {
    let machine = Host::simulated(5);
    let engine = open(&machine);
    engine.close().expect("nothing fails on this machine");
    drop(engine);
    let page_file = content(&read_all(&machine.disk, &FOLDERS[..1]), "data.pages");
    let engine = Engine::open(&machine.host, Path::new(DIR), &options(), None);
    let engine = engine.expect("the database is sound");
    let timestamp = engine.stats().timestamp;
    write_more(&engine);
    let files = read_all(&machine.disk, &FOLDERS[..2]);
    let is_log = |path: &Path| path.extension().is_some_and(|ending| ending == "wal");
    let mut segments = files.into_iter().rev().filter(|(path, _)| is_log(path));
    Archived {
        page_file,
        segment: segments.next().expect("it has a log").1,
        timestamp,
        history: engine.identity().history,
    }
});

/// A machine that has `files`.
pub fn machine_with(files: &Files) -> SimulatedHost {
    let machine = Host::simulated(4);
    write_all(&machine.disk, &FOLDERS, files);
    machine
}

/// The content of the file of that name.
pub fn content(files: &Files, name: &str) -> Vec<u8> {
    let found = files.iter().find(|(path, _)| path.ends_with(name));
    found.expect("every sample has it").1.clone()
}

/// Three tables, inner nodes, values in chains, free pages and trunks, in the page file.
fn open(machine: &SimulatedHost) -> Engine {
    let engine = Engine::open(&machine.host, Path::new(DIR), &options(), None)
        .expect("a database can be made");
    let mut write = engine.begin_write().expect("a new database can be written");
    for number in 0..400_u32 {
        let value = vec![7; if number % 90 == 0 { 9000 } else { 40 }];
        let table = ["a", "b", "c"][number as usize % 3];
        write
            .put(table, &number.to_be_bytes(), &value)
            .expect("it fits");
    }
    for number in (0..120_u32).step_by(3) {
        write
            .delete("a", &number.to_be_bytes())
            .expect("it is there");
    }
    write.put("d", b"key", b"value").expect("it fits");
    write.clear("c").expect("it is there");
    write.commit().expect("nothing fails on this machine");
    engine.checkpoint().expect("nothing fails on this machine");
    engine
}

/// A few commits: images first, deltas after.
fn write_more(engine: &Engine) {
    for number in 0..4_u32 {
        let mut write = engine.begin_write().expect("nothing failed so far");
        write
            .put("a", &number.to_be_bytes(), b"changed")
            .expect("it fits");
        write
            .put("b", &(700 + number).to_be_bytes(), &[1; 100])
            .expect("it fits");
        write.commit().expect("nothing fails on this machine");
    }
}
