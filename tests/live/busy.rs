//! Every way to unmount releases the pin, and a mount in use is not taken from under its user.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::load::Load;
use crate::process::{eventually, has_tool, is_root, signal, stillfs, succeed};
use crate::rig::{Rig, copy, daemon_of, is_mounted, refused};

/// A backup that still runs must not fail because somebody cleans up; and whoever insists gets the
/// name at once, and the pin's end with the last reader's (M5).
///
/// Row: umount.busy, umount.lazy
#[test]
fn a_busy_mount_is_refused_and_a_lazy_one_lasts_until_its_last_user() {
    let Some(rig) = Rig::with_fill(1000) else {
        return;
    };
    let mount = rig.mount("mnt", &["-o", "direct_io"]);
    copy(&mount, &rig.path("copy"));
    let expected = std::fs::read(rig.path("copy/data.pages")).unwrap();
    let user = File::open(mount.join("data.pages")).unwrap();
    let assert_readable = || {
        let mut bytes = vec![0; expected.len()];
        user.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == expected);
    };
    let daemon = daemon_of(&mount);
    let words = ["umount".as_ref(), mount.as_os_str()];
    let said = refused(&words, 11, "is busy");
    assert!(said.contains("--lazy"), "{said}");
    assert!(is_mounted(&mount));
    assert_readable();

    succeed(stillfs().args(["umount", "--lazy"]).arg(&mount));
    assert!(!is_mounted(&mount));
    let load = Load::start(rig.engine().address);
    assert_readable();
    assert_eq!(rig.pins().len(), 1);
    drop(user);
    eventually("the pin goes with the last user", || rig.pins().is_empty());
    load.stop();
    rig.assert_nothing_left(&[daemon]);
}

/// A `status` or `doctor` of somebody else, which looks at every view, must not make a backup's umount fail.
///
/// Row: umount.busy
#[test]
fn a_short_look_at_a_view_is_waited_for() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let mount = rig.mount("mnt", &[]);
    let look = File::open(&mount).unwrap();
    let looker = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        drop(look);
    });
    succeed(stillfs().arg("umount").arg(&mount));
    looker.join().unwrap();
    rig.assert_nothing_left(&[]);
}

/// The name is free again at once: a new mount there and the old one do not know each other (M6).
///
/// Row: umount.lazy_again
#[test]
fn a_mount_point_can_be_used_again_while_its_lazy_mount_lasts() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let mount = rig.mount("mnt", &[]);
    let user = File::open(mount.join("data.pages")).unwrap();
    succeed(stillfs().args(["umount", "--lazy"]).arg(&mount));
    let mut again = stillfs();
    let again = crate::process::end_of(again.arg("mount").arg(&rig.source).arg(&mount));
    if again.status.success() {
        assert_eq!(rig.pins().len(), 2);
        drop(user);
        eventually("the first pin goes", || rig.pins().len() == 1);
        assert!(is_mounted(&mount));
        std::fs::read(mount.join("data.pages")).unwrap();
    } else {
        // Refused with a reason is as good; half a mount is not.
        assert_eq!(again.code(), 11, "{again:?}");
        assert!(!is_mounted(&mount));
        assert_eq!(rig.pins().len(), 1);
    }
}

fn a_pin_goes_with(way: impl FnOnce(&Path, u32)) {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let mount = rig.mount("mnt", &[]);
    let daemon = daemon_of(&mount);
    assert_eq!(rig.pins().len(), 1);
    way(&mount, daemon);
    eventually("it is unmounted", || !is_mounted(&mount));
    eventually("the pin is gone", || rig.pins().is_empty());
    rig.assert_nothing_left(&[daemon]);
}

/// People type the command that they know.
///
/// Row: umount.any
#[test]
fn umount_of_the_system_releases_the_pin() {
    if is_root() {
        a_pin_goes_with(|mount, _| drop(succeed(Command::new("umount").arg(mount))));
    }
}

/// Row: umount.any
#[test]
fn fusermount_releases_the_pin() {
    if has_tool("fusermount3") {
        a_pin_goes_with(|mount, _| {
            succeed(Command::new("fusermount3").arg("-u").arg(mount));
        });
    }
}

/// Row: daemon.terminate
#[test]
fn sigterm_to_the_daemon_releases_the_pin() {
    a_pin_goes_with(|_, daemon| signal(daemon, Signal::SIGTERM));
}

/// What `stillfs umount` returns from, a script builds on: the pin is gone, and not about to go.
///
/// Row: umount.returns
#[test]
fn umount_returns_when_the_pin_is_released() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let mount = rig.dir("mnt");
    for _ in 0..5 {
        rig.mount_on(&mount, &[]);
        succeed(stillfs().arg("umount").arg(&mount));
        assert_eq!(rig.engine().stat("stillfs_pins"), 0);
        assert_eq!(rig.records(), []);
    }
}
