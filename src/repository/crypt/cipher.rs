//! The sealed form of one object: a header, and its bytes in chunks with a tag each.
//!
//! ```text
//! offset size
//!      0    8  magic "SFSCRYP\x01"
//!      8    4  format version, 1
//!     12    4  bytes of a chunk, 65536
//!     16   16  id of the master key
//!     32   32  salt, random
//!     64       chunks: 65536 bytes, the last one fewer, each followed by its tag of 16
//! ```
//!
//! * All numbers are little endian. The key of the object is the BLAKE3 hash, keyed with what is derived
//!   from the master key, of the 64 bytes of the header and the name: a header or a name with one other bit
//!   gives another key (CR2, CR3).
//! * The nonce of a chunk is its index (8 bytes), 3 zeros, and 1 for the last chunk, else 0. An object
//!   without bytes has one chunk without bytes.
#![deny(clippy::indexing_slicing)]

use chacha20poly1305::aead::{AeadInPlace, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use zeroize::Zeroizing;

use crate::codec;

const MAGIC: [u8; 8] = *b"SFSCRYP\x01";
/// Newest version of the format.
pub(super) const OBJECT_VERSION: u32 = 1;
pub(super) const HEADER_BYTES: u64 = HEADER_LEN as u64;
/// Bytes of content in a chunk.
pub(super) const CHUNK_BYTES: u64 = CHUNK_LEN as u64;
const CHUNK_BYTES_FIELD: u32 = 64 << 10;
const TAG_BYTES: u64 = TAG_LEN as u64;
/// A chunk and its tag.
pub(super) const SEALED_CHUNK_BYTES: u64 = SEALED_CHUNK_LEN as u64;
// The same, for what is in memory.
pub(super) const HEADER_LEN: usize = 64;
const CHUNK_LEN: usize = 64 << 10;
const TAG_LEN: usize = 16;
pub(super) const SEALED_CHUNK_LEN: usize = CHUNK_LEN + TAG_LEN;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) key: [u8; 16],
    pub(super) salt: [u8; 32],
}

/// Why a header is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Version(u32),
    Wrong(&'static str),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        codec::put(&mut out, 0, &MAGIC);
        codec::put(&mut out, 8, &OBJECT_VERSION.to_le_bytes());
        codec::put(&mut out, 12, &CHUNK_BYTES_FIELD.to_le_bytes());
        codec::put(&mut out, 16, &self.key);
        codec::put(&mut out, 32, &self.salt);
        out
    }

    /// Errors: `Version` of a later one, else what is wrong.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, HeaderFault> {
        let wrong = HeaderFault::Wrong;
        if !bytes.starts_with(&MAGIC) {
            return Err(wrong("it is not encrypted as the repository is"));
        }
        match codec::get_u32(bytes, 8) {
            Some(OBJECT_VERSION) => {}
            Some(found) if found > OBJECT_VERSION => return Err(HeaderFault::Version(found)),
            _ => return Err(wrong("its encryption has no version")),
        }
        if codec::get_u32(bytes, 12) != Some(CHUNK_BYTES_FIELD) {
            return Err(wrong("its encrypted chunks have another size"));
        }
        match (codec::get_array(bytes, 16), codec::get_array(bytes, 32)) {
            (Some(key), Some(salt)) => Ok(Self { key, salt }),
            _ => Err(wrong("its header is cut")),
        }
    }
}

/// How many chunks an object has, by its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes of the object.
    pub(super) bytes: u64,
    /// At least 1.
    pub(super) chunks: u64,
}

impl Layout {
    /// Of an object of `bytes`.
    pub(super) fn of(bytes: u64) -> Self {
        let chunks = bytes.div_ceil(CHUNK_BYTES).max(1);
        Self { bytes, chunks }
    }

    /// Of what is stored in `stored_bytes`; none where no object can have that size.
    pub(super) fn of_stored(stored_bytes: u64) -> Option<Self> {
        let body = stored_bytes.checked_sub(HEADER_BYTES)?;
        let chunks = body.div_ceil(SEALED_CHUNK_BYTES).max(1);
        let bytes = body.checked_sub(chunks.checked_mul(TAG_BYTES)?)?;
        let layout = Self::of(bytes);
        (layout.chunks == chunks).then_some(layout)
    }

    /// What is stored of it.
    pub(super) fn stored_bytes(self) -> u64 {
        HEADER_BYTES + self.bytes + self.chunks * TAG_BYTES
    }
}

/// Seals and opens the chunks of one object.
pub(super) struct ObjectCipher(ChaCha20Poly1305);

impl ObjectCipher {
    /// With what is derived from the master key that `header` names.
    pub(super) fn new(object_secret: &[u8; 32], header: &Header, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(object_secret);
        hasher.update(&header.encode());
        hasher.update(name.as_bytes());
        let key = Zeroizing::new(*hasher.finalize().as_bytes());
        Self(ChaCha20Poly1305::new((&*key).into()))
    }

    fn nonce(index: u64, is_last: bool) -> Nonce {
        let mut nonce = [0; 12];
        codec::put(&mut nonce, 0, &index.to_le_bytes());
        codec::put(&mut nonce, 11, &[u8::from(is_last)]);
        nonce.into()
    }

    /// Encrypts `chunk` in its place.
    fn seal_chunk(&self, index: u64, is_last: bool, chunk: &mut [u8]) -> Tag {
        let nonce = Self::nonce(index, is_last);
        let sealed = self.0.encrypt_in_place_detached(&nonce, b"", chunk);
        sealed.expect("a chunk is far shorter than the cipher's limit")
    }

    /// Decrypts a chunk, which its tag follows, in its place; none if it is not this chunk.
    pub(super) fn open_chunk<'a>(
        &self,
        index: u64,
        is_last: bool,
        sealed: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        let bytes = sealed.len().checked_sub(TAG_LEN)?;
        let (chunk, tag) = sealed.split_at_mut_checked(bytes)?;
        let nonce = Self::nonce(index, is_last);
        let tag = Tag::from_slice(tag);
        let opened = self.0.decrypt_in_place_detached(&nonce, b"", chunk, tag);
        opened.ok().map(|()| &*chunk)
    }
}

/// `parts`, one after the other, as the object `name`.
pub(super) fn seal(
    object_secret: &[u8; 32],
    header: &Header,
    name: &str,
    parts: &[&[u8]],
) -> Vec<u8> {
    let cipher = ObjectCipher::new(object_secret, header, name);
    let layout = Layout::of(parts.iter().map(|part| part.len() as u64).sum());
    let capacity = usize::try_from(layout.stored_bytes()).expect("it is in memory already");
    let mut out = Vec::with_capacity(capacity);
    out.extend_from_slice(&header.encode());
    let mut rest = parts.iter().copied();
    let mut part: &[u8] = &[];
    for index in 0..layout.chunks {
        let start = out.len();
        let mut wanted = CHUNK_LEN;
        while wanted > 0 {
            if part.is_empty() {
                let Some(next) = rest.next() else { break };
                part = next;
                continue;
            }
            let (taken, left) = part.split_at(wanted.min(part.len()));
            out.extend_from_slice(taken);
            wanted -= taken.len();
            part = left;
        }
        let (_, chunk) = out.split_at_mut(start);
        let tag = cipher.seal_chunk(index, index + 1 == layout.chunks, chunk);
        out.extend_from_slice(&tag);
    }
    debug_assert_eq!(out.len() as u64, layout.stored_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_of_what_is_stored_is_that_of_the_object() {
        for bytes in (0..300_000).step_by(7).chain([
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            2 * CHUNK_BYTES,
        ]) {
            let layout = Layout::of(bytes);
            assert_eq!(Layout::of_stored(layout.stored_bytes()), Some(layout));
        }
        for stored in [0, 63, 64, 79] {
            assert_eq!(Layout::of_stored(stored), None);
        }
        // A second chunk that is empty is none.
        let first = HEADER_BYTES + SEALED_CHUNK_BYTES;
        for more in 1..=TAG_BYTES {
            assert_eq!(Layout::of_stored(first + more), None, "{more}");
        }
        assert!(Layout::of_stored(first + TAG_BYTES + 1).is_some());
        assert!(Layout::of_stored(u64::MAX).is_some_and(|layout| layout.bytes > 0));
    }

    #[test]
    fn header_of_a_later_version_is_told_apart() {
        let header = Header {
            key: [1; 16],
            salt: [2; 32],
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        let mut later = bytes;
        later[8] = 2;
        assert_eq!(Header::decode(&later), Err(HeaderFault::Version(2)));
    }
}
