//! `stillfs status`: mounts and pins, also those of dead daemons.

mod engine;
mod mount;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::daemon::ViewStatus;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::kind;
use crate::cli::output;
use crate::cli::probe;
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

Examples:
  stillfs status                       every mount of this user, and the engines behind them
  stillfs status /var/lib/app          one source: its mounts, and its engine with all pins
  stillfs status /mnt/still --json     one mount, for programs")]
pub(crate) struct StatusArgs {
    /// A source or a mount point; everything if absent.
    path: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is shown; the names are stable.
#[derive(Debug, Default, Serialize)]
struct Status {
    mounts: Vec<MountShown>,
    engines: Vec<EngineShown>,
}

pub(crate) fn run(args: &StatusArgs) -> Outcome {
    let host = Host::system();
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
            let kind = match source::kind_of(&host, &path, &[]) {
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
    let status = Status {
        mounts: listed.iter().map(|one| mount::show(&host, one)).collect(),
        engines: sources.iter().map(|source| engine::show(source)).collect(),
    };
    if args.json {
        output::json(&status);
    } else {
        print(&status);
    }
    Ok(Exit::Done)
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
    let asked = ask_daemon(path).or_else(|| ask_daemon(path.parent()?));
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

/// Asks the daemon through its mount. One that hangs costs a moment, nothing more.
pub(crate) fn ask_daemon(mount_point: &Path) -> Option<ViewStatus> {
    probe::ask(mount_point)?.status
}

fn print(status: &Status) {
    if status.mounts.is_empty() && status.engines.is_empty() {
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
