//! What the kernel keeps in memory of a file.

use std::io;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::os::File;

/// Has the kernel drop what it keeps of `file`, so that later reads come from the disk.
///
/// A request that promises nothing: pages that are not synced, and those that somebody has mapped, stay;
/// file systems in memory have no other place. A file without a descriptor stays as it is. Errors: the
/// system's.
pub fn drop_cached(file: &dyn File) -> io::Result<()> {
    let Some(fd) = file.as_fd() else {
        return Ok(());
    };
    let all_bytes = 0;
    posix_fadvise(fd, 0, all_bytes, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::os::real_disk::RealDisk;
    use crate::os::sim::SimDisk;
    use crate::os::{Disk, OpenMode, read_exact_at, write_all_at};

    fn content_after_drop(disk: &dyn Disk, path: &Path) -> [u8; 5] {
        let file = disk.open(path, OpenMode::CreateNew).unwrap();
        write_all_at(&*file, b"still", 0).unwrap();
        drop_cached(&*file).unwrap();
        file.sync_data().unwrap();
        drop_cached(&*file).unwrap();
        let mut out = [0; 5];
        read_exact_at(&*file, &mut out, 0).unwrap();
        out
    }

    #[test]
    fn file_reads_the_same_after_its_cache_was_dropped() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            &content_after_drop(&RealDisk, &dir.path().join("a")),
            b"still"
        );
        assert_eq!(
            &content_after_drop(&SimDisk::new(1), Path::new("/a")),
            b"still"
        );
    }
}
