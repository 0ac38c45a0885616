//! A directory that is held open, so that names in it are looked up wherever it is moved to.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};

use crate::os::path::Metadata;

/// See the head of the file. Any number of threads may use it.
#[derive(Debug)]
pub struct Folder {
    descriptor: OwnedFd,
}

impl Folder {
    /// Holds the directory at `path`. Only the right to go through it is needed. Errors: the system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let descriptor = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self { descriptor })
    }

    /// The directory that `descriptor` is of.
    pub(super) fn from_fd(descriptor: OwnedFd) -> Self {
        Self { descriptor }
    }

    /// A path that leads to it for as long as it is held, for this process only, and for one that it
    /// starts until that runs its program.
    #[must_use]
    pub fn way(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.descriptor.as_raw_fd()))
    }

    /// The facts of what is called `name` in it, a link being a link; `None` if nothing is.
    ///
    /// Errors: the system's.
    pub fn metadata(&self, name: &OsStr) -> io::Result<Option<Metadata>> {
        match fstatat(&self.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Metadata::from_stat(&stat).map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;
    use crate::os::path::FileType;

    #[test]
    fn names_are_found_where_the_directory_has_gone() {
        let root = tempfile::tempdir().unwrap();
        let (here, there) = (root.path().join("here"), root.path().join("there"));
        std::fs::create_dir(&here).unwrap();
        std::fs::write(here.join("a"), b"abc").unwrap();
        std::os::unix::fs::symlink("a", here.join("link")).unwrap();
        let folder = Folder::open(&here).unwrap();
        std::fs::rename(&here, &there).unwrap();
        std::fs::create_dir(&here).unwrap();
        let found = folder.metadata(OsStr::new("a")).unwrap().unwrap();
        assert_eq!((found.size, found.file_type), (3, FileType::File));
        let link = folder.metadata(OsStr::new("link")).unwrap().unwrap();
        assert_eq!(link.file_type, FileType::SymbolicLink);
        std::fs::remove_dir_all(&there).unwrap();
        assert_eq!(folder.metadata(OsStr::new("a")).unwrap(), None);
        Folder::open(&there).unwrap_err();
    }
}
