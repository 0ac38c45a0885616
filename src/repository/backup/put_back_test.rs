//! BK6 with the engine itself: a machine that was put back with its memory is another past of one incarnation.

use std::time::Duration;

use super::fixture::{Rig, options};
use super::*;
use crate::database::{Database, EngineOptions, PAGE_FILE, PinOptions};
use crate::os::{Host, SimulatedHost};
use crate::view::tree::RangeRead;

/// A machine, as often as it is put back: what it does up to that moment is the same each time.
struct Machine {
    simulated: SimulatedHost,
    database: Database,
}

impl Machine {
    fn new() -> Self {
        let simulated = Host::simulated(5);
        let options = EngineOptions {
            checkpoint_bytes: u64::MAX,
            ..EngineOptions::default()
        };
        let database = Database::open_on(&simulated.host, "/db", &options).unwrap();
        let machine = Self {
            simulated,
            database,
        };
        for key in 0..60 {
            machine.put(&[key], 1);
        }
        machine.database.checkpoint().unwrap();
        machine
    }

    /// A commit; of as many keys it takes as much of the log.
    fn put(&self, keys: &[u32], byte: u8) {
        self.simulated.clock.advance(Duration::from_millis(1));
        let mut write = self.database.begin_write().unwrap();
        for key in keys {
            let value = [byte; 1500];
            write.put("t", &key.to_be_bytes(), &value).unwrap();
        }
        write.commit().unwrap();
    }

    /// Backs it up; what is in the repository is what it shows.
    #[track_caller]
    fn back_up(&self, rig: &Rig, wanted: Wanted) -> BackupFacts {
        let subject = Subject::of_database(&self.database, &PinOptions::default()).unwrap();
        let facts = rig.backup(subject, &options(wanted)).unwrap().facts;
        let pin = self.database.pin().unwrap();
        let mut shown = vec![0; usize::try_from(pin.view().size()).unwrap()];
        pin.view().read_range(0, &mut shown).unwrap();
        assert!(rig.content(&facts, PAGE_FILE) == shown, "{wanted:?}");
        facts
    }
}

/// BK6, W9: at the LSN of the base there is another commit, or none, in the log or after it went; and after a
/// clean stop, and a kill.
#[test]
fn backup_of_a_past_that_was_given_up_is_not_built_on() {
    for end in 0..4 {
        for (lost, kept) in [(&[9][..], &[50][..]), (&[9, 30], &[50])] {
            println!("{end} {lost:?} {kept:?}");
            let rig = Rig::new(20);
            let before = Machine::new();
            before.back_up(&rig, Wanted::Full);
            before.put(lost, 2);
            let base = before.back_up(&rig, Wanted::Incremental);

            let mut after = Machine::new();
            after.back_up(&Rig::new(21), Wanted::Full);
            after.simulated.clock.advance(Duration::from_secs(60));
            after.put(kept, 3);
            if kept.len() < lost.len() {
                after.put(kept, 4);
            } else {
                let lsn = |machine: &Machine| machine.database.pin().unwrap().lsn();
                assert_eq!(lsn(&before), lsn(&after));
                let facts = after.back_up(&rig, Wanted::Incremental);
                assert_eq!(facts.parent, Some(base.id));
                before.put(&[9], 5);
                before.back_up(&rig, Wanted::Incremental);
            }
            after.put(kept, 6);
            if end > 0 {
                after.database.checkpoint().unwrap();
                after.put(kept, 7);
            }
            if end > 1 {
                if end == 2 {
                    after.database.close().unwrap();
                }
                let Machine {
                    simulated,
                    database,
                } = after;
                drop(database);
                let simulated = simulated.process_crash();
                let options = EngineOptions::default();
                let database = Database::open_on(&simulated.host, "/db", &options).unwrap();
                database.checkpoint().unwrap();
                after = Machine {
                    simulated,
                    database,
                };
            }
            after.back_up(&rig, Wanted::Incremental);
            after.put(&[1], 8);
            after.back_up(&rig, Wanted::Incremental);
        }
    }
}

/// BK6, W9: of its own past a machine knows every commit that was backed up: the next backup reads what
/// changed, and nothing else, whether the log is there or went, through a clean stop and a kill.
#[test]
fn backup_of_its_own_past_is_built_on() {
    for end in 0..4 {
        println!("{end}");
        let rig = Rig::new(30);
        let mut machine = Machine::new();
        machine.put(&[3], 2);
        machine.back_up(&rig, Wanted::Full);
        machine.put(&[7], 3);
        if end > 0 {
            machine.database.checkpoint().unwrap();
        }
        if end > 1 {
            if end == 2 {
                machine.database.close().unwrap();
            }
            drop(machine.database);
            let simulated = machine.simulated.process_crash();
            let options = EngineOptions::default();
            let database = Database::open_on(&simulated.host, "/db", &options).unwrap();
            database.checkpoint().unwrap();
            machine = Machine {
                simulated,
                database,
            };
        }
        // Of a commit whose segment went before it was pinned, too.
        machine.put(&[7], 4);
        machine.database.checkpoint().unwrap();
        for _ in 0..2 {
            let read = machine.back_up(&rig, Wanted::Incremental).statistics;
            assert!(read.units_read * 2 < read.units, "{read:?}");
            machine.put(&[8], 5);
            machine.database.checkpoint().unwrap();
        }
    }
}
