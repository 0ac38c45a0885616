//! The exit codes of every command, in one table.

use crate::database::DatabaseError;
use crate::engine::error::{EngineError, ErrorKind};
use crate::pin::{PinError, RefusalKind};
use crate::server::ServerError;
use crate::source::SourceError;
use crate::view::tree::ReadError;

/// What a command says to whoever started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(dead_code, reason = "the table is whole")]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    LeftOut = 3,
    Alert = 4,
    RepositoryMissing = 10,
    InUse = 11,
    Corrupt = 12,
    PinLost = 13,
    WrongKey = 14,
    Interrupted = 130,
    RunFailed = 125,
    CannotRun = 126,
    NotFound = 127,
}

/// A failure, with the code that it ends the command with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
}

/// What a command comes to.
pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: Exit::Usage,
            error: error.into(),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let exit = error.chain().find_map(exit_of).unwrap_or(Exit::Failed);
        Self { exit, error }
    }
}

fn exit_of(error: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(error) = error.downcast_ref::<SourceError>() {
        return Some(match error {
            SourceError::Engine(error) => of_engine(error),
            SourceError::View(error) => of_read(error),
            SourceError::Pin(error) => of_pin(error),
            SourceError::NoPinServer { .. } => Exit::InUse,
            _ => Exit::Failed,
        });
    }
    if let Some(error) = error.downcast_ref::<DatabaseError>() {
        return Some(match error {
            DatabaseError::Engine(error) => of_engine(error),
            error => of_kind(error.kind()),
        });
    }
    if let Some(error) = error.downcast_ref::<EngineError>() {
        return Some(of_engine(error));
    }
    if let Some(error) = error.downcast_ref::<ReadError>() {
        return Some(of_read(error));
    }
    if let Some(ServerError::NotLoopback { .. }) = error.downcast_ref::<ServerError>() {
        return Some(Exit::Usage);
    }
    error.downcast_ref::<PinError>().map(of_pin)
}

fn of_engine(error: &EngineError) -> Exit {
    if let EngineError::Io { source, .. } = error
        && let Some(error) = source.get_ref().and_then(|error| error.downcast_ref())
    {
        return of_read(error);
    }
    of_kind(error.kind())
}

fn of_read(error: &ReadError) -> Exit {
    match error {
        ReadError::PinEnded { .. } => Exit::PinLost,
        ReadError::Page { .. } | ReadError::Unreadable { .. } | ReadError::Entry { .. } => {
            Exit::Corrupt
        }
        _ => Exit::Failed,
    }
}

fn of_pin(error: &PinError) -> Exit {
    match error {
        PinError::NotRunning { .. } => Exit::InUse,
        PinError::Refused {
            kind: RefusalKind::TooManyPins | RefusalKind::TooManyConnections,
            ..
        } => Exit::InUse,
        _ => Exit::Failed,
    }
}

fn of_kind(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::PinLost => Exit::PinLost,
        ErrorKind::Corrupt => Exit::Corrupt,
        ErrorKind::Busy => Exit::InUse,
        _ => Exit::Failed,
    }
}
