//! Attempts to write, and syncs of what cannot be written.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use crate::process::{end_of, succeed};
use crate::scene::{Scene, errno_of};
use crate::system::{fallocate, setxattr};

/// Row: write.refused
#[test]
fn every_attempt_to_write_to_a_view_is_refused() {
    let Some(scene) = Scene::new() else { return };
    let (pages, new) = (scene.pages(), scene.mnt.join("new"));
    let open = |flags: i32| {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .custom_flags(flags)
            .open(&pages)
            .map(drop)
    };
    let created = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&new);
    let unnamed = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(&scene.mnt);
    let attempts: [(&str, io::Result<()>); 9] = [
        ("open", open(0)),
        ("append", open(libc::O_APPEND)),
        ("truncate at open", open(libc::O_TRUNC)),
        ("create", created.map(drop)),
        ("unlink", fs::remove_file(&pages)),
        ("rename", fs::rename(&pages, &new)),
        ("mkdir", fs::create_dir(&new)),
        ("setxattr", setxattr(&pages, "user.x").map(drop)),
        ("link", fs::hard_link(&pages, &new)),
    ];
    for (name, result) in attempts {
        assert_eq!(errno_of(result), libc::EROFS, "{name}");
    }
    let errno = errno_of(unnamed);
    assert!(
        [libc::EROFS, libc::EOPNOTSUPP].contains(&errno),
        "O_TMPFILE: {errno}"
    );
    // A descriptor for reading is none for writing, on any file system.
    let file = File::open(&pages).unwrap();
    assert_eq!(errno_of(fallocate(&file)), libc::EBADF);
    assert_eq!(errno_of(file.set_len(0)), libc::EINVAL);
    let touch = end_of(Command::new("touch").arg(&pages));
    assert!(touch.err.contains("Read-only file system"), "{touch:?}");
    assert!(fs::read(&pages).unwrap() == scene.expected);
}

/// Row: write.sync
#[test]
fn a_sync_of_what_cannot_change_succeeds() {
    let Some(scene) = Scene::new() else { return };
    let (file, directory) = (
        File::open(scene.pages()).unwrap(),
        File::open(&scene.mnt).unwrap(),
    );
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    directory.sync_all().unwrap();
    succeed(Command::new("sync").arg("-f").arg(&scene.mnt));
}
