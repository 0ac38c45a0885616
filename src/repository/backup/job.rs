//! The threads of one backup, and how they end together.
//!
//! ```text
//! planner (shared) --task--> workers: read, digest, claim, compress --frame--> packer --pack--> writer
//!                            one range each                                    one      queue of 3
//! ```
//!
//! Memory: 5 packs of 16 MiB, 1.5 MiB for each worker, and for each unit 8 bytes beside the index of
//! content (see `blob_index`).

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use parking_lot::Mutex;

use crate::repository::backup::BackupOptions;
use crate::repository::backup::blob_index::BlobIndex;
use crate::repository::backup::courtesy::Courtesy;
use crate::repository::backup::file_job::{FileJob, Parent};
use crate::repository::backup::pace::Pace;
use crate::repository::backup::packer::{Packer, QUEUE_PACKS, write_packs};
use crate::repository::backup::planner::Planner;
use crate::repository::backup::walk::WalkedFile;
use crate::repository::backup::worker::work;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::Entry;
use crate::repository::pack::PackBuilder;
use crate::repository::progress::Control;
use crate::view::tree::{Content, Tree};

/// What the threads share.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) repository: &'a Repository,
    pub(super) tree: &'a Tree,
    pub(super) entries: &'a [Entry],
    pub(super) options: &'a BackupOptions,
    pub(super) control: &'a Control,
    pub(super) files: Vec<FileJob>,
    pub(super) planner: Mutex<Planner>,
    pub(super) index: Mutex<BlobIndex>,
    pub(super) packer: Packer,
    pub(super) pace: Pace,
    pub(super) courtesy: Courtesy,
    pub(super) counts: Counts,
    pub(super) failure: Failure,
}

/// What was done so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) units_read: AtomicU64,
    pub(super) bytes_read: AtomicU64,
    pub(super) units_new: AtomicU64,
    pub(super) bytes_new: AtomicU64,
}

/// What is backed up, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    pub(super) repository: &'a Repository,
    pub(super) tree: &'a Tree,
    pub(super) entries: &'a [Entry],
    pub(super) files: &'a [WalkedFile],
    pub(super) parent: Option<&'a Parent<'a>>,
    pub(super) options: &'a BackupOptions,
    pub(super) control: &'a Control,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) files: Vec<FileJob>,
    pub(super) index: BlobIndex,
    pub(super) counts: Counts,
}

/// The first failure of any thread: the others stop at their next step.
#[derive(Debug, Default)]
pub(super) struct Failure {
    is_stopped: AtomicBool,
    first: Mutex<Option<RepositoryError>>,
}

impl Failure {
    /// Notes `error`, unless somebody failed before.
    pub(super) fn fail(&self, error: RepositoryError) {
        self.first.lock().get_or_insert(error);
        self.is_stopped.store(true, Ordering::Release);
    }

    /// Notes `error` as the cause of whatever else failed.
    fn replace(&self, error: RepositoryError) {
        *self.first.lock() = Some(error);
    }

    /// Whether somebody failed.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }
}

/// A thread that panics fails for all.
#[derive(Debug)]
pub(super) struct Alarm<'a>(pub(super) &'a Failure);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(RepositoryError::WorkerLost);
        }
    }
}

impl Job<'_> {
    /// Errors: `Cancelled`; `WorkerLost` if another thread failed, whose error it is that counts.
    pub(super) fn go_on(&self) -> Result<()> {
        self.control.refuse_if_cancelled()?;
        match self.failure.is_stopped() {
            true => Err(RepositoryError::WorkerLost),
            false => Ok(()),
        }
    }
}

/// Reads, compresses and stores; the packs' names are not durable yet.
///
/// Errors: the first of any thread; `WorkerLost` if one panicked.
pub(super) fn run(order: Order<'_>) -> Result<Done> {
    let mut index = BlobIndex::load(order.repository, order.control)?;
    let files = plan_files(order, &index);
    order.control.expect_bytes(bytes_to_read(order, &files));
    index.reserve(units_to_read(&files));
    let (sender, receiver) = sync_channel(QUEUE_PACKS);
    let job = Job {
        repository: order.repository,
        tree: order.tree,
        entries: order.entries,
        options: order.options,
        control: order.control,
        files,
        planner: Mutex::default(),
        index: Mutex::new(index),
        packer: Packer::new(sender),
        pace: Pace::new(order.options.rate_max),
        courtesy: Courtesy::new(
            order.repository.host().clock.clone(),
            order.tree,
            order.options.full_speed,
        ),
        counts: Counts::default(),
        failure: Failure::default(),
    };
    run_threads(&job, receiver);
    match job.failure.first.into_inner() {
        Some(error) => Err(error),
        None => Ok(Done {
            files: job.files,
            index: job.index.into_inner(),
            counts: job.counts,
        }),
    }
}

fn plan_files(order: Order<'_>, index: &BlobIndex) -> Vec<FileJob> {
    let plan = |walked: &WalkedFile| {
        let node = order.tree.node(walked.node)?;
        let path = &order.entries.get(walked.entry)?.path;
        Some(FileJob::new(*walked, node, path, order.parent, index))
    };
    order.files.iter().filter_map(plan).collect()
}

fn bytes_to_read(order: Order<'_>, files: &[FileJob]) -> u64 {
    let bytes_of = |(walked, file): (&WalkedFile, &FileJob)| {
        let is_live = |node: &crate::view::tree::Node| matches!(node.content, Content::Live(_));
        if order.tree.node(file.node).is_some_and(is_live) {
            return walked.bytes;
        }
        let state = file.state.lock();
        let ranges = state.must_read.iter();
        ranges.map(|range| file.bytes_of(range, state.bytes)).sum()
    };
    let bytes = order.files.iter().zip(files).map(bytes_of);
    bytes.fold(0, u64::saturating_add)
}

/// Units that must be read, as far as that is known.
fn units_to_read(files: &[FileJob]) -> u64 {
    let units_of = |file: &FileJob| {
        let state = file.state.lock();
        let ranges = state.must_read.iter();
        ranges.map(|range| range.end - range.start).sum::<u64>()
    };
    files.iter().map(units_of).sum()
}

/// Runs the workers and the writer to their ends. Whatever goes wrong is in the job's failure.
fn run_threads(job: &Job<'_>, packs: Receiver<PackBuilder>) {
    let count = match job.options.workers {
        0 => thread::available_parallelism().map_or(1, NonZeroUsize::get),
        count => count,
    };
    let named = |name: &str| thread::Builder::new().name(name.to_owned());
    let cannot_start = RepositoryError::io("start", "a thread of the backup");
    let started = thread::scope(|scope| {
        let writer = named("backup-write").spawn_scoped(scope, move || write_packs(job, packs));
        let workers: Vec<_> = (0..count)
            .map(|_| named("backup-read").spawn_scoped(scope, || work(job)))
            .collect();
        let mut refused = None;
        for worker in workers {
            match worker {
                Ok(worker) => note_panic(job, worker.join()),
                Err(error) => refused = Some(error),
            }
        }
        job.packer.finish(&job.failure);
        match writer {
            Ok(writer) => note_panic(job, writer.join()),
            Err(error) => refused = Some(error),
        }
        refused.map_or(Ok(()), Err)
    });
    if let Err(error) = started {
        job.failure.replace(cannot_start(error));
    }
}

fn note_panic(job: &Job<'_>, joined: thread::Result<()>) {
    if joined.is_err() {
        job.failure.fail(RepositoryError::WorkerLost);
    }
}
