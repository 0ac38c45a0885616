//! `stillfs mount`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::amount::Many;
use crate::cli::background::{Background, Life, Mounted, ViewSpec};
use crate::cli::bounds::BoundArgs;
use crate::cli::daemon;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::cli::request::{SourceArgs, Words};
use crate::os::path::canonical;

/// Options that `mount` and `run` share.
#[derive(Clone, Debug, Args)]
pub(crate) struct ViewArgs {
    /// Options, separated by commas: allow_other, default_permissions, direct_io, noexec; of SQLite
    /// databases: sqlite_header=rollback, no_recover, clone; of directories: files=clone
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
    /// Append the daemon's log to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) bounds: BoundArgs,
    #[command(flatten)]
    pub(crate) asked: SourceArgs,
}

impl ViewArgs {
    /// What is to be mounted.
    ///
    /// Errors: usage, for an option that there is not, or one that names what is not there.
    pub(crate) fn spec(
        &self,
        source: PathBuf,
        mount_point: PathBuf,
        holder: String,
    ) -> Result<ViewSpec, Failure> {
        Words::parse(&self.options)?;
        Ok(ViewSpec {
            options: self.options.clone(),
            bounds: self.bounds.clone(),
            asked: self.asked.resolve(&source)?,
            source,
            mount_point,
            holder,
        })
    }
}

/// Arguments of `stillfs mount`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exits 0 once the mount answers; the daemon then stays in the background until somebody unmounts:
stillfs umount, umount(8), fusermount3 -u, or SIGTERM to the daemon. Exits 3, with the mount up, if
something was left out, which is named. When a pin ends before, by its age or a limit, or because
its log was removed, every further read of it fails, and stillfs status says why.

SQLite: the application is not configured and not stopped. The view is one file, without -wal, -shm
and -journal. Open it in place with sqlite3 'file:/mnt/still/app.db?immutable=1', or mount with
-o sqlite_header=rollback. While a database in WAL mode is shown its log grows, and FULL, RESTART
and TRUNCATE checkpoints of its application wait; one in a rollback mode is copied at the pin.
  sqlite_header=rollback  show a header that stock sqlite3 opens on a read-only file system
  no_recover              refuse a database that SQLite must recover first
  clone                   clone the files and let the log go at once; fragments the live file
  files=clone             plain files of a directory as they were at the pin, by clones

A directory is shown with all its files: databases pinned, plain files as they are when they are
read, network file systems mounted in it left out.

A view of a stillfs database stands while its engine is stopped, and the next engine takes the pin
over. Where no engine runs, the mount itself writes the pin into SOURCE/shadow; root does that with
the rights of the owner of SOURCE.

Examples:
  stillfs mount /var/lib/app/app.db /mnt/still      one SQLite database
  stillfs mount /var/lib/app /mnt/still             a whole directory, or a stillfs database
  stillfs mount /var/lib/app /mnt/still --atomic-set --skip-unpinnable
  stillfs mount app.db /mnt/still --source-wal-limit 4G --on-full spill
  stillfs mount -f /var/lib/app /mnt/still          stays in front; Ctrl-C unmounts")]
pub(crate) struct MountArgs {
    /// A stillfs database (its directory), an SQLite file, or a directory with databases in it
    source: PathBuf,
    /// An empty directory outside of SOURCE
    mountpoint: PathBuf,
    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,
    #[command(flatten)]
    view: ViewArgs,
}

pub(crate) fn run(args: &MountArgs) -> Outcome {
    let (source, mount_point) = (absolute(&args.source)?, absolute(&args.mountpoint)?);
    let spec = args
        .view
        .spec(source, mount_point, "stillfs mount".to_owned())?;
    if !args.foreground {
        let view = Background::start(&spec, Life::OnceTakenOver, args.view.log.as_deref())?;
        return Ok(view.mounted.omitted.tell());
    }
    let mut omitted = Exit::Done;
    let exit = daemon::serve(&spec, Life::UntilUnmounted, &mut |mounted| {
        output::line(&told(&spec, &mounted));
        omitted = mounted.omitted.tell();
    })?;
    Ok(match exit {
        Exit::Done => omitted,
        exit => exit,
    })
}

/// What is said of a view that stays in front.
fn told(spec: &ViewSpec, mounted: &Mounted) -> String {
    let (source, point) = (output::path(&spec.source), output::path(&spec.mount_point));
    let what = match mounted.timestamp {
        Some(timestamp) => format!("commit {timestamp}"),
        None => {
            let skew = (!spec.asked.atomic_set).then_some(mounted.skew_us);
            pinned(mounted.database_count, skew)
        }
    };
    format!("mounted {source} on {point}: {what}")
}

/// So many databases, and how close together they were pinned; without a skew it was at one instant.
pub(crate) fn pinned(database_count: u64, skew_us: Option<u64>) -> String {
    let databases = Many(database_count, "database").to_string();
    match (database_count, skew_us) {
        (0 | 1, _) => databases,
        (_, None) => format!("{databases}, pinned at one instant"),
        (_, Some(us)) if us < 1000 => format!("{databases}, pinned within {} us", us.max(1)),
        (_, Some(us)) => format!("{databases}, pinned within {} ms", us.div_ceil(1000)),
    }
}

/// The path without links and dots where it exists; otherwise made absolute, so that the error names
/// what was meant.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    canonical(path)
        .or_else(|_| std::path::absolute(path))
        .map_err(Failure::from)
}
