//! A mount daemon that is killed releases its pin, and its mount point tells (M5, M7).

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::process::eventually;
use crate::rig::{Rig, is_mounted, kill_daemon, mount_status, refused, umount};

/// Nobody but the kernel is left to say that the daemon is gone: its lock and its socket do (M5, M7).
///
/// Row: daemon.killed
#[test]
fn a_killed_daemon_gives_up_its_pin_and_its_mount_gives_errors() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let mount = rig.mount("mnt", &[]);
    assert_eq!(rig.pins().len(), 1);
    assert_eq!(rig.pin_files().len(), 1);
    kill_daemon(&mount);
    eventually("the pin is gone", || rig.pins().is_empty());
    eventually("its index is gone", || rig.pin_files().is_empty());
    rig.engine().wait_unpinned();

    assert!(is_mounted(&mount));
    let errno = |error: std::io::Error| error.raw_os_error();
    assert_eq!(
        errno(fs::read_dir(&mount).unwrap_err()),
        Some(libc::ENOTCONN)
    );
    let read = fs::read(mount.join("data.pages"));
    assert_eq!(errno(read.unwrap_err()), Some(libc::ENOTCONN));
    let shown = mount_status(&mount);
    assert_eq!(shown["state"], "dead", "{shown}");
    let reason = shown["reason"].as_str().unwrap();
    assert!(reason.contains("stillfs umount"), "{shown}");

    let again = ["mount".as_ref(), rig.source.as_os_str(), mount.as_os_str()];
    let advice = format!("stillfs umount {}", mount.display());
    refused(&again, 1, &advice);
    umount(&mount);
    assert_eq!(fs::read_dir(&mount).unwrap().count(), 0);
    rig.assert_nothing_left(&[]);
    rig.mount_on(&mount, &[]);
    assert_eq!(mount_status(&mount)["state"], "held");
}

/// A daemon that dies every night must not fill the disk in a year.
#[test]
fn slots_of_a_killed_daemons_pin_are_used_again() {
    let Some(rig) = Rig::with_fill(400) else {
        return;
    };
    let mount = rig.dir("mnt");
    let mut client = rig.engine().client();
    let mut sizes = Vec::new();
    for round in 0..6 {
        client.command(&["CHECKPOINT"]).unwrap();
        rig.mount_on(&mount, &[]);
        for key in (0..400).step_by(5) {
            let value = format!("{round}").repeat(1000);
            client
                .command(&["SET", &format!("fill:{key:06}"), &value])
                .unwrap();
        }
        client.command(&["CHECKPOINT"]).unwrap();
        assert!(rig.engine().stat("stillfs_shadow_slots") > 10);
        kill_daemon(&mount);
        rig.engine().wait_unpinned();
        umount(&mount);
        sizes.push(
            fs::metadata(rig.source.join("shadow/slots"))
                .unwrap()
                .size(),
        );
    }
    assert!(sizes[1..].iter().all(|size| *size == sizes[1]), "{sizes:?}");
}
