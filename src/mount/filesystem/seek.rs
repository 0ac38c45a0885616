//! SEEK_DATA and SEEK_HOLE: a pinned file is one extent of data, one that lies on a disk as it lies there.

use super::super::errno::Refusal;
use crate::os::File;
use crate::os::extent::{Extent, next_extent};

/// Where the next data or hole from `offset` on begins in an open file: so that a sparse file is
/// copied as one.
///
/// Errors: `PastEnd` at and beyond the end, and where no data follows; `BadArgument` for what the kernel
/// answers by itself; `LiveRead`.
pub(super) fn seek_in(file: &dyn File, offset: i64, whence: i32) -> Result<i64, Refusal<'static>> {
    let Some(fd) = file.as_fd() else {
        let size = file.len().map_err(|_| Refusal::LiveRead)?;
        return seek(size, offset, whence);
    };
    let extent = match whence {
        libc::SEEK_DATA => Extent::Data,
        libc::SEEK_HOLE => Extent::Hole,
        _ => return Err(Refusal::BadArgument),
    };
    let offset = u64::try_from(offset).map_err(|_| Refusal::PastEnd)?;
    let found = next_extent(fd, offset, extent).map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO | libc::EOVERFLOW) => Refusal::PastEnd,
        _ => Refusal::LiveRead,
    })?;
    i64::try_from(found).map_err(|_| Refusal::LiveRead)
}

/// Where the next data or hole from `offset` on begins, in a file of `size` bytes.
///
/// Errors: `PastEnd` at and beyond the end, for holes too: `cp` loops for ever on anything else;
/// `BadArgument` for what the kernel answers by itself.
pub(super) fn seek(size: u64, offset: i64, whence: i32) -> Result<i64, Refusal<'static>> {
    let end = i64::try_from(size).map_err(|_| Refusal::BadArgument)?;
    if whence != libc::SEEK_DATA && whence != libc::SEEK_HOLE {
        return Err(Refusal::BadArgument);
    }
    if offset < 0 || offset >= end {
        return Err(Refusal::PastEnd);
    }
    Ok(if whence == libc::SEEK_DATA {
        offset
    } else {
        end
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_data_up_to_its_end() {
        for offset in [0, 1, 4095, 9999] {
            assert_eq!(seek(10_000, offset, libc::SEEK_DATA).unwrap(), offset);
            assert_eq!(seek(10_000, offset, libc::SEEK_HOLE).unwrap(), 10_000);
        }
    }

    #[test]
    fn at_and_past_the_end_there_is_neither_data_nor_hole() {
        for (size, offset) in [(10, 10), (10, 11), (0, 0), (10, i64::MAX), (10, -1)] {
            for whence in [libc::SEEK_DATA, libc::SEEK_HOLE] {
                let answer = seek(size, offset, whence);
                assert!(matches!(answer, Err(Refusal::PastEnd)), "{size} {offset}");
            }
        }
    }

    #[test]
    fn a_sparse_file_has_its_holes() {
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(3 << 20).unwrap();
        let file = crate::os::real_disk::RealFile::from_fd(sparse.into());
        file.write_at(b"x", 1 << 20).unwrap();
        assert_eq!(seek_in(&file, 0, libc::SEEK_DATA).unwrap(), 1 << 20);
        assert_eq!(seek_in(&file, 0, libc::SEEK_HOLE).unwrap(), 0);
        for (offset, whence) in [
            (2 << 20, libc::SEEK_DATA),
            (3 << 20, libc::SEEK_HOLE),
            (-1, libc::SEEK_DATA),
        ] {
            let answer = seek_in(&file, offset, whence);
            assert!(matches!(answer, Err(Refusal::PastEnd)), "{offset}");
        }
        let answer = seek_in(&file, 0, libc::SEEK_END);
        assert!(matches!(answer, Err(Refusal::BadArgument)));
    }

    #[test]
    fn other_seeks_are_refused() {
        for whence in [libc::SEEK_SET, libc::SEEK_CUR, libc::SEEK_END, 99] {
            let answer = seek(10, 0, whence);
            assert!(matches!(answer, Err(Refusal::BadArgument)), "{whence}");
        }
    }
}
