//! The engine: an embedded, transactional, page-oriented key-value store with one writer at a time,
//! readers at committed states, a redo log and checkpoints.
//!
//! Runs in the process of the application, or of `stillfs serve`. It knows nothing of pins, shadows
//! or file systems: before it overwrites a live page it calls a [`PreImageSink`], and it can be asked
//! to hold its writeback gate closed ([`Engine::freeze`]).
//!
//! ```text
//! put, delete --> write set --commit--> log (synced) --> page table --checkpoint--> live file
//!                 (private)             wal/             (versions)    writeback     data.pages
//! ```
//!
//! * E1 A commit is acknowledged only after its log bytes are synced. Readers see durable commits only.
//! * E2 Only writeback writes live pages, and only durable, committed versions get there.
//! * E3 The page at S is the newest version with LSN <= S in the page table; if there is none, it is
//!   the live page.
//! * E4 A version leaves the page table only when rule E3 gives every reader, present or to come, the
//!   same answer without it.
//! * E5 Before a live page is overwritten, the sink has kept it for every pin that needs it, and the
//!   page table for every registered reader that needs it.
//! * E6 From the moment a checkpoint fixes its target, the first change of a page is logged as a
//!   full image.
//! * E7 A header names a log start only after the live file is synced through that commit; a segment
//!   goes only after that header is synced.
//! * E8 After a failed sync nothing is written any more until the database is opened again, and the
//!   sink hears of it.
//! * E9 Below the page count every page was written in full by some commit; the live file is never
//!   punched and never shortened.
//! * E10 Both header copies carry the new epoch, synced, before an incarnation writes anything else
//!   to the live file.
//! * E11 Before the sink prepares itself for the new epoch, all valid header copies carry one and the
//!   same: where a crash left two, the newer one's is written to both.
//! * E12 An image that comes back from the spool is the one that was put there, or an error: each slot's
//!   checksum stays in memory. A slot is used again only when nobody holds it any more.
//! * E13 The page images in memory stay within a bound. A version whose image leaves memory has a
//!   backing that gives it again, the spool or the log; where none can be made, the image stays, and
//!   new transactions are refused until one can.
//! * E14 A commit enters the log in pieces and becomes a part of it with the last one, its Commit
//!   record; what fails before that leaves nothing.
//!
//! Locking: writer slot, checkpoint, append, registry, points, in this order; the gate is passed with
//! the checkpoint lock held. Readers take the registry's lock twice and shard locks of the page
//! table. A commit waits for the sync of its own log bytes, and while a checkpoint starts a segment, which
//! takes a few syncs; a new transaction waits for a checkpoint only when the log is at its limit.
//!
//! Not here: pins, sockets.

pub(crate) mod btree;
pub(crate) mod catalog;
mod check;
mod checkpoint;
mod commit;
mod commit_point;
mod create;
mod directory;
pub mod error;
pub(crate) mod free_list;
mod gate;
pub mod header;
mod history;
#[cfg(test)]
mod hostile_test;
mod log_state;
mod open;
mod options;
pub(crate) mod page_io;
mod page_table;
mod readers;
mod recovery;
mod relief;
mod replay;
mod shared;
mod sink;
mod snapshot;
mod spool;
pub mod takeover;
#[cfg(test)]
mod tests;
mod transaction;
pub(crate) mod wal;
mod walk;
mod write_set;
mod writeback;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::fault::{self, Fault};
use crate::os::{File, Host};
use crate::page::PageSize;

pub use check::{CheckReport, FINDINGS_MAX, Finding, Problem, Totals, Use};
pub use checkpoint::CheckpointReport;
pub use commit_point::CommitPoint;
pub use create::{LOCK_FILE, PAGE_FILE, SNAPSHOT_FILE};
pub use directory::is_held_by_engine;
use error::Result;
pub use header::{Fork, Header};
pub use history::start_history;
pub use log_state::LogState;
pub use open::{DirLock, OpenFacts, PrepareSink, looks_like_database};
pub use options::{Create, EngineOptions, FREE_ABOVE_LOG};
pub use replay::{LogPart, Proof, Reach, Replay, ReplayRoom, ReplayTarget, Replayed};
pub use shared::Identity;
use shared::{BellState, Shared};
pub use sink::{CaptureFailure, Keep, PreImageSink, Pressure};
pub use snapshot::{Frozen, Snapshot};
pub use transaction::{KEY_BYTES_MAX, ReadTransaction, VALUE_BYTES_MAX, WriteTransaction};
pub use wal::{
    ARCHIVE_DIR, ArchiveCursor, CHANGES_DIR, LOG_DIR, changed_pages, commit_at, incarnation_of,
    write_mark,
};
pub(crate) use wal::{
    CommitMark, LogSegment, SEGMENT_HEADER_BYTES, SegmentHeader as LogSegmentHeader,
    whole_records as whole_log_records,
};
pub use walk::{Keys, Range};

/// An open database, without pins. Dropping it without [`Engine::close`] is like a crash: the next
/// open replays the log.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    checkpointer: Mutex<Option<checkpoint::Checkpointer>>,
}

/// What an engine holds and did; for `status`, INFO and the benchmarks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct EngineStats {
    /// Newest commit in commit order.
    pub timestamp: u64,
    /// Its LSN.
    pub lsn: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages of the database.
    pub page_count: u64,
    /// Pages in the free list.
    pub free_pages: u64,
    /// Commits of this incarnation.
    pub commits: u64,
    /// Checkpoints of this incarnation.
    pub checkpoints: u64,
    /// Live pages written by them.
    pub pages_written: u64,
    /// Live pages read into the cache.
    pub pages_read: u64,
    /// Bytes of the log on disk.
    pub wal_bytes: u64,
    /// How far the log is known to be synced.
    pub log_durable: u64,
    /// Bytes of it that are kept for an archive alone.
    pub log_kept_bytes: u64,
    /// Bytes of it that wait to be used again, and go before anything ends for want of room.
    pub log_reusable_bytes: u64,
    /// Bytes of page images in memory that the live file does not hold.
    pub version_bytes: u64,
    /// Bytes of clean pages in memory.
    pub cache_bytes: u64,
    /// Bytes of page images in the spool file, for which memory had no room.
    pub spool_bytes: u64,
}

impl Engine {
    /// Starts a read at the newest durable commit.
    #[must_use]
    pub fn begin_read(&self) -> ReadTransaction {
        Snapshot::durable(self.shared.clone()).into()
    }

    /// Starts the one write transaction; waits while another lasts, and for a checkpoint if the log
    /// is at its limit.
    ///
    /// Errors: `ReadOnly`, `Poisoned`; those of a checkpoint that had to run.
    pub fn begin_write(&self) -> Result<WriteTransaction> {
        WriteTransaction::begin(&self.shared)
    }

    /// Copies what the log holds into the live file and lets the log go.
    ///
    /// Errors: `ReadOnly`, `Poisoned`, `Capture`, `Io`.
    pub fn checkpoint(&self) -> Result<CheckpointReport> {
        self.shared.checkpoint()
    }

    /// Closes the writeback gate while the result lives: step 0 of a pin.
    #[must_use]
    pub fn freeze(&self) -> Frozen<'_> {
        Frozen::new(&self.shared)
    }

    /// Waits until the log is durable through `point`.
    ///
    /// Errors: `Poisoned` if it cannot be made so.
    pub fn make_durable(&self, point: CommitPoint) -> Result<()> {
        self.shared.make_durable(point)
    }

    /// Notes that `point` is pinned, so that what is kept of the log tells it from another commit at the same
    /// LSN after its segment is gone (W9). Without a log to write it was noted before.
    pub fn note_pinned(&self, point: CommitPoint) {
        if let Some(log) = &self.shared.log {
            log.note_pinned(CommitMark {
                lsn: point.lsn,
                wall_ns: point.wall_ns,
            });
        }
    }

    /// Makes durable what checkpoints have written to the live file so far.
    ///
    /// Errors: `Io`, `Poisoned`: then nobody knows what the live file holds.
    pub fn settle_live(&self) -> Result<()> {
        self.shared.settle_live()
    }

    /// Makes log and live file durable as far as a pin of `point` relies on them. Without a log to write,
    /// what was replayed was made so at the opening.
    ///
    /// Errors: `Io`, `Poisoned`.
    pub fn settle(&self, point: CommitPoint) -> Result<()> {
        if self.shared.log.is_none() {
            return Ok(());
        }
        if !fault::is(Fault::GrantBeforeDurable) {
            self.make_durable(point)?;
        }
        self.settle_live()?;
        self.refuse_if_poisoned()
    }

    /// Whether the live file may still be relied on.
    ///
    /// Errors: `Poisoned` after a failed sync, and after a stop.
    pub fn refuse_if_poisoned(&self) -> Result<()> {
        self.shared.log()?.refuse_if_poisoned()
    }

    /// Walks every structure at the newest durable commit.
    ///
    /// Errors: `Io` only; damage is in the report.
    pub fn check(&self) -> Result<CheckReport> {
        let snapshot = Snapshot::durable(self.shared.clone());
        let free = snapshot.point().free;
        Ok(check::check(&snapshot, free))
    }

    /// Stops cleanly: everything goes to the live file, which then needs no log; unless a checkpoint is
    /// held up: then the log stays. Waits for the transaction that writes. Later writes fail; reads go
    /// on.
    ///
    /// Errors: those of a checkpoint; the next open then replays the log, and nothing is lost.
    pub fn close(&self) -> Result<()> {
        if let Some(mut checkpointer) = self.checkpointer.lock().take() {
            checkpointer.stop();
        }
        // A transaction that is still open would commit after the last checkpoint.
        self.shared.writer.take();
        let closed = self.shared.close();
        self.shared.writer.free();
        closed
    }

    /// Rings for a checkpoint in the background.
    pub fn request_checkpoint(&self) {
        self.shared.bell.ring(BellState::Wanted);
    }

    /// Ids and epoch.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// The header as it stands in the live file.
    #[must_use]
    pub fn header(&self) -> Header {
        self.shared.header.lock().clone()
    }

    /// Size of a page.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.shared.page_size
    }

    /// The machine that it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.shared.host
    }

    /// The live file.
    #[must_use]
    pub fn live_file(&self) -> &Arc<dyn File> {
        &self.shared.data
    }

    /// Whether it stopped writing after a failed sync.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.shared
            .log
            .as_deref()
            .is_some_and(wal::Log::is_poisoned)
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.shared.dir
    }

    /// The path of its page file.
    #[must_use]
    pub fn data_path(&self) -> &Path {
        &self.shared.data_path
    }

    /// What it holds and did.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let point = self.shared.registry.points().newest;
        let (versions, clean) = self.shared.table.image_counts();
        let page_size = u64::from(self.shared.page_size.get());
        let counters = &self.shared.counters;
        EngineStats {
            timestamp: point.timestamp.0,
            lsn: point.lsn.0,
            page_size,
            page_count: point.page_count,
            free_pages: point.free.count,
            commits: counters.commits.load(Ordering::Relaxed),
            checkpoints: counters.checkpoints.load(Ordering::Relaxed),
            pages_written: counters.pages_written.load(Ordering::Relaxed),
            pages_read: counters.pages_read.load(Ordering::Relaxed),
            wal_bytes: self.shared.log.as_deref().map_or(0, wal::Log::bytes),
            log_durable: self.shared.log.as_deref().map_or(0, |log| log.durable().0),
            log_kept_bytes: self.shared.log.as_deref().map_or(0, wal::Log::kept_bytes),
            log_reusable_bytes: self
                .shared
                .log
                .as_deref()
                .map_or(0, wal::Log::reusable_bytes),
            version_bytes: versions * page_size,
            cache_bytes: clean * page_size,
            spool_bytes: self.shared.table.spool_bytes(),
        }
    }
}

impl Shared {
    /// While a checkpoint is held up the log stays, as after a crash: nothing is lost, and what is kept
    /// goes on to be kept.
    fn close(&self) -> Result<()> {
        if self.checkpoint()?.is_held {
            *self.is_poison_told.lock() = true;
            let log = self.log()?;
            log.poison("the database is closed");
            log.forgo_spare();
            return Ok(());
        }
        // What stays for an archive is whole up to the end that the header is about to name (LA1).
        let log = self.log()?;
        self.hear_poison(log.flush(log.end()))?;
        self.write_clean_header()?;
        // From here on the log refuses, but by no failure: the pins stay.
        *self.is_poison_told.lock() = true;
        self.log()?.remove_all()
    }
}
