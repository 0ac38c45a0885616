//! What the kernel is told: the one table from a refusal to an errno.

#![deny(clippy::wildcard_enum_match_arm)]

use std::io;

use fuser::Errno;

use crate::view::tree::{LiveError, ReadError};

/// Why an operation on a mount is refused.
#[derive(Debug)]
pub(super) enum Refusal<'a> {
    /// A read failed; its text goes to the log.
    Read(&'a ReadError),
    /// A live file cannot be had.
    Live(LiveError),
    /// A live file that is open cannot be read.
    LiveRead,
    /// The pin of the node was found ended by an earlier read (M4).
    Ended,
    /// The reader broke its contract: a part of the range, or a panic (M2).
    BrokenReader,
    /// No such name in the directory, or no such node.
    UnknownName,
    /// A name that is longer than any file's.
    LongName,
    /// An attempt to change something (M3).
    Write,
    /// The node has no such extended attribute.
    NoXattr,
    /// The value does not fit the caller's buffer.
    SmallBuffer,
    /// The value is larger than the kernel takes.
    LargeValue,
    /// A directory was to be read as a file.
    IsDirectory,
    /// A file was to be listed.
    NotDirectory,
    /// A file or directory was to be read as a symbolic link.
    NotLink,
    /// A pipe, a socket or a device was to be read, which the kernel does by itself.
    NotFile,
    /// A handle that was never given out, or not for this node.
    BadHandle,
    /// A seek from beyond the end.
    PastEnd,
    /// An argument that means nothing here.
    BadArgument,
    /// The mode forbids it.
    Denied,
    /// Not offered; the kernel then does without.
    Unsupported,
}

/// The errno of a refusal.
pub(super) fn errno(refusal: &Refusal<'_>) -> Errno {
    match refusal {
        Refusal::Read(error) => read_errno(error),
        Refusal::Live(error) => live_errno(error),
        Refusal::LiveRead | Refusal::Ended | Refusal::BrokenReader => Errno::EIO,
        Refusal::UnknownName => Errno::ENOENT,
        Refusal::LongName => Errno::ENAMETOOLONG,
        Refusal::Write => Errno::EROFS,
        Refusal::NoXattr => Errno::ENODATA,
        Refusal::SmallBuffer => Errno::ERANGE,
        Refusal::LargeValue => Errno::E2BIG,
        Refusal::IsDirectory => Errno::EISDIR,
        Refusal::NotDirectory => Errno::ENOTDIR,
        Refusal::NotLink | Refusal::BadArgument => Errno::EINVAL,
        Refusal::BadHandle => Errno::EBADF,
        Refusal::PastEnd | Refusal::NotFile => Errno::ENXIO,
        Refusal::Denied => Errno::EACCES,
        Refusal::Unsupported => Errno::ENOSYS,
    }
}

/// Everything that a read can fail with is EIO: a caller must never take it for the end of the file
/// or for a reason to try another way.
fn read_errno(error: &ReadError) -> Errno {
    match error {
        ReadError::PinEnded { .. }
        | ReadError::Page { .. }
        | ReadError::Unreadable { .. }
        | ReadError::Entry { .. }
        | ReadError::IndexHeader
        | ReadError::Member { .. }
        | ReadError::Io { .. }
        | ReadError::Range { .. } => Errno::EIO,
    }
}

/// What a tool is told of a live file, so that it reports that one and goes on.
fn live_errno(error: &LiveError) -> Errno {
    match error {
        LiveError::Gone => Errno::ENOENT,
        LiveError::Replaced => Errno::ESTALE,
        LiveError::BecameDatabase => Errno::EIO,
        LiveError::Io { source, .. } => system_errno(source),
    }
}

/// The errno of a call that was made for somebody else. What means something special to the kernel
/// (ENOSYS: never ask again), to a caller (EINTR, EAGAIN: try again) or to neither becomes EIO.
fn system_errno(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        // Our own limit; the caller has not reached his.
        Some(libc::EMFILE | libc::ENFILE) => Errno::ENFILE,
        Some(
            number @ (libc::EACCES
            | libc::EPERM
            | libc::ENOENT
            | libc::ENOTDIR
            | libc::ELOOP
            | libc::ESTALE
            | libc::ENOMEM
            | libc::ENODATA
            | libc::E2BIG
            | libc::ERANGE
            | libc::EOPNOTSUPP
            | libc::EOVERFLOW
            | libc::EFBIG),
        ) => Errno::from_i32(number),
        Some(_) | None => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PageNo;
    use crate::view::tree::EndSeen;

    /// The errno of an inner I/O error must not leak: EAGAIN or EINTR would make a tool retry or stop.
    #[test]
    fn every_failed_read_is_eio() {
        let errors = [
            ReadError::PinEnded {
                reason: EndSeen::IndexCut,
            },
            ReadError::Unreadable { page: PageNo(3) },
            ReadError::Entry {
                page: PageNo(3),
                entry: 9,
            },
            ReadError::Io {
                op: "read",
                file: "data.pages",
                offset: 0,
                source: io::Error::from_raw_os_error(libc::EAGAIN),
            },
            ReadError::Range {
                offset: 1,
                bytes: 2,
                size: 2,
            },
        ];
        for error in &errors {
            assert_eq!(errno(&Refusal::Read(error)), Errno::EIO, "{error}");
        }
        assert_eq!(errno(&Refusal::Ended), Errno::EIO);
        assert_eq!(errno(&Refusal::BrokenReader), Errno::EIO);
    }

    #[test]
    fn a_live_file_that_cannot_be_had_says_why() {
        let io = |number| LiveError::Io {
            op: "open",
            source: io::Error::from_raw_os_error(number),
        };
        for (error, expected) in [
            (LiveError::Gone, Errno::ENOENT),
            (LiveError::Replaced, Errno::ESTALE),
            (LiveError::BecameDatabase, Errno::EIO),
            (io(libc::EACCES), Errno::EACCES),
            (io(libc::EMFILE), Errno::ENFILE),
            (io(libc::ENOSYS), Errno::EIO),
            (io(libc::EINTR), Errno::EIO),
            (io(libc::EAGAIN), Errno::EIO),
        ] {
            assert_eq!(errno(&Refusal::Live(error)), expected);
        }
        let other = LiveError::Io {
            op: "open",
            source: io::Error::other("no number"),
        };
        assert_eq!(errno(&Refusal::Live(other)), Errno::EIO);
    }

    #[test]
    fn refusals_say_what_tools_expect() {
        assert_eq!(errno(&Refusal::UnknownName), Errno::ENOENT);
        assert_eq!(errno(&Refusal::LongName), Errno::ENAMETOOLONG);
        assert_eq!(errno(&Refusal::Write), Errno::EROFS);
        assert_eq!(errno(&Refusal::NoXattr), Errno::ENODATA);
        assert_eq!(errno(&Refusal::SmallBuffer), Errno::ERANGE);
        assert_eq!(errno(&Refusal::PastEnd), Errno::ENXIO);
        assert_eq!(errno(&Refusal::NotLink), Errno::EINVAL);
    }
}
