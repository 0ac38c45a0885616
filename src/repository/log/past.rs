//! Whether a log goes on from what is archived of it (LA9).
//!
//! An incarnation has one log, as long as nobody puts a machine back with its memory, or runs two of them from
//! one state. Then the same incarnation writes other records at LSNs that are archived already, of which none
//! must follow those: so the last archived bytes are compared with the log before anything is appended.

use crate::engine::LogSegment;
use crate::lsn::Lsn;
use crate::os::Disk;
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log::holdings::Holdings;
use crate::repository::log::piece::read_piece;

/// So many bytes before an LSN are compared; each commit has its wall clock in them, to the nanosecond.
const TAIL_BYTES: u64 = 64 << 10;

/// The last bytes that are archived before an LSN.
#[derive(Debug)]
pub(super) struct Tail {
    end: Lsn,
    bytes: Vec<u8>,
}

impl Tail {
    /// Of `records`, which end at `end`.
    pub(super) fn of(records: &[u8], end: Lsn) -> Self {
        let count = usize::try_from(TAIL_BYTES).unwrap_or(usize::MAX);
        let from = records.len().saturating_sub(count);
        let bytes = records.get(from..).unwrap_or_default().to_vec();
        Self { end, bytes }
    }
}

/// What an incarnation has on disk where the archive has its own.
#[derive(Debug)]
pub(super) struct Overlap<'a> {
    segment: &'a LogSegment,
    /// Both have something right before it.
    at: Lsn,
}

impl<'a> Overlap<'a> {
    /// Of the newest incarnation in the archive, if `segments` have anything of that.
    pub(super) fn find(holdings: &Holdings, segments: &'a [LogSegment]) -> Option<Self> {
        let epoch = holdings.newest_epoch()?;
        let at = |segment: &LogSegment| segment.end.min(holdings.position);
        let mut segments = segments.iter().rev();
        let segment =
            segments.find(|one| one.header.epoch == epoch && one.header.start < at(one))?;
        Some(Self {
            segment,
            at: at(segment),
        })
    }

    /// Whether both have the same. `tail` is what was compared last, or what was archived last.
    ///
    /// Errors: `Log`; `Missing` and `Io` of the repository.
    pub(super) fn is_same(
        &self,
        repository: &Repository,
        disk: &dyn Disk,
        holdings: &Holdings,
        tail: &mut Option<Tail>,
    ) -> Result<bool, OverlapError> {
        if tail.as_ref().is_none_or(|tail| tail.end != self.at) {
            *tail =
                archived_before(repository, holdings, self.at).map_err(OverlapError::Archive)?;
        }
        let Some(tail) = tail else {
            return Ok(true);
        };
        let there = self.at.0.saturating_sub(self.segment.header.start.0);
        let count = there.min(tail.bytes.len() as u64);
        let from = Lsn(self.at.0.saturating_sub(count));
        let on_disk = self.segment.read_bytes(disk, from, self.at);
        let on_disk = on_disk.map_err(OverlapError::Log)?;
        Ok(tail.bytes.ends_with(&on_disk))
    }
}

/// Which side cannot be read.
#[derive(Debug)]
pub(super) enum OverlapError {
    /// The log.
    Log(crate::engine::error::EngineError),
    /// The archive.
    Archive(RepositoryError),
}

/// The archived bytes before `at`; `None` if nothing there can be read, which a verification tells of.
fn archived_before(repository: &Repository, holdings: &Holdings, at: Lsn) -> Result<Option<Tail>> {
    let Some(facts) = holdings.piece_before(repository, at)? else {
        return Ok(None);
    };
    let piece = match read_piece(repository, &facts) {
        Ok(piece) => piece,
        Err(error @ (RepositoryError::Missing { .. } | RepositoryError::Io { .. })) => {
            return Err(error);
        }
        Err(error) => {
            let error = error.of_object()?;
            tracing::warn!(object = facts.object(), %error, "a piece of the log is lost");
            return Ok(None);
        }
    };
    let count = usize::try_from(at.0.saturating_sub(facts.first.0)).unwrap_or(usize::MAX);
    Ok(piece
        .records
        .get(..count)
        .map(|records| Tail::of(records, at)))
}
