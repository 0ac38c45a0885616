//! No ordinary writer is refused for a pin: one that waits for nobody sees no SQLITE_BUSY. What stands in the
//! place of the files beside a database, and is none, is refused at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use stillfs::os::Host;
use stillfs::source;
use stillfs::view::tree::NodeId;

use crate::draw::Draw;
use crate::lane::assert_nothing_left;
use crate::oracle::Oracle;
use crate::sight::beside;
use crate::taken::{Taken, Via, pin_as};
use crate::writers::{Behaviour, Writers};

/// Pins that are taken by each of two threads while one application writes.
const PINS: u64 = 400;

/// One application without patience, and pins that come and go as fast as they can.
fn assert_never_refused(name: &str, is_reopening: bool, autocheckpoint: u64) {
    if !crate::can_run() {
        return;
    }
    let seed = crate::seed(name);
    let base = tempfile::Builder::new().prefix("stillfs-sqlite-").tempdir();
    let base = base.unwrap();
    let dir = base.path().canonicalize().unwrap().join("live");
    std::fs::create_dir(&dir).unwrap();
    let database = dir.join("app.db");
    let mut oracle = Oracle::start();
    oracle.ask(json!({
        "do": "create", "path": database, "page_size": 4096, "auto_vacuum": "none",
        "journal_mode": "wal", "rows": 50,
    }));
    // Where nobody has it open, SQLite itself makes the index of the log anew for a pin, and whoever opens
    // it at that moment must have patience, as with any other application.
    oracle.ask(json!({
        "do": "use", "path": database, "seed": 1, "settings": {}, "bytes_max": 200_000,
    }));
    oracle.tell("before");
    let common = json!({
        "path": database, "patience": 0, "pause_ms": 0, "bytes_max": 200_000,
        "settings": { "wal_autocheckpoint": autocheckpoint, "synchronous": "off" },
    });
    let behaviour = Behaviour {
        kinds: json!({ "small": 1 }),
        is_reopening,
        can_be_killed: false,
    };
    let mut writers = Writers::new(common, vec![behaviour], seed);
    writers.start();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..2 {
            let (database, is_over) = (&database, &is_over);
            scope.spawn(move || {
                let draw = Draw::new(seed + number);
                for _ in 0..PINS * crate::rounds() {
                    let pinned = source::pin(&Host::system(), database, &pin_as());
                    let pinned = pinned.expect("a pin");
                    let node = pinned.tree.lookup(NodeId::ROOT, "app.db".as_ref());
                    let mut page = [0; 4096];
                    pinned.tree.read(node.unwrap(), 0, &mut page).unwrap();
                    thread::sleep(Duration::from_micros(draw.below(4000)));
                    pinned.lease.release().unwrap();
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
    });
    is_over.store(true, Ordering::Relaxed);
    writers.stop();
    println!("{name}: {:?}", writers.counts);
    let count = |name: &str| writers.counts.get(name).copied().unwrap_or(0);
    assert!(count("commits") > PINS / 4, "{:?}", writers.counts);
    assert_eq!(count("busy"), 0, "{:?}", writers.counts);
    oracle.tell("close");
    assert!(oracle.check(&database).starts_with("ok "));
    std::fs::write(&database, b"").unwrap();
    assert_nothing_left(&database);
}

#[test]
fn writer_that_stays_is_never_refused() {
    assert_never_refused("a writer that stays", false, 20);
}

#[test]
fn writer_that_opens_each_time_is_never_refused() {
    assert_never_refused("a writer that opens each time", true, 1000);
}

/// SQLite would wait for somebody to write into the pipe, and whoever asks it for SQLite.
#[test]
fn pipe_in_the_place_of_a_helper_file_is_refused() {
    if !crate::can_run() {
        return;
    }
    let base = tempfile::Builder::new().prefix("stillfs-sqlite-").tempdir();
    let base = base.unwrap();
    let database = base.path().canonicalize().unwrap().join("app.db");
    let mut oracle = Oracle::start();
    for mode in ["wal", "delete"] {
        oracle.ask(json!({
            "do": "create", "path": database, "page_size": 4096, "auto_vacuum": "none",
            "journal_mode": mode, "rows": 5,
        }));
        for ending in ["-journal", "-wal", "-shm"] {
            let pipe = beside(&database, ending);
            let _ = std::fs::remove_file(&pipe);
            nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let taken = Taken::take(Via::Mount, &database, base.path(), None);
            // With a rollback journal nobody looks at an index.
            match taken {
                Ok(taken) => taken.give_up(),
                Err(error) => assert!(error.contains("app.db"), "{mode} {ending}: {error}"),
            }
            std::fs::remove_file(&pipe).unwrap();
        }
        std::fs::remove_file(&database).unwrap();
    }
}
