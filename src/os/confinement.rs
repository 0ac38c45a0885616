//! What a process lays down for good before it works on files that may be hostile: rights, what it
//! inherited, and how much of the machine it may use.
//!
//! For a process of its own with one thread, right at its start: nothing of it can be taken back.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, getresgid, getresuid, setgroups, setresgid, setresuid};

/// The first descriptor behind the three standard streams.
const FIRST_INHERITED: u32 = 3;

/// How much of the machine a process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// Bytes of address space.
    pub memory_bytes: u64,
    /// Seconds of computing; `None` for no limit.
    pub cpu_seconds: Option<u64>,
    /// Open files.
    pub open_files: u64,
    /// Bytes that a file may have when this process has written to it; `None` for no limit.
    pub file_bytes: Option<u64>,
}

/// What a process may do in the one directory that is left to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Reading only.
    Read,
    /// Making, writing and removing regular files too.
    Write,
}

/// Lets go of what was inherited: descriptors other than the standard streams, and the umask; and keeps the process from gaining rights by what it starts.
///
/// Nothing in this process may own a descriptor yet. Errors: the system's.
pub fn drop_inherited() -> io::Result<()> {
    // SAFETY: passes numbers only. By the contract above no object owns what is closed.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST_INHERITED, u32::MAX, 0) };
    nix::errno::Errno::result(closed)?;
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    Ok(set_no_new_privs()?)
}

/// Leaves the working directory that was inherited. Errors: the system's.
pub fn leave_directory() -> io::Result<()> {
    Ok(chdir("/")?)
}

/// Sets the ceiling, and that this process leaves no core file, which would hold what it read.
///
/// Errors: the system's.
pub fn set_ceiling(ceiling: Ceiling) -> io::Result<()> {
    let set = |resource, most| setrlimit(resource, most, most);
    set(Resource::RLIMIT_CORE, 0)?;
    set(Resource::RLIMIT_AS, ceiling.memory_bytes)?;
    set(Resource::RLIMIT_NOFILE, ceiling.open_files)?;
    if let Some(seconds) = ceiling.cpu_seconds {
        set(Resource::RLIMIT_CPU, seconds)?;
    }
    if let Some(bytes) = ceiling.file_bytes {
        set(Resource::RLIMIT_FSIZE, bytes)?;
    }
    Ok(())
}

/// Rights of Landlock's first version, which every kernel that has it knows.
mod right {
    pub(super) const WRITE_FILE: u64 = 1 << 1;
    pub(super) const READ_FILE: u64 = 1 << 2;
    pub(super) const READ_DIR: u64 = 1 << 3;
    pub(super) const REMOVE_FILE: u64 = 1 << 5;
    pub(super) const MAKE_REGULAR: u64 = 1 << 8;
    pub(super) const ALL: u64 = (1 << 13) - 1;
}

const RULE_PATH_BENEATH: libc::c_int = 1;

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// Leaves this thread, and what it starts, one directory of the file system, with all below it (Landlock).
/// Its open files stay. `false` where the kernel cannot do that. Before it: [`drop_inherited`].
///
/// Errors: the system's.
pub fn keep_only(dir: &Path, reach: Reach) -> io::Result<bool> {
    let handled = right::ALL;
    // SAFETY: the pointer is to the eight bytes that are announced, the first field of the structure, which
    // the kernel only reads.
    let made = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const handled,
            size_of::<u64>(),
            0,
        )
    };
    let Ok(made) = i32::try_from(made)
        .map_err(drop)
        .and_then(|made| match made {
            0.. => Ok(made),
            _ => Err(()),
        })
    else {
        return Ok(false);
    };
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    let rules = unsafe { OwnedFd::from_raw_fd(made) };
    let read = right::READ_FILE | right::READ_DIR;
    let write = right::WRITE_FILE | right::REMOVE_FILE | right::MAKE_REGULAR;
    let place = nix::fcntl::open(
        dir,
        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let rule = PathBeneath {
        allowed: match reach {
            Reach::Read => read,
            Reach::Write => read | write,
        },
        parent: place.as_raw_fd(),
    };
    // SAFETY: the pointer is to a whole structure of the kind that is named, which the kernel only reads.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            rules.as_raw_fd(),
            RULE_PATH_BENEATH,
            &raw const rule,
            0,
        )
    };
    nix::errno::Errno::result(added)?;
    // SAFETY: passes numbers only.
    let restricted =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
    nix::errno::Errno::result(restricted)?;
    Ok(true)
}

/// Makes this process, which is root's, the user's for good: no other group, no way back.
///
/// Errors: the system's; `PermissionDenied` where root's rights are not all gone.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    let (users, groups) = (getresuid()?, getresgid()?);
    let is_user = [users.real, users.effective, users.saved] == [uid; 3]
        && [groups.real, groups.effective, groups.saved] == [gid; 3];
    // A process of a user has no capability, unless it was told to keep them.
    let is_root_again = !uid.is_root() && setresuid(Uid::from_raw(0), uid, uid).is_ok();
    match is_user && !is_root_again {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::fs::{File, create_dir, read, remove_file, write};
    use std::io::ErrorKind::PermissionDenied;
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    /// What one thread, kept in `dir`, gets from each attempt; `None` without Landlock.
    fn tried(dir: PathBuf, outside: PathBuf, reach: Reach) -> Option<[io::Result<()>; 4]> {
        let kept = thread::spawn(move || {
            set_no_new_privs().unwrap();
            if !keep_only(&dir, reach).unwrap() {
                return None;
            }
            Some([
                read(dir.join("deep/file")).map(drop),
                write(dir.join("deep/new"), b"x"),
                read(&outside).map(drop),
                remove_file(&outside),
            ])
        });
        kept.join().unwrap()
    }

    /// SH4: nothing outside is read or removed; the other threads of the process are as free as before.
    #[test]
    fn one_directory_is_left() {
        let root = tempfile::tempdir().unwrap();
        let (dir, outside) = (root.path().join("dir"), root.path().join("outside"));
        create_dir(&dir).unwrap();
        create_dir(dir.join("deep")).unwrap();
        for file in [&dir.join("deep/file"), &outside] {
            write(file, b"x").unwrap();
        }
        let refused = |result: &io::Result<()>| matches!(result, Err(error) if error.kind() == PermissionDenied);
        for reach in [Reach::Read, Reach::Write] {
            let Some([read, write, read_outside, removed]) =
                tried(dir.clone(), outside.clone(), reach)
            else {
                println!("SKIPPED: the kernel has no Landlock");
                return;
            };
            assert!(read.is_ok(), "{read:?}");
            assert_eq!(refused(&write), reach == Reach::Read, "{write:?}");
            assert!(refused(&read_outside) && refused(&removed), "{removed:?}");
            File::open(&outside).unwrap();
        }
    }
}
