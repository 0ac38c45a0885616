//! Open files over a Unix socket (`SCM_RIGHTS`).

// The nix wrapper cannot give back the descriptors of a message whose control data was cut.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags};

/// The most descriptors that one message carries (the kernel's `SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 253;

/// Sends `bytes` and, with the first of them, `fds`; returns how many bytes went.
///
/// If fewer went than are there, the rest goes without descriptors. Waits as the socket is set to.
/// Shape: 1 byte or more; at most [`DESCRIPTORS_MAX`] descriptors. Errors: `InvalidInput`; `WouldBlock`
/// by the socket's timeout or mode; `BrokenPipe` (never a signal); the system's.
pub fn send_with_fds(
    stream: &UnixStream,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    send(stream, bytes, fds, MsgFlags::empty())
}

/// As [`send_with_fds`], but never waits, whatever the socket is set to. Errors: `WouldBlock`.
pub fn try_send_with_fds(
    stream: &UnixStream,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    send(stream, bytes, fds, MsgFlags::MSG_DONTWAIT)
}

fn send(
    stream: &UnixStream,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: MsgFlags,
) -> io::Result<usize> {
    if bytes.is_empty() || fds.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() {
        &[]
    } else {
        rights.as_slice()
    };
    let parts = [io::IoSlice::new(bytes)];
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    loop {
        match nix::sys::socket::sendmsg::<()>(stream.as_raw_fd(), &parts, control, flags, None) {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Receives up to `out.len()` bytes and the descriptors that came with them, all close-on-exec.
///
/// 0 bytes mean that the other end closed. Waits as the socket is set to.
/// Shape: `out` has 1 byte or more; `fds_max` is at most [`DESCRIPTORS_MAX`]. Errors: `InvalidInput`;
/// `InvalidData` if more descriptors came than `fds_max`, or than this process may open: all of them
/// are then closed and the bytes are lost; `WouldBlock`; the system's.
pub fn receive_with_fds(
    stream: &UnixStream,
    out: &mut [u8],
    fds_max: usize,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive(stream, out, fds_max, 0)
}

/// As [`receive_with_fds`], but never waits, whatever the socket is set to. Errors: `WouldBlock`.
pub fn try_receive_with_fds(
    stream: &UnixStream,
    out: &mut [u8],
    fds_max: usize,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive(stream, out, fds_max, libc::MSG_DONTWAIT)
}

/// Room for the header of a control message and [`DESCRIPTORS_MAX`] descriptors, aligned for both.
type ControlBuffer = [u64; CONTROL_WORDS];

const CONTROL_WORDS: usize =
    (size_of::<libc::cmsghdr>() + DESCRIPTORS_MAX * size_of::<RawFd>()).div_ceil(8);

fn receive(
    stream: &UnixStream,
    out: &mut [u8],
    fds_max: usize,
    flags: libc::c_int,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    if out.is_empty() || fds_max > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control: ControlBuffer = [0; CONTROL_WORDS];
    let mut part = libc::iovec {
        iov_base: out.as_mut_ptr().cast(),
        iov_len: out.len(),
    };
    // SAFETY: msghdr is plain data, for which all zeros is a value (no name, no parts, no control).
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // Without the padding that CMSG_SPACE adds: it would let one descriptor more than asked come in.
    #[allow(
        clippy::useless_conversion,
        reason = "the field's width is the C library's"
    )]
    {
        message.msg_controllen = (size_of::<libc::cmsghdr>() + fds_max * size_of::<RawFd>()).into();
    }
    let count = loop {
        // SAFETY: `message` points to one iovec over `out` and to `control`, at least as long as
        // msg_controllen says; all three live and are not otherwise used until the call returns.
        let result = unsafe {
            libc::recvmsg(
                stream.as_raw_fd(),
                &raw mut message,
                flags | libc::MSG_CMSG_CLOEXEC,
            )
        };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            result => break result?,
        }
    };
    let fds = take_descriptors(&message);
    if message.msg_flags & libc::MSG_CTRUNC != 0 || fds.len() > fds_max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let count = usize::try_from(count).expect("recvmsg returned no error, so it is a length");
    Ok((count, fds))
}

/// Takes over every descriptor in the control data, so that dropping the result closes them all.
///
/// `message` must be as recvmsg left it, with its control buffer alive, and be given only once.
fn take_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: recvmsg left msg_control and msg_controllen describing valid control data.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header inside the control buffer,
    // which the kernel wrote and which is aligned for it.
    while let Some(header) = unsafe { next.as_ref() } {
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            #[allow(
                clippy::unnecessary_cast,
                reason = "the field's width is the C library's"
            )]
            let data_bytes = (header.cmsg_len as usize).saturating_sub(size_of::<libc::cmsghdr>());
            // SAFETY: the header is inside the control buffer, and its data begin right behind it.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for index in 0..data_bytes / size_of::<RawFd>() {
                // SAFETY: the kernel wrote cmsg_len bytes, so `index` is within the data.
                let place = unsafe { data.add(index) };
                // SAFETY: as above; the data of a control message need not be aligned for an int.
                let fd = unsafe { place.read_unaligned() };
                // SAFETY: the kernel opened this descriptor for us with this message, and as the
                // message is looked at once only, nobody else owns it.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: `message` is unchanged since recvmsg and `header` is inside its control data.
        next = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    fds
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::os::fd::AsFd;
    use std::time::Duration;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;
    use crate::os::real_disk::{RealDisk, RealFile};
    use crate::os::{Disk, File, OpenMode, read_exact_at, write_all_at};

    fn file_with(content: &[u8]) -> OwnedFd {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, content, 0).unwrap();
        file.into()
    }

    /// U2: a child that the receiver starts must not inherit them.
    #[test]
    fn descriptors_arrive_in_order_and_close_on_exec() {
        let (left, right) = UnixStream::pair().unwrap();
        let files: Vec<OwnedFd> = (0..3).map(|index| file_with(&[index; 4])).collect();
        let borrowed: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        assert_eq!(send_with_fds(&left, b"three", &borrowed).unwrap(), 5);
        let mut out = [0; 16];
        let (count, fds) = receive_with_fds(&right, &mut out, 3).unwrap();
        assert_eq!(&out[..count], b"three");
        assert_eq!(fds.len(), 3);
        for (index, fd) in (0..).zip(fds) {
            let flags = FdFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
            let mut content = [9; 4];
            read_exact_at(&RealFile::from_fd(fd), &mut content, 0).unwrap();
            assert_eq!(content, [index; 4]);
        }
    }

    /// How many names this inode has among our open descriptors.
    fn open_count(identity: crate::os::FileIdentity) -> usize {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| crate::os::path::metadata(&entry.unwrap().path()).ok())
            .filter(|facts| facts.identity == identity)
            .count()
    }

    /// U1: one too many is told apart also where the padding of the control data would have room for it.
    #[test]
    fn more_descriptors_than_asked_for_are_an_error_and_none_leaks() {
        let file = RealFile::from_fd(file_with(b"x"));
        let identity = file.identity().unwrap();
        let fd = File::as_fd(&file).unwrap();
        for (sent, fds_max) in [(1, 0), (2, 1), (3, 2), (5, 2), (253, 252)] {
            let (left, right) = UnixStream::pair().unwrap();
            send_with_fds(&left, b"x", &vec![fd; sent]).unwrap();
            let error = receive_with_fds(&right, &mut [0; 8], fds_max).unwrap_err();
            assert_eq!(
                error.kind(),
                io::ErrorKind::InvalidData,
                "{sent} for {fds_max}"
            );
            assert_eq!(open_count(identity), 1, "{sent} for {fds_max}");
        }
    }

    #[test]
    fn message_may_carry_the_most_descriptors_but_not_one_more() {
        let file = file_with(b"x");
        let (left, right) = UnixStream::pair().unwrap();
        send_with_fds(&left, b"x", &vec![file.as_fd(); DESCRIPTORS_MAX]).unwrap();
        let (_, fds) = receive_with_fds(&right, &mut [0; 8], DESCRIPTORS_MAX).unwrap();
        assert_eq!(fds.len(), DESCRIPTORS_MAX);
        let error = send_with_fds(&left, b"x", &vec![file.as_fd(); 254]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = send_with_fds(&left, b"", &[file.as_fd()]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn plain_bytes_and_the_end_come_without_descriptors() {
        let (left, right) = UnixStream::pair().unwrap();
        send_with_fds(&left, b"plain", &[]).unwrap();
        drop(left);
        let mut out = [0; 8];
        let (count, fds) = receive_with_fds(&right, &mut out, 4).unwrap();
        assert_eq!((&out[..count], fds.len()), (b"plain".as_slice(), 0));
        let (count, fds) = receive_with_fds(&right, &mut out, 4).unwrap();
        assert_eq!((count, fds.len()), (0, 0));
        assert_eq!(
            send_with_fds(&right, b"x", &[]).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn trying_never_waits_and_waiting_honours_the_timeout() {
        let (left, right) = UnixStream::pair().unwrap();
        let error = try_receive_with_fds(&right, &mut [0; 8], 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        right
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let error = receive_with_fds(&right, &mut [0; 8], 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let block = vec![0; 1 << 20];
        let error = loop {
            if let Err(error) = try_send_with_fds(&left, &block, &[]) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    /// A lock travels with the open file: it lasts until the last copy of the descriptor is gone.
    #[test]
    fn lock_outlives_the_sender_in_the_received_descriptor() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pin");
        let file = RealDisk.open(&path, OpenMode::CreateNew).unwrap();
        write_all_at(file.as_ref(), b"x", 0).unwrap();
        assert!(file.try_lock(crate::os::LockKind::Exclusive).unwrap());
        let (left, right) = UnixStream::pair().unwrap();
        send_with_fds(&left, b"x", &[file.as_fd().unwrap()]).unwrap();
        drop(file);
        let (_, fds) = receive_with_fds(&right, &mut [0; 8], 1).unwrap();
        let other = RealDisk.open(&path, OpenMode::Read).unwrap();
        assert!(!other.try_lock(crate::os::LockKind::Shared).unwrap());
        drop(fds);
        assert!(other.try_lock(crate::os::LockKind::Shared).unwrap());
    }
}
