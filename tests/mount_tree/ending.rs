//! How a mount ends (M5, M6).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use stillfs::mount::point::PointError;
use stillfs::mount::unmount::UnmountError;
use stillfs::mount::{Lazy, unmount};

use crate::rig::{Rig, eventually, expected, is_mounted, is_root, run};

/// The daemon learns from the kernel that it is over, and takes it for an ordinary end.
#[test]
fn unmounting_from_outside_ends_the_session_without_an_error() {
    let commands: [&[&str]; 4] = [
        &["umount"],
        &["fusermount3", "-u"],
        &["fusermount3", "-u", "-z"],
        &["umount", "-l"],
    ];
    for command in commands {
        let Some(mut rig) = Rig::new() else { return };
        if command[0] == "umount" && !is_root() {
            continue;
        }
        fs::read(rig.mnt.join("tiny")).unwrap();
        // A child that another test has just forked keeps the file open until it is another program.
        eventually("nobody has the file open", || {
            let mut unmount = Command::new(command[0]);
            unmount.env("LC_ALL", "C");
            let output = unmount.args(&command[1..]).arg(&rig.mnt).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let is_busy =
                said.contains("busy") && !command.contains(&"-l") && !command.contains(&"-z");
            assert!(output.status.success() || is_busy, "{command:?}: {said}");
            output.status.success()
        });
        rig.session.take().unwrap().wait().unwrap();
        assert!(!is_mounted(&rig.mnt));
        rig.check().unwrap();
    }
}

#[test]
fn a_handle_ends_a_session_that_another_thread_waits_for() {
    let Some(mut rig) = Rig::new() else { return };
    let session = rig.session.take().unwrap();
    let unmounter = session.unmounter();
    let waiter = std::thread::spawn(move || session.wait());
    fs::read(rig.mnt.join("tiny")).unwrap();
    // A child that another test has just forked keeps the file open until it is another program.
    eventually("nobody has the file open", || {
        unmounter.unmount(Lazy::No).is_ok()
    });
    waiter.join().unwrap().unwrap();
    assert!(!is_mounted(&rig.mnt));
    unmounter.unmount(Lazy::No).unwrap();
}

#[test]
fn a_busy_mount_stays_unless_it_is_taken_away_lazily() {
    let Some(mut rig) = Rig::new() else { return };
    let file = File::open(rig.large_path()).unwrap();
    let error = unmount(&rig.mnt, Lazy::No).unwrap_err();
    assert!(matches!(error, UnmountError::Busy { .. }), "{error}");
    assert!(error.to_string().contains("fuser -vm"), "{error}");
    let session = rig.session.take().unwrap();
    let error = session.unmount(Lazy::No).unwrap_err();
    assert!(matches!(error, UnmountError::Busy { .. }), "{error}");
    unmount(&rig.mnt, Lazy::Yes).unwrap();
    assert!(!is_mounted(&rig.mnt));
    // Whoever has a file open reads on, and the session lasts as long.
    let mut bytes = vec![0; 1000];
    file.read_exact_at(&mut bytes, 40_000_000).unwrap();
    assert_eq!(bytes, expected(40_000_000, 1000));
    drop(file);
    session.wait().unwrap();
}

/// M6: the kernel gives the numbers of a mount that is gone to the next one, which must not suffer.
#[test]
fn a_session_that_is_over_unmounts_nothing_else() {
    let Some(mut rig) = Rig::new() else { return };
    let old = rig.session.take().unwrap();
    let unmounter = old.unmounter();
    unmount(&rig.mnt, Lazy::No).unwrap();
    rig.mount("", 0);
    unmounter.unmount(Lazy::Yes).unwrap();
    assert!(is_mounted(&rig.mnt));
    drop(old);
    unmounter.unmount(Lazy::Yes).unwrap();
    assert!(is_mounted(&rig.mnt));
    assert_eq!(fs::read(rig.mnt.join("tiny")).unwrap(), crate::rig::TINY);
}

/// Row: mount.covered
#[test]
fn what_covers_a_mount_is_not_unmounted_in_its_place() {
    let Some(rig) = Rig::new() else { return };
    if !is_root() {
        return;
    }
    run(Command::new("mount")
        .args(["-t", "tmpfs", "cover"])
        .arg(&rig.mnt));
    let error = rig
        .session
        .as_ref()
        .unwrap()
        .unmount(Lazy::Yes)
        .unwrap_err();
    assert!(matches!(error, UnmountError::Covered { .. }), "{error}");
    let error = unmount(&rig.mnt, Lazy::Yes).unwrap_err();
    assert!(matches!(error, UnmountError::NotOurs { .. }), "{error}");
}

#[test]
fn a_session_that_is_dropped_unmounts() {
    let Some(mut rig) = Rig::new() else { return };
    assert!(is_mounted(&rig.mnt));
    rig.session = None;
    assert!(!is_mounted(&rig.mnt));
}

#[test]
fn a_live_mount_is_not_mounted_over() {
    let Some(rig) = Rig::new() else { return };
    let error = rig.check().unwrap_err();
    let PointError::AlreadyMounted { source_name, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(source_name, "/var/lib/a,b c");
}
