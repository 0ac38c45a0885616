//! What can be seen of a database's locks and of the index of its log, from outside.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

/// Where the locks of the readers begin in the index; the first is that of READ(0).
const READ_LOCK_FIRST: u64 = 123;

/// A file beside the database.
pub fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// What the index of the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    pub frame_max: u32,
    pub salts: (u32, u32),
    pub backfilled: u32,
    pub marks: [u32; 5],
}

/// The index of the log of `database`, if it has one. Read without locks: only what cannot change while
/// it is looked at counts.
pub fn index(database: &Path) -> Option<Index> {
    let bytes = std::fs::read(beside(database, "-shm")).ok()?;
    let at = |offset: usize| -> Option<u32> {
        let word = bytes.get(offset..offset + 4)?;
        let word = word.try_into().ok()?;
        // In the order of the machine.
        Some(match cfg!(target_endian = "big") {
            true => u32::from_be_bytes(word),
            false => u32::from_le_bytes(word),
        })
    };
    Some(Index {
        frame_max: at(16)?,
        salts: (at(32)?, at(36)?),
        backfilled: at(96)?,
        marks: [at(100)?, at(104)?, at(108)?, at(112)?, at(116)?],
    })
}

/// A lock of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Whether it belongs to an open file and not to a process: SQLite has none of those.
    pub is_of_open_file: bool,
    pub first: u64,
    line: String,
}

/// All locks of a file.
pub fn locks(path: &Path) -> Vec<Lock> {
    let Ok(found) = std::fs::metadata(path) else {
        return Vec::new();
    };
    let (device, inode) = (found.dev(), found.ino());
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let text = std::fs::read_to_string("/proc/locks").unwrap();
    let lock = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| *word == file)?;
        Some(Lock {
            is_of_open_file: words.contains(&"OFDLCK"),
            first: words.get(at + 1)?.parse().ok()?,
            line: line.to_owned(),
        })
    };
    text.lines().filter_map(lock).collect()
}

/// Which of the readers' locks a pin holds: those of open files are ours. The table of locks is read in
/// pieces and changes meanwhile, so that a lock can be missed.
pub fn read_slot(database: &Path) -> Option<usize> {
    let index = beside(database, "-shm");
    let find = || {
        let ours = locks(&index)
            .into_iter()
            .filter(|lock| lock.is_of_open_file);
        let mut slots = ours.filter_map(|lock| lock.first.checked_sub(READ_LOCK_FIRST));
        slots.find(|slot| *slot < 5)
    };
    let slot = (0..20).find_map(|_| find())?;
    usize::try_from(slot).ok()
}

/// Every lock of the database and of what is beside it.
pub fn all_locks(database: &Path) -> Vec<Lock> {
    let index = beside(database, "-shm");
    [locks(database), locks(&index)].concat()
}

/// Processes whose command line names `path`.
pub fn processes_of(path: &Path) -> Vec<String> {
    let wanted = path.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|one| {
        let line = std::fs::read(one.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(wanted)).collect()
}

/// Size of a file and time of its last change; zeros if there is none.
pub fn shape(path: &Path) -> (u64, i64, i64) {
    let found = std::fs::metadata(path);
    found.map_or((0, 0, 0), |found| {
        (found.size(), found.mtime(), found.mtime_nsec())
    })
}
