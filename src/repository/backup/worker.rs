//! A thread that reads units, knows what is new among them, and packs that.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::os::{File, priority, read_up_to};
use crate::page;
use crate::repository::backup::blob_index::{BlobNo, Claim};
use crate::repository::backup::file_job::{FileJob, HEADER_PAGES};
use crate::repository::backup::job::{Alarm, Job};
use crate::repository::backup::packer::FrameFill;
use crate::repository::backup::planner::{self, TASK_BYTES, Task};
use crate::repository::backup::walk::shown;
use crate::repository::digest::Digest;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::pack::UNIT_BYTES_MAX;
use crate::view::tree::{Content, LiveError, LiveFile, Node};

static ZEROS: [u8; UNIT_BYTES_MAX] = [0; UNIT_BYTES_MAX];

/// A unit that was read.
#[derive(Clone, Debug)]
struct Unit {
    /// Its place in the file.
    at: u64,
    /// Where it is in the buffer.
    bytes: Range<usize>,
    digest: Digest,
    number: BlobNo,
    is_new: bool,
}

/// Where a file's bytes come from.
enum Origin<'a> {
    Still(&'a Node),
    Live(&'a Arc<dyn LiveFile>, Arc<dyn File>),
}

/// One thread's own: 512 KiB of what is read, a frame that is being filled, one that is compressed.
struct Worker<'a> {
    job: &'a Job<'a>,
    buffer: Vec<u8>,
    units: Vec<Unit>,
    fill: FrameFill,
}

/// Works until everything is planned or somebody failed.
pub(super) fn work(job: &Job<'_>) {
    let _alarm = Alarm(&job.failure);
    priority::stand_back();
    let worker = Worker {
        job,
        buffer: vec![0; TASK_BYTES],
        units: Vec::new(),
        fill: FrameFill::new(job.options.compression),
    };
    if let Err(error) = worker.run() {
        job.failure.fail(error);
    }
}

impl Worker<'_> {
    fn run(mut self) -> Result<()> {
        while !self.job.failure.is_stopped() {
            let task = self.job.planner.lock().next(self.job)?;
            match task {
                Some(task) => self.deal_with(&task)?,
                None if self.fill.is_empty() => break,
                None => self.flush()?,
            }
        }
        Ok(())
    }

    fn deal_with(&mut self, task: &Task) -> Result<()> {
        let job = self.job;
        let clock = &*job.repository.host().clock;
        job.pace.wait_for(task.bytes, clock, &|| job.go_on())?;
        job.go_on()?;
        let file = &job.files[task.file];
        let origin = origin_of(job, file)?;
        let piece = job.courtesy.piece();
        self.read(file, &origin, task)?;
        self.recognise(file);
        self.claim(file)?;
        {
            let mut state = file.state.lock();
            for unit in &self.units {
                let place = usize::try_from(unit.at).ok();
                let place = place.and_then(|at| state.numbers.get_mut(at));
                *place.expect("a task lies within its file") = unit.number;
            }
        }
        piece.end(&|| job.go_on())?;
        let piece = job.courtesy.piece();
        self.pack_new()?;
        piece.end(&|| job.go_on())?;
        if let Origin::Live(live, open) = &origin {
            let ended = end_of_task(file, &***live, &**open);
            ended.map_err(|source| live_error(job, file, source))?;
        }
        job.control.add_bytes(task.bytes);
        Ok(())
    }

    /// Fills the buffer with the spans of `task`, one after the other.
    fn read(&mut self, file: &FileJob, origin: &Origin<'_>, task: &Task) -> Result<()> {
        self.units.clear();
        let unit_bytes = file.unit_bytes as usize;
        let size = file.state.lock().bytes;
        let mut used = 0;
        for span in &task.spans {
            let offset = span.start.saturating_mul(u64::from(file.unit_bytes));
            // A live file can have become shorter since the task was cut.
            let wanted = usize::try_from(file.bytes_of(span, size)).unwrap_or(usize::MAX);
            let out = &mut self.buffer[used..used + wanted];
            let found = match origin {
                Origin::Still(node) => {
                    let read = self.job.tree.read(node, offset, out);
                    read.map_err(|source| RepositoryError::View {
                        path: path_of(self.job, file),
                        source,
                    })?
                }
                Origin::Live(_, open) => {
                    let read = read_up_to(&**open, out, offset);
                    read.map_err(|source| {
                        let op = "read";
                        live_error(self.job, file, LiveError::Io { op, source })
                    })?
                }
            };
            if found < wanted {
                let mut state = file.state.lock();
                state.bytes = state.bytes.min(offset + found as u64);
                state.is_changed = true;
            }
            let starts = (used..used + found).step_by(unit_bytes);
            self.units
                .extend(starts.zip(span.clone()).map(|(start, at)| Unit {
                    at,
                    bytes: start..(start + unit_bytes).min(used + found),
                    digest: Digest::default(),
                    number: BlobNo::UNKNOWN,
                    is_new: false,
                }));
            used += found;
        }
        let counts = &self.job.counts;
        let units = self.units.len() as u64;
        counts.units_read.fetch_add(units, Ordering::Relaxed);
        counts.bytes_read.fetch_add(used as u64, Ordering::Relaxed);
        Ok(())
    }

    /// What needs no question: zeros, and pages that are not younger than the parent (BK6). The others
    /// get their digest.
    fn recognise(&mut self, file: &FileJob) {
        for unit in &mut self.units {
            let bytes = &self.buffer[unit.bytes.clone()];
            if bytes == &ZEROS[..bytes.len()] {
                unit.number = BlobNo::ZEROS;
                continue;
            }
            if let Some(limit) = file.unchanged_up_to
                && unit.at >= HEADER_PAGES
                && page::lsn(bytes) <= limit
                && let Some(hint) = hint_at(file, unit.at)
            {
                unit.number = hint;
                continue;
            }
            unit.digest = Digest::of(bytes);
        }
    }

    /// Asks for all digests at once; what is as it was stays where it was, so that extents stay long.
    fn claim(&mut self, file: &FileJob) -> Result<()> {
        let mut index = self.job.index.lock();
        for unit in &mut self.units {
            if unit.number != BlobNo::UNKNOWN {
                continue;
            }
            let hint = hint_at(file, unit.at);
            let is_same = |hint: &BlobNo| index.digest(*hint) == Some(unit.digest);
            unit.number = match hint.filter(is_same) {
                Some(hint) => hint,
                None => match index.claim(unit.digest)? {
                    Claim::Known(number) => number,
                    Claim::New(number) => {
                        unit.is_new = true;
                        number
                    }
                },
            };
        }
        Ok(())
    }

    /// Adds what is new to the frame. A task that is new as a whole is a frame by itself, uncopied.
    fn pack_new(&mut self) -> Result<()> {
        let new = self.units.iter().filter(|unit| unit.is_new);
        let (count, bytes) = new.fold((0, 0), |(count, bytes), unit| {
            (count + 1, bytes + unit.bytes.len())
        });
        let counts = &self.job.counts;
        counts.units_new.fetch_add(count as u64, Ordering::Relaxed);
        counts.bytes_new.fetch_add(bytes as u64, Ordering::Relaxed);
        if self.fill.is_empty() && count == self.units.len() && bytes == TASK_BYTES {
            for unit in &self.units {
                self.fill.note(unit.bytes.len(), unit.digest, unit.number);
            }
            let (frame, blobs) = self.fill.seal_bytes(&self.buffer[..bytes]);
            let job = self.job;
            return job.packer.push(frame, &blobs, job.repository, &job.index);
        }
        for at in 0..self.units.len() {
            let unit = self.units[at].clone();
            if !unit.is_new {
                continue;
            }
            if self.fill.is_full_for(unit.bytes.len()) {
                self.flush()?;
            }
            self.fill
                .add(&self.buffer[unit.bytes], unit.digest, unit.number);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let job = self.job;
        let (frame, blobs) = self.fill.seal();
        job.packer.push(frame, &blobs, job.repository, &job.index)
    }
}

fn origin_of<'a>(job: &'a Job<'_>, file: &FileJob) -> Result<Origin<'a>> {
    let node = job.tree.node(file.node);
    let node = node.expect("what was walked is in the tree");
    let Content::Live(live) = &node.content else {
        return Ok(Origin::Still(node));
    };
    let state = file.state.lock();
    let open = state.open.as_ref().map(|open| open.file.clone());
    let open = open.ok_or_else(|| live_error(job, file, LiveError::Gone))?;
    Ok(Origin::Live(live, open))
}

fn path_of(job: &Job<'_>, file: &FileJob) -> String {
    shown(&job.entries[file.entry].path)
}

fn live_error(job: &Job<'_>, file: &FileJob, source: LiveError) -> RepositoryError {
    let path = path_of(job, file);
    RepositoryError::Live { path, source }
}

/// What the parent has at unit `at`, if the repository still has it.
fn hint_at(file: &FileJob, at: u64) -> Option<BlobNo> {
    let hint = file.hints.get(usize::try_from(at).ok()?).copied()?;
    (hint != BlobNo::UNKNOWN && hint != BlobNo::ZEROS).then_some(hint)
}

/// After the last task of a live file: looks whether it is as it was, and lets it go.
fn end_of_task(file: &FileJob, live: &dyn LiveFile, open: &dyn File) -> Result<(), LiveError> {
    let mut state = file.state.lock();
    let Some(opened) = &mut state.open else {
        return Ok(());
    };
    opened.tasks_left = opened.tasks_left.saturating_sub(1);
    if opened.tasks_left > 0 {
        return Ok(());
    }
    state.open = None;
    let is_as_found = match planner::stat(open, live) {
        Ok(now) => state
            .found
            .is_some_and(|then| (then.size, then.mtime_ns) == (now.size, now.mtime_ns)),
        // By its name it is not the file that was read any more, which nobody can look at then.
        Err(LiveError::Gone | LiveError::Replaced | LiveError::BecameDatabase) => false,
        Err(error) => return Err(error),
    };
    state.is_changed |= !is_as_found;
    Ok(())
}
