//! `stillfs restore`: a backup is written back, read back, and put in its place in one step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;

mod moment;

use crate::amount::Many;
use crate::cli::examiner::Examiner;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::interrupt::Interrupt;
use crate::cli::job::{self, Audience};
use crate::cli::listing;
use crate::cli::nesting;
use crate::cli::output;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::cli::restore::moment::MomentArgs;
use crate::os::process::raise_file_limit;
use crate::os::{Host, machine};
use crate::repository::restore::{
    Existing, Reached, ReadBack, RestoreOptions, RestorePlan, RestoreReport, Way, find_way,
    left_behind, plan, restore, restore_to,
};
use crate::repository::{BackupFacts, BackupId, Control, Repository};

/// Arguments of `stillfs restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
TARGET becomes what SOURCE was: a directory, or the file of an SQLite file. Writes beside TARGET
(.TARGET.stillfs-restore), reads every byte back from the disk and compares it with the digests of
the backup, and then puts it in TARGET's place in one step. Until then TARGET is what it was.
Nothing that could be replayed over a restored database is left beside it, and a restored stillfs
database starts a new history. Interrupted, the next restore of the same backup to the same TARGET
goes on where it stopped.

Without --backup the newest is restored; if the repository has backups of several sources, --backup
or --latest must be given. Exits 1 if TARGET exists and is not empty, unless --force; 11 if somebody
has it open, in any case; 12 if what is needed is damaged, and nothing is then restored.

With --to-time, --to-timestamp or --to-lsn a stillfs database is restored to the last commit that is
not after that: the newest backup at or before it, and the archived log after that. A moment that
these do not cover is refused with those that are, exit code 1, and nothing is written. The line of
the newest history counts, with those that it goes on from, or that of --history. The database must
be the source of its backups by itself, not in a directory.

Examples:
  stillfs restore /backup/app /var/lib/app-restored
  stillfs restore /backup/app /var/lib/app --backup 20261120T19 --force
  stillfs restore /backup/app /var/lib/app --force --dry-run
  stillfs restore /backup/app /var/lib/app-at-two --to-time '2026-11-20 14:00'
  stillfs restore /backup/app /var/lib/app-before --to-timestamp 4711 --history 9f3c")]
pub(crate) struct RestoreArgs {
    /// The repository: a directory, or s3://BUCKET/PREFIX
    repo: RepositoryPlace,
    /// Where to: a directory, or of an SQLite file the path of the file
    target: PathBuf,
    /// Which backup: its name, the beginning of it, or latest
    #[arg(long, value_name = "ID", conflicts_with = "latest")]
    backup: Option<String>,
    /// The newest, whatever it is of
    #[arg(long)]
    latest: bool,
    #[command(flatten)]
    moment: MomentArgs,
    /// Replace what is at TARGET
    #[arg(long)]
    force: bool,
    /// Do not read back what was written; what comes out of the repository is checked all the same
    #[arg(long)]
    no_verify: bool,
    /// Say what would be done, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print lines of JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    key: KeyArgs,
}

/// What a restore would do: the one line of `--json --dry-run`. The names are stable.
#[derive(Debug, Serialize)]
struct PlanLine<'a> {
    message_type: &'static str,
    exit: u8,
    backup: &'a BackupId,
    target: String,
    files: u64,
    bytes: u64,
    packs: u64,
    free_bytes: u64,
    replaces: bool,
    resumes: bool,
    /// Of a point in time: the history, and bytes of log to replay at most.
    history: Option<String>,
    log_bytes: Option<u64>,
}

/// The last line of `--json`. The names are stable.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    message_type: &'static str,
    exit: u8,
    backup: &'a BackupFacts,
    target: String,
    files: u64,
    bytes: u64,
    bytes_resumed: u64,
    is_read_back: bool,
    /// Of a point in time: the commit that was reached.
    reached: Option<&'a Reached>,
    /// The new history of each stillfs database, by its path in the backup.
    histories: BTreeMap<&'a str, &'a str>,
    notes: &'a [String],
    duration_ns: u64,
}

pub(crate) fn run(args: &RestoreArgs) -> Outcome {
    let host = Host::system();
    let repository = args.key.open(&host, &args.repo)?;
    let target = std::path::absolute(&args.target)?;
    refuse_nested(&target, &args.repo)?;
    let moment = args.moment.wanted()?;
    let way = moment.as_ref().map(|moment| find_way(&repository, moment));
    let way = way.transpose()?;
    let backup = match &way {
        Some(way) => way.backup.clone(),
        None => args.chosen(&repository)?,
    };
    if let Err(error) = raise_file_limit() {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
    let (examiner, options) = (Examiner::new(&host), args.options());
    if args.dry_run {
        let plan = plan(&repository, &backup, &target, options, &examiner)?;
        tell_plan(&plan, way.as_ref(), args.json);
        return Ok(Exit::Done);
    }
    let (interrupt, control) = (Interrupt::listen()?, Control::default());
    let work = || match &moment {
        Some(moment) => restore_to(&repository, moment, &target, options, &examiner, &control),
        None => restore(&repository, &backup, &target, options, &examiner, &control),
    };
    let audience = Audience::of(args.json);
    let report = job::run("restore", audience, &interrupt, &control, work)
        .inspect_err(|_| tell_left_behind(&target))?;
    args.tell(&report);
    Ok(Exit::Done)
}

/// After one that failed or was cancelled.
fn tell_left_behind(target: &Path) {
    if let Some(place) = left_behind(target) {
        output::problem(&format!(
            "what was restored so far is in {}, and the same restore goes on with it",
            place.display()
        ));
    }
}

/// Neither may be replaced by the other, nor grow into it.
///
/// Errors: usage.
fn refuse_nested(target: &Path, place: &RepositoryPlace) -> Result<(), Failure> {
    let Some(place) = place.folder() else {
        return Ok(());
    };
    let refused = |text: &str| {
        let (target, place) = (output::path(target), output::path(place));
        Err(Failure::usage(anyhow!("{target} {text} {place}")))
    };
    if nesting::place_in(target, place).is_some() {
        return refused("lies in the repository");
    }
    if nesting::place_in(place, target).is_some() {
        return refused("holds the repository");
    }
    Ok(())
}

impl RestoreArgs {
    fn options(&self) -> RestoreOptions {
        RestoreOptions {
            existing: match self.force {
                true => Existing::Replaced,
                false => Existing::Refused,
            },
            read_back: match self.no_verify {
                true => ReadBack::No,
                false => ReadBack::Yes,
            },
        }
    }

    /// Errors: `NoBackup`; usage, if nobody said which of several sources is wanted.
    fn chosen(&self, repository: &Repository) -> Result<BackupId, Failure> {
        match &self.backup {
            Some(name) => return Ok(repository.find(name)?),
            None if self.latest => return Ok(repository.find("latest")?),
            None => {}
        }
        let host = machine::name();
        let mut newest = BTreeMap::new();
        for (id, facts) in repository.backups()? {
            let Ok(facts) = facts else { continue };
            let source = listing::source(&facts.source, &host);
            if !repository.is_of_future(&id) || !newest.contains_key(&source) {
                newest.insert(source, id);
            }
        }
        match newest.len() {
            0 | 1 => Ok(repository.find("latest")?),
            count => {
                let lines = newest
                    .iter()
                    .map(|(source, id)| format!("{id} of {source}"));
                Err(Failure::usage(anyhow!(
                    "the repository has backups of {count} sources: say --latest, or --backup with \
                     one of them; the newest of each: {}",
                    lines.collect::<Vec<_>>().join(", ")
                )))
            }
        }
    }

    fn tell(&self, report: &RestoreReport) {
        let facts = &report.facts;
        let missing = facts.left_out.iter().filter(|fact| !fact.is_wanted).count() as u64;
        if missing > 0 {
            output::problem(&format!(
                "the backup itself lacks {} of its source: stillfs backups --json names them",
                Many(missing, "part")
            ));
        }
        if self.json {
            let histories = report.histories.iter();
            output::json_line(&Summary {
                message_type: "summary",
                exit: Exit::Done.code(),
                backup: facts,
                target: report.target.to_string_lossy().into_owned(),
                files: report.files,
                bytes: report.bytes,
                bytes_resumed: report.bytes_resumed,
                is_read_back: !self.no_verify,
                reached: report.reached.as_ref(),
                histories: histories.map(|(path, id)| (&**path, &**id)).collect(),
                notes: &report.notes,
                duration_ns: report.duration_ns,
            });
            return;
        }
        self.lines(report)
            .iter()
            .for_each(|line| output::line(line));
    }

    fn lines(&self, report: &RestoreReport) -> Vec<String> {
        let target = output::path(&report.target);
        let mut lines = vec![
            format!("restored {} to {target}", report.facts.id),
            format!(
                "{} in {}, in {}",
                output::bytes(report.bytes),
                Many(report.files, "file"),
                listing::rate(report.bytes, report.duration_ns)
            ),
        ];
        if report.bytes_resumed > 0 {
            let bytes = output::bytes(report.bytes_resumed);
            lines.push(format!(
                "{bytes} of it were there from an interrupted restore"
            ));
        }
        if let Some(reached) = &report.reached {
            lines.push(format!(
                "replayed {} up to timestamp {} of {} (LSN {}), on the line of history {}",
                Many(reached.commits, "commit"),
                reached.timestamp,
                moment::shown(reached.wall_ns),
                reached.lsn,
                reached.history
            ));
        }
        let histories = report.histories.iter();
        lines.extend(histories.map(|(path, history)| {
            let path = output::plain(path);
            format!("{path} starts history {history}")
        }));
        let notes = report.notes.iter();
        lines.extend(notes.map(|note| format!("note: {}", output::plain(note))));
        lines.push(match self.no_verify {
            false => "every byte was read back and is what was backed up".to_owned(),
            true => {
                "every byte from the repository was checked; what was written was not read back"
                    .to_owned()
            }
        });
        lines
    }
}

fn tell_plan(plan: &RestorePlan, way: Option<&Way>, is_json: bool) {
    if is_json {
        return output::json_line(&PlanLine {
            message_type: "plan",
            exit: Exit::Done.code(),
            backup: &plan.backup,
            target: plan.target.to_string_lossy().into_owned(),
            files: plan.files,
            bytes: plan.bytes,
            packs: plan.packs,
            free_bytes: plan.free_bytes,
            replaces: plan.replaces,
            resumes: plan.resumes,
            history: way.map(|way| way.history.to_string()),
            log_bytes: way.map(Way::log_bytes),
        });
    }
    let target = output::path(&plan.target);
    let what = match plan.replaces {
        true => "would replace",
        false => "would be restored to",
    };
    output::line(&format!("{} {what} {target}", plan.backup));
    output::line(&format!(
        "{} in {} from {}; {} are free",
        output::bytes(plan.bytes),
        Many(plan.files, "file"),
        Many(plan.packs, "pack"),
        output::bytes(plan.free_bytes)
    ));
    if let Some(way) = way {
        output::line(&format!(
            "and up to {} of the log of history {} would be replayed",
            output::bytes(way.log_bytes()),
            way.history
        ));
    }
    if plan.resumes {
        output::line("an interrupted restore would be gone on with");
    }
}
