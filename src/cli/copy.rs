//! `stillfs copy`: backups in a second repository, every byte checked on the way.

use clap::Args;
use serde::Serialize;

use crate::amount::Many;
use crate::cli::audit::Note;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::interrupt::Interrupt;
use crate::cli::job::{self, Audience};
use crate::cli::output;
use crate::cli::repository_key::{FromKeyArgs, KeyArgs};
use crate::cli::repository_place::RepositoryPlace;
use crate::os::Host;
use crate::repository::{BackupId, Control, CopyReport, copy};

/// Arguments of `stillfs copy`.
#[derive(Debug, Args)]
#[command(after_help = "\
REPO2 is made if it is not there; one that is encrypted, by stillfs init before. Backups keep their
names; content that REPO2 has already is not copied again. Every byte is checked as it is read, so
damage does not spread: a backup that cannot be read is not copied, is named, and the exit code is
12; the others are copied. Of archived logs (stillfs archive) what the backups in REPO2 can go on
with is copied too, so that every commit that REPO covers after them can be restored from it. A log
that REPO2 archives by itself, and began to at another start of the database, is left alone, and the
exit code is 3.

Examples:
  stillfs copy /backup/app /mnt/usb/app            all that are not there yet
  stillfs copy /backup/app /mnt/usb/app latest")]
pub(crate) struct CopyArgs {
    /// The repository to copy from
    pub(crate) repo: RepositoryPlace,
    /// The repository to copy to
    pub(crate) repo2: RepositoryPlace,
    /// Which backups: names, their beginnings, or latest [default: all]
    #[arg(value_name = "BACKUP")]
    backups: Vec<String>,
    /// Print lines of JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    #[command(flatten)]
    from_key: FromKeyArgs,
}

/// The last line of `--json`. The names are stable.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    message_type: &'static str,
    exit: u8,
    copied: &'a [BackupId],
    present: &'a [BackupId],
    bytes_read: u64,
    bytes_stored: u64,
    /// Pieces of logs that were copied.
    log_pieces: u64,
    /// Pieces of logs that were not, though a backup in REPO2 could go on with them.
    log_pieces_left: u64,
    /// Backups that cannot be read, and why.
    failed: Vec<FailedRow<'a>>,
    /// Pieces of logs that cannot be read, and logs that are left alone, and why.
    log_failed: Vec<LogRow<'a>>,
}

#[derive(Debug, Serialize)]
struct LogRow<'a> {
    name: &'a str,
    problem: &'a str,
}

#[derive(Debug, Serialize)]
struct FailedRow<'a> {
    id: &'a BackupId,
    problem: &'a str,
}

pub(crate) fn run(args: &CopyArgs, note: &mut Note) -> Outcome {
    let host = Host::system();
    let (from, to) = (args.repo.real(), args.repo2.real());
    if from.overlaps(&to) {
        return Err(Failure::usage(anyhow::anyhow!(
            "{from} and {to} are one place, or one lies in the other"
        )));
    }
    let from = args.from_key.open(&host, &from, &args.key)?;
    let ids = match &*args.backups {
        [] => from.ids()?,
        names => {
            let ids = names.iter().map(|name| from.find(name));
            ids.collect::<Result<_, _>>()?
        }
    };
    let to = args.key.open_or_create(&host, &to)?;
    let (interrupt, control) = (Interrupt::listen()?, Control::default());
    let work = || copy(&from, &to, &ids, &control);
    let report = job::run("copy", Audience::of(args.json), &interrupt, &control, work)?;
    note.backups = report.copied.iter().map(ToString::to_string).collect();
    let exit = match report.failed.is_empty() && report.log.failed.is_empty() {
        true if report.log.apart.is_empty() => Exit::Done,
        true => Exit::LeftOut,
        false => Exit::Corrupt,
    };
    for (id, problem) in &report.failed {
        output::problem(&format!("backup {id} is not copied: {problem}"));
    }
    for (object, problem) in &report.log.failed {
        output::problem(&format!("{object} is not copied: {problem}"));
    }
    for (line, problem) in &report.log.apart {
        output::problem(&format!("the log {line} is not copied: {problem}"));
    }
    match args.json {
        true => output::json_line(&Summary::of(&report, exit)),
        false => tell(&report),
    }
    Ok(exit)
}

impl<'a> Summary<'a> {
    fn of(report: &'a CopyReport, exit: Exit) -> Self {
        let failed = report.failed.iter();
        let log_failed = report.log.failed.iter();
        let log_failed = log_failed.map(|(name, problem)| (name, problem.as_str()));
        let apart = report.log.apart.iter();
        let apart = apart.map(|(name, problem)| (name, *problem));
        Self {
            message_type: "summary",
            exit: exit.code(),
            copied: &report.copied,
            present: &report.present,
            bytes_read: report.bytes_read,
            bytes_stored: report.bytes_stored,
            log_pieces: report.log.pieces,
            log_pieces_left: report.log.pieces_left,
            failed: failed
                .map(|(id, problem)| FailedRow { id, problem })
                .collect(),
            log_failed: log_failed
                .chain(apart)
                .map(|(name, problem)| LogRow { name, problem })
                .collect(),
        }
    }
}

fn tell(report: &CopyReport) {
    for id in &report.copied {
        output::line(&format!("copied  {id}"));
    }
    output::line(&format!(
        "{} copied, {} there already; {} read, {} stored",
        Many(report.copied.len() as u64, "backup"),
        report.present.len(),
        output::bytes(report.bytes_read),
        output::bytes(report.bytes_stored)
    ));
    if report.log.pieces > 0 {
        let pieces = Many(report.log.pieces, "piece");
        output::line(&format!("copied  the archived log after them, {pieces}"));
    }
}
