//! Sending part of a file to the disk, without making it durable.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Writes what the kernel keeps of `bytes` bytes from `offset` on, and waits for it. Neither the size nor
/// where the bytes are is written, and no cache of the disk is flushed.
///
/// Errors: the system's, of an earlier write too, which a later sync does not report again. A file system
/// that cannot (`ESPIPE`, `EINVAL`, `ENOSYS`) has nothing done, and that is no error.
pub(super) fn write_back(fd: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<()> {
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    match sync_file_range(fd, offset, bytes, all) {
        Ok(()) | Err(Errno::ESPIPE | Errno::EINVAL | Errno::ENOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Begins to write what the kernel keeps of `bytes` bytes from `offset` on.
///
/// Errors: the system's. A write that fails later is for the next sync to report, since without a wait the call asks
/// for no earlier error. But where a file system finds no place for bytes, it may drop them and tell only this
/// call. What leaves all as it was is no error: it cannot (`ESPIPE`, `EINVAL`, `ENOSYS`), may not (`EPERM`), or
/// had no memory (`ENOMEM`, `EAGAIN`).
pub(super) fn start_write_back(fd: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<()> {
    match sync_file_range(fd, offset, bytes, libc::SYNC_FILE_RANGE_WRITE) {
        Ok(()) | Err(Errno::ESPIPE | Errno::EINVAL | Errno::ENOSYS) => Ok(()),
        Err(Errno::EPERM | Errno::ENOMEM | Errno::EAGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn sync_file_range(
    fd: BorrowedFd<'_>,
    offset: u64,
    bytes: u64,
    how: libc::c_uint,
) -> Result<(), Errno> {
    let range = |value| libc::off64_t::try_from(value).map_err(|_| Errno::EFBIG);
    // SAFETY: the call takes a descriptor that is open and three numbers.
    let done = unsafe { libc::sync_file_range(fd.as_raw_fd(), range(offset)?, range(bytes)?, how) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::os::real_disk::RealDisk;
    use crate::os::{Disk, OpenMode, read_exact_at, write_all_at};

    /// Content stays; a failure of the descriptor is told.
    #[test]
    fn bytes_are_sent_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("a"), OpenMode::CreateNew);
        let file = file.unwrap();
        write_all_at(&*file, &[7; 9000], 0).unwrap();
        for (offset, bytes) in [(0, 4096), (4096, 4904), (8999, 1 << 20)] {
            file.start_write_back(offset, bytes).unwrap();
            file.write_back(offset, bytes).unwrap();
        }
        let mut out = [0; 9000];
        read_exact_at(&*file, &mut out, 0).unwrap();
        assert_eq!(out, [7; 9000]);
        for sent in [
            file.write_back(u64::MAX, 1),
            file.start_write_back(u64::MAX, 1),
        ] {
            assert_eq!(sent.unwrap_err().raw_os_error(), Some(libc::EFBIG));
        }
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        write_back(pipe.as_fd(), 0, 1).unwrap();
        start_write_back(pipe.as_fd(), 0, 1).unwrap();
    }
}
