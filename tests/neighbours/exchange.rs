//! Somebody who may write a directory in which root works, and exchanges what is in it.

use std::fs;
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::Path;

use crate::process::{end_of, is_root, stillfs};
use crate::rig::{Place, STRANGER, Served, can_mount, chmod};

fn serve_refused(dir: &Path, text: &str) {
    let mut serve = stillfs();
    let ended = end_of(
        serve
            .arg("serve")
            .arg(dir)
            .args(["--listen", "127.0.0.1:0"]),
    );
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.err.contains(text), "{ended:?}");
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

/// G18: root makes nothing where another user could exchange it.
#[test]
fn root_does_not_work_where_another_user_may_write() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let owned = format!("belongs to user {STRANGER}");
    let theirs = place.dir_of("theirs", STRANGER);
    serve_refused(&theirs, &owned);
    serve_refused(&theirs.join("below"), &owned);
    let ours = theirs.join("ours");
    fs::create_dir(&ours).unwrap();
    serve_refused(&ours, &owned);
    assert_eq!(names(&ours), [""; 0]);
    fs::remove_dir(&ours).unwrap();
    assert_eq!(names(&theirs), [""; 0]);

    let open = place.dir("open", 0o777);
    serve_refused(&open, "may be written by others");
    chmod(&open, 0o1777);
    serve_refused(&open, "may be written by others");
    chmod(&open, 0o770);
    chown(&open, None, Some(STRANGER)).unwrap();
    serve_refused(&open, "chmod go-w");
    assert_eq!(names(&open), [""; 0]);
    // What is ours in a sticky folder, nobody else can move.
    chmod(&open, 0o1777);
    let served = Served::start(&place, &open.join("db"));
    served.assert_serves();
}

/// G18: links that were planted while the directory was open lead nowhere.
#[test]
fn planted_links_are_not_followed() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let precious = place.dir("precious", 0o700);
    let kept = [
        "data.pages",
        "slots",
        "0.pin",
        "0000000000000000.wal",
        "LOCK",
    ];
    for name in kept {
        fs::write(precious.join(name), "precious").unwrap();
    }
    for name in [
        "shadow",
        "wal",
        "control.sock",
        "LOCK",
        "data.pages.new",
        "data.pages",
    ] {
        let dir = place.dir(&format!("db-{name}"), 0o700);
        let target = match name {
            "LOCK" | "data.pages" => precious.join(name),
            "data.pages.new" => precious.join("data.pages"),
            _ => precious.clone(),
        };
        symlink(&target, dir.join(name)).unwrap();
        lchown(dir.join(name), Some(STRANGER), Some(STRANGER)).unwrap();
        serve_refused(&dir, &format!("{name} belongs to user {STRANGER}"));
        // Nor is one of root's own, where a file must be.
        if ["data.pages", "control.sock"].contains(&name) {
            lchown(dir.join(name), Some(0), Some(0)).unwrap();
            serve_refused(&dir, name);
        }
    }
    for name in kept {
        assert_eq!(fs::read_to_string(precious.join(name)).unwrap(), "precious");
    }
    assert_eq!(names(&precious).len(), kept.len());
}

/// G19: another user cannot make root mount somewhere else.
#[test]
fn root_does_not_mount_where_another_user_could_exchange_the_mount_point() {
    if !is_root() || !can_mount() {
        return;
    }
    let place = Place::new();
    let served = Served::start(&place, &place.path("db"));
    let theirs = place.dir_of("theirs", STRANGER);
    let point = theirs.join("point");
    fs::create_dir(&point).unwrap();
    let mount = |point: &Path| end_of(stillfs().arg("mount").arg(&served.dir).arg(point));
    let ended = mount(&point);
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.err.contains("refusing to mount on"), "{ended:?}");
    assert!(
        ended.err.contains(&format!("belongs to user {STRANGER}")),
        "{ended:?}"
    );
    // A mount point may be theirs where they cannot move it.
    let ended = mount(&theirs);
    assert_eq!(ended.code(), 1, "{ended:?}");
    fs::remove_dir(&point).unwrap();
    let ended = mount(&theirs);
    assert!(ended.status.success(), "{ended:?}");
    assert!(
        end_of(stillfs().arg("umount").arg(&theirs))
            .status
            .success()
    );
}

/// G20: a socket for clients lies where nobody else can put one of his own.
#[test]
fn a_socket_for_clients_is_not_made_in_a_folder_that_others_may_write() {
    let place = Place::new();
    let open = place.dir("open", 0o777);
    let socket = open.join("redis.sock");
    let mut serve = stillfs();
    serve
        .arg("serve")
        .arg(place.path("db"))
        .arg("--unix")
        .arg(&socket);
    let ended = end_of(&mut serve);
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.err.contains("may be written by others"), "{ended:?}");
    assert!(!socket.exists());
    chmod(&open, 0o1777);
    let words = ["--unix", socket.to_str().unwrap()];
    let served = Served::with(&place, &place.path("db"), &words, &mut stillfs());
    assert_eq!(
        std::os::unix::fs::MetadataExt::mode(&fs::metadata(&socket).unwrap()) & 0o777,
        0o600
    );
    served.stop();
}
