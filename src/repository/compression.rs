//! How frames are compressed.

use std::str::FromStr;

use crate::repository::pack::FrameForm;

/// What new frames are compressed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// LZ4: fast, and leaves the processors to the writers.
    #[default]
    Lz4,
    /// Zstandard at a level, 1 to 19: smaller.
    Zstd(i32),
    /// Not at all.
    None,
}

/// A text that names no compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compression is lz4, zstd, zstd:LEVEL (1 to 19) or none")]
pub struct NotACompression;

impl FromStr for Compression {
    type Err = NotACompression;

    fn from_str(text: &str) -> Result<Self, NotACompression> {
        let level = |text: &str| text.parse().ok().filter(|level| (1..=19).contains(level));
        match text {
            "lz4" => Ok(Self::Lz4),
            "none" => Ok(Self::None),
            "zstd" => Ok(Self::Zstd(3)),
            text => {
                let level = text.strip_prefix("zstd:").and_then(level);
                level.map(Self::Zstd).ok_or(NotACompression)
            }
        }
    }
}

impl Compression {
    /// `raw` compressed, and the form of that; `raw` itself where that is not smaller.
    pub(super) fn compress(self, raw: &[u8]) -> (FrameForm, Vec<u8>) {
        let (form, stored) = match self {
            Self::None => return (FrameForm::Plain, raw.to_vec()),
            Self::Lz4 => (FrameForm::Lz4, lz4_flex::block::compress(raw)),
            // What cannot be compressed, for want of memory too, is stored as it is.
            Self::Zstd(level) => match zstd::bulk::compress(raw, level) {
                Ok(stored) => (FrameForm::Zstd, stored),
                Err(_) => return (FrameForm::Plain, raw.to_vec()),
            },
        };
        match stored.len() < raw.len() {
            true => (form, stored),
            false => (FrameForm::Plain, raw.to_vec()),
        }
    }
}

/// `raw` as Zstandard of `level`, a frame for each `piece_bytes`, after each of which `rest` is called; `raw`
/// itself where that is not smaller.
pub(super) fn compress_slowly(
    raw: &[u8],
    level: i32,
    piece_bytes: usize,
    rest: &dyn Fn(),
) -> (FrameForm, Vec<u8>) {
    let compress = || {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        let mut stored = Vec::new();
        for piece in raw.chunks(piece_bytes) {
            stored.extend(compressor.compress(piece)?);
            rest();
        }
        Ok(stored)
    };
    let compressed: std::io::Result<Vec<u8>> = compress();
    // What cannot be compressed, for want of memory too, is stored as it is.
    match compressed.ok().filter(|stored| stored.len() < raw.len()) {
        Some(stored) => (FrameForm::Zstd, stored),
        None => (FrameForm::Plain, raw.to_vec()),
    }
}

/// The `raw_bytes` bytes that were stored as `stored`; nothing larger is ever made.
///
/// Errors: `None` if it is not the compressed form of exactly so many bytes.
pub(super) fn decompress(form: FrameForm, stored: Vec<u8>, raw_bytes: usize) -> Option<Vec<u8>> {
    if form == FrameForm::Plain {
        return (stored.len() == raw_bytes).then_some(stored);
    }
    let mut raw = vec![0; raw_bytes];
    let count = match form {
        FrameForm::Zstd => zstd::bulk::decompress_to_buffer(&stored, &mut raw).ok()?,
        _ => lz4_flex::block::decompress_into(&stored, &mut raw).ok()?,
    };
    (count == raw_bytes).then_some(raw)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_was_compressed_slowly_is_read_like_any_other() {
        let rests = Cell::new(0);
        let rest = || rests.set(rests.get() + 1);
        let raw: Vec<u8> = (0..5000_u32)
            .flat_map(|number| (number / 7).to_le_bytes())
            .collect();
        let (form, stored) = compress_slowly(&raw, 1, 1 << 10, &rest);
        assert_eq!((form, rests.get()), (FrameForm::Zstd, 20));
        assert!(stored.len() < raw.len() / 2);
        assert!(decompress(form, stored.clone(), raw.len() - 1).is_none());
        assert!(decompress(form, stored.clone(), raw.len() + 1).is_none());
        assert!(decompress(form, stored, raw.len()).unwrap() == raw);
        let (form, stored) = compress_slowly(b"x", 1, 1 << 10, &rest);
        assert_eq!((form, &*stored), (FrameForm::Plain, &b"x"[..]));
    }
}
