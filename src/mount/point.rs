//! Whether a directory can be a mount point, checked before anything is pinned.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::kernel::{self, DeviceError};
use super::mountinfo::{self, is_ours};
use super::registry::{Liveness, Registry, RegistryError};
use crate::os::FileIdentity;
use crate::os::mount_table::{self, MountEntry};
use crate::os::process::effective_user;
use crate::os::trust::{Distrust, refuse_replaceable};

/// A directory that was found fit to be mounted on: absolute, canonical, empty, outside the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint(PathBuf);

/// Why a directory cannot be mounted on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PointError {
    /// It does not exist.
    #[error("mount point {0} does not exist: mkdir -p {0}", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// It is a file.
    #[error("mount point {} is not a directory", path.display())]
    NotDirectory {
        /// The path.
        path: PathBuf,
    },
    /// There is something in it, which would be hidden.
    #[error("mount point {} is not empty: choose an empty directory", path.display())]
    NotEmpty {
        /// The path.
        path: PathBuf,
    },
    /// A live view is there.
    #[error("{0} already shows a view of {source_name}: stillfs umount {0}", path.display())]
    AlreadyMounted {
        /// The path.
        path: PathBuf,
        /// What it shows.
        source_name: String,
    },
    /// A dead daemon's view is there, or on the way there.
    #[error("{0} is the mount of a stillfs daemon that died (view of {source_name}): stillfs umount {0} cleans it", path.display())]
    Stale {
        /// The dead mount.
        path: PathBuf,
        /// What it showed.
        source_name: String,
    },
    /// Reading the source would then read the mount, which reads the source.
    #[error("mount point {} is inside the source {}: choose one outside", path.display(), source_path.display())]
    InsideSource {
        /// The mount point.
        path: PathBuf,
        /// The source.
        source_path: PathBuf,
    },
    /// The mount would hide its own source.
    #[error("mount point {} contains the source {}: choose one beside it", path.display(), source_path.display())]
    AroundSource {
        /// The mount point.
        path: PathBuf,
        /// The source.
        source_path: PathBuf,
    },
    /// There is no FUSE here.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Somebody else could move it while root mounts there.
    #[error("refusing to mount on {} as root: {source}", path.display())]
    Untrusted {
        /// The mount point.
        path: PathBuf,
        /// Who could, and where.
        source: Distrust,
    },
    /// The registry of mounts cannot be asked.
    #[error(transparent)]
    Registry(#[from] RegistryError),
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

impl MountPoint {
    /// Checks `path` as the mount point of a view of `source`.
    ///
    /// Asks the mount table and the registry before it touches the directory, so that a daemon that
    /// hangs there cannot hang the caller.
    ///
    /// Errors: any [`PointError`].
    pub fn check(path: &Path, source: &Path, registry: &Registry) -> Result<Self, PointError> {
        let path = canonical(path)?;
        refuse_untrusted(&path)?;
        refuse_mounted(&path, registry)?;
        let metadata = fs::metadata(&path).map_err(io_error("look at", &path))?;
        if !metadata.is_dir() {
            return Err(PointError::NotDirectory { path });
        }
        refuse_overlap(&path, source)?;
        let mut names = fs::read_dir(&path).map_err(io_error("list", &path))?;
        if names.next().is_some() {
            return Err(PointError::NotEmpty { path });
        }
        kernel::open_device()?;
        Ok(Self(path))
    }

    /// The directory: absolute and canonical.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Root mounts and unmounts by path; for others fusermount3 looks itself.
fn refuse_untrusted(path: &Path) -> Result<(), PointError> {
    if effective_user() != 0 {
        return Ok(());
    }
    refuse_replaceable(path).map_err(|source| PointError::Untrusted {
        path: path.to_owned(),
        source,
    })
}

/// Resolves what a user typed; a dead mount on the way is named.
fn canonical(typed: &Path) -> Result<PathBuf, PointError> {
    let absolute = std::path::absolute(typed).map_err(io_error("find", typed))?;
    absolute.canonicalize().map_err(|source| {
        let path = absolute;
        match source.kind() {
            io::ErrorKind::NotFound => PointError::Missing { path },
            io::ErrorKind::NotADirectory => PointError::NotDirectory { path },
            io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted => {
                match our_mount_above(&path) {
                    Some(entry) => stale(&entry),
                    None => io_error("find", &path)(source),
                }
            }
            _ => io_error("find", &path)(source),
        }
    })
}

/// The innermost mount of stillfs that `path` lies in.
fn our_mount_above(path: &Path) -> Option<MountEntry> {
    let mounts = mount_table::entries().ok()?;
    let above = |entry: &&MountEntry| is_ours(entry) && path.starts_with(&entry.mount_point);
    mounts
        .iter()
        .filter(above)
        .max_by_key(|entry| entry.mount_point.as_os_str().len())
        .cloned()
}

fn refuse_mounted(path: &Path, registry: &Registry) -> Result<(), PointError> {
    let entry =
        mount_table::find(path).map_err(io_error("read", Path::new("/proc/self/mountinfo")))?;
    let Some(entry) = entry.filter(is_ours) else {
        return Ok(());
    };
    let found = registry.find(path)?;
    let is_known_alive = found.is_some_and(|listed| listed.liveness == Liveness::Alive);
    // A daemon that holds its record is not asked anything: it may hang.
    if is_known_alive || !kernel::is_dead(path) {
        return Err(PointError::AlreadyMounted {
            path: path.to_owned(),
            source_name: mountinfo::shown(&entry.source),
        });
    }
    Err(stale(&entry))
}

fn stale(entry: &MountEntry) -> PointError {
    PointError::Stale {
        path: entry.mount_point.clone(),
        source_name: mountinfo::shown(&entry.source),
    }
}

/// Compares paths, and the identities of everything on the way, which sees through bind mounts.
fn refuse_overlap(path: &Path, source: &Path) -> Result<(), PointError> {
    let source_path = source.canonicalize().map_err(io_error("find", source))?;
    let path = path.to_owned();
    if lies_in(&path, &source_path)? {
        Err(PointError::InsideSource { path, source_path })
    } else if lies_in(&source_path, &path)? {
        Err(PointError::AroundSource { path, source_path })
    } else {
        Ok(())
    }
}

fn lies_in(inner: &Path, outer: &Path) -> Result<bool, PointError> {
    let outer_identity = identity(outer)?;
    for ancestor in inner.ancestors() {
        if ancestor == outer || identity(ancestor)? == outer_identity {
            return Ok(true);
        }
    }
    Ok(false)
}

fn identity(path: &Path) -> Result<FileIdentity, PointError> {
    let metadata = fs::metadata(path).map_err(io_error("look at", path))?;
    Ok(FileIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
    })
}

fn io_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PointError + use<> {
    let path = path.to_owned();
    move |source| PointError::Io { op, path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        registry: Registry,
    }

    impl Place {
        /// A directory with `source/inner/`, `empty/`, `full/x` and `file`.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["source/inner", "empty", "full/x"] {
                fs::create_dir_all(dir.path().join(name)).unwrap();
            }
            fs::write(dir.path().join("file"), b"").unwrap();
            let registry = Registry::at(dir.path().join("registry")).unwrap();
            Self { dir, registry }
        }

        fn check(&self, point: &str, source: &str) -> Result<MountPoint, PointError> {
            let at = |name: &str| self.dir.path().join(name);
            MountPoint::check(&at(point), &at(source), &self.registry)
        }
    }

    #[test]
    fn unfit_directories_are_told_apart() {
        let place = Place::new();
        let missing = place.check("missing", "source").unwrap_err();
        assert!(matches!(missing, PointError::Missing { .. }), "{missing}");
        assert!(missing.to_string().contains("mkdir -p"), "{missing}");
        let file = place.check("file", "source").unwrap_err();
        assert!(matches!(file, PointError::NotDirectory { .. }), "{file}");
        let below_file = place.check("file/x", "source").unwrap_err();
        assert!(
            matches!(below_file, PointError::NotDirectory { .. }),
            "{below_file}"
        );
        let full = place.check("full", "source").unwrap_err();
        assert!(matches!(full, PointError::NotEmpty { .. }), "{full}");
    }

    /// A mount inside its own source would be read while it is read, and hang.
    #[test]
    fn a_mount_point_inside_or_around_the_source_is_refused() {
        let place = Place::new();
        for point in ["source", "source/inner", "empty/../source/inner"] {
            let error = place.check(point, "source").unwrap_err();
            assert!(matches!(error, PointError::InsideSource { .. }), "{error}");
        }
        let error = place.check("full", "full/x").unwrap_err();
        assert!(matches!(error, PointError::AroundSource { .. }), "{error}");
        std::os::unix::fs::symlink("source/inner", place.dir.path().join("link")).unwrap();
        let error = place.check("link", "source").unwrap_err();
        assert!(matches!(error, PointError::InsideSource { .. }), "{error}");
    }

    /// A name that only begins like the source's is beside it, and not inside.
    #[test]
    fn a_sibling_with_a_similar_name_is_fit() {
        let place = Place::new();
        fs::create_dir(place.dir.path().join("source-mnt")).unwrap();
        match place.check("source-mnt/.", "source") {
            Ok(point) => {
                let expected = place.dir.path().canonicalize().unwrap().join("source-mnt");
                assert_eq!(point.path(), expected);
            }
            Err(PointError::Device(error)) => println!("SKIPPED in part: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}
