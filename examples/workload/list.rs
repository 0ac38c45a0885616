//! What was stored, written down: one line of length and digest per value, and its key up to a NUL,
//! since a path may hold anything else.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::Path;

/// Values up to this are overwritten by the writers.
const OVERWRITTEN_BYTES_MAX: usize = 64 << 10;

/// One stored value.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) key: Vec<u8>,
    pub(crate) length: usize,
    pub(crate) digest: u64,
}

impl Stored {
    pub(crate) fn new(key: Vec<u8>, value: &[u8]) -> Self {
        let (length, digest) = (value.len(), digest(value));
        Self {
            key,
            length,
            digest,
        }
    }

    /// Whether `value` is what was stored.
    pub(crate) fn is(&self, value: &[u8]) -> bool {
        value.len() == self.length && digest(value) == self.digest
    }
}

/// Writes `stored` to the file `list`.
pub(crate) fn save(list: &Path, stored: &[Stored]) -> io::Result<()> {
    let mut text = Vec::new();
    for one in stored {
        text.extend_from_slice(format!("{} {}\n", one.length, one.digest).as_bytes());
        text.extend_from_slice(&one.key);
        text.push(0);
    }
    fs::write(list, text)
}

/// Reads the file `list`: what the writers overwrite, and what they leave alone.
pub(crate) fn read(list: &Path) -> io::Result<(Vec<Stored>, Vec<Stored>)> {
    let text = fs::read(list)?;
    let (mut overwritten, mut untouched) = (Vec::new(), Vec::new());
    for (index, line) in text.split(|byte| *byte == 0).enumerate() {
        if line.is_empty() {
            continue;
        }
        let one = parse(line).ok_or_else(|| io::Error::other("the list is damaged"))?;
        if index % 2 == 0 && one.length <= OVERWRITTEN_BYTES_MAX {
            overwritten.push(one);
        } else {
            untouched.push(one);
        }
    }
    Ok((overwritten, untouched))
}

fn parse(line: &[u8]) -> Option<Stored> {
    let end = line.iter().position(|byte| *byte == b'\n')?;
    let (numbers, key) = line.split_at(end);
    let (length, digest) = std::str::from_utf8(numbers).ok()?.split_once(' ')?;
    Some(Stored {
        key: key.get(1..)?.to_vec(),
        length: length.parse().ok()?,
        digest: digest.parse().ok()?,
    })
}

fn digest(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(value);
    hasher.finish()
}
