//! What lies at a path of the real file system, and whole small files.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod};

use crate::os::real_disk::{RealDisk, format_bits, identity_of};
use crate::os::{Disk, FileIdentity, OpenMode, read_up_to, write_all_at};

/// What kind of thing a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    SymbolicLink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

/// The facts of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Device and inode number.
    pub identity: FileIdentity,
    /// The kind.
    pub file_type: FileType,
    /// Permission bits with set-id and sticky bits (`0o7777`), without the kind.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// How many names it has.
    pub link_count: u64,
    /// Size in bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    /// Last change of the content, nanoseconds since 1970, negative before; clamped to the range.
    pub mtime_ns: i64,
    /// Last change of content or inode, as `mtime_ns`.
    pub ctime_ns: i64,
}

/// The kind of what is at `path`; a link is a link. Errors: the system's.
pub fn file_type_of(path: &Path) -> io::Result<FileType> {
    Ok(symlink_metadata(path)?.file_type)
}

/// The facts of what `path` leads to, links followed. Errors: the system's.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    Metadata::from_stat(&nix::sys::stat::stat(path)?)
}

/// The facts of what is at `path`; a link is a link. Errors: the system's.
pub fn symlink_metadata(path: &Path) -> io::Result<Metadata> {
    Metadata::from_stat(&nix::sys::stat::lstat(path)?)
}

/// The facts of an open file. Errors: the system's.
pub fn metadata_of(fd: BorrowedFd<'_>) -> io::Result<Metadata> {
    Metadata::from_stat(&nix::sys::stat::fstat(fd)?)
}

impl Metadata {
    #[allow(clippy::useless_conversion, reason = "the widths are the machine's")]
    pub(super) fn from_stat(stat: &FileStat) -> io::Result<Self> {
        let file_type = match format_bits(stat) {
            SFlag::S_IFREG => FileType::File,
            SFlag::S_IFDIR => FileType::Directory,
            SFlag::S_IFLNK => FileType::SymbolicLink,
            SFlag::S_IFIFO => FileType::Fifo,
            SFlag::S_IFSOCK => FileType::Socket,
            SFlag::S_IFCHR => FileType::CharacterDevice,
            SFlag::S_IFBLK => FileType::BlockDevice,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self {
            identity: identity_of(stat),
            file_type,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            link_count: u64::from(stat.st_nlink),
            size: u64::try_from(stat.st_size).map_err(|_| Errno::EOVERFLOW)?,
            blocks: u64::try_from(stat.st_blocks).map_err(|_| Errno::EOVERFLOW)?,
            mtime_ns: nanoseconds(stat.st_mtime.into(), stat.st_mtime_nsec.into()),
            ctime_ns: nanoseconds(stat.st_ctime.into(), stat.st_ctime_nsec.into()),
        })
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// Whether this process may write to the directory at `path`, and make and find names in it.
///
/// Errors: `PermissionDenied`, `ReadOnlyFilesystem`; the system's.
pub fn may_use_dir(path: &Path) -> io::Result<()> {
    use nix::unistd::AccessFlags;
    let wanted = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    Ok(nix::unistd::eaccess(path, wanted)?)
}

/// The absolute path without links and dots. Errors: the system's; everything on it must exist.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    std::fs::canonicalize(path)
}

/// Removes the empty directory at `path`; a link is none. Nothing is synced. Errors: the system's.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    RealDisk.remove_dir(path)
}

/// Makes `path` and what is missing above it, each with the permission bits `mode` less the umask.
///
/// It is no error if the directory is there. Nothing is synced. Errors: the system's; `NotADirectory`
/// if something else is in the way.
pub fn create_dir_all(path: &Path, mode: u32) -> io::Result<()> {
    let bits = Mode::from_bits_truncate(mode);
    match nix::unistd::mkdir(path, bits) {
        Ok(()) => Ok(()),
        Err(Errno::ENOENT) => {
            let parent = path.parent().ok_or(Errno::ENOENT)?;
            if parent.as_os_str().is_empty() {
                return Err(Errno::ENOENT.into());
            }
            create_dir_all(parent, mode)?;
            create_dir_all_last(path, bits)
        }
        Err(Errno::EEXIST) => require_directory(path),
        Err(error) => Err(error.into()),
    }
}

/// The parent exists; somebody else may make the directory at the same time.
fn create_dir_all_last(path: &Path, bits: Mode) -> io::Result<()> {
    match nix::unistd::mkdir(path, bits) {
        Err(Errno::EEXIST) => require_directory(path),
        result => Ok(result?),
    }
}

fn require_directory(path: &Path) -> io::Result<()> {
    match metadata(path)?.file_type {
        FileType::Directory => Ok(()),
        _ => Err(Errno::ENOTDIR.into()),
    }
}

/// The whole content of a regular file of at most `limit_bytes`; a link in the last part is refused.
///
/// The size that the file claims is not believed, so that `/proc` works and nothing is allocated for
/// a lie. Errors: `FileTooLarge`; those of [`RealDisk`].
pub fn read_small_file(path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    const STEP_BYTES: usize = 64 << 10;
    let file = RealDisk.open(path, OpenMode::Read)?;
    let mut content = Vec::new();
    let mut step = vec![0; STEP_BYTES];
    loop {
        let count = read_up_to(file.as_ref(), &mut step, content.len() as u64)?;
        content.extend(step.iter().take(count));
        if content.len() as u64 > limit_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if count < step.len() {
            return Ok(content);
        }
    }
}

/// Puts `bytes` at `dir/name`, so that after a crash the old content is there, or the new one.
///
/// The way there is the file `.NAME.new`, which a crash may leave behind and the next call replaces.
/// Only one caller may write a name at a time. Errors: the disk's; `dir/name` is then untouched unless
/// it was the last step, the sync of `dir`, that failed.
pub fn write_file_atomically(
    disk: &dyn Disk,
    dir: &Path,
    name: &OsStr,
    bytes: &[u8],
) -> io::Result<()> {
    let mut staged_name = OsString::from(".");
    staged_name.push(name);
    staged_name.push(".new");
    let staged = dir.join(staged_name);
    let result = stage(disk, &staged, bytes).and_then(|()| disk.rename(&staged, &dir.join(name)));
    if let Err(error) = result {
        // The first error is the one to tell; a file left behind is replaced by the next call.
        drop(disk.remove(&staged));
        return Err(error);
    }
    disk.sync_dir(dir)
}

/// Puts `bytes` at `path` of the real disk in one step, readable by everybody (mode 0644).
///
/// Errors: as for [`write_file_atomically`].
pub fn publish_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    // Several processes may write it, each by a way of its own.
    let mut staged_name = OsString::from(".");
    staged_name.push(name);
    staged_name.push(format!(".{}.new", std::process::id()));
    let staged = dir.join(staged_name);
    let let_read = || {
        let readable = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IROTH;
        let file = RealDisk.open(&staged, OpenMode::ReadWrite)?;
        match file.as_fd() {
            Some(fd) => Ok(fchmod(fd, readable)?),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    };
    let result = stage(&RealDisk, &staged, bytes)
        .and_then(|()| let_read())
        .and_then(|()| RealDisk.rename(&staged, path));
    if let Err(error) = result {
        // The first error is the one to tell.
        drop(RealDisk.remove(&staged));
        return Err(error);
    }
    RealDisk.sync_dir(dir)
}

fn stage(disk: &dyn Disk, staged: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = match disk.open(staged, OpenMode::CreateNew) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(staged)?;
            disk.open(staged, OpenMode::CreateNew)?
        }
        result => result?,
    };
    write_all_at(file.as_ref(), bytes, 0)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::os::sim::{Fault, Faults, Operation, SimDisk};

    #[test]
    fn metadata_agree_with_the_standard_library() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, [1; 5000]).unwrap();
        std::fs::hard_link(&path, dir.path().join("b")).unwrap();
        let (ours, theirs) = (metadata(&path).unwrap(), std::fs::metadata(&path).unwrap());
        assert_eq!(ours.identity.inode, theirs.ino());
        assert_eq!(ours.identity.device, theirs.dev());
        assert_eq!(ours.mode, theirs.mode() & 0o7777);
        assert_eq!((ours.uid, ours.gid), (theirs.uid(), theirs.gid()));
        assert_eq!((ours.size, ours.blocks), (5000, theirs.blocks()));
        assert_eq!(ours.link_count, 2);
        assert_eq!(
            ours.mtime_ns,
            theirs.mtime() * 1_000_000_000 + theirs.mtime_nsec()
        );
        let file = RealDisk.open(&path, OpenMode::Read).unwrap();
        assert_eq!(metadata_of(file.as_fd().unwrap()).unwrap(), ours);
    }

    #[test]
    fn kinds_are_told_apart_and_links_followed_only_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), b"").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(file_type_of(&at("file")).unwrap(), FileType::File);
        assert_eq!(file_type_of(&at("link")).unwrap(), FileType::SymbolicLink);
        assert_eq!(metadata(&at("link")).unwrap().file_type, FileType::File);
        assert_eq!(file_type_of(&at("fifo")).unwrap(), FileType::Fifo);
        assert_eq!(file_type_of(&at("socket")).unwrap(), FileType::Socket);
        assert_eq!(file_type_of(dir.path()).unwrap(), FileType::Directory);
        assert_eq!(
            file_type_of(Path::new("/dev/null")).unwrap(),
            FileType::CharacterDevice
        );
        assert_eq!(
            canonical(&at("link")).unwrap(),
            canonical(&at("file")).unwrap()
        );
    }

    #[test]
    fn times_out_of_range_are_clamped() {
        assert_eq!(nanoseconds(i64::MAX, 5), i64::MAX);
        assert_eq!(nanoseconds(-1, 999_999_999), -1);
    }

    #[test]
    fn missing_directories_are_made_with_the_mode_and_existing_ones_left() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all(&deep, 0o700).unwrap();
        assert_eq!(metadata(&dir.path().join("a")).unwrap().mode, 0o700);
        assert_eq!(metadata(&deep).unwrap().mode, 0o700);
        create_dir_all(&deep, 0o755).unwrap();
        assert_eq!(metadata(&deep).unwrap().mode, 0o700);
        std::fs::write(dir.path().join("file"), b"").unwrap();
        let error = create_dir_all(&dir.path().join("file"), 0o700).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        let error = create_dir_all(&dir.path().join("file/x"), 0o700).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn file_of_exactly_the_limit_is_read_and_one_byte_more_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let content: Vec<u8> = (0..=250).cycle().take(200_000).collect();
        std::fs::write(&path, &content).unwrap();
        assert_eq!(read_small_file(&path, 200_000).unwrap(), content);
        let error = read_small_file(&path, 199_999).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    /// `/proc` says 0 bytes for files that have content.
    #[test]
    fn file_that_claims_no_size_is_read() {
        assert!(
            !read_small_file(Path::new("/proc/self/status"), 1 << 20)
                .unwrap()
                .is_empty()
        );
    }

    fn sim_content(disk: &SimDisk) -> Option<Vec<u8>> {
        let file = disk.open(Path::new("/a"), OpenMode::Read).ok()?;
        let mut out = vec![0; 4096];
        let count = read_up_to(file.as_ref(), &mut out, 0).unwrap();
        out.truncate(count);
        Some(out)
    }

    /// Power fails before each step in turn; every image has the old content or the new one.
    #[test]
    fn crash_at_any_step_leaves_the_old_file_or_the_new_one() {
        let (old, new) = (vec![1; 1500], vec![2; 2500]);
        let write = |disk: &SimDisk, bytes: &[u8]| {
            write_file_atomically(disk, Path::new("/"), OsStr::new("a"), bytes)
        };
        let mut seen = std::collections::BTreeSet::new();
        for step in 0.. {
            let disk = SimDisk::new(1);
            write(&disk, &old).unwrap();
            disk.set_faults(Faults::power_off_before_change(step));
            let outcome = write(&disk, &new);
            for seed in 0..20 {
                let content = sim_content(&disk.image_after_crash(seed)).unwrap();
                assert!(content == old || content == new, "step {step} seed {seed}");
                assert!(
                    outcome.is_err() || content == new,
                    "step {step} seed {seed}"
                );
                seen.insert(content == new);
            }
            if outcome.is_ok() {
                assert_eq!(
                    step, 5,
                    "create, write, sync, rename, sync of the directory"
                );
                break;
            }
        }
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn failed_sync_leaves_the_old_file_and_nothing_beside_it() {
        let disk = SimDisk::new(1);
        let root = Path::new("/");
        write_file_atomically(&disk, root, OsStr::new("a"), b"old").unwrap();
        disk.set_faults(Faults::none().with(Fault::errno(Operation::SyncData, libc::EIO)));
        write_file_atomically(&disk, root, OsStr::new("a"), b"new").unwrap_err();
        assert_eq!(sim_content(&disk).unwrap(), b"old");
        assert_eq!(disk.list(root).unwrap(), ["a"]);
    }

    #[test]
    fn leftover_of_a_crash_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".a.new"), [9; 100]).unwrap();
        write_file_atomically(&RealDisk, dir.path(), OsStr::new("a"), b"new").unwrap();
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"new");
        assert_eq!(RealDisk.list(dir.path()).unwrap(), ["a"]);
    }
}
