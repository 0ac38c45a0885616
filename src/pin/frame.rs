//! Frames over a Unix stream: a length, a payload, and the descriptors that come with its start.

#![deny(clippy::indexing_slicing)]

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::service::PIN_FILE_COUNT;
use super::wire::PAYLOAD_BYTES_MAX;
use crate::codec;
use crate::os::readiness::{Deadline, Interest, StopSignal, Wake, wait};
use crate::os::unix_socket::{receive_with_fds, send_with_fds};

/// Bytes of the length before each payload.
const LENGTH_BYTES: usize = 4;
/// How much one read takes at most.
const READ_BYTES: usize = 4096;

/// What becomes of descriptors that the other side sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncomingDescriptors {
    /// The kernel closes them unseen.
    Discard,
    /// They are taken, as many as a pin has.
    Take,
}

/// Why no frame could be sent or received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameFault {
    /// The other side is gone.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side is gone, in the middle of a frame.
    #[error("the connection ended in the middle of a frame")]
    Truncated,
    /// The other side announces a frame that is longer than the bound.
    #[error("a frame of {bytes} bytes, where {PAYLOAD_BYTES_MAX} are the most")]
    TooLong {
        /// The length that it announces.
        bytes: usize,
    },
    /// More descriptors came with a frame than a pin has.
    #[error("more than {PIN_FILE_COUNT} descriptors came with a frame")]
    TooManyDescriptors,
    /// The other side did not read or write in time.
    #[error("the other side took too long")]
    TimedOut,
    /// This side is stopping.
    #[error("stopping")]
    Stopped,
    /// The system's answer.
    #[error("cannot {op} on the control socket: {source}")]
    Io {
        /// What was tried.
        op: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl FrameFault {
    fn io(op: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io { op, source },
        }
    }
}

/// How long a wait may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience<'a> {
    /// Until when.
    pub(crate) deadline: Deadline,
    /// What ends it before.
    pub(crate) stop: Option<&'a StopSignal>,
}

/// One received frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) payload: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// A socket that takes and gives whole frames. What has come of a frame is kept, so that a wait
/// that times out loses nothing.
#[derive(Debug)]
pub(crate) struct FrameSocket {
    stream: UnixStream,
    incoming: IncomingDescriptors,
    partial: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    outgoing: Outgoing,
}

/// Whether the other side can still tell where a frame starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    /// Every frame was sent whole.
    Whole,
    /// One was not: whatever follows would be taken for its rest.
    Torn,
}

impl AsFd for FrameSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl FrameSocket {
    /// Makes `stream` non-blocking: only [`wait`] ever waits.
    pub(crate) fn new(stream: UnixStream, incoming: IncomingDescriptors) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            incoming,
            partial: Vec::new(),
            descriptors: Vec::new(),
            outgoing: Outgoing::Whole,
        })
    }

    /// The stream below, for whoever breaks the rules.
    #[cfg(test)]
    pub(crate) fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Sends one frame, and `fds` with its first byte.
    ///
    /// Errors: `Closed`, `TimedOut`, `Stopped`, `TooLong`, `Io`. A part may then be sent, so that
    /// every later call answers `Closed`.
    pub(crate) fn send(
        &mut self,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
        patience: Patience<'_>,
    ) -> Result<(), FrameFault> {
        let bytes = payload.len();
        let length = u32::try_from(bytes)
            .ok()
            .filter(|_| bytes <= PAYLOAD_BYTES_MAX)
            .ok_or(FrameFault::TooLong { bytes })?;
        if std::mem::replace(&mut self.outgoing, Outgoing::Torn) == Outgoing::Torn {
            return Err(FrameFault::Closed);
        }
        let frame = [&length.to_le_bytes()[..], payload].concat();
        let (mut rest, mut fds) = (&frame[..], fds);
        while !rest.is_empty() {
            match send_with_fds(&self.stream, rest, fds) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fds = &[];
                }
                Err(error) => self.after_error("send", error, Interest::Write, patience)?,
            }
        }
        self.outgoing = Outgoing::Whole;
        Ok(())
    }

    /// Receives one frame, and never a byte more, so that descriptors stay with their frame.
    ///
    /// Errors: `Closed` at the end of the stream; `TimedOut` and `Stopped`, after which a later
    /// call goes on; all others end the connection.
    pub(crate) fn receive(&mut self, patience: Patience<'_>) -> Result<Frame, FrameFault> {
        loop {
            let missing = self.missing_bytes()?;
            if missing == 0 {
                return Ok(self.take_frame());
            }
            match self.read_some(missing) {
                Ok(0) if self.partial.is_empty() => return Err(FrameFault::Closed),
                Ok(0) => return Err(FrameFault::Truncated),
                Ok(_) if self.descriptors.len() > PIN_FILE_COUNT => {
                    return Err(FrameFault::TooManyDescriptors);
                }
                Ok(_) => {}
                Err(error) => self.after_error("receive", error, Interest::Read, patience)?,
            }
        }
    }

    /// How many bytes the frame, or else its length, still needs.
    fn missing_bytes(&self) -> Result<usize, FrameFault> {
        let have = self.partial.len();
        let Some(length) = codec::get_u32(&self.partial, 0) else {
            return Ok(LENGTH_BYTES.saturating_sub(have));
        };
        let bytes = length as usize;
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(FrameFault::TooLong { bytes });
        }
        Ok((LENGTH_BYTES + bytes).saturating_sub(have))
    }

    fn take_frame(&mut self) -> Frame {
        let mut payload = std::mem::take(&mut self.partial);
        payload.drain(..LENGTH_BYTES.min(payload.len()));
        Frame {
            payload,
            descriptors: std::mem::take(&mut self.descriptors),
        }
    }

    fn read_some(&mut self, missing: usize) -> io::Result<usize> {
        let mut buffer = [0; READ_BYTES];
        let wanted = buffer
            .get_mut(..missing.min(READ_BYTES))
            .unwrap_or_default();
        let count = match self.incoming {
            IncomingDescriptors::Discard => (&self.stream).read(wanted)?,
            IncomingDescriptors::Take => {
                let (count, fds) = receive_with_fds(&self.stream, wanted, PIN_FILE_COUNT)?;
                self.descriptors.extend(fds);
                count
            }
        };
        self.partial
            .extend_from_slice(wanted.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// Waits if the socket was not ready; every other error is one.
    fn after_error(
        &self,
        op: &'static str,
        error: io::Error,
        interest: Interest,
        patience: Patience<'_>,
    ) -> Result<(), FrameFault> {
        match error.kind() {
            io::ErrorKind::Interrupted => return Ok(()),
            io::ErrorKind::WouldBlock => {}
            _ => return Err(FrameFault::io(op, error)),
        }
        let woken = wait(self.as_fd(), interest, patience.stop, patience.deadline)
            .map_err(|source| FrameFault::Io { op: "wait", source })?;
        match woken {
            Wake::Ready => Ok(()),
            Wake::Stopped => Err(FrameFault::Stopped),
            Wake::TimedOut => Err(FrameFault::TimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: Patience<'static> = Patience {
        deadline: Deadline::NEVER,
        stop: None,
    };

    fn soon() -> Patience<'static> {
        Patience {
            deadline: Deadline::after(Duration::from_millis(1)),
            stop: None,
        }
    }

    fn pair() -> (UnixStream, FrameSocket) {
        let (raw, stream) = UnixStream::pair().unwrap();
        (
            raw,
            FrameSocket::new(stream, IncomingDescriptors::Take).unwrap(),
        )
    }

    #[test]
    fn frame_keeps_its_descriptors_and_leaves_the_next_one_alone() {
        let (raw, mut receiver) = pair();
        let mut sender = FrameSocket::new(raw, IncomingDescriptors::Discard).unwrap();
        let file = tempfile::tempfile().unwrap();
        sender.send(b"before", &[], NOW).unwrap();
        sender
            .send(b"with", &[file.as_fd(), file.as_fd()], NOW)
            .unwrap();
        sender.send(b"", &[], NOW).unwrap();
        let counts: Vec<_> = (0..3)
            .map(|_| receiver.receive(NOW).unwrap())
            .map(|frame| (frame.payload, frame.descriptors.len()))
            .collect();
        assert_eq!(
            counts,
            [
                (b"before".to_vec(), 0),
                (b"with".to_vec(), 2),
                (Vec::new(), 0)
            ]
        );
    }

    /// A wait for a notice must not tear the frame that comes just then.
    #[test]
    fn timeout_in_the_middle_of_a_frame_loses_nothing() {
        let (mut raw, mut receiver) = pair();
        raw.write_all(&[5, 0, 0, 0, b'h', b'e']).unwrap();
        assert!(matches!(
            receiver.receive(soon()),
            Err(FrameFault::TimedOut)
        ));
        raw.write_all(b"llo").unwrap();
        assert_eq!(receiver.receive(NOW).unwrap().payload, b"hello");
    }

    #[test]
    fn end_of_the_stream_is_told_from_a_torn_frame() {
        let (raw, mut receiver) = pair();
        drop(raw);
        assert!(matches!(receiver.receive(NOW), Err(FrameFault::Closed)));
        let (mut raw, mut receiver) = pair();
        raw.write_all(&[9, 0]).unwrap();
        drop(raw);
        assert!(matches!(receiver.receive(NOW), Err(FrameFault::Truncated)));
    }

    #[test]
    fn longer_frame_than_the_bound_is_neither_sent_nor_received() {
        let (mut raw, mut receiver) = pair();
        let long = vec![0; PAYLOAD_BYTES_MAX + 1];
        assert!(matches!(
            receiver.send(&long, &[], NOW),
            Err(FrameFault::TooLong { .. })
        ));
        raw.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(
            receiver.receive(NOW),
            Err(FrameFault::TooLong { .. })
        ));
    }

    #[test]
    fn sender_gives_up_on_a_reader_that_does_not_read() {
        let (_raw, mut sender) = pair();
        let payload = vec![7; PAYLOAD_BYTES_MAX];
        let fault = (0..1000).find_map(|_| sender.send(&payload, &[], soon()).err());
        assert!(matches!(fault, Some(FrameFault::TimedOut)), "{fault:?}");
        assert!(matches!(
            sender.send(b"rest?", &[], soon()),
            Err(FrameFault::Closed)
        ));
    }

    /// Descriptors that a hostile peer strews into one frame must not pile up.
    #[test]
    fn descriptors_in_pieces_of_a_frame_are_bounded() {
        let (raw, mut receiver) = pair();
        let file = tempfile::tempfile().unwrap();
        for byte in [64, 0, 0, 0] {
            send_with_fds(&raw, &[byte], &[file.as_fd(), file.as_fd()]).unwrap();
        }
        assert!(matches!(
            receiver.receive(NOW),
            Err(FrameFault::TooManyDescriptors)
        ));
    }

    proptest! {
        /// However the bytes of frames are cut up, the same frames arrive.
        #[test]
        fn frames_survive_any_fragmentation(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
            piece in 1_usize..40,
        ) {
            let (mut raw, mut receiver) = pair();
            let bytes: Vec<u8> = payloads
                .iter()
                .flat_map(|p| [&u32::try_from(p.len()).unwrap().to_le_bytes()[..], p].concat())
                .collect();
            let mut got = Vec::new();
            let poll_once = || Patience { deadline: Deadline::after(Duration::ZERO), stop: None };
            for piece in bytes.chunks(piece) {
                raw.write_all(piece).unwrap();
                loop {
                    match receiver.receive(poll_once()) {
                        Ok(frame) => got.push(frame.payload),
                        Err(FrameFault::TimedOut) => break,
                        Err(fault) => panic!("{fault}"),
                    }
                }
            }
            prop_assert_eq!(got, payloads);
        }
    }
}
