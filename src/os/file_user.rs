//! Work on another user's files with that user's rights and no others.
//!
//! Root that makes files by their paths in somebody else's directory follows whatever links that
//! one plants there. The kernel keeps an identity for access to files for each thread: while it is
//! the owner's, no path leads where the owner may not go, and what is made belongs to the owner. The
//! rest of the process stays as it is, and the owner may neither trace nor signal it.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;
use std::panic::resume_unwind;
use std::thread;

use nix::sys::stat::fstat;
use nix::unistd::{Gid, Uid, User, getgrouplist, setfsgid, setfsuid};

/// The group of users of whom nothing is known here, such as those of a container: it owns nothing.
const NOBODYS_GROUP: u32 = 65_534;
/// `SECBIT_NO_SETUID_FIXUP`: capabilities stay whatever the user is.
const KEEPS_CAPABILITIES: i32 = 1 << 2;
/// Asks for the present user: no user has this number.
const NO_USER: Uid = Uid::from_raw(u32::MAX);

/// The user whose rights to files this thread has.
#[must_use]
pub fn file_user() -> u32 {
    setfsuid(NO_USER).as_raw()
}

/// Runs `work` with the rights to files of the owner of `place`, on a thread of its own if that is
/// not this process's user and this process is root. Whoever is not root works with his own rights.
///
/// Errors: the system's; `PermissionDenied` where root's rights could not be laid down.
pub fn as_owner_of<T: Send>(
    place: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let owner = Uid::from_raw(fstat(place)?.st_uid);
    if owner.is_root() || !nix::unistd::geteuid().is_root() {
        return Ok(work());
    }
    let groups = groups_of(owner)?;
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("stillfs-owner".to_owned());
        let worker = worker.spawn_scoped(scope, move || {
            become_user(owner, &groups)?;
            Ok(work())
        })?;
        worker.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// The groups that the user has after a login, the primary one first.
fn groups_of(user: Uid) -> io::Result<Vec<Gid>> {
    let Some(known) = User::from_uid(user)? else {
        return Ok(vec![Gid::from_raw(NOBODYS_GROUP)]);
    };
    let name = CString::new(known.name).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut groups = getgrouplist(&name, known.gid)?;
    groups.retain(|group| *group != known.gid);
    groups.insert(0, known.gid);
    Ok(groups)
}

/// For the rest of this thread's life. The order matters: root's right to set groups goes last.
fn become_user(user: Uid, groups: &[Gid]) -> io::Result<()> {
    set_groups_of_thread(groups)?;
    let primary = groups
        .first()
        .copied()
        .unwrap_or(Gid::from_raw(NOBODYS_GROUP));
    setfsgid(primary);
    // SAFETY: asks for a number and passes no pointer.
    let bits = unsafe { libc::prctl(libc::PR_GET_SECUREBITS) };
    setfsuid(user);
    let is_user = setfsuid(NO_USER) == user && setfsgid(Gid::from_raw(u32::MAX)) == primary;
    if bits < 0 || bits & KEEPS_CAPABILITIES != 0 || !is_user {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

/// The C library's `setgroups` changes all threads of the process; the kernel's only the one that asks.
fn set_groups_of_thread(groups: &[Gid]) -> io::Result<()> {
    let numbers: Vec<libc::gid_t> = groups.iter().map(|group| group.as_raw()).collect();
    // SAFETY: the pointer is to as many group numbers as are announced, which the kernel only reads.
    let done = unsafe { libc::syscall(libc::SYS_setgroups, numbers.len(), numbers.as_ptr()) };
    nix::errno::Errno::result(done)
        .map(drop)
        .map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::fs::{self, File, metadata};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    use super::*;

    const STRANGER: u32 = 47_113;

    #[test]
    fn our_own_place_needs_no_other_identity() {
        let dir = tempfile::tempdir().unwrap();
        let place = File::open(dir.path()).unwrap();
        let here = thread::current().id();
        let there = as_owner_of(place.as_fd(), || thread::current().id());
        assert_eq!(there.unwrap(), here);
        assert_eq!(file_user(), nix::unistd::geteuid().as_raw());
    }

    /// Neither root's own rights nor those of root's groups are left, and only on that thread.
    #[test]
    fn root_has_the_rights_of_the_owner_and_no_others() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(STRANGER), Some(0)).unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        let of_group = outside.path().to_owned();
        fs::set_permissions(&of_group, PermissionsExt::from_mode(0o660)).unwrap();
        let place = File::open(dir.path()).unwrap();
        let made = dir.path().join("made");
        let tried = as_owner_of(place.as_fd(), || {
            File::create(&made).unwrap();
            (file_user(), File::open(&of_group).map(drop))
        });
        let (user, opened) = tried.unwrap();
        assert_eq!(user, STRANGER);
        assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(metadata(&made).unwrap().uid(), STRANGER);
        assert_eq!(file_user(), 0);
        File::open(&of_group).unwrap();
    }
}
