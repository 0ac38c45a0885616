//! `stillfs umount`.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::mount::absolute;
use crate::cli::output;
use crate::cli::status::ask_daemon;
use crate::mount::registry::Wait;
use crate::mount::unmount::UnmountError;
use crate::mount::{Lazy, Registry, unmount};
use crate::os::Host;

/// How long nothing is said.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the daemon may take to release its pin after the kernel has unmounted.
const RELEASE_PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `stillfs umount`.
#[derive(Debug, Args)]
#[command(after_help = "\
Returns when the pin is released. Exits 13 if it had ended before, by its age, its shadow limit or a full
disk: a copy that was made may then be incomplete, whatever the copy tool said. Also cleans the mount point of a daemon that died.

Example:
  stillfs umount /mnt/still")]
pub(crate) struct UmountArgs {
    /// Where the view is mounted.
    mountpoint: PathBuf,
    /// Take a busy view's name away at once; it ends, and its pin with it, when its last user lets go.
    #[arg(long)]
    lazy: bool,
}

pub(crate) fn run(args: &UmountArgs) -> Outcome {
    let host = Host::system();
    let path = absolute(&args.mountpoint)?;
    let registry = Registry::of_this_user()?;
    let watch = registry.watch(&path)?;
    // Only a daemon that serves can say how its pin is, so it is asked before.
    let ended = ask_daemon(&path).filter(|status| status.state == "ended");
    let done = tell_if_slow(&path, &registry);
    let lazy = if args.lazy { Lazy::Yes } else { Lazy::No };
    match unmount(&path, lazy) {
        // The mount is gone already, but its daemon's record may not be.
        Err(UnmountError::NotMounted { .. }) if watch.is_some() => {}
        other => other?,
    }
    if let Some(watch) = watch
        && !args.lazy
        && watch.wait_gone(RELEASE_PATIENCE, &*host.clock)? == Wait::TimedOut
    {
        return Err(Failure::new(
            Exit::Failed,
            anyhow::anyhow!(
                "{} is unmounted, but its daemon has not released the pin for {} s",
                path.display(),
                RELEASE_PATIENCE.as_secs()
            ),
        ));
    }
    registry.remove_dead(&path)?;
    drop(done);
    match ended {
        None => Ok(Exit::Done),
        Some(status) => Err(Failure::new(
            Exit::PinLost,
            anyhow::anyhow!(
                "{} is unmounted, but its pin had ended before: {}; what was read since is not whole",
                path.display(),
                status.reason.unwrap_or_default()
            ),
        )),
    }
}

/// After a while says whom this waits for, unless the result was dropped before.
fn tell_if_slow(path: &Path, registry: &Registry) -> mpsc::Sender<()> {
    let (done, is_done) = mpsc::channel();
    let holder = registry
        .find(path)
        .ok()
        .flatten()
        .map(|listed| listed.record.pid);
    let path = path.to_owned();
    thread::spawn(move || {
        if is_done.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let holder = holder.map_or_else(String::new, |pid| format!(" (process {pid})"));
            output::problem(&format!(
                "waiting for the daemon of {}{holder} to release its pin; if it hangs, end it",
                path.display()
            ));
        }
    });
    done
}
