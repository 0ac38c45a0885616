//! `stillfs scheduled`: an entry of the configuration, or all, from the backup to the verification, in one
//! process with one exit code. What a timer or cron runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::amount::Many;
use crate::cli::audit::{self, Note};
use crate::cli::backup;
use crate::cli::config::{Config, Entry, PLACE};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::interrupt::Interrupt;
use crate::cli::job::{self, Audience};
use crate::cli::metrics;
use crate::cli::nesting;
use crate::cli::output;
use crate::cli::verify;
use crate::os::{Host, machine};
use crate::repository::{
    Control, Keep, Repository, RepositoryError, Run, SourceName, forget_of, is_of_future, prune,
    read_audit,
};

/// Arguments of `stillfs scheduled`.
#[derive(Debug, Args)]
#[command(after_help = "\
Of each entry: a backup; then its backups that no rule of `keep` keeps are forgotten, and their
room is given back; then every byte of the repository is read back, if `verify` says that it is
time. What fails ends its entry; the others go on. Other sources in the same repository are left
alone.

Exits with the code of the first entry that failed; else 3 if something was left out; else 0. The
configuration is checked as a whole before anything is done; --check does only that.

A configuration:
  [[backup]]
  name = \"app\"
  source = \"/var/lib/app\"
  repo = \"/backup/app\"
  options = [\"--exclude\", \"*.log\"]                  # as stillfs backup knows them
  keep = { daily = 7, weekly = 5, monthly = 12 }
  verify = { every = \"7d\", restore-test = true }
  alert = { max-age = \"26h\", verified-within = \"21d\", shrink = \"50%\" }

Examples:
  stillfs scheduled                                  all entries of /etc/stillfs/*.toml
  stillfs scheduled app --config ./stillfs.toml
  stillfs scheduled --check")]
pub(crate) struct ScheduledArgs {
    /// Entries of the configuration [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The configuration: a file, or a folder with *.toml in it
    #[arg(long, value_name = "FILE", env = "STILLFS_CONFIG", default_value = PLACE)]
    config: PathBuf,
    /// Read the configuration, and do nothing
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &ScheduledArgs) -> Outcome {
    let host = Host::system();
    let config = Config::load(&host, &args.config)?;
    let entries = config.chosen(&args.names)?;
    if args.check {
        for entry in entries {
            let (source, repo) = (output::path(&entry.source), &entry.repo);
            output::line(&format!("{}  {source} to {repo}", entry.name));
        }
        return Ok(Exit::Done);
    }
    let interrupt = Interrupt::listen()?;
    let mut exit = Exit::Done;
    for entry in entries {
        if interrupt.is_asked() {
            exit = Exit::Interrupted;
            break;
        }
        exit = worse(exit, run_entry(&host, entry, &interrupt));
    }
    if let Some(textfile) = &config.textfile
        && let Err(error) = metrics::write_textfile(&host, Some(&config), textfile)
    {
        output::problem(&format!("cannot write {}: {error}", output::path(textfile)));
        exit = worse(exit, Exit::Failed);
    }
    Ok(exit)
}

/// What both come to: the first failure, and before something left out.
fn worse(before: Exit, after: Exit) -> Exit {
    match (before, after) {
        (_, Exit::Interrupted) => after,
        (Exit::Done, _) => after,
        (Exit::LeftOut, after) if after != Exit::Done => after,
        _ => before,
    }
}

/// All that is to be done for one; a step that fails is told of and is the last, and so is the one in which
/// somebody asked to stop, also if it came to its end.
fn run_entry(host: &Host, entry: &Entry, interrupt: &Interrupt) -> Exit {
    output::line(&format!("== {}", entry.name));
    let mut exit = Exit::Done;
    let steps: [(&str, Step); 3] = [
        ("backup", back_up),
        ("forget", forget_old),
        ("verify", verify_if_due),
    ];
    for (word, step) in steps {
        if interrupt.is_asked() {
            return Exit::Interrupted;
        }
        match step(host, entry, interrupt) {
            Ok(Exit::Done) => {}
            Ok(Exit::LeftOut) => exit = worse(exit, Exit::LeftOut),
            Ok(failed) => return worse(exit, failed),
            Err(failure) => {
                output::problem(&format!("{}: {word}: {}", entry.name, failure.text()));
                return worse(exit, failure.exit);
            }
        }
    }
    exit
}

type Step = fn(&Host, &Entry, &Interrupt) -> Outcome;

/// What the log is told of a step.
fn note(entry: &Entry) -> Note {
    Note {
        entry: Some(entry.name.clone()),
        ..Note::of(&entry.source)
    }
}

fn open(host: &Host, entry: &Entry) -> Result<Repository, Failure> {
    entry.key().open(host, &entry.repo)
}

fn back_up(_host: &Host, entry: &Entry, _interrupt: &Interrupt) -> Outcome {
    let args = entry.backup_args();
    let args = args.map_err(|problem| Failure::usage(anyhow::anyhow!(problem)))?;
    audit::run("backup", (&entry.repo, &entry.key()), note(entry), |note| {
        backup::run(&args, note)
    })
}

fn forget_old(host: &Host, entry: &Entry, interrupt: &Interrupt) -> Outcome {
    let Some(keep) = entry.keep() else {
        return Ok(Exit::Done);
    };
    let repository = open(host, entry)?;
    audit::run("forget", (&entry.repo, &entry.key()), note(entry), |note| {
        forget_and_prune(&repository, (entry, &keep), interrupt, note)
    })
}

fn forget_and_prune(
    repository: &Repository,
    (entry, keep): (&Entry, &Keep),
    interrupt: &Interrupt,
    note: &mut Note,
) -> Outcome {
    let source = SourceName {
        kind: String::new(),
        path: nesting::real(&entry.source).to_string_lossy().into_owned(),
        host: machine::name(),
    };
    let report = forget_of(repository, &source, keep, Run::Really)?;
    note.backups = report.forgotten.iter().map(ToString::to_string).collect();
    note.is_idle = report.forgotten.is_empty();
    let forgotten = Many(report.forgotten.len() as u64, "backup");
    output::line(&format!("forgot  {forgotten}, {} stay", report.kept.len()));
    if report.forgotten.is_empty() {
        return Ok(Exit::Done);
    }
    let control = Control::default();
    let work = || prune(repository, Run::Really, &control);
    let pruned = job::run("prune", Audience::People, interrupt, &control, work)
        .inspect_err(|_| note.is_idle = false)?;
    let freed = pruned.bytes_before.saturating_sub(pruned.bytes_after);
    output::line(&format!("freed   {}", output::bytes(freed)));
    for damage in &pruned.packs_damaged {
        output::problem(&format!("left as it is: {damage}"));
    }
    Ok(match pruned.packs_damaged.is_empty() {
        true => Exit::Done,
        false => Exit::Corrupt,
    })
}

fn verify_if_due(host: &Host, entry: &Entry, _interrupt: &Interrupt) -> Outcome {
    let args = entry.verify_args();
    let args = args.map_err(|problem| Failure::usage(anyhow::anyhow!(problem)))?;
    let (Some(rule), Some(args)) = (entry.verify(), args) else {
        return Ok(Exit::Done);
    };
    let repository = open(host, entry)?;
    if !is_due(&repository, entry, rule.every)? {
        return Ok(Exit::Done);
    }
    audit::run("verify", (&entry.repo, &entry.key()), note(entry), |note| {
        verify::run(&args, note)
    })
}

/// Whether no backup of the source was read back within `every`. What was found to be damaged is read again
/// when it is time, too. A verification by a clock that was ahead counts for nothing: as long as its time has
/// not come, none would be due.
fn is_due(
    repository: &Repository,
    entry: &Entry,
    every: Duration,
) -> Result<bool, RepositoryError> {
    let path = nesting::real(&entry.source).to_string_lossy().into_owned();
    let now_ns = repository.host().clock.wall_ns();
    let mut times_ns = Vec::new();
    for (id, facts) in repository.backups()? {
        if facts.is_ok_and(|facts| facts.source.path == path)
            && let Some(verified) = repository.mark(&id).ok().and_then(|mark| mark.verified)
        {
            times_ns.push(verified.at_ns);
        }
    }
    let log = read_audit(repository.store().as_ref())?;
    // The backup that was read then may be forgotten by now.
    let found = log.events.iter().filter(|event| {
        let is_read = [Exit::Done, Exit::Corrupt]
            .map(Exit::code)
            .contains(&event.exit);
        is_read && event.is_verification_of(&path)
    });
    times_ns.extend(found.map(|event| event.finished_ns));
    let times_ns = times_ns.into_iter();
    let believed = times_ns.filter(|ns| !is_of_future(*ns, now_ns));
    let last_ns = believed.max().unwrap_or_default();
    Ok(u128::from(now_ns.saturating_sub(last_ns)) >= every.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A signal that comes while nothing listens to it ends the run all the same.
    #[test]
    fn nothing_is_begun_after_somebody_asked_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        let (file, repo) = (dir.path().join("c.toml"), dir.path().join("repo"));
        let text = format!(
            "[[backup]]\nname = \"app\"\nsource = {:?}\nrepo = {repo:?}\n",
            dir.path().join("app")
        );
        crate::os::path::publish_file(&file, text.as_bytes()).unwrap();
        let host = Host::system();
        let config = Config::load(&host, &file).map_err(|failure| failure.text());
        let exit = run_entry(&host, &config.unwrap().entries[0], &Interrupt::asked());
        assert_eq!(exit, Exit::Interrupted);
    }

    /// One code says what was worst, and what came first of that.
    #[test]
    fn first_failure_is_the_exit_code() {
        let all = |exits: &[Exit]| exits.iter().copied().fold(Exit::Done, worse);
        assert_eq!(all(&[]), Exit::Done);
        assert_eq!(all(&[Exit::LeftOut, Exit::Done]), Exit::LeftOut);
        assert_eq!(
            all(&[Exit::LeftOut, Exit::InUse, Exit::Failed]),
            Exit::InUse
        );
        assert_eq!(all(&[Exit::Corrupt, Exit::LeftOut]), Exit::Corrupt);
        assert_eq!(all(&[Exit::Failed, Exit::Interrupted]), Exit::Interrupted);
    }
}
