//! Crashes in the midst of what does not fit memory: a commit in several pieces, pages in the spool,
//! the recovery of such a commit.

use std::ops::RangeInclusive;

use super::*;
use crate::os::SimulatedHost;

#[derive(Clone, Copy, Debug)]
enum Step {
    Commit,
    /// Rolled back at the end.
    Undone,
    Checkpoint,
    Drop,
    Close,
}

use Step::{Checkpoint, Close, Commit, Drop, Undone};

const SCENARIO: [Step; 11] = [
    Commit, Commit, Undone, Checkpoint, Commit, Commit, Drop, Commit, Checkpoint, Commit, Close,
];

fn open_large(host: &Host) -> Result<Engine, EngineError> {
    let options = EngineOptions {
        // An append of some pages is longer than what is written at a time.
        page_size: PageSize::new(65536).unwrap(),
        cache_bytes: 0,
        checkpoint_bytes: u64::MAX,
        ..EngineOptions::default()
    };
    Engine::open(host, Path::new(DIR), &options, None)
}

/// What commit `number` writes: every second one about 30 pages without a run of zeros.
fn changes(number: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let count = if number % 2 == 1 { 30 } else { 2 };
    let entry = |part: usize| {
        let key = format!("key {:02}", (part + number) % 40).into_bytes();
        let fill = (number * 40 + part) % 251 + 1;
        (key, vec![fill as u8; 50_000 + number])
    };
    (0..count).map(entry).collect()
}

fn model(count: usize) -> Model {
    (1..=count).flat_map(changes).collect()
}

fn put(engine: &Engine, number: usize) -> Result<WriteTransaction, EngineError> {
    let mut write = engine.begin_write()?;
    for (key, value) in changes(number) {
        write.put("t", &key, &value)?;
    }
    Ok(write)
}

/// Runs the scenario until the machine or the process stops; how many commits there may be.
fn run(host: &Host) -> RangeInclusive<usize> {
    let (mut acknowledged, mut tried) = (0, 0);
    let mut run = || -> Result<(), EngineError> {
        let mut engine = open_large(host)?;
        for step in SCENARIO {
            match step {
                Commit => {
                    tried += 1;
                    put(&engine, tried)?.commit()?;
                    acknowledged = tried;
                }
                Undone => put(&engine, 99)?.rollback(),
                Checkpoint => drop(engine.checkpoint()?),
                Drop => {
                    drop(engine);
                    engine = open_large(host)?;
                }
                Close => engine.close()?,
            }
        }
        Ok(())
    };
    let _stopped_or_done = run();
    acknowledged..=tried
}

fn assert_recovers(machine: &SimulatedHost, expected: &RangeInclusive<usize>, at: &str) {
    let engine = open_large(&machine.host).unwrap_or_else(|error| panic!("{at}: {error}"));
    let read = engine.begin_read();
    let count = read.timestamp().0 as usize;
    assert!(expected.contains(&count), "{at}: {count}, not {expected:?}");
    assert!(contents(&read) == model(count), "{at}");
    assert_sound(&engine);
}

fn change_count() -> u64 {
    let machine = Host::simulated(1);
    let commits = SCENARIO.iter().filter(|s| matches!(s, Commit)).count();
    assert_eq!(run(&machine.host), commits..=commits);
    machine.disk.change_count()
}

/// E1, E7, E12, E14: the machine stops before each change; exactly the acknowledged commits are there,
/// or one whole one more.
#[test]
fn large_commits_survive_a_power_off_before_every_change() {
    for number in 0..=change_count() {
        let machine = Host::simulated(1);
        let stop = Faults::power_off_before_change(number);
        machine.disk.set_faults(stop);
        let expected = run(&machine.host);
        for seed in 0..2 {
            let disk = machine.disk.image_after_crash(number * 2 + seed);
            let at = format!("power off {number}, disk {seed}");
            assert_recovers(&machine.with_disk(disk), &expected, &at);
        }
    }
}

/// E14: the process is killed before each change; what it wrote is there, a part of a commit too.
#[test]
fn large_commits_survive_a_kill_before_every_change() {
    for number in 0..=change_count() {
        let machine = Host::simulated(1);
        let stop = Faults::kill_before_change(number);
        machine.disk.set_faults(stop);
        let expected = run(&machine.host);
        machine.disk.set_faults(Faults::none());
        let after = machine.process_crash();
        assert_recovers(&after, &expected, &format!("kill {number}"));
        let disk = after.disk.image_after_crash(number);
        let at = format!("kill {number}, then power off");
        assert_recovers(&after.with_disk(disk), &expected, &at);
    }
}

/// The machine stops again before each change of a recovery that has a large commit to replay.
#[test]
fn recovery_of_large_commits_may_be_interrupted() {
    let changes = change_count();
    for number in (0..=changes).step_by(23) {
        let machine = Host::simulated(1);
        machine
            .disk
            .set_faults(Faults::power_off_before_change(number));
        let expected = run(&machine.host);
        let image = || machine.with_disk(machine.disk.image_after_crash(number));
        let whole = image();
        drop(open_large(&whole.host).unwrap());
        for stop in 0..=whole.disk.change_count() {
            let first = image();
            let again = Faults::power_off_before_change(stop);
            first.disk.set_faults(again);
            drop(open_large(&first.host));
            let second = first.with_disk(first.disk.image_after_crash(stop));
            let at = format!("power off {number}, again {stop}");
            assert_recovers(&second, &expected, &at);
        }
    }
}
