//! SEEK_DATA and SEEK_HOLE: every file is one extent of data.

use super::super::errno::Refusal;

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
    fn other_seeks_are_refused() {
        for whence in [libc::SEEK_SET, libc::SEEK_CUR, libc::SEEK_END, 99] {
            let answer = seek(10, 0, whence);
            assert!(matches!(answer, Err(Refusal::BadArgument)), "{whence}");
        }
    }
}
