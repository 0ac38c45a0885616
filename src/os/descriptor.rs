//! What a descriptor is, where it came from somebody else.

use std::io;
use std::os::fd::BorrowedFd;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::stat::{FileStat, SFlag, fstat};

use super::FileIdentity;

/// What kind of file a descriptor or name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A Unix socket.
    Socket,
    /// Anything else.
    Other,
}

/// What may be done through a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    ReadOnly,
    /// Writing too, or neither (`O_PATH`).
    Other,
}

/// Whether a descriptor outlives `exec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExec {
    /// It is closed.
    Close,
    /// A child would inherit it.
    Keep,
}

/// What the kernel says of an open descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorFacts {
    /// Which file.
    pub identity: FileIdentity,
    /// Of which kind.
    pub kind: FileKind,
    /// Opened for what.
    pub access: Access,
    /// Kept or closed by `exec`.
    pub on_exec: OnExec,
}

/// Asks the kernel about `fd`.
pub fn describe(fd: BorrowedFd<'_>) -> io::Result<DescriptorFacts> {
    let stat = fstat(fd)?;
    let status = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD)?);
    let is_plain_read =
        status & OFlag::O_ACCMODE == OFlag::O_RDONLY && !status.contains(OFlag::O_PATH);
    let closes = flags.contains(FdFlag::FD_CLOEXEC);
    Ok(DescriptorFacts {
        identity: identity_of(&stat),
        kind: kind_of(&stat),
        access: if is_plain_read {
            Access::ReadOnly
        } else {
            Access::Other
        },
        on_exec: if closes { OnExec::Close } else { OnExec::Keep },
    })
}

/// Which file the kernel described.
pub(super) fn identity_of(stat: &FileStat) -> FileIdentity {
    FileIdentity {
        device: stat.st_dev,
        inode: stat.st_ino,
    }
}

/// What kind of file the kernel described.
pub(super) fn kind_of(stat: &FileStat) -> FileKind {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => FileKind::Regular,
        SFlag::S_IFSOCK => FileKind::Socket,
        _ => FileKind::Other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn descriptor_tells_file_kind_access_and_exec() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let meta = file.as_file().metadata().unwrap();
        let facts = describe(file.as_file().as_fd()).unwrap();
        assert_eq!(
            facts.identity,
            FileIdentity {
                device: meta.dev(),
                inode: meta.ino()
            }
        );
        assert_eq!(
            (facts.kind, facts.access),
            (FileKind::Regular, Access::Other)
        );
        let reader = fs::File::open(file.path()).unwrap();
        assert_eq!(describe(reader.as_fd()).unwrap().access, Access::ReadOnly);
        assert_eq!(describe(reader.as_fd()).unwrap().on_exec, OnExec::Close);
        fcntl(&reader, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        assert_eq!(describe(reader.as_fd()).unwrap().on_exec, OnExec::Keep);
    }

    /// A descriptor that names a file without opening it cannot be read, though it says `O_RDONLY`.
    #[test]
    fn path_descriptor_is_not_read_only() {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open("/", flags, nix::sys::stat::Mode::empty()).unwrap();
        let facts = describe(fd.as_fd()).unwrap();
        assert_eq!((facts.kind, facts.access), (FileKind::Other, Access::Other));
    }
}
