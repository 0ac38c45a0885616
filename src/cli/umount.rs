//! `stillfs umount`.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;

use crate::cli::daemon::ViewStatus;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::mount::absolute;
use crate::cli::output;
use crate::cli::probe::status_of;
use crate::mount::mountinfo::is_ours;
use crate::mount::registry::{RecordWatch, Wait};
use crate::mount::unmount::UnmountError;
use crate::mount::{Lazy, Registry, unmount};
use crate::os::mount_table::{self, MountEntry, MountIdentity};
use crate::os::path::file_type_of;
use crate::os::{Clock, Host};

/// How long a daemon may take to let go of a view that seems to be mounted elsewhere too.
const NUMBER_PATIENCE: Duration = Duration::from_secs(1);
/// How long nothing is said.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a view may be busy before that is said: a look at it holds it for a moment.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How long the daemon may take to release its pin after the kernel has unmounted.
const RELEASE_PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `stillfs umount`.
#[derive(Debug, Args)]
#[command(after_help = "\
Returns when the pin is released. Exits 13 if it had ended before, by its age, a limit or a full
disk, because an engine did not take it over, or an SQLite log was removed, or if a read of the view
failed: a copy that was made may then be incomplete, whatever the copy tool said. Exits 3 if the
view is still in use elsewhere (mount --bind, an overlay, a container), where its pin lasts. Also
cleans the mount point of a daemon that died.

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
    let view = mounted_at(&path);
    // Only a daemon that serves can say how its pin is, so it is asked before.
    let asked = status_of(&path);
    let done = tell_if_slow(&path, &registry);
    let lazy = if args.lazy { Lazy::Yes } else { Lazy::No };
    match unmount_patiently(&path, lazy, &*host.clock) {
        // The mount is gone already, but its daemon's record may not be.
        Err(UnmountError::NotMounted { .. }) if watch.is_some() => {}
        Err(UnmountError::Busy { .. }) if view.is_some() && asked.is_none() => {
            return Err(silent(&path));
        }
        other => other?,
    }
    let exit = match (watch, args.lazy) {
        (Some(watch), false) => wait_released(&path, &watch, view, &*host.clock)?,
        _ => Exit::Done,
    };
    registry.remove_dead(&path)?;
    drop(done);
    match asked.and_then(trouble) {
        None => Ok(exit),
        Some(trouble) => Err(Failure::new(
            Exit::PinLost,
            anyhow::anyhow!("{} is unmounted, but {trouble}", path.display()),
        )),
    }
}

/// Unmounts; somebody else's look at the view, by `status` or `doctor`, is waited for.
fn unmount_patiently(path: &Path, lazy: Lazy, clock: &dyn Clock) -> Result<(), UnmountError> {
    let until = clock.monotonic() + LOOK_PATIENCE;
    loop {
        match unmount(path, lazy) {
            Err(UnmountError::Busy { .. }) if clock.monotonic() < until => {
                clock.sleep(LOOK_PAUSE);
            }
            other => return other,
        }
    }
}

/// Why a copy that was made of the view is not whole, if something went wrong.
fn trouble(status: ViewStatus) -> Option<String> {
    if status.state == "ended" {
        return Some(format!(
            "its pin had ended before: {}; what was read since is not whole",
            status.reason.unwrap_or_default()
        ));
    }
    let failed = status.failed_read?;
    Some(format!(
        "a read of it failed, so a copy of it is not whole: {failed}; stillfs check says more"
    ))
}

/// The view is busy because whoever asks its daemon waits for ever; `fuser` would, too.
fn silent(path: &Path) -> Failure {
    let path = path.display();
    Failure::new(
        Exit::InUse,
        anyhow::anyhow!(
            "{path} is busy, and its daemon does not answer: stillfs doctor {path} says which process it is"
        ),
    )
}

/// Waits until the daemon has released its pin, unless the view goes on elsewhere: then that is said.
fn wait_released(
    path: &Path,
    watch: &RecordWatch,
    view: Option<MountEntry>,
    clock: &dyn Clock,
) -> Outcome {
    let left_out = |place: &str| {
        output::problem(&format!(
            "{} is unmounted, but the view is {place}: its pin lasts until that is unmounted too",
            path.display()
        ));
        Ok(Exit::LeftOut)
    };
    let place = |view: &MountEntry| place_of(view, &mount_table::entries().ok()?);
    if let Some(Place::Mounted(place)) = view.as_ref().and_then(place) {
        // The number of a file system that is gone is at once that of the next one, which may be another
        // view of the same database: the daemon of this one then lets go.
        if watch.wait_gone(NUMBER_PATIENCE, clock)? == Wait::Gone {
            return Ok(Exit::Done);
        }
        return left_out(&format!("still mounted at {}", place.display()));
    }
    if watch.wait_gone(PATIENCE, clock)? == Wait::Gone {
        return Ok(Exit::Done);
    }
    if view.is_some_and(|view| place(&view) == Some(Place::Unseen) && is_in_use(view.identity)) {
        return left_out("still in use by an overlay, or in another mount namespace (a container)");
    }
    match watch.wait_gone(RELEASE_PATIENCE, clock)? {
        Wait::Gone => Ok(Exit::Done),
        Wait::TimedOut => Err(Failure::new(
            Exit::Failed,
            anyhow::anyhow!(
                "{} is unmounted, but its daemon has not released the pin for {} s",
                path.display(),
                RELEASE_PATIENCE.as_secs()
            ),
        )),
    }
}

/// The view that is on top at `path`.
fn mounted_at(path: &Path) -> Option<MountEntry> {
    let entry = mount_table::find(path).ok()??;
    is_ours(&entry).then_some(entry)
}

/// Where a view that was unmounted at one place may still be.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// It is mounted there too.
    Mounted(PathBuf),
    /// Nowhere that is seen from here.
    Unseen,
}

/// `None` where another file system has the number of the view: the view then is gone.
fn place_of(view: &MountEntry, entries: &[MountEntry]) -> Option<Place> {
    let device = |entry: &MountEntry| (entry.identity.major, entry.identity.minor);
    match entries.iter().find(|entry| device(entry) == device(view)) {
        None => Some(Place::Unseen),
        Some(entry) if is_ours(entry) && entry.source == view.source => {
            Some(Place::Mounted(entry.mount_point.clone()))
        }
        Some(_) => None,
    }
}

/// Whether the kernel has a file system of that number.
fn is_in_use(view: MountIdentity) -> bool {
    let device = format!("/sys/class/bdi/{}:{}", view.major, view.minor);
    file_type_of(Path::new(&device)).is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(minor: u32, mount_point: &str, source: &str) -> MountEntry {
        MountEntry {
            identity: MountIdentity {
                mount_id: 36,
                major: 0,
                minor,
            },
            mount_point: mount_point.into(),
            file_system: "fuse.stillfs".into(),
            source: source.into(),
            options: Vec::new(),
        }
    }

    /// The kernel gives the number of a file system that is gone to the next one.
    #[test]
    fn only_a_mount_of_the_same_source_is_the_same_view() {
        let view = entry(51, "/mnt/a", "/srv/a");
        let others = [entry(52, "/mnt/b", "/srv/a"), entry(51, "/mnt/c", "/srv/c")];
        assert_eq!(place_of(&view, &others[..1]), Some(Place::Unseen));
        assert_eq!(place_of(&view, &others), None);
        let bound = entry(51, "/mnt/bound", "/srv/a");
        assert_eq!(
            place_of(&view, &[bound]),
            Some(Place::Mounted("/mnt/bound".into()))
        );
        let mut foreign = entry(51, "/mnt/d", "/srv/a");
        foreign.file_system = "tmpfs".into();
        assert_eq!(place_of(&view, &[foreign]), None);
    }
}
