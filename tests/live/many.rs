//! Many mounts at once, each of its own commit (S5).

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::books::Books;
use crate::load::{Load, Random};
use crate::process::assert_same_bytes;
use crate::rig::{Engine, Rig, copy, daemon_of, mount_status, umount};

const MOUNTS: usize = 8;

/// Pins share slots: the release of one must not take from another, and the last must leave nothing
/// (S5, S3).
#[test]
fn many_mounts_each_keep_their_own_commit_and_leave_nothing() {
    let Some(rig) = Rig::with_fill(1000) else {
        return;
    };
    let load = Load::start(rig.engine().address);
    let mut mounts: Vec<(PathBuf, PathBuf)> = Vec::new();
    for number in 0..MOUNTS {
        let mount = rig.mount(&format!("mnt-{number}"), &[]);
        mounts.push((mount, rig.path(&format!("copy-{number}"))));
        load.progress();
    }
    let commits: BTreeSet<u64> = mounts
        .iter()
        .map(|(mount, _)| mount_status(mount)["timestamp"].as_u64().unwrap())
        .collect();
    assert_eq!(commits.len(), MOUNTS);
    let daemons: Vec<u32> = mounts.iter().map(|(mount, _)| daemon_of(mount)).collect();
    assert_eq!(rig.pins().len(), MOUNTS);
    for (mount, to) in &mounts {
        copy(mount, to);
    }
    load.progress();

    let seed = u64::from(std::process::id());
    println!("seed of the order of release: {seed}");
    let mut random = Random(seed);
    let mut copies = Vec::new();
    while !mounts.is_empty() {
        // Those that are left are read again after each release, one of them at least.
        let next = usize::try_from(random.below(mounts.len() as u64)).unwrap();
        let (mount, to) = mounts.swap_remove(next);
        assert_same_bytes(&mount, &to);
        let failed = mount_status(&mount)["failed_checks"].clone();
        assert_eq!(failed, 0, "a healthy run has no failed check");
        umount(&mount);
        load.progress();
        copies.push(to);
    }
    load.stop();
    for to in copies {
        let engine = Engine::start(&to);
        Books::read(engine.address).audit();
    }
    rig.assert_nothing_left(&daemons);
    assert_no_socket_is_left(rig);
}

fn assert_no_socket_is_left(mut rig: Rig) {
    let socket = rig.source.join("control.sock");
    assert!(socket.exists());
    assert!(rig.take_engine().stop().success());
    assert!(!socket.exists());
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let source = rig.source.to_str().unwrap();
    let left: Vec<&str> = sockets
        .lines()
        .filter(|line| line.contains(source))
        .collect();
    assert_eq!(left, [] as [&str; 0]);
}
