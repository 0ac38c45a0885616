//! `stillfs run`: a view for the length of one command.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use anyhow::Context;
use clap::Args;
use sha2::{Digest, Sha256};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::cli::background::{self, Background, Life};
use crate::cli::exit::{Exit, Failure};
use crate::cli::mount::{ViewArgs, absolute};
use crate::cli::output;
use crate::cli::probe;
use crate::cli::starter::MOUNT_VARIABLE;
use crate::mount::point::PointError;
use crate::mount::{Lazy, MountPoint, Registry, unmount};
use crate::os::{Host, path, process};

/// Arguments of `stillfs run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every {} in COMMAND's arguments, and $STILLFS_MOUNT, is where the view is mounted. Without --at that
is the same path at every run for a source, since restic and borg know files by their path.
Exits with COMMAND's status; 13 if a pin was lost or a read of the view failed, whatever COMMAND
made of it, or if the view was unmounted under it; 3 if COMMAND succeeded and something was left
out; 125 if stillfs itself failed; 126 or 127 if COMMAND cannot be run or was not found. If run
itself is killed, the pin goes and COMMAND reads errors, not an empty directory; the mount goes when
nobody of COMMAND lives. What the options mean for each kind of source: stillfs mount --help.

Examples:
  stillfs run /var/lib/app -- tar -C {} -cf backup.tar .
  stillfs run /var/lib/app -- restic backup {}
  stillfs run /var/lib/app/app.db -- cp {}/app.db copy.db")]
pub(crate) struct RunArgs {
    /// A stillfs database (its directory), an SQLite file, or a directory with databases in it
    source: PathBuf,
    /// Where to mount the view: an empty directory
    #[arg(long, value_name = "MOUNTPOINT")]
    at: Option<PathBuf>,
    #[command(flatten)]
    view: ViewArgs,
    /// The command to run on the view
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) fn run(args: &RunArgs) -> ExitCode {
    match run_on_view(args) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output::problem(&failure.text());
            match failure.exit {
                exit @ (Exit::Usage | Exit::CannotRun | Exit::NotFound | Exit::PinLost) => {
                    exit.into()
                }
                _ => Exit::RunFailed.into(),
            }
        }
    }
}

fn run_on_view(args: &RunArgs) -> Result<u8, Failure> {
    let source = absolute(&args.source)?;
    let holder = format!("stillfs run {}", args.command[0].to_string_lossy());
    let mut spec = args.view.spec(source, PathBuf::new(), holder)?;
    // Before a mount point is made for it, which would stay.
    spec.check(&Host::system())?;
    // Before anything is mounted: a signal from here on ends in an orderly release.
    let signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2])
        .context("cannot listen to signals")?;
    spec.mount_point = match &args.at {
        Some(at) => absolute(at)?,
        None => own_mount_point(&spec.source)?,
    };
    let started = Background::start(&spec, Life::AsLongAsInput, args.view.log.as_deref());
    let mut view = started.map_err(|failure| match args.at {
        Some(_) => failure,
        None => leave_mount_point(failure, &spec.mount_point),
    })?;
    let omitted = view.mounted.omitted.tell();
    let ran = run_command(&args.command, &spec.mount_point, signals, &mut view);
    let ending = view.finish();
    let code = ran?;
    match background::tell_trouble(&ending?) {
        Some(exit) => Ok(exit.code()),
        None if code == Exit::Done.code() => Ok(omitted.code()),
        None => Ok(code),
    }
}

/// After a view could not be mounted on a mount point of ours: tells of another run that has it.
fn leave_mount_point(failure: Failure, mount_point: &Path) -> Failure {
    if failure.exit == Exit::InUse && probe::is_view(mount_point) {
        let text =
            "another stillfs run of it is under way: wait for it, or choose a place with --at";
        return Failure::new(failure.exit, failure.error.context(text));
    }
    // For nothing; one that is in use stays.
    let _ = path::remove_dir(mount_point);
    failure
}

fn run_command(
    words: &[OsString],
    mount: &Path,
    signals: Signals,
    view: &mut Background,
) -> Result<u8, Failure> {
    let words: Vec<OsString> = words.iter().map(|word| fill_in(word, mount)).collect();
    let (program, arguments) = words.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(arguments).env(MOUNT_VARIABLE, mount);
    let child = command.spawn().map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::CannotRun,
        };
        let error = anyhow::Error::new(error).context(format!("cannot run {}", program.display()));
        Failure::new(exit, error)
    })?;
    view.tell_command(child.id());
    wait_passing_signals(child, signals)
}

/// Waits for the command; signals that reach us are passed on to it.
fn wait_passing_signals(mut child: Child, mut signals: Signals) -> Result<u8, Failure> {
    let handle = signals.handle();
    let (sender, received) = mpsc::channel();
    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let listener = thread::spawn(move || {
        for signal in signals.forever() {
            if is_over.load(Ordering::SeqCst) || sender.send(signal).is_err() {
                break;
            }
        }
    });
    let has_terminal = io::stdin().is_terminal();
    let status = loop {
        // The child is signalled and waited for by this thread only, so its number is its own.
        if let Some(status) = child.try_wait().context("cannot wait for the command")? {
            break status;
        }
        if let Ok(signal) = received.recv_timeout(std::time::Duration::from_millis(20))
            && !(is_from_terminal(signal) && has_terminal)
            && let Err(error) = process::signal_child(&child, signal)
        {
            tracing::debug!(%error, signal, "cannot pass a signal on");
        }
    };
    over.store(true, Ordering::SeqCst);
    handle.close();
    // It ends by the close; a panic of it was reported already.
    let _ = listener.join();
    Ok(process::shell_code(status))
}

/// Whether a terminal sends this signal to all of its processes, the command among them.
fn is_from_terminal(signal: i32) -> bool {
    signal == SIGINT || signal == SIGQUIT
}

/// `word` with every `{}` replaced by the mount point, bytes as they are.
fn fill_in(word: &OsStr, mount: &Path) -> OsString {
    let mut filled = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some(at) = rest.windows(2).position(|pair| pair == b"{}") {
        let (before, after) = rest.split_at(at);
        filled.extend_from_slice(before);
        filled.extend_from_slice(mount.as_os_str().as_bytes());
        rest = after.get(2..).unwrap_or_default();
    }
    filled.extend_from_slice(rest);
    OsString::from_vec(filled)
}

/// The mount point that is `source`'s own: the same at every run. One that a killed run left behind
/// is cleaned first.
fn own_mount_point(source: &Path) -> Result<PathBuf, Failure> {
    let registry = Registry::of_this_user()?;
    let digest = Sha256::digest(source.as_os_str().as_bytes());
    let hash: String = digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let name = source
        .file_name()
        .unwrap_or(OsStr::new("root"))
        .to_string_lossy();
    let dir = registry.dir().join("views").join(format!("{name}-{hash}"));
    match MountPoint::check(&dir, source, &registry) {
        Err(PointError::Missing { .. }) => {
            path::create_dir_all(&dir, 0o700)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Err(PointError::Stale { .. }) => {
            unmount(&dir, Lazy::Yes)?;
            registry.remove_dead(&dir)?;
        }
        _ => {}
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_braces_becomes_the_mount_point() {
        let fill = |word: &str| fill_in(OsStr::new(word), Path::new("/m n"));
        assert_eq!(fill("{}"), "/m n");
        assert_eq!(fill("a{}b{}"), "a/m nb/m n");
        assert_eq!(fill("{ }{"), "{ }{");
    }
}
