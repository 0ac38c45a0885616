//! Checkpoint: copies what the log holds into the live file, then lets the log go.
//!
//! ```text
//! fix the target (newest commit), start a new segment, sync the log
//!   -> writeback of every version at the target   -> sync the live file
//!   -> header names the new log start, sync       -> remove the segments before it
//! ```
//!
//! * E6 From the moment the target is fixed, the first change of a page is logged as a full image:
//!   the log after the new start never needs what stands before it.
//! * E7 A header names a log start only after the live file is synced through that commit, and a
//!   segment goes only after that header is synced.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::MutexGuard;

use crate::engine::commit_point::FixedTarget;
use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::header::{Header, HeaderState};
use crate::engine::shared::{BellState, Shared};
use crate::engine::sink::{Keep, Pressure};
use crate::engine::wal::{Log, RecordKind};
use crate::engine::writeback::Writeback;
use crate::fault::{self, Fault};
use crate::lsn::Lsn;
use crate::os::{self, OpenMode};
use crate::page::PageNo;

/// How long the checkpointer rests after a checkpoint that failed or was held up.
const PAUSE: Duration = Duration::from_secs(1);

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CheckpointReport {
    /// Live pages written.
    pub pages_written: u64,
    /// Bytes of log that were let go.
    pub log_bytes_freed: u64,
    /// Whether it stopped before its end, because a page that it had to overwrite is still needed and
    /// there is no room to keep it. Nothing is wrong: the log keeps what is left, and the next
    /// checkpoint goes on here.
    pub is_held: bool,
}

impl Shared {
    /// Runs one checkpoint to the newest commit; waits for one that is running first.
    ///
    /// Errors: `ReadOnly`, `Poisoned`, `Capture`, `Io`. Except after `Poisoned` it can be tried
    /// again; nothing is lost, the log just grows.
    pub(crate) fn checkpoint(&self) -> Result<CheckpointReport> {
        self.hear_poison(self.run_checkpoint())
    }

    fn run_checkpoint(&self) -> Result<CheckpointReport> {
        self.run_checkpoint_alone(&mut self.checkpoint_lock.lock())
    }

    fn run_checkpoint_alone(&self, fixed: &mut Option<FixedTarget>) -> Result<CheckpointReport> {
        let report = self.reach_newest(fixed)?;
        if !report.is_held
            && let Some(sink) = &self.sink
        {
            sink.passed();
        }
        Ok(report)
    }

    /// Runs a checkpoint if the log is longer than its limit, and ends what holds it up: no writer waits
    /// for whoever needs old pages. One that is held up shortens the log all the same where newer
    /// versions made an earlier target's pages needless; that may do.
    ///
    /// Errors: as for [`Shared::checkpoint`].
    pub(crate) fn shorten_log(&self) -> Result<()> {
        // What is kept for an archive alone, or to be used again, is no reason to wait.
        self.log()?.shed_above_limit()?;
        let relieve = || {
            let sink = self.sink.as_deref();
            sink.is_some_and(|sink| sink.relieve(Pressure::LogFull))
        };
        while self.checkpoint_if_too_long()?.is_held {
            // It may have put a segment aside, too.
            self.log()?.shed_above_limit()?;
            if !self.is_log_too_long()? || !relieve() {
                break;
            }
        }
        Ok(())
    }

    fn is_log_too_long(&self) -> Result<bool> {
        Ok(self.log()?.bytes() > self.sizes.log_bytes_max)
    }

    /// For a commit that found no space: reaches what an earlier checkpoint had to leave, since whatever held
    /// it up may have ended, and the checkpointer rests. Says whether the log became shorter.
    ///
    /// One that begins anew is not tried: it needs space in the log itself.
    ///
    /// Errors: `Poisoned`; others only mean that no space was made.
    pub(crate) fn free_log(&self) -> Result<bool> {
        let log = self.log()?;
        let is_given_back = log.forgo_spare();
        let before = log.bytes();
        // Waits for one that runs.
        let mut fixed = self.checkpoint_lock.lock();
        if fixed.is_some() {
            let outcome = self.hear_poison(self.run_checkpoint_alone(&mut fixed));
            if let Err(error) = outcome {
                tracing::debug!(%error, "a checkpoint made no space for a commit");
            }
            log.refuse_if_poisoned()?;
        }
        Ok(is_given_back || log.bytes() < before)
    }

    /// Runs a checkpoint only if the log is still too long once it is this one's turn.
    fn checkpoint_if_too_long(&self) -> Result<CheckpointReport> {
        // Before waiting for one that runs: what went meanwhile may do.
        if !self.is_log_too_long()? {
            return Ok(CheckpointReport::default());
        }
        let mut fixed = self.checkpoint_lock.lock();
        if !self.is_log_too_long()? {
            return Ok(CheckpointReport::default());
        }
        self.hear_poison(self.run_checkpoint_alone(&mut fixed))
    }

    /// `fixed` is a target that an earlier checkpoint fixed and did not reach. It is reached first, so
    /// that a checkpoint that keeps failing does not start a segment each time.
    fn reach_newest(&self, fixed: &mut Option<FixedTarget>) -> Result<CheckpointReport> {
        let unfinished = match *fixed {
            Some(target) => self.reach(target, fixed)?,
            None => CheckpointReport::default(),
        };
        if unfinished.is_held {
            return Ok(unfinished);
        }
        let newest = self.registry.points().newest;
        let is_reached = self.header.lock().point.lsn == newest.lsn;
        if is_reached && self.table.unwritten_pages(Lsn::MAX).is_empty() {
            return Ok(unfinished);
        }
        // Most of the log is synced before the writers are held up for the rest.
        self.make_durable(newest)?;
        let target = *fixed.insert(self.fix_target()?);
        let report = self.reach(target, fixed)?;
        Ok(CheckpointReport {
            pages_written: unfinished.pages_written + report.pages_written,
            log_bytes_freed: unfinished.log_bytes_freed + report.log_bytes_freed,
            is_held: report.is_held,
        })
    }

    /// A page file that was moved away or replaced is not written any further: the log keeps what it
    /// lacks, until the file is back in its place.
    fn refuse_moved(&self) -> Result<()> {
        let failed = |op| EngineError::io_at(op, FileRole::PageFile, &self.data_path);
        let there = match self.host.disk.open(&self.data_path, OpenMode::Read) {
            Ok(file) => Some(file.identity().map_err(failed("look at"))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("open")(error)),
        };
        let own = self.data.identity().map_err(failed("look at"))?;
        if there == Some(own) {
            return Ok(());
        }
        Err(EngineError::Moved {
            path: self.data_path.clone(),
        })
    }

    /// Writes what the target needs, names it in the header, and lets the log before it go.
    fn reach(
        &self,
        FixedTarget { target, log_start }: FixedTarget,
        fixed: &mut Option<FixedTarget>,
    ) -> Result<CheckpointReport> {
        let log = self.log()?;
        // What an earlier try wrote counts as written, but a failed sync may have lost it.
        log.refuse_if_poisoned()?;
        self.refuse_moved()?;
        self.make_durable(target)?;
        let writeback = Writeback {
            live: &*self.data,
            log,
            page_size: self.page_size,
            table: &self.table,
            registry: &self.registry,
            gate: &self.gate,
            sink: self.sink.as_deref(),
            relief: &self.relief,
            is_unsynced: &self.is_live_unsynced,
        };
        let written = writeback.write_all(target.lsn)?;
        self.counters
            .pages_written
            .fetch_add(written.pages, Ordering::Relaxed);
        if written.keep == Keep::Held {
            return Ok(CheckpointReport {
                pages_written: written.pages,
                is_held: true,
                ..CheckpointReport::default()
            });
        }
        if fault::is(Fault::SegmentRemovedEarly) {
            log.remove_before(log_start)?;
        }
        if !fault::is(Fault::HeaderBeforeLiveSync) {
            self.sync_live()?;
        }
        let header = self.header.lock().clone();
        self.write_header_copy(Header {
            point: target,
            log_start,
            ..header
        })?;
        *fixed = None;
        let noted = {
            let _append = self.append.lock();
            let sink = self.sink.as_deref();
            self.relief.with(sink, || {
                log.append_note(RecordKind::CheckpointEnd, &target.lsn.0.to_le_bytes())
            })
        };
        let before = log.segment_bytes();
        // On a full disk this is what makes room, so it does not depend on the note.
        log.remove_before(log_start)?;
        noted?;
        self.table.sweep(&self.registry.snapshot());
        self.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
        let log_bytes_freed = before.saturating_sub(log.segment_bytes());
        Ok(CheckpointReport {
            pages_written: written.pages,
            log_bytes_freed,
            is_held: false,
        })
    }

    /// Fixes target and log start at one moment of the commit order (E6).
    fn fix_target(&self) -> Result<FixedTarget> {
        let log = self.log()?;
        let mut append = self.append.lock();
        let target = self.registry.points().newest;
        let sink = self.sink.as_deref();
        self.relief.with(sink, || {
            log.append_note(RecordKind::CheckpointBegin, &target.lsn.0.to_le_bytes())
        })?;
        let log_start = self.relief.with(sink, || log.rotate())?;
        if !fault::is(Fault::DeltaBeforeStart) {
            append.imaged.clear();
        }
        Ok(FixedTarget { target, log_start })
    }

    /// Makes durable what was written to the live file so far, if anything was since its last sync. A
    /// pin relies on live pages that a checkpoint has written and not synced yet: the kernel could lose
    /// such a write and show the older page, which is valid in itself.
    ///
    /// Errors: `Poisoned`, `Io`.
    pub(crate) fn settle_live(&self) -> Result<()> {
        let one = self.live_sync.lock();
        if !self.is_live_unsynced.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.hear_poison(self.sync_live_alone(&one))
    }

    /// Syncs the live file; a failure poisons, since nobody knows what the file holds then (E8).
    pub(crate) fn sync_live(&self) -> Result<()> {
        self.sync_live_alone(&self.live_sync.lock())
    }

    /// One sync at a time: the kernel tells one caller of a failed one, and a sync that follows it
    /// would succeed without bringing back what was lost.
    fn sync_live_alone(&self, _one: &MutexGuard<'_, ()>) -> Result<()> {
        // A sync that succeeds after one that failed says nothing of what that one lost (E8).
        self.log
            .as_deref()
            .map_or(Ok(()), Log::refuse_if_poisoned)?;
        // Cleared first: whoever writes from here on says so again.
        self.is_live_unsynced.store(false, Ordering::SeqCst);
        self.data.sync_data().map_err(|source| {
            if let Some(log) = &self.log {
                log.poison("cannot sync data.pages");
            }
            EngineError::io_at("sync", FileRole::PageFile, &self.data_path)(source)
        })
    }

    /// Writes `next` over the copy that is not the newest, syncs it, and makes it the header. After
    /// a failure the same copy is written again the next time, never the good one.
    pub(crate) fn write_header_copy(&self, mut next: Header) -> Result<()> {
        self.log()?.refuse_if_poisoned()?;
        next.sequence = next.sequence.checked_add(1).ok_or(EngineError::Exhausted {
            what: "the header's sequence",
        })?;
        let copy = match fault::is(Fault::HeaderOneCopy) {
            true => PageNo(0),
            false => PageNo(next.sequence % 2),
        };
        let offset = copy.0 * u64::from(self.page_size.get());
        // It grows nothing, and at an open nothing may be given up yet: no relief.
        os::write_all_at(&*self.data, &next.encode(copy), offset).map_err(EngineError::io_at(
            "write",
            FileRole::PageFile,
            &self.data_path,
        ))?;
        self.sync_live()?;
        *self.header.lock() = next;
        Ok(())
    }

    /// The last act of a clean stop: everything is in the live file, and both copies say so. They name
    /// the end of the log as its start, so that a crash may leave any of its segments behind.
    pub(crate) fn write_clean_header(&self) -> Result<()> {
        let _one = self.checkpoint_lock.lock();
        let newest = self.registry.points().newest;
        assert_eq!(
            self.header.lock().point,
            newest,
            "nothing was committed since the checkpoint"
        );
        for _ in 0..2 {
            let header = self.header.lock().clone();
            self.hear_poison(self.write_header_copy(Header {
                state: HeaderState::Clean,
                log_start: self.log()?.end(),
                ..header
            }))?;
        }
        Ok(())
    }
}

/// The thread that runs a checkpoint when the log has grown enough.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Errors: `Io` if no thread can be had.
    pub(crate) fn start(shared: Arc<Shared>) -> Result<Self> {
        let worker = shared.clone();
        let thread = thread::Builder::new()
            .name("stillfs-checkpoint".to_owned())
            .spawn(move || run(&worker))
            .map_err(EngineError::io(
                "start the checkpoint thread of",
                FileRole::Directory,
            ))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Stops the thread and waits for a checkpoint that it is in.
    pub(crate) fn stop(&mut self) {
        self.shared.bell.ring(BellState::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Shared) {
    loop {
        let mut state = shared.bell.state.lock();
        while *state == BellState::Quiet {
            shared.bell.rung.wait(&mut state);
        }
        if *state == BellState::Stop {
            return;
        }
        *state = BellState::Quiet;
        drop(state);
        match shared.checkpoint() {
            Ok(report) if !report.is_held => {}
            // What holds it up may end at any time, and no commit would tell of that.
            Ok(_) => shared.bell.rest(PAUSE, BellState::Wanted),
            Err(error) => {
                // The log keeps everything; the next commit that crosses the threshold rings again.
                tracing::error!(%error, dir = %shared.dir.display(), "checkpoint failed");
                shared.bell.rest(PAUSE, BellState::Quiet);
            }
        }
    }
}
