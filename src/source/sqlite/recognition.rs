//! Which files are SQLite databases: by how they begin, or by what lies beside them.
//!
//! Called for every file of a tree, so that it costs one open and one small pread for most. No lock is
//! taken, and what is said may be over a moment later: `Prepared::open` looks again under a lock.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::os::path::{FileType, metadata};
use crate::os::{File, Host, OpenMode, read_up_to};
use crate::source::SourceError;
use crate::source::sqlite::format::{
    DATABASE_HEADER_BYTES, DatabaseHeader, INDEX_START_BYTES, IndexHeader, WAL_HEADER_BYTES,
    WalHeader,
};

/// The endings of the files that SQLite keeps beside a database.
const ENDINGS: [&str; 4] = ["-wal", "-shm", "-journal", "-wal2"];

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// It is a database.
    Database,
    /// It may be an encrypted one, or an empty one: what lies beside it tells.
    Unknown,
}

/// Bytes of a file that [`First::of`] wants to see, where it has so many.
pub const FIRST_BYTES: usize = DATABASE_HEADER_BYTES;

impl First {
    /// What `start`, the first [`FIRST_BYTES`] of a file or all that it has, says.
    #[must_use]
    pub fn of(start: &[u8]) -> Self {
        match DatabaseHeader::parse(start) {
            Some(_) => Self::Database,
            None => Self::Unknown,
        }
    }
}

/// Whether the regular file at `path` is an SQLite database: by its magic, or by a valid log or index
/// beside it. Links are followed, as SQLite does. What is no regular file is none.
///
/// Errors: `Io`; `PermissionDenied` within it for a file that this user may not read.
pub fn recognise(host: &Host, path: &Path) -> Result<bool, SourceError> {
    let error = || SourceError::io("look at", path);
    let whole = crate::os::path::canonical(path).map_err(error())?;
    if metadata(&whole).map_err(error())?.file_type != FileType::File {
        return Ok(false);
    }
    let opened = host.disk.open(&whole, OpenMode::Read);
    let file = opened.map_err(SourceError::io("open", path))?;
    recognise_opened(host, &whole, &*file).map_err(error())
}

/// As [`recognise`], of a file that is open already. Shape: `path` is its own, free of links.
///
/// Errors: the system's.
pub fn recognise_opened(host: &Host, path: &Path, file: &dyn File) -> io::Result<bool> {
    let mut start = [0; FIRST_BYTES];
    let found = read_up_to(file, &mut start, 0)?;
    match First::of(start.get(..found).unwrap_or_default()) {
        First::Database => Ok(true),
        First::Unknown => has_sidecar(host, path),
    }
}

/// Whether a log or an index that SQLite would take is beside `path`. One that cannot be read is none.
fn has_sidecar(host: &Host, path: &Path) -> io::Result<bool> {
    let log = start_of::<WAL_HEADER_BYTES>(host, &beside(path, "-wal"))?;
    if log.is_some_and(|log| WalHeader::parse(&log).is_some()) {
        return Ok(true);
    }
    let index = start_of::<INDEX_START_BYTES>(host, &beside(path, "-shm"))?;
    Ok(index.is_some_and(|index| IndexHeader::parse(&index).is_some()))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

fn start_of<const N: usize>(host: &Host, path: &Path) -> io::Result<Option<[u8; N]>> {
    let Ok(file) = host.disk.open(path, OpenMode::Read) else {
        return Ok(None);
    };
    let mut start = [0; N];
    let found = read_up_to(&*file, &mut start, 0)?;
    Ok((found == N).then_some(start))
}

/// The names that SQLite gives to what it keeps beside the database at `path`, which no view shows.
#[must_use]
pub fn sidecars(path: &Path) -> [PathBuf; 4] {
    ENDINGS.map(|ending| beside(path, ending))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;
    use crate::source::sqlite::application::Application;

    fn is_known(path: &Path) -> bool {
        recognise(&Host::system(), path).unwrap()
    }

    #[test]
    fn database_is_known_by_its_start_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("text"), b"SQLite format 3, a text").unwrap();
        std::fs::write(at("short"), b"SQLite format 3\0").unwrap();
        let mut sane = [0; 200];
        sane[..18].copy_from_slice(b"SQLite format 3\0\x10\x00");
        std::fs::write(at("sane"), sane).unwrap();
        sane[17] = 1;
        std::fs::write(at("odd"), sane).unwrap();
        std::fs::write(at("empty"), b"").unwrap();
        std::os::unix::fs::symlink("sane", at("link")).unwrap();
        for (name, expected) in [
            ("text", false),
            ("short", false),
            ("sane", true),
            ("odd", false),
            ("empty", false),
            ("link", true),
            (".", false),
        ] {
            assert_eq!(is_known(&at(name)), expected, "{name}");
        }
        recognise(&Host::system(), &at("missing")).unwrap_err();
    }

    /// What an encrypted database looks like: noise, with a log and an index of the usual kind.
    #[test]
    fn encrypted_database_is_known_by_what_lies_beside_it() {
        let Some(mut application) = Application::start() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        application.open_wal(&path);
        application.sql("CREATE TABLE t(x)");
        let other = dir.path().join("noise");
        std::fs::write(&other, [7; 4096]).unwrap();
        assert!(!is_known(&other));
        for ending in ["-wal", "-shm"] {
            std::fs::copy(beside(&path, ending), beside(&other, ending)).unwrap();
            assert!(is_known(&other), "{ending}");
            std::fs::write(beside(&other, ending), [7; 4096]).unwrap();
            assert!(!is_known(&other), "{ending}");
        }
    }
}
