//! An SQLite database, or a directory with some: how it is, who has it open, and what his locks mean.
//!
//! Only looked at: nothing is locked, and SQLite does not run. <https://sqlite.org/walformat.html> has the
//! bytes of the wal-index.

mod library;
mod user;

use std::io;
use std::path::{Path, PathBuf};

use super::bounded;
use super::finding::{Finding, Id, quoted};
use super::mounts::Mounts;
use crate::amount::Many;
use crate::cli::output;
use crate::os::path::{FileType, metadata, symlink_metadata};
use crate::os::{File, Host, OpenMode, read_up_to};
use crate::source::{native, sqlite};
use library::Libraries;
use user::{Lock, User, Users};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER_BYTES: usize = 32;
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// The start of a wal-index that is looked at: two copies of the header, and the marks.
const INDEX_BYTES: usize = 136;
const INDEX_VERSION: u32 = 3_007_000;
/// A reader of a mark this far behind is worth a warning: SQLite itself checkpoints every 1000 frames.
const FRAMES_BEHIND_MAX: u64 = 1000;
const FRAME_HEADER_BYTES: u64 = 24;
const DATABASES_MAX: usize = 1000;
const DEPTH_MAX: usize = 100;

/// A database and what lies beside it.
#[derive(Debug)]
struct Database {
    path: PathBuf,
    mode: Mode,
    size: u64,
    page_bytes: u64,
    log_bytes: Option<u64>,
    index: Option<Index>,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Log,
    Rollback,
    /// Encrypted, damaged, or of a later SQLite.
    Unknown,
}

/// What a wal-index says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Index {
    frames: u64,
    checkpointed: u64,
    marks: [u32; 5],
    page_bytes: u64,
}

/// Looks at what is at `path`; `false` if that is neither an SQLite database nor a directory with some.
pub(super) fn look(host: &Host, path: &Path, mounts: &Mounts, findings: &mut Vec<Finding>) -> bool {
    let Ok(found) = metadata(path) else {
        return false;
    };
    let paths = match found.file_type {
        FileType::Directory if native::recognise(host, path).is_ok() => return false,
        FileType::Directory => databases_below(host, path),
        FileType::File if is_database(host, path) => vec![path.to_owned()],
        _ => return false,
    };
    if paths.is_empty() {
        return false;
    }
    let what = match found.file_type {
        FileType::Directory => {
            let databases = Many(paths.len() as u64, "SQLite database");
            format!("is a directory with {databases}")
        }
        _ => "is an SQLite database".to_owned(),
    };
    findings.push(Finding::ok(Id::Source, path.display(), what));
    let all = Users::look(mounts);
    let mut libraries = Libraries::default();
    let mut found = Vec::new();
    for path in &paths {
        look_at(host, path, &all, &mut libraries, &mut found);
    }
    found.extend(libraries.look(host));
    // Of one kind at most so many, whatever the number of databases.
    found.sort_by_key(|one| one.id);
    for of_kind in found.chunk_by(|one, other| one.id == other.id) {
        let mut of_kind = of_kind.to_vec();
        of_kind.sort_by_key(|one| std::cmp::Reverse(one.level));
        findings.extend(bounded(of_kind));
    }
    true
}

fn databases_below(host: &Host, top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![(top.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for name in host.disk.list(&folder).unwrap_or_default() {
            let path = folder.join(name);
            match symlink_metadata(&path).map(|found| found.file_type) {
                Ok(FileType::Directory) if depth < DEPTH_MAX => folders.push((path, depth + 1)),
                Ok(FileType::File) if is_database(host, &path) => found.push(path),
                _ => {}
            }
            if found.len() >= DATABASES_MAX {
                return found;
            }
        }
    }
    found.sort();
    found
}

fn is_database(host: &Host, path: &Path) -> bool {
    start_of::<16>(host, path).is_some_and(|start| start == *MAGIC)
        || sqlite::recognise(host, path).unwrap_or(false)
}

fn look_at(
    host: &Host,
    path: &Path,
    all: &Users,
    libraries: &mut Libraries,
    findings: &mut Vec<Finding>,
) {
    let users = all.of(host, path);
    findings.extend(access(host, path, &users));
    let Some(database) = Database::read(host, path) else {
        return;
    };
    findings.push(database.describe());
    findings.extend(database.crashed(host, &users));
    findings.extend(database.exclusive(&users));
    findings.extend(database.held_checkpoint(&users));
    for user in &users {
        findings.push(database.describe_user(user));
        findings.extend(database.unlocked(user));
        if let Some(process) = user.process {
            libraries.note(process, path, database.mode == Mode::Log);
        }
    }
}

/// What a pin must be able to do, and this user may not.
fn access(host: &Host, path: &Path, users: &[User]) -> Option<Finding> {
    let files = [
        (path.to_owned(), OpenMode::Read, "read"),
        (beside(path, "-wal"), OpenMode::Read, "read"),
        (beside(path, "-shm"), OpenMode::ReadWrite, "write"),
    ];
    let refused = files.iter().find_map(|(file, mode, word)| {
        let error = host.disk.open(file, *mode).err()?;
        (error.kind() != io::ErrorKind::NotFound).then_some((file, word, error))
    });
    let (file, word, error) = refused?;
    let owner = metadata(path).map_or(0, |found| found.uid);
    let mend = format!("sudo -u \"#{owner}\" stillfs doctor {}", quoted(path));
    let is_used = users.iter().any(|user| user.has(&Lock::Open));
    let finding = match *word == "write" && is_used {
        true => {
            let text = format!(
                "you may not write it, so that a pin must share a read mark of the application, and is \
                 refused while that has none: {error}"
            );
            Finding::warning(Id::FileAccess, file.display(), text)
        }
        false => {
            let text = format!("you may not {word} it, which a pin must: {error}");
            Finding::problem(Id::FileAccess, file.display(), text)
        }
    };
    Some(finding.mended_by(mend))
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn start_of<const BYTES: usize>(host: &Host, path: &Path) -> Option<[u8; BYTES]> {
    let file = host.disk.open(path, OpenMode::Read).ok()?;
    read_start(&*file)
}

fn read_start<const BYTES: usize>(file: &dyn File) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    (read_up_to(file, &mut bytes, 0).ok()? == BYTES).then_some(bytes)
}

/// Two bytes of a page size, of which 1 stands for 65536.
fn page_bytes(word: u64) -> u64 {
    match word {
        1 => 65_536,
        bytes => bytes,
    }
}

#[expect(
    clippy::host_endian_bytes,
    reason = "SQLite writes the wal-index in the machine's own order"
)]
impl Index {
    fn read(host: &Host, path: &Path) -> Option<Self> {
        let bytes = start_of::<INDEX_BYTES>(host, path)?;
        let word = |offset: usize| {
            let four = bytes.get(offset..offset + 4)?;
            Some(u32::from_ne_bytes(four.try_into().ok()?))
        };
        let two = bytes.get(14..16)?.try_into().ok()?;
        let is_whole = word(0)? == INDEX_VERSION && bytes.get(..48) == bytes.get(48..96);
        let mut marks = [0; 5];
        for (mark, at) in marks.iter_mut().zip(0..) {
            *mark = word(100 + 4 * at)?;
        }
        let index = Self {
            frames: word(16)?.into(),
            checkpointed: word(96)?.into(),
            marks,
            page_bytes: page_bytes(u16::from_ne_bytes(two).into()),
        };
        is_whole.then_some(index)
    }
}

impl Database {
    fn read(host: &Host, path: &Path) -> Option<Self> {
        let file = host.disk.open(path, OpenMode::Read).ok()?;
        let size = file.len().ok()?;
        let header = read_start::<HEADER_BYTES>(&*file).unwrap_or_default();
        let mode = match (header.starts_with(MAGIC), header[18], header[19]) {
            (true, 1, 1) => Mode::Rollback,
            (true, 2, 2) => Mode::Log,
            _ => Mode::Unknown,
        };
        let log = metadata(&beside(path, "-wal")).ok();
        Some(Self {
            path: path.to_owned(),
            mode,
            size,
            page_bytes: page_bytes(u16::from_be_bytes([header[16], header[17]]).into()),
            log_bytes: log.map(|log| log.size),
            index: Index::read(host, &beside(path, "-shm")),
        })
    }

    fn subject(&self) -> String {
        self.path.display().to_string()
    }

    fn describe(&self) -> Finding {
        let id = Id::Database;
        let log = self.log_bytes.filter(|bytes| *bytes > 0);
        if let (0, Some(bytes)) = (self.size, log) {
            let text = format!(
                "is empty, and a log of {} lies beside it, which SQLite removes when it opens this file",
                output::bytes(bytes)
            );
            let aside = beside(&self.path, "-wal");
            let mend = format!(
                "mv -- {} {}",
                quoted(&aside),
                quoted(&beside(&aside, ".old"))
            );
            return Finding::problem(id, self.subject(), text).mended_by(mend);
        }
        let pages = match (self.mode, self.size.checked_div(self.page_bytes)) {
            (Mode::Log | Mode::Rollback, Some(count)) => {
                format!(", {count} pages of {} bytes", self.page_bytes)
            }
            _ => format!(", {}", output::bytes(self.size)),
        };
        let log = log.map_or_else(String::new, |bytes| {
            format!(", a log of {}", output::bytes(bytes))
        });
        let mode = match self.mode {
            Mode::Log => "in WAL mode",
            Mode::Rollback => "in a rollback journal mode",
            Mode::Unknown => "of a mode that cannot be told: it is encrypted, damaged or new",
        };
        Finding::ok(id, self.subject(), format!("is {mode}{pages}{log}"))
    }

    /// What an application left that ended in the middle.
    fn crashed(&self, host: &Host, users: &[User]) -> Option<Finding> {
        let opens = "the next start of its application recovers it, and so does a mount";
        let log = self.log_bytes.filter(|bytes| *bytes > 0);
        // Who has it for himself needs no index.
        let uses_log = |user: &User| user.has(&Lock::Open) || user.has(&Lock::Exclusive);
        let is_open = users.iter().any(uses_log);
        if let Some(bytes) = log.filter(|_| !is_open && self.size > 0) {
            let text = format!(
                "a log of {} is left, and nobody has the database open: its application was killed, or \
                 crashed; {opens}",
                output::bytes(bytes)
            );
            return Some(Finding::warning(Id::StaleIndex, self.subject(), text));
        }
        let journal = beside(&self.path, "-journal");
        let start = start_of::<8>(host, &journal)?;
        let is_written = users.iter().any(User::is_writing_file);
        if start != JOURNAL_MAGIC || is_written {
            return None;
        }
        let text = format!(
            "is the journal of a transaction that nobody is writing, so half of it may be in the file; {opens}"
        );
        Some(Finding::warning(Id::HotJournal, journal.display(), text))
    }

    fn exclusive(&self, users: &[User]) -> Option<Finding> {
        let user = users.iter().find(|user| user.has(&Lock::Exclusive))?;
        let text = format!(
            "{} holds it exclusively: a transaction that is being written, or PRAGMA \
             locking_mode=EXCLUSIVE; no view can be pinned meanwhile",
            user.name()
        );
        let finding = Finding::problem(Id::ExclusiveLock, self.subject(), text);
        Some(match user.process {
            Some(process) => finding.mended_by(format!("ps -fp {process}")),
            None => finding,
        })
    }

    /// The oldest mark that somebody reads by, if it keeps much of the log.
    fn held_checkpoint(&self, users: &[User]) -> Option<Finding> {
        let index = self.index?;
        let frame_bytes = index.page_bytes + FRAME_HEADER_BYTES;
        let oldest = users
            .iter()
            .flat_map(|user| user.marks().map(move |slot| (slot, user)))
            .filter_map(|(slot, user)| Some((u64::from(*index.marks.get(slot)?), user)))
            .min_by_key(|(mark, _)| *mark)?;
        let (mark, user) = oldest;
        let behind = index.frames.saturating_sub(mark);
        if behind <= FRAMES_BEHIND_MAX {
            return None;
        }
        let text = format!(
            "{} reads the state of frame {mark} of {} in the log: {} cannot be checkpointed and used anew \
             until it ends its transaction",
            user.name(),
            index.frames,
            output::bytes(behind.saturating_mul(frame_bytes))
        );
        let finding = Finding::warning(Id::HeldCheckpoint, self.subject(), text);
        Some(match user.process {
            Some(process) => finding.mended_by(format!("ps -fp {process}")),
            None => finding.mended_by(user.status_command()),
        })
    }

    fn describe_user(&self, user: &User) -> Finding {
        let marks = self.index.map(|index| (index.marks, index.frames));
        let text = format!("{} {}", user.name(), user.doing(marks));
        match user.is_known() {
            true => Finding::ok(Id::DatabaseUser, self.subject(), text),
            false => Finding::warning(Id::DatabaseUser, self.subject(), text),
        }
    }

    fn unlocked(&self, user: &User) -> Option<Finding> {
        if !user.is_unlocked() {
            return None;
        }
        let text = format!(
            "{} has the index of the log mapped, and its locks are gone: it closed another descriptor of \
             the file, which drops them, or takes none; nobody can know what it does, a view least of all",
            user.name()
        );
        let finding = Finding::problem(Id::UnlockedUser, self.subject(), text);
        let process = user.process?;
        Some(finding.mended_by(format!("ps -fp {process}")))
    }
}
