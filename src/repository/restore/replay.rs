//! The log, replayed over a backup that stands in the workspace.

use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::engine::error::{EngineError, ErrorKind};
use crate::engine::{LogPart, Proof, Reach, Replay, ReplayRoom, ReplayTarget, Replayed};
use crate::lsn::Lsn;
use crate::os::File;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log::{CommitStamp, Piece, PieceFacts, PieceUse, read_piece};
use crate::repository::progress::Control;
use crate::repository::restore::ahead::in_order;
use crate::repository::restore::moment::Step;

/// Bytes of pages that wait to be written.
const CACHE_BYTES: u64 = 128 << 20;
/// More threads have no pieces left to read.
const THREADS_MAX: usize = 8;
/// In the workspace: what of a large commit does not fit into memory.
pub(super) const SCRATCH: &str = "commit";

/// What a replay needs.
pub(super) struct Job<'a> {
    /// Up to where.
    pub(super) target: ReplayTarget,
    /// Over what.
    pub(super) steps: &'a [Step],
    /// Reads a piece and checks it as a whole.
    pub(super) read: &'a (dyn Fn(&PieceFacts) -> Result<Piece> + Sync),
    /// Gives an empty file.
    pub(super) scratch: &'a dyn Fn() -> io::Result<Arc<dyn File>>,
    /// Whether what is written is read back.
    pub(super) proof: Proof,
    /// Who looks on.
    pub(super) control: &'a Control,
    /// Threads that read ahead.
    pub(super) threads: usize,
    /// Bytes of pages that wait to be written.
    pub(super) cache_bytes: u64,
}

/// The threads and the memory of a restore.
pub(super) fn usual_room() -> (usize, u64) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // The one that applies is one more; it waits for the disk now and then.
    (cores.clamp(1, THREADS_MAX), CACHE_BYTES)
}

impl Job<'_> {
    /// Makes the page file `file`, restored from the backup, the one of the moment. Pieces are read, unpacked
    /// and checked record by record in parallel, ahead of this thread, which applies them.
    ///
    /// Errors: those of the pieces; `Unsound`, `Io`, `Cancelled`. Then the file must be made anew.
    pub(super) fn run(&self, file: &dyn File, path: &Path) -> Result<Replayed> {
        let failed = |error| of_engine(path, error);
        let room = ReplayRoom {
            cache_bytes: self.cache_bytes,
            scratch: self.scratch,
        };
        let mut replay = Replay::begin(file, path, self.target, room).map_err(failed)?;
        if replay.reach() == Reach::More {
            let (control, steps, read) = (self.control, self.steps, self.read);
            let make = |index: usize| {
                control.refuse_if_cancelled()?;
                let step = steps.get(index).ok_or(RepositoryError::WorkerLost)?;
                Ok((step, part(read(&step.facts)?)?))
            };
            let mut take = |(step, part): (&Step, LogPart)| {
                self.control.add_bytes(part.bytes());
                let history = step.facts.line.history;
                let reach = replay.apply(&part, history, step.until);
                Ok(match reach.map_err(failed)? {
                    Reach::More => ControlFlow::Continue(()),
                    Reach::Reached => ControlFlow::Break(()),
                })
            };
            in_order(self.steps.len(), self.threads, &make, &mut take)?;
        }
        self.control.refuse_if_cancelled()?;
        replay.finish(self.proof).map_err(failed)
    }
}

/// The last commit of a piece that ends at `until` or before; `None` if it cannot be read. Errors: `Store`.
pub(super) fn last_commit(
    repository: &Repository,
    piece: &PieceUse,
    until: Lsn,
) -> Result<Option<CommitStamp>> {
    let part = match read_piece(repository, &piece.facts).and_then(part) {
        Ok(part) => part,
        Err(error) => return error.of_object().map(|_| None),
    };
    Ok(part.last_commit(until).map(|point| CommitStamp {
        timestamp: point.timestamp,
        wall_ns: point.wall_ns,
        lsn: point.lsn,
    }))
}

fn part(piece: Piece) -> Result<LogPart> {
    let part = LogPart::check(&piece.segment, piece.facts.first, piece.records);
    part.map_err(|error| of_engine(Path::new("the archived log"), error))
}

/// What an engine says of a file that is no database yet.
fn of_engine(path: &Path, error: EngineError) -> RepositoryError {
    let path = path.display().to_string();
    match error {
        EngineError::Io { op, source, .. } => RepositoryError::io(op, path)(source),
        error if error.kind() == ErrorKind::Internal => {
            RepositoryError::io("replay the log over", path)(io::Error::other(error))
        }
        error => RepositoryError::Unsound {
            path,
            what: error.to_string(),
        },
    }
}

/// The file for what does not fit into memory, made anew in the workspace.
pub(super) fn scratch_in(dir: &crate::os::beneath::OpenDir) -> io::Result<Arc<dyn File>> {
    let file = dir.writable_file(OsStr::new(SCRATCH))?;
    file.set_len(0)?;
    Ok(file)
}
