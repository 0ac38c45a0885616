//! RESTORE DATABASE without TO: a backup in the place of what is served.
//!
//! ```text
//! nothing is pinned any more -> the seat is closed: LOADING -> who runs is waited for
//!   -> restored into DIR/.stillfs-restoring/new, read back, walked -> exchanged (see database::exchange)
//!   -> the seat opens
//! ```
//!
//! Until the exchange the database stays open and as it was, and comes back into the seat whatever fails. If
//! nothing can be put into it, the server ends: the next start finds one of the two.

use std::path::Path;

use anyhow::anyhow;
use signal_hook::iterator::Handle;

use super::Reopening;
use super::job::Told;
use crate::cli::examiner::Examiner;
use crate::cli::exit::Failure;
use crate::database::{Database, Exchanged, PAGE_FILE, PinsRefused};
use crate::os::Host;
use crate::repository::restore::{Examine, RestoreOptions, RestoreReport, restore};
use crate::repository::{BackupId, Control, Repository};
use crate::server::ClosedSeat;

/// What is to be restored.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) repository: Repository,
    pub(super) chosen: BackupId,
    pub(super) again: Reopening,
}

/// The closed seat. Dropping it opens it, and ends the server if nothing is in it, also in a panic.
#[derive(Debug)]
pub(super) struct Place {
    closed: ClosedSeat,
    end: Handle,
}

impl Place {
    pub(super) fn of(closed: ClosedSeat, end: Handle) -> Self {
        Self { closed, end }
    }

    fn put(&self, database: Database, again: &Reopening) {
        database.set_claim_patience(again.claim_patience);
        self.closed.put(database);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.closed.is_empty() {
            tracing::error!("no database is left to be served: the server ends");
            self.end.close();
        }
    }
}

/// Restores in place; however it ends, the seat is open then, and holds a database if one could be opened.
///
/// Errors: those of a restore, and of an exchange (ST6).
pub(super) fn run(
    wish: &Wish,
    place: Place,
    (database, pins): (Database, PinsRefused),
    control: &Control,
) -> Result<Told, Failure> {
    place.closed.wait();
    let report = match restore_beside(wish, &database, control) {
        Ok(report) => report,
        Err(failure) => {
            database.abandon_exchange();
            return Err(failure);
        }
    };
    drop(place.closed.take());
    match database.exchange(&wish.again.options, pins) {
        Exchanged::Done(database) => {
            place.put(database, &wish.again);
            Ok(Told::of_restore(&report))
        }
        Exchanged::Kept { database, error } => {
            place.put(database, &wish.again);
            Err(Failure::from(error))
        }
        Exchanged::Lost { error, again } => Err(Failure::from(anyhow!(
            "{error}; then the database could not be opened again: {again}; the server ends: its next start \
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

#[cfg(test)]
mod tests {
    use signal_hook::consts::signal::SIGUSR2;
    use signal_hook::iterator::Signals;

    use super::*;
    use crate::server::Seat;

    /// A server that has nothing to serve ends, and no other does.
    #[test]
    fn server_ends_if_its_seat_is_left_empty() {
        for is_taken in [false, true] {
            let machine = Host::simulated(1);
            let options = crate::database::EngineOptions::default();
            let database = Database::open_on(&machine.host, "/db", &options).unwrap();
            let seat = Seat::of(database);
            let end = Signals::new([SIGUSR2]).unwrap().handle();
            let place = Place::of(seat.close().unwrap(), end.clone());
            if is_taken {
                drop(place.closed.take());
            }
            assert!(!end.is_closed());
            drop(place);
            assert_eq!(end.is_closed(), is_taken);
            assert_eq!(seat.database().is_none(), is_taken);
        }
    }
}
