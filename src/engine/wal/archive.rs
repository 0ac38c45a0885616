//! Log that stays until it is archived: the cursors in `archive/`.
//!
//! Who archives the log of a database writes one cursor for each repository; the engine reads them
//! whenever it is about to remove segments. Where there is none, nothing is kept.
//!
//! File `archive/<repository id, 32 hex digits>`, little endian:
//!
//! ```text
//! offset size
//!      0    8  magic "SFSARCH\x01"
//!      8    4  format version, 1
//!     12    4  reserved, 0
//!     16   16  database id
//!     32   16  history id
//!     48    8  LSN before which everything is in the repository
//!     56    8  when that was written, nanoseconds since 1970
//!     64   60  reserved, 0
//!    124    4  crc32 of bytes 0 .. 124
//! ```
//!
//! A cursor that cannot be read, or is of another history, stands for one that has archived nothing: log
//! is kept for it, up to the limit of the log.

#![deny(clippy::indexing_slicing)]

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::codec;
use crate::engine::error::{EngineError, FileRole, Result};
use crate::id::{DatabaseId, HistoryId};
use crate::lsn::Lsn;
use crate::os::{self, Disk, Host, OpenMode};

/// Name of the folder of cursors in a database's directory.
pub const ARCHIVE_DIR: &str = "archive";
const CURSOR_BYTES: usize = 128;
const CRC_AT: usize = 124;
const MAGIC: [u8; 8] = *b"SFSARCH\x01";
const VERSION: u32 = 1;

/// How far a log is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveCursor {
    /// The database.
    pub database: DatabaseId,
    /// The history.
    pub history: HistoryId,
    /// Everything before it is in the repository, durably.
    pub archived: Lsn,
    /// When that was found, nanoseconds since 1970.
    pub wall_ns: u64,
}

impl ArchiveCursor {
    fn encode(&self) -> [u8; CURSOR_BYTES] {
        let mut out = [0; CURSOR_BYTES];
        codec::put(&mut out, 0, &MAGIC);
        codec::put(&mut out, 8, &VERSION.to_le_bytes());
        codec::put(&mut out, 16, &self.database.0);
        codec::put(&mut out, 32, &self.history.0);
        codec::put(&mut out, 48, &self.archived.0.to_le_bytes());
        codec::put(&mut out, 56, &self.wall_ns.to_le_bytes());
        let crc = crc32fast::hash(out.get(..CRC_AT).unwrap_or_default());
        codec::put(&mut out, CRC_AT, &crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let is_whole = codec::get_array(bytes, 0) == Some(MAGIC)
            && codec::get_u32(bytes, 8) == Some(VERSION)
            && codec::get_u32(bytes, CRC_AT)? == crc32fast::hash(bytes.get(..CRC_AT)?);
        is_whole.then_some(Self {
            database: DatabaseId(codec::get_array(bytes, 16)?),
            history: HistoryId(codec::get_array(bytes, 32)?),
            archived: Lsn(codec::get_u64(bytes, 48)?),
            wall_ns: codec::get_u64(bytes, 56)?,
        })
    }

    /// That of `repository` in the database's directory `dir`, if a whole one is there.
    #[must_use]
    pub fn read(host: &Host, dir: &Path, repository: [u8; 16]) -> Option<Self> {
        let folder = dir.join(ARCHIVE_DIR);
        read_cursor(&*host.disk, &folder.join(name_of(repository)))
    }

    /// All whole ones in the database's directory `dir`, with the ids of their repositories, in hexadecimal.
    #[must_use]
    pub fn list(host: &Host, dir: &Path) -> Vec<(String, Self)> {
        let folder = dir.join(ARCHIVE_DIR);
        let names = host.disk.list(&folder).unwrap_or_default();
        let names = names.into_iter().filter(|name| is_cursor(name));
        let cursors = names.filter_map(|name| {
            let cursor = read_cursor(&*host.disk, &folder.join(&name))?;
            Some((name.to_string_lossy().into_owned(), cursor))
        });
        cursors.collect()
    }

    /// Writes it into the database's directory `dir` as that of `repository`. When this returns, it is
    /// durable; a crash before leaves the older one, or one that counts as having archived nothing.
    ///
    /// Errors: `Io`.
    pub fn write(&self, host: &Host, dir: &Path, repository: [u8; 16]) -> Result<()> {
        let folder = dir.join(ARCHIVE_DIR);
        let path = folder.join(name_of(repository));
        let failed = |op| EngineError::io_at(op, FileRole::ArchiveCursor, &path);
        let is_first = match host.disk.create_dir(&folder) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                host.disk.open(&path, OpenMode::Read).is_err()
            }
            Err(error) => return Err(failed("make the folder of")(error)),
        };
        let new = folder.join(format!("{}.new", name_of(repository)));
        match host.disk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove the unfinished")(error));
            }
            _ => {}
        }
        let file = host.disk.open(&new, OpenMode::CreateNew);
        let file = file.map_err(failed("make"))?;
        os::write_all_at(&*file, &self.encode(), 0)
            .and_then(|()| file.sync_data())
            .and_then(|()| host.disk.rename(&new, &path))
            .map_err(failed("write"))?;
        if is_first {
            // From here on log is kept, over a crash of the machine too.
            let synced = host.disk.sync_dir(&folder);
            let synced = synced.and_then(|()| host.disk.sync_dir(dir));
            synced.map_err(failed("sync the folder of"))?;
        }
        Ok(())
    }
}

fn name_of(repository: [u8; 16]) -> String {
    repository
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn is_cursor(name: &OsStr) -> bool {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.to_str()
        .is_some_and(|name| name.len() == 32 && name.as_bytes().iter().all(is_digit))
}

/// What keeps log in a directory: cursors, and how much they may keep.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveWatch {
    folder: PathBuf,
    /// All segments together are to take no more.
    pub(crate) log_bytes_max: u64,
    /// Nor this much after a checkpoint: then no writer has to make room before the next one.
    pub(crate) after_checkpoint_bytes_max: u64,
}

impl ArchiveWatch {
    pub(crate) fn new(dir: &Path, log_bytes_max: u64, checkpoint_bytes: u64) -> Self {
        let room = checkpoint_bytes.min(log_bytes_max / 4);
        Self {
            folder: dir.join(ARCHIVE_DIR),
            log_bytes_max,
            after_checkpoint_bytes_max: log_bytes_max.saturating_sub(room),
        }
    }

    /// How far every archive of this history is; `None` if there is none. `end` tells where the log ends.
    pub(crate) fn archived(
        &self,
        disk: &dyn Disk,
        (database, history): (DatabaseId, HistoryId),
        end: &dyn Fn() -> Lsn,
    ) -> Option<Lsn> {
        let names = match disk.list(&self.folder) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            // Somebody archives, and nobody knows how far.
            Err(_) => return Some(Lsn::ZERO),
        };
        let names = names.iter().filter(|name| is_cursor(name));
        let cursors: Vec<_> = names
            .map(|name| read_cursor(disk, &self.folder.join(name)))
            .collect();
        // Only now: one that follows closely may be past an end that was asked for before.
        let end = end();
        let cursors = cursors.into_iter().map(|cursor| {
            let known = cursor.filter(|cursor| {
                (cursor.database, cursor.history) == (database, history) && cursor.archived <= end
            });
            known.map_or(Lsn::ZERO, |cursor| cursor.archived)
        });
        cursors.min()
    }
}

fn read_cursor(disk: &dyn Disk, path: &Path) -> Option<ArchiveCursor> {
    let file = disk.open(path, OpenMode::Read).ok()?;
    let mut bytes = [0; CURSOR_BYTES];
    let found = os::read_up_to(&*file, &mut bytes, 0).ok()?;
    ArchiveCursor::decode(bytes.get(..found)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LA3: what cannot be read keeps log; only a whole cursor of this history lets it go.
    #[test]
    fn damaged_and_foreign_cursors_count_as_nothing_archived() {
        let simulated = Host::simulated(1);
        let (host, dir) = (&simulated.host, Path::new("/"));
        let ids = (DatabaseId([1; 16]), HistoryId([2; 16]));
        let watch = ArchiveWatch::new(dir, 1 << 20, 0);
        let archived = |ids, end| watch.archived(&*host.disk, ids, &|| Lsn(end));
        assert_eq!(archived(ids, 100), None);
        let cursor = ArchiveCursor {
            database: ids.0,
            history: ids.1,
            archived: Lsn(80),
            wall_ns: 7,
        };
        cursor.write(host, dir, [3; 16]).unwrap();
        assert_eq!(archived(ids, 100), Some(Lsn(80)));
        assert_eq!(archived(ids, 79), Some(Lsn::ZERO), "of a later log");
        assert_eq!(archived((ids.0, HistoryId([9; 16])), 100), Some(Lsn::ZERO));
        let slower = ArchiveCursor {
            archived: Lsn(40),
            ..cursor
        };
        slower.write(host, dir, [4; 16]).unwrap();
        assert_eq!(archived(ids, 100), Some(Lsn(40)), "the slower counts");
        cursor.write(host, dir, [4; 16]).unwrap();
        assert_eq!(archived(ids, 100), Some(Lsn(80)));
        let whole = cursor.encode();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(ArchiveCursor::decode(&bytes), None, "bit {bit}");
        }
        for length in 0..whole.len() {
            assert_eq!(ArchiveCursor::decode(&whole[..length]), None, "{length}");
        }
    }
}
