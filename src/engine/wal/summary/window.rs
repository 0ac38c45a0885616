//! Reading a file forwards in pieces, with no more of it in memory than a window.

#![deny(clippy::indexing_slicing)]

use std::io;

use crate::os::{self, File};

/// A part of a file that was read.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a dyn File,
    window_bytes: usize,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn File, window_bytes: usize) -> Self {
        Self {
            file,
            window_bytes,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// The `count` bytes at `offset`; `None` where the file ends before.
    ///
    /// Errors: the system's.
    pub(super) fn get(&mut self, offset: u64, count: usize) -> io::Result<Option<&[u8]>> {
        let place = |start: u64| {
            let from = usize::try_from(offset.checked_sub(start)?).ok()?;
            Some(from..from.checked_add(count)?)
        };
        let is_inside = |range: &std::ops::Range<usize>| range.end <= self.bytes.len();
        if !place(self.start).as_ref().is_some_and(is_inside) {
            self.bytes.resize(self.window_bytes.max(count), 0);
            let found = os::read_up_to(self.file, &mut self.bytes, offset)?;
            self.bytes.truncate(found);
            self.start = offset;
        }
        Ok(place(self.start).and_then(|range| self.bytes.get(range)))
    }
}
