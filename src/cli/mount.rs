//! `stillfs mount`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::background::{Background, Life, ViewSpec, mount_options};
use crate::cli::bounds::BoundArgs;
use crate::cli::daemon;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::os::path::canonical;

/// Options that `mount` and `run` share.
#[derive(Clone, Debug, Args)]
pub(crate) struct ViewArgs {
    /// Mount options, separated by commas: allow_other, default_permissions, direct_io, noexec.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
    /// Append the daemon's log to FILE.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) bounds: BoundArgs,
}

impl ViewArgs {
    /// Errors: usage, for an option that there is not.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        mount_options(&self.options).map(drop)
    }
}

/// Arguments of `stillfs mount`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exits 0 once the mount answers; the daemon then stays in the background until somebody unmounts:
stillfs umount, umount(8), fusermount3 -u, or SIGTERM to the daemon. When the pin ends before, by its
age, its shadow limit or a full disk, every further read fails, and stillfs status says why.

Examples:
  stillfs mount /var/lib/app /mnt/still
  stillfs mount /var/lib/app /mnt/still -o allow_other
  stillfs mount -f /var/lib/app /mnt/still          stays in front; Ctrl-C unmounts")]
pub(crate) struct MountArgs {
    /// The database: its directory, whether an engine runs on it or not.
    source: PathBuf,
    /// An empty directory outside of SOURCE.
    mountpoint: PathBuf,
    /// Stay in the foreground.
    #[arg(short, long)]
    foreground: bool,
    #[command(flatten)]
    view: ViewArgs,
}

pub(crate) fn run(args: &MountArgs) -> Outcome {
    args.view.check()?;
    let spec = ViewSpec {
        source: absolute(&args.source)?,
        mount_point: absolute(&args.mountpoint)?,
        options: args.view.options.clone(),
        holder: "stillfs mount".to_owned(),
        bounds: args.view.bounds.clone(),
    };
    if args.foreground {
        return daemon::serve(&spec, Life::UntilUnmounted, &mut |mounted| {
            output::line(&format!(
                "mounted {} on {}: commit {}",
                spec.source.display(),
                spec.mount_point.display(),
                mounted.timestamp
            ));
        });
    }
    Background::start(&spec, Life::OnceTakenOver, args.view.log.as_deref())?;
    Ok(Exit::Done)
}

/// The path without links and dots where it exists; otherwise made absolute, so that the error names
/// what was meant.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    canonical(path)
        .or_else(|_| std::path::absolute(path))
        .map_err(Failure::from)
}
