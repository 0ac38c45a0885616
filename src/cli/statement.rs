//! BACKUP and RESTORE, as clients of the server give them: what `serve --backup-root` switches on.
//!
//! Runs in the engine's process. A statement is looked at on the connection's own thread, and answers at
//! once; what it started goes on in the background, one job at a time, whoever asks for how far it is.
//!
//! ```text
//! BACKUP DATABASE TO <repo>                            a job: pin, then as `stillfs backup`
//! BACKUP STATUS                                        what the last job is, or came to
//! BACKUP CANCEL                                        ends it
//! RESTORE DATABASE FROM <repo> [BACKUP <id>] TO <dir>  a job: as `stillfs restore`; the server runs on
//! RESTORE DATABASE FROM <repo> [BACKUP <id>]           a job: takes the place of what is served
//! ```
//!
//! * ST1 Nothing is read or written by a statement but below the backup root: a path is walked from there
//!   without following a link or `..`, over directories in which nobody else may put one, and whatever is in
//!   the directory of the database is refused.
//! * ST2 One job at a time; whatever ends a job, its pin is given up, and the next one can begin.
//! * ST3 A statement that is refused has changed nothing, and says why in the reply; a job that fails says
//!   it in BACKUP STATUS.
//! * ST4 The server does not end before its job has: it is cancelled first.
//! * ST5 Of a restore in place: from its acceptance on no batch begins, and those that run are finished. What
//!   was committed by these goes with the old database, also if it is acknowledged after the acceptance.
//! * ST6 However a restore in place fails, what was served before is served again, with every commit that
//!   was acknowledged.
//!
//! The audit log of the repository has a line for each backup, as for one of the command line.

mod choice;
mod in_place;
mod job;
mod phrase;
mod place;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use signal_hook::iterator::Handle;

use crate::cli::audit::{self, Note};
use crate::cli::examiner::Examiner;
use crate::cli::exit::{Exit, Failure};
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::database::{EngineOptions, PinOptions};
use crate::os::Host;
use crate::os::path::canonical;
use crate::repository::backup::{BackupOptions, Subject, backup};
use crate::repository::restore::{RestoreOptions, restore};
use crate::repository::{BackupId, Repository};
use crate::server::{Reply, Seat, Statements};
use job::{Jobs, Order, Told};
use phrase::Phrase;
use place::BackupRoot;

/// What `serve` is told about statements.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct StatementArgs {
    /// Directory below which clients may back up to and restore from, with BACKUP and RESTORE; without
    /// it both are refused
    #[arg(long, value_name = "DIR")]
    backup_root: Option<PathBuf>,
    /// For encrypted repositories there: a file with an age identity, as age-keygen makes it (mode 0600)
    #[arg(long, value_name = "FILE", requires = "backup_root")]
    backup_key_file: Option<PathBuf>,
    /// For encrypted repositories there: a file with their passphrase, on one line (mode 0600)
    #[arg(long, value_name = "FILE", requires = "backup_root")]
    backup_passphrase_file: Option<PathBuf>,
}

impl StatementArgs {
    /// The statements of a server whose database is in `dir`, and opened again as `again` says. `end` is
    /// closed if there is no database any more.
    ///
    /// Errors: usage, for a root that cannot be one; key files that cannot be used.
    pub(crate) fn statements(
        &self,
        dir: &Path,
        again: Reopening,
        end: Handle,
    ) -> Result<RepositoryStatements, Failure> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let key = KeyArgs::of(
            self.backup_key_file.as_ref().map(absolute),
            self.backup_passphrase_file.as_ref().map(absolute),
        );
        // What is wrong with them is told before anybody needs them.
        key.unlock()?;
        let root = self.backup_root.as_deref();
        let root = root.map(|root| BackupRoot::open(root, dir)).transpose()?;
        Ok(RepositoryStatements {
            root: root.map(Arc::new),
            key,
            again,
            end,
            jobs: Jobs::default(),
        })
    }
}

/// How a database is opened after an exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reopening {
    pub(crate) options: EngineOptions,
    pub(crate) claim_patience: Duration,
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct RepositoryStatements {
    root: Option<Arc<BackupRoot>>,
    key: KeyArgs,
    again: Reopening,
    /// Ends the server.
    end: Handle,
    jobs: Jobs,
}

impl Statements for RepositoryStatements {
    fn names(&self) -> &[&'static str] {
        &["backup", "restore"]
    }

    fn run(&self, seat: &Seat, words: &[Bytes]) -> Reply {
        self.answer(seat, words).unwrap_or_else(Reply::error)
    }
}

/// While the database is exchanged.
const LOADING: &str = "LOADING the database is being exchanged for one from a backup";

/// What a statement is refused with: a code in capitals, and why.
type Refusal = String;

impl RepositoryStatements {
    /// Ends a job that runs, waits for it, and lets no other begin (ST4).
    pub(crate) fn stop(&self) {
        self.jobs.stop();
    }

    fn answer(&self, seat: &Seat, words: &[Bytes]) -> Result<Reply, Refusal> {
        let phrase = Phrase::read(words)?;
        let Some(root) = &self.root else {
            let name = phrase.statement().to_ascii_uppercase();
            return Err(format!(
                "ERR {name} is switched off: the server was started without --backup-root"
            ));
        };
        match phrase {
            Phrase::Status => Ok(self.jobs.status(&*Host::system().clock)),
            Phrase::Cancel => self.jobs.cancel(),
            Phrase::Backup { repository } => self.back_up(seat, root, &repository),
            Phrase::Restore {
                repository,
                backup,
                target,
            } => {
                let from = From {
                    place: resolve(root, &repository)?,
                    name: repository,
                    backup,
                };
                match target {
                    Some(target) => self.restore_to(seat, from, root, &target),
                    None => self.restore_in_place(seat, from),
                }
            }
        }
    }

    fn back_up(&self, seat: &Seat, root: &BackupRoot, name: &Bytes) -> Result<Reply, Refusal> {
        self.jobs.refuse_second()?;
        let place = resolve(root, name)?;
        let database = seat.database().ok_or(LOADING)?;
        let key = self.key.clone();
        let order = Order::of("backup", name);
        self.jobs.start(order, move |control| {
            let mut told = Told::default();
            let dir = database.directory().to_owned();
            let place = RepositoryPlace::Folder(place);
            let outcome = audit::run("backup", (&place, &key), Note::of(&dir), |note| {
                let repository = key.open_or_create(&Host::system(), &place)?;
                let subject = Subject::of_database(&database, &PinOptions::default())?;
                let report = backup(&repository, subject, &BackupOptions::default(), control)?;
                note.backups.push(report.facts.id.to_string());
                told.backup = report.facts.id.to_string();
                Ok(Exit::Done)
            });
            outcome.map(|_| told)
        })
    }

    fn restore_to(
        &self,
        seat: &Seat,
        from: From,
        root: &BackupRoot,
        target: &Bytes,
    ) -> Result<Reply, Refusal> {
        self.jobs.refuse_second()?;
        let place = resolve(root, target)?;
        let dir = seat.database().ok_or(LOADING)?.directory().to_owned();
        let (repository, chosen) = self.chosen(&from, &dir)?;
        let order = Order {
            target: phrase::shown(target),
            ..Order::of("restore", &from.name)
        };
        self.jobs.start(order, move |control| {
            let examiner = Examiner::new(&Host::system());
            let options = RestoreOptions::default();
            let report = restore(&repository, &chosen, &place, options, &examiner, control)?;
            Ok(Told::of_restore(&report))
        })
    }

    fn restore_in_place(&self, seat: &Seat, from: From) -> Result<Reply, Refusal> {
        self.jobs.refuse_second()?;
        let database = seat.database().ok_or(LOADING)?;
        let (repository, chosen) = self.chosen(&from, database.directory())?;
        let pins = database
            .refuse_pins()
            .map_err(|error| format!("BUSY {error}"))?;
        let closed = seat.close().ok_or(LOADING)?;
        let wish = in_place::Wish {
            repository,
            chosen,
            again: self.again,
        };
        let closed = in_place::Place::of(closed, self.end.clone());
        let order = Order::of("restore", &from.name);
        self.jobs.start(order, move |control| {
            in_place::run(&wish, closed, (database, pins), control)
        })
    }

    /// The repository, and the backup in it that is meant.
    fn chosen(&self, from: &From, dir: &Path) -> Result<(Repository, BackupId), Refusal> {
        let choose = || -> Result<_, Failure> {
            let place = RepositoryPlace::Folder(from.place.clone());
            let repository = self.key.open(&Host::system(), &place)?;
            let name = from.backup.as_ref();
            let name = name.map(|name| String::from_utf8_lossy(name).into_owned());
            let dir = canonical(dir).unwrap_or_else(|_| dir.to_owned());
            let chosen = choice::choose(&repository, name.as_deref(), &dir)?;
            Ok((repository, chosen))
        };
        choose().map_err(|failure| format!("ERR {}", failure.text()))
    }
}

/// Where a restore is from.
#[derive(Debug)]
struct From {
    name: Bytes,
    place: PathBuf,
    backup: Option<Bytes>,
}

/// Errors: as a reply.
fn resolve(root: &BackupRoot, name: &Bytes) -> Result<PathBuf, Refusal> {
    let resolved = root.resolve(name);
    resolved.map_err(|error| format!("ERR '{}' is refused: {error}", phrase::shown(name)))
}
