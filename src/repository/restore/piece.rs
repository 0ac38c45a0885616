//! The content of all files, cut into pieces that workers deal with at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::os::File;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::{Entry, EntryContent, Extent, FileContent};
use crate::repository::pack::PackId;
use crate::repository::progress::Control;
use crate::repository::restore::outline::{Outline, damaged, pack_of};

/// A piece has so many bytes at most, or one unit.
pub(super) const PIECE_BYTES: usize = 4 << 20;
/// More workers than this wait for the disk, and each has buffers for a piece.
const WORKERS_MAX: usize = 4;

/// What is done to every piece of every file.
pub(super) trait Work: Sync {
    /// Opens a file, before its first piece.
    fn open(&self, entry: &Entry, content: &FileContent) -> Result<Opened>;
    /// Deals with a piece. `buffer` is the worker's own.
    fn piece(&self, opened: &Opened, piece: &Piece<'_>, buffer: &mut Vec<u8>) -> Result<()>;
    /// Called after the last piece of a file.
    fn close(&self, opened: &Opened, entry: &Entry, content: &FileContent) -> Result<()>;
}

/// A file that is worked on.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    /// The file.
    pub(super) file: Arc<dyn File>,
    /// Bytes that it had before.
    pub(super) old_bytes: u64,
}

/// Units of one file, one after the other.
#[derive(Debug)]
pub(super) struct Piece<'m> {
    task: Arc<Task<'m>>,
    units: u64,
    /// Where it begins in its file.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) bytes: usize,
    /// Where they come from, in order.
    pub(super) runs: Vec<Run>,
}

impl Piece<'_> {
    /// The path of its file, for people.
    pub(super) fn path(&self) -> String {
        String::from_utf8_lossy(&self.task.entry.path).into_owned()
    }

    /// Bytes of a unit; the last of a file may be shorter.
    pub(super) fn unit_bytes(&self) -> usize {
        // At most 64 KiB, as the outline has checked, and 0 of an empty file only.
        usize::try_from(self.task.content.unit_bytes.max(1)).unwrap_or(1)
    }
}

/// Units that lie together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Their pack; `None` for zeros.
    pub(super) pack: Option<PackId>,
    /// The first slot.
    pub(super) slot: u32,
    /// How many.
    pub(super) count: u32,
    /// Their bytes.
    pub(super) bytes: usize,
}

#[derive(Debug)]
struct Task<'m> {
    entry: &'m Entry,
    content: &'m FileContent,
    opened: Mutex<Option<Opened>>,
    /// Units that nobody has dealt with; 1 for an empty file.
    units_left: AtomicU64,
}

impl Task<'_> {
    fn open(&self, work: &impl Work) -> Result<Opened> {
        let mut opened = self.opened.lock();
        match &*opened {
            Some(opened) => Ok(opened.clone()),
            None => Ok(opened.insert(work.open(self.entry, self.content)?).clone()),
        }
    }
}

/// Has `work` done to every piece. Errors: the first of `work`; `Cancelled`; `WorkerLost`.
pub(super) fn for_each_piece(
    outline: &Outline<'_>,
    control: &Control,
    work: &impl Work,
) -> Result<()> {
    let pieces = Mutex::new(Pieces::of(outline));
    let is_stopped = AtomicBool::new(false);
    let worker = || {
        let result = deal(&pieces, &is_stopped, control, work);
        if result.is_err() {
            is_stopped.store(true, Ordering::Relaxed);
        }
        result
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let count = cores.clamp(2, WORKERS_MAX);
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(worker)).collect();
        let ends = workers.into_iter().map(|worker| {
            let end = worker.join();
            end.unwrap_or(Err(RepositoryError::WorkerLost))
        });
        // All are waited for, and the first error counts.
        ends.collect::<Vec<_>>().into_iter().collect()
    })
}

fn deal(
    pieces: &Mutex<Pieces<'_, '_>>,
    is_stopped: &AtomicBool,
    control: &Control,
    work: &impl Work,
) -> Result<()> {
    let mut buffer = Vec::new();
    while !is_stopped.load(Ordering::Relaxed) {
        control.refuse_if_cancelled()?;
        let Some(piece) = pieces.lock().next() else {
            break;
        };
        let piece = piece?;
        let task = &piece.task;
        let opened = task.open(work)?;
        work.piece(&opened, &piece, &mut buffer)?;
        control.add_bytes(piece.bytes as u64);
        if task.units_left.fetch_sub(piece.units, Ordering::AcqRel) == piece.units {
            *task.opened.lock() = None;
            work.close(&opened, task.entry, task.content)?;
        }
    }
    Ok(())
}

/// Cuts the files of an outline, in order.
struct Pieces<'o, 'm> {
    outline: &'o Outline<'m>,
    next_entry: usize,
    cut: Option<(Arc<Task<'m>>, Cursor<'m>)>,
}

impl<'o, 'm> Pieces<'o, 'm> {
    fn of(outline: &'o Outline<'m>) -> Self {
        Self {
            outline,
            next_entry: 0,
            cut: None,
        }
    }

    /// The file whose turn it is.
    fn start(&mut self) -> Option<(Arc<Task<'m>>, Cursor<'m>)> {
        loop {
            let entry = *self.outline.entries.get(self.next_entry)?;
            self.next_entry += 1;
            if let EntryContent::File(content) = &entry.content {
                let task = Arc::new(Task {
                    entry,
                    content,
                    opened: Mutex::new(None),
                    units_left: AtomicU64::new(content.unit_count().max(1)),
                });
                return Some((task, Cursor::of(content)));
            }
        }
    }
}

impl<'m> Iterator for Pieces<'_, 'm> {
    type Item = Result<Piece<'m>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (task, mut cursor) = match self.cut.take() {
            Some(cut) => cut,
            None => self.start()?,
        };
        let units_max = units_of_piece(task.content);
        let mut piece = Piece {
            task: Arc::clone(&task),
            units: u64::from(task.content.bytes == 0),
            offset: cursor.offset,
            bytes: 0,
            runs: Vec::new(),
        };
        let mut units_free = units_max;
        while units_free > 0 && !cursor.is_at_end() {
            let Some(run) = cursor.next_run(self.outline, units_free) else {
                let what = "a file's extents are not its size";
                return Some(Err(damaged(self.outline.manifest, what)));
            };
            piece.units += u64::from(run.count);
            piece.bytes += run.bytes;
            piece.runs.push(run);
            units_free -= run.count;
        }
        if !cursor.is_at_end() {
            self.cut = Some((task, cursor));
        }
        Some(Ok(piece))
    }
}

fn units_of_piece(content: &FileContent) -> u32 {
    let piece_bytes = u32::try_from(PIECE_BYTES).unwrap_or(u32::MAX);
    (piece_bytes / content.unit_bytes.max(1)).max(1)
}

/// The runs of one file, none longer than a piece; they end early where the extents do.
pub(super) fn runs_of<'m>(
    outline: &Outline<'m>,
    content: &'m FileContent,
) -> impl Iterator<Item = Run> {
    let mut cursor = Cursor::of(content);
    std::iter::from_fn(move || cursor.next_run(outline, units_of_piece(content)))
}

/// A place in the content of a file.
struct Cursor<'m> {
    content: &'m FileContent,
    /// In bytes.
    offset: u64,
    /// The extent, and units of that which lie before.
    extent: usize,
    units_before: u32,
}

impl<'m> Cursor<'m> {
    fn of(content: &'m FileContent) -> Self {
        Self {
            content,
            offset: 0,
            extent: 0,
            units_before: 0,
        }
    }

    fn is_at_end(&self) -> bool {
        self.offset >= self.content.bytes
    }

    /// The next units, at most `units_max`. `None` at the end, and where the extents end before the file
    /// does, which the outline has refused.
    fn next_run(&mut self, outline: &Outline<'m>, units_max: u32) -> Option<Run> {
        let content = self.content;
        let extent = *content.extents.get(self.extent)?;
        let count = extent.count.checked_sub(self.units_before)?.min(units_max);
        let whole = u64::from(count) * u64::from(content.unit_bytes);
        let bytes = whole.min(content.bytes.checked_sub(self.offset)?);
        let is_zeros = extent.pack == Extent::ZEROS;
        let pack = match is_zeros {
            true => None,
            false => Some(pack_of(outline.manifest, extent)?),
        };
        let run = Run {
            pack,
            slot: extent.slot.checked_add(self.units_before)?,
            count,
            bytes: usize::try_from(bytes).ok()?,
        };
        self.offset += bytes;
        self.units_before += count;
        if self.units_before == extent.count {
            self.extent += 1;
            self.units_before = 0;
        }
        (count > 0).then_some(run)
    }
}
