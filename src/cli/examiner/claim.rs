//! Keeps everybody from the databases at a target while it is replaced.
//!
//! ```text
//! stillfs database   LOCK, then the directory (flock): what an engine holds, so that one that starts ends
//! SQLite file        PENDING, RESERVED, SHARED, exclusively: what SQLite calls EXCLUSIVE
//! both               whoever has a file of it open is found in /proc, as far as this user may see him
//! ```
//!
//! A lock that somebody holds is seen whoever he is. Who has an SQLite file in a rollback mode open and does
//! nothing holds none, and is seen in `/proc` only.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::database::{LOCK_FILE, PAGE_FILE, looks_like_database};
use crate::os::lock_table::{command_line, open_files_of_all};
use crate::os::path::{FileType, symlink_metadata};
use crate::os::range_lock::{ByteRange, obstacle, try_lock};
use crate::os::{File, FileIdentity, Host, LockKind, OpenMode, write_all_at};
use crate::repository::RepositoryError;
use crate::source::sqlite;

/// PENDING, RESERVED and SHARED, one after the other.
const SQLITE_LOCKS: ByteRange = ByteRange {
    start: 0x4000_0000,
    bytes: 512,
};
const DEPTH_MAX: usize = 100;

/// The locks. They go with it.
#[derive(Debug)]
pub(super) struct Claim {
    _held: Vec<Arc<dyn File>>,
}

/// What a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// To see whether it can be had: nothing is made or written.
    Look,
    /// To replace what is there.
    Replace,
}

/// Claims every database at `target`; nothing if nothing is there.
///
/// Errors: `TargetInUse`, `Io`.
pub(super) fn claim(host: &Host, target: &Path, aim: Aim) -> Result<Claim, RepositoryError> {
    let mut claiming = Claiming {
        host,
        aim,
        processes: None,
        held: Vec::new(),
    };
    match symlink_metadata(target).map(|found| found.file_type) {
        Ok(FileType::Directory) => claiming.tree(target)?,
        Ok(FileType::File) => claiming.sqlite(target)?,
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at", target)(error)),
    }
    Ok(Claim {
        _held: claiming.held,
    })
}

/// A claim in the making.
struct Claiming<'a> {
    host: &'a Host,
    aim: Aim,
    /// All that can be seen, with the files that they have open.
    processes: Option<Vec<(u32, HashSet<FileIdentity>)>>,
    held: Vec<Arc<dyn File>>,
}

impl Claiming<'_> {
    /// A directory with whatever databases are in it.
    fn tree(&mut self, top: &Path) -> Result<(), RepositoryError> {
        let mut folders = vec![(top.to_owned(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            if depth == 0 || looks_like_database(self.host, &folder) {
                self.native(&folder)?;
            }
            let names = self.host.disk.list(&folder);
            for name in names.map_err(failed("list", &folder))? {
                let path = folder.join(name);
                match symlink_metadata(&path).map(|found| found.file_type) {
                    Ok(FileType::Directory) if depth < DEPTH_MAX => folders.push((path, depth + 1)),
                    Ok(FileType::File) if self.is_sqlite(&path) => self.sqlite(&path)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn is_sqlite(&self, path: &Path) -> bool {
        sqlite::recognise(self.host, path).unwrap_or(false)
    }

    /// A directory that an engine may work in. An engine that starts meanwhile and waits for the directory
    /// would get one that is about to go: the lock file tells it that somebody works here, and it ends.
    fn native(&mut self, dir: &Path) -> Result<(), RepositoryError> {
        let lock = dir.join(LOCK_FILE);
        let disk = &self.host.disk;
        if self.aim == Aim::Look {
            let found = symlink_metadata(&lock);
            if found.is_ok_and(|found| found.file_type == FileType::File) {
                let file = disk.open(&lock, OpenMode::Read);
                self.flock(file.map_err(failed("open", &lock))?, dir)?;
            }
        } else if looks_like_database(self.host, dir) {
            let file = disk
                .open(&lock, OpenMode::ReadWrite)
                .or_else(|_| disk.open(&lock, OpenMode::CreateNew));
            let file = file.map_err(failed("open", &lock))?;
            self.flock(file.clone(), dir)?;
            let text = format!("process {}, restore\n", std::process::id());
            // For people, as an engine's.
            let _ = file.set_len(0);
            let _ = write_all_at(&*file, text.as_bytes(), 0);
        }
        let handle = disk.open(dir, OpenMode::Directory);
        self.flock(handle.map_err(failed("open", dir))?, dir)?;
        let pages = symlink_metadata(&dir.join(PAGE_FILE));
        self.refuse_users(dir, pages.ok().map(|found| found.identity).as_slice())
    }

    fn flock(&mut self, file: Arc<dyn File>, dir: &Path) -> Result<(), RepositoryError> {
        let is_ours = file.try_lock(LockKind::Exclusive);
        if !is_ours.map_err(failed("lock", dir))? {
            let said = self.host.disk.open(&dir.join(LOCK_FILE), OpenMode::Read);
            let user = said.ok().and_then(|file| first_line(&*file));
            let user = user.unwrap_or_else(|| "somebody who has it locked".to_owned());
            return Err(in_use(dir, user));
        }
        self.held.push(file);
        Ok(())
    }

    /// A file that SQLite may have open; any other file too.
    fn sqlite(&mut self, path: &Path) -> Result<(), RepositoryError> {
        let beside = sqlite::sidecars(path);
        let files = beside.iter().map(PathBuf::as_path).chain([path]);
        let files: Vec<FileIdentity> = files
            .filter_map(|file| Some(symlink_metadata(file).ok()?.identity))
            .collect();
        self.refuse_users(path, &files)?;
        let file = self.host.disk.open(path, OpenMode::ReadWrite);
        let file = file.map_err(failed("open", path))?;
        let is_ours = try_lock(&*file, LockKind::Exclusive, SQLITE_LOCKS);
        if !is_ours.map_err(failed("lock", path))? {
            let holder = obstacle(&*file, LockKind::Exclusive, SQLITE_LOCKS);
            let process = holder.ok().flatten().and_then(|holder| holder.process);
            let user = process.map_or("somebody who has it locked".to_owned(), name_of);
            return Err(in_use(path, user));
        }
        self.held.push(file);
        Ok(())
    }

    /// Errors: `TargetInUse` by a process that has one of `files` open.
    fn refuse_users(
        &mut self,
        place: &Path,
        files: &[FileIdentity],
    ) -> Result<(), RepositoryError> {
        if files.is_empty() {
            return Ok(());
        }
        if self.processes.is_none() {
            let all = open_files_of_all().map_err(failed("look for users of", place))?;
            self.processes = Some(all);
        }
        let own = std::process::id();
        let mut processes = self.processes.iter().flatten();
        let user = processes.find(|(process, open)| {
            *process != own && files.iter().any(|file| open.contains(file))
        });
        match user {
            Some((process, _)) => Err(in_use(place, name_of(*process))),
            None => Ok(()),
        }
    }
}

/// What the holder of a directory says of himself.
fn first_line(file: &dyn File) -> Option<String> {
    let mut bytes = [0; 128];
    let found = crate::os::read_up_to(file, &mut bytes, 0).ok()?;
    let text = String::from_utf8_lossy(bytes.get(..found)?).into_owned();
    let line = text.lines().next()?.trim().escape_debug().to_string();
    Some(line).filter(|line| !line.is_empty())
}

fn name_of(process: u32) -> String {
    match command_line(process) {
        Some(command) => format!("process {process} ({})", command.escape_debug()),
        None => format!("process {process}"),
    }
}

fn in_use(path: &Path, user: String) -> RepositoryError {
    let path = path.to_owned();
    RepositoryError::TargetInUse { path, user }
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RepositoryError {
    let object = path.display().to_string();
    move |source| RepositoryError::Io { op, object, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;
    use crate::database::{Database, EngineOptions, PinServing};
    use crate::engine::error::EngineError;

    fn of(target: &Path) -> Result<Claim, RepositoryError> {
        claim(&Host::system(), target, Aim::Replace)
    }

    fn open(dir: &Path) -> Result<Database, crate::database::DatabaseError> {
        Database::open(dir, &EngineOptions::default(), PinServing::Off)
    }

    /// A child that another test has just forked keeps the locks until it is another program.
    fn once_free<T>(attempt: impl Fn() -> Option<T>) -> T {
        let clock = Host::system().clock;
        let outcome = (0..400).find_map(|_| {
            let outcome = attempt();
            if outcome.is_none() {
                clock.sleep(std::time::Duration::from_millis(5));
            }
            outcome
        });
        outcome.expect("nobody has it any more")
    }

    #[test]
    fn nothing_is_in_the_way_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        of(dir.path()).unwrap();
        of(&dir.path().join("missing")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        of(&dir.path().join("link")).unwrap();
    }

    /// At any depth; and while it is claimed, none starts: not even one that would wait for a mount.
    #[test]
    fn engine_keeps_a_restore_out_and_a_restore_an_engine() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("sub/app");
        std::fs::create_dir(root.path().join("sub")).unwrap();
        let engine = open(&dir).unwrap();
        for target in [&dir, root.path()] {
            let error = of(target).unwrap_err();
            let RepositoryError::TargetInUse { path, user } = error else {
                panic!("{error}");
            };
            assert_eq!(path, dir);
            assert_eq!(user, format!("process {}, engine", std::process::id()));
        }
        engine.close().unwrap();
        drop(engine);
        let claimed = once_free(|| of(root.path()).ok());
        let error = open(&dir).unwrap_err();
        let crate::database::DatabaseError::Engine(EngineError::InUse { holder, .. }) = error
        else {
            panic!("{error}");
        };
        let restore = format!("process {}, restore", std::process::id());
        assert_eq!(holder, Some(restore));
        drop(claimed);
        once_free(|| open(&dir).ok()).close().unwrap();
    }

    /// As `--dry-run` does: who is there is seen, and the lock file is neither made nor written.
    #[test]
    fn looking_sees_an_engine_and_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("app");
        let engine = open(&dir).unwrap();
        let look = || claim(&Host::system(), &dir, Aim::Look).map(drop);
        assert!(matches!(look(), Err(RepositoryError::TargetInUse { .. })));
        engine.close().unwrap();
        drop(engine);
        let lock = dir.join(LOCK_FILE);
        std::fs::write(&lock, b"process 1, engine\n").unwrap();
        // A child that another test has just forked keeps the locks until it is another program.
        let clock = Host::system().clock;
        let is_free = || {
            (0..400).any(|_| {
                clock.sleep(std::time::Duration::from_millis(5));
                look().is_ok()
            })
        };
        assert!(is_free());
        assert_eq!(std::fs::read(&lock).unwrap(), b"process 1, engine\n");
        std::fs::remove_file(&lock).unwrap();
        assert!(is_free());
        assert!(!lock.exists());
    }

    /// G36: SQLite's own locks, by an open file of another; the claim in turn keeps readers out.
    #[test]
    fn lock_on_an_sqlite_file_keeps_a_restore_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        std::fs::write(&path, b"SQLite format 3\0").unwrap();
        let other = Host::system()
            .disk
            .open(&path, OpenMode::ReadWrite)
            .unwrap();
        let shared = ByteRange::byte(SQLITE_LOCKS.start + 2);
        assert!(try_lock(&*other, LockKind::Shared, shared).unwrap());
        let error = of(&path).unwrap_err();
        assert!(
            matches!(error, RepositoryError::TargetInUse { .. }),
            "{error}"
        );
        crate::os::range_lock::unlock(&*other, shared).unwrap();
        let claimed = of(&path).unwrap();
        assert!(!try_lock(&*other, LockKind::Shared, shared).unwrap());
        drop(claimed);
        assert!(try_lock(&*other, LockKind::Shared, shared).unwrap());
    }

    /// Who has it open in a rollback mode holds no lock while he does nothing.
    #[test]
    fn process_that_has_a_file_open_keeps_a_restore_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        std::fs::write(&path, [0; 100]).unwrap();
        let log = std::fs::File::create(dir.path().join("a.db-wal")).unwrap();
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(log)
            .spawn()
            .unwrap();
        let error = of(&path).unwrap_err();
        let expected = format!("process {} (cat)", child.id());
        let is_seen =
            matches!(&error, RepositoryError::TargetInUse { user, .. } if *user == expected);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_seen, "{error}");
        of(&path).unwrap();
    }
}
