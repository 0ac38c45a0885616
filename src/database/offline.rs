//! A pin of a database on which no engine runs: taken under the directory's lock, which is let go again.
//!
//! ```text
//! lock the directory -> replay the log in memory, sync what was read, sync the live file
//!   -> find out which slots held pins own -> take a pin as an engine does -> let the lock go
//! ```
//!
//! * D7 A pin without an engine is of the durable committed state, and accepts the epochs of all valid
//!   copies of the live header. Nothing is written but its index and slots that no held pin may use.

use std::io;
use std::path::Path;

use crate::database::error::DatabaseError;
use crate::database::pin::HandedOver;
use crate::database::pinning::{self, PinTerms};
use crate::database::service::{facts_of, open_descriptors, terms};
use crate::database::state::State;
use crate::database::{LOCK_FILE, SHADOW_DIR};
use crate::id::PinId;
use crate::os::descriptor::give_like;
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
/// Errors: `Engine` with `InUse` if somebody holds the directory; those of a recovery and of a pin.
/// Nothing is then left of the pin.
pub fn pin_offline(
    host: &Host,
    dir: &Path,
    request: &PinRequest,
) -> Result<OfflinePin, DatabaseError> {
    refuse_read_only(host, dir)?;
    let state = State::offline(host, dir)?;
    let taken = pinning::take(&state, &terms(request))?;
    let files = open_descriptors(&state, &taken.held).and_then(|files| {
        give_to_owner(&state, dir)?;
        Ok(files)
    });
    match files {
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
    let taken = pinning::take(&state, &PinTerms::default())?;
    HandedOver::new(&state, &taken.held, taken.token, holder).or_else(|error| {
        state.shadow.end(&taken.held, EndReason::Refused)?;
        Err(error)
    })
}

/// What root makes in a folder of somebody else's must not keep that one's engine from starting.
fn give_to_owner(state: &State, dir: &Path) -> Result<(), DatabaseError> {
    let disk = &state.engine.host().disk;
    let shadow = dir.join(SHADOW_DIR);
    let failed = |source| DatabaseError::Io {
        op: "give to the database's owner",
        what: "shadow/",
        source,
    };
    let live = state.engine.live_file();
    let give = |file: &dyn crate::os::File| match (file.as_fd(), live.as_fd()) {
        (Some(file), Some(live)) => give_like(file, live),
        _ => Ok(()),
    };
    let folder = disk.open(&shadow, OpenMode::Directory).map_err(failed)?;
    give(&*folder).map_err(failed)?;
    give(&**state.shadow.slots_file()).map_err(failed)?;
    for pin in state.shadow.pins() {
        give(&**pin.file()).map_err(failed)?;
    }
    match disk.open(&dir.join(LOCK_FILE), OpenMode::Read) {
        Ok(lock) => give(&*lock).map_err(failed),
        // Nobody needs it: the lock on the directory is what counts.
        Err(_) => Ok(()),
    }
}

/// Ends a pin that its holder gives up while no engine runs, and removes its index.
///
/// Errors: the system's; `WouldBlock` if somebody holds the directory, who then cleans up himself.
pub fn clean_up_pin(host: &Host, dir: &Path, pin: PinId, index: FileIdentity) -> io::Result<()> {
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
