//! Takes over a descriptor that another program sends over a socket.

#![allow(
    unsafe_code,
    reason = "a received descriptor is a bare number until somebody owns it"
)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Receives one descriptor, close-on-exec. Blocks until a message or the end of the stream comes.
///
/// Errors: `UnexpectedEof` if the other side closed, `InvalidData` for a message without a
/// descriptor, and what recvmsg gives.
pub fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!(RawFd);
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            received => break received?,
        }
    };
    for part in message.cmsgs()? {
        let ControlMessageOwned::ScmRights(descriptors) = part else {
            continue;
        };
        // There is room for one descriptor, so the kernel hands over no more than one.
        if let Some(&descriptor) = descriptors.first() {
            // SAFETY: the kernel has just made this descriptor for this process in recvmsg, and
            // nobody else was told its number, so it is open and this is its only owner.
            return Ok(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
    Err(if message.bytes == 0 {
        io::ErrorKind::UnexpectedEof.into()
    } else {
        io::ErrorKind::InvalidData.into()
    })
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write};
    use std::os::fd::AsFd;

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    #[test]
    fn a_sent_descriptor_is_the_same_open_file() {
        let (here, there) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let rights = [file.as_fd().as_raw_fd()];
        let control = [ControlMessage::ScmRights(&rights)];
        let flags = MsgFlags::empty();
        sendmsg::<()>(
            there.as_raw_fd(),
            &[IoSlice::new(b"x")],
            &control,
            flags,
            None,
        )
        .unwrap();
        let received = std::fs::File::from(receive_descriptor(&here).unwrap());
        (&file).write_all(b"seen through both").unwrap();
        assert_eq!(received.metadata().unwrap().len(), 17);
    }

    #[test]
    fn the_end_and_a_message_without_a_descriptor_are_told_apart() {
        let (here, mut there) = UnixStream::pair().unwrap();
        there.write_all(b"x").unwrap();
        let error = receive_descriptor(&here).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(there);
        let error = receive_descriptor(&here).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
