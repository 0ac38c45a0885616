//! The real disk: positioned reads and writes through the page cache.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{File as Descriptor, TryLockError};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, OFlag, fallocate};
use nix::sys::stat::{FileStat, Mode, SFlag};

use crate::os::random::SystemRandom;
use crate::os::write_back::{start_write_back, write_back};
use crate::os::{Disk, File, FileIdentity, LockKind, OpenMode, Random};

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// An open file of the machine.
#[derive(Debug)]
pub struct RealFile {
    descriptor: Descriptor,
}

impl RealFile {
    /// Takes over a descriptor, for example one that came over a socket.
    ///
    /// Access is what the descriptor was opened for; its lock, if it has one, is shared with every
    /// copy of it.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self {
            descriptor: Descriptor::from(fd),
        }
    }
}

impl File for RealFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.descriptor.read_at(out, offset)
    }

    fn read_vectored_at(&self, out: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        Ok(nix::sys::uio::preadv(&self.descriptor, out, offset)?)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.descriptor.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.descriptor.sync_data()
    }

    fn write_back(&self, offset: u64, bytes: u64) -> io::Result<()> {
        write_back(self.descriptor.as_fd(), offset, bytes)
    }

    fn start_write_back(&self, offset: u64, bytes: u64) -> io::Result<()> {
        start_write_back(self.descriptor.as_fd(), offset, bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.descriptor.set_len(bytes)
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let range = |value| libc::off_t::try_from(value).map_err(|_| Errno::EFBIG);
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(
            &self.descriptor,
            how,
            range(offset)?,
            range(bytes)?,
        )?)
    }

    fn len(&self) -> io::Result<u64> {
        let stat = nix::sys::stat::fstat(&self.descriptor)?;
        u64::try_from(stat.st_size).map_err(|_| Errno::EOVERFLOW.into())
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(identity_of(&nix::sys::stat::fstat(&self.descriptor)?))
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<bool> {
        let result = match kind {
            LockKind::Shared => self.descriptor.try_lock_shared(),
            LockKind::Exclusive => self.descriptor.try_lock(),
        };
        match result {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.descriptor.as_fd())
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let flags = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
        // A FIFO put in a file's place must not block us, hence O_NONBLOCK; regular files ignore it.
        let flags = flags
            | match mode {
                OpenMode::Read => OFlag::O_RDONLY | OFlag::O_NONBLOCK,
                OpenMode::ReadWrite => OFlag::O_RDWR | OFlag::O_NONBLOCK,
                OpenMode::CreateNew => OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL,
                OpenMode::Directory => OFlag::O_RDONLY | OFlag::O_DIRECTORY,
            };
        let fd = nix::fcntl::open(path, flags, OWNER_READ_WRITE)?;
        if mode != OpenMode::Directory {
            require_regular(&nix::sys::stat::fstat(&fd)?)?;
        }
        Ok(Arc::new(RealFile::from_fd(fd)))
    }

    fn unnamed(&self, dir: &Path) -> io::Result<Arc<dyn File>> {
        let flags = OFlag::O_TMPFILE | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let fd = match nix::fcntl::open(dir, flags, OWNER_READ_WRITE) {
            // What file systems without O_TMPFILE answer, and what kernels without it do.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR) => create_and_unlink(dir)?,
            result => result?,
        };
        Ok(Arc::new(RealFile::from_fd(fd)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        Ok(nix::unistd::mkdir(path, Mode::S_IRWXU)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Ok(nix::unistd::unlink(path)?)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let flags = nix::unistd::UnlinkatFlags::RemoveDir;
        Ok(nix::unistd::unlinkat(AT_FDCWD, path, flags)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(nix::fcntl::renameat(AT_FDCWD, from, AT_FDCWD, to)?)
    }

    fn link(&self, file: &Path, name: &Path) -> io::Result<()> {
        let flags = nix::fcntl::AtFlags::empty();
        Ok(nix::unistd::linkat(AT_FDCWD, file, AT_FDCWD, name, flags)?)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let mut names = std::fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(dir, flags, Mode::empty())?;
        Descriptor::from(fd).sync_all()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(path)?;
        // These are c_ulong, whose width is the machine's.
        #[allow(clippy::useless_conversion)]
        let (blocks, block_bytes) = (
            u64::from(stat.blocks_available()),
            u64::from(stat.fragment_size()),
        );
        Ok(blocks.saturating_mul(block_bytes))
    }
}

/// Opens the inode of `file` anew, for reading only.
///
/// The result shares neither access mode nor lock with `file`, so that it can be given away. It works
/// for files without a name too. Errors: `Unsupported` for a simulated file; `Other` if `/proc` led to
/// another inode; the system's.
pub fn reopen_read_only(file: &dyn File) -> io::Result<OwnedFd> {
    let fd = file.as_fd().ok_or(io::ErrorKind::Unsupported)?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let anew = nix::fcntl::open(path.as_str(), flags, Mode::empty())?;
    let (old, new) = (nix::sys::stat::fstat(fd)?, nix::sys::stat::fstat(&anew)?);
    if identity_of(&old) != identity_of(&new) {
        return Err(io::Error::other("/proc/self/fd led to another file"));
    }
    Ok(anew)
}

/// Mode 0600.
const OWNER_READ_WRITE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// Device and inode out of a stat.
pub(crate) fn identity_of(stat: &FileStat) -> FileIdentity {
    FileIdentity {
        device: stat.st_dev,
        inode: stat.st_ino,
    }
}

/// The bits of `st_mode` that say what kind of file it is.
pub(crate) fn format_bits(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn require_regular(stat: &FileStat) -> io::Result<()> {
    match format_bits(stat) {
        SFlag::S_IFREG => Ok(()),
        SFlag::S_IFDIR => Err(Errno::EISDIR.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// For file systems without `O_TMPFILE`: a file under a random name, which is taken away at once.
fn create_and_unlink(dir: &Path) -> io::Result<OwnedFd> {
    let mut random = [0; 16];
    SystemRandom.fill(&mut random)?;
    let mut name = String::from(".stillfs-unnamed-");
    for byte in random {
        write!(name, "{byte:02x}").expect("writing to a String does not fail");
    }
    let path = dir.join(name);
    let flags =
        OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let fd = nix::fcntl::open(&path, flags, OWNER_READ_WRITE)?;
    nix::unistd::unlink(&path)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;
    use crate::os::{read_exact_at, write_all_at};

    fn mode_of(file: &dyn File) -> u32 {
        nix::sys::stat::fstat(file.as_fd().unwrap())
            .unwrap()
            .st_mode
            & 0o7777
    }

    fn is_close_on_exec(fd: BorrowedFd<'_>) -> bool {
        let flags = FdFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFD).unwrap());
        flags.contains(FdFlag::FD_CLOEXEC)
    }

    #[test]
    fn several_buffers_are_filled_in_turn_as_far_as_the_file_goes() {
        let file = RealFile::from_fd(tempfile::tempfile().unwrap().into());
        write_all_at(&file, b"0123456789", 0).unwrap();
        let (mut one, mut two) = ([0; 3], [0; 4]);
        let mut out = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        assert_eq!(file.read_vectored_at(&mut out, 2).unwrap(), 7);
        assert_eq!(file.read_vectored_at(&mut out, 8).unwrap(), 2);
        assert_eq!((&one, &two), (b"894", b"5678"));
        let mut out = [IoSliceMut::new(&mut one)];
        assert!(file.read_vectored_at(&mut out, u64::MAX).is_err());
    }

    #[test]
    fn every_descriptor_is_close_on_exec_and_every_new_file_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let made = RealDisk.open(&path, OpenMode::CreateNew).unwrap();
        let unnamed = RealDisk.unnamed(dir.path()).unwrap();
        assert_eq!(mode_of(made.as_ref()) & 0o077, 0);
        assert_eq!(mode_of(unnamed.as_ref()) & 0o077, 0);
        let read = RealDisk.open(&path, OpenMode::Read).unwrap();
        let folder = RealDisk.open(dir.path(), OpenMode::Directory).unwrap();
        for file in [&made, &unnamed, &read, &folder] {
            assert!(is_close_on_exec(file.as_fd().unwrap()));
        }
    }

    #[test]
    fn symbolic_link_in_the_last_part_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"x").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let error = RealDisk
            .open(&dir.path().join("link"), OpenMode::Read)
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    /// A FIFO without a writer would block a plain open for ever.
    #[test]
    fn fifo_in_the_place_of_a_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        for mode in [OpenMode::Read, OpenMode::ReadWrite] {
            let error = RealDisk.open(&path, mode).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
    }

    #[test]
    fn fallback_for_unnamed_files_leaves_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealFile::from_fd(create_and_unlink(dir.path()).unwrap());
        assert!(RealDisk.list(dir.path()).unwrap().is_empty());
        write_all_at(&file, b"spool", 3).unwrap();
        let mut out = [0; 5];
        read_exact_at(&file, &mut out, 3).unwrap();
        assert_eq!(&out, b"spool");
        assert_eq!(nix::sys::stat::fstat(&file.descriptor).unwrap().st_nlink, 0);
    }

    #[test]
    fn reopened_file_is_the_same_inode_read_only_and_with_a_lock_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = RealDisk.open(&path, OpenMode::CreateNew).unwrap();
        write_all_at(file.as_ref(), b"abc", 0).unwrap();
        assert!(file.try_lock(LockKind::Exclusive).unwrap());
        let anew = RealFile::from_fd(reopen_read_only(file.as_ref()).unwrap());
        assert_eq!(anew.identity().unwrap(), file.identity().unwrap());
        let mut out = [0; 3];
        read_exact_at(&anew, &mut out, 0).unwrap();
        assert_eq!(&out, b"abc");
        assert_eq!(
            anew.write_at(b"x", 0).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
        assert!(!anew.try_lock(LockKind::Shared).unwrap());
        assert!(is_close_on_exec(File::as_fd(&anew).unwrap()));
    }

    #[test]
    fn unnamed_file_can_be_reopened_for_reading() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.unnamed(dir.path()).unwrap();
        write_all_at(file.as_ref(), b"abc", 0).unwrap();
        let anew = RealFile::from_fd(reopen_read_only(file.as_ref()).unwrap());
        assert_eq!(anew.len().unwrap(), 3);
    }

    #[test]
    fn free_bytes_agree_with_the_system_to_a_block() {
        let dir = tempfile::tempdir().unwrap();
        let free = RealDisk.free_bytes(dir.path()).unwrap();
        let stat = nix::sys::statvfs::statvfs(dir.path()).unwrap();
        assert_eq!(free % stat.fragment_size(), 0);
        assert!(free > 0 && free <= stat.blocks() * stat.fragment_size());
    }
}
