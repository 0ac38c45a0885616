//! The records of a commit whose end is in a later part: in memory, and where they are many in a file.
//!
//! Nothing is believed of what the file gives back: each page has its checksum, and lengths are bounded.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::codec;
use crate::engine::error::{EngineError, FileRole, Result};
use crate::os::{self, File};

/// So much is kept in memory.
const MEMORY_BYTES_MAX: usize = 4 << 20;
/// Kind and length before a payload.
const FRAME_BYTES: usize = 5;
/// No page record is as long.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// See the head of the file.
pub(super) struct Carry<'a> {
    scratch: &'a dyn Fn() -> io::Result<Arc<dyn File>>,
    file: Option<Arc<dyn File>>,
    /// Bytes of the file that count.
    file_bytes: u64,
    memory: Vec<u8>,
}

impl fmt::Debug for Carry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carry")
            .field("file_bytes", &self.file_bytes)
            .field("memory", &self.memory.len())
            .finish_non_exhaustive()
    }
}

impl<'a> Carry<'a> {
    pub(super) fn new(scratch: &'a dyn Fn() -> io::Result<Arc<dyn File>>) -> Self {
        Self {
            scratch,
            file: None,
            file_bytes: 0,
            memory: Vec::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.file_bytes = 0;
        self.memory.clear();
    }

    /// Errors: `Io`.
    pub(super) fn push(&mut self, is_image: bool, payload: &[u8]) -> Result<()> {
        let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.memory.push(u8::from(is_image));
        self.memory.extend_from_slice(&bytes.to_le_bytes());
        self.memory.extend_from_slice(payload);
        if self.memory.len() < MEMORY_BYTES_MAX {
            return Ok(());
        }
        let file = match &self.file {
            Some(file) => file,
            None => self
                .file
                .insert((self.scratch)().map_err(EngineError::io("make", FileRole::Spool))?),
        };
        os::write_all_at(&**file, &self.memory, self.file_bytes)
            .map_err(EngineError::io("write", FileRole::Spool))?;
        self.file_bytes += self.memory.len() as u64;
        self.memory.clear();
        Ok(())
    }

    /// Gives all of it to `put` in order, and is empty then.
    ///
    /// Errors: those of `put`; `Io`.
    pub(super) fn drain(&mut self, put: &mut dyn FnMut(bool, &[u8]) -> Result<()>) -> Result<()> {
        let mut at = 0;
        let mut payload = Vec::new();
        while at < self.file_bytes {
            let mut head = [0; FRAME_BYTES];
            let read = |bytes: &mut [u8], at| match &self.file {
                Some(file) => os::read_exact_at(&**file, bytes, at)
                    .map_err(EngineError::io("read", FileRole::Spool)),
                None => Ok(()),
            };
            read(&mut head, at)?;
            let (is_image, bytes) = decode(&head, 0)?;
            payload.resize(bytes, 0);
            read(&mut payload, at + FRAME_BYTES as u64)?;
            put(is_image, &payload)?;
            at += (FRAME_BYTES + bytes) as u64;
        }
        let mut offset = 0;
        while offset < self.memory.len() {
            let (is_image, bytes) = decode(&self.memory, offset)?;
            let begin = offset + FRAME_BYTES;
            let payload = self.memory.get(begin..begin + bytes);
            put(is_image, payload.ok_or_else(damaged)?)?;
            offset = begin + bytes;
        }
        self.clear();
        Ok(())
    }
}

fn damaged() -> EngineError {
    let error = io::Error::new(io::ErrorKind::InvalidData, "it gives back other bytes");
    EngineError::io("read", FileRole::Spool)(error)
}

fn decode(bytes: &[u8], offset: usize) -> Result<(bool, usize)> {
    let length = codec::get_u32(bytes, offset + 1).ok_or_else(damaged)? as usize;
    match bytes.get(offset) {
        Some(kind @ (0 | 1)) if length <= PAYLOAD_BYTES_MAX => Ok((*kind == 1, length)),
        _ => Err(damaged()),
    }
}
