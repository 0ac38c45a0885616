//! Who has a database open, and what the locks say that he does.
//!
//! <https://sqlite.org/lockingv3.html> has those of the file, <https://sqlite.org/walformat.html> those of
//! the wal-index. Locks of open files (OFD) name no process: stillfs itself takes such, and a view of ours
//! says itself that it does.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::Path;

use super::{Mounts, beside, quoted};
use crate::amount::Many;
use crate::cli::output;
use crate::mount::record::MountRecord;
use crate::os::lock_table::{command_line, open_files_of_all};
use crate::os::process_map::mapped_files;
use crate::os::record_lock::{RecordLock, record_locks};
use crate::os::{FileIdentity, Host, LockKind, OpenMode};

const PENDING: u64 = 0x4000_0000;
const RESERVED: u64 = PENDING + 1;
const SHARED: u64 = PENDING + 2;
const WRITE: u64 = 120;
const CHECKPOINT: u64 = 121;
const RECOVER: u64 = 122;
const FIRST_MARK: u64 = 123;
const MARKS: u64 = 5;
const DEAD_MAN: u64 = 128;

/// What a lock means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lock {
    /// SHARED on the file: of a reader, or of anybody in WAL mode.
    Shared,
    /// It is about to write the file.
    Reserved,
    /// It waits for readers to end.
    Pending,
    /// Nobody else may read.
    Exclusive,
    /// It has the wal-index open.
    Open,
    /// It writes to the log.
    Write,
    /// It copies the log into the file.
    Checkpoint,
    /// It rebuilds the wal-index.
    Recover,
    /// It reads by this mark.
    Read(usize),
    /// It is changing this mark.
    Mark(usize),
}

/// One process, or all open files whose processes cannot be told.
#[derive(Debug)]
pub(super) struct User {
    pub(super) process: Option<u32>,
    command: Option<String>,
    locks: Vec<Lock>,
    /// Whether it has the wal-index mapped, and not the locks that belong to it.
    is_unlocked: bool,
    /// Without a process: the views that say that they hold the locks.
    views: Vec<MountRecord>,
    /// Without a process: how many hold locks, at least.
    holders: usize,
}

/// All processes that can be seen, with their files.
#[derive(Debug)]
pub(super) struct Users<'a> {
    processes: Vec<(u32, HashSet<FileIdentity>)>,
    mounts: &'a Mounts,
}

impl<'a> Users<'a> {
    pub(super) fn look(mounts: &'a Mounts) -> Self {
        Self {
            processes: open_files_of_all().unwrap_or_default(),
            mounts,
        }
    }

    /// Those who have the database at `path` open.
    pub(super) fn of(&self, host: &Host, path: &Path) -> Vec<User> {
        let file = locks_of(host, path);
        let index = locks_of(host, &beside(path, "-shm"));
        let files: Vec<FileIdentity> = [&file, &index].iter().filter_map(|one| one.0).collect();
        let views = self.mounts.holding(path);
        // The daemon of a view has no locks of its own, and is told with the view.
        let is_ours = |process: u32| {
            process == std::process::id() || views.iter().any(|view| view.pid == process)
        };
        let has_open = |open: &HashSet<FileIdentity>| files.iter().any(|one| open.contains(one));
        let mut users = Vec::new();
        let mut processes: Vec<u32> = self
            .processes
            .iter()
            .filter(|(process, open)| has_open(open) && !is_ours(*process))
            .map(|(process, _)| *process)
            .collect();
        // One that has started since the list was made, or that may not be looked at.
        let holders = file.1.iter().chain(&index.1);
        processes.extend(holders.filter_map(|lock| lock.process));
        processes.sort_unstable();
        processes.dedup();
        for process in processes {
            let of = |lock: &&RecordLock| lock.process == Some(process);
            let mut user = User::new(Some(process), &file.1, &index.1, of);
            user.is_unlocked = !user.is_locked() && {
                let inode = index.0.map(|one| one.inode);
                is_mapped(process, inode)
                    && !Self::locked_by(host, path, process).is_locked()
                    && is_mapped(process, inode)
            };
            users.push(user);
        }
        let mut nameless = User::new(None, &file.1, &index.1, |lock| lock.process.is_none());
        if !nameless.locks.is_empty() {
            nameless.views = views.into_iter().cloned().collect();
            nameless.holders = holders_without_process(&file.1, &index.1);
            users.push(nameless);
        }
        users
    }

    /// The process by the locks that it has at this moment.
    fn locked_by(host: &Host, path: &Path, process: u32) -> User {
        let (_, file) = locks_of(host, path);
        let (_, index) = locks_of(host, &beside(path, "-shm"));
        User::new(Some(process), &file, &index, |lock| {
            lock.process == Some(process)
        })
    }
}

/// Whether the process has the wal-index in its memory. One that is being started has its locks by then,
/// and one that closes it gives them up after.
fn is_mapped(process: u32, inode: Option<u64>) -> bool {
    let mapped = mapped_files(process).unwrap_or_default();
    let mut mapped = mapped.iter().filter(|file| file.is_shared);
    mapped.any(|file| Some(file.inode) == inode)
}

/// How many hold locks of open files, at least. Each has one of a kind: SHARED, the dead man's switch, a mark.
fn holders_without_process(file: &[RecordLock], index: &[RecordLock]) -> usize {
    let count = |locks: &[RecordLock], first: u64, bytes: u64| {
        let nameless = locks.iter().filter(|lock| lock.process.is_none());
        let covers = |lock: &&RecordLock| (first..first + bytes).any(|byte| lock.covers(byte));
        nameless.filter(covers).count()
    };
    let shared = count(file, SHARED, 1);
    let readers = count(index, FIRST_MARK, MARKS);
    shared.max(count(index, DEAD_MAN, 1)).max(readers)
}

fn locks_of(host: &Host, path: &Path) -> (Option<FileIdentity>, Vec<RecordLock>) {
    let Ok(file) = host.disk.open(path, OpenMode::Read) else {
        return (None, Vec::new());
    };
    let locks = file
        .as_fd()
        .and_then(|file| record_locks(file.as_fd()).ok());
    (file.identity().ok(), locks.unwrap_or_default())
}

impl User {
    fn new(
        process: Option<u32>,
        file: &[RecordLock],
        index: &[RecordLock],
        of: impl Fn(&&RecordLock) -> bool,
    ) -> Self {
        let mut locks: Vec<Lock> = file.iter().filter(&of).flat_map(of_file).collect();
        locks.extend(index.iter().filter(&of).flat_map(of_index));
        locks.sort_unstable();
        locks.dedup();
        Self {
            process,
            command: process.and_then(command_line),
            locks,
            is_unlocked: false,
            views: Vec::new(),
            holders: 0,
        }
    }

    /// Whether it is told who holds the locks.
    pub(super) fn is_known(&self) -> bool {
        self.process.is_some() || (!self.views.is_empty() && self.holders <= self.views.len())
    }

    pub(super) fn has(&self, lock: &Lock) -> bool {
        self.locks.contains(lock)
    }

    /// Whether it has begun to write the file itself, so that a journal is its own.
    pub(super) fn is_writing_file(&self) -> bool {
        let writes = [Lock::Reserved, Lock::Pending, Lock::Exclusive];
        writes.iter().any(|lock| self.has(lock))
    }

    /// Whether it has the locks that everybody has who uses the wal-index.
    fn is_locked(&self) -> bool {
        let has_file = self.has(&Lock::Shared) || self.has(&Lock::Exclusive);
        has_file && self.has(&Lock::Open)
    }

    pub(super) fn is_unlocked(&self) -> bool {
        self.is_unlocked
    }

    /// The marks that it reads by, other than that of the file alone.
    pub(super) fn marks(&self) -> impl Iterator<Item = usize> {
        self.locks.iter().filter_map(|lock| match lock {
            Lock::Read(0) => None,
            Lock::Read(slot) => Some(*slot),
            _ => None,
        })
    }

    pub(super) fn name(&self) -> String {
        match (self.process, &self.command) {
            (Some(process), Some(command)) => format!("process {process} ({command})"),
            (Some(process), None) => format!("process {process}"),
            (None, _) => self.name_of_views(),
        }
    }

    /// What shows the view that holds the locks, or all.
    pub(super) fn status_command(&self) -> String {
        let view = self.views.first();
        let view = view.map(|view| format!(" {}", quoted(&view.mount_point)));
        format!("stillfs status{}", view.unwrap_or_default())
    }

    fn name_of_views(&self) -> String {
        let nameless = "somebody whom the list of locks does not name";
        let Some(first) = self.views.first() else {
            return format!("{nameless} (a view of stillfs that another user mounted does so)");
        };
        let point = output::path(&first.mount_point);
        let mut name = format!("the view at {point} (process {})", first.pid);
        let others = self.views.len() - 1;
        if others > 0 {
            name = format!("{name} and {}", Many(others as u64, "other view"));
        }
        match self.is_known() {
            true => name,
            false => format!("{name}, and {nameless},"),
        }
    }

    /// What its locks mean, in words; with the marks of the index, and how many frames there are.
    pub(super) fn doing(&self, index: Option<([u32; 5], u64)>) -> String {
        let read = |slot: usize| match (slot, index) {
            (0, _) => "reads the file alone (READ 0)".to_owned(),
            (slot, Some((marks, frames))) => {
                let mark = marks.get(slot).copied().unwrap_or_default();
                format!("reads as of frame {mark} of {frames} (READ {slot})")
            }
            (slot, None) => format!("reads (READ {slot})"),
        };
        let is_log = self.has(&Lock::Open);
        let words: Vec<String> = self
            .locks
            .iter()
            .filter_map(|lock| match lock {
                // Everybody in WAL mode holds it.
                Lock::Shared if is_log => None,
                Lock::Shared => Some("reads (SHARED)".to_owned()),
                Lock::Reserved => Some("has begun to write (RESERVED)".to_owned()),
                Lock::Pending => Some("waits for readers to end (PENDING)".to_owned()),
                Lock::Exclusive => Some("keeps everybody out (EXCLUSIVE)".to_owned()),
                Lock::Open => None,
                Lock::Write => Some("writes (WRITE)".to_owned()),
                Lock::Checkpoint => Some("checkpoints (CKPT)".to_owned()),
                Lock::Recover => Some("rebuilds the index (RECOVER)".to_owned()),
                Lock::Read(slot) => Some(read(*slot)),
                Lock::Mark(slot) => Some(format!("changes the mark of readers {slot}")),
            })
            .collect();
        match words.is_empty() {
            true => "has it open, and does nothing".to_owned(),
            false => words.join(", "),
        }
    }
}

fn of_file(lock: &RecordLock) -> Vec<Lock> {
    let is_exclusive = lock.kind == LockKind::Exclusive;
    let all = [
        (SHARED, is_exclusive, Lock::Exclusive),
        (SHARED, !is_exclusive, Lock::Shared),
        (RESERVED, is_exclusive, Lock::Reserved),
        (PENDING, is_exclusive, Lock::Pending),
    ];
    let held = all
        .into_iter()
        .filter(|(byte, is_kind, _)| *is_kind && lock.covers(*byte));
    held.map(|(.., lock)| lock).collect()
}

fn of_index(lock: &RecordLock) -> Vec<Lock> {
    let is_exclusive = lock.kind == LockKind::Exclusive;
    let mut held = Vec::new();
    let words = [
        (WRITE, Lock::Write),
        (CHECKPOINT, Lock::Checkpoint),
        (RECOVER, Lock::Recover),
    ];
    for (byte, word) in words {
        held.extend((is_exclusive && lock.covers(byte)).then_some(word));
    }
    for (slot, byte) in (FIRST_MARK..FIRST_MARK + MARKS).enumerate() {
        let word = match is_exclusive {
            true => Lock::Mark(slot),
            false => Lock::Read(slot),
        };
        held.extend(lock.covers(byte).then_some(word));
    }
    held.extend(lock.covers(DEAD_MAN).then_some(Lock::Open));
    held
}
