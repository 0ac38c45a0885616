//! Mounts over restarts of the engine, and mounts without one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::load::Load;
use crate::process::{
    assert_same_bytes, eventually, is_running, signal, stillfs, succeed, suspend,
};
use crate::rig::{
    Rig, copy, daemon_of, is_mounted, kill_daemon, mount_status, refused, umount, umount_ended,
};

fn write(rig: &Rig, round: u32) {
    let mut client = rig.engine().client();
    for key in 0..300 {
        let value = format!("{round}").repeat(700);
        client
            .command(&["SET", &format!("fill:{key:06}"), &value])
            .unwrap();
    }
    client.command(&["CHECKPOINT"]).unwrap();
}

/// `stillfs dump --digest` of what is at `path`.
pub fn digest(path: &Path) -> String {
    succeed(stillfs().args(["dump", "--digest"]).arg(path))
}

fn assert_held(mounts: &[PathBuf], reconnects: u64) {
    for mount in mounts {
        eventually("the pin is reclaimed", || {
            let shown = mount_status(mount);
            shown["state"] == "held" && shown["reconnects"] == reconnects
        });
    }
}

/// D5, S5: three states, three restarts, by crash and by stop, and each view is what it was.
#[test]
fn three_pins_outlive_three_restarts() {
    let Some(mut rig) = Rig::with_fill(400) else {
        return;
    };
    let mut mounts = Vec::new();
    let mut digests = Vec::new();
    for round in 0..3 {
        write(&rig, round);
        let mount = rig.mount(&format!("mnt{round}"), &["-o", "direct_io"]);
        digests.push(digest(&mount));
        mounts.push(mount);
    }
    assert!(digests[0] != digests[1] && digests[1] != digests[2]);
    for round in 3..6 {
        if round == 4 {
            assert!(rig.take_engine().stop().success());
        } else {
            rig.take_engine().kill();
        }
        for (mount, expected) in mounts.iter().zip(&digests) {
            assert_eq!(digest(mount), *expected);
        }
        rig.start();
        write(&rig, round);
        assert_held(&mounts, u64::from(round) - 2);
        for (mount, expected) in mounts.iter().zip(&digests) {
            assert_eq!(digest(mount), *expected);
        }
    }
    for pin in rig.pins() {
        assert_eq!(pin["state"], "held", "{pin}");
        assert!(pin["mount_point"].is_string(), "{pin}");
    }
    mounts.iter().for_each(|mount| umount(mount));
    rig.assert_nothing_left(&[]);
}

/// D7: the view is of the newest commit, although it stands in the log only; and the engine that starts
/// in the middle of the copy takes the pin over.
#[test]
fn a_mount_without_an_engine_is_taken_over_by_the_one_that_starts() {
    let Some(mut rig) = Rig::with_fill(3000) else {
        return;
    };
    write(&rig, 1);
    let mut client = rig.engine().client();
    client.command(&["SET", "last", "word"]).unwrap();
    let expected = rig.mount("expected", &[]);
    copy(&expected, &rig.path("copy-expected"));
    umount(&expected);
    rig.take_engine().kill();
    let live = fs::read(rig.source.join("data.pages")).unwrap();

    let mount = rig.mount("mnt", &["-o", "direct_io"]);
    assert_eq!(fs::read(rig.source.join("data.pages")).unwrap(), live);
    assert_eq!(mount_status(&mount)["state"], "no engine");
    let file = File::open(mount.join("data.pages")).unwrap();
    let bytes = fs::read(rig.path("copy-expected/data.pages")).unwrap();
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    let mut found = vec![0; head.len()];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == head, "the first half");

    rig.start();
    let load = Load::start(rig.engine().address);
    load.progress();
    let mut found = vec![0; tail.len()];
    file.read_exact_at(&mut found, head.len() as u64).unwrap();
    assert!(found == tail, "the second half");
    load.stop();
    assert_held(std::slice::from_ref(&mount), 1);
    assert_same_bytes(&mount, &rig.path("copy-expected"));
    drop(file);
    // There was one by now.
    rig.take_engine().kill();
    eventually("the daemon hears of it", || {
        mount_status(&mount)["state"] == "engine gone"
    });
    rig.start();
    umount(&mount);
    rig.assert_nothing_left(&[]);
}

/// Several of them share slots; each that ends cleans up after itself, also with nobody there.
#[test]
fn mounts_without_an_engine_clean_up_after_themselves() {
    let Some(mut rig) = Rig::with_fill(200) else {
        return;
    };
    write(&rig, 1);
    rig.take_engine().kill();
    let one = rig.mount("one", &[]);
    let two = rig.mount("two", &[]);
    assert_same_bytes(&one, &two);
    assert_eq!(rig.pin_files().len(), 2);
    let expected = digest(&one);
    umount(&one);
    assert_eq!(rig.pin_files().len(), 1);
    let three = rig.mount("three", &[]);
    for mount in [&two, &three] {
        assert_eq!(digest(mount), expected);
    }
    umount(&two);
    umount(&three);
    assert_eq!(rig.pin_files(), [] as [PathBuf; 0]);
    let slots = fs::metadata(rig.source.join("shadow/slots")).unwrap();
    assert_eq!(slots.len(), 0);
    let text = succeed(stillfs().args(["run"]).arg(&rig.source).args([
        "--",
        "cp",
        "-a",
        "{}",
        rig.path("copy").to_str().unwrap(),
    ]));
    assert_eq!(text, "");
    assert_eq!(digest(&rig.path("copy")), expected);
    // A clean page file without a shadow, as a restored copy is.
    let restored = rig.path("copy");
    fs::remove_file(restored.join("snapshot.json")).unwrap();
    let mount = rig.dir("restored");
    succeed(stillfs().arg("mount").arg(&restored).arg(&mount));
    assert_eq!(digest(&mount), expected);
    umount(&mount);
    rig.start();
    rig.assert_nothing_left(&[]);
}

/// P9: a daemon that dies while nobody looks leaves its index, and nothing else.
#[test]
fn a_daemon_killed_while_the_engine_is_down_leaves_no_pin() {
    let Some(mut rig) = Rig::with_fill(200) else {
        return;
    };
    let mount = rig.mount("mnt", &[]);
    rig.take_engine().kill();
    kill_daemon(&mount);
    assert_eq!(rig.pin_files().len(), 1);
    rig.start();
    assert_eq!(rig.pin_files(), [] as [PathBuf; 0]);
    assert!(rig.pins().is_empty());
    umount(&mount);
    rig.assert_nothing_left(&[]);
}

/// N3, E10: nothing tells the engine of the pin any more, and the fence does what is left to do.
#[test]
fn a_shadow_removed_by_hand_gives_errors_and_no_wrong_bytes() {
    let Some(mut rig) = Rig::with_fill(400) else {
        return;
    };
    write(&rig, 1);
    let mount = rig.mount("mnt", &["-o", "direct_io"]);
    let file = File::open(mount.join("data.pages")).unwrap();
    let pinned = fs::read(mount.join("data.pages")).unwrap();
    fs::remove_dir_all(rig.source.join("shadow")).unwrap();
    let read = |expected: Option<&[u8]>| {
        let mut out = vec![0; pinned.len()];
        match (file.read_exact_at(&mut out, 0), expected) {
            (Ok(()), Some(expected)) => assert!(out == expected, "wrong bytes"),
            (Err(error), None) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}"),
            (read, expected) => panic!("{read:?}, expected bytes: {}", expected.is_some()),
        }
    };
    write(&rig, 2);
    read(Some(&pinned));
    rig.take_engine().kill();
    read(Some(&pinned));
    rig.start();
    read(None);
    write(&rig, 3);
    read(None);
    eventually("the daemon knows why", || {
        let shown = mount_status(&mount);
        shown["state"] == "ended"
            && shown["reason"]
                .as_str()
                .unwrap()
                .contains("take the pin over")
    });
    drop(file);
    umount_ended(&mount);
    rig.assert_nothing_left(&[]);
}

/// A daemon that hangs must not hold up the disk for ever.
#[test]
fn a_pin_that_nobody_reclaims_ends() {
    let Some(mut rig) = Rig::with_fill(100) else {
        return;
    };
    let mount = rig.mount("mnt", &["-o", "direct_io"]);
    let daemon = daemon_of(&mount);
    suspend(daemon);
    rig.take_engine().kill();
    rig.start_with(&["--claim-patience", "5"], Stdio::inherit());
    assert_eq!(rig.pins()[0]["state"], "adopted, not reclaimed yet");
    eventually("the pin has ended", || rig.pins().is_empty());
    signal(daemon, nix::sys::signal::Signal::SIGCONT);
    assert!(is_running(daemon));
    eventually("reads fail", || fs::read(mount.join("data.pages")).is_err());
    umount_ended(&mount);
    rig.assert_nothing_left(&[]);
}

/// Holds the lock of a directory, as a mount without an engine does for a moment.
fn hold(dir: &Path) -> File {
    let held = File::open(dir).unwrap();
    held.try_lock().unwrap();
    held
}

/// An engine waits for a mount that pins, and not for another engine.
#[test]
fn an_engine_that_starts_waits_for_a_mount_and_not_for_an_engine() {
    let Some(mut rig) = Rig::with_fill(100) else {
        return;
    };
    let serve = ["serve".as_ref(), rig.source.as_os_str()];
    refused(&serve, 11, "engine");
    rig.take_engine().kill();
    let held = hold(&rig.source);
    let release = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        drop(held);
    });
    rig.start();
    assert!(release.is_finished());
    release.join().unwrap();
}

/// Nobody answers, and somebody is there: that is said, with his name, and not waited for without end.
#[test]
fn a_mount_says_for_whom_it_waited() {
    let Some(mut rig) = Rig::with_fill(100) else {
        return;
    };
    rig.take_engine().kill();
    fs::write(rig.source.join("LOCK"), "process 77, mount\n").unwrap();
    let held = hold(&rig.source);
    let point = rig.dir("mnt");
    let mount = ["mount".as_ref(), rig.source.as_os_str(), point.as_os_str()];
    refused(&mount, 11, "process 77, mount");
    assert!(!is_mounted(&point));
    drop(held);
    rig.mount_on(&point, &[]);
    umount(&point);
}
