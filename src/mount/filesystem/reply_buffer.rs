//! Where the bytes of replies are put together.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

use super::capability::{REQUEST_BYTES_MAX, THREADS};
use crate::os::large_pages::{LARGE_PAGE_BYTES, LargePart, large_parts};

/// How many threads read on a large page: whoever reads in a row keeps two of them busy. The others have
/// memory that grows with what is asked of them, so that readers of single pages cost little.
const LARGE: usize = LARGE_PAGE_BYTES / REQUEST_BYTES_MAX as usize;
const _: () = assert!(LARGE > 0 && LARGE <= THREADS);

/// Buffers for the threads of a session. The one that came back last is taken first, so that no more memory
/// is touched than threads were busy at once.
#[derive(Debug, Default)]
pub(super) struct ReplyBuffers {
    free: Mutex<Option<Free>>,
}

#[derive(Debug, Default)]
struct Free {
    large: Vec<LargePart>,
    small: Vec<Vec<u8>>,
}

impl ReplyBuffers {
    /// A buffer of at least `bytes` bytes; what is in it is of former replies.
    pub(super) fn take(&self, bytes: usize) -> ReplyBuffer<'_> {
        ReplyBuffer {
            place: Some(self.place(bytes)),
            home: self,
        }
    }

    fn place(&self, bytes: usize) -> Place {
        if bytes > REQUEST_BYTES_MAX as usize {
            return Place::Small(vec![0; bytes]);
        }
        let mut free = self.free.lock();
        let free = free.get_or_insert_with(Free::new);
        if let Some(part) = free.large.pop() {
            return Place::Large(part);
        }
        let mut small = free.small.pop().unwrap_or_default();
        if small.len() < bytes {
            small.resize(bytes, 0);
        }
        Place::Small(small)
    }

    fn give_back(&self, place: Place) {
        let mut free = self.free.lock();
        let free = free.get_or_insert_with(Free::new);
        match place {
            Place::Large(part) => free.large.push(part),
            Place::Small(bytes) => {
                let is_kept = bytes.len() <= REQUEST_BYTES_MAX as usize;
                if is_kept && free.small.len() < THREADS - LARGE {
                    free.small.push(bytes);
                }
            }
        }
    }
}

impl Free {
    fn new() -> Self {
        let large = match large_parts(LARGE, REQUEST_BYTES_MAX as usize) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::debug!(%error, "no memory on large pages");
                Vec::new()
            }
        };
        let small = Vec::new();
        Self { large, small }
    }
}

#[derive(Debug)]
enum Place {
    Large(LargePart),
    Small(Vec<u8>),
}

/// See [`ReplyBuffers::take`]. It goes back when it is dropped, also by a panic.
#[derive(Debug)]
pub(super) struct ReplyBuffer<'a> {
    /// There until it is dropped.
    place: Option<Place>,
    home: &'a ReplyBuffers,
}

impl Deref for ReplyBuffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.place {
            Some(Place::Large(part)) => part,
            Some(Place::Small(bytes)) => bytes,
            None => &[],
        }
    }
}

impl DerefMut for ReplyBuffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.place {
            Some(Place::Large(part)) => part,
            Some(Place::Small(bytes)) => bytes,
            None => &mut [],
        }
    }
}

impl Drop for ReplyBuffer<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.home.give_back(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_more_than_there_are_threads_are_had_too() {
        let buffers = ReplyBuffers::default();
        let first = buffers.take(10).as_ptr();
        assert_eq!(buffers.take(REQUEST_BYTES_MAX as usize).as_ptr(), first);
        let taken: Vec<_> = (0..THREADS + 2).map(|_| buffers.take(100)).collect();
        assert!(taken.iter().all(|buffer| buffer.len() >= 100));
        drop(taken);
        let free = buffers.free.lock();
        let kept = free
            .as_ref()
            .map(|free| (free.large.len(), free.small.len()));
        assert_eq!(kept, Some((LARGE, THREADS - LARGE)));
    }

    #[test]
    fn a_longer_request_than_the_kernel_sends_has_room() {
        let buffers = ReplyBuffers::default();
        let bytes = REQUEST_BYTES_MAX as usize + 1;
        assert_eq!(buffers.take(bytes).len(), bytes);
        let free = buffers.free.lock();
        assert!(
            free.as_ref().is_none_or(|free| free.small.is_empty()),
            "it is not kept"
        );
    }
}
