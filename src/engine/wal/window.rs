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

    /// The `count` bytes at `offset`, if they were read last; nothing is read.
    pub(super) fn look_back(&self, offset: u64, count: usize) -> Option<&[u8]> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..from.checked_add(count)?)
    }

    /// The `count` bytes at `offset`; `None` where the file ends before.
    ///
    /// Errors: the system's.
    pub(super) fn get(&mut self, offset: u64, count: usize) -> io::Result<Option<&[u8]>> {
        if self.look_back(offset, count).is_none() {
            self.bytes.resize(self.window_bytes.max(count), 0);
            // First: if the read fails, nothing of the old place is taken for what stands there.
            self.start = offset;
            let found = os::read_up_to(self.file, &mut self.bytes, offset);
            self.bytes.truncate(*found.as_ref().unwrap_or(&0));
            found?;
        }
        Ok(self.look_back(offset, count))
    }
}
