//! What a command answers, and its form on the wire.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use redis_protocol::{resp2, resp3};

/// Which form of the protocol a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RespVersion {
    /// What every connection starts with.
    #[default]
    Two,
    /// After `HELLO 3`.
    Three,
}

/// An answer, independent of the form in which it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A short word such as OK.
    Status(Cow<'static, str>),
    /// A failure: a code in capitals, a space, and what to say about it.
    Error(String),
    /// A number.
    Integer(i64),
    /// Bytes.
    Bulk(Bytes),
    /// No value.
    Null,
    /// No array: a transaction that did not run.
    NullArray,
    /// Several answers.
    Array(Vec<Self>),
    /// Pairs; RESP2 has no maps and gets them one after the other.
    Map(Vec<(Self, Self)>),
}

/// More than any number's length can be misjudged by the crate, which computes it in floating point.
const SLACK_BYTES: usize = 32;

impl Reply {
    /// `OK`.
    pub const OK: Self = Self::Status(Cow::Borrowed("OK"));

    /// Text as bytes.
    #[must_use]
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::Bulk(Bytes::copy_from_slice(text.as_ref().as_bytes()))
    }

    /// A count. A count of more than 2^63 - 1 things does not occur and is cut to that.
    #[must_use]
    pub fn count(count: u64) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// A failure. Line ends, which would end the error on the wire, become spaces.
    pub fn error(error: impl std::fmt::Display) -> Self {
        Self::Error(error.to_string().replace(['\r', '\n'], " "))
    }

    /// About how long it is on the wire, never less than the bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        const FRAME: usize = 16;
        match self {
            Self::Status(text) => FRAME + text.len(),
            Self::Error(text) => FRAME + text.len(),
            Self::Bulk(bytes) => FRAME + bytes.len(),
            Self::Integer(_) | Self::Null | Self::NullArray => FRAME,
            Self::Array(items) => items.iter().fold(FRAME, |sum, item| sum + item.bytes()),
            Self::Map(pairs) => pairs
                .iter()
                .fold(FRAME, |sum, (key, value)| sum + key.bytes() + value.bytes()),
        }
    }

    /// Appends the wire form to `out`.
    pub(crate) fn encode(&self, version: RespVersion, out: &mut BytesMut) {
        match (self, version) {
            (Self::Array(items), _) => {
                put_header(out, b'*', items.len());
                items.iter().for_each(|item| item.encode(version, out));
            }
            (Self::Map(pairs), _) => {
                match version {
                    RespVersion::Two => put_header(out, b'*', pairs.len() * 2),
                    RespVersion::Three => put_header(out, b'%', pairs.len()),
                }
                for (key, value) in pairs {
                    key.encode(version, out);
                    value.encode(version, out);
                }
            }
            // The crate has no frame for it.
            (Self::NullArray, RespVersion::Two) => out.put_slice(b"*-1\r\n"),
            (_, RespVersion::Two) => self.encode_leaf_2(out),
            (_, RespVersion::Three) => self.encode_leaf_3(out),
        }
    }

    fn encode_leaf_2(&self, out: &mut BytesMut) {
        use resp2::types::BorrowedFrame as Frame;
        let frame = match self {
            Self::Status(text) => Frame::SimpleString(text.as_bytes()),
            Self::Error(text) => Frame::Error(text),
            Self::Integer(number) => Frame::Integer(*number),
            Self::Bulk(bytes) => Frame::BulkString(bytes),
            Self::Null | Self::NullArray | Self::Array(_) | Self::Map(_) => Frame::Null,
        };
        append(out, frame.encode_len(false), |free| {
            resp2::encode::encode_borrowed(free, &frame, false)
        });
    }

    fn encode_leaf_3(&self, out: &mut BytesMut) {
        use resp3::types::BorrowedFrame as Frame;
        let attributes = None;
        let frame = match self {
            Self::Status(text) => Frame::SimpleString {
                data: text.as_bytes(),
                attributes,
            },
            Self::Error(data) => Frame::SimpleError { data, attributes },
            Self::Integer(data) => Frame::Number {
                data: *data,
                attributes,
            },
            Self::Bulk(data) => Frame::BlobString { data, attributes },
            Self::Null | Self::NullArray | Self::Array(_) | Self::Map(_) => Frame::Null,
        };
        append(out, frame.encode_len(false), |free| {
            resp3::encode::complete::encode_borrowed(free, &frame, false)
        });
    }
}

fn put_header(out: &mut BytesMut, kind: u8, count: usize) {
    out.put_u8(kind);
    out.put_slice(count.to_string().as_bytes());
    out.put_slice(b"\r\n");
}

/// Lets the crate write at the end of `out` and keeps exactly what it wrote.
fn append<E: std::fmt::Debug>(
    out: &mut BytesMut,
    bytes: usize,
    encode: impl FnOnce(&mut [u8]) -> Result<usize, E>,
) {
    let start = out.len();
    out.resize(start + bytes + SLACK_BYTES, 0);
    let free = out.get_mut(start..).unwrap_or_default();
    let written = encode(free).expect("the buffer has the length that the crate asked for");
    out.truncate(start + written);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply, version: RespVersion) -> String {
        let mut out = BytesMut::new();
        reply.encode(version, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn both_forms_are_as_specified() {
        let reply = Reply::Array(vec![
            Reply::OK,
            Reply::error("ERR a\r\nb"),
            Reply::Integer(-7),
            Reply::text("x"),
            Reply::Null,
            Reply::NullArray,
            Reply::Map(vec![(Reply::text("k"), Reply::Array(vec![]))]),
        ]);
        assert_eq!(
            wire(&reply, RespVersion::Two),
            "*7\r\n+OK\r\n-ERR a  b\r\n:-7\r\n$1\r\nx\r\n$-1\r\n*-1\r\n*2\r\n$1\r\nk\r\n*0\r\n"
        );
        assert_eq!(
            wire(&reply, RespVersion::Three),
            "*7\r\n+OK\r\n-ERR a  b\r\n:-7\r\n$1\r\nx\r\n_\r\n_\r\n%1\r\n$1\r\nk\r\n*0\r\n"
        );
    }

    /// The crate computes the length of a number with a floating-point logarithm, which is one too
    /// long near powers of ten; a byte too many would shift every later reply of the connection.
    #[test]
    fn numbers_near_powers_of_ten_have_their_exact_length() {
        let mut powers = vec![0, i64::MAX, i64::MIN, i64::MIN + 1];
        powers.extend((0..19).map(|exponent| 10_i64.pow(exponent)));
        for number in powers {
            for near in [number.saturating_sub(1), number, number.saturating_add(1)] {
                for signed in [near, near.saturating_neg()] {
                    for version in [RespVersion::Two, RespVersion::Three] {
                        assert_eq!(
                            wire(&Reply::Integer(signed), version),
                            format!(":{signed}\r\n")
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn bulk_strings_of_all_small_lengths_are_framed_right() {
        for length in (0..1200).chain([99_999, 100_000, 1_000_000]) {
            let reply = Reply::Bulk(vec![b'v'; length].into());
            let expected = format!("${length}\r\n{}\r\n", "v".repeat(length));
            assert_eq!(wire(&reply, RespVersion::Two), expected);
            assert_eq!(wire(&reply, RespVersion::Three), expected);
        }
    }
}
