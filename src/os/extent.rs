//! Where a file has data and where it has holes (`lseek` with `SEEK_DATA` and `SEEK_HOLE`).

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Bytes that are stored.
    Data,
    /// Bytes that are not, and read as zeros. Every file has one at its end.
    Hole,
}

/// Where the next extent of that kind begins, `offset` itself included. Moves the position of the open
/// file, which nobody may use who reads at positions.
///
/// A file system that keeps no holes answers one extent of data. Errors: `ENXIO` at and past the end,
/// and where no data follows; `EOVERFLOW`; the system's.
pub fn next_extent(fd: BorrowedFd<'_>, offset: u64, extent: Extent) -> io::Result<u64> {
    let whence = match extent {
        Extent::Data => Whence::SeekData,
        Extent::Hole => Whence::SeekHole,
    };
    let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    let found = lseek(fd, offset, whence)?;
    Ok(u64::try_from(found).map_err(|_| Errno::EOVERFLOW)?)
}

/// Whether `error` of [`next_extent`] says that nothing of that kind follows.
#[must_use]
pub fn is_at_end(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw) == Some(Errno::ENXIO)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn data_follows_a_hole_and_the_end_has_neither() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(&[7; 4096], 1 << 20).unwrap();
        let next = |offset, extent| next_extent(file.as_fd(), offset, extent);
        assert_eq!(next(5, Extent::Hole).unwrap(), 5);
        assert_eq!(next(5, Extent::Data).unwrap(), 1 << 20);
        assert_eq!(next(1 << 20, Extent::Hole).unwrap(), (1 << 20) + 4096);
        for (offset, extent) in [
            (2 << 20, Extent::Data),
            (10 << 20, Extent::Data),
            (10 << 20, Extent::Hole),
        ] {
            let error = next(offset, extent).unwrap_err();
            assert!(is_at_end(&error), "{offset}: {error}");
        }
        assert!(next(u64::MAX, Extent::Data).is_err());
    }
}
