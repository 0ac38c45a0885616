//! Private files that keep the content of a view: clones beside the database, or whole copies elsewhere.
//!
//! None of them has a name, so that each goes with its last user, whatever becomes of this process; and
//! none fills a disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::amount::Bytes;
use crate::os::file_user::as_owner_of;
use crate::os::reflink::clone_file;
use crate::os::{Disk, File, Host, OpenMode, file_system, write_all_at};
use crate::source::SqliteOptions;
use crate::source::sqlite::mark::Parts;
use crate::source::sqlite::view::Kept;
use crate::source::sqlite::wal_pin::Shape;
use crate::view::tree::ReadError;

/// What is copied at a time.
pub(super) const STEP_BYTES: u64 = 1 << 20;
/// How much is written between two looks at the free space.
const LOOK_BYTES: u64 = 16 << 20;
/// What stays free of any file system.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// And of a large one this part, in per cent.
const FREE_PERCENT_MIN: u64 = 2;

/// Why there is no private file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScratchError {
    /// Blocks cannot be shared there.
    #[error("the file system of {} cannot share blocks", dir.display())]
    NoClone {
        /// The directory.
        dir: PathBuf,
    },
    /// It would fill the disk.
    #[error(
        "{} has {} free, of which {} must stay, and {} are needed: free some, or name another directory with --scratch", dir.display(), Bytes(*free),
        Bytes(*floor), Bytes(*needed)
    )]
    NoSpace {
        /// The directory.
        dir: PathBuf,
        /// Bytes of the copy.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that must stay free.
        floor: u64,
    },
    /// The operating system refused.
    #[error("cannot {op} a private file in {}: {source}", dir.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// The directory.
        dir: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// What was to be copied cannot be read, or has ended.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Whoever asked for it does not want it any more.
    #[error("it was given up")]
    GivenUp,
}

/// A directory for private files, and how much of its file system stays free.
#[derive(Clone, Debug)]
pub(super) struct Place {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    floor_bytes: u64,
}

impl Place {
    pub(super) fn new(host: &Host, dir: &Path) -> Self {
        Self {
            disk: Arc::clone(&host.disk),
            dir: dir.to_owned(),
            floor_bytes: floor_bytes(dir),
        }
    }

    /// Where copies are made that are no clones: as asked, or what the environment names, or the place of
    /// the system that outlives a restart and is seldom in memory.
    pub(super) fn of_copies(host: &Host, options: &SqliteOptions) -> Self {
        let named = || std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
        let dir = options
            .scratch
            .clone()
            .or_else(|| named().map(PathBuf::from));
        Self::new(host, &dir.unwrap_or_else(|| PathBuf::from("/var/tmp")))
    }

    /// Where clones of the database may be possible, the likeliest first.
    fn of_clones(host: &Host, database: &Path, options: &SqliteOptions) -> Vec<Self> {
        let beside = database.parent().filter(|dir| !dir.as_os_str().is_empty());
        let beside = beside.unwrap_or(Path::new("."));
        let asked = options.scratch.as_deref();
        let dirs = std::iter::once(beside).chain(asked);
        dirs.map(|dir| Self::new(host, dir)).collect()
    }

    /// A file without a name. Where we are root it is made with the rights of the directory's owner, in
    /// whose quota it counts, and who may have planted links on the way.
    fn file(&self) -> Result<Arc<dyn File>, ScratchError> {
        let make = || {
            let dir = self.disk.open(&self.dir, OpenMode::Directory)?;
            match dir.as_fd() {
                Some(place) => as_owner_of(place, || self.disk.unnamed(&self.dir))?,
                None => self.disk.unnamed(&self.dir),
            }
        };
        make().map_err(|source| self.io("make", source))
    }

    /// Errors: `NoSpace` if `needed` more bytes would fill the disk.
    fn require(&self, needed: u64) -> Result<(), ScratchError> {
        // Where the file system does not say, a disk that is full says so by itself.
        let free = self.disk.free_bytes(&self.dir).unwrap_or(u64::MAX);
        if free.saturating_sub(self.floor_bytes) >= needed {
            return Ok(());
        }
        Err(ScratchError::NoSpace {
            dir: self.dir.clone(),
            needed,
            free,
            floor: self.floor_bytes,
        })
    }

    fn io(&self, op: &'static str, source: io::Error) -> ScratchError {
        let dir = self.dir.clone();
        match source.kind() {
            io::ErrorKind::Unsupported => ScratchError::NoClone { dir },
            _ => ScratchError::Io { op, dir, source },
        }
    }

    /// A file that shares the blocks of `from`.
    fn clone_of(&self, from: &dyn File) -> Result<Arc<dyn File>, ScratchError> {
        let file = self.file()?;
        clone_file(from, &*file).map_err(|source| self.io("clone to", source))?;
        Ok(file)
    }
}

/// What stays free of the file system of `dir`: 64 MiB, or 2 % of a large one.
pub(super) fn floor_bytes(dir: &Path) -> u64 {
    let size = file_system::size_bytes(dir).unwrap_or(0);
    FREE_BYTES_MIN.max(size / 100 * FREE_PERCENT_MIN)
}

/// A clone of a whole file as it is, on its own file system.
///
/// Errors: `NoClone`, `Io`: the last of the places that were tried.
pub(super) fn clone_whole(
    host: &Host,
    database: &Path,
    from: &dyn File,
    options: &SqliteOptions,
) -> Result<Arc<dyn File>, ScratchError> {
    let (_, file) = clone_somewhere(host, database, from, options)?;
    Ok(file)
}

fn clone_somewhere(
    host: &Host,
    database: &Path,
    from: &dyn File,
    options: &SqliteOptions,
) -> Result<(Place, Arc<dyn File>), ScratchError> {
    let mut refused = ScratchError::GivenUp;
    for place in Place::of_clones(host, database, options) {
        match place.require(0).and_then(|()| place.clone_of(from)) {
            Ok(file) => return Ok((place, file)),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// The content of a pin, by a clone of its database file and its logged pages written over it. `read`
/// reads of the pin.
///
/// The pin must still hold after this, or nothing of it counts: what the clone has of the pages that are
/// not logged is right because nobody may write them while it holds. Errors: any.
pub(super) fn clone_of_pin(
    host: &Host,
    database: &Path,
    options: &SqliteOptions,
    shape: Shape,
    parts: Parts,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), ReadError>,
) -> Result<Kept, ScratchError> {
    let (place, file) = clone_somewhere(host, database, &*parts.database, options)?;
    let cloned = file.len().map_err(|error| place.io("look at", error))?;
    if shape.page_bytes == 0 && cloned < shape.bytes {
        // Without pages nothing but the file has the content.
        let error = io::ErrorKind::UnexpectedEof.into();
        return Err(place.io("clone to", error));
    }
    let mut logged = parts.logged;
    logged.sort_unstable();
    logged.dedup();
    // What lies behind the end of the database file is the pin's to say, logged or not.
    let behind = (cloned / shape.page_bytes.max(1)).min(shape.page_count);
    let inside = logged.partition_point(|page| *page < behind);
    let pages = logged.iter().copied().take(inside);
    let mut pages = pages.chain(behind..shape.page_count).peekable();
    let mut scratch_bytes = 0;
    let mut buffer = Vec::new();
    while let Some(first) = pages.next() {
        let mut count = 1;
        while pages.next_if_eq(&(first + count)).is_some() {
            count += 1;
            if count * shape.page_bytes >= STEP_BYTES {
                break;
            }
        }
        let bytes = count * shape.page_bytes;
        place.require(bytes)?;
        buffer.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
        let offset = first * shape.page_bytes;
        read(offset, &mut buffer)?;
        write_all_at(&*file, &buffer, offset).map_err(|error| place.io("write", error))?;
        scratch_bytes += bytes;
    }
    let cut = file.set_len(shape.bytes);
    cut.map_err(|error| place.io("cut", error))?;
    let how = "clone";
    Ok(Kept {
        file,
        how,
        scratch_bytes,
    })
}

/// A whole copy of `bytes` bytes that `read` gives, made in `place`. `goes_on` is asked before each step.
///
/// Errors: `NoSpace` before anything is written, where that can be told; any; `GivenUp`.
pub(super) fn copy_whole(
    place: &Place,
    bytes: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), ReadError>,
    mut goes_on: impl FnMut() -> bool,
) -> Result<Kept, ScratchError> {
    place.require(bytes)?;
    let file = place.file()?;
    let mut buffer = vec![0; usize::try_from(bytes.min(STEP_BYTES)).unwrap_or(usize::MAX)];
    let mut offset = 0;
    while offset < bytes {
        if !goes_on() {
            return Err(ScratchError::GivenUp);
        }
        if offset % LOOK_BYTES == 0 {
            place.require((bytes - offset).min(LOOK_BYTES))?;
        }
        let count = (bytes - offset).min(STEP_BYTES);
        buffer.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        read(offset, &mut buffer)?;
        write_all_at(&*file, &buffer, offset).map_err(|error| place.io("write", error))?;
        offset += count;
    }
    let (how, scratch_bytes) = ("copy", bytes);
    Ok(Kept {
        file,
        how,
        scratch_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::read_exact_at;

    fn place(floor_bytes: u64) -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let mut place = Place::new(&Host::system(), dir.path());
        place.floor_bytes = floor_bytes;
        (dir, place)
    }

    fn fill(offset: u64, out: &mut [u8]) -> Result<(), ReadError> {
        for (at, byte) in (offset..).zip(out) {
            *byte = u8::try_from(at % 251).unwrap();
        }
        Ok(())
    }

    /// G32.
    #[test]
    fn copy_is_whole_and_has_no_name() {
        let (dir, place) = place(0);
        let bytes = STEP_BYTES * 2 + 100;
        let kept = copy_whole(&place, bytes, fill, || true).unwrap();
        let mut out = vec![0; usize::try_from(bytes).unwrap()];
        read_exact_at(&*kept.file, &mut out, 0).unwrap();
        let right = (0..bytes).map(|at| u8::try_from(at % 251).unwrap());
        assert!(out.into_iter().eq(right));
        assert_eq!(kept.file.len().unwrap(), bytes);
        assert!(place.disk.list(dir.path()).unwrap().is_empty());
        let given_up = copy_whole(&place, bytes, fill, || false);
        assert!(matches!(given_up, Err(ScratchError::GivenUp)));
    }

    #[test]
    fn disk_is_not_filled() {
        let (_dir, place) = place(u64::MAX);
        let read = |_: u64, _: &mut [u8]| unreachable!("it is told before");
        let refused = copy_whole(&place, 1, read, || true).unwrap_err();
        assert!(matches!(refused, ScratchError::NoSpace { .. }), "{refused}");
        let root = floor_bytes(Path::new("/"));
        assert!(root >= FREE_BYTES_MIN);
        let size = file_system::size_bytes(Path::new("/")).unwrap();
        assert!(root <= FREE_BYTES_MIN.max(size / 50));
    }
}
