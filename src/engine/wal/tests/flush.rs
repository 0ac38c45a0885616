//! W2, W3: group commit, and syncs that fail.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::append::assert_poisoned;
use super::watch::{Watch, watched};
use super::*;
use crate::engine::error::EngineError;
use crate::os::File;
use crate::os::sim::{Fault, Faults, Operation};

const THREADS: u64 = 8;

/// What was written and what is known to be synced of the one segment; the first sync after the
/// appends are counted waits for all of them.
#[derive(Debug, Default)]
struct SlowSync {
    state: Mutex<SlowState>,
    appended: Condvar,
}

#[derive(Debug, Default)]
struct SlowState {
    written: u64,
    synced: u64,
    appends: u64,
    syncs: u64,
    is_counting: bool,
}

impl Watch for SlowSync {
    fn wrote(&self, end: u64) {
        let mut state = self.state.lock();
        state.written = state.written.max(end);
        state.appends += u64::from(state.is_counting);
        self.appended.notify_all();
    }

    fn sync(&self, file: &dyn File) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.is_counting {
            drop(state);
            return file.sync_data();
        }
        // Only what was written before it began is the sync's; the wait comes after.
        let written = state.written;
        state.syncs += 1;
        while state.syncs == 1 && state.appends < THREADS {
            self.appended.wait(&mut state);
        }
        drop(state);
        thread::yield_now();
        file.sync_data()?;
        let mut state = self.state.lock();
        state.synced = state.synced.max(written);
        Ok(())
    }
}

impl SlowSync {
    fn start_counting(&self) {
        self.state.lock().is_counting = true;
    }
}

/// Commits from all threads at once; gives what each flush answered.
fn commit_from_threads(
    writer: Writer,
    commits_each: u64,
    check: &(dyn Fn(Lsn) + Sync),
) -> (Writer, Vec<(Commit, Result<()>)>) {
    // The engine's append lock: encoding and appending are one step.
    let log = &writer.log;
    let newest = Mutex::new(writer.newest);
    let commit_one = |number: u64| {
        let mut newest = newest.lock();
        let mut pages = [(PageNo(number), page(number, 7, 64))];
        let mut changes: Vec<_> = pages.iter_mut().map(full_image).collect();
        let fields = fields(*newest + 1, log.durable());
        let (records, point) = encode_commit(&mut changes, &fields, log.end(), log.salt());
        append(log, &records, [PageNo(number)]).map(|_| {
            *newest += 1;
            let pages = pages.to_vec();
            Commit { point, pages }
        })
    };
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (commit_one, results) = (&commit_one, &results);
            scope.spawn(move || {
                for _ in 0..commits_each {
                    let Ok(commit) = commit_one(3 + thread) else {
                        return;
                    };
                    let flushed = log.flush(commit.point.lsn);
                    if flushed.is_ok() {
                        check(commit.point.lsn);
                    }
                    results.lock().push((commit, flushed));
                }
            });
        }
    });
    let newest = newest.into_inner();
    let results = results.into_inner();
    (Writer { newest, ..writer }, results)
}

/// W2: eight commits arrive while the first is synced: those that wait share the next sync, which began
/// after them. The last of them may become a part of the log when that one has begun.
#[test]
fn commits_that_wait_share_the_next_sync() {
    let machine = Host::simulated(1);
    let slow = Arc::new(SlowSync::default());
    let host = watched(&machine.host, slow.clone());
    let writer = Writer::new(&host);
    slow.start_counting();
    let check = |lsn: Lsn| assert!(slow.state.lock().synced >= 512 + lsn.0, "LSN {lsn}");
    let (_, results) = commit_from_threads(writer, 1, &check);
    assert_eq!(results.len(), THREADS as usize);
    assert!(results.iter().all(|(_, flushed)| flushed.is_ok()));
    assert!(slow.state.lock().syncs <= 3);
    assert_eq!(
        commits(&machine.disk.image_after_crash(1)).len(),
        THREADS as usize
    );
}

/// W2 under load: no flush returns before a sync that began after its append.
#[test]
fn every_flush_waits_for_a_sync_that_began_after_its_append() {
    for seed in 0..5 {
        let machine = Host::simulated(seed);
        let slow = Arc::new(SlowSync::default());
        let host = watched(&machine.host, slow.clone());
        let writer = Writer::new(&host);
        slow.start_counting();
        let check = |lsn: Lsn| {
            assert!(slow.state.lock().synced >= 512 + lsn.0, "LSN {lsn}");
        };
        let (_, results) = commit_from_threads(writer, 25, &check);
        assert!(results.iter().all(|(_, flushed)| flushed.is_ok()));
        let total = THREADS * 25;
        assert!(
            slow.state.lock().syncs < total,
            "commits that wait together share a sync"
        );
        assert_eq!(
            commits(&machine.disk.image_after_crash(1)).len() as u64,
            total
        );
    }
}

/// W3: the sync for which all wait fails: nobody is told that a commit is durable, then or later.
#[test]
fn failed_sync_reaches_every_waiter_and_everything_after() {
    let machine = Host::simulated(1);
    let slow = Arc::new(SlowSync::default());
    let host = watched(&machine.host, slow.clone());
    let mut writer = Writer::new(&host);
    let first = writer.durable_commit(&[(3, 1)]).unwrap();
    slow.start_counting();
    let fault = Fault::errno(Operation::SyncData, EIO);
    machine.disk.set_faults(Faults::none().with(fault));
    let (mut writer, results) = commit_from_threads(writer, 1, &|_| ());
    assert_eq!(results.len(), THREADS as usize);
    for (commit, flushed) in &results {
        let lsn = commit.point.lsn;
        assert!(
            matches!(flushed, Err(EngineError::Poisoned { .. })),
            "LSN {lsn}"
        );
    }
    assert_eq!(
        slow.state.lock().syncs,
        1,
        "nothing is synced after a failure"
    );
    assert_eq!(writer.log.durable(), first.point.lsn);
    assert_poisoned(&mut writer);
    writer
        .log
        .flush(first.point.lsn)
        .expect("it was durable before");
}

#[test]
fn flush_of_what_is_durable_syncs_nothing() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    let commit = writer.durable_commit(&[(3, 1)]).unwrap();
    let syncs = machine.disk.count(Operation::SyncData);
    writer.log.flush(commit.point.lsn).unwrap();
    writer.log.flush(Lsn::ZERO).unwrap();
    assert_eq!(machine.disk.count(Operation::SyncData), syncs);
}

#[test]
fn poison_is_final_and_keeps_its_first_cause() {
    let machine = Host::simulated(1);
    let mut writer = Writer::new(&machine.host);
    writer.log.poison("the first");
    writer.log.poison("the second");
    assert_poisoned(&mut writer);
    match writer.commit(&[(3, 1)]) {
        Err(EngineError::Poisoned { cause }) => assert_eq!(cause, "the first"),
        other => panic!("{other:?}"),
    }
    assert_eq!(file_bytes(&machine.disk, &segment_path(1)).len(), 512);
}

/// The kernel tells of a failed write-back once per open file: whoever syncs next hears that all is
/// well. This one hears of it in the sync of a flush, and lets a rotation try before it says so.
#[derive(Debug, Default)]
struct FailsOnce {
    is_armed: AtomicBool,
    has_failed: AtomicBool,
    has_rotated: AtomicBool,
    syncs_after: AtomicU64,
}

impl Watch for FailsOnce {
    fn sync(&self, file: &dyn File) -> io::Result<()> {
        if self.has_failed.load(Ordering::SeqCst) {
            self.syncs_after.fetch_add(1, Ordering::SeqCst);
        }
        let outcome = file.sync_data();
        if self.is_armed.swap(false, Ordering::SeqCst) {
            assert!(outcome.is_err());
            self.has_failed.store(true, Ordering::SeqCst);
            for _ in 0..20_000 {
                if self.has_rotated.load(Ordering::SeqCst) {
                    break;
                }
                thread::yield_now();
            }
        }
        outcome
    }
}

/// W2, W3: a rotation does not make durable what the sync of a flush has just lost.
#[test]
fn rotation_beside_a_failing_sync_makes_nothing_durable() {
    let machine = Host::simulated(1);
    let watch = Arc::new(FailsOnce::default());
    let host = watched(&machine.host, watch.clone());
    let mut writer = Writer::new(&host);
    let commit = writer.commit(&[(3, 1)]).unwrap();
    let lsn = commit.point.lsn;
    let fault = Fault::errno(Operation::SyncData, EIO);
    machine.disk.set_faults(Faults::none().with(fault));
    watch.is_armed.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let log = &writer.log;
        let flush = scope.spawn(move || log.flush(lsn));
        while !watch.has_failed.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        let rotated = log.rotate();
        watch.has_rotated.store(true, Ordering::SeqCst);
        assert!(flush.join().unwrap().is_err());
        assert!(
            matches!(rotated, Err(EngineError::Poisoned { .. })),
            "{rotated:?}"
        );
    });
    assert_eq!(writer.log.durable(), Lsn::ZERO);
    assert!(writer.log.flush(lsn).is_err());
    assert_eq!(watch.syncs_after.load(Ordering::SeqCst), 0);
    assert_poisoned(&mut writer);
}
