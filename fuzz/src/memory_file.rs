//! A file of bytes, and files of a simulated disk.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use stillfs::os::{self, Disk, File, FileIdentity, LockKind, OpenMode};

/// Bytes that can be read as a file.
#[derive(Clone, Debug)]
pub struct MemoryFile {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Which file it says to be.
    pub identity: FileIdentity,
}

impl File for MemoryFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        // The kernel takes no offset above the largest signed one.
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.bytes.get(offset..))
            .unwrap_or_default();
        let count = rest.len().min(out.len());
        out[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(self.identity)
    }

    fn try_lock(&self, _kind: LockKind) -> io::Result<bool> {
        Ok(true)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Paths and contents: what a directory holds.
pub type Files = Vec<(PathBuf, Vec<u8>)>;

/// Every file in `folders`, sorted by path.
pub fn read_all(disk: &dyn Disk, folders: &[&str]) -> Files {
    let mut files = Files::new();
    for folder in folders {
        for name in disk.list(Path::new(folder)).unwrap_or_default() {
            let path = Path::new(folder).join(name);
            // What cannot be opened so is a folder.
            if let Ok(file) = disk.open(&path, OpenMode::Read) {
                let length = file.len().expect("a simulated disk tells a file's size");
                let mut bytes = vec![0; usize::try_from(length).expect("small files")];
                os::read_exact_at(&*file, &mut bytes, 0).expect("a simulated disk can be read");
                files.push((path, bytes));
            }
        }
    }
    files
}

/// Makes `folders` and `files` on `disk`.
pub fn write_all(disk: &dyn Disk, folders: &[&str], files: &Files) {
    for folder in folders {
        disk.create_dir(Path::new(folder))
            .expect("the folder is not there yet");
    }
    for (path, bytes) in files {
        let file = disk
            .open(path, OpenMode::CreateNew)
            .expect("the file is not there yet");
        os::write_all_at(&*file, bytes, 0).expect("a simulated disk takes what it is given");
    }
}
