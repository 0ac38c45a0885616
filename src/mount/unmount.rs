//! Takes mounts away, and cleans what dead daemons left.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::kernel::{self, DetachError, HelperError};
use super::mountinfo::{self, is_ours};
use crate::os::mount_table::{self, MountEntry, MountIdentity};
pub use crate::os::mounting::Lazy;

/// Why nothing was unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnmountError {
    /// Nothing is mounted there.
    #[error("{} is not a mount point", path.display())]
    NotMounted {
        /// The path.
        path: PathBuf,
    },
    /// Something else is mounted there.
    #[error("{} is a mount of type {}, not of stillfs: use umount", path.display(), mountinfo::shown(file_system))]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What is mounted.
        file_system: OsString,
    },
    /// Another mount lies on top of ours.
    #[error("{} is covered by a mount of type {}: unmount that first", path.display(), mountinfo::shown(file_system))]
    Covered {
        /// The path.
        path: PathBuf,
        /// What lies on top.
        file_system: OsString,
    },
    /// It is in use.
    #[error("{0} is busy: fuser -vm {0} shows who uses it; --lazy takes it away all the same", path.display())]
    Busy {
        /// The path.
        path: PathBuf,
    },
    /// The helper for ordinary users failed.
    #[error("cannot unmount {}: {source}", path.display())]
    Helper {
        /// The path.
        path: PathBuf,
        /// Why.
        source: HelperError,
    },
    /// The operating system refused.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Unmounts the view at `path`, of a live daemon or a dead one. A dead daemon's mount is taken away
/// even while it is in use: it gives nothing but errors.
///
/// Returns when the kernel has unmounted it. The daemon releases its pin after that: see
/// [`super::registry::RecordWatch::wait_gone`].
///
/// Errors: any [`UnmountError`].
pub fn unmount(path: &Path, lazy: Lazy) -> Result<(), UnmountError> {
    let path = locate(path)?;
    let entry = mount_table::find(&path).map_err(table_error)?;
    match entry {
        None => Err(UnmountError::NotMounted { path }),
        Some(entry) if !is_ours(&entry) => Err(UnmountError::NotOurs {
            path,
            file_system: entry.file_system,
        }),
        Some(_) => detach(path, lazy),
    }
}

/// Unmounts the one mount that `identity` means, wherever it is by now; gone already is as good.
///
/// Errors: `Covered`, `Busy`, `Helper`, `Io`.
pub(super) fn unmount_identity(identity: MountIdentity, lazy: Lazy) -> Result<(), UnmountError> {
    let mounts = mount_table::entries().map_err(table_error)?;
    let is_it = |entry: &&MountEntry| entry.identity == identity && is_ours(entry);
    let Some(entry) = mounts.iter().find(is_it) else {
        return Ok(());
    };
    let path = entry.mount_point.clone();
    let here = |entry: &&MountEntry| entry.mount_point == path;
    if let Some(top) = mounts.iter().rev().find(here)
        && top.identity != identity
    {
        let file_system = top.file_system.clone();
        return Err(UnmountError::Covered { path, file_system });
    }
    match detach(path, lazy) {
        Err(UnmountError::NotMounted { .. }) => Ok(()),
        other => other,
    }
}

fn detach(path: PathBuf, lazy: Lazy) -> Result<(), UnmountError> {
    let outcome = match kernel::detach(&path, lazy) {
        Err(DetachError::Busy) if kernel::is_dead(&path) => kernel::detach(&path, Lazy::Yes),
        outcome => outcome,
    };
    outcome.map_err(|error| match error {
        DetachError::Busy => UnmountError::Busy { path },
        DetachError::NotMounted => UnmountError::NotMounted { path },
        DetachError::Helper(source) => UnmountError::Helper { path, source },
        DetachError::Kernel(source) => UnmountError::Io {
            op: "unmount",
            path,
            source,
        },
    })
}

/// The absolute, canonical form of a mount point's path, which may lead to a dead mount.
pub(super) fn locate(path: &Path) -> Result<PathBuf, UnmountError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => UnmountError::NotMounted {
            path: path.to_owned(),
        },
        _ => UnmountError::Io {
            op: "find",
            path: path.to_owned(),
            source,
        },
    };
    let absolute = std::path::absolute(path).map_err(failed)?;
    if let Ok(canonical) = absolute.canonicalize() {
        return Ok(canonical);
    }
    // The last part may be a mount that answers nothing; what leads there must answer.
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize().map_err(failed)?.join(name)),
        _ => Ok(absolute),
    }
}

fn table_error(source: io::Error) -> UnmountError {
    UnmountError::Io {
        op: "read",
        path: "/proc/self/mountinfo".into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_mount_of_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let error = unmount(dir.path(), Lazy::Yes).unwrap_err();
        assert!(matches!(error, UnmountError::NotMounted { .. }), "{error}");
        let error = unmount(&dir.path().join("missing"), Lazy::Yes).unwrap_err();
        assert!(matches!(error, UnmountError::NotMounted { .. }), "{error}");
        let error = unmount(Path::new("/proc"), Lazy::Yes).unwrap_err();
        assert!(
            matches!(&error, UnmountError::NotOurs { file_system, .. } if file_system == "proc"),
            "{error}"
        );
        assert!(mount_table::find(Path::new("/proc")).unwrap().is_some());
    }

    #[test]
    fn a_busy_mount_names_the_command_that_shows_who_uses_it() {
        let path = "/mnt/a b".into();
        let text = UnmountError::Busy { path }.to_string();
        assert!(text.contains("fuser -vm /mnt/a b"), "{text}");
    }

    #[test]
    fn links_and_dots_lead_to_the_mount_point() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        assert_eq!(
            locate(&dir.path().join("link/./missing")).unwrap(),
            real.join("missing")
        );
        assert_eq!(locate(&dir.path().join("link")).unwrap(), real);
    }
}
