//! Every call to the disk that a scenario makes is refused once, in every way that a system has; and
//! the disk is full, from every moment on.

use std::sync::atomic::AtomicU32;

use super::*;
use crate::engine::error::ErrorKind;
use crate::engine::sink::{CaptureFailure, Keep, Pressure};
use crate::os::File;
use crate::os::SimulatedHost;
use crate::os::sim::{Fault, Operation};
use crate::page::PageNo;

/// Counts how often it hears that the engine stopped writing.
#[derive(Debug, Default)]
struct Hearing(AtomicU32);

impl PreImageSink for Hearing {
    fn before_overwrite(&self, _: &[PageNo], _: &dyn File) -> Result<Keep, CaptureFailure> {
        Ok(Keep::Kept)
    }

    fn passed(&self) {}

    fn relieve(&self, _: Pressure) -> bool {
        false
    }

    fn poisoned(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Small,
    /// More than memory holds: it goes through the spool.
    Large,
    Checkpoint,
    Close,
    /// As a crash of the process.
    Drop,
}

use Step::{Checkpoint, Close, Drop, Large, Small};

/// Each step finds the database open, and opens it if it is not.
const SCENARIO: [Step; 14] = [
    Small, Small, Large, Checkpoint, Small, Large, Drop, Small, Checkpoint, Close, Small, Large,
    Checkpoint, Small,
];

fn changes(step: Step, number: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let count = if step == Large { 60 } else { 3 };
    let entry = |part: usize| {
        let key = format!("key {:03}", part * 7 + number % 5).into_bytes();
        (key, vec![(number * 16 + part) as u8; 700 + 5 * number])
    };
    (0..count).map(entry).collect()
}

/// A machine under test, and what its database must hold.
struct Driver {
    machine: SimulatedHost,
    engine: Option<Engine>,
    sink: Arc<Hearing>,
    model: Model,
    /// The commit whose sync failed: it is there in whole or not at all.
    doubt: Option<Model>,
}

impl Driver {
    fn new(seed: u64) -> Self {
        Self {
            machine: Host::simulated(seed),
            engine: None,
            sink: Arc::default(),
            model: Model::new(),
            doubt: None,
        }
    }

    fn opened(&mut self) -> Result<&Engine, EngineError> {
        if self.engine.is_none() {
            self.sink = Arc::default();
            let sink = self.sink.clone();
            let mut prepare = |_: &OpenFacts| {
                let sink: Arc<dyn PreImageSink> = sink.clone();
                Ok(sink)
            };
            let options = EngineOptions {
                cache_bytes: 0,
                ..options()
            };
            let dir = Path::new(DIR);
            let engine = Engine::open(&self.machine.host, dir, &options, Some(&mut prepare))?;
            if let Some(doubt) = self.doubt.take()
                && contents(&engine.begin_read()) == doubt
            {
                self.model = doubt;
            }
            self.engine = Some(engine);
        }
        Ok(self.engine.as_ref().expect("it was opened above"))
    }

    /// Makes one step; what fails has changed nothing, or is in doubt.
    fn step(&mut self, step: Step, number: usize) -> Result<(), EngineError> {
        self.opened()?;
        // Opening may have settled what was in doubt.
        let mut next = self.model.clone();
        let engine = self.opened()?;
        match step {
            Small | Large => {
                let mut write = engine.begin_write()?;
                for (key, value) in changes(step, number) {
                    write.put("t", &key, &value)?;
                    next.insert(key, value);
                }
                if let Err(error) = write.commit() {
                    if matches!(error, EngineError::Poisoned { .. }) {
                        self.doubt = Some(next);
                    }
                    return Err(error);
                }
                self.model = next;
            }
            Checkpoint => drop(engine.checkpoint()?),
            Close => {
                let closed = engine.close();
                self.engine = None;
                closed?;
            }
            Drop => self.engine = None,
        }
        Ok(())
    }

    /// E8: a poisoned engine told the sink once and writes nothing more; it is opened again.
    fn reopen_if_poisoned(&mut self, at: &str) {
        let Some(engine) = self.engine.take_if(|engine| engine.is_poisoned()) else {
            return;
        };
        assert_eq!(self.sink.0.load(Ordering::SeqCst), 1, "{at}");
        let changes = self.machine.disk.change_count();
        let refused = engine.begin_write().err();
        assert!(
            matches!(refused, Some(EngineError::Poisoned { .. })),
            "{at}: {refused:?}"
        );
        assert!(engine.checkpoint().is_err(), "{at}");
        assert!(engine.close().is_err(), "{at}");
        let changed = self.machine.disk.change_count() - changes;
        assert_eq!(changed, 0, "{at}: changes of the disk");
        assert!(contents(&engine.begin_read()) == self.model, "{at}");
    }

    /// The database holds the acknowledged commits, running and after each kind of crash.
    fn assert_whole(&mut self, at: &str) {
        let engine = self.opened().unwrap_or_else(|e| panic!("{at}: {e}"));
        let found = contents(&engine.begin_read());
        assert_sound(engine);
        assert!(found == self.model, "{at}");
        let image = self.machine.disk.image_after_crash(at.len() as u64);
        let image = self.machine.with_disk(image);
        self.engine = None;
        for host in [&image.host, &self.machine.process_crash().host] {
            let engine = open(host).unwrap_or_else(|e| panic!("{at}: {e}"));
            assert!(contents(&engine.begin_read()) == self.model, "{at}");
            assert_sound(&engine);
        }
    }
}

/// Calls of `operation` in a run in which nothing fails.
fn call_count(operation: Operation) -> u64 {
    let mut driver = Driver::new(1);
    for (number, step) in SCENARIO.into_iter().enumerate() {
        driver.step(step, number).unwrap();
    }
    driver.machine.disk.count(operation)
}

/// Runs the scenario with one fault; a step that failed is made once more and succeeds. Says how many
/// steps failed.
fn run_with(fault: Fault, is_full: bool, at: &str) -> u32 {
    // Shown only when it fails: most of what panics below does not know where it is.
    eprintln!("{at}");
    let mut driver = Driver::new(1);
    driver.machine.disk.set_faults(Faults::none().with(fault));
    let mut failed = 0;
    for (number, step) in SCENARIO.into_iter().enumerate() {
        let Err(error) = driver.step(step, number) else {
            continue;
        };
        failed += 1;
        eprintln!("step {number}, {step:?}: {error}");
        let is_poisoned = matches!(error, EngineError::Poisoned { .. });
        let is_told = error.kind() == ErrorKind::NoSpace;
        assert!(!is_full || is_told || is_poisoned, "{at}: {error}");
        driver.reopen_if_poisoned(at);
        if step != Drop && driver.doubt.is_none() {
            let again = driver.step(step, number);
            again.unwrap_or_else(|e| panic!("{at}, {step:?} again: {e}"));
        }
    }
    driver.machine.disk.set_faults(Faults::none());
    driver.assert_whole(at);
    failed
}

/// Every call of `operation` fails once with each of `codes`; the calls that are many, in turn.
fn refuse_each(operation: Operation, codes: &[i32], must_fail: bool) {
    let calls = call_count(operation);
    assert!(calls > 0, "{operation:?} happens");
    let stride = usize::try_from(calls / 150 + 1).unwrap();
    let mut failed = 0;
    for &code in codes {
        for number in (0..calls).step_by(stride) {
            let fault = Fault::errno(operation, code).after(number);
            let at = format!("{operation:?} {number} fails with {code}");
            failed += run_with(fault, code == ENOSPC, &at);
        }
    }
    assert!(!must_fail || failed > 0, "{operation:?}");
}

/// W1, E14: an append, a segment, a header, a live page, the spool, the LOCK file, the new database:
/// whatever finds no space or an error leaves nothing behind, and the next try goes through.
#[test]
fn every_write_may_be_refused() {
    refuse_each(Operation::Write, &[ENOSPC, EIO], true);
}

#[test]
fn every_file_may_fail_to_be_made_opened_or_removed() {
    let codes = [ENOSPC, EIO];
    for operation in [Operation::Open, Operation::Unnamed, Operation::CreateDir] {
        refuse_each(operation, &codes, true);
    }
    for operation in [Operation::Remove, Operation::Rename, Operation::List] {
        refuse_each(operation, &[EIO], true);
    }
    refuse_each(Operation::Lock, &[ENOLCK], true);
    refuse_each(Operation::SetLen, &[EIO], false);
}

/// E8, W3: after a failed sync nothing is written until the next open; the sink hears of it; the next
/// open finds exactly the acknowledged commits, or one whole one more.
#[test]
fn every_sync_may_fail() {
    let codes = [EIO, ENOSPC, EDQUOT];
    refuse_each(Operation::SyncData, &codes, true);
    refuse_each(Operation::SyncDir, &[EIO], true);
}

/// E7, E8: after a failed sync of the live file nobody knows what it holds. Later syncs of it succeed,
/// and yet no header may name what was written before, however often a checkpoint is asked for.
#[test]
fn header_names_nothing_that_a_failed_sync_may_have_lost() {
    for seed in 0..20 {
        let mut driver = Driver::new(seed);
        driver.step(Small, 0).unwrap();
        driver.step(Large, 1).unwrap();
        let fault = Fault::errno(Operation::SyncData, EIO).on("data.pages");
        driver.machine.disk.set_faults(Faults::none().with(fault));
        let engine = driver.engine.as_ref().unwrap();
        assert!(engine.checkpoint().is_err());
        assert!(engine.checkpoint().is_err());
        assert!(engine.close().is_err());
        driver.engine = None;
        driver.machine = driver.machine.crash(seed);
        driver.assert_whole(&format!("seed {seed}"));
    }
}

#[test]
fn every_read_may_fail() {
    refuse_each(Operation::Read, &[EIO], true);
}

/// Calls that are interrupted, or move a byte only, are no failures.
#[test]
fn interrupted_and_short_calls_fail_nothing() {
    for operation in [Operation::Read, Operation::Write] {
        let calls = call_count(operation);
        let stride = usize::try_from(calls / 60 + 1).unwrap();
        for number in (0..calls).step_by(stride) {
            let interrupted = Fault::kind(operation, std::io::ErrorKind::Interrupted);
            let short = match operation {
                Operation::Read => Fault::short_read(1),
                _ => Fault::short_write(1),
            };
            for fault in [interrupted.times(3), short.times(5)] {
                let at = format!("{fault:?} at {number}");
                assert_eq!(run_with(fault.after(number), true, &at), 0, "{at}");
            }
        }
    }
}

/// W1, E13, E14: the disk is full from some step on, at every size. What does not fit fails as such,
/// what was acknowledged stays, and everything goes on when there is space again.
#[test]
fn full_disk_at_every_size_fails_cleanly_and_goes_on() {
    let mut refused = 0;
    for blocks in (0..220).step_by(3) {
        let mut driver = Driver::new(blocks);
        let capacity = blocks * 4096;
        for (number, step) in SCENARIO.into_iter().enumerate() {
            driver.machine.disk.set_capacity(Some(capacity));
            let at = format!("{blocks} blocks, step {number}");
            if let Err(error) = driver.step(step, number) {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{at}: {error}");
                if let Some(engine) = &driver.engine {
                    assert!(!engine.is_poisoned(), "{at}");
                    assert!(contents(&engine.begin_read()) == driver.model, "{at}");
                }
                driver.machine.disk.set_capacity(None);
                let again = driver.step(step, number);
                again.unwrap_or_else(|e| panic!("{at} again: {e}"));
            }
        }
        driver.machine.disk.set_capacity(None);
        driver.assert_whole(&format!("{blocks} blocks"));
    }
    assert!(refused > 200, "only {refused} steps found no space");
}
