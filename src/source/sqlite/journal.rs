//! Hot journals: whether the next application that opens a database would roll it back first.
//!
//! The rule is SQLite's own (`hasHotJournal` in `pager.c`), under a SHARED lock, which keeps everybody from
//! writing the database file: the journal has content, nobody holds RESERVED, the database is not
//! empty, and the journal does not begin with a zero. A journal that was truncated (TRUNCATE) or whose
//! header was zeroed (PERSIST) is a leftover; one of somebody who holds RESERVED is of a transaction that has
//! not written the database file yet, or waits for our lock to do so.
//!
//! A journal may name a super-journal, which ties the journals of a transaction over several databases
//! together: if that is gone, the transaction was committed, and SQLite deletes the journal instead
//! of playing it back. It is hot here all the same, for it is SQLite that is asked to see to it.
//!
//! What cannot be told: a crash in journal mode MEMORY or OFF leaves nothing.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::fault::{self, Fault};
use crate::os::path::{FileType, symlink_metadata};
use crate::os::{Disk, File, LockKind, OpenMode, read_up_to};
use crate::source::sqlite::lock_bytes::{RESERVED, holder};

/// Where the journal of the database at `path` is.
pub(super) fn journal_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push("-journal");
    PathBuf::from(name)
}

/// Whether SQLite would roll the database back at its next opening. The caller holds SHARED on `file`,
/// which is the open database at `path`.
///
/// Errors: the system's; what is no plain file, since SQLite would wait in a pipe for ever. A journal that
/// cannot be opened is hot, as it is for SQLite.
pub(super) fn is_hot(disk: &dyn Disk, file: &dyn File, path: &Path) -> io::Result<bool> {
    let journal = journal_of(path);
    match symlink_metadata(&journal) {
        Ok(found) if found.file_type == FileType::File && found.size == 0 => return Ok(false),
        Ok(found) if !matches!(found.file_type, FileType::File | FileType::SymbolicLink) => {
            return Err(io::Error::other("it is no plain file"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    if holder(file, LockKind::Exclusive, RESERVED)?.is_some() || file.is_empty()? {
        return Ok(false);
    }
    let opened = match disk.open(&journal, OpenMode::Read) {
        Ok(opened) => opened,
        // Whoever had it was done with it between the two looks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(_) => return Ok(true),
    };
    let mut first = [0];
    let found = read_up_to(&*opened, &mut first, 0)?;
    Ok(found > 0 && first != [0] && !fault::is(Fault::HotJournalUnseen))
}
