//! Transactions over several databases: in all of them or in none, where that is asked for.

use std::path::{Path, PathBuf};

use serde_json::json;
use stillfs::os::Host;
use stillfs::source::{self, Instant, PinnedSource};
use stillfs::view::tree::NodeId;

use crate::lane::assert_nothing_left;
use crate::oracle::Oracle;
use crate::taken::{content, pin_as};
use crate::writers::{Behaviour, Writers};

const SETS: u64 = 60;
const NAMES: [&str; 4] = ["one.db", "two.db", "three.db", "four.db"];

/// Four databases, and applications whose transactions count in all of them.
#[derive(Debug)]
struct Set {
    oracle: Oracle,
    writers: Writers,
    dir: PathBuf,
    base: tempfile::TempDir,
}

impl Set {
    fn start(modes: [&str; 4], seed: u64) -> Self {
        let base = tempfile::Builder::new().prefix("stillfs-sqlite-").tempdir();
        let base = base.unwrap();
        let dir = base.path().canonicalize().unwrap().join("live");
        std::fs::create_dir(&dir).unwrap();
        let mut oracle = Oracle::start();
        let paths = NAMES.map(|name| dir.join(name));
        for (path, mode) in paths.iter().zip(modes) {
            oracle.ask(json!({
                "do": "create", "path": path, "page_size": 4096, "auto_vacuum": "none",
                "journal_mode": mode, "rows": 5,
            }));
        }
        let common = json!({
            "path": paths[0], "others": paths[1..], "pause_ms": 1,
            "settings": { "synchronous": "off", "wal_autocheckpoint": 100 },
        });
        let behaviour = Behaviour {
            kinds: json!({ "attached": 1 }),
            is_reopening: false,
            can_be_killed: true,
        };
        let mut writers = Writers::new(common, vec![behaviour.clone(), behaviour], seed);
        writers.start();
        Self {
            oracle,
            writers,
            dir,
            base,
        }
    }

    /// What each database of a pin counts.
    fn counters(&mut self, pinned: &PinnedSource) -> Vec<String> {
        let mut counters = Vec::new();
        for name in NAMES {
            let node = pinned.tree.lookup(NodeId::ROOT, name.as_ref());
            let bytes = content(pinned, node.expect("a database of the set")).unwrap();
            let copy = self.base.path().join("copy.db");
            std::fs::write(&copy, bytes).unwrap();
            let said = self.oracle.check(&copy);
            assert!(said.starts_with("ok "), "{name}: {said}");
            counters.push(said);
        }
        counters
    }

    /// How many of the sets were torn.
    fn torn(&mut self, instant: Instant) -> u64 {
        let mut torn = 0;
        for _ in 0..SETS * crate::rounds() {
            let pinned = pin(&self.dir, instant);
            let counters = self.counters(&pinned);
            pinned.lease.release().unwrap();
            let is_torn = counters.iter().any(|one| *one != counters[0]);
            if is_torn && instant == Instant::Same {
                panic!("a set of one instant is torn: {counters:?}");
            }
            torn += u64::from(is_torn);
        }
        torn
    }

    fn finish(mut self, name: &str) {
        self.writers.stop();
        println!("{name}: writers: {:?}", self.writers.counts);
        assert!(self.writers.counts["attached"] > 0);
        for path in NAMES.map(|name| self.dir.join(name)) {
            let said = self.oracle.check(&path);
            assert!(said.starts_with("ok "), "{}: {said}", path.display());
            std::fs::write(&path, b"").unwrap();
            assert_nothing_left(&path);
        }
    }
}

fn pin(dir: &Path, instant: Instant) -> PinnedSource {
    let mut pin_as = pin_as();
    pin_as.tree.instant = instant;
    // A rollback journal may be in the way for a while.
    let mut last = None;
    for _ in 0..20 {
        match source::pin(&Host::system(), dir, &pin_as) {
            Ok(pinned) => return pinned,
            Err(error) => last = Some(error.to_string()),
        }
    }
    panic!("refused 20 times: {last:?}");
}

/// Pinned one after the other sets can be torn: without that the other tests would prove nothing.
#[test]
fn sets_of_one_instant_are_never_torn() {
    if !crate::can_run() {
        return;
    }
    let seed = crate::seed("atomic set");
    let mut set = Set::start(["wal"; 4], seed);
    let torn = set.torn(Instant::Same);
    println!("atomic set: {SETS} sets, {torn} torn");
    let without = set.torn(Instant::Close);
    println!("one right after the other: {SETS} sets, {without} torn");
    assert!(without > 0, "the control: such sets must be torn sometimes");
    set.finish("atomic set");
}

/// A rollback journal's members are copied in the same instant.
#[test]
fn mixed_sets_of_one_instant_are_never_torn() {
    if !crate::can_run() {
        return;
    }
    let seed = crate::seed("mixed set");
    let mut set = Set::start(["wal", "delete", "wal", "delete"], seed);
    let torn = set.torn(Instant::Same);
    println!("mixed set: {SETS} sets, {torn} torn");
    set.finish("mixed set");
}
