//! RESTORE DATABASE without TO: a backup in the place of what is served.
//!
//! ```text
//! nothing is pinned any more -> the seat is closed: LOADING -> who runs is waited for
//!   -> restored into DIR/restoring/new, read back, walked -> exchanged (see database::exchange) -> the seat opens
//! ```
//!
//! Until the exchange the database stays open and as it was, and comes back into the seat whatever fails.

use std::path::Path;

use anyhow::anyhow;

use super::job::Told;
use crate::cli::examiner::Examiner;
use crate::cli::exit::Failure;
use crate::database::{Database, EngineOptions, Exchanged, PAGE_FILE, PinsRefused};
use crate::os::Host;
use crate::repository::restore::{Examine, RestoreOptions, RestoreReport, restore};
use crate::repository::{BackupId, Control, Repository};
use crate::server::ClosedSeat;

/// What is to be restored.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) repository: Repository,
    pub(super) chosen: BackupId,
    /// With which the database is opened again.
    pub(super) options: EngineOptions,
}

/// Restores in place; however it ends, the seat is open then, and holds a database if one could be opened.
///
/// Errors: those of a restore, and of an exchange (ST6).
pub(super) fn run(
    wish: &Wish,
    closed: ClosedSeat,
    (database, pins): (Database, PinsRefused),
    control: &Control,
) -> Result<Told, Failure> {
    closed.wait();
    let report = match restore_beside(wish, &database, control) {
        Ok(report) => report,
        Err(failure) => {
            database.abandon_exchange();
            return Err(failure);
        }
    };
    drop(closed.take());
    match database.exchange(&wish.options, pins) {
        Exchanged::Done(database) => {
            closed.put(database);
            Ok(Told::of_restore(&report))
        }
        Exchanged::Kept { database, error } => {
            closed.put(database);
            Err(Failure::from(error))
        }
        Exchanged::Lost { error, again } => Err(Failure::from(anyhow!(
            "{error}; then the database could not be opened again: {again}; start the server anew, which \
             finds the old database or the restored one"
        ))),
    }
}

/// Makes the new database, whole and durable. Errors: those of a restore; `Cancelled`; `Unsound`.
fn restore_beside(
    wish: &Wish,
    database: &Database,
    control: &Control,
) -> Result<RestoreReport, Failure> {
    let target = database.prepare_exchange()?;
    let examiner = Examiner::new(&Host::system());
    let options = RestoreOptions::default();
    let (repository, chosen) = (&wish.repository, &wish.chosen);
    let report = restore(repository, chosen, &target, options, &examiner, control)?;
    walk(&examiner, &target, &report)?;
    control.refuse_if_cancelled()?;
    Ok(report)
}

/// Errors: `Unsound`.
fn walk(examiner: &Examiner, target: &Path, report: &RestoreReport) -> Result<(), Failure> {
    for facts in &report.facts.databases {
        examiner.walk(&target.join(PAGE_FILE), facts)?;
    }
    Ok(())
}
