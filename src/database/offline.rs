//! A pin of a database on which no engine runs: taken under the directory's lock, which is let go again.
//!
//! ```text
//! lock the directory -> replay the log in memory, sync what was read, sync the live file
//!   -> find out which slots held pins own -> take a pin as an engine does -> let the lock go
//! ```
//!
//! * D7 A pin without an engine is of the durable committed state, and accepts the epochs of all valid
//!   copies of the live header. Nothing is written but its index and slots that no held pin may use.
//!
//! Root does all of it with the rights of the directory's owner: whatever that one plants there leads
//! root nowhere, and the files are such as the owner's engine makes.

use std::io;
use std::path::Path;

use crate::database::SHADOW_DIR;
use crate::database::error::DatabaseError;
use crate::database::pin::HandedOver;
use crate::database::pin_options::PinOptions;
use crate::database::pinning;
use crate::database::service::{facts_of, open_descriptors, options};
use crate::database::state::State;
use crate::id::PinId;
use crate::os::file_user::as_owner_of;
use crate::os::{FileIdentity, Host, LockKind, OpenMode};
use crate::pin::{PinFacts, PinFiles, PinRequest};
use crate::shadow::EndReason;

/// A pin that nobody serves: it lasts as long as its files are held.
#[derive(Debug)]
pub struct OfflinePin {
    /// What was pinned.
    pub facts: PinFacts,
    /// What is read. The index holds the lock that keeps the pin.
    pub files: PinFiles,
}

/// Takes a pin in `dir`, on which no engine runs.
///
/// Errors: `Engine` with `InUse` if somebody holds the directory, or `Untrusted`; those of a recovery
/// and of a pin. Nothing is then left of the pin.
pub fn pin_offline(
    host: &Host,
    dir: &Path,
    request: &PinRequest,
) -> Result<OfflinePin, DatabaseError> {
    as_owner(host, dir, || take_offline(host, dir, request)).map_err(|source| {
        DatabaseError::Io {
            op: "act as the owner of",
            what: "the database's directory",
            source,
        }
    })?
}

/// What is simulated belongs to nobody.
fn as_owner<T: Send>(host: &Host, dir: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let place = host.disk.open(dir, OpenMode::Directory)?;
    match place.as_fd() {
        Some(place) => as_owner_of(place, work),
        None => Ok(work()),
    }
}

fn take_offline(
    host: &Host,
    dir: &Path,
    request: &PinRequest,
) -> Result<OfflinePin, DatabaseError> {
    refuse_read_only(host, dir)?;
    let state = State::offline(host, dir)?;
    let taken = pinning::take(&state, &options(request))?;
    match open_descriptors(&state, &taken.held) {
        Ok(files) => Ok(OfflinePin {
            facts: facts_of(&state, &taken),
            files,
        }),
        Err(error) => {
            state.shadow.end(&taken.held, EndReason::Refused)?;
            Err(error)
        }
    }
}

/// Found out before anything else, whose failure would say less.
fn refuse_read_only(host: &Host, dir: &Path) -> Result<(), DatabaseError> {
    match host.disk.unnamed(dir) {
        Ok(_) => Ok(()),
        Err(source) => Err(DatabaseError::Io {
            op: "write to",
            what: "the database's directory",
            source,
        }),
    }
}

/// The same for a holder on the same machine that may be another process, simulated or not.
///
/// Errors: as for [`pin_offline`].
pub fn hand_over_offline(
    host: &Host,
    dir: &Path,
    holder: &Host,
) -> Result<HandedOver, DatabaseError> {
    let state = State::offline(host, dir)?;
    let taken = pinning::take(&state, &PinOptions::default())?;
    HandedOver::new(&state, &taken.held, taken.token, holder).or_else(|error| {
        state.shadow.end(&taken.held, EndReason::Refused)?;
        Err(error)
    })
}

/// Ends a pin that its holder gives up while no engine runs, and removes its index.
///
/// Errors: the system's; `WouldBlock` if somebody holds the directory, who then cleans up himself.
pub fn clean_up_pin(host: &Host, dir: &Path, pin: PinId, index: FileIdentity) -> io::Result<()> {
    as_owner(host, dir, || clean_up(host, dir, pin, index))?
}

fn clean_up(host: &Host, dir: &Path, pin: PinId, index: FileIdentity) -> io::Result<()> {
    let lock = host.disk.open(dir, OpenMode::Directory)?;
    if !lock.try_lock(LockKind::Exclusive)? {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let shadow = dir.join(SHADOW_DIR);
    let path = shadow.join(format!("{pin}.pin"));
    let file = host.disk.open(&path, OpenMode::ReadWrite)?;
    if file.identity()? != index {
        return Err(io::ErrorKind::NotFound.into());
    }
    file.set_len(0)?;
    host.disk.remove(&path)?;
    let names = host.disk.list(&shadow)?;
    if names.iter().all(|name| name == "slots") {
        let slots = host.disk.open(&shadow.join("slots"), OpenMode::ReadWrite)?;
        slots.set_len(0)?;
    }
    Ok(())
}
