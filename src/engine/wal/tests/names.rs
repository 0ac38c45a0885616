//! Syncs of folders that fail, after which no later sync brings a name back, and no removal either (X3).

use super::crash::{commit, open, recovered};
use crate::os::sim::{Fault, Faults, Operation};
use crate::os::{Host, SimulatedHost};

const SEEDS: u64 = 60;
/// More syncs of folders than an open makes.
const OPEN_SYNCS: u64 = 6;
/// More changes than the first open makes.
const OPEN_CHANGES: u64 = 30;

fn failing_sync() -> Fault {
    Fault::errno(Operation::SyncDir, libc::EIO)
}

fn set_faults(machine: &SimulatedHost, fault: Fault) {
    machine.disk.set_faults(Faults::none().with(fault));
}

/// Opens, commits, and sees to it that the commit survives the machine's crash.
fn assert_commit_survives(machine: &SimulatedHost, before: usize, at: &str) {
    machine.disk.set_faults(Faults::none());
    let (engine, count) = recovered(&machine.host, at);
    assert_eq!(count, before, "{at}");
    commit(&engine, before + 1).unwrap();
    for seed in 0..4 {
        let image = machine.with_disk(machine.disk.image_after_crash(seed));
        let (_, count) = recovered(&image.host, at);
        assert_eq!(count, before + 1, "{at}, after a crash");
    }
}

/// W2: the directory, the page file and the log's folder have their names for good before a commit is
/// acknowledged, whichever sync failed while the database was made.
#[test]
fn names_of_a_new_database_whose_sync_failed_are_durable_before_a_commit() {
    for seed in 0..SEEDS {
        for number in 0..OPEN_SYNCS {
            let machine = Host::simulated(seed);
            set_faults(&machine, failing_sync().after(number));
            drop(open(&machine.host));
            assert_commit_survives(&machine, 0, &format!("seed {seed}, sync {number}"));
        }
    }
}

/// The same where a process was killed while it made the database, and the next one's sync failed.
#[test]
fn names_that_a_killed_process_left_are_durable_before_a_commit() {
    for change in 0..OPEN_CHANGES {
        for number in 0..OPEN_SYNCS {
            let machine = Host::simulated(change);
            let kill = Faults::kill_before_change(change);
            machine.disk.set_faults(kill);
            drop(open(&machine.host));
            let machine = machine.process_crash();
            set_faults(&machine, failing_sync().after(number));
            drop(open(&machine.host));
            let at = format!("killed before change {change}, sync {number}");
            assert_commit_survives(&machine, 0, &at);
        }
    }
}

/// W2: segments that a clean stop removed may come back beside those of the next engine.
#[test]
fn segments_whose_removal_was_lost_do_no_harm() {
    for seed in 0..SEEDS {
        for number in 0..4 {
            let machine = Host::simulated(seed);
            let engine = open(&machine.host).unwrap();
            commit(&engine, 1).unwrap();
            engine.checkpoint().unwrap();
            commit(&engine, 2).unwrap();
            set_faults(&machine, failing_sync().on("wal").after(number));
            drop(engine.close());
            drop(engine);
            assert_commit_survives(&machine, 2, &format!("seed {seed}, sync {number}"));
        }
    }
}

/// W2: so may segments of rotations that failed, whose starts are the next engine's.
#[test]
fn segments_of_failed_rotations_do_not_hide_those_of_the_next_engine() {
    for seed in 0..SEEDS {
        let machine = Host::simulated(seed);
        let engine = open(&machine.host).unwrap();
        commit(&engine, 1).unwrap();
        set_faults(&machine, failing_sync().on("wal").times(3));
        for _ in 0..2 {
            engine.checkpoint().unwrap_err();
        }
        drop(engine);
        assert!(open(&machine.host).is_err());
        assert_commit_survives(&machine, 1, &format!("seed {seed}"));
    }
}
