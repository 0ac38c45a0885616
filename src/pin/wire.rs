//! The bincode form of the words that messages carry: bounded text, paths, ids, positions.

#![deny(clippy::indexing_slicing)]

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::de::{BorrowDecode, BorrowDecoder, Decode, Decoder};
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};

use crate::id::{DatabaseId, Epoch, HistoryId, PinId};
use crate::lsn::{Lsn, Timestamp};
use crate::page::PageSize;

/// The most bytes that a frame's payload may have.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// The most bytes that a path in a message may have (`PATH_MAX` without its zero).
pub const PATH_BYTES_MAX: usize = 4095;

type WireConfig = Configuration<LittleEndian, Varint, Limit<PAYLOAD_BYTES_MAX>>;

fn config() -> WireConfig {
    bincode::config::standard().with_limit()
}

/// Why the payload of a frame is not a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageFault {
    /// It breaks off, or a field has a value that it cannot have.
    #[error("not a message: {0}")]
    Undecodable(#[source] DecodeError),
    /// There are bytes after the end of the message.
    #[error("{0} bytes after the end of a message")]
    Trailing(usize),
}

/// The bytes of `message`.
pub(crate) fn encode(message: &impl Encode) -> Vec<u8> {
    bincode::encode_to_vec(message, config())
        .expect("a vector takes any bytes, and no message holds a type that bincode refuses")
}

/// The message that is the whole of `payload`.
pub(crate) fn decode<M: Decode<()>>(payload: &[u8]) -> Result<M, MessageFault> {
    let (message, trailing) = decode_start(payload)?;
    if trailing == 0 {
        Ok(message)
    } else {
        Err(MessageFault::Trailing(trailing))
    }
}

/// The message at the start of `payload`, and how many bytes follow it.
pub(crate) fn decode_start<M: Decode<()>>(payload: &[u8]) -> Result<(M, usize), MessageFault> {
    let (message, used) =
        bincode::decode_from_slice(payload, config()).map_err(MessageFault::Undecodable)?;
    Ok((message, payload.len().saturating_sub(used)))
}

/// UTF-8 text of at most `BYTES_MAX` bytes, for people to read.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Text<const BYTES_MAX: usize>(String);

/// A name: of a client, a holder, a version.
pub type Name = Text<255>;
/// A sentence: why something was refused.
pub type Sentence = Text<1023>;

impl<const BYTES_MAX: usize> Text<BYTES_MAX> {
    /// Takes as much of `text` as fits, in whole characters.
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let fits = text.floor_char_boundary(BYTES_MAX);
        Self(text.get(..fits).unwrap_or_default().to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const BYTES_MAX: usize> fmt::Display for Text<BYTES_MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const BYTES_MAX: usize> fmt::Debug for Text<BYTES_MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const BYTES_MAX: usize> Encode for Text<BYTES_MAX> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

impl<C, const BYTES_MAX: usize> Decode<C> for Text<BYTES_MAX> {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let text = String::decode(decoder)?;
        if text.len() > BYTES_MAX {
            return Err(DecodeError::Other("a text is too long"));
        }
        Ok(Self(text))
    }
}

impl<'de, C, const BYTES_MAX: usize> BorrowDecode<'de, C> for Text<BYTES_MAX> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}

/// A path of at most [`PATH_BYTES_MAX`] bytes, which need not be UTF-8.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct WirePath(PathBuf);

impl WirePath {
    /// Errors: `None` for a path longer than the kernel takes.
    #[must_use]
    pub fn new(path: &Path) -> Option<Self> {
        (path.as_os_str().len() <= PATH_BYTES_MAX).then(|| Self(path.to_owned()))
    }

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Debug for WirePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Encode for WirePath {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.as_os_str().as_bytes().encode(encoder)
    }
}

impl<C> Decode<C> for WirePath {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let bytes = Vec::<u8>::decode(decoder)?;
        Self::new(Path::new(OsStr::from_bytes(&bytes)))
            .ok_or(DecodeError::Other("a path is too long"))
    }
}

bincode::impl_borrow_decode!(WirePath);

macro_rules! plain_word {
    ($($word:ident),*) => {$(
        impl Encode for $word {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.0.encode(encoder)
            }
        }

        impl<C> Decode<C> for $word {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                Decode::decode(decoder).map(Self)
            }
        }

        bincode::impl_borrow_decode!($word);
    )*};
}

plain_word!(DatabaseId, HistoryId, PinId, Epoch, Lsn, Timestamp);

impl Encode for PageSize {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.get().encode(encoder)
    }
}

impl<C> Decode<C> for PageSize {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::new(u64::from(u32::decode(decoder)?))
            .ok_or(DecodeError::Other("no page has this size"))
    }
}

bincode::impl_borrow_decode!(PageSize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_character_and_refused_when_longer_on_the_wire() {
        let long = "\u{e9}".repeat(200);
        let name = Name::cut(&long);
        assert_eq!(name.as_str(), "\u{e9}".repeat(127));
        assert_eq!(decode::<Name>(&encode(&name)).unwrap(), name);
        assert!(decode::<Name>(&encode(&long)).is_err());
    }

    #[test]
    fn path_keeps_bytes_that_are_not_text() {
        let path = WirePath::new(Path::new(OsStr::from_bytes(b"/a/\xff\xfe"))).unwrap();
        assert_eq!(decode::<WirePath>(&encode(&path)).unwrap(), path);
        let long = vec![b'x'; PATH_BYTES_MAX + 1];
        assert!(WirePath::new(Path::new(OsStr::from_bytes(&long))).is_none());
        assert!(decode::<WirePath>(&encode(&long)).is_err());
    }

    #[test]
    fn page_size_that_cannot_be_is_refused() {
        assert_eq!(
            decode::<PageSize>(&encode(&8192_u32)).unwrap(),
            PageSize::DEFAULT
        );
        assert!(decode::<PageSize>(&encode(&1000_u32)).is_err());
    }

    /// A length that lies must not allocate what it claims.
    #[test]
    fn claimed_length_beyond_the_bound_is_refused_before_it_is_allocated() {
        let mut payload = vec![253];
        payload.extend_from_slice(&(u64::MAX / 2).to_le_bytes());
        assert!(matches!(
            decode::<WirePath>(&payload),
            Err(MessageFault::Undecodable(DecodeError::LimitExceeded))
        ));
    }

    #[test]
    fn bytes_after_a_message_are_refused() {
        let mut payload = encode(&7_u64);
        payload.push(0);
        assert!(matches!(
            decode::<u64>(&payload),
            Err(MessageFault::Trailing(1))
        ));
    }
}
