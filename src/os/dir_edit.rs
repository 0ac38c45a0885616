//! Names made, moved and removed in an open directory.
//!
//! Nothing here takes a path: a name has one part, and no symbolic link is followed, so that whoever else
//! may write there cannot make us write elsewhere.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags};

use crate::os::beneath::OpenDir;
use crate::os::path::{FileType, metadata_of};
use crate::os::real_disk::RealFile;
use crate::os::{File, LockKind};

/// What becomes of a name that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// Nothing may have it: `AlreadyExists`.
    Nothing,
    /// A file or an empty directory that has it goes, in the same step.
    Anything,
    /// The two exchange their names, in one step; both must exist. Errors: `Unsupported` where the file
    /// system cannot.
    Exchange,
}

impl OpenDir {
    /// Makes the directory `name`, for its owner only. Errors: `AlreadyExists`; the system's.
    pub fn make_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(nix::sys::stat::mkdirat(self, one(name)?, Mode::S_IRWXU)?)
    }

    /// Opens the regular file `name` for reading and writing; makes it, for its owner only, where nothing
    /// has the name. One of ours that its mode keeps us from is made ours again.
    ///
    /// Errors: `InvalidInput` for what is no regular file; the system's.
    pub fn writable_file(&self, name: &OsStr) -> io::Result<Arc<dyn File>> {
        let flags = OFlag::O_RDWR
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let open = || nix::fcntl::openat(self, one(name)?, flags, mode);
        let fd = match open() {
            Err(Errno::EACCES) => {
                self.set_mode(name, mode.bits())?;
                open()?
            }
            opened => opened?,
        };
        match metadata_of(fd.as_fd())?.file_type {
            FileType::File => Ok(Arc::new(RealFile::from_fd(fd))),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    /// Makes the symbolic link `name` to `to`. Errors: `AlreadyExists`; the system's.
    pub fn make_link(&self, name: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(nix::unistd::symlinkat(to, self, one(name)?)?)
    }

    /// Makes `name` one more name of the file `other` in `from`. Errors: `AlreadyExists`; the system's.
    pub fn make_hard_link(&self, name: &OsStr, from: &Self, other: &OsStr) -> io::Result<()> {
        let (name, other) = (one(name)?, one(other)?);
        Ok(nix::unistd::linkat(
            from,
            other,
            self,
            name,
            AtFlags::empty(),
        )?)
    }

    /// Moves `name` to `to_name` in `to`. Errors: those of `onto`; the system's.
    pub fn rename_into(
        &self,
        name: &OsStr,
        to: &Self,
        to_name: &OsStr,
        onto: Onto,
    ) -> io::Result<()> {
        let (name, to_name) = (one(name)?, one(to_name)?);
        let flags = match onto {
            Onto::Anything => return Ok(nix::fcntl::renameat(self, name, to, to_name)?),
            Onto::Nothing => RenameFlags::RENAME_NOREPLACE,
            Onto::Exchange => RenameFlags::RENAME_EXCHANGE,
        };
        match nix::fcntl::renameat2(self, name, to, to_name, flags) {
            Err(Errno::EINVAL | Errno::ENOSYS) if onto == Onto::Nothing => {
                self.rename_where_free(name, to, to_name)
            }
            Err(Errno::EINVAL | Errno::ENOSYS) => Err(io::ErrorKind::Unsupported.into()),
            done => Ok(done?),
        }
    }

    /// For file systems that cannot look and rename in one step.
    fn rename_where_free(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        match to.look(to_name) {
            Ok(_) => Err(Errno::EEXIST.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(nix::fcntl::renameat(self, name, to, to_name)?)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a name that is no directory's. Errors: `IsADirectory`; the system's.
    pub fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        let flags = UnlinkatFlags::NoRemoveDir;
        Ok(nix::unistd::unlinkat(self, one(name)?, flags)?)
    }

    /// Removes an empty directory. Errors: `DirectoryNotEmpty`, `NotADirectory`; the system's.
    pub fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        let flags = UnlinkatFlags::RemoveDir;
        Ok(nix::unistd::unlinkat(self, one(name)?, flags)?)
    }

    /// Opens the directory `name` if it is on the same mount as this one. Errors: `CrossesDevices` for
    /// one that something is mounted on; the system's.
    pub fn dir_of_this_mount(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY
            | OFlag::O_DIRECTORY
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_CLOEXEC;
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        match nix::fcntl::openat2(self, one(name)?, how) {
            // A kernel without it, and a container's filter that does not know it.
            Err(Errno::ENOSYS | Errno::EPERM) => {
                let fd = nix::fcntl::openat(self, name, flags, Mode::empty())?;
                let found = metadata_of(fd.as_fd())?.identity;
                if found.device != self.metadata()?.identity.device {
                    return Err(Errno::EXDEV.into());
                }
                Ok(Self::from_fd(fd))
            }
            opened => Ok(Self::from_fd(opened?)),
        }
    }

    /// Sets the permission bits of `name`. Errors: `ELOOP` for a symbolic link, which has none; the
    /// system's.
    pub fn set_mode(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        let held = self.hold(Path::new(one(name)?))?;
        let mode = Mode::from_bits_truncate(mode);
        // A name that is only held is reached through `/proc`; the link there leads to the inode itself.
        let (way, follow) = (held.way(), FchmodatFlags::FollowSymlink);
        Ok(nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            &way,
            mode,
            follow,
        )?)
    }

    /// Sets owner and group of `name`, of a link itself. Errors: `PermissionDenied` where that needs root;
    /// the system's.
    pub fn set_owner(&self, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        Ok(nix::unistd::fchownat(self, one(name)?, uid, gid, flags)?)
    }

    /// Sets the time of the last change of `name`, of a link itself. Errors: the system's.
    pub fn set_mtime(&self, name: &OsStr, mtime_ns: i64) -> io::Result<()> {
        Ok(nix::sys::stat::utimensat(
            self,
            one(name)?,
            &TimeSpec::UTIME_OMIT,
            &time_of(mtime_ns),
            UtimensatFlags::NoFollowSymlink,
        )?)
    }

    /// Sets the permission bits of the directory itself. Errors: the system's.
    pub fn set_own_mode(&self, mode: u32) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(mode);
        Ok(nix::sys::stat::fchmod(self, mode)?)
    }

    /// Sets the time of the last change of the directory itself. Errors: the system's.
    pub fn set_own_mtime(&self, mtime_ns: i64) -> io::Result<()> {
        let (omit, mtime) = (TimeSpec::UTIME_OMIT, time_of(mtime_ns));
        Ok(nix::sys::stat::futimens(self, &omit, &mtime)?)
    }

    /// Sets owner and group of the directory itself. Errors: `PermissionDenied`; the system's.
    pub fn set_own_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(nix::unistd::fchown(self, uid, gid)?)
    }

    /// Makes its names and its attributes durable. Errors: the system's.
    pub fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::fsync(self)?)
    }

    /// Makes everything on its file system durable, other people's files too. Errors: the system's.
    pub fn sync_file_system(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(self)?)
    }

    /// Takes the lock (`flock`) of the directory without waiting; `None` if somebody else has it. It lasts
    /// as long as the result. Errors: the system's.
    pub fn try_lock(&self) -> io::Result<Option<Arc<dyn File>>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let file = RealFile::from_fd(nix::fcntl::openat(self, ".", flags, Mode::empty())?);
        let is_ours = file.try_lock(LockKind::Exclusive)?;
        Ok(is_ours.then(|| Arc::new(file) as Arc<dyn File>))
    }

    /// Bytes that can still be written to its file system. Errors: the system's.
    pub fn free_bytes(&self) -> io::Result<u64> {
        use crate::os::Disk;
        crate::os::real_disk::RealDisk.free_bytes(&self.way())
    }
}

/// Makes content, size, and attributes of `file` durable (`fsync`). Errors: the system's.
pub fn sync_all(file: &dyn File) -> io::Result<()> {
    match file.as_fd() {
        Some(fd) => Ok(nix::unistd::fsync(fd)?),
        None => file.sync_data(),
    }
}

/// Gives `file` owner, group and permission bits of `like`. An owner or a group that only root could give stays
/// as it is. Nothing is done to simulated files, which have none. Errors: the system's.
pub fn take_attributes(file: &dyn File, like: &dyn File) -> io::Result<()> {
    let (Some(fd), Some(like)) = (file.as_fd(), like.as_fd()) else {
        return Ok(());
    };
    let wanted = metadata_of(like)?;
    let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
    let own = |uid, gid| nix::unistd::fchown(fd, uid, gid);
    match own(Some(uid), Some(gid)).or_else(|_| own(None, Some(gid))) {
        Ok(()) | Err(Errno::EPERM | Errno::EINVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let mode = Mode::from_bits_truncate(wanted.mode & 0o777);
    Ok(nix::sys::stat::fchmod(fd, mode)?)
}

/// Has the kernel begin to write `bytes` bytes from `offset` on to the disk, without waiting for it. A
/// wish: nothing is durable by it, and where it cannot be had nothing happens.
pub fn start_writeback(file: &dyn File, offset: u64, bytes: u64) {
    let range = |value| libc::off64_t::try_from(value).ok();
    let (Some(fd), Some(offset), Some(bytes)) = (file.as_fd(), range(offset), range(bytes)) else {
        return;
    };
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the descriptor is open as long as it is borrowed, and no pointer is passed. What it answers
    // is of no use: an error of the disk is told to the sync that follows.
    unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, bytes, flags) };
}

/// A name has one part, so that it cannot lead away.
fn one(name: &OsStr) -> Result<&OsStr, Errno> {
    let is_plain = !matches!(name.as_bytes(), b"" | b"." | b"..");
    match is_plain && !name.as_bytes().contains(&b'/') {
        true => Ok(name),
        false => Err(Errno::EINVAL),
    }
}

fn time_of(ns: i64) -> TimeSpec {
    let (seconds, rest) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    #[allow(clippy::useless_conversion, reason = "the widths are the machine's")]
    TimeSpec::new(seconds.into(), rest.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn a_link_is_neither_written_through_nor_changed_behind() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = outside.path().join("secret");
        fs::write(&secret, b"secret").unwrap();
        let before = fs::metadata(&secret).unwrap();
        symlink(&secret, inside.path().join("link")).unwrap();
        symlink(outside.path(), inside.path().join("dir")).unwrap();
        let dir = OpenDir::open(inside.path()).unwrap();
        dir.writable_file(name("link")).unwrap_err();
        dir.set_mode(name("link"), 0o777).unwrap_err();
        dir.set_mtime(name("link"), 5).unwrap();
        dir.dir_of_this_mount(name("dir")).unwrap_err();
        dir.remove_file(name("link")).unwrap();
        dir.remove_file(name("dir")).unwrap();
        let after = fs::metadata(&secret).unwrap();
        assert_eq!(
            (after.mode(), after.mtime()),
            (before.mode(), before.mtime())
        );
        assert_eq!(fs::read(&secret).unwrap(), b"secret");
    }

    #[test]
    fn a_name_of_several_parts_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let dir = OpenDir::open(place.path()).unwrap();
        for bad in ["", ".", "..", "a/b", "/a", "../a"] {
            dir.make_dir(name(bad)).unwrap_err();
            dir.writable_file(name(bad)).map(|_| ()).unwrap_err();
            dir.make_link(name(bad), name("x")).unwrap_err();
            dir.remove_file(name(bad)).unwrap_err();
        }
    }

    #[test]
    fn a_rename_onto_nothing_leaves_what_is_there() {
        let place = tempfile::tempdir().unwrap();
        let dir = OpenDir::open(place.path()).unwrap();
        fs::write(place.path().join("a"), b"a").unwrap();
        fs::write(place.path().join("b"), b"b").unwrap();
        let rename = |onto| dir.rename_into(name("a"), &dir, name("b"), onto);
        let error = rename(Onto::Nothing).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let error = dir.rename_where_free(name("a"), &dir, name("b"));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        rename(Onto::Exchange).unwrap();
        assert_eq!(fs::read(place.path().join("b")).unwrap(), b"a");
        rename(Onto::Anything).unwrap();
        assert_eq!(fs::read(place.path().join("b")).unwrap(), b"b");
        dir.rename_where_free(name("b"), &dir, name("a")).unwrap();
        assert_eq!(dir.names().unwrap(), ["a"]);
    }

    #[test]
    fn attributes_are_those_that_were_set_before_1970_too() {
        let place = tempfile::tempdir().unwrap();
        let dir = OpenDir::open(place.path()).unwrap();
        drop(dir.writable_file(name("a")).unwrap());
        dir.set_mode(name("a"), 0o4751).unwrap();
        dir.set_mtime(name("a"), -1_500_000_000).unwrap();
        let found = dir.look(name("a")).unwrap().metadata;
        assert_eq!((found.mode, found.mtime_ns), (0o4751, -1_500_000_000));
        dir.set_own_mode(0o500).unwrap();
        dir.set_own_mtime(7).unwrap();
        let found = dir.metadata().unwrap();
        assert_eq!((found.mode, found.mtime_ns), (0o500, 7));
        dir.set_own_mode(0o700).unwrap();
    }

    #[test]
    fn one_lock_at_a_time_and_it_goes_with_its_holder() {
        let place = tempfile::tempdir().unwrap();
        let (ours, theirs) = (
            OpenDir::open(place.path()).unwrap(),
            OpenDir::open(place.path()).unwrap(),
        );
        let lock = ours.try_lock().unwrap().unwrap();
        assert!(theirs.try_lock().unwrap().is_none());
        drop(lock);
        assert!(theirs.try_lock().unwrap().is_some());
    }
}
