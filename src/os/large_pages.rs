//! Memory for bytes on their way to the kernel, on large pages where the system has them.
//!
//! The kernel looks up every page of a buffer that it is given; of 2 MiB in one page it finds all at once.

#![allow(unsafe_code)]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// A large page of the usual machines. Elsewhere nothing but the alignment is another.
pub const LARGE_PAGE_BYTES: usize = 2 << 20;

/// Memory that is mapped, and unmapped with its last part.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is memory of this process; nothing is read or written through it but by parts, of
// which no two overlap.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Self> {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: a new mapping at a place that the kernel chooses touches no memory that is in use.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Self { start, bytes }),
            None => Err(io::ErrorKind::OutOfMemory.into()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no part of it is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// A part of memory on large pages, of which nobody else has any byte. Zeros at first; takes no memory
/// before it is touched.
#[derive(Debug)]
pub struct LargePart {
    /// Keeps the memory mapped.
    _mapping: Arc<Mapping>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a part is the only way to its bytes, as a `Box<[u8]>` is.
unsafe impl Send for LargePart {}
// SAFETY: as above.
unsafe impl Sync for LargePart {}

/// `count` parts of `part_bytes` each, one after the other from the start of a large page on. Where the
/// system gives no large pages, they are on pages of the usual size.
///
/// Errors: the system's, for want of addresses; `InvalidInput` for more bytes than there are numbers.
pub fn large_parts(count: usize, part_bytes: usize) -> io::Result<Vec<LargePart>> {
    let used = part_bytes
        .checked_mul(count)
        .and_then(|bytes| bytes.checked_next_multiple_of(LARGE_PAGE_BYTES));
    // The kernel chooses where a mapping begins: the first large page in it may begin later.
    let all = used.and_then(|used| used.checked_add(LARGE_PAGE_BYTES));
    let (Some(used), Some(all)) = (used, all) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mapping = Arc::new(Mapping::new(all)?);
    let skipped = mapping.start.as_ptr().align_offset(LARGE_PAGE_BYTES);
    if skipped > all - used {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `skipped` and the `used` bytes after it lie in the mapping.
    let first = unsafe { mapping.start.add(skipped) };
    // SAFETY: the range lies in the mapping, whose content the advice does not change. Where it is not
    // taken, pages have the usual size.
    unsafe { libc::madvise(first.as_ptr().cast(), used, libc::MADV_HUGEPAGE) };
    let part = |number: usize| LargePart {
        _mapping: mapping.clone(),
        // SAFETY: `number` is below `count`, so that the whole part lies in the `used` bytes.
        start: unsafe { first.add(number * part_bytes) },
        bytes: part_bytes,
    };
    Ok((0..count).map(part).collect())
}

impl Deref for LargePart {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are mapped for as long as the part is there, were zeros at first, and nobody
        // else has them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for LargePart {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the part itself is borrowed for as long as the bytes.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zeros_at_first_do_not_overlap_and_outlive_each_other() {
        let mut parts = large_parts(3, 1 << 20).unwrap();
        assert_eq!(parts.len(), 3);
        for (number, part) in (1..).zip(&mut parts) {
            assert_eq!(part.len(), 1 << 20);
            assert!(part.iter().all(|byte| *byte == 0));
            part.fill(number);
        }
        let last = parts.pop().unwrap();
        assert!(parts[0].iter().all(|byte| *byte == 1));
        assert!(parts[1].iter().all(|byte| *byte == 2));
        drop(parts);
        assert!(last.iter().all(|byte| *byte == 3));
    }

    #[test]
    fn the_first_part_begins_with_a_large_page() {
        let parts = large_parts(2, 4096).unwrap();
        assert_eq!(parts[0].as_ptr().align_offset(LARGE_PAGE_BYTES), 0);
        assert_eq!(parts[1].as_ptr().align_offset(4096), 0);
    }

    #[test]
    fn more_than_there_are_addresses_is_refused() {
        assert!(large_parts(2, usize::MAX).is_err());
        assert!(large_parts(1, usize::MAX / 2).is_err());
    }
}
