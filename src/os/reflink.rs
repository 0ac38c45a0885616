//! Copies of files that share the blocks of their original (`FICLONE`).
//!
//! Such a copy takes no time and no space, and is of one moment: no write is in it by half. The price
//! is that each later write to the original must go to another place of the disk.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use crate::os::File;

/// Makes `to` have the whole content of `from`, sharing blocks. `to` is empty and open for writing.
///
/// Blocks until what was written to `from` is on its way to the disk. Errors: `Unsupported` where the
/// two are not on one file system that can; the system's.
pub fn clone_file(from: &dyn File, to: &dyn File) -> io::Result<()> {
    let (Some(from), Some(to)) = (from.as_fd(), to.as_fd()) else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    // SAFETY: both descriptors are open as long as they are borrowed, and no pointer is passed.
    let done = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) };
    match Errno::result(done) {
        Ok(_) => Ok(()),
        // What kernels and file systems answer that do not know it, and what stands between two.
        Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::ENOSYS | Errno::EXDEV | Errno::EINVAL) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::os::real_disk::RealDisk;
    use crate::os::sim::SimDisk;
    use crate::os::{Disk, OpenMode, write_all_at};

    /// Where it works is tested on file systems that can; that the others say so, here.
    #[test]
    fn place_that_cannot_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let from = RealDisk.unnamed(dir.path()).unwrap();
        write_all_at(&*from, &[7; 5000], 0).unwrap();
        let to = RealDisk.unnamed(Path::new("/dev/shm")).unwrap();
        let error = clone_file(&*from, &*to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        let disk = SimDisk::new(1);
        let simulated = disk.open(Path::new("/a"), OpenMode::CreateNew).unwrap();
        let error = clone_file(&*from, &*simulated).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
