//! Locks and watches.

use std::fs::{self, File};

use crate::scene::{Scene, errno_of};
use crate::system::{events, inotify, lock_region};

/// Row: lock.flock
#[test]
fn whole_file_locks_are_kept_by_the_kernel() {
    let Some(scene) = Scene::new() else { return };
    let open = || File::open(scene.pages()).unwrap();
    let (one, other) = (open(), open());
    one.lock_shared().unwrap();
    other.try_lock_shared().unwrap();
    other.unlock().unwrap();
    one.try_lock().unwrap();
    assert!(other.try_lock_shared().is_err());
    drop(one);
    other.try_lock().unwrap();
    // They say nothing to the engine, whose file is another one.
    scene.load.progress();
}

/// Row: lock.fcntl
#[test]
fn region_locks_are_for_reading_only() {
    let Some(scene) = Scene::new() else { return };
    let (one, other) = (
        File::open(scene.pages()).unwrap(),
        File::open(scene.pages()).unwrap(),
    );
    lock_region(&one, libc::F_RDLCK).unwrap();
    lock_region(&other, libc::F_RDLCK).unwrap();
    assert_eq!(errno_of(lock_region(&one, libc::F_WRLCK)), libc::EBADF);
    lock_region(&one, libc::F_UNLCK).unwrap();
}

/// Row: watch.inotify
#[test]
fn a_watch_sees_readers_and_no_change() {
    let Some(scene) = Scene::new() else { return };
    let (file, directory) = (inotify(&scene.pages()), inotify(&scene.mnt));
    scene.load.progress();
    assert_eq!(
        (events(&file), events(&directory)),
        (0, 0),
        "writers are not seen"
    );
    fs::read(scene.pages()).unwrap();
    let seen = events(&file);
    assert_ne!(seen & libc::IN_OPEN, 0);
    assert_ne!(seen & libc::IN_ACCESS, 0);
    let changes = libc::IN_MODIFY | libc::IN_ATTRIB | libc::IN_CREATE | libc::IN_DELETE;
    assert_eq!((seen | events(&directory)) & changes, 0);
}
