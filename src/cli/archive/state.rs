//! How far the log of a directory is durable: its engine says so, or the log itself.

use std::path::Path;
use std::time::Duration;

use crate::cli::exit::Failure;
use crate::cli::interrupt::Interrupt;
use crate::database::SOCKET_FILE;
use crate::engine::LogState;
use crate::engine::error::{EngineError, ErrorKind};
use crate::os::Host;
use crate::pin::{PinClient, PinError};
use crate::repository::RepositoryError;

/// How long one who has the directory for a moment is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// An engine runs.
    Engine(LogState),
    /// None runs.
    Still(LogState),
    /// Somebody has the directory, and no engine answers yet.
    Busy,
}

/// Errors: a directory that is no stillfs database.
pub(super) fn refuse_other(host: &Host, dir: &Path) -> Result<(), Failure> {
    match crate::engine::looks_like_database(host, dir) {
        true => Ok(()),
        false => Err(Failure::from(EngineError::NotADatabase {
            dir: dir.to_owned(),
            missing: crate::engine::PAGE_FILE,
        })),
    }
}

/// Asks the engine of `dir`; without one, makes durable what is there.
///
/// Errors: of the conversation; as for [`LogState::settle`].
pub(super) fn ask(host: &Host, dir: &Path) -> Result<Asked, Failure> {
    let report = PinClient::connect(&dir.join(SOCKET_FILE), "stillfs archive")
        .and_then(|mut client| client.status());
    let engine = match report {
        Ok(report) => report.engine,
        Err(PinError::NotRunning { .. }) => {
            return match LogState::settle(host, dir) {
                Ok(state) => Ok(Asked::Still(state)),
                Err(error) if error.kind() == ErrorKind::Busy => Ok(Asked::Busy),
                Err(error) => Err(log_failure(dir, error)),
            };
        }
        Err(error) => return Err(error.into()),
    };
    let ids = (engine.database_id, engine.history_id);
    let state = LogState::of_running(host, dir, ids, engine.log_durable);
    let state = state.map_err(|error| log_failure(dir, error))?;
    // A directory that was exchanged under a running engine is not its own any more.
    Ok(state.map_or(Asked::Busy, Asked::Engine))
}

fn log_failure(dir: &Path, source: EngineError) -> Failure {
    let dir = dir.to_owned();
    RepositoryError::Log { dir, source }.into()
}

/// The same for one look: whoever is in the way for a moment is waited for.
///
/// Errors: as for [`ask`]; `InUse`.
pub(super) fn ask_patiently(
    host: &Host,
    dir: &Path,
    interrupt: &Interrupt,
) -> Result<LogState, Failure> {
    let begun = host.clock.monotonic();
    loop {
        match ask(host, dir)? {
            Asked::Engine(state) | Asked::Still(state) => return Ok(state),
            Asked::Busy => {}
        }
        let waited = host.clock.monotonic().saturating_sub(begun);
        if interrupt.is_asked() {
            return Err(RepositoryError::Cancelled.into());
        }
        if waited >= PATIENCE {
            return Err(log_failure(
                dir,
                EngineError::InUse {
                    dir: dir.to_owned(),
                    holder: None,
                },
            ));
        }
        host.clock.sleep(PAUSE);
    }
}
