//! What a pin leaves in the files of a database that nobody writes meanwhile.

use std::path::Path;

use serde_json::json;

use crate::lane::assert_nothing_left;
use crate::oracle::Oracle;
use crate::sight::{beside, locks, read_slot};
use crate::taken::{Taken, Via};

/// Where the read marks are in the index of the log.
const MARKS: std::ops::Range<usize> = 100..120;
/// Who uses the index holds this byte of it.
const DEAD_MAN: u64 = 128;
/// Who reads the database holds the bytes from here on.
const SHARED: u64 = 0x4000_0002;

/// The database, its log, and its index without the marks.
fn contents(database: &Path) -> [Vec<u8>; 3] {
    let mut index = std::fs::read(beside(database, "-shm")).unwrap();
    index.drain(MARKS);
    let log = std::fs::read(beside(database, "-wal")).unwrap();
    [std::fs::read(database).unwrap(), log, index]
}

fn has_ours(file: &Path, first: u64) -> bool {
    let ours = locks(file).into_iter().filter(|lock| lock.is_of_open_file);
    ours.into_iter().any(|lock| lock.first == first)
}

/// Q1, Q2, Q8: the locks are there as long as the pin, and nothing is written but a mark.
#[test]
fn pin_writes_nothing_but_a_mark() {
    if !crate::can_run() {
        return;
    }
    let seed = crate::seed("quiet");
    let base = tempfile::Builder::new().prefix("stillfs-sqlite-").tempdir();
    let base = base.unwrap();
    let dir = base.path().canonicalize().unwrap().join("live");
    std::fs::create_dir(&dir).unwrap();
    let database = dir.join("app.db");
    let mut oracle = Oracle::start();
    oracle.ask(json!({
        "do": "create", "path": database, "page_size": 4096, "auto_vacuum": "none",
        "journal_mode": "wal", "rows": 20,
    }));
    oracle.ask(json!({
        "do": "use", "path": database, "seed": seed % 1000, "settings": {}, "bytes_max": 100_000,
    }));
    let index = beside(&database, "-shm");
    for kind in ["commits", "PASSIVE", "TRUNCATE", "commits"] {
        oracle.ask(json!({ "do": "disturb", "kind": kind }));
        let before = contents(&database);
        let taken = Taken::take(Via::Library, &database, base.path(), None).unwrap();
        let bytes = taken.read().unwrap();
        assert!(has_ours(&index, DEAD_MAN) && has_ours(&database, SHARED));
        assert!(read_slot(&database).is_some());
        assert!(
            contents(&database) == before,
            "{kind}: something was written"
        );
        taken.give_up();
        assert!(
            contents(&database) == before,
            "{kind}: something was written"
        );
        assert!(!has_ours(&index, DEAD_MAN) && !has_ours(&database, SHARED));
        let copy = base.path().join("copy.db");
        std::fs::write(&copy, bytes).unwrap();
        assert!(oracle.check(&copy).starts_with("ok "));
    }
    oracle.tell("close");
    assert_nothing_left(&database);
}
