//! The log in another repository: what its backups can go on with, every byte checked on the way.
//!
//! ```text
//! from: names --wanted by a backup of `to`, and not there--> gaps --settled--> pieces --settled--> doubles go
//! ```
//!
//! Generations are numbered by the archive that met them, so the names of two repositories mean the same only
//! if both number the incarnations alike. A line that `to` archived by itself with other numbers is left alone,
//! and so is one that somebody archives there at the time (LA8).

use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::log::holdings::Holdings;
use crate::repository::log::name::{LineId, LogName};
use crate::repository::log::piece::copy_piece;
use crate::repository::log::retention::LogPrune;
use crate::repository::progress::Control;
use crate::repository::store::Put;

/// How often the names are read again because a piece was replaced meanwhile.
const TRIES: u32 = 5;

/// What copying logs came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LogCopyReport {
    /// Pieces that were copied.
    pub pieces: u64,
    /// Pieces that were not, though a backup could go on with them.
    pub pieces_left: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes that were stored.
    pub bytes_stored: u64,
    /// Pieces that cannot be read, and why.
    pub failed: Vec<(String, String)>,
    /// Logs that are left alone, as database and history, and why.
    pub apart: Vec<(String, &'static str)>,
}

/// Copies what the backups in `to` can go on with, and what is not there. What a prune of `to` would remove is
/// not copied.
///
/// Errors: `Unsteady` if pieces of `from` go faster than they are read; `NoSpace`, `Io`, `Cancelled`: what was
/// copied stays.
pub(in crate::repository) fn copy_logs(
    from: &Repository,
    to: &Repository,
    control: &Control,
) -> Result<LogCopyReport> {
    let mut shown = LogPrune::default();
    for id in to.ids()? {
        match to.facts(&id) {
            Ok(facts) => shown.keep_for(&facts),
            // One that cannot be read goes on with nothing; it is told of by others.
            Err(error) => drop(error.of_object()?),
        }
    }
    let mut report = LogCopyReport::default();
    for _ in 0..TRIES {
        (report.failed, report.apart, report.pieces_left) = (Vec::new(), Vec::new(), 0);
        let mut gone = None;
        for (line, names) in shown.wanted(from)? {
            let copying = LineCopy { from, to, control };
            gone = copying.line(line, &names, &mut report)?.or(gone);
        }
        match gone {
            None => return Ok(report),
            Some(object) => tracing::debug!(object, "a piece of the log was replaced meanwhile"),
        }
    }
    Err(RepositoryError::Unsteady {
        object: crate::repository::log::FOLDER.to_owned(),
    })
}

#[cfg(test)]
pub(in crate::repository::log) mod tests;

struct LineCopy<'a> {
    from: &'a Repository,
    to: &'a Repository,
    control: &'a Control,
}

impl LineCopy<'_> {
    /// What of `names` is not `there`. A gap always is to be told, even of what is there: it may say that what
    /// was archived counts no more (LA9).
    fn lacking(&self, there: &Holdings, names: &[LogName]) -> Result<Vec<LogName>> {
        let objects = self.to.store().list(crate::repository::log::FOLDER)?;
        let is_lacking = |name: &&LogName| match name.is_gap {
            true => !objects.contains(&name.to_string()),
            false => !there.covers(name),
        };
        Ok(names.iter().filter(is_lacking).copied().collect())
    }

    /// Copies what is lacking of `names`, which are of one line. Gives a piece that went meanwhile.
    fn line(
        &self,
        line: LineId,
        names: &[LogName],
        report: &mut LogCopyReport,
    ) -> Result<Option<String>> {
        let store = self.to.store();
        let lacking = self.lacking(&Holdings::read(self.to, line)?, names)?;
        if lacking.is_empty() {
            return Ok(None);
        }
        let here = Holdings::read(self.from, line)?;
        let pieces = lacking.iter().filter(|name| !name.is_gap).count() as u64;
        let mut leave = |why| {
            report.pieces_left += pieces;
            report.apart.push((line.to_string(), why));
            Ok(None)
        };
        let lock = match store.lock_line(&line.to_string()) {
            Err(RepositoryError::LineLocked { .. }) => {
                return leave("somebody archives it there at the moment");
            }
            lock => lock?,
        };
        lock.confirm()?;
        // Only from here on nobody else changes it.
        let mut there = Holdings::read(self.to, line)?;
        if !here.agrees_with(&there) {
            return leave(
                "it is archived there by itself, and began with another start of the database",
            );
        }
        let lacking = self.lacking(&there, names)?;
        // The number of a gap means nothing as long as no piece tells of which incarnation it is.
        let is_told = |name: &&LogName| name.is_gap && !here.is_unnamed(name.generation);
        for gap in lacking.iter().filter(is_told) {
            store.put(&gap.object(), &[], Put::Replace)?;
        }
        store.settle()?;
        let mut gone = None;
        for name in lacking.iter().filter(|name| !name.is_gap) {
            self.control.refuse_if_cancelled()?;
            lock.confirm()?;
            match copy_piece(self.from, name, self.to)? {
                Ok(facts) => {
                    there.add(&facts);
                    report.pieces += 1;
                    report.bytes_read += facts.object_bytes();
                    report.bytes_stored += facts.object_bytes();
                    self.control.add_stored(facts.object_bytes());
                }
                Err(RepositoryError::Missing { object }) => gone = Some(object),
                Err(error) => {
                    let error = error.of_object()?;
                    report.pieces_left += 1;
                    report.failed.push((name.object(), error.to_string()));
                }
            }
        }
        store.settle()?;
        // Small ones that became one meanwhile (LA7).
        for name in there.redundant(self.to) {
            store.remove(&name.object())?;
        }
        Ok(gone)
    }
}
