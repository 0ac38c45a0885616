//! Locks on ranges of bytes that belong to an open file and not to a process (`F_OFD_SETLK`).
//!
//! They exclude the classic locks of other programs (`F_SETLK`, which SQLite uses) and are excluded by
//! them, within one process too. What they do not share is the classic locks' trap: closing another
//! descriptor of the same file lets none of them go. They end with the last descriptor of their open
//! file, and two open files of one inode have locks of their own.
//!
//! Nothing here waits.

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::os::{File, LockKind};

/// A range of bytes, which need not exist in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first of them.
    pub start: u64,
    /// How many; at least 1.
    pub bytes: u64,
}

impl ByteRange {
    /// One byte.
    #[must_use]
    pub const fn byte(start: u64) -> Self {
        Self { start, bytes: 1 }
    }
}

/// A lock that stands in somebody's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeHolder {
    /// Shared or exclusive.
    pub kind: LockKind,
    /// Whose it is; `None` for a lock of an open file, or of a process in another pid namespace.
    pub process: Option<u32>,
}

/// Takes a lock, or changes one of this open file to `kind` in one step. `false` if somebody else holds
/// one that excludes it; what this open file held is then as before.
///
/// An exclusive lock needs a file that is open for writing, a shared one a file open for reading.
/// Errors: the system's.
pub fn try_lock(file: &dyn File, kind: LockKind, range: ByteRange) -> io::Result<bool> {
    let lock = record(type_of(kind), range)?;
    loop {
        return match fcntl(descriptor(file)?, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(Errno::EINTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Gives a lock of this open file up; it is no error if it has none. Errors: the system's.
pub fn unlock(file: &dyn File, range: ByteRange) -> io::Result<()> {
    let lock = record(libc::F_UNLCK, range)?;
    fcntl(descriptor(file)?, FcntlArg::F_OFD_SETLK(&lock))?;
    Ok(())
}

/// A lock of somebody else that would exclude one of `kind`, if there is one. Errors: the system's.
pub fn obstacle(
    file: &dyn File,
    kind: LockKind,
    range: ByteRange,
) -> io::Result<Option<RangeHolder>> {
    let mut lock = record(type_of(kind), range)?;
    fcntl(descriptor(file)?, FcntlArg::F_OFD_GETLK(&mut lock))?;
    let kind = match i32::from(lock.l_type) {
        libc::F_UNLCK => return Ok(None),
        libc::F_RDLCK => LockKind::Shared,
        _ => LockKind::Exclusive,
    };
    let process = u32::try_from(lock.l_pid)
        .ok()
        .filter(|process| *process > 0);
    Ok(Some(RangeHolder { kind, process }))
}

fn type_of(kind: LockKind) -> i32 {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    }
}

fn descriptor(file: &dyn File) -> io::Result<BorrowedFd<'_>> {
    file.as_fd()
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// The kernel wants the process number of such a lock to be 0.
fn record(lock_type: i32, range: ByteRange) -> io::Result<libc::flock> {
    let out_of_range = |_| io::Error::from(Errno::EOVERFLOW);
    let small = |value: i32| libc::c_short::try_from(value).expect("the constants are below 8");
    Ok(libc::flock {
        l_type: small(lock_type),
        l_whence: small(libc::SEEK_SET),
        l_start: libc::off_t::try_from(range.start).map_err(out_of_range)?,
        l_len: libc::off_t::try_from(range.bytes).map_err(out_of_range)?,
        l_pid: 0,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::os::real_disk::RealDisk;
    use crate::os::{Disk, OpenMode};

    const RANGE: ByteRange = ByteRange {
        start: 100,
        bytes: 10,
    };

    fn open(path: &Path) -> Arc<dyn File> {
        RealDisk.open(path, OpenMode::ReadWrite).unwrap()
    }

    #[test]
    fn two_open_files_of_one_process_exclude_each_other() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let (ours, theirs) = (open(place.path()), open(place.path()));
        assert!(try_lock(&*ours, LockKind::Shared, RANGE).unwrap());
        assert!(try_lock(&*theirs, LockKind::Shared, RANGE).unwrap());
        assert!(!try_lock(&*theirs, LockKind::Exclusive, ByteRange::byte(109)).unwrap());
        assert!(try_lock(&*theirs, LockKind::Exclusive, ByteRange::byte(110)).unwrap());
        let found = obstacle(&*ours, LockKind::Exclusive, ByteRange::byte(105)).unwrap();
        let (kind, process) = (LockKind::Shared, None);
        assert_eq!(found, Some(RangeHolder { kind, process }));
        unlock(&*theirs, RANGE).unwrap();
        assert!(try_lock(&*ours, LockKind::Exclusive, RANGE).unwrap());
        let found = obstacle(&*theirs, LockKind::Shared, RANGE).unwrap();
        assert_eq!(found.map(|holder| holder.kind), Some(LockKind::Exclusive));
    }

    /// The trap of classic locks: there, closing any descriptor of the file lets all of them go.
    #[test]
    fn closing_another_descriptor_lets_no_lock_go() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let (ours, theirs) = (open(place.path()), open(place.path()));
        assert!(try_lock(&*ours, LockKind::Exclusive, RANGE).unwrap());
        drop(open(place.path()));
        assert!(!try_lock(&*theirs, LockKind::Shared, RANGE).unwrap());
        drop(ours);
        assert!(try_lock(&*theirs, LockKind::Shared, RANGE).unwrap());
    }

    /// Against a classic lock, which has an owner.
    #[test]
    fn classic_lock_of_another_process_is_an_obstacle_with_a_name() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let code = "import fcntl,sys\nf=open(sys.argv[1],'r+b')\n\
            fcntl.lockf(f,fcntl.LOCK_EX,10,100)\nprint('held',flush=True)\nsys.stdin.read()";
        let child = std::process::Command::new("python3")
            .args(["-c", code])
            .arg(place.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            println!("SKIPPED: needs python3");
            return;
        };
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        let ours = open(place.path());
        assert!(!try_lock(&*ours, LockKind::Shared, RANGE).unwrap());
        let found = obstacle(&*ours, LockKind::Shared, RANGE).unwrap();
        let (kind, process) = (LockKind::Exclusive, Some(child.id()));
        assert_eq!(found, Some(RangeHolder { kind, process }));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(try_lock(&*ours, LockKind::Shared, RANGE).unwrap());
    }

    #[test]
    fn what_has_no_descriptor_has_no_such_lock() {
        let machine = crate::os::Host::simulated(1);
        let file = machine.host.disk.open(Path::new("/a"), OpenMode::CreateNew);
        let error = try_lock(&*file.unwrap(), LockKind::Shared, RANGE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
