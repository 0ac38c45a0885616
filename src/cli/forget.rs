//! `stillfs forget`: backups that no rule keeps are forgotten, and with `--prune` their room is given back.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::amount::Many;
use crate::cli::audit::Note;
use crate::cli::bounds::keep_within;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::interrupt::Interrupt;
use crate::cli::job::{self, Audience};
use crate::cli::output;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::os::Host;
use crate::repository::{
    BackupId, Control, ForgetReport, Keep, PruneReport, Reason, Repository, RepositoryError, Run,
    forget, forget_named, prune, prune_after,
};

/// Arguments of `stillfs forget`.
#[derive(Debug, Args)]
#[command(after_help = "\
The rules count for each source apart; a backup stays if one of them keeps it, or if it is held. No
backup needs another: any may go. What is forgotten cannot be restored any more; the room that it
took comes back with --prune, which may be given by itself.

Exits 11 if another process writes to the repository, or a backup that was named is held.

Examples:
  stillfs forget /backup/app --keep-last 3 --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --prune
  stillfs forget /backup/app --keep-within 30d --dry-run
  stillfs forget /backup/app 20261120T190729Z-1f3a5c7e
  stillfs forget /backup/app --prune")]
pub(crate) struct ForgetArgs {
    /// The repository: a directory, or s3://BUCKET/PREFIX
    pub(crate) repo: RepositoryPlace,
    /// Forget these, by name, and no others
    #[arg(value_name = "BACKUP", conflicts_with = "Rules")]
    backups: Vec<String>,
    #[command(flatten)]
    rules: Rules,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove or rewrite packs that hold what no backup needs
    #[arg(long)]
    prune: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
}

/// Which backups stay.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = true)]
struct Rules {
    /// Keep the newest N
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the newest of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// The same of days (UTC)
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// The same of weeks, which begin on Monday
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// The same of months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// Keep what is not older than this, compared with the newest of its source: 36h, 30d, 8w
    #[arg(long, value_name = "DURATION", value_parser = keep_within)]
    keep_within: Option<Duration>,
}

/// What became of the backups. The names are stable.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    kept: Vec<KeptRow>,
    forgotten: Vec<BackupId>,
    /// `null` without `--prune`.
    prune: Option<PruneReport>,
}

#[derive(Debug, Serialize)]
struct KeptRow {
    id: BackupId,
    reasons: Vec<Reason>,
}

pub(crate) fn run(args: &ForgetArgs, note: &mut Note) -> Outcome {
    note.is_idle = args.dry_run;
    let keep = args.rules.keep();
    args.refuse_nothing_asked(&keep)?;
    let host = Host::system();
    let repository = args.key.open(&host, &args.repo)?;
    let run = match args.dry_run {
        true => Run::Dry,
        false => Run::Really,
    };
    let forgotten = match &*args.backups {
        [] if keep == Keep::default() => ForgetReport::default(),
        [] => forget(&repository, &keep, run)?,
        names => {
            let ids = names.iter().map(|name| named(&repository, name));
            forget_named(&repository, &ids.collect::<Result<Vec<_>, _>>()?, run)?
        }
    };
    note.backups = forgotten
        .forgotten
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut report = Report::of(forgotten, args.dry_run);
    if !args.json {
        report.lines().iter().for_each(|line| output::line(line));
    }
    if args.prune {
        let (interrupt, control) = (Interrupt::listen()?, Control::default());
        let work = || match run {
            Run::Really => prune(&repository, run, &control),
            Run::Dry => prune_after(&repository, &report.forgotten, &control),
        };
        let audience = match args.json {
            true => Audience::Nobody,
            false => Audience::People,
        };
        // What was forgotten is told also if the prune fails.
        let pruned = job::run("prune", audience, &interrupt, &control, work)
            .inspect_err(|_| report.tell_json(args.json))?;
        if !args.json {
            output::line(&report.prune_line(&pruned));
        }
        for damage in &pruned.packs_damaged {
            output::problem(&format!("left as it is: {damage}"));
        }
        report.prune = Some(pruned);
    }
    report.tell_json(args.json);
    let damaged = report.prune.iter().flat_map(|prune| &prune.packs_damaged);
    Ok(match damaged.count() {
        0 => Exit::Done,
        _ => Exit::Corrupt,
    })
}

/// The backup of this name; one whose manifest is lost has none but its whole name.
///
/// Errors: `NoBackup`, `ManyBackups`, `Io`.
fn named(repository: &Repository, name: &str) -> Result<BackupId, RepositoryError> {
    match (repository.find(name), name.parse()) {
        (Err(RepositoryError::NoBackup { .. }), Ok(id)) => Ok(id),
        (found, _) => found,
    }
}

impl ForgetArgs {
    /// A slip of the pen must not forget everything.
    ///
    /// Errors: usage.
    fn refuse_nothing_asked(&self, keep: &Keep) -> Result<(), Failure> {
        if self.rules.is_given() && *keep == Keep::default() {
            return Err(Failure::usage(anyhow::anyhow!(
                "these rules keep nothing, and all backups would be forgotten: name them instead"
            )));
        }
        let is_asked = self.rules.is_given() || !self.backups.is_empty() || self.prune;
        match is_asked {
            true => Ok(()),
            false => Err(Failure::usage(anyhow::anyhow!(
                "say which backups stay (--keep-last, --keep-daily, --keep-within ...) or name those \
                 that go"
            ))),
        }
    }
}

impl Rules {
    fn is_given(&self) -> bool {
        let counts = [
            self.keep_last,
            self.keep_hourly,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
        ];
        counts.iter().any(Option::is_some) || self.keep_within.is_some()
    }

    fn keep(&self) -> Keep {
        Keep {
            last: self.keep_last.unwrap_or(0),
            hourly: self.keep_hourly.unwrap_or(0),
            daily: self.keep_daily.unwrap_or(0),
            weekly: self.keep_weekly.unwrap_or(0),
            monthly: self.keep_monthly.unwrap_or(0),
            within: self.keep_within,
        }
    }
}

impl Report {
    fn of(report: ForgetReport, dry_run: bool) -> Self {
        let kept = report.kept.into_iter();
        Self {
            dry_run,
            kept: kept.map(|(id, reasons)| KeptRow { id, reasons }).collect(),
            forgotten: report.forgotten,
            prune: None,
        }
    }

    fn lines(&self) -> Vec<String> {
        let kept = self.kept.iter().map(|row| {
            let reasons: Vec<&str> = row.reasons.iter().map(|reason| word(*reason)).collect();
            format!("kept       {}  {}", row.id, reasons.join(", "))
                .trim_end()
                .to_owned()
        });
        let goes = match self.dry_run {
            true => "would go ",
            false => "forgotten",
        };
        let forgotten = self.forgotten.iter().map(|id| format!("{goes}  {id}"));
        let mut lines: Vec<String> = kept.chain(forgotten).collect();
        if !lines.is_empty() {
            let backups = Many(self.forgotten.len() as u64, "backup");
            lines.push(match self.dry_run {
                true => format!("{backups} would be forgotten; nothing was done"),
                false => format!("{backups} forgotten, {} kept", self.kept.len()),
            });
        }
        lines
    }

    fn tell_json(&self, is_json: bool) {
        if is_json {
            output::json(self);
        }
    }

    fn prune_line(&self, pruned: &PruneReport) -> String {
        let would = match self.dry_run {
            true => "would be ",
            false => "",
        };
        format!(
            "{} {would}removed, {} {would}rewritten: {} of packs before, {} after",
            Many(pruned.packs_removed, "pack"),
            pruned.packs_hollowed,
            output::bytes(pruned.bytes_before),
            output::bytes(pruned.bytes_after)
        )
    }
}

fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Last => "last",
        Reason::Hourly => "hourly",
        Reason::Daily => "daily",
        Reason::Weekly => "weekly",
        Reason::Monthly => "monthly",
        Reason::Within => "within",
        Reason::Held => "held",
        Reason::Future => "of the future",
        Reason::Unreadable => "cannot be read",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ForgetArgs,
    }

    fn refusal(words: &[&str]) -> Result<Keep, String> {
        let line = [&["forget", "/r"], words].concat();
        let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        let keep = line.args.rules.keep();
        let refused = line.args.refuse_nothing_asked(&keep);
        refused.map_err(|failure| failure.text()).map(|()| keep)
    }

    #[test]
    fn rules_are_what_was_written() {
        let words = "--keep-last 1 --keep-hourly 2 --keep-daily 3 --keep-weekly 4 --keep-monthly 5 \
                     --keep-within 2w";
        let keep = refusal(&words.split_whitespace().collect::<Vec<_>>()).unwrap();
        let expected = Keep {
            last: 1,
            hourly: 2,
            daily: 3,
            weekly: 4,
            monthly: 5,
            within: Some(Duration::from_secs(14 * 86_400)),
        };
        assert_eq!(keep, expected);
        refusal(&["--keep-within", "12"]).unwrap_err();
    }

    /// Whoever says nothing, or `--keep-last 0`, has not said that all shall go.
    #[test]
    fn nothing_is_forgotten_by_a_slip() {
        assert!(refusal(&[]).unwrap_err().contains("say which"));
        assert!(refusal(&["--dry-run"]).unwrap_err().contains("say which"));
        let none = refusal(&["--keep-last", "0"]).unwrap_err();
        assert!(none.contains("keep nothing"), "{none}");
        refusal(&["2026", "--keep-last", "3"]).unwrap_err();
        assert_eq!(refusal(&["--prune"]), Ok(Keep::default()));
        assert_eq!(refusal(&["2026", "--prune"]), Ok(Keep::default()));
    }
}
