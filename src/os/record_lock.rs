//! Who holds a record lock (`fcntl`) on a range of a file: what `/proc/locks` tells.
//!
//! ```text
//! 1: POSIX  ADVISORY  READ 1234 08:02:131094 1073741826 1073742335
//! 2: OFDLCK ADVISORY  READ -1 08:02:131094 128 128
//! 3: -> POSIX  ADVISORY  WRITE 1235 08:02:131094 0 EOF      waits, holds nothing
//! ```
//!
//! For people, as [`super::lock_table`]: a lock of an open file (OFD) names no process, and those of other
//! pid namespaces are not shown.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;

use crate::os::LockKind;
use crate::os::lock_table::locks_of;

/// A record lock that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordLock {
    /// Shared or exclusive.
    pub kind: LockKind,
    /// The process; `None` for a lock of an open file.
    pub process: Option<u32>,
    /// The bytes; up to `u64::MAX` where it has no end.
    pub bytes: RangeInclusive<u64>,
}

impl RecordLock {
    /// Whether it covers `byte`.
    #[must_use]
    pub fn covers(&self, byte: u64) -> bool {
        self.bytes.contains(&byte)
    }
}

/// The record locks on the file behind `file` that this process can see.
///
/// Errors: the system's.
pub fn record_locks(file: BorrowedFd<'_>) -> io::Result<Vec<RecordLock>> {
    locks_of(file, parse_line)
}

fn parse_line(line: &[u8]) -> Option<((u32, u32), u64, RecordLock)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let _number = words.next()?;
    // One that waits has an arrow here.
    if !matches!(words.next()?, "POSIX" | "OFDLCK") {
        return None;
    }
    let _advisory = words.next()?;
    let kind = match words.next()? {
        "WRITE" => LockKind::Exclusive,
        "READ" => LockKind::Shared,
        _ => return None,
    };
    let process: i64 = words.next()?.parse().ok()?;
    let mut place = words.next()?.split(':');
    let major = u32::from_str_radix(place.next()?, 16).ok()?;
    let minor = u32::from_str_radix(place.next()?, 16).ok()?;
    let inode = place.next()?.parse().ok()?;
    let first = words.next()?.parse().ok()?;
    let last = match words.next()? {
        "EOF" => u64::MAX,
        last => last.parse().ok()?,
    };
    let lock = RecordLock {
        kind,
        process: u32::try_from(process).ok().filter(|process| *process > 0),
        bytes: first..=last,
    };
    Some(((major, minor), inode, lock))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    #[test]
    fn lines_that_tell_no_held_record_lock_are_passed_over() {
        let line = b"1: POSIX  ADVISORY  READ 1234 08:1f:131094 128 EOF";
        let lock = RecordLock {
            kind: LockKind::Shared,
            process: Some(1234),
            bytes: 128..=u64::MAX,
        };
        assert_eq!(parse_line(line), Some(((8, 31), 131_094, lock)));
        let line = b"1: OFDLCK ADVISORY  WRITE -1 08:1f:131094 120 120";
        let found = parse_line(line).unwrap().2;
        assert_eq!((found.process, found.bytes), (None, 120..=120));
        for line in [
            &b"2: -> POSIX  ADVISORY  WRITE 1234 08:02:131094 0 EOF"[..],
            b"3: FLOCK  ADVISORY  WRITE 1234 08:02:131094 0 EOF",
            b"4: POSIX  ADVISORY  WRITE 1234 08:02:131094 0",
            b"5: POSIX  ADVISORY  WRITE 1234 08:02:131094 x 9",
            b"6: LEASE  ACTIVE    READ  1234 08:02:131094 0 EOF",
            b"\xff: POSIX",
            b"",
        ] {
            assert_eq!(parse_line(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn locks_of_this_process_and_of_its_open_files_are_found() {
        let file = tempfile::tempfile().unwrap();
        let range = |start, kind| libc::flock {
            l_type: i16::try_from(kind).unwrap(),
            l_whence: 0,
            l_start: start,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_SETLK(&range(120, libc::F_WRLCK))).unwrap();
        fcntl(&file, FcntlArg::F_OFD_SETLK(&range(128, libc::F_RDLCK))).unwrap();
        let found = record_locks(file.as_fd()).unwrap();
        let of = |byte| found.iter().find(|lock| lock.covers(byte)).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(of(120).kind, LockKind::Exclusive);
        assert_eq!(of(120).process, Some(std::process::id()));
        assert_eq!((of(128).kind, of(128).process), (LockKind::Shared, None));
    }
}
