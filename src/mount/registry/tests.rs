#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicU32;

use super::*;

fn registry() -> (tempfile::TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::at(dir.path().join("stillfs")).unwrap();
    (dir, registry)
}

fn record(mount_point: &str) -> MountRecord {
    MountRecord {
        mount_point: mount_point.into(),
        source: "/var/lib/app".into(),
        source_kind: "stillfs".to_owned(),
        pid: std::process::id(),
        started_wall_ns: 5,
        pin_id: Some("beef".to_owned()),
        timestamp: None,
        snapshot_wall_ns: None,
        expires_wall_ns: None,
        facts: BTreeMap::new(),
    }
}

/// Leaves the record of `mount_point` as a daemon does that is killed: there, and not held.
fn leave_dead(registry: &Registry, mount_point: &str) {
    let text = serde_json::to_vec(&record(mount_point)).unwrap();
    let path = registry.record_path(Path::new(mount_point));
    drop(record_file::create_held(&path, &text).unwrap());
}

fn liveness(registry: &Registry, mount_point: &str) -> Option<Liveness> {
    let found = registry.find(Path::new(mount_point)).unwrap()?;
    assert_eq!(found.record, record(mount_point));
    Some(found.liveness)
}

/// M7: the lock is the only sign of life.
#[test]
fn a_record_is_alive_exactly_while_it_is_held() {
    let (_dir, registry) = registry();
    let held = registry.hold(&record("/mnt/a")).unwrap();
    assert_eq!(liveness(&registry, "/mnt/a"), Some(Liveness::Alive));
    assert_eq!(liveness(&registry, "/mnt/b"), None);
    drop(held);
    assert_eq!(liveness(&registry, "/mnt/a"), None);
}

/// The process id of a dead daemon may be taken by anybody; here it is our own.
#[test]
fn a_record_that_nobody_holds_is_dead_even_if_its_process_exists() {
    let (_dir, registry) = registry();
    leave_dead(&registry, "/mnt/a");
    assert_eq!(liveness(&registry, "/mnt/a"), Some(Liveness::Dead));
    assert!(registry.remove_dead(Path::new("/mnt/a")).unwrap());
    assert_eq!(liveness(&registry, "/mnt/a"), None);
}

#[test]
fn a_dead_record_is_replaced_and_a_live_one_is_not() {
    let (_dir, registry) = registry();
    leave_dead(&registry, "/mnt/a");
    let held = registry.hold(&record("/mnt/a")).unwrap();
    let error = registry.hold(&record("/mnt/a")).unwrap_err();
    assert!(matches!(error, RegistryError::Held { .. }), "{error}");
    assert!(!registry.remove_dead(Path::new("/mnt/a")).unwrap());
    assert_eq!(liveness(&registry, "/mnt/a"), Some(Liveness::Alive));
    drop(held);
}

/// A daemon that ends late must not take away the record of the next mount at the same place.
#[test]
fn an_old_holder_does_not_remove_the_record_of_the_next() {
    let (_dir, registry) = registry();
    let old = registry.hold(&record("/mnt/a")).unwrap();
    std::fs::remove_file(&old.path).unwrap();
    let next = registry.hold(&record("/mnt/a")).unwrap();
    drop(old);
    assert_eq!(liveness(&registry, "/mnt/a"), Some(Liveness::Alive));
    drop(next);
}

#[test]
fn the_list_is_sorted_and_leaves_out_what_is_no_record() {
    let (_dir, registry) = registry();
    let _b = registry.hold(&record("/mnt/b")).unwrap();
    leave_dead(&registry, "/mnt/a");
    std::fs::write(registry.dir.join("torn.mount"), b"{\"mount_point\":").unwrap();
    std::fs::write(registry.dir.join("note.txt"), b"").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", registry.dir.join("link.mount")).unwrap();
    let list = registry.list().unwrap();
    let seen: Vec<_> = list
        .iter()
        .map(|listed| (listed.record.mount_point.to_str().unwrap(), listed.liveness))
        .collect();
    assert_eq!(
        seen,
        [("/mnt/a", Liveness::Dead), ("/mnt/b", Liveness::Alive)]
    );
}

#[test]
fn records_are_private_and_leave_nothing_behind() {
    let (_dir, registry) = registry();
    let held = registry.hold(&record("/mnt/a")).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&registry.dir), 0o700);
    assert_eq!(mode(&held.path), 0o600);
    drop(held);
    assert_eq!(std::fs::read_dir(&registry.dir).unwrap().count(), 0);
}

#[test]
fn a_directory_that_others_can_reach_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
    let error = Registry::at(open.clone()).unwrap_err();
    assert!(
        matches!(error, RegistryError::OpenToOthers { mode: 0o755, .. }),
        "{error}"
    );
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&open, &link).unwrap();
    let error = Registry::at(link).unwrap_err();
    assert!(
        matches!(error, RegistryError::NotDirectory { .. }),
        "{error}"
    );
}

/// A clock on which only sleeping takes time; after some sleeps it lets a record go.
#[derive(Debug)]
struct StepClock {
    slept: AtomicU32,
    release_after: u32,
    held: parking_lot::Mutex<Option<HeldRecord>>,
}

impl Clock for StepClock {
    fn wall_ns(&self) -> u64 {
        0
    }

    fn monotonic(&self) -> Duration {
        POLL * self.slept.load(Ordering::Relaxed)
    }

    fn sleep(&self, _duration: Duration) {
        if self.slept.fetch_add(1, Ordering::Relaxed) + 1 == self.release_after {
            self.held.lock().take();
        }
    }
}

fn step_clock(held: HeldRecord, release_after: u32) -> StepClock {
    StepClock {
        slept: AtomicU32::new(0),
        release_after,
        held: parking_lot::Mutex::new(Some(held)),
    }
}

#[test]
fn waiting_ends_when_the_record_is_let_go() {
    let (_dir, registry) = registry();
    let clock = step_clock(registry.hold(&record("/mnt/a")).unwrap(), 3);
    let wait = registry.wait_gone(Path::new("/mnt/a"), POLL * 100, &clock);
    assert_eq!(wait.unwrap(), Wait::Gone);
    assert_eq!(clock.slept.into_inner(), 3);
}

#[test]
fn waiting_ends_at_its_time_limit() {
    let (_dir, registry) = registry();
    let clock = step_clock(registry.hold(&record("/mnt/a")).unwrap(), 1000);
    let wait = registry.wait_gone(Path::new("/mnt/a"), POLL * 7, &clock);
    assert_eq!(wait.unwrap(), Wait::TimedOut);
    assert_eq!(clock.slept.into_inner(), 7);
}

/// Whoever watched before the unmounting waits for that daemon, and not for its successor.
#[test]
fn a_watch_is_for_the_daemon_that_was_there_when_it_began() {
    let (_dir, registry) = registry();
    let old = registry.hold(&record("/mnt/a")).unwrap();
    let watch = registry.watch(Path::new("/mnt/a")).unwrap().unwrap();
    drop(old);
    let next = registry.hold(&record("/mnt/a")).unwrap();
    let clock = step_clock(next, 1000);
    assert_eq!(watch.wait_gone(POLL * 3, &clock).unwrap(), Wait::Gone);
    let wait = registry.wait_gone(Path::new("/mnt/a"), POLL * 3, &clock);
    assert_eq!(wait.unwrap(), Wait::TimedOut);
}
