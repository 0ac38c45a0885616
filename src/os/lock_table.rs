//! Who holds a lock, and who has a file open: what `/proc` tells without taking or asking anything.
//!
//! ```text
//! 1: FLOCK  ADVISORY  WRITE 1234 08:02:131094 0 EOF
//! 2: -> FLOCK  ADVISORY  WRITE 1235 08:02:131094 0 EOF      waits, holds nothing
//! ```
//!
//! For people and for advice, never for decisions of an engine. Locks of processes in other pid
//! namespaces are not shown, so that nobody is listed does not prove that nobody holds one.

#![allow(unsafe_code)]

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::os::path::read_small_file;
use crate::os::{FileIdentity, LockKind, mount_table};

const TEXT_BYTES_MAX: u64 = 16 << 20;
const COMMAND_BYTES_MAX: u64 = 4096;
/// The kernel gives this much of the table in one piece; between two pieces it may change.
const PIECE_BYTES: usize = 4096;
/// Of a table in pieces, so many readings; one misses a given lock in one of fifty cases at worst.
const READINGS: usize = 4;

/// A `flock` that somebody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// Shared or exclusive.
    pub kind: LockKind,
    /// The process that took it; it may have given the descriptor away and be gone.
    pub process: u32,
}

/// A file that a process has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// Which file.
    pub identity: FileIdentity,
    /// What `/proc` calls it; the path of another mount namespace perhaps.
    pub link: PathBuf,
}

/// The locks (`flock`) on the file behind `file` whose processes this one can see.
///
/// Errors: the system's.
pub fn holders(file: BorrowedFd<'_>) -> io::Result<Vec<LockHolder>> {
    locks_of(file, parse_line)
}

/// What a line of the table tells: device and inode of the file, and the lock.
type Line<T> = ((u32, u32), u64, T);

/// The locks on the file behind `file`, of those lines that `parse` takes. Errors: the system's.
pub(super) fn locks_of<T>(
    file: BorrowedFd<'_>,
    parse: impl Fn(&[u8]) -> Option<Line<T>>,
) -> io::Result<Vec<T>> {
    let inode = nix::sys::stat::fstat(file)?.st_ino;
    let devices = devices_of(file)?;
    let read = || read_small_file(Path::new("/proc/locks"), TEXT_BYTES_MAX);
    let is_of_file = |device: &(u32, u32), found: &u64| *found == inode && devices.contains(device);
    fullest(read, |text| {
        let lines = text.split(|byte| *byte == b'\n').filter_map(&parse);
        let found = lines.filter(|(device, found, _)| is_of_file(device, found));
        found.map(|(.., lock)| lock).collect()
    })
}

/// A lock that is let go while the table is read shifts those behind it past the next piece: a reading
/// misses locks and never invents one, so that the one that found most is right.
fn fullest<T>(
    mut read: impl FnMut() -> io::Result<Vec<u8>>,
    found_in: impl Fn(&[u8]) -> Vec<T>,
) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    for _ in 0..READINGS {
        let text = read()?;
        let now = found_in(&text);
        if now.len() > found.len() {
            found = now;
        }
        if text.len() < PIECE_BYTES {
            break;
        }
    }
    Ok(found)
}

/// The devices by which the kernel may call the file: that of its inode, and that of its file system,
/// which differ where one file system has many (btrfs).
fn devices_of(file: BorrowedFd<'_>) -> io::Result<Vec<(u32, u32)>> {
    let device = nix::sys::stat::fstat(file)?.st_dev;
    let mut devices = vec![(libc::major(device), libc::minor(device))];
    let info = PathBuf::from(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
    let info = read_small_file(&info, TEXT_BYTES_MAX)?;
    let info = String::from_utf8_lossy(&info);
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    if let Some(mount) = mount.and_then(|id| id.trim().parse::<u64>().ok()) {
        let entries = mount_table::entries()?.into_iter();
        let of_mount = entries.filter(|entry| entry.identity.mount_id == mount);
        devices.extend(of_mount.map(|entry| (entry.identity.major, entry.identity.minor)));
    }
    Ok(devices)
}

fn parse_line(line: &[u8]) -> Option<Line<LockHolder>> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let _number = words.next()?;
    // One that waits has an arrow here.
    if words.next()? != "FLOCK" {
        return None;
    }
    let _advisory = words.next()?;
    let kind = match words.next()? {
        "WRITE" => LockKind::Exclusive,
        "READ" => LockKind::Shared,
        _ => return None,
    };
    let process = words.next()?.parse().ok()?;
    let mut place = words.next()?.split(':');
    let major = u32::from_str_radix(place.next()?, 16).ok()?;
    let minor = u32::from_str_radix(place.next()?, 16).ok()?;
    let inode = place.next()?.parse().ok()?;
    Some(((major, minor), inode, LockHolder { kind, process }))
}

/// The command line of a process, its words parted by spaces; `None` if there is no such process, or
/// this user may not know.
#[must_use]
pub fn command_line(process: u32) -> Option<String> {
    let path = PathBuf::from(format!("/proc/{process}/cmdline"));
    let words = read_start(&path, COMMAND_BYTES_MAX)?;
    let words = words.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let line = words.collect::<Vec<_>>().join(" ");
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// At most the first `limit_bytes` of a small file; a longer one is cut.
fn read_start(path: &Path, limit_bytes: u64) -> Option<Vec<u8>> {
    use crate::os::{Disk, OpenMode, read_up_to, real_disk::RealDisk};
    let file = RealDisk.open(path, OpenMode::Read).ok()?;
    let mut bytes = vec![0; usize::try_from(limit_bytes).ok()?];
    let found = read_up_to(&*file, &mut bytes, 0).ok()?;
    bytes.truncate(found);
    Some(bytes)
}

/// The files that a process has open. No file system is asked, so a dead one cannot hang this.
///
/// Errors: the system's; `PermissionDenied` for a process of somebody else.
pub fn open_files(process: u32) -> io::Result<Vec<OpenFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        let path = entry?.path();
        // A descriptor that is closed meanwhile is none.
        if let (Ok(identity), Ok(link)) = (identity_unasked(&path), std::fs::read_link(&path)) {
            files.push(OpenFile { identity, link });
        }
    }
    Ok(files)
}

/// Every file that a process that this one may look at has open.
///
/// Errors: the system's, for the list of processes.
pub fn all_open_files() -> io::Result<HashSet<FileIdentity>> {
    let all = open_files_of_all()?.into_iter();
    Ok(all.flat_map(|(_, files)| files).collect())
}

/// Every process that this one may look at, with the files that it has open.
///
/// Errors: the system's, for the list of processes.
pub fn open_files_of_all() -> io::Result<Vec<(u32, HashSet<FileIdentity>)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(process) = number(&name) {
            // A process that has ended meanwhile has none.
            let files = open_files(process).unwrap_or_default();
            found.push((process, files.iter().map(|open| open.identity).collect()));
        }
    }
    Ok(found)
}

fn number(name: &OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// Which file is at `path`, links followed, from what the kernel knows by itself.
fn identity_unasked(path: &Path) -> io::Result<FileIdentity> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statx>::uninit();
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    // SAFETY: the path ends in zero, and the buffer has room for one statx; both outlive the call.
    let result = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            libc::STATX_INO,
            found.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the kernel has filled all of it.
    let found = unsafe { found.assume_init() };
    Ok(FileIdentity {
        device: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn lines_of_other_locks_and_of_those_who_wait_are_passed_over() {
        let holder = LockHolder {
            kind: LockKind::Exclusive,
            process: 1234,
        };
        let line = b"1: FLOCK  ADVISORY  WRITE 1234 08:1f:131094 0 EOF";
        assert_eq!(parse_line(line), Some(((8, 31), 131_094, holder)));
        for line in [
            &b"2: -> FLOCK  ADVISORY  WRITE 1234 08:02:131094 0 EOF"[..],
            b"3: POSIX  ADVISORY  WRITE 1234 08:02:131094 0 EOF",
            b"4: OFDLCK ADVISORY  READ  -1 08:02:131094 0 EOF",
            b"5: FLOCK  ADVISORY  WRITE -1 08:02:1 0 EOF",
            b"6: FLOCK  ADVISORY  WRITE 7 08:02",
            b"7: FLOCK  ADVISORY  WRITE 7 zz:02:1 0 EOF",
            b"\xff: FLOCK",
            b"",
        ] {
            assert_eq!(parse_line(line), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn holders_of_a_lock_are_found_by_device_and_inode() {
        let file = tempfile::tempfile().unwrap();
        let twin = tempfile::tempfile().unwrap();
        assert_eq!(holders(file.as_fd()).unwrap(), []);
        twin.lock().unwrap();
        for kind in [LockKind::Shared, LockKind::Exclusive] {
            match kind {
                LockKind::Shared => file.lock_shared().unwrap(),
                LockKind::Exclusive => file.lock().unwrap(),
            }
            let process = std::process::id();
            let expected = [LockHolder { kind, process }];
            assert_eq!(holders(file.as_fd()).unwrap(), expected);
        }
        file.unlock().unwrap();
        assert_eq!(holders(file.as_fd()).unwrap(), []);
    }

    #[test]
    fn a_lock_that_one_reading_misses_is_found_by_another() {
        let looks_at = |readings: &[&str], room: usize| {
            let mut readings = readings.iter();
            let read = || {
                let found = readings.next().map(|text| text.as_bytes().to_vec());
                let mut text = found.expect("no further reading");
                text.resize(room, b' ');
                Ok(text)
            };
            let letters = |text: &[u8]| text.iter().copied().filter(|byte| *byte != b' ').collect();
            String::from_utf8(fullest(read, letters).unwrap()).unwrap()
        };
        assert_eq!(looks_at(&["", "a", "", "ab"], PIECE_BYTES), "ab");
        // In one piece it is whole.
        assert_eq!(looks_at(&["a"], PIECE_BYTES - 1), "a");
    }

    #[test]
    fn own_process_is_seen_with_its_files_and_words() {
        let me = std::process::id();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("open");
        let file = std::fs::File::create(&path).unwrap();
        let identity = identity_unasked(&path).unwrap();
        let stat = nix::sys::stat::fstat(&file).unwrap();
        assert_eq!(
            (identity.device, identity.inode),
            (stat.st_dev, stat.st_ino)
        );
        let files = open_files(me).unwrap();
        let found = files.iter().find(|open| open.identity == identity);
        assert_eq!(found.unwrap().link, path);
        assert!(all_open_files().unwrap().contains(&identity));
        drop(file);
        assert!(!all_open_files().unwrap().contains(&identity));
        assert!(command_line(me).unwrap().contains("stillfs"));
        assert_eq!(command_line(u32::MAX), None);
        assert!(open_files(u32::MAX).is_err());
    }
}
