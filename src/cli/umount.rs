//! `stillfs umount`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::mount::absolute;
use crate::mount::registry::Wait;
use crate::mount::unmount::UnmountError;
use crate::mount::{Lazy, Registry, unmount};
use crate::os::Host;

/// How long the daemon may take to release its pin after the kernel has unmounted.
const RELEASE_PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `stillfs umount`.
#[derive(Debug, Args)]
#[command(after_help = "\
Returns when the pin is released. Also cleans the mount point of a daemon that died.

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
    Ok(Exit::Done)
}
