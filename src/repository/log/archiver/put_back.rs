//! A machine that was put back with its memory (LA9): what the archive begins with then.

use super::{Archiver, Line, StepReport, first_of, gap_name};
use crate::engine::{ArchiveCursor, LogSegment};
use crate::id::Epoch;
use crate::lsn::Lsn;
use crate::repository::error::Result;
use crate::repository::log::catalog::LogGap;
use crate::repository::log::name::Generation;
use crate::repository::log::past::{Overlap, OverlapError, Witness, given_up_from};
use crate::repository::store::Put;

impl Archiver {
    /// Begins with a later generation where the log is not what was archived of it: from the first segment of
    /// that incarnation on, since nobody knows where it began to be another.
    pub(super) fn notice_put_back(
        &self,
        line: &mut Line,
        segments: &[LogSegment],
        report: &mut StepReport,
    ) -> Result<()> {
        let Some(newest) = line.holdings.newest() else {
            return Ok(());
        };
        take_up(line, newest, segments, report);
        let epoch = line.holdings.newest_epoch();
        let first = epoch.and_then(|epoch| first_of(segments, epoch));
        let (Some(epoch), Some(first)) = (epoch, first) else {
            return Ok(());
        };
        let cursor = ArchiveCursor::read(&self.host, &self.dir, self.repository.id());
        let cursor = cursor
            .filter(|one| (one.database, one.history) == (line.id.database, line.id.history))
            .map(|cursor| cursor.archived);
        let witness = Witness {
            repository: &self.repository,
            host: &self.host,
            dir: &self.dir,
            line: line.id,
            holdings: &line.holdings,
        };
        let failed = |error| match error {
            OverlapError::Log(error) => self.log_error()(error),
            OverlapError::Archive(error) => error,
        };
        let is_same = match Overlap::find(&line.holdings, segments) {
            Some(overlap) => overlap.is_same(&witness, &mut line.tail),
            None => goes_on(&witness, cursor, newest, first),
        };
        if is_same.map_err(failed)? {
            return Ok(());
        }
        let lost_from = given_up_from(&witness, cursor, newest, first).map_err(failed)?;
        self.begin_anew(line, (epoch, first), lost_from, report)
    }

    /// The log of `epoch` is archived from `first` on, as a later generation; between `lost_from` and that
    /// nothing of it is left.
    fn begin_anew(
        &self,
        line: &mut Line,
        (epoch, first): (Epoch, Lsn),
        lost_from: Lsn,
        report: &mut StepReport,
    ) -> Result<()> {
        let newest = line.holdings.newest().unwrap_or(Generation(0));
        let generation = Generation(newest.0.saturating_add(1));
        let lost = LogGap {
            first: lost_from,
            end: first,
            generation,
        };
        // So that no backup goes on from one of what does not count (LA5).
        let given_up = LogGap {
            first,
            end: line.holdings.position,
            generation: newest,
        };
        // What is to be archived anew is kept from now on: the cursor that was put back may lie behind its start.
        self.write_cursor(line, first.min(line.cursor))?;
        // First of all: should something fail now, the next step may find it known.
        report.put_back = Some(first);
        if lost.first < lost.end {
            report.gaps.push(lost);
        }
        let gaps = [given_up, lost];
        for gap in gaps.iter().filter(|gap| gap.first < gap.end) {
            let object = gap_name(line.id, gap).object();
            self.repository.store().put(&object, &[], Put::Replace)?;
        }
        self.repository.store().settle()?;
        line.tail = None;
        line.holdings.begin(generation, epoch, first);
        Ok(())
    }
}

/// Goes on where it was interrupted: a gap was noted before a later generation of an incarnation, and nothing
/// after it yet. Only of one that was put back there is log behind it on disk.
fn take_up(line: &mut Line, newest: Generation, segments: &[LogSegment], report: &mut StepReport) {
    let holdings = &mut line.holdings;
    let Some(epoch) = holdings
        .last_named()
        .filter(|_| holdings.is_unnamed(newest))
    else {
        return;
    };
    let position = holdings.position;
    let is_behind = |one: &&LogSegment| one.header.epoch == epoch && one.end > position;
    let Some(first) = first_of(segments, epoch) else {
        return;
    };
    if segments.iter().any(|one| is_behind(&one)) {
        // A later state that was put back since may begin before it.
        holdings.begin(newest, epoch, position.min(first));
        report.put_back = Some(position.min(first));
    }
}

/// Whether the log, which begins at `first`, is of the past of what is archived up to before that: it was let go
/// since for want of room, or all of it is archived.
fn goes_on(
    witness: &Witness<'_>,
    cursor: Option<Lsn>,
    newest: Generation,
    first: Lsn,
) -> Result<bool, OverlapError> {
    let position = witness.holdings.position;
    if first < position {
        // Nothing of it is durable behind its first LSN.
        return Ok(true);
    }
    // Nothing is archived that it had not when the cursor was written.
    let end = witness.holdings.end_of(newest).unwrap_or(Lsn::ZERO);
    let is_told = cursor.is_some_and(|cursor| end <= cursor);
    let is_told = is_told && witness.holdings.is_only_of_its_epoch(newest);
    Ok(is_told || witness.knows_last_before(position)?)
}
