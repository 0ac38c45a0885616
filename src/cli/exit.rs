//! The one table of exit codes, and which failure has which.

use std::process::ExitCode;

use crate::database::DatabaseError;
use crate::engine::error::{EngineError, ErrorKind};
use crate::mount::point::PointError;
use crate::mount::registry::RegistryError;
use crate::mount::unmount::UnmountError;
use crate::pin::{PinError, RefusalKind};
use crate::repository::{RepositoryError, StoreFault};
use crate::server::ServerError;
use crate::source::SourceError;
use crate::source::sqlite::{RecoveryError, Unpinnable};
use crate::view::tree::ReadError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line cannot be followed.
    Usage = 2,
    /// Done, but something was left out.
    LeftOut = 3,
    /// An alert is raised.
    Alert = 4,
    /// There is no repository.
    RepositoryMissing = 10,
    /// Locked or in use.
    InUse = 11,
    /// Data is damaged.
    Corrupt = 12,
    /// The pin is lost or the snapshot broken.
    PinLost = 13,
    /// The key is wrong, or none was given.
    WrongKey = 14,
    /// The object store of the repository cannot be reached, or refuses.
    StoreRefused = 15,
    /// `run`: stillfs itself failed.
    RunFailed = 125,
    /// `run`: COMMAND cannot be run.
    CannotRun = 126,
    /// `run`: COMMAND was not found.
    NotFound = 127,
    /// Interrupted.
    Interrupted = 130,
}

impl Exit {
    /// The code of `byte`, as another of our processes reported it.
    pub(crate) fn from_code(byte: u8) -> Self {
        match byte {
            0 => Self::Done,
            2 => Self::Usage,
            3 => Self::LeftOut,
            11 => Self::InUse,
            12 => Self::Corrupt,
            13 => Self::PinLost,
            130 => Self::Interrupted,
            _ => Self::Failed,
        }
    }

    /// The number.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A command that failed: its exit code, and what to say.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: anyhow::Error,
}

/// What a command comes to.
pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
        }
    }

    /// A command line that cannot be followed.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// The error with its causes, on one line, none of them said twice.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for cause in self.error.chain() {
            let cause = cause.to_string();
            if text.is_empty() {
                text = cause;
            } else if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
        }
        text
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        Self {
            exit: exit_of(&error),
            error,
        }
    }
}

fn exit_of(error: &anyhow::Error) -> Exit {
    error
        .chain()
        .find_map(exit_of_cause)
        .unwrap_or(Exit::Failed)
}

fn exit_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(error) = cause.downcast_ref::<EngineError>() {
        return Some(exit_of_engine(error));
    }
    if let Some(error) = cause.downcast_ref::<DatabaseError>() {
        return Some(match error {
            DatabaseError::Engine(error) => exit_of_engine(error),
            error => exit_of_kind(error.kind()),
        });
    }
    if let Some(ServerError::PasswordNeeded { .. }) = cause.downcast_ref::<ServerError>() {
        return Some(Exit::Usage);
    }
    if let Some(error) = cause.downcast_ref::<PinError>() {
        return Some(exit_of_pin(error));
    }
    if let Some(error) = cause.downcast_ref::<RepositoryError>() {
        return Some(exit_of_repository(error));
    }
    if let Some(error) = cause.downcast_ref::<ReadError>() {
        return Some(exit_of_read(error));
    }
    if let Some(error) = cause.downcast_ref::<SourceError>() {
        return exit_of_source(error);
    }
    match cause.downcast_ref::<PointError>() {
        Some(PointError::AlreadyMounted { .. }) => return Some(Exit::InUse),
        Some(PointError::InsideSource { .. } | PointError::AroundSource { .. }) => {
            return Some(Exit::Usage);
        }
        _ => {}
    }
    if let Some(RegistryError::Held { .. }) = cause.downcast_ref::<RegistryError>() {
        return Some(Exit::InUse);
    }
    if let Some(UnmountError::Busy { .. }) = cause.downcast_ref::<UnmountError>() {
        return Some(Exit::InUse);
    }
    None
}

fn exit_of_source(error: &SourceError) -> Option<Exit> {
    match error {
        SourceError::Pin(error) => Some(exit_of_pin(error)),
        SourceError::View(error) => Some(exit_of_read(error)),
        SourceError::Engine(error) => Some(exit_of_engine(error)),
        SourceError::Database(error) => Some(exit_of_kind(error.kind())),
        SourceError::NoPinServer { .. } => Some(Exit::InUse),
        SourceError::Moved { .. } => Some(Exit::Corrupt),
        SourceError::Sqlite { reason, .. } => Some(exit_of_unpinnable(reason)),
        SourceError::Members { first, .. } => exit_of_source(first),
        _ => None,
    }
}

/// Every one by itself: what is new must be given a code.
fn exit_of_repository(error: &RepositoryError) -> Exit {
    match error {
        RepositoryError::NoRepository { .. } | RepositoryError::NotARepository { .. } => {
            Exit::RepositoryMissing
        }
        RepositoryError::NoEncrypted { .. } => Exit::RepositoryMissing,
        RepositoryError::Store { fault, .. } => match fault {
            StoreFault::NoBucket => Exit::RepositoryMissing,
            StoreFault::Full { .. } => Exit::Failed,
            StoreFault::Lapsed => Exit::InUse,
            _ => Exit::StoreRefused,
        },
        RepositoryError::KeyNeeded { .. } | RepositoryError::WrongKey { .. } => Exit::WrongKey,
        RepositoryError::Locked { .. }
        | RepositoryError::KeysChanged { .. }
        | RepositoryError::LineLocked { .. }
        | RepositoryError::OtherCopy { .. }
        | RepositoryError::Held { .. }
        | RepositoryError::TargetInUse { .. } => Exit::InUse,
        RepositoryError::Missing { .. }
        | RepositoryError::Cut { .. }
        | RepositoryError::Damaged { .. }
        | RepositoryError::OtherContent { .. }
        | RepositoryError::LostManifest { .. }
        | RepositoryError::Unsound { .. } => Exit::Corrupt,
        RepositoryError::ManyBackups { .. }
        | RepositoryError::Target { .. }
        | RepositoryError::NothingKept
        | RepositoryError::NotEncrypted { .. }
        | RepositoryError::NoHolder { .. }
        | RepositoryError::LastHolder { .. }
        | RepositoryError::NoMoments { .. }
        | RepositoryError::SameRepository { .. } => Exit::Usage,
        RepositoryError::HoldUnknown { source, .. } => exit_of_repository(source),
        RepositoryError::View { source, .. } => exit_of_read(source),
        RepositoryError::Log { source, .. } => exit_of_engine(source),
        RepositoryError::Cancelled => Exit::Interrupted,
        RepositoryError::Version { .. }
        | RepositoryError::Exists { .. }
        | RepositoryError::Unsteady { .. }
        | RepositoryError::NoBackup { .. }
        | RepositoryError::NoBase { .. }
        | RepositoryError::NoSpace { .. }
        | RepositoryError::NotCovered { .. }
        | RepositoryError::TargetExists { .. }
        | RepositoryError::Live { .. }
        | RepositoryError::WorkerLost
        | RepositoryError::KeyLimit { .. }
        | RepositoryError::Io { .. } => Exit::Failed,
    }
}

/// Whoever is in the way may leave it; what cannot be is damage; the rest needs somebody to act.
fn exit_of_unpinnable(reason: &Unpinnable) -> Exit {
    match reason {
        Unpinnable::Locked { .. }
        | Unpinnable::Writing { .. }
        | Unpinnable::NoMark
        | Unpinnable::Replaced
        | Unpinnable::Changed
        | Unpinnable::ModeChanged
        | Unpinnable::CopyTooLong { .. } => Exit::InUse,
        Unpinnable::Damaged { .. } => Exit::Corrupt,
        Unpinnable::Recovery(error) => exit_of_recovery(error),
        Unpinnable::NeedsRecovery
        | Unpinnable::HeaderUnreadable
        | Unpinnable::NoClone(_)
        | Unpinnable::NotRecovered
        | Unpinnable::FileSystem(_)
        | Unpinnable::IndexNotWritable
        | Unpinnable::OtherIndex { .. }
        | Unpinnable::StrangeFile { .. }
        | Unpinnable::LogRemoved
        | Unpinnable::TwoLogs
        | Unpinnable::EmptyBesideLog
        | Unpinnable::OthersMayWrite
        | Unpinnable::HotJournalOnReadOnlyMedia
        | Unpinnable::StaysHot
        | Unpinnable::LockIgnored
        | Unpinnable::NoCopy(_)
        | Unpinnable::LogAtLimit { .. } => Exit::Failed,
    }
}

fn exit_of_recovery(error: &RecoveryError) -> Exit {
    match error {
        RecoveryError::Busy { .. } | RecoveryError::Silent { .. } => Exit::InUse,
        RecoveryError::Damaged { .. } => Exit::Corrupt,
        RecoveryError::NotADatabase { .. }
        | RecoveryError::ReadOnly { .. }
        | RecoveryError::NoRoom { .. }
        | RecoveryError::Unreachable { .. }
        | RecoveryError::LogOfNothing
        | RecoveryError::Lost { .. }
        | RecoveryError::NotStarted { .. }
        | RecoveryError::Sqlite { .. } => Exit::Failed,
    }
}

/// A read of a pinned view fails inside of an engine's I/O error.
fn exit_of_engine(error: &EngineError) -> Exit {
    if let EngineError::Io { source, .. } = error
        && let Some(read) = source
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<ReadError>())
    {
        return exit_of_read(read);
    }
    exit_of_kind(error.kind())
}

fn exit_of_kind(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::PinLost => Exit::PinLost,
        ErrorKind::Corrupt => Exit::Corrupt,
        ErrorKind::Busy => Exit::InUse,
        ErrorKind::Retry
        | ErrorKind::NoSpace
        | ErrorKind::Invalid
        | ErrorKind::Unsupported
        | ErrorKind::Internal => Exit::Failed,
    }
}

fn exit_of_pin(error: &PinError) -> Exit {
    match error {
        PinError::Refused {
            kind: RefusalKind::TooManyPins | RefusalKind::TooManyConnections,
            ..
        } => Exit::InUse,
        PinError::Refused {
            kind: RefusalKind::Invalid,
            ..
        } => Exit::Usage,
        _ => Exit::Failed,
    }
}

fn exit_of_read(error: &ReadError) -> Exit {
    match error {
        ReadError::PinEnded { .. } => Exit::PinLost,
        ReadError::Member { source, .. } => exit_of_read(source),
        ReadError::Page { .. }
        | ReadError::Unreadable { .. }
        | ReadError::Entry { .. }
        | ReadError::IndexHeader => Exit::Corrupt,
        ReadError::Io { .. } | ReadError::Range { .. } => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_that_cannot_be_pinned_have_the_code_of_their_reason() {
        let sqlite = |reason| SourceError::Sqlite {
            path: "/a.db".into(),
            reason,
        };
        let damaged = Unpinnable::Damaged { what: "its log" };
        for (reason, exit) in [
            (Unpinnable::NeedsRecovery, Exit::Failed),
            (Unpinnable::NoMark, Exit::InUse),
            (damaged, Exit::Corrupt),
        ] {
            assert_eq!(Failure::from(sqlite(reason)).exit, exit);
        }
        // Of several databases the first decides.
        let several = SourceError::Members {
            first: Box::new(sqlite(Unpinnable::Replaced)),
            others: 2,
        };
        assert_eq!(Failure::from(several).exit, Exit::InUse);
    }
}
