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

use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::header::{Header, HeaderState};
use crate::engine::shared::{BellState, Shared};
use crate::engine::wal::RecordKind;
use crate::engine::writeback::Writeback;
use crate::lsn::Lsn;
use crate::os;
use crate::page::PageNo;

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CheckpointReport {
    /// Live pages written.
    pub pages_written: u64,
    /// Bytes of log that were let go.
    pub log_bytes_freed: u64,
}

impl Shared {
    /// Runs one checkpoint to the newest commit; waits for one that is running first.
    ///
    /// Errors: `ReadOnly`, `Poisoned`, `Capture`, `Io`. Except after `Poisoned` it can be tried
    /// again; nothing is lost, the log just grows.
    pub(crate) fn checkpoint(&self) -> Result<CheckpointReport> {
        let _one = self.checkpoint_lock.lock();
        let log = self.log()?;
        let header = self.header.lock().clone();
        let target = self.registry.points().newest;
        if target.lsn == header.point.lsn && self.table.unwritten_pages(Lsn::MAX).is_empty() {
            return Ok(CheckpointReport::default());
        }
        self.make_durable(target)?;
        let (target, log_start) = self.fix_target().inspect_err(|_| {
            if log.is_poisoned() {
                self.poisoned();
            }
        })?;
        self.make_durable(target)?;
        let writeback = Writeback {
            live: &*self.data,
            page_size: self.page_size,
            table: &self.table,
            registry: &self.registry,
            gate: &self.gate,
            sink: self.sink.as_deref(),
        };
        let pages_written = writeback.write_all(target.lsn)?;
        self.sync_live()?;
        self.write_header_copy(Header {
            point: target,
            log_start,
            ..header
        })?;
        {
            let _append = self.append.lock();
            log.append_note(RecordKind::CheckpointEnd, &target.lsn.0.to_le_bytes())?;
        }
        let before = log.bytes();
        log.remove_before(log_start)?;
        self.table.sweep(&self.registry.snapshot());
        self.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
        self.counters
            .pages_written
            .fetch_add(pages_written, Ordering::Relaxed);
        let log_bytes_freed = before.saturating_sub(log.bytes());
        Ok(CheckpointReport {
            pages_written,
            log_bytes_freed,
        })
    }

    /// Fixes target and log start at one moment of the commit order (E6).
    fn fix_target(&self) -> Result<(CommitPoint, Lsn)> {
        let log = self.log()?;
        let mut append = self.append.lock();
        let target = self.registry.points().newest;
        log.append_note(RecordKind::CheckpointBegin, &target.lsn.0.to_le_bytes())?;
        let log_start = log.rotate()?;
        append.imaged.clear();
        Ok((target, log_start))
    }

    /// Syncs the live file; a failure poisons, since nobody knows what the file holds then (E8).
    fn sync_live(&self) -> Result<()> {
        self.data.sync_data().map_err(|source| {
            if let Some(log) = &self.log {
                log.poison("cannot sync data.pages");
            }
            self.poisoned();
            EngineError::io_at("sync", FileRole::PageFile, &self.data_path)(source)
        })
    }

    /// Writes `next` over the copy that is not the newest, syncs it, and makes it the header. After
    /// a failure the same copy is written again the next time, never the good one.
    pub(crate) fn write_header_copy(&self, mut next: Header) -> Result<()> {
        next.sequence += 1;
        let copy = PageNo(next.sequence % 2);
        let offset = copy.0 * u64::from(self.page_size.get());
        os::write_all_at(&*self.data, &next.encode(copy), offset).map_err(EngineError::io_at(
            "write",
            FileRole::PageFile,
            &self.data_path,
        ))?;
        self.sync_live()?;
        *self.header.lock() = next;
        Ok(())
    }

    /// The last act of a clean stop: everything is in the live file, and both copies say so.
    pub(crate) fn write_clean_header(&self) -> Result<()> {
        let _one = self.checkpoint_lock.lock();
        for _ in 0..2 {
            let header = self.header.lock().clone();
            self.write_header_copy(Header {
                state: HeaderState::Clean,
                ..header
            })?;
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
        if let Err(error) = shared.checkpoint() {
            // The log keeps everything; the next commit that crosses the threshold rings again.
            tracing::error!(%error, dir = %shared.dir.display(), "checkpoint failed");
        }
    }
}
