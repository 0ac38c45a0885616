//! Commands that do something to a repository, written down in its audit log, also if they fail.

use std::path::Path;

use crate::cli::exit::{Exit, Outcome};
use crate::cli::nesting;
use crate::cli::output;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::os::process::{effective_user, user_name};
use crate::os::{Host, machine};
use crate::repository::{AuditEvent, Repository, record_audit};

/// What a command says of itself for the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Note {
    /// What was backed up, or where it was copied from.
    pub(crate) path: Option<String>,
    /// The backups that it was about.
    pub(crate) backups: Vec<String>,
    /// The entry of the configuration.
    pub(crate) entry: Option<String>,
    /// Nothing was to be done: a dry run.
    pub(crate) is_idle: bool,
}

impl Note {
    /// Of a command about `path`.
    pub(crate) fn of(path: &Path) -> Self {
        Self {
            path: Some(nesting::real(path).to_string_lossy().into_owned()),
            ..Self::default()
        }
    }

    /// Of a command about the repository at `place`.
    pub(crate) fn of_repository(place: &RepositoryPlace) -> Self {
        Self {
            path: Some(place.real().text()),
            ..Self::default()
        }
    }
}

/// Runs `work`, and adds to the log of the repository at `place` what it came to. Where there is no
/// repository, also after it, there is no log.
///
/// A log that cannot be written to is told of, and changes nothing else. Errors: those of `work`.
pub(crate) fn run(
    command: &'static str,
    (place, key): (&RepositoryPlace, &KeyArgs),
    note: Note,
    work: impl FnOnce(&mut Note) -> Outcome,
) -> Outcome {
    run_on(None, command, (place, key), note, work)
}

/// As [`run`]; the log of `before` is used if the key no longer opens the repository after `work`.
pub(crate) fn run_on(
    before: Option<Repository>,
    command: &'static str,
    (place, key): (&RepositoryPlace, &KeyArgs),
    mut note: Note,
    work: impl FnOnce(&mut Note) -> Outcome,
) -> Outcome {
    let begun_ns = Host::system().clock.wall_ns();
    let outcome = work(&mut note);
    if note.is_idle {
        return outcome;
    }
    match key.open(&Host::system(), place) {
        Ok(repository) => add(&repository, command, note, (begun_ns, &outcome)),
        Err(failure)
            if before.is_none() && outcome.is_ok() && failure.exit == Exit::StoreRefused =>
        {
            output::problem(&format!(
                "this {command} is not in the audit log of {place}: {}",
                failure.text()
            ));
        }
        // A key that does not open it was told of by the command, and so was a server that is away.
        Err(_) => {
            if let Some(repository) = before {
                add(&repository, command, note, (begun_ns, &outcome));
            }
        }
    }
    outcome
}

/// The repository at `place`, if `key` opens it.
pub(crate) fn open(place: &RepositoryPlace, key: &KeyArgs) -> Option<Repository> {
    key.open(&Host::system(), place).ok()
}

/// Adds what a command that was begun at `begun_ns` came to; if that cannot be done, it is told.
pub(crate) fn add(
    repository: &Repository,
    command: &'static str,
    note: Note,
    (begun_ns, outcome): (u64, &Outcome),
) {
    let host = repository.host();
    let uid = effective_user();
    let (exit, message) = match outcome {
        Ok(exit) => (*exit, None),
        Err(failure) => (failure.exit, Some(failure.text())),
    };
    let event = AuditEvent {
        command: command.to_owned(),
        entry: note.entry,
        user: user_name(uid),
        uid,
        sudo_user: std::env::var("SUDO_USER").ok().filter(|_| uid == 0),
        host: machine::name(),
        process_id: std::process::id(),
        stillfs: env!("CARGO_PKG_VERSION").to_owned(),
        path: note.path,
        backups: note.backups,
        begun_ns,
        finished_ns: host.clock.wall_ns(),
        exit: exit.code(),
        message: message.or_else(|| words(exit).map(str::to_owned)),
        ..AuditEvent::default()
    };
    if let Err(error) = record_audit(repository.store().as_ref(), &*host.random, &event) {
        let place = output::plain(&repository.store().place());
        output::problem(&format!(
            "this {command} is not in the audit log of {place}: {error}"
        ));
    }
}

/// What a code says where the command told more than one line of it.
fn words(exit: Exit) -> Option<&'static str> {
    match exit {
        Exit::LeftOut => Some("something was left out"),
        Exit::Corrupt => Some("something is damaged"),
        _ => None,
    }
}
