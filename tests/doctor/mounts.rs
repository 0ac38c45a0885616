//! What daemons leave when they die or hang, and views.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use stillfs::mount::{MountOptions, MountPoint, Registry, StatusSource};
use stillfs::view::tree::{Attributes, Tree};

use crate::consultation::{doctor, doctor_of, expect, expect_well, find, follow, mend};
use crate::process::{end_of, eventually, is_running, stillfs, succeed, suspend};
use crate::rig::{Rig, copy, daemon_of, is_mounted, kill_daemon, mount_status, refused, umount};

/// How long it may take, whoever hangs: a few deadlines of seconds each.
const BOUND: Duration = Duration::from_secs(50);

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Finding: stale_mount, mount_record, no_answer
#[test]
fn what_a_dead_daemon_leaves_is_found_and_cleaned() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let mount = rig.mount("mnt it's", &[]);
    expect_well(&doctor(None), "stale_mount", text(&mount));
    kill_daemon(&mount);
    let found = expect(
        &doctor(None),
        "stale_mount",
        text(&mount),
        "problem",
        "daemon died",
    );
    // The record is part of the same illness.
    assert_eq!(find(&doctor(None), "mount_record", text(&mount)), None);
    let below = doctor_of(&mount.join("data.pages"));
    expect(
        &below,
        "no_answer",
        "data.pages",
        "problem",
        "a daemon that died",
    );
    mend(&found);
    expect_well(&doctor(None), "stale_mount", text(&mount));
    rig.assert_nothing_left(&[]);

    rig.mount_on(&mount, &[]);
    kill_daemon(&mount);
    umount2(&mount, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(rig.records().len(), 1);
    let findings = doctor(None);
    let is_of_ours = |one: &&serde_json::Value| {
        one["id"] == "mount_record" && one["message"].as_str().unwrap().contains(text(&mount))
    };
    let found = findings.iter().find(is_of_ours).expect("its record");
    assert_eq!(found["level"], "warning");
    mend(found);
    assert!(!doctor(None).iter().any(|one| is_of_ours(&one)));
    rig.assert_nothing_left(&[]);
}

/// Finding: hung_mount, no_answer
#[test]
fn a_daemon_that_hangs_is_found_without_waiting_for_it() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let mount = rig.mount("mnt", &[]);
    let daemon = daemon_of(&mount);
    suspend(daemon);
    let started = std::time::Instant::now();
    let found = doctor_of(&mount.join("never-asked-for"));
    expect(
        &found,
        "no_answer",
        "never-asked-for",
        "problem",
        text(&mount),
    );
    let found = expect(
        &found,
        "hung_mount",
        text(&mount),
        "problem",
        "does not answer",
    );
    let shown = mount_status(&mount);
    assert_eq!(shown["state"], "no answer");
    let reason = shown["reason"].as_str().unwrap();
    assert!(reason.starts_with("stillfs doctor"), "{shown}");
    let ended = end_of(stillfs().arg("status").arg(mount.join("never-asked-for")));
    assert!(ended.err.contains("does not answer"), "{ended:?}");
    // A source whose folder leads there, as somebody might make it for whoever looks.
    let trap = rig.path("trap");
    copy(&rig.source, &trap);
    fs::remove_dir_all(trap.join("wal")).unwrap();
    std::os::unix::fs::symlink(mount.join("never-asked-for"), trap.join("wal")).unwrap();
    expect(&doctor_of(&trap), "no_answer", "wal", "problem", "hangs");
    assert!(started.elapsed() < BOUND);
    assert!(
        found["remedy"]
            .as_str()
            .unwrap()
            .contains(&format!("kill -KILL {daemon}"))
    );
    mend(&found);
    eventually("the daemon is gone", || !is_running(daemon));
    expect_well(&doctor(None), "hung_mount", text(&mount));
    rig.assert_nothing_left(&[daemon]);
}

/// A request that a daemon took and never answers keeps its asker in the kernel, where no signal
/// reaches it: that must be a child's fate and not the doctor's.
///
/// Finding: hung_mount
#[test]
fn a_daemon_that_never_answers_a_request_holds_up_nobody() {
    let Some(rig) = Rig::without_engine() else {
        return;
    };
    let point = rig.dir("deadlocked");
    let registry = Registry::at(rig.path("registry")).unwrap();
    let place = MountPoint::check(&point, &rig.source, &registry).unwrap();
    let attributes = Attributes {
        mode: 0o755,
        uid: 0,
        gid: 0,
        changed_ns: 1,
    };
    let tree = Arc::new(Tree::new(attributes, [].into()));
    let lock = Arc::new(std::sync::Mutex::new(()));
    let held = lock.lock().unwrap();
    let waits = lock.clone();
    let status = StatusSource::new(move || {
        drop(waits.lock());
        String::new()
    });
    let options = MountOptions::default();
    let session = stillfs::mount::mount(tree, &place, options, "x".as_ref(), status).unwrap();
    let started = std::time::Instant::now();
    let found = doctor_of(&point);
    let found = expect(
        &found,
        "hung_mount",
        text(&point),
        "problem",
        "does not answer",
    );
    assert!(
        found["remedy"].as_str().unwrap().contains("umount --lazy"),
        "{found}"
    );
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    drop(held);
    session.unmount(stillfs::mount::Lazy::Yes).unwrap();
}

/// Finding: view, pin
#[test]
fn a_view_is_described_and_its_end_is_a_problem() {
    let Some(mut rig) = Rig::with_fill(100) else {
        return;
    };
    let mount = rig.mount("mnt", &[]);
    let daemon = daemon_of(&mount);
    let found = doctor_of(&mount);
    let text = text(&mount);
    let view = expect(&found, "view", text, "ok", "held");
    let message = view["message"].as_str().unwrap();
    assert!(message.contains(rig.source.to_str().unwrap()), "{view}");
    assert!(message.contains(&format!("process {daemon}")), "{view}");
    // By another way to the same place.
    let link = rig.path("link");
    std::os::unix::fs::symlink(&mount, &link).unwrap();
    expect(&doctor_of(&link), "view", text, "ok", "held");

    let pins = doctor_of(&rig.source);
    expect(&pins, "pin", "pin ", "ok", &format!("at {text}"));

    rig.take_engine().kill();
    eventually("the daemon hears of it", || {
        find(&doctor_of(&mount), "view", text).unwrap()["level"] == "warning"
    });
    expect(&doctor_of(&mount), "view", text, "warning", "engine gone");
    // Whatever a next engine makes of the pin, deleting its folder ends it.
    fs::remove_dir_all(rig.source.join("shadow")).unwrap();
    rig.start();
    let ended = expect(&doctor_of(&mount), "view", text, "problem", "ended");
    let followed = follow(&ended);
    assert!(!is_mounted(&mount), "{followed:?}");
    rig.mount_on(&mount, &[]);
    expect(&doctor_of(&mount), "view", text, "ok", "held");

    umount(&mount);
    rig.take_engine().kill();
    rig.mount_on(&mount, &[]);
    expect(&doctor_of(&mount), "view", text, "ok", "no engine");
}

/// Finding: failed_read
#[test]
fn a_view_whose_reads_fail_says_so() {
    let Some(rig) = Rig::with_fill(400) else {
        return;
    };
    rig.engine().client().command(&["CHECKPOINT"]).unwrap();
    let mount = rig.mount("mnt", &["-o", "direct_io"]);
    let found = doctor_of(&mount);
    assert_eq!(find(&found, "failed_read", ""), None);
    let pages = fs::File::options()
        .write(true)
        .open(rig.source.join("data.pages"))
        .unwrap();
    let last = pages.metadata().unwrap().len() - 100;
    pages.write_all_at(b"a failing disk", last).unwrap();
    fs::read(mount.join("data.pages")).unwrap_err();
    let found = doctor_of(&mount);
    let found = expect(
        &found,
        "failed_read",
        mount.to_str().unwrap(),
        "problem",
        "a read failed",
    );
    assert!(
        found["remedy"]
            .as_str()
            .unwrap()
            .starts_with("stillfs check"),
        "{found}"
    );
    // The pin was held all the time, and yet a copy is not whole.
    let failed = mount_status(&mount)["failed_read"].clone();
    assert!(failed.as_str().unwrap().contains("data.pages"), "{failed}");
    let said = refused(
        &["umount".as_ref(), mount.as_os_str()],
        13,
        "a read of it failed",
    );
    assert!(said.contains("stillfs check"), "{said}");
    assert!(!is_mounted(&mount));
}

/// Two words for people, and the same codes.
#[test]
fn people_get_lines_and_the_same_exit_code() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    let ended = end_of(stillfs().arg("doctor").arg(rig.path("missing")));
    assert_eq!(ended.code(), 1, "{ended:?}");
    let lines: Vec<&str> = ended.out.lines().collect();
    let subject = format!("PROBLEM  {}: does not exist", rig.path("missing").display());
    let at = lines
        .iter()
        .position(|line| line.starts_with(&subject))
        .expect(&ended.out);
    assert!(
        lines[at + 1].trim_start().starts_with("$ stillfs serve "),
        "{ended:?}"
    );
    assert!(lines.last().unwrap().contains("problem"), "{ended:?}");
    assert_eq!(end_of(stillfs().args(["doctor", "a", "b"])).code(), 2);
    let help = succeed(stillfs().args(["doctor", "--help"]));
    assert!(
        help.contains("Exits 0") && help.contains("warnings do not count"),
        "{help}"
    );
}
