//! An application that changes its journal mode, while it is pinned and between two pins.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::counts::Counts;
use crate::lane::assert_nothing_left;
use crate::oracle::Oracle;
use crate::taken::{Taken, Via};
use crate::writers::{Behaviour, Writers};

const VIEWS: u64 = 80;

/// N1: whatever the mode is at the pin, what is read is one state, and stays it.
#[test]
fn mode_may_change_at_any_time() {
    if !crate::can_run() {
        return;
    }
    let seed = crate::seed("mode change");
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
    let common = json!({
        "path": database, "patience": 1, "pause_ms": 1, "bytes_max": 200_000,
        "settings": { "synchronous": "off" },
    });
    let kinds = json!({ "transaction": 6, "switch": 3, "spill": 1 });
    let behaviour = |is_reopening| Behaviour {
        kinds: kinds.clone(),
        is_reopening,
        can_be_killed: true,
    };
    let behaviours = vec![behaviour(true), behaviour(true)];
    let mut writers = Writers::new(common, behaviours, seed);
    let mut counts = Counts::default();
    let (least, most) = (VIEWS * crate::rounds(), 50 * VIEWS * crate::rounds());
    for number in 0..most {
        let is_balanced = ["copies", "marks"]
            .iter()
            .all(|how| counts.of(how) * 4 > least);
        if number >= least && is_balanced {
            break;
        }
        writers.start();
        if number % 40 == 39 {
            writers.kill_one(usize::try_from(number / 40).unwrap());
        }
        let taken = match Taken::take(Via::Library, &database, base.path(), None) {
            Ok(taken) => taken,
            Err(error) => {
                let is_expected = ["try again", "lock"]
                    .iter()
                    .any(|word| error.contains(word));
                assert!(is_expected, "view {number}: another refusal: {error}");
                counts.add("refused");
                continue;
            }
        };
        let how = taken.how();
        let first = taken.read().expect("a read");
        thread::sleep(Duration::from_millis(number % 20));
        let second = taken.read().expect("a read");
        assert!(first == second, "view {number} ({how}): it differs");
        taken.give_up();
        let copy = base.path().join("copy.db");
        std::fs::write(&copy, first).unwrap();
        let said = oracle.check(&copy);
        assert!(said.starts_with("ok "), "view {number} ({how}): {said}");
        counts.add(if how == "copy" { "copies" } else { "marks" });
    }
    writers.stop();
    println!("mode change: {counts}; writers: {:?}", writers.counts);
    counts.assert_occurred(&["copies", "marks"]);
    assert!(
        counts.of("refused") * 4 < VIEWS * crate::rounds(),
        "{counts}"
    );
    assert!(oracle.check(&database).starts_with("ok "));
    std::fs::write(&database, b"").unwrap();
    assert_nothing_left(&database);
}
