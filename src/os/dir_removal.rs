//! Directories removed with all that is in them.
//!
//! No symbolic link is followed and no mount point entered. Two directories are open at a time, however
//! deep the tree is: what lies deeper is moved up first.

use std::ffi::{OsStr, OsString};
use std::io;

use crate::os::beneath::OpenDir;
use crate::os::dir_edit::Onto;

/// Removes the directory `name` in `parent`, and all that is in it. It is no error if nothing has the name.
///
/// Errors: as for [`empty_dir`]; a part may then be gone.
pub fn remove_dir_all(parent: &OpenDir, name: &OsStr) -> io::Result<()> {
    match open_for_removal(parent, name) {
        Ok(dir) => empty_dir(&dir)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    parent.remove_dir(name)
}

/// Removes all that is in `dir`.
///
/// Errors: `CrossesDevices` and `ResourceBusy` at a mount point; the system's. A part may then be gone.
pub fn empty_dir(dir: &OpenDir) -> io::Result<()> {
    let mut number = 0;
    loop {
        let mut folders = Vec::new();
        for name in dir.names()? {
            if !remove_plain(dir, &name)? {
                folders.push(name);
            }
        }
        if folders.is_empty() {
            return Ok(());
        }
        for name in folders {
            let folder = open_for_removal(dir, &name)?;
            for inner in folder.names()? {
                if !remove_plain(&folder, &inner)? {
                    move_up(&folder, &inner, dir, &mut number)?;
                }
            }
            dir.remove_dir(&name)?;
        }
    }
}

/// `false` for a directory, which stays.
fn remove_plain(dir: &OpenDir, name: &OsStr) -> io::Result<bool> {
    match dir.remove_file(name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// An owner may remove what its mode keeps him from.
fn open_for_removal(parent: &OpenDir, name: &OsStr) -> io::Result<OpenDir> {
    const OWNER_ALL: u32 = 0o700;
    match parent.dir_of_this_mount(name) {
        Ok(dir) => {
            if dir.metadata()?.mode & OWNER_ALL != OWNER_ALL {
                // Root needs no mode, and may work where it cannot set one.
                drop(dir.set_own_mode(OWNER_ALL));
            }
            Ok(dir)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            parent.set_mode(name, OWNER_ALL)?;
            parent.dir_of_this_mount(name)
        }
        Err(error) => Err(error),
    }
}

fn move_up(folder: &OpenDir, inner: &OsStr, to: &OpenDir, number: &mut u64) -> io::Result<()> {
    // It must be ours to write, for its parent is written in it.
    drop(open_for_removal(folder, inner)?);
    loop {
        *number += 1;
        let free = OsString::from(format!("removed-{number}"));
        match folder.rename_into(inner, to, &free, Onto::Nothing) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            moved => return moved,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    #[test]
    fn links_are_removed_and_what_they_lead_to_stays() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("kept"), b"x").unwrap();
        let top = inside.path().join("top");
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        fs::create_dir(top.join("removed-1")).unwrap();
        fs::write(top.join("a/b/file"), b"x").unwrap();
        symlink(outside.path(), top.join("a/b/c/out")).unwrap();
        symlink(outside.path(), top.join("out")).unwrap();
        fs::set_permissions(top.join("a/b"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(top.join("a"), fs::Permissions::from_mode(0o500)).unwrap();
        let parent = OpenDir::open(inside.path()).unwrap();
        remove_dir_all(&parent, OsStr::new("top")).unwrap();
        assert!(parent.names().unwrap().is_empty());
        assert!(outside.path().join("kept").exists());
        remove_dir_all(&parent, OsStr::new("top")).unwrap();
    }

    /// Neither the stack nor the table of open files bounds the depth.
    #[test]
    fn a_tree_deeper_than_paths_may_be_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let parent = OpenDir::open(place.path()).unwrap();
        parent.make_dir(OsStr::new("top")).unwrap();
        let mut deep = parent.dir(Path::new("top")).unwrap();
        for _ in 0..3000 {
            deep.make_dir(OsStr::new("deeper")).unwrap();
            deep = deep.dir(Path::new("deeper")).unwrap();
        }
        remove_dir_all(&parent, OsStr::new("top")).unwrap();
        assert!(parent.names().unwrap().is_empty());
    }

    #[test]
    fn a_mount_point_is_not_entered() {
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        let place = tempfile::tempdir().unwrap();
        let (top, aside) = (place.path().join("top"), place.path().join("aside"));
        let mounted = top.join("a/mounted");
        fs::create_dir_all(&mounted).unwrap();
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join("kept"), b"x").unwrap();
        let none: Option<&Path> = None;
        // The same file system seen twice: only the mount tells the two apart.
        if mount(Some(&aside), &mounted, none, MsFlags::MS_BIND, none).is_err() {
            println!("SKIPPED: needs the right to mount");
            return;
        }
        let parent = OpenDir::open(place.path()).unwrap();
        let removed = remove_dir_all(&parent, OsStr::new("top"));
        umount2(&mounted, MntFlags::MNT_DETACH).unwrap();
        removed.unwrap_err();
        assert!(aside.join("kept").exists());
    }
}
