//! `stillfs status`: mounts and pins, also those of dead daemons.

mod engine;
mod mount;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::config::{Config, PLACE};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::kind;
use crate::cli::output;
use crate::cli::probe::{self, status_of};
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::cli::watch::Watch;
use crate::database::SOCKET_FILE;
use crate::mount::Registry;
use crate::mount::registry::Listed;
use crate::os::Host;
use crate::os::path::file_type_of;
use crate::source::{self, Kind, SourceError};
use engine::EngineShown;
use mount::MountShown;

/// Arguments of `stillfs status`.
#[derive(Debug, Args)]
#[command(after_help = "\
A mount is held; or it was made while no engine ran, and none has since; or its engine is gone, and
the view stands; or its pin has ended, with the reason. Of SQLite databases it shows what each
keeps: the bytes of log that cannot be used anew meanwhile, and how fast they grow.

Of backups it shows how old they are, how verified, how large, and how many runs were done: those
of the entries of the configuration, or of every source in --repo. --alerts shows only what somebody
must look at, each with what to do next, and exits 4 if there is any: unreadable, damaged, failing,
overdue, empty, shrinking, unverified. Without a configuration a backup is overdue after 26 hours,
unverified after 35 days, and shrinking if it has less than half of those before.

Examples:
  stillfs status                       every mount of this user, and the engines behind them
  stillfs status /var/lib/app          one source: its mounts, and its engine with all pins
  stillfs status /mnt/still --json     one mount, for programs
  stillfs status --repo /backup/app    the backups in a repository
  stillfs status --alerts              what is wrong with backups, and what to do")]
pub(crate) struct StatusArgs {
    /// A source or a mount point; everything if absent.
    path: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show the backups of every source in this repository, and no mounts; may be given more than once
    #[arg(long, value_name = "REPO", conflicts_with = "path")]
    repo: Vec<RepositoryPlace>,
    #[command(flatten)]
    key: KeyArgs,
    /// The configuration, whose backups are shown too if no PATH is given: a file, or a folder with *.toml
    /// in it [default: /etc/stillfs, if it is there]
    #[arg(long, value_name = "FILE", env = "STILLFS_CONFIG")]
    config: Option<PathBuf>,
    /// Show only what is wrong with backups, and exit 4 if anything is
    #[arg(long, conflicts_with = "path")]
    alerts: bool,
}

/// What is shown; the names are stable.
#[derive(Debug, Default, Serialize)]
struct Status {
    mounts: Vec<MountShown>,
    engines: Vec<EngineShown>,
    #[serde(flatten)]
    watch: Option<Watch>,
}

pub(crate) fn run(args: &StatusArgs) -> Outcome {
    let host = Host::system();
    let watch = args.watch(&host)?;
    let mut status = match args.alerts || !args.repo.is_empty() {
        true => Status::default(),
        false => mounts(args, &host)?,
    };
    let has_alerts = watch.as_ref().is_some_and(|watch| !watch.alerts.is_empty());
    status.watch = watch;
    match (args.json, &status.watch) {
        (true, _) => output::json(&status),
        (false, Some(watch)) if args.alerts => {
            watch
                .alert_lines()
                .iter()
                .for_each(|line| output::line(line));
        }
        (false, _) => print(&status),
    }
    Ok(match args.alerts && has_alerts {
        true => Exit::Alert,
        false => Exit::Done,
    })
}

impl StatusArgs {
    /// The backups that are asked for.
    ///
    /// Errors: usage, for a configuration that cannot be read, or that there is not and alerts are asked for.
    fn watch(&self, host: &Host) -> Result<Option<Watch>, Failure> {
        if self.path.is_some() {
            return Ok(None);
        }
        let place = Path::new(PLACE);
        let config = match &self.config {
            Some(config) => Some(Config::load(host, config)?),
            None if !self.repo.is_empty() => None,
            None if self.alerts => Some(Config::load(host, place)?),
            None if Config::is_there(host, place) => {
                let config = Config::load(host, place);
                // Whoever asks for mounts is to see them.
                config
                    .inspect_err(|failure| output::problem(&failure.text()))
                    .ok()
            }
            None => None,
        };
        let is_asked = config.is_some() || !self.repo.is_empty();
        Ok(is_asked.then(|| Watch::look(host, config.as_ref(), (&self.repo, &self.key))))
    }
}

/// Mounts, and the engines behind them.
fn mounts(args: &StatusArgs, host: &Host) -> Result<Status, Failure> {
    let registry = Registry::of_this_user()?;
    let mut listed = registry.list()?;
    let mut sources: Vec<PathBuf> = Vec::new();
    if let Some(path) = &args.path {
        let path = probe::reach(path)?;
        // What is in a directory is shown by a view of it, and what is in a view by that.
        let is_of = |one: &Listed| {
            path.starts_with(&one.record.mount_point) || path.starts_with(&one.record.source)
        };
        listed.retain(is_of);
        // A view is not asked for anything here: its daemon may hang.
        if !probe::is_view(&path) {
            let has_engine = file_type_of(&path.join(SOCKET_FILE)).is_ok();
            let kind = match source::kind_of(host, &path, &[]) {
                // A source that is shown may be gone by now, and an engine may be silent.
                Err(_) if has_engine => Some(Kind::Native),
                Err(_) if !listed.is_empty() => None,
                Err(error) => return Err(no_view(&path, &error).into()),
                // Any directory can be mounted; this one is not, and whoever asks means a view.
                Ok(Kind::Tree) if listed.is_empty() => return Err(no_mount(&path).into()),
                Ok(kind) => Some(kind),
            };
            let is_source = listed.iter().all(|one| one.record.mount_point != path);
            sources.extend((is_source && kind == Some(Kind::Native)).then_some(path));
        }
    }
    let of_engines = listed.iter().map(|one| &one.record);
    let of_engines = of_engines.filter(|one| kind::of_name(&one.source_kind) == Kind::Native);
    sources.extend(of_engines.map(|record| record.source.clone()));
    sources.sort();
    sources.dedup();
    Ok(Status {
        mounts: listed.iter().map(|one| mount::show(host, one)).collect(),
        engines: sources.iter().map(|source| engine::show(source)).collect(),
        watch: None,
    })
}

/// A path as text; JSON cannot say what is not UTF-8.
fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The outcome of reading `path`, unless that is a mount whose pin has ended: then what failed says
/// nothing about the database.
///
/// Errors: `PinLost`; those of the outcome.
pub(crate) fn refuse_ended(path: &Path, outcome: Outcome) -> Outcome {
    if matches!(outcome, Ok(Exit::Done)) {
        return outcome;
    }
    let asked = status_of(path).or_else(|| status_of(path.parent()?));
    match asked.filter(|status| status.state == "ended") {
        None => outcome,
        Some(status) => Err(Failure::new(
            Exit::PinLost,
            anyhow::anyhow!(
                "the pin of the view at {} has ended ({}): unmount it and mount again",
                path.display(),
                status.reason.unwrap_or_default()
            ),
        )),
    }
}

fn print(status: &Status) {
    if let Some(watch) = &status.watch {
        watch.lines().iter().for_each(|line| output::line(line));
    } else if status.mounts.is_empty() && status.engines.is_empty() {
        output::line("no mounts");
    }
    status.mounts.iter().for_each(mount::print);
    status.engines.iter().for_each(engine::print);
}

fn seconds(count: u64) -> String {
    output::duration(Duration::from_secs(count))
}

/// Neither a view nor a source.
fn no_view(path: &Path, error: &SourceError) -> anyhow::Error {
    let (path, why) = (path.display().to_string(), error.to_string());
    let why = match why.strip_prefix(&path) {
        Some(rest) => format!("it{rest}"),
        None => why,
    };
    anyhow::anyhow!("no view is mounted at {path}: {why}")
}

/// A directory that could be mounted.
fn no_mount(path: &Path) -> anyhow::Error {
    let path = output::path(path);
    anyhow::anyhow!("no view is mounted at {path}, and none shows what is in it")
}
