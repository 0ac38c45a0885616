//! Where one request ends and the next begins.

use bytes::{Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;

use super::inline;

/// Most arguments of one request, its name included.
pub(crate) const ARGUMENTS_MAX: u64 = 1_048_576;
/// Longest argument, exclusive.
pub(crate) const ARGUMENT_BYTES_MAX: u64 = 128 << 20;
/// Longest request in all.
const REQUEST_BYTES_MAX: usize = 256 << 20;
/// Longest inline command.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Longest `*count` or `$length` line: a sign, 19 digits, and the line end, with room to spare.
const HEADER_BYTES_MAX: usize = 32;

/// What one argument takes in memory beside its bytes, while its request is decoded.
const ARGUMENT_FRAME_BYTES: usize = 128;

/// How much a client may say in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    /// As much as the constants above allow.
    Known,
    /// As much as it takes to give a password.
    Stranger,
}

/// What Redis allows those who have not given the password.
const STRANGER_ARGUMENTS_MAX: u64 = 10;
const STRANGER_REQUEST_BYTES_MAX: usize = 16 << 10;

/// One command as it came: its name and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Name first; never empty.
    pub(crate) words: Vec<Bytes>,
    /// How much of the receive buffer it took.
    pub(crate) bytes: usize,
}

/// Why the connection cannot go on: where the next request starts is not known any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// More arguments than allowed, or no number.
    #[error("ERR Protocol error: invalid multibulk length")]
    ArgumentCount,
    /// A longer argument than allowed, or no number.
    #[error("ERR Protocol error: invalid bulk length")]
    ArgumentLength,
    /// A length line that does not end.
    #[error("ERR Protocol error: too big count string")]
    HeaderTooLong,
    /// Something else where an argument must begin.
    #[error("ERR Protocol error: expected '$', got '{}'", char::from(*.0).escape_default())]
    ExpectedArgument(u8),
    /// The bytes after an argument are not the line end that its length promised.
    #[error("ERR Protocol error: expected a line end after an argument")]
    ExpectedLineEnd,
    /// An inline command that does not end.
    #[error("ERR Protocol error: too big inline request")]
    InlineTooLong,
    /// An inline command with an open quote.
    #[error("ERR Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// The arguments are too long together.
    #[error("ERR Protocol error: request too big")]
    RequestTooLong,
    /// More arguments than it takes to give a password.
    #[error("ERR Protocol error: unauthenticated multibulk length")]
    StrangerArgumentCount,
    /// More bytes than it takes to give a password.
    #[error("ERR Protocol error: unauthenticated bulk length")]
    StrangerArgumentLength,
    /// A browser, or somebody who misuses one.
    #[error("ERR this is not an HTTP server")]
    Http,
}

/// What is known of the request at the head of the buffer.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing.
    Start,
    /// It is an inline command, and no line end is among its first `searched` bytes.
    Inline { searched: usize },
    /// It is an array, whose next argument's header is at `position`.
    Header { remaining: u64, position: usize },
    /// As before, and the bytes of the current argument end at `end`, before a line end.
    Argument { remaining: u64, end: usize },
}

/// The framing of one connection. Remembers what it has seen of an unfinished request, so that
/// bytes are looked at once however small the pieces are in which they arrive.
#[derive(Debug)]
pub(crate) struct Framing {
    state: State,
    /// Arguments of the request at hand that were seen.
    arguments: usize,
}

impl Framing {
    /// At the start of a connection.
    pub(crate) fn new() -> Self {
        Self {
            state: State::Start,
            arguments: 0,
        }
    }

    /// What the request at hand takes in memory beside its bytes, as far as it has come.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.arguments.saturating_mul(ARGUMENT_FRAME_BYTES)
    }

    /// Takes the next complete request off `buffer`; `None` until more bytes arrive.
    ///
    /// Empty lines and empty arrays are passed over. Errors: as named; after any of them the
    /// connection must be closed.
    pub(crate) fn next(
        &mut self,
        buffer: &mut BytesMut,
        speaker: Speaker,
    ) -> Result<Option<Request>, ProtocolError> {
        loop {
            let Some(length) = self.complete(buffer, speaker)? else {
                return Ok(None);
            };
            let inline = matches!(self.state, State::Inline { .. });
            self.state = State::Start;
            self.arguments = 0;
            let frame = buffer.split_to(length).freeze();
            let words = if inline {
                inline::split(&frame)?
            } else {
                decode(&frame)?
            };
            if words.is_empty() {
                continue;
            }
            if inline::is_http(&words, inline) {
                return Err(ProtocolError::Http);
            }
            let bytes = length;
            return Ok(Some(Request { words, bytes }));
        }
    }

    /// The length of the request at the head of `buffer`, once all of it is there.
    fn complete(
        &mut self,
        buffer: &[u8],
        speaker: Speaker,
    ) -> Result<Option<usize>, ProtocolError> {
        loop {
            let next = match self.state {
                State::Start => start(buffer, speaker)?,
                State::Inline { searched } => {
                    let fresh = buffer.get(searched..).unwrap_or_default();
                    if let Some(at) = fresh.iter().position(|&byte| byte == b'\n') {
                        return checked_inline(searched + at + 1, speaker).map(Some);
                    }
                    checked_inline(buffer.len(), speaker)?;
                    self.state = State::Inline {
                        searched: buffer.len(),
                    };
                    None
                }
                State::Header {
                    remaining: 0,
                    position,
                } => return Ok(Some(position)),
                State::Header {
                    remaining,
                    position,
                } => {
                    let next = argument(buffer, remaining, position, speaker)?;
                    self.arguments += usize::from(next.is_some());
                    next
                }
                State::Argument { remaining, end } => match buffer.get(end..end + 2) {
                    Some(b"\r\n") => Some(State::Header {
                        remaining: remaining - 1,
                        position: end + 2,
                    }),
                    Some(_) => return Err(ProtocolError::ExpectedLineEnd),
                    None => None,
                },
            };
            match next {
                Some(state) => self.state = state,
                None => return Ok(None),
            }
        }
    }
}

fn checked_inline(length: usize, speaker: Speaker) -> Result<usize, ProtocolError> {
    let limit = match speaker {
        Speaker::Known => INLINE_BYTES_MAX,
        Speaker::Stranger => STRANGER_REQUEST_BYTES_MAX,
    };
    if length > limit {
        return Err(ProtocolError::InlineTooLong);
    }
    Ok(length)
}

/// What kind of request begins here.
fn start(buffer: &[u8], speaker: Speaker) -> Result<Option<State>, ProtocolError> {
    match buffer.first() {
        None => Ok(None),
        Some(b'*') => {
            let Some((line, position)) = header(buffer, 0)? else {
                return Ok(None);
            };
            // An array of no length at all is an empty request.
            let remaining = match line {
                b"-1" => 0,
                _ => number(line).ok_or(ProtocolError::ArgumentCount)?,
            };
            if remaining > ARGUMENTS_MAX {
                return Err(ProtocolError::ArgumentCount);
            }
            if speaker == Speaker::Stranger && remaining > STRANGER_ARGUMENTS_MAX {
                return Err(ProtocolError::StrangerArgumentCount);
            }
            Ok(Some(State::Header {
                remaining,
                position,
            }))
        }
        Some(_) => Ok(Some(State::Inline { searched: 0 })),
    }
}

/// Reads the `$length` line of the next argument.
fn argument(
    buffer: &[u8],
    remaining: u64,
    position: usize,
    speaker: Speaker,
) -> Result<Option<State>, ProtocolError> {
    match buffer.get(position) {
        None => return Ok(None),
        Some(b'$') => {}
        Some(&other) => return Err(ProtocolError::ExpectedArgument(other)),
    }
    let Some((line, data)) = header(buffer, position)? else {
        return Ok(None);
    };
    let end = number(line)
        .filter(|&length| length < ARGUMENT_BYTES_MAX)
        .and_then(|length| usize::try_from(length).ok())
        .ok_or(ProtocolError::ArgumentLength)
        .and_then(|length| argument_end(data, length))?;
    if speaker == Speaker::Stranger && end > STRANGER_REQUEST_BYTES_MAX {
        return Err(ProtocolError::StrangerArgumentLength);
    }
    Ok(Some(State::Argument { remaining, end }))
}

/// Where an argument ends that begins at `data`. Errors: the request would be too long.
fn argument_end(data: usize, length: usize) -> Result<usize, ProtocolError> {
    data.checked_add(length)
        .filter(|&end| end <= REQUEST_BYTES_MAX)
        .ok_or(ProtocolError::RequestTooLong)
}

/// The line after the type byte at `position`, and where the next one begins.
fn header(buffer: &[u8], position: usize) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    let rest = buffer.get(position + 1..).unwrap_or_default();
    let window = rest.get(..HEADER_BYTES_MAX).unwrap_or(rest);
    match window.windows(2).position(|pair| pair == b"\r\n") {
        Some(length) => Ok(window
            .get(..length)
            .map(|line| (line, position + 1 + length + 2))),
        None if window.len() == HEADER_BYTES_MAX => Err(ProtocolError::HeaderTooLong),
        None => Ok(None),
    }
}

/// Digits only, without a leading zero: one spelling per number.
fn number(line: &[u8]) -> Option<u64> {
    let spelled = !line.is_empty() && line.iter().all(u8::is_ascii_digit);
    if !spelled || (line.len() > 1 && line.first() == Some(&b'0')) {
        return None;
    }
    std::str::from_utf8(line).ok()?.parse().ok()
}

/// The words of a complete array, which holds nothing but bulk strings.
fn decode(frame: &Bytes) -> Result<Vec<Bytes>, ProtocolError> {
    let frames = match decode_bytes(frame) {
        Ok(Some((BytesFrame::Array(frames), _))) => frames,
        Ok(Some((BytesFrame::Null, _))) => Vec::new(),
        Ok(_) | Err(_) => return Err(ProtocolError::ArgumentCount),
    };
    frames
        .into_iter()
        .map(|frame| match frame {
            BytesFrame::BulkString(bytes) => Ok(bytes),
            _ => Err(ProtocolError::ArgumentLength),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(input: &[u8]) -> Result<Vec<Vec<Bytes>>, ProtocolError> {
        let mut framing = Framing::new();
        let mut buffer = BytesMut::from(input);
        let mut requests = Vec::new();
        while let Some(request) = framing.next(&mut buffer, Speaker::Known)? {
            requests.push(request.words);
        }
        Ok(requests)
    }

    fn words(text: &[&str]) -> Vec<Bytes> {
        text.iter()
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect()
    }

    #[test]
    fn arrays_and_inline_commands_may_follow_each_other() {
        let input =
            b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n\r\n*0\r\n*-1\r\n*1\r\n$0\r\n\r\nECHO 'a b'\n";
        let expected = [
            words(&["GET", "k"]),
            words(&["PING"]),
            words(&[""]),
            words(&["ECHO", "a b"]),
        ];
        assert_eq!(all(input).unwrap(), expected);
    }

    #[test]
    fn an_argument_may_hold_any_bytes() {
        let requests = all(b"*2\r\n$4\r\nECHO\r\n$6\r\n\r\n$1\0*\r\n").unwrap();
        assert_eq!(requests[0][1], Bytes::from_static(b"\r\n$1\0*"));
    }

    #[test]
    fn an_unfinished_request_waits_and_allocates_nothing() {
        let mut framing = Framing::new();
        let mut buffer = BytesMut::from(&b"*1048576\r\n$134217727\r\nabc"[..]);
        let capacity = buffer.capacity();
        assert_eq!(framing.next(&mut buffer, Speaker::Known), Ok(None));
        assert_eq!(buffer.capacity(), capacity);
    }

    #[test]
    fn lying_lengths_are_refused() {
        use ProtocolError as E;
        let cases: [(&[u8], E); 16] = [
            (b"*1048577\r\n", E::ArgumentCount),
            (b"*-2\r\n", E::ArgumentCount),
            (b"*+1\r\n", E::ArgumentCount),
            (b"*01\r\n", E::ArgumentCount),
            (b"*\r\n", E::ArgumentCount),
            (b"*99999999999999999999\r\n", E::ArgumentCount),
            (b"*1\r\n$536870912\r\n", E::ArgumentLength),
            (b"*1\r\n$-1\r\n", E::ArgumentLength),
            (b"*1\r\n$x\r\n", E::ArgumentLength),
            (b"*1\r\n$\r\n", E::ArgumentLength),
            (b"*1\r\n*1\r\n", E::ExpectedArgument(b'*')),
            (b"*1\r\n:1\r\n", E::ExpectedArgument(b':')),
            (b"*1\r\n$2\r\nabc\r\n", E::ExpectedLineEnd),
            (b"*1\r\n$4\r\nabc\r\nx", E::ExpectedLineEnd),
            (b"*111111111111111111111111111111111111", E::HeaderTooLong),
            (b"SET 'k\r\n", E::UnbalancedQuotes),
        ];
        for (input, error) in cases {
            assert_eq!(all(input), Err(error), "{:?}", input.escape_ascii());
        }
    }

    #[test]
    fn arguments_that_are_too_long_together_are_refused_when_announced() {
        assert_eq!(argument_end(20, 30), Ok(50));
        assert_eq!(
            argument_end(REQUEST_BYTES_MAX - 5, 5),
            Ok(REQUEST_BYTES_MAX)
        );
        let refused = Err(ProtocolError::RequestTooLong);
        assert_eq!(argument_end(REQUEST_BYTES_MAX - 5, 6), refused);
        assert_eq!(argument_end(usize::MAX, 6), refused);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let line = vec![b'a'; INLINE_BYTES_MAX + 1];
        assert_eq!(all(&line), Err(ProtocolError::InlineTooLong));
        assert_eq!(all(&line[..INLINE_BYTES_MAX]), Ok(vec![]));
    }

    #[test]
    fn browsers_are_recognised() {
        for input in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\nSET k v\r\n"[..],
            b"POST /x HTTP/1.1\r\n",
            b"POST \r\n",
            b"OPTIONS * HTTP/1.0\r\n",
            b"Host: localhost:6379\r\n",
            b"*1\r\n$4\r\nPOST\r\n",
        ] {
            assert_eq!(all(input), Err(ProtocolError::Http));
        }
        let honest = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8\r\nHTTP/1.1\r\n";
        assert_eq!(all(honest).unwrap().len(), 1);
    }

    proptest! {
        /// However the bytes are cut into pieces, the same requests come out.
        #[test]
        fn pieces_make_no_difference(
            requests in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5), 1..8),
            piece in 1usize..17,
        ) {
            let mut wire = Vec::new();
            for request in &requests {
                // The name must not look like a browser's.
                wire.extend(format!("*{}\r\n$1\r\nX\r\n", request.len() + 1).bytes());
                for word in request {
                    wire.extend(format!("${}\r\n", word.len()).bytes());
                    wire.extend(word);
                    wire.extend(b"\r\n");
                }
            }
            let (mut framing, mut buffer) = (Framing::new(), BytesMut::new());
            let mut found = Vec::new();
            for chunk in wire.chunks(piece) {
                buffer.extend_from_slice(chunk);
                while let Some(request) = framing.next(&mut buffer, Speaker::Known).unwrap() {
                    found.push(request.words[1..].iter().map(|w| w.to_vec()).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(found, requests);
            prop_assert!(buffer.is_empty());
        }

        /// Garbage is refused or waits; it never panics.
        #[test]
        fn garbage_never_panics(input in prop::collection::vec(
            prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()],
            0..200,
        )) {
            let _ = all(&input);
        }
    }
}
