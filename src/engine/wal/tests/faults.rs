//! Calls that fail, one at a time, under a whole engine: it goes on or is opened again, and no
//! acknowledged commit is lost to the crash after it.

use super::crash::{SCENARIO, Step, assert_recovers, commit, open, recovered};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::os::sim::{Fault, Faults, Operation};
use crate::os::{Host, SimulatedHost};

/// An application that does not give up: it retries what failed, and opens again what is poisoned.
struct Stubborn {
    machine: SimulatedHost,
    engine: Option<Engine>,
    acknowledged: usize,
    failures: u32,
    at: String,
}

impl Stubborn {
    fn reopen(&mut self) {
        self.engine = None;
        for _ in 0..4 {
            match open(&self.machine.host) {
                Ok(engine) => {
                    let found = engine.begin_read().timestamp().0 as usize;
                    let possible = self.acknowledged..=self.acknowledged + 1;
                    assert!(possible.contains(&found), "{}: {found}", self.at);
                    self.acknowledged = found;
                    self.engine = Some(engine);
                    return;
                }
                Err(error @ EngineError::Io { .. }) => drop(error),
                Err(error) => panic!("{}: {error}", self.at),
            }
            self.failures += 1;
        }
        panic!("{}: cannot be opened", self.at);
    }

    fn step(&mut self, step: Step) {
        if self.engine.is_none() {
            self.reopen();
        }
        let Some(engine) = &self.engine else { return };
        let outcome = match step {
            Step::Open => Ok(()),
            Step::Commit => commit(engine, self.acknowledged + 1).map(|()| self.acknowledged += 1),
            Step::Checkpoint => engine.checkpoint().map(drop),
            Step::Close => self.engine.take().map_or(Ok(()), |engine| engine.close()),
            Step::Drop => {
                self.engine = None;
                Ok(())
            }
        };
        match outcome {
            Ok(()) => {}
            Err(EngineError::Poisoned { .. }) => {
                self.failures += 1;
                self.reopen();
            }
            Err(EngineError::Io { .. }) => self.failures += 1,
            Err(error) => panic!("{}: {step:?}: {error}", self.at),
        }
    }
}

/// Runs the scenario with one fault; returns how many failures the application met.
fn survive(fault: Fault, at: &str) -> u32 {
    let machine = Host::simulated(1);
    let mut stubborn = Stubborn {
        machine,
        engine: None,
        acknowledged: 0,
        failures: 0,
        at: at.to_owned(),
    };
    stubborn.reopen();
    stubborn.machine.disk.set_faults(Faults::none().with(fault));
    for step in SCENARIO {
        stubborn.step(step);
    }
    stubborn.machine.disk.set_faults(Faults::none());
    let Stubborn {
        machine,
        engine,
        acknowledged,
        failures,
        ..
    } = stubborn;
    for seed in 0..4 {
        let image = machine.with_disk(machine.disk.image_after_crash(seed));
        assert_recovers(
            &image,
            acknowledged..=acknowledged,
            &format!("{at}, disk {seed}"),
        );
    }
    drop(engine);
    let (_engine, count) = recovered(&machine.process_crash().host, at);
    assert_eq!(count, acknowledged, "{at}");
    failures
}

/// Lets each call of one kind fail in turn.
fn survive_each(operation: Operation, code: i32) {
    let mut failed = 0;
    for number in 0.. {
        let fault = Fault::errno(operation, code).after(number);
        let machine_calls = survive(fault, &format!("{operation:?} {number} fails with {code}"));
        failed += machine_calls;
        if number > calls_of(operation) {
            break;
        }
    }
    assert!(
        failed > 0,
        "{operation:?} must fail the application now and then"
    );
}

/// How often the scenario makes such a call when nothing fails.
fn calls_of(operation: Operation) -> u64 {
    let machine = Host::simulated(1);
    super::crash::run(&machine.host, &SCENARIO);
    machine.disk.count(operation)
}

/// W1, W3, E8: writes.
#[test]
fn no_failing_write_loses_an_acknowledged_commit() {
    survive_each(Operation::Write, libc::EIO);
    survive_each(Operation::Write, libc::ENOSPC);
}

/// W3, E8: syncs of the log and of the live file, of which each may have lost what it covered.
#[test]
fn no_failing_sync_loses_an_acknowledged_commit() {
    survive_each(Operation::SyncData, libc::EIO);
}

/// W2: syncs of folders, after the database was made.
#[test]
fn no_failing_sync_of_a_folder_loses_an_acknowledged_commit() {
    survive_each(Operation::SyncDir, libc::EIO);
}

#[test]
fn no_failing_open_or_removal_loses_an_acknowledged_commit() {
    survive_each(Operation::Open, libc::EMFILE);
    survive_each(Operation::Remove, libc::EIO);
    survive_each(Operation::List, libc::EIO);
    survive_each(Operation::Read, libc::EIO);
}
