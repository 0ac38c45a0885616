//! Whether anybody can write where this process only reads.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statvfs::FsFlags;
use nix::unistd::AccessFlags;

use crate::os::path::read_small_file;
use crate::os::{File, mount_table};

const TEXT_BYTES_MAX: u64 = 64 << 10;

/// Who can write to a file system, rights aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Whoever has the right to.
    Here,
    /// Nobody through this mount, but perhaps somebody through another of the same file system.
    Elsewhere,
    /// Nobody: it is read-only as a whole, or this part of it is (a snapshot).
    Nobody,
}

/// Who can write to `file`, which is at `path`. Errors: the system's.
pub fn writers(path: &Path, file: &dyn File) -> io::Result<Writers> {
    let flags = nix::sys::statvfs::statvfs(path)?.flags();
    let refused = nix::unistd::eaccess(path, AccessFlags::W_OK) == Err(Errno::EROFS);
    if !flags.contains(FsFlags::ST_RDONLY) {
        // A snapshot inside a file system that is not one.
        let writers = if refused {
            Writers::Nobody
        } else {
            Writers::Here
        };
        return Ok(writers);
    }
    let fd = file.as_fd().ok_or(io::ErrorKind::Unsupported)?.as_raw_fd();
    let info = read_small_file(
        &PathBuf::from(format!("/proc/self/fdinfo/{fd}")),
        TEXT_BYTES_MAX,
    )?;
    let info = String::from_utf8_lossy(&info);
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let mount = mount.and_then(|id| id.trim().parse::<u64>().ok());
    let entry = mount_table::entries()?
        .into_iter()
        .find(|entry| Some(entry.identity.mount_id) == mount);
    // The last word is that of the file system, after that of the mount.
    let word = entry.and_then(|entry| {
        let mut words = entry.options.into_iter().rev();
        words.find(|word| word == OsStr::new("ro") || word == OsStr::new("rw"))
    });
    Ok(if word.is_some_and(|word| word == OsStr::new("ro")) {
        Writers::Nobody
    } else {
        Writers::Elsewhere
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::real_disk::RealDisk;
    use crate::os::{Disk, OpenMode};

    #[test]
    fn ordinary_file_has_writers() {
        let place = tempfile::NamedTempFile::new().unwrap();
        let file = RealDisk.open(place.path(), OpenMode::Read).unwrap();
        assert_eq!(writers(place.path(), &*file).unwrap(), Writers::Here);
    }
}
