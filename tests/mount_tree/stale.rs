//! Mounts whose daemon was killed, and waiting for a daemon that ends (M5, M7).

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stillfs::mount::point::PointError;
use stillfs::mount::registry::{Liveness, Wait};
use stillfs::mount::unmount::UnmountError;
use stillfs::mount::{Lazy, unmount};

use crate::rig::{RealClock, Rig, can_mount, errno_of, is_mounted};

/// Tells the daemon below where to mount.
const BASE: &str = "STILLFS_TEST_DAEMON_BASE";

/// What the daemon prints when its mount is up.
const MOUNTED: &str = "the mount is up";

/// Not a test: the daemon that the tests below start, and kill.
#[test]
#[ignore = "a process that other tests start"]
fn daemon() {
    let base = std::env::var_os(BASE).expect("only started by other tests");
    let mut rig = Rig::at(Path::new(&base));
    let held = rig.registry.hold(&rig.record()).unwrap();
    rig.mount("", 0);
    println!("\n{MOUNTED}");
    rig.session.take().unwrap().wait().unwrap();
    drop(held);
}

struct Daemon {
    child: Child,
    rig: Rig,
    _base: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> Option<Daemon> {
    if !can_mount() {
        return None;
    }
    let base = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stale::daemon", "--ignored", "--nocapture"])
        .env(BASE, base.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_up = lines.any(|line| line.unwrap() == MOUNTED);
    assert!(is_up, "the daemon mounts");
    let rig = Rig::at(base.path());
    std::thread::spawn(move || lines.for_each(drop));
    Some(Daemon {
        child,
        rig,
        _base: base,
    })
}

fn start_and_kill() -> Option<Daemon> {
    let mut daemon = start()?;
    assert_eq!(
        fs::read(daemon.rig.mnt.join("tiny")).unwrap(),
        crate::rig::TINY
    );
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    Some(daemon)
}

/// M5: an empty directory would be backed up as one.
#[test]
fn a_dead_daemons_mount_gives_errors_and_no_empty_directory() {
    let Some(daemon) = start_and_kill() else {
        return;
    };
    let mnt = &daemon.rig.mnt;
    assert!(is_mounted(mnt));
    assert_eq!(errno_of(fs::read_dir(mnt)), libc::ENOTCONN);
    assert_eq!(errno_of(fs::read(mnt.join("tiny"))), libc::ENOTCONN);
}

#[test]
fn a_stale_mount_is_recognised_explained_and_cleaned() {
    let Some(daemon) = start_and_kill() else {
        return;
    };
    let rig = &daemon.rig;
    let error = rig.check().unwrap_err();
    assert!(matches!(error, PointError::Stale { .. }), "{error}");
    let advice = format!("stillfs umount {}", rig.mnt.display());
    assert!(error.to_string().contains(&advice), "{error}");
    assert!(error.to_string().contains("/var/lib/a,b c"), "{error}");
    let found = rig.registry.find(&rig.mnt).unwrap().unwrap();
    assert_eq!(found.liveness, Liveness::Dead);

    unmount(&rig.mnt, Lazy::No).unwrap();
    assert!(!is_mounted(&rig.mnt));
    assert!(rig.registry.remove_dead(&rig.mnt).unwrap());
    assert!(rig.registry.list().unwrap().is_empty());
    rig.check().unwrap();
}

/// Somebody whose working directory is in a dead mount must not keep it there.
#[test]
fn a_stale_mount_is_cleaned_even_while_it_is_in_use() {
    let Some(mut daemon) = start() else { return };
    let mnt = daemon.rig.mnt.clone();
    let user = File::open(mnt.join("folder")).unwrap();
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    unmount(&mnt, Lazy::No).unwrap();
    assert!(!is_mounted(&mnt));
    drop(user);
}

#[test]
fn whoever_unmounts_can_wait_until_the_daemon_has_let_go() {
    let Some(mut daemon) = start() else { return };
    let rig = &daemon.rig;
    let clock = RealClock(Instant::now());
    let found = rig.registry.find(&rig.mnt).unwrap().unwrap();
    assert_eq!(found.liveness, Liveness::Alive);
    let watch = rig.registry.watch(&rig.mnt).unwrap().unwrap();
    let early = watch.wait_gone(Duration::ZERO, &clock).unwrap();
    assert_eq!(early, Wait::TimedOut);
    unmount(&rig.mnt, Lazy::No).unwrap();
    let wait = watch.wait_gone(Duration::from_secs(60), &clock).unwrap();
    assert_eq!(wait, Wait::Gone);
    assert!(daemon.child.wait().unwrap().success());
    assert_eq!(rig.registry.list().unwrap(), []);
}

/// A daemon that hangs must not hang whoever asks about its mount, or takes it away.
///
/// Row: daemon.hangs
#[test]
fn a_daemon_that_hangs_is_not_asked() {
    let Some(daemon) = start() else { return };
    let user = File::open(daemon.rig.mnt.join("tiny")).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let error = daemon.rig.check().unwrap_err();
    assert!(
        matches!(error, PointError::AlreadyMounted { .. }),
        "{error}"
    );
    let error = unmount(&daemon.rig.mnt, Lazy::No).unwrap_err();
    assert!(matches!(error, UnmountError::Busy { .. }), "{error}");
    unmount(&daemon.rig.mnt, Lazy::Yes).unwrap();
    assert!(!is_mounted(&daemon.rig.mnt));
    // Closing asks the daemon as well, so it is let go first.
    drop(daemon);
    drop(user);
}
