//! Recovery through [`Engine::open`]: every change of a scenario is a moment at which the machine or
//! the process may stop, and so is every change of the recovery after it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::engine::error::EngineError;
use crate::engine::{Engine, EngineOptions, LOG_DIR};
use crate::os::sim::{Fault, Faults, Operation};
use crate::os::{Disk, Host, OpenMode, SimulatedHost};
use crate::page::PageSize;

const DIR: &str = "/db";

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Open,
    Commit,
    Checkpoint,
    Close,
    /// Drops the engine, which leaves the log as a crash does.
    Drop,
}

use Step::{Checkpoint, Close, Commit, Drop, Open};

pub(super) const SCENARIO: [Step; 16] = [
    Open, Commit, Commit, Commit, Commit, Checkpoint, Commit, Commit, Commit, Close, Open, Commit,
    Commit, Drop, Open, Commit,
];

/// Opens that commit nothing, between a checkpoint, a crash and clean stops.
const IDLE_SCENARIO: [Step; 12] = [
    Open, Commit, Checkpoint, Drop, Open, Close, Open, Close, Open, Commit, Drop, Open,
];

/// Checkpoints between which segments are used again, before and after a crash (W11).
const REUSING_SCENARIO: [Step; 18] = [
    Open, Commit, Commit, Commit, Checkpoint, Commit, Commit, Checkpoint, Commit, Checkpoint,
    Commit, Drop, Open, Commit, Commit, Checkpoint, Commit, Checkpoint,
];

fn options() -> EngineOptions {
    EngineOptions {
        page_size: PageSize::new(4096).unwrap(),
        checkpoint_bytes: u64::MAX,
        ..EngineOptions::default()
    }
}

pub(super) fn open(host: &Host) -> Result<Engine, EngineError> {
    Engine::open(host, DIR.as_ref(), &options(), None)
}

/// What commit `number` (from 1) writes; the third has a value of 30 KB, which later ones replace,
/// keep, or take away.
fn changes(number: usize) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let fill = number as u8;
    let value = |bytes: usize| Some(vec![fill; bytes]);
    let mut changes = vec![
        (b"all".to_vec(), value(40 + number)),
        (format!("key {number}").into_bytes(), value(300 * number)),
    ];
    match number {
        3 => changes.push((b"long".to_vec(), value(30_000))),
        6 => changes.push((b"long".to_vec(), None)),
        _ => {}
    }
    changes
}

/// The contents after `count` commits.
fn model(count: usize) -> Model {
    let mut model = Model::new();
    for (key, value) in (1..=count).flat_map(changes) {
        match value {
            Some(value) => drop(model.insert(key, value)),
            None => drop(model.remove(&key)),
        }
    }
    model
}

pub(super) fn commit(engine: &Engine, number: usize) -> Result<(), EngineError> {
    let mut write = engine.begin_write()?;
    for (key, value) in changes(number) {
        match value {
            Some(value) => write.put("t", &key, &value)?,
            None => drop(write.delete("t", &key)?),
        }
    }
    write.commit().map(drop)
}

/// How far a scenario came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    acknowledged: usize,
    /// At most one more than what was acknowledged.
    tried: usize,
}

impl Progress {
    /// How many commits a recovery may find.
    fn possible(self) -> RangeInclusive<usize> {
        self.acknowledged..=self.tried
    }
}

/// Runs the steps until one fails, because the machine or the process stopped.
pub(super) fn run(host: &Host, steps: &[Step]) -> Progress {
    let mut progress = Progress::default();
    let mut engine = None;
    for step in steps {
        let outcome = match (step, &engine) {
            (Open, _) => open(host).map(|opened| engine = Some(opened)),
            (Commit, Some(engine)) => {
                progress.tried += 1;
                commit(engine, progress.tried).map(|()| progress.acknowledged += 1)
            }
            (Checkpoint, Some(engine)) => engine.checkpoint().map(drop),
            (Close, _) => engine.take().map_or(Ok(()), |engine| engine.close()),
            (Drop, _) => {
                engine = None;
                Ok(())
            }
            (_, None) => panic!("a scenario opens first"),
        };
        if outcome.is_err() {
            return progress;
        }
    }
    progress
}

/// Opens and checks the database; gives the number of commits that it holds.
pub(super) fn recovered(host: &Host, at: &str) -> (Engine, usize) {
    let engine = open(host).unwrap_or_else(|error| panic!("{at}: {error}"));
    let report = engine.check().unwrap();
    assert!(report.is_clean(), "{at}: {:?}", report.findings);
    let read = engine.begin_read();
    let found: Model = read.range("t", ..).unwrap().map(Result::unwrap).collect();
    let count = read.timestamp().0 as usize;
    assert!(
        found == model(count),
        "{at}: not the contents after commit {count}"
    );
    (engine, count)
}

/// Recovers, and sees to it that what is committed after the recovery survives the next crash.
pub(super) fn assert_recovers(
    machine: &SimulatedHost,
    expected: RangeInclusive<usize>,
    at: &str,
) -> usize {
    let (engine, count) = recovered(&machine.host, at);
    assert!(
        expected.contains(&count),
        "{at}: {count} commits, not {expected:?}"
    );
    commit(&engine, count + 1).unwrap();
    let image = machine.with_disk(machine.disk.image_after_crash(count as u64));
    let (_, again) = recovered(&image.host, at);
    assert_eq!(again, count + 1, "{at}: after a crash after the recovery");
    count
}

fn change_count(steps: &[Step]) -> u64 {
    let machine = Host::simulated(1);
    let progress = run(&machine.host, steps);
    let commits = steps.iter().filter(|step| matches!(step, Commit)).count();
    assert_eq!(progress.acknowledged, commits, "nothing fails by itself");
    machine.disk.change_count()
}

/// Runs the steps on a new machine until `faults` stop it.
fn run_until(faults: Faults, steps: &[Step]) -> (SimulatedHost, Progress) {
    let machine = Host::simulated(1);
    machine.disk.set_faults(faults);
    let progress = run(&machine.host, steps);
    machine.disk.set_faults(Faults::none());
    (machine, progress)
}

/// E1, E7, E10, W2, W5: the machine stops before each change, with several of the disks that may then
/// be left.
fn survives_every_power_off(steps: &[Step]) {
    for number in 0..=change_count(steps) {
        let (machine, progress) = run_until(Faults::power_off_before_change(number), steps);
        for seed in 0..6 {
            let image = machine.with_disk(machine.disk.image_after_crash(seed));
            assert_recovers(
                &image,
                progress.possible(),
                &format!("power off {number}, disk {seed}"),
            );
        }
    }
}

#[test]
fn acknowledged_commits_survive_a_power_off_before_every_change() {
    survives_every_power_off(&SCENARIO);
}

#[test]
fn idle_opens_survive_a_power_off_before_every_change() {
    survives_every_power_off(&IDLE_SCENARIO);
}

/// The second checkpoint of the scenario makes the next segment of an old one, and so does the last.
#[test]
fn segments_of_the_scenario_are_used_again_before_and_after_its_crash() {
    for steps in [&REUSING_SCENARIO[..8], &REUSING_SCENARIO] {
        assert!(matches!(steps.last(), Some(Checkpoint)));
        let machine = Host::simulated(1);
        run(&machine.host, steps);
        let wal = Path::new(DIR).join(LOG_DIR);
        let names = machine.disk.list(&wal).unwrap();
        let newest = names.iter().rfind(|name| *name != "spare").unwrap();
        let newest = machine.disk.open(&wal.join(newest), OpenMode::Read);
        let bytes = newest.unwrap().len().unwrap();
        assert!(bytes > 4096, "{bytes} after {} steps", steps.len());
    }
}

#[test]
fn logs_of_segments_used_again_survive_a_power_off_before_every_change() {
    survives_every_power_off(&REUSING_SCENARIO);
}

/// The process stops before each change, and what it wrote without a sync is still there.
#[test]
fn acknowledged_commits_survive_a_kill_before_every_change() {
    for steps in [&SCENARIO[..], &IDLE_SCENARIO, &REUSING_SCENARIO] {
        for number in 0..=change_count(steps) {
            let (machine, progress) = run_until(Faults::kill_before_change(number), steps);
            assert_recovers(
                &machine.process_crash(),
                progress.possible(),
                &format!("kill {number}"),
            );
        }
    }
}

/// The machine stops again before each change of the recovery: the next recovery gives what this one
/// would have given.
fn interrupted_recovery_gives_the_same(steps: &[Step], seed: u64) {
    for number in 0..=change_count(steps) {
        let (machine, progress) = run_until(Faults::power_off_before_change(number), steps);
        let image = || machine.with_disk(machine.disk.image_after_crash(seed + number));
        let whole = image();
        drop(open(&whole.host).unwrap());
        let changes = whole.disk.change_count();
        let mut expected = None;
        for stop in 0..=changes {
            let at = format!("power off {number}, again {stop}");
            let first = image();
            first.disk.set_faults(Faults::power_off_before_change(stop));
            drop(open(&first.host));
            let second = first.with_disk(first.disk.image_after_crash(stop));
            let count = assert_recovers(&second, progress.possible(), &at);
            assert_eq!(*expected.get_or_insert(count), count, "{at}");
        }
    }
}

#[test]
fn recovery_that_is_interrupted_at_every_change_gives_the_same() {
    interrupted_recovery_gives_the_same(&SCENARIO, 100);
}

#[test]
fn recovery_of_idle_opens_that_is_interrupted_gives_the_same() {
    interrupted_recovery_gives_the_same(&IDLE_SCENARIO, 200);
}

#[test]
fn recovery_of_segments_used_again_that_is_interrupted_gives_the_same() {
    interrupted_recovery_gives_the_same(&REUSING_SCENARIO, 300);
}

/// A killed process leaves un-synced bytes and names, on which the next one builds; then the machine
/// stops, during the recovery or after it.
#[test]
fn recovery_after_a_kill_survives_a_power_off_at_every_change() {
    for steps in [&SCENARIO[..], &IDLE_SCENARIO, &REUSING_SCENARIO] {
        for number in 0..=change_count(steps) {
            let (machine, _) = run_until(Faults::kill_before_change(number), steps);
            let whole = machine.process_crash();
            let before = whole.disk.change_count();
            drop(open(&whole.host).unwrap());
            // Every stop of the first, which makes the database; of the others a part in turn.
            let changes = whole.disk.change_count() - before;
            for stop in (0..=changes).filter(|stop| number < 16 || (stop + number) % 4 == 0) {
                let (machine, progress) = run_until(Faults::kill_before_change(number), steps);
                let second = machine.process_crash();
                second
                    .disk
                    .set_faults(Faults::power_off_before_change(stop));
                drop(open(&second.host));
                for seed in 0..if number < 16 { 20 } else { 2 } {
                    let third = second.with_disk(second.disk.image_after_crash(seed));
                    let at = format!("kill {number}, power off {stop}, disk {seed}");
                    assert_recovers(&third, progress.possible(), &at);
                }
            }
        }
    }
}

/// E8, W3: after a failed sync the page cache shows what the disk has lost, and a later sync does not
/// bring it back. What the next open reads and builds on it must write again.
#[test]
fn commits_after_a_failed_sync_and_a_reopen_survive_a_power_off() {
    for (seed, killed) in (0..40).zip([true, false].into_iter().cycle()) {
        let mut machine = Host::simulated(seed);
        let engine = open(&machine.host).unwrap();
        commit(&engine, 1).unwrap();
        let fault = Fault::errno(Operation::SyncData, libc::EIO);
        machine.disk.set_faults(Faults::none().with(fault));
        assert!(commit(&engine, 2).is_err());
        machine.disk.set_faults(Faults::none());
        drop(engine);
        if killed {
            machine = machine.process_crash();
        }
        let (engine, count) = recovered(&machine.host, "the page cache");
        assert_eq!(count, 2, "the page cache has it");
        commit(&engine, 3).unwrap();
        let image = machine.with_disk(machine.disk.image_after_crash(seed));
        let (_, count) = recovered(&image.host, &format!("seed {seed}"));
        assert_eq!(count, 3);
    }
}

/// A read-only open replays in memory and changes nothing, so that it may be tried anywhere.
#[test]
fn read_only_open_replays_and_changes_nothing() {
    for number in 0..=change_count(&SCENARIO) {
        let (machine, progress) = run_until(Faults::power_off_before_change(number), &SCENARIO);
        let image = machine.with_disk(machine.disk.image_after_crash(number));
        let before = image.disk.change_count();
        let opened = Engine::open_read_only(&image.host, DIR.as_ref(), 0);
        assert_eq!(image.disk.change_count(), before, "{number}");
        let Ok(engine) = opened else {
            assert_eq!(progress.acknowledged, 0, "{number}: {opened:?}");
            continue;
        };
        assert!(engine.check().unwrap().is_clean(), "{number}");
        let count = engine.begin_read().timestamp().0 as usize;
        drop(engine);
        assert_eq!(
            assert_recovers(&image, progress.possible(), "read-only"),
            count,
            "{number}"
        );
    }
}
