//! How a mount and its daemon live and end.

use std::fs;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};

use crate::process::{eventually, has_tool, is_running, signal, stillfs, succeed, wait};
use crate::rig::{Rig, daemon_of, is_mounted, mount_status, refused, umount};
use crate::scene::Scene;

/// Row: umount.directory
#[test]
fn a_mount_with_somebody_in_it_is_busy_and_says_how_to_find_him() {
    let Some(scene) = Scene::new() else { return };
    let mut inside = Command::new("cat")
        .current_dir(&scene.mnt)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let words = ["umount".as_ref(), scene.mnt.as_os_str()];
    let said = refused(&words, 11, "is busy");
    assert!(
        said.contains("fuser -vm") && said.contains("--lazy"),
        "{said}"
    );
    assert!(fs::read(scene.pages()).unwrap() == scene.expected);
    drop(inside.stdin.take());
    wait(&mut inside, "somebody inside");
    umount(&scene.mnt);
}

/// Row: daemon.hangup
#[test]
fn a_hangup_does_not_end_a_view() {
    let Some(scene) = Scene::new() else { return };
    let daemon = daemon_of(&scene.mnt);
    for _ in 0..3 {
        signal(daemon, Signal::SIGHUP);
        scene.load.progress();
    }
    assert!(fs::read(scene.pages()).unwrap() == scene.expected);
    assert_eq!(mount_status(&scene.mnt)["state"], "held");
}

/// Row: daemon.logout
#[test]
fn a_view_outlives_the_session_that_mounted_it() {
    let Some(rig) = Rig::with_fill(100) else {
        return;
    };
    if !has_tool("script") {
        return;
    }
    let point = rig.dir("mnt");
    // A terminal of its own, which goes away when the shell has ended by its signal.
    let line = format!(
        "{} mount {} {}; kill -HUP $$",
        stillfs().get_program().display(),
        rig.source.display(),
        point.display()
    );
    let mut session = Command::new("script");
    let session = session
        .args(["-q", "-c", &line, "/dev/null"])
        .stdin(Stdio::null());
    let _ = crate::process::end_of(session);
    let daemon = daemon_of(&point);
    assert!(is_running(daemon));
    let pid = Pid::from_raw(i32::try_from(daemon).unwrap());
    assert_eq!(getsid(Some(pid)).unwrap(), pid, "a session of its own");
    let stat = fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap();
    let terminal = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(4)
        .unwrap();
    assert_eq!(terminal, "0", "no terminal");
    fs::read(point.join("data.pages")).unwrap();
    assert_eq!(mount_status(&point)["state"], "held");
    umount(&point);
    rig.assert_nothing_left(&[daemon]);
}

/// Row: daemon.interrupt
#[test]
fn an_interrupt_of_the_daemon_releases_the_pin_and_a_user_keeps_his_file() {
    let Some(scene) = Scene::new() else { return };
    let daemon = daemon_of(&scene.mnt);
    let user = fs::File::open(scene.pages()).unwrap();
    signal(daemon, Signal::SIGINT);
    eventually("the name goes at once", || !is_mounted(&scene.mnt));
    let mut bytes = vec![0; scene.expected.len()];
    std::os::unix::fs::FileExt::read_exact_at(&user, &mut bytes, 0).unwrap();
    assert!(bytes == scene.expected);
    assert_eq!(scene.rig.pins().len(), 1);
    drop(user);
    eventually("the pin goes with the last user", || {
        scene.rig.pins().is_empty()
    });
    eventually("the daemon ends", || !is_running(daemon));
}

/// Row: engine.gone
#[test]
fn a_view_goes_on_without_its_engine_and_can_be_unmounted() {
    let Some(mut scene) = Scene::with(&["-o", "direct_io"]) else {
        return;
    };
    scene.load.expect_end();
    scene.rig.take_engine().kill();
    for _ in 0..2 {
        assert!(fs::read(scene.pages()).unwrap() == scene.expected);
    }
    let daemon = daemon_of(&scene.mnt);
    umount(&scene.mnt);
    eventually("the daemon ends", || !is_running(daemon));
}

/// Row: remount.later
#[test]
fn a_later_mount_shows_a_later_commit_beside_the_old_one() {
    let Some(scene) = Scene::new() else { return };
    let later = scene.rig.mount("later", &[]);
    assert_ne!(fs::read(later.join("data.pages")).unwrap(), scene.expected);
    assert!(fs::read(scene.pages()).unwrap() == scene.expected);
    umount(&later);
    assert!(fs::read(scene.pages()).unwrap() == scene.expected);
    let cmp = succeed(
        Command::new("cmp")
            .arg(scene.pages())
            .arg(scene.plain_copy().join("data.pages")),
    );
    assert_eq!(cmp, "");
}
