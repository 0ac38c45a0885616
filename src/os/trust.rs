//! Whether somebody else could exchange what a path leads to, while we work there.
//!
//! Whoever may write a directory may rename what is in it and put a link in its place. A process
//! that makes, cuts and removes files by path, as an engine and a mount do, would then do it somewhere
//! else, with its own rights. So it works only where every directory on the way belongs to root or to
//! its own user, and nobody else may write it; a sticky directory such as `/tmp` is good enough for a
//! child of our own. That is looked at once: whom it trusts could do anything anyway.
//!
//! Groups: an ordinary user shares directories with a group on purpose; root does only with its own.

use std::io;
use std::path::{Path, PathBuf};

use super::file_user::file_user;
use super::path::{FileType, Metadata, canonical, metadata, read_small_file, symlink_metadata};

const STICKY: u32 = 0o1000;
const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// Why a place is not safe to work in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// Somebody else owns it.
    #[error("{} belongs to user {uid}, who could put something else in place while this runs as user {}: run it as that user, or chown it", path.display(), super::process::effective_user())]
    Owner {
        /// The directory, or what lies in it.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Others may write it.
    #[error("{} may be written by others (mode {mode:04o}), who could put something else in place: chmod go-w it", path.display())]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It cannot be looked at.
    #[error("cannot look at {}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Refuses a path that somebody else could make lead elsewhere. What may be done inside of what it
/// leads to is not looked at.
///
/// Errors: any [`Distrust`].
pub fn refuse_replaceable(path: &Path) -> Result<(), Distrust> {
    let path = &canonical(path).map_err(io_fault(path))?;
    let users = Users::of_this_process();
    let mut ancestors: Vec<&Path> = path.ancestors().collect();
    ancestors.reverse();
    for (parent, child) in ancestors.iter().zip(ancestors.iter().skip(1)) {
        let of_parent = look(parent)?;
        users.refuse_owner(parent, &of_parent)?;
        if !users.is_writable(&of_parent) {
            continue;
        }
        if of_parent.mode & STICKY == 0 {
            return Err(writable(parent, &of_parent));
        }
        users.refuse_owner(child, &look(child)?)?;
    }
    Ok(())
}

/// Refuses a directory in which somebody else could exchange what we make there: one that leads
/// elsewhere some time, that is another's, or that others may write and is not sticky.
///
/// Errors: any [`Distrust`].
pub fn refuse_place(dir: &Path) -> Result<(), Distrust> {
    refuse_replaceable(dir)?;
    let users = Users::of_this_process();
    let facts = look(dir)?;
    users.refuse_owner(dir, &facts)?;
    if users.is_writable(&facts) && facts.mode & STICKY == 0 {
        return Err(writable(dir, &facts));
    }
    Ok(())
}

/// Refuses a directory that is to be ours alone: no sticky one either, and nothing but plain files of
/// others in it, which may be left from before it was.
///
/// Errors: any [`Distrust`].
pub fn refuse_shared(dir: &Path) -> Result<(), Distrust> {
    refuse_place(dir)?;
    let users = Users::of_this_process();
    let facts = look(dir)?;
    if users.is_writable(&facts) {
        return Err(writable(dir, &facts));
    }
    for entry in std::fs::read_dir(dir).map_err(io_fault(dir))? {
        let path = entry.map_err(io_fault(dir))?.path();
        match symlink_metadata(&path) {
            Ok(facts) if facts.file_type == FileType::File => {}
            Ok(facts) => users.refuse_owner(&path, &facts)?,
            // The files of an engine come and go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_fault(&path)(error)),
        }
    }
    Ok(())
}

/// Whether others than the owner may look into a directory: they can then also take its lock.
///
/// Errors: the system's.
pub fn is_open_to_others(dir: &Path) -> io::Result<bool> {
    Ok(metadata(dir)?.mode & 0o044 != 0)
}

/// Whether `uid` is this process's own user, or root. Errors: none.
#[must_use]
pub fn is_trusted_user(uid: u32) -> bool {
    Users::of_this_process().is_trusted(uid)
}

fn look(path: &Path) -> Result<Metadata, Distrust> {
    metadata(path).map_err(io_fault(path))
}

fn io_fault(path: &Path) -> impl FnOnce(io::Error) -> Distrust {
    let path = path.to_owned();
    move |source| Distrust::Io { path, source }
}

fn writable(path: &Path, facts: &Metadata) -> Distrust {
    Distrust::Writable {
        path: path.to_owned(),
        mode: facts.mode,
    }
}

/// Whom this process trusts, on a thread that works for another user whom that one does.
#[derive(Clone, Copy, Debug)]
struct Users {
    own: u32,
    /// Who stands for all users that this process's namespace does not know, root of the machine
    /// among them; `None` where all are known.
    unknown: Option<u32>,
}

impl Users {
    fn of_this_process() -> Self {
        Self {
            own: file_user(),
            unknown: unknown_user(),
        }
    }

    fn is_trusted(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own || Some(uid) == self.unknown
    }

    fn refuse_owner(&self, path: &Path, facts: &Metadata) -> Result<(), Distrust> {
        if self.is_trusted(facts.uid) {
            return Ok(());
        }
        Err(Distrust::Owner {
            path: path.to_owned(),
            uid: facts.uid,
        })
    }

    /// Whether somebody may write who is not trusted.
    fn is_writable(&self, facts: &Metadata) -> bool {
        let by_group = self.own == 0 && facts.gid != 0 && facts.mode & GROUP_WRITE != 0;
        by_group || facts.mode & OTHERS_WRITE != 0
    }
}

/// The user that files of unknown users seem to have, if this process is in a namespace of its own.
fn unknown_user() -> Option<u32> {
    let read = |path: &str| {
        let text = read_small_file(Path::new(path), 4096).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    };
    let map = read("/proc/self/uid_map")?;
    let knows_all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if knows_all {
        return None;
    }
    read("/proc/sys/kernel/overflowuid")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        fs::create_dir(&path).unwrap();
        (dir, path)
    }

    #[test]
    fn a_folder_of_our_own_is_good() {
        let (_dir, path) = folder();
        symlink("/nowhere", path.join("link")).unwrap();
        refuse_shared(&path).unwrap();
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused_at_every_step() {
        let (dir, path) = folder();
        chmod(&path, 0o1777);
        assert!(matches!(
            refuse_shared(&path),
            Err(Distrust::Writable { mode: 0o1777, .. })
        ));
        // What is ours in a sticky folder stays ours.
        refuse_place(&path).unwrap();
        chmod(&path, 0o777);
        assert!(matches!(
            refuse_place(&path),
            Err(Distrust::Writable { .. })
        ));
        refuse_replaceable(&path).unwrap();
        chmod(&path, 0o700);
        chmod(dir.path(), 0o777);
        assert!(matches!(
            refuse_replaceable(&path),
            Err(Distrust::Writable { .. })
        ));
        chmod(dir.path(), 0o1777);
        refuse_shared(&path).unwrap();
    }

    #[test]
    fn what_belongs_to_others_is_refused() {
        let (dir, path) = folder();
        let plant = path.join("shadow");
        symlink("/etc", &plant).unwrap();
        let file = path.join("data.pages");
        fs::write(&file, "").unwrap();
        if file_user() != 0 {
            println!("SKIPPED: needs root");
            return;
        }
        chown(&file, Some(4711), None).unwrap();
        refuse_shared(&path).unwrap();
        std::os::unix::fs::lchown(&plant, Some(4711), None).unwrap();
        assert!(
            matches!(refuse_shared(&path), Err(Distrust::Owner { uid: 4711, path }) if path == plant)
        );
        fs::remove_file(&plant).unwrap();
        chown(&path, Some(4711), None).unwrap();
        assert!(matches!(refuse_place(&path), Err(Distrust::Owner { .. })));
        refuse_replaceable(&path).unwrap();
        chmod(dir.path(), 0o1777);
        assert!(matches!(
            refuse_replaceable(&path),
            Err(Distrust::Owner { .. })
        ));
        chmod(dir.path(), 0o770);
        chown(dir.path(), None, Some(4711)).unwrap();
        assert!(matches!(
            refuse_replaceable(&path),
            Err(Distrust::Writable { .. })
        ));
    }
}
