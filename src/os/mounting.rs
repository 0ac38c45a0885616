//! Mounts and unmounts a FUSE file system, and asks one whether it is there (`mount`, `umount2`, `statfs`).
//!
//! The mount daemon uses it, and `stillfs umount`. Whoever may not mount asks a setuid program, which
//! is not here.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::unistd::{getgid, getuid};

/// Whether files of a mount may be executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Execution {
    /// As their modes say.
    #[default]
    Allowed,
    /// Never (`noexec`).
    Refused,
}

/// What to do with a mount that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lazy {
    /// Take its name away at once; it ends when its last user lets go.
    Yes,
    /// Leave it and say that it is busy.
    No,
}

/// Why the kernel did not mount.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountRefusal {
    /// This user may not mount (EPERM only: EACCES is about the way to the mount point).
    #[error("this user may not mount")]
    NotPermitted,
    /// Something else.
    #[error(transparent)]
    Other(io::Error),
}

/// Why the kernel did not unmount.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnmountRefusal {
    /// This user may not unmount.
    #[error("this user may not unmount")]
    NotPermitted,
    /// It is in use.
    #[error("the mount is busy")]
    Busy,
    /// Nothing is mounted there.
    #[error("nothing is mounted there")]
    NotMounted,
    /// Something else.
    #[error(transparent)]
    Other(io::Error),
}

/// Mounts what is served through `device` at `point`: read-only, without set-user-id and devices.
///
/// Shape: `options` are those of FUSE beyond descriptor, root and owner, joined by commas and none of
/// them from outside. Errors: any [`MountRefusal`]; nothing is mounted then.
pub fn mount_fuse(
    device: BorrowedFd<'_>,
    point: &Path,
    source: &OsStr,
    execution: Execution,
    options: &str,
) -> Result<(), MountRefusal> {
    let mut flags =
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    if execution == Execution::Refused {
        flags |= MsFlags::MS_NOEXEC;
    }
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},{options}",
        device.as_raw_fd(),
        getuid(),
        getgid(),
    );
    let (source, data) = (Path::new(source), Path::new(&data));
    let kind = Path::new("fuse");
    nix::mount::mount(Some(source), point, Some(kind), flags, Some(data)).map_err(|errno| {
        match errno {
            Errno::EPERM => MountRefusal::NotPermitted,
            errno => MountRefusal::Other(errno.into()),
        }
    })
}

/// Unmounts what is on top at `point`, which is not followed if it is a link. Does not ask its daemon.
///
/// Errors: any [`UnmountRefusal`].
pub fn unmount(point: &Path, lazy: Lazy) -> Result<(), UnmountRefusal> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    if lazy == Lazy::Yes {
        flags |= MntFlags::MNT_DETACH;
    }
    nix::mount::umount2(point, flags).map_err(|errno| match errno {
        Errno::EPERM => UnmountRefusal::NotPermitted,
        Errno::EBUSY => UnmountRefusal::Busy,
        Errno::EINVAL | Errno::ENOENT => UnmountRefusal::NotMounted,
        errno => UnmountRefusal::Other(errno.into()),
    })
}

/// Asks the file system of `path` for its totals. The kernel may answer a `stat` from its cache, but
/// asks a daemon for this. Blocks as long as the daemon.
///
/// Errors: `NotConnected` or `ConnectionAborted` if its daemon is dead; the system's.
pub fn ask_file_system(path: &Path) -> io::Result<()> {
    nix::sys::statfs::statfs(path)
        .map(drop)
        .map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root hears that nothing is mounted, and everybody else that it may not ask.
    #[test]
    fn what_is_not_mounted_is_not_unmounted() {
        let dir = tempfile::tempdir().unwrap();
        for lazy in [Lazy::Yes, Lazy::No] {
            let refusal = unmount(dir.path(), lazy).unwrap_err();
            let expected = matches!(
                refusal,
                UnmountRefusal::NotMounted | UnmountRefusal::NotPermitted
            );
            assert!(expected, "{refusal:?}");
        }
    }

    #[test]
    fn a_file_system_without_a_daemon_answers_and_a_missing_path_does_not() {
        let dir = tempfile::tempdir().unwrap();
        ask_file_system(dir.path()).unwrap();
        let error = ask_file_system(&dir.path().join("missing")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
