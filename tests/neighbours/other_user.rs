//! A second user of the machine, and everything that engine and mounts leave in the file system.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Uid, geteuid};

use crate::process::{end_of, eventually, is_root, stillfs, succeed};
use crate::rig::{Place, STRANGER, Served, as_stranger, as_user, assert_denied, can_mount, chmod};

/// The command in a shell that takes no bit away from new files.
fn careless(program: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 0; exec \"$@\"", "sh"]);
    shell.arg(program.get_program()).env("LC_ALL", "C");
    shell
}

/// Every file and directory below `dir`.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found
}

fn assert_private(path: &Path) {
    let mode = fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
}

/// An engine with pages in the log, in the shadow and in the live file, of whom umask 0 hides nothing.
fn busy_engine(place: &Place) -> Served {
    let dir = place.dir("db", 0o755);
    let words = ["--listen", "127.0.0.1:0", "--checkpoint-size", "64K"];
    let served = Served::with(place, &dir, &words, &mut careless(&stillfs()));
    write_some(&served);
    served
}

fn write_some(served: &Served) {
    let mut client = served.client();
    for number in 0..300 {
        let key = format!("key{number}");
        client
            .command(&["SET", &key, &"secret".repeat(100)])
            .unwrap();
    }
}

/// G21: the directory itself may be open; nothing that is made in it is.
#[test]
fn nothing_that_an_engine_makes_is_open_to_others() {
    if !is_root() || !can_mount() {
        return;
    }
    let place = Place::new();
    let served = busy_engine(&place);
    let point = place.dir("point", 0o755);
    let log = place.path("daemon.log");
    let mut mount = careless(&stillfs());
    mount.arg("mount").arg("--log").arg(&log);
    succeed(mount.arg(&served.dir).arg(&point));
    assert_private(&log);
    write_some(&served);
    served.client().command(&["CHECKPOINT"]).unwrap();
    let files = below(&served.dir);
    let has = |name: &str| {
        files
            .iter()
            .any(|path| path.to_string_lossy().contains(name))
    };
    for name in [
        "data.pages",
        "LOCK",
        "control.sock",
        "/wal/",
        "/shadow/slots",
        ".pin",
    ] {
        assert!(has(name), "{name} is not there: {files:?}");
    }
    for path in &files {
        assert_private(path);
        match path.is_dir() {
            true => assert_denied("ls \"$1\"", path),
            false => assert_denied("cat < \"$1\"", path),
        }
        assert_denied("echo evil > \"$1/evil\" || mv \"$1\" \"$1.evil\"", path);
    }
    assert!(served.log().contains("chmod 700"), "{}", served.log());
    // The spool and the descriptors of a pin have no names but these.
    let own = PathBuf::from(format!("/proc/{}/fd", served.pid()));
    assert_denied("ls \"$1\" && cat \"$1\"/*", &own);
    succeed(stillfs().arg("umount").arg(&point));
    served.stop();
}

/// G22: a mount, its record and its folder are for the one who mounted.
#[test]
fn a_mount_and_its_record_are_closed_to_others() {
    if !is_root() || !can_mount() {
        return;
    }
    let place = Place::new();
    let served = busy_engine(&place);
    let point = place.dir("point", 0o777);
    succeed(
        careless(&stillfs())
            .arg("mount")
            .arg(&served.dir)
            .arg(&point),
    );
    assert_denied("ls \"$1\"", &point);
    assert_denied("cat \"$1/data.pages\"", &point);
    let mut umount = as_user("umount", STRANGER).unwrap();
    assert!(!end_of(umount.arg(&point)).status.success());
    let mut umount = as_stranger("stillfs", &place).unwrap();
    let ended = end_of(umount.arg("umount").arg(&point));
    assert!(!ended.status.success(), "{ended:?}");
    assert!(point.join("data.pages").exists());
    let records = Path::new("/run/stillfs");
    assert_private(records);
    for record in below(records) {
        // Others come and go meanwhile; views that are mounted cannot be looked at by path.
        if record.extension().is_some_and(|ending| ending == "mount") && record.exists() {
            assert_private(&record);
        }
    }
    assert_denied("ls \"$1\"", records);
    // While `run` runs, where it has its view.
    let mut run = careless(&stillfs());
    run.arg("run").arg(&served.dir).args(["--", "sh", "-c"]);
    let script = format!(
        "id -u; setpriv --reuid {STRANGER} --regid {STRANGER} --clear-groups cat \"$1/data.pages\" 2>&1 \
         | head -c 1000; test -r \"$1/data.pages\" && echo readable"
    );
    let said = succeed(run.arg(script).args(["sh", "{}"]));
    assert!(said.contains("Permission denied"), "{said}");
    assert!(said.contains("readable"), "{said}");
    let views = records.join("views");
    assert_private(&views);
    for view in fs::read_dir(&views).unwrap().flatten() {
        if view.file_name().to_string_lossy().starts_with("db-") {
            let _ = fs::remove_dir(view.path());
        }
    }
    succeed(stillfs().arg("umount").arg(&point));
}

/// G23: with `allow_other` the modes of the original files count.
#[test]
fn with_allow_other_modes_count() {
    if !is_root() || !can_mount() {
        return;
    }
    let place = Place::new();
    let served = busy_engine(&place);
    let point = place.dir("point", 0o755);
    let mount = || {
        let mut mount = stillfs();
        mount.args(["mount", "-o", "allow_other"]);
        succeed(mount.arg(&served.dir).arg(&point));
    };
    mount();
    assert_denied("cat \"$1/data.pages\"", &point);
    assert_denied("cat \"$1/snapshot.json\"", &point);
    succeed(as_user("ls", STRANGER).unwrap().arg(&point));
    succeed(stillfs().arg("umount").arg(&point));
    chmod(&served.dir.join("data.pages"), 0o644);
    mount();
    let data = point.join("data.pages");
    succeed(as_user("sha256sum", STRANGER).unwrap().arg(&data));
    for change in ["echo evil > \"$1\"", "rm \"$1\"", "chmod 777 \"$1\""] {
        let mut shell = as_user("sh", STRANGER).unwrap();
        let ended = end_of(shell.args(["-c", change, "sh"]).arg(&data));
        assert!(!ended.status.success(), "{change}: {ended:?}");
    }
    succeed(stillfs().arg("umount").arg(&point));
    chmod(&served.dir, 0o700);
    mount();
    assert_denied("ls \"$1\"", &point);
    succeed(stillfs().arg("umount").arg(&point));
}

/// Whose engine it is, root may pin and copy.
#[test]
fn root_may_mount_the_database_of_another_user() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let Some(mut program) = as_stranger("stillfs", &place) else {
        return;
    };
    let dir = place.dir_of("theirs", STRANGER);
    let words = ["--listen", "127.0.0.1:0"];
    let served = Served::with(&place, &dir, &words, &mut program);
    served.assert_serves();
    let point = place.dir("point", 0o755);
    succeed(stillfs().arg("mount").arg(&dir).arg(&point));
    assert_eq!(
        fs::metadata(point.join("data.pages")).unwrap().uid(),
        STRANGER
    );
    let copy = place.path("copy");
    succeed(Command::new("cp").arg("-a").arg(&point).arg(&copy));
    succeed(stillfs().arg("check").arg(&copy));
    succeed(stillfs().arg("umount").arg(&point));
    eventually("the mount's record is gone", || {
        let text = succeed(stillfs().arg("status").arg("--json"));
        !text.contains(point.to_str().unwrap())
    });
    assert_eq!(geteuid(), Uid::from_raw(0));
}
