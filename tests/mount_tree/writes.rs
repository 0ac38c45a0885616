//! Every attempt to write is refused (M3).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{mkfifo, truncate};

use crate::rig::{Rig, errno_of, has_tool, is_root};

/// What the attempts give, each with its name.
fn attempts(root: &Path) -> Vec<(&'static str, io::Result<()>)> {
    let file = root.join("tiny");
    let new = root.join("new");
    let open = |options: &mut OpenOptions, path: &Path| options.open(path).map(drop);
    let device = SFlag::S_IFREG;
    vec![
        (
            "open for writing",
            open(OpenOptions::new().write(true), &file),
        ),
        (
            "open for both",
            open(OpenOptions::new().read(true).write(true), &file),
        ),
        (
            "open for appending",
            open(OpenOptions::new().append(true), &file),
        ),
        (
            "open and cut",
            open(OpenOptions::new().write(true).truncate(true), &file),
        ),
        ("create", File::create_new(&new).map(drop)),
        ("truncate", truncate(&file, 1).map_err(Into::into)),
        ("mkdir", fs::create_dir(&new)),
        ("mkfifo", mkfifo(&new, Mode::S_IRWXU).map_err(Into::into)),
        (
            "mknod",
            mknod(&new, device, Mode::S_IRWXU, 0).map_err(Into::into),
        ),
        ("symlink", std::os::unix::fs::symlink("x", &new)),
        ("hard link", fs::hard_link(&file, &new)),
        ("unlink", fs::remove_file(&file)),
        ("rmdir", fs::remove_dir(root.join("folder/inner"))),
        ("rename", fs::rename(&file, &new)),
        ("rename over", fs::rename(&file, root.join("empty"))),
        (
            "chmod",
            fs::set_permissions(&file, PermissionsExt::from_mode(0o600)),
        ),
        ("chown", std::os::unix::fs::chown(&file, Some(0), Some(0))),
        (
            "utimes",
            File::open(&file).and_then(|f| f.set_modified(SystemTime::now())),
        ),
    ]
}

fn assert_refused(root: &Path) {
    for (name, result) in attempts(root) {
        assert_eq!(errno_of(result), libc::EROFS, "{name}");
    }
    assert_eq!(fs::read(root.join("tiny")).unwrap(), crate::rig::TINY);
    assert!(!root.join("new").exists());
    if !has_tool("setfattr") {
        return;
    }
    for arguments in [
        ["-n", "user.x", "-v", "1"].as_slice(),
        &["-x", "user.stillfs.kind"],
    ] {
        let mut setfattr = Command::new("setfattr");
        let setfattr = setfattr.args(arguments).arg(root.join("tiny"));
        let output = setfattr.env("LC_ALL", "C").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("Read-only file system"), "{said}");
    }
}

/// M3, whatever the attempt is.
///
/// Row: write.refused
#[test]
fn a_mount_refuses_every_write() {
    let Some(rig) = Rig::new() else { return };
    assert_refused(&rig.mnt);
}

/// M3: the daemon does not rely on the kernel's read-only flag, which root can take away.
///
/// Row: write.remounted
#[test]
fn a_mount_that_was_remounted_writable_refuses_every_write() {
    let Some(rig) = Rig::new() else { return };
    if !is_root() {
        return;
    }
    let none: Option<&str> = None;
    mount(none, &rig.mnt, none, MsFlags::MS_REMOUNT, none).unwrap();
    let options = nix::sys::statvfs::statvfs(&rig.mnt).unwrap().flags();
    assert!(!options.contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    assert_refused(&rig.mnt);
}
