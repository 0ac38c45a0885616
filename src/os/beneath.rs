//! Directories held open, and what lies below them, reached without leaving them.
//!
//! A path is walked from an open directory downwards: no symbolic link on it is followed, the last part
//! neither, and no `..` is taken. Whoever may exchange directories below us can make a path lead to
//! something else below, but never out. Paths may be longer than the system takes at once.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{Mode, SFlag};

use crate::os::folder::Folder;
use crate::os::path::{FileType, Metadata};
use crate::os::real_disk::RealFile;
use crate::os::{Disk, File};

/// What is given to the system at once; it takes 4095 bytes.
const PATH_BYTES_MAX: usize = 2048;

/// An open directory.
#[derive(Debug)]
pub struct OpenDir {
    fd: OwnedFd,
}

/// What lies at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its facts.
    pub metadata: Metadata,
    /// The number of a device; 0 for what is none.
    pub device_number: u64,
}

/// A name that is held without being opened: nothing can be read from it.
#[derive(Debug)]
pub struct Held {
    fd: OwnedFd,
    /// What lies there.
    pub found: Found,
}

impl OpenDir {
    /// Opens the directory at `path`; a link in the last part is refused. Errors: the system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = nix::fcntl::open(path, listing_flags() | OFlag::O_NOFOLLOW, Mode::empty())?;
        Ok(Self { fd })
    }

    /// Opens a directory below; an empty path is this one. Errors: the system's, and see [`leads_away`].
    pub fn dir(&self, below: &Path) -> io::Result<Self> {
        let fd = reach(self.fd.as_fd(), below, listing_flags())?;
        Ok(Self { fd })
    }

    /// Holds a directory below, for which only the right to go through it is needed. Errors: as those of
    /// [`Self::dir`].
    pub fn folder(&self, below: &Path) -> io::Result<Folder> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Folder::from_fd(reach(self.fd.as_fd(), below, flags)?))
    }

    /// Takes hold of what is at `below`, without opening it: a device is not touched, a pipe not waited
    /// for. Errors: the system's, and see [`leads_away`], which a link in the last part is too.
    pub fn hold(&self, below: &Path) -> io::Result<Held> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = reach(self.fd.as_fd(), below, flags)?;
        let found = Found::of(&nix::sys::stat::fstat(&fd)?)?;
        match found.metadata.file_type {
            FileType::SymbolicLink => Err(Errno::ELOOP.into()),
            _ => Ok(Held { fd, found }),
        }
    }

    /// The names in it, sorted, without `.` and `..`. Errors: the system's.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut dir = Dir::openat(&self.fd, ".", listing_flags(), Mode::empty())?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What lies at `name` in it; a link is a link, and nothing is mounted for it. Errors: the system's.
    pub fn look(&self, name: &OsStr) -> io::Result<Found> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_NO_AUTOMOUNT;
        Found::of(&nix::sys::stat::fstatat(&self.fd, name, flags)?)
    }

    /// Where the link `name` in it leads. Errors: the system's.
    pub fn link_target(&self, name: &OsStr) -> io::Result<OsString> {
        Ok(nix::fcntl::readlinkat(&self.fd, name)?)
    }

    /// Opens the regular file `name` in it for reading. Errors: `InvalidInput` for what is none; the
    /// system's.
    pub fn file(&self, name: &OsStr) -> io::Result<Arc<dyn File>> {
        let open = |flags| nix::fcntl::openat(&self.fd, name, flags, Mode::empty());
        regular(with_or_without_atime(
            reading_flags() | OFlag::O_NOFOLLOW,
            open,
        )?)
    }

    /// A private file on its file system that has no name and goes with its last handle.
    ///
    /// Errors: the system's.
    pub fn unnamed(&self) -> io::Result<Arc<dyn File>> {
        crate::os::real_disk::RealDisk.unnamed(&way_to(self.fd.as_fd()))
    }

    /// The facts of the directory itself. Errors: the system's.
    pub fn metadata(&self) -> io::Result<Metadata> {
        crate::os::path::metadata_of(self.fd.as_fd())
    }

    /// A path that leads to it for as long as it is held, for this process only.
    #[must_use]
    pub fn way(&self) -> PathBuf {
        way_to(self.fd.as_fd())
    }

    /// The directory that `fd` is of.
    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for OpenDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Held {
    /// Opens it for reading. Errors: `InvalidInput` for what is no regular file; the system's.
    pub fn read(&self) -> io::Result<Arc<dyn File>> {
        if self.found.metadata.file_type != FileType::File {
            return Err(Errno::EINVAL.into());
        }
        let way = self.way();
        let open = |flags| nix::fcntl::open(&way, flags, Mode::empty());
        regular(with_or_without_atime(reading_flags(), open)?)
    }

    /// A path that leads to it for as long as it is held, for this process only.
    #[must_use]
    pub fn way(&self) -> PathBuf {
        way_to(self.fd.as_fd())
    }
}

impl Found {
    fn of(stat: &nix::sys::stat::FileStat) -> io::Result<Self> {
        let metadata = Metadata::from_stat(stat)?;
        let is_device = matches!(
            metadata.file_type,
            FileType::CharacterDevice | FileType::BlockDevice
        );
        #[allow(clippy::useless_conversion, reason = "the width is the machine's")]
        let device_number = if is_device { stat.st_rdev.into() } else { 0 };
        Ok(Self {
            metadata,
            device_number,
        })
    }
}

/// Whether a path was not walked to its end because a link, or something else, has taken a part's place.
#[must_use]
pub fn leads_away(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::ELOOP | Errno::EXDEV))
}

fn listing_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK
}

/// A FIFO in a file's place must not block, and no terminal become ours.
fn reading_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY
}

/// Only the owner and root may leave the access time alone.
fn with_or_without_atime<T>(
    flags: OFlag,
    open: impl Fn(OFlag) -> Result<T, Errno>,
) -> Result<T, Errno> {
    match open(flags | OFlag::O_NOATIME) {
        Err(Errno::EPERM) => open(flags),
        result => result,
    }
}

fn regular(fd: OwnedFd) -> io::Result<Arc<dyn File>> {
    match crate::os::path::metadata_of(fd.as_fd())?.file_type {
        FileType::File => Ok(Arc::new(RealFile::from_fd(fd))),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn way_to(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Opens what is at `below` with `flags`, part by part where the kernel cannot do it at once.
fn reach(from: BorrowedFd<'_>, below: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let on_the_way = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut reached: Option<OwnedFd> = None;
    let mut step = PathBuf::new();
    for part in below.components() {
        let Component::Normal(part) = part else {
            return Err(Errno::EINVAL.into());
        };
        let bytes = step.as_os_str().len() + part.len();
        if bytes > PATH_BYTES_MAX && !step.as_os_str().is_empty() {
            let at = reached.as_ref().map_or(from, AsFd::as_fd);
            reached = Some(open_beneath(at, &step, on_the_way)?);
            step.clear();
        }
        step.push(part);
    }
    let at = reached.as_ref().map_or(from, AsFd::as_fd);
    if step.as_os_str().is_empty() {
        step.push(".");
    }
    Ok(open_beneath(at, &step, flags)?)
}

fn open_beneath(at: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    match nix::fcntl::openat2(at, path, how) {
        // A kernel without it, and a container's filter that does not know it.
        Err(Errno::ENOSYS | Errno::EPERM) => open_by_parts(at, path, flags),
        result => result,
    }
}

/// As [`open_beneath`], for kernels without `openat2`.
fn open_by_parts(at: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let on_the_way = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut reached: Option<OwnedFd> = None;
    let mut parts = path.iter().peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        let flags = if is_last { flags } else { on_the_way };
        let from = reached.as_ref().map_or(at, AsFd::as_fd);
        let opened = nix::fcntl::openat(from, part, flags | OFlag::O_NOFOLLOW, Mode::empty());
        let next = opened.map_err(|error| match error {
            // What a link gives where a directory is asked for, and what a file gives.
            Errno::ENOTDIR if is_link(from, part) => Errno::ELOOP,
            error => error,
        })?;
        reached = Some(next);
    }
    reached.ok_or(Errno::EINVAL)
}

fn is_link(at: BorrowedFd<'_>, name: &OsStr) -> bool {
    let found = nix::sys::stat::fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    found.is_ok_and(|stat| crate::os::real_disk::format_bits(&stat) == SFlag::S_IFLNK)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::os::read_up_to;

    fn text(file: &dyn File) -> Vec<u8> {
        let mut out = vec![0; 64];
        let count = read_up_to(file, &mut out, 0).unwrap();
        out.truncate(count);
        out
    }

    /// Both ways to walk a path, which must agree.
    fn both(at: &OpenDir, below: &str) -> [Result<OwnedFd, Errno>; 2] {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let below = Path::new(below);
        [
            open_beneath(at.as_fd(), below, flags),
            open_by_parts(at.as_fd(), below, flags),
        ]
    }

    #[test]
    fn nothing_outside_is_reached_by_either_way() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), b"secret").unwrap();
        fs::create_dir(inside.path().join("a")).unwrap();
        fs::write(inside.path().join("a/file"), b"inside").unwrap();
        symlink(outside.path(), inside.path().join("out")).unwrap();
        symlink("a", inside.path().join("link")).unwrap();
        symlink("a/file", inside.path().join("to-file")).unwrap();
        let root = OpenDir::open(inside.path()).unwrap();
        for reached in both(&root, "a/file") {
            reached.unwrap();
        }
        for below in ["out/secret", "link/file", "to-file"] {
            if below != "to-file" {
                for reached in both(&root, below) {
                    assert_eq!(reached.unwrap_err(), Errno::ELOOP, "{below}");
                }
            }
            assert!(leads_away(&root.hold(Path::new(below)).unwrap_err()));
        }
        for reached in both(&root, "a/file/x") {
            assert_eq!(reached.unwrap_err(), Errno::ENOTDIR);
        }
        for below in ["../x", "/etc/passwd", "a/../../x"] {
            root.hold(Path::new(below)).unwrap_err();
        }
    }

    #[test]
    fn a_path_of_any_length_is_walked() {
        let dir = tempfile::tempdir().unwrap();
        let root = OpenDir::open(dir.path()).unwrap();
        let name = "x".repeat(200);
        let (mut deep, mut below) = (root.dir(Path::new("")).unwrap(), PathBuf::new());
        for _ in 0..60 {
            nix::sys::stat::mkdirat(&deep, name.as_str(), Mode::S_IRWXU).unwrap();
            below.push(&name);
            deep = deep.dir(Path::new(&name)).unwrap();
        }
        let way = deep.way().join("file");
        fs::write(way, b"deep").unwrap();
        below.push("file");
        let held = root.hold(&below).unwrap();
        assert_eq!(text(held.read().unwrap().as_ref()), b"deep");
        // The standard library removes such a tree from the inside.
        fs::remove_dir_all(dir.path()).unwrap();
    }

    #[test]
    fn names_are_sorted_bytes_and_looked_at_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let odd = OsStr::from_bytes(b"\xff\xfe");
        for name in [odd, OsStr::new("b"), OsStr::new("a")] {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        symlink("nowhere", dir.path().join("c")).unwrap();
        let root = OpenDir::open(dir.path()).unwrap();
        let names = root.names().unwrap();
        assert_eq!(names, [OsStr::new("a"), "b".as_ref(), "c".as_ref(), odd]);
        assert_eq!(root.names().unwrap(), names, "listed from the start again");
        let file_type = |name| root.look(name).unwrap().metadata.file_type;
        assert_eq!(file_type("a".as_ref()), FileType::File);
        assert_eq!(file_type("c".as_ref()), FileType::SymbolicLink);
        assert_eq!(root.link_target("c".as_ref()).unwrap(), "nowhere");
        assert_eq!(text(root.file(odd).unwrap().as_ref()), b"x");
        root.file("c".as_ref()).unwrap_err();
    }

    /// A FIFO without a writer would block a plain open for ever, and a device may act when opened.
    #[test]
    fn what_is_no_file_is_held_and_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        let root = OpenDir::open(dir.path()).unwrap();
        let held = root.hold(Path::new("fifo")).unwrap();
        assert_eq!(held.found.metadata.file_type, FileType::Fifo);
        held.read().unwrap_err();
        root.file("fifo".as_ref()).unwrap_err();
        let null = OpenDir::open(Path::new("/dev")).unwrap();
        assert_ne!(null.look("null".as_ref()).unwrap().device_number, 0);
    }
}
