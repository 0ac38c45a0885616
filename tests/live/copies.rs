//! Copies made by the tools that people have, while the writers go on (A1, A2, M1, M2).

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::load::Load;
use crate::process::{assert_same_bytes, has_tool, succeed};
use crate::rig::{Rig, umount};

/// What a tool has to keep of each file, and what it does not.
const KEPT: &str = "%P %y %m %U %G %T@\n";
/// What a tool that remembers files knows them by.
const KNOWN_BY: &str = "%P %y %i %m %U %G %s %b %n %T@ %C@\n";

/// One line for the root, which is the first, and one for each file.
fn facts(root: &Path, format: &str) -> Vec<String> {
    let printed = succeed(Command::new("find").arg(root).args(["-printf", format]));
    let mut lines: Vec<String> = printed.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 3, "the root, data.pages and snapshot.json");
    lines
}

fn rsync(from: &Path, to: &Path, flags: &[&str]) -> String {
    let from = format!("{}/", from.display());
    succeed(Command::new("rsync").args(flags).arg(from).arg(to))
}

fn tar(from: &Path, rig: &Rig, name: &str) {
    let archive = rig.path(&format!("{name}.tar"));
    let mut tar = Command::new("tar");
    tar.args(["--format=posix", "-cf"]).arg(&archive);
    succeed(tar.arg("-C").arg(from).arg("."));
    let mut untar = Command::new("tar");
    untar.arg("-xpf").arg(&archive).arg("-C");
    succeed(untar.arg(rig.dir(name)));
    fs::remove_file(archive).unwrap();
}

/// The promise of the product, as a user checks it: whatever the tool, whenever it reads, whatever
/// the writers and the checkpoints do meanwhile, it is the same state, byte for byte (A1, N1, S1).
///
/// Row: copy.tools
#[test]
fn every_tool_makes_the_same_copy_under_load() {
    let Some(rig) = Rig::new() else { return };
    if !(has_tool("rsync") && has_tool("tar")) {
        return;
    }
    // Two mounts of one commit: what the first tool reads of one of them answers the others from the
    // kernel's cache, and of the other every byte comes through the merged read each time.
    Load::start(rig.engine().address).stop();
    let mounts = [
        rig.mount("cached", &[]),
        rig.mount("direct", &["-o", "direct_io"]),
    ];
    let load = Load::start(rig.engine().address);
    let mut copies = Vec::new();
    for (round, mount) in (0..2).flat_map(|round| mounts.iter().map(move |mount| (round, mount))) {
        for tool in ["tar", "rsync", "cp"] {
            let shown = mount.file_name().unwrap().to_str().unwrap();
            let name = format!("{tool}-{shown}-{round}");
            match tool {
                "tar" => tar(mount, &rig, &name),
                "rsync" => drop(rsync(mount, &rig.path(&name), &["-a"])),
                _ => crate::rig::copy(mount, &rig.path(&name)),
            }
            copies.push(rig.path(&name));
            load.progress();
        }
        mounts
            .iter()
            .for_each(|mount| assert_same_bytes(mount, &copies[0]));
    }
    for copy in &copies {
        assert_same_bytes(&copies[0], copy);
        assert_same_bytes(&mounts[1], copy);
        // rsync takes a directory's time for right when it is so to the second.
        let skipped = usize::from(copy.to_string_lossy().contains("/rsync-"));
        let (expected, found) = (facts(&mounts[0], KEPT), facts(copy, KEPT));
        assert_eq!(expected[skipped..], found[skipped..], "{}", copy.display());
    }
    load.stop();
}

/// A user's second backup of an unchanged snapshot must cost nothing (A2, M1).
///
/// Row: copy.rsync_twice
#[test]
fn a_second_rsync_of_a_mount_transfers_nothing_under_load() {
    let Some(rig) = Rig::new() else { return };
    if !has_tool("rsync") {
        return;
    }
    let load = Load::start(rig.engine().address);
    let mount = rig.mount("mnt", &["-o", "direct_io"]);
    let copy = rig.path("copy");
    let first = rsync(&mount, &copy, &["-a", "--itemize-changes"]);
    assert!(first.contains(">f+++++++++ data.pages"), "{first}");
    load.progress();
    assert_eq!(rsync(&mount, &copy, &["-a", "--itemize-changes"]), "");
    assert_eq!(rsync(&mount, &copy, &["-ac", "--itemize-changes"]), "");
    let stats = rsync(&mount, &copy, &["-a", "--stats"]);
    let nothing = [
        "Number of regular files transferred: 0",
        "Total transferred file size: 0 bytes",
    ];
    for line in nothing {
        assert!(stats.contains(line), "{stats}");
    }
    load.stop();
}

/// restic, borg and rsync tell unchanged files by inode number and times: two mounts of one commit
/// must look the same, even if the engine has checkpointed in between (A2).
///
/// Row: remount.same
#[test]
fn a_second_mount_of_the_same_commit_is_the_same() {
    let Some(mut rig) = Rig::new() else { return };
    if !has_tool("rsync") {
        return;
    }
    Load::start(rig.engine().address).stop();
    let (first, copy) = (rig.mount("mnt", &[]), rig.path("copy"));
    rsync(&first, &copy, &["-a"]);
    let before = facts(&first, KNOWN_BY);
    let snapshot = fs::read_to_string(first.join("snapshot.json")).unwrap();
    umount(&first);
    rig.engine().client().command(&["CHECKPOINT"]).unwrap();
    rig.mount_on(&first, &[]);
    assert_eq!(facts(&first, KNOWN_BY), before);
    let again = fs::read_to_string(first.join("snapshot.json")).unwrap();
    assert_eq!(again, snapshot);
    assert_same_bytes(&first, &copy);
    assert_eq!(rsync(&first, &copy, &["-ac", "--itemize-changes"]), "");
    // Elsewhere too: nothing of the mount point is in what it shows.
    let second = rig.mount("other", &[]);
    assert_eq!(facts(&second, KNOWN_BY), before);
    assert_same_bytes(&second, &copy);
    umount(&first);
    umount(&second);
    // A restart of the engine is no commit either.
    assert!(rig.take_engine().stop().success());
    rig.start();
    rig.mount_on(&first, &[]);
    assert_eq!(facts(&first, KNOWN_BY), before);
    assert_same_bytes(&first, &copy);
    umount(&first);
    rig.take_engine().kill();
    rig.start();
    rig.mount_on(&first, &[]);
    assert_eq!(facts(&first, KNOWN_BY), before);
    assert_same_bytes(&first, &copy);
}

/// rsync compares times to the second unless it is told to look closer: told so, it copies what one
/// commit changed within the same second and at the same size (A2).
///
/// Row: copy.rsync_seconds
#[test]
fn rsync_that_compares_nanoseconds_copies_every_change() {
    let Some(rig) = Rig::with_fill(200) else {
        return;
    };
    if !has_tool("rsync") {
        return;
    }
    let (mount, copy) = (rig.dir("mnt"), rig.path("copy"));
    let mut client = rig.engine().client();
    for round in 0..5 {
        client.command(&["SET", "key", &round.to_string()]).unwrap();
        rig.mount_on(&mount, &[]);
        rsync(&mount, &copy, &["-a", "--modify-window=-1"]);
        assert_same_bytes(&mount, &copy);
        umount(&mount);
    }
}

/// Different content with the same time would be left out of every backup after the first (A2).
///
/// Row: remount.time
#[test]
fn a_mount_of_a_later_commit_has_a_later_time() {
    let Some(rig) = Rig::new() else { return };
    let mut client = rig.engine().client();
    let mut seen = Vec::new();
    for round in 0..5 {
        client.command(&["SET", "key", &round.to_string()]).unwrap();
        let mount = rig.mount(&format!("mnt-{round}"), &[]);
        seen.push(
            fs::metadata(mount.join("data.pages"))
                .unwrap()
                .modified()
                .unwrap(),
        );
        let inner = fs::metadata(mount.join("snapshot.json"))
            .unwrap()
            .modified()
            .unwrap();
        // A nanosecond later, for the sake of borg: see the native source.
        let beside = *seen.last().unwrap() + std::time::Duration::from_nanos(1);
        assert_eq!(inner, beside);
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
}
