//! Copy tools with the flags that treat holes, blocks and old copies in their own way.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::process::{end_of, has_tool, succeed};
use crate::scene::Scene;

/// Row: copy.cp_sparse, copy.cp_reflink
#[test]
fn cp_copies_the_commit_whatever_it_makes_of_holes_and_blocks() {
    let Some(scene) = Scene::new() else { return };
    for flag in [
        "--sparse=always",
        "--sparse=never",
        "--sparse=auto",
        "--reflink=auto",
        "--reflink=never",
    ] {
        let to = scene.rig.path("cp");
        let _ = fs::remove_file(&to);
        succeed(
            Command::new("cp")
                .args(["-a", flag])
                .arg(scene.pages())
                .arg(&to),
        );
        scene.assert_copied(&to);
        let (from, copy) = (
            fs::metadata(scene.pages()).unwrap(),
            fs::metadata(&to).unwrap(),
        );
        assert_eq!(
            (from.mtime(), from.mtime_nsec()),
            (copy.mtime(), copy.mtime_nsec()),
            "{flag}"
        );
    }
    let to = scene.rig.path("reflink");
    let ended = end_of(
        Command::new("cp")
            .arg("--reflink=always")
            .arg(scene.pages())
            .arg(&to),
    );
    assert_ne!(ended.code(), 0, "blocks cannot be shared with a view");
    assert!(ended.err.contains("failed to clone"), "{ended:?}");
}

/// Row: copy.tar_sparse
#[test]
fn tar_with_holes_restores_the_commit() {
    let Some(scene) = Scene::new() else { return };
    if !has_tool("tar") {
        return;
    }
    let (archive, to) = (scene.rig.path("archive.tar"), scene.rig.dir("untar"));
    for flags in [
        &["-S"][..],
        &["-S", "--hole-detection=raw"],
        &["-S", "--format=posix"],
        &[],
    ] {
        let mut tar = Command::new("tar");
        succeed(
            tar.args(flags)
                .arg("-cf")
                .arg(&archive)
                .arg("-C")
                .arg(&scene.mnt)
                .arg("."),
        );
        succeed(
            Command::new("tar")
                .arg("-xf")
                .arg(&archive)
                .arg("-C")
                .arg(&to),
        );
        scene.assert_copied(&to.join("data.pages"));
        fs::remove_file(to.join("data.pages")).unwrap();
    }
    // What changes while it is read would be told of.
    let mut tar = Command::new("tar");
    let ended = end_of(
        tar.arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&scene.mnt)
            .arg("."),
    );
    assert_eq!((ended.code(), ended.err.as_str()), (0, ""));
}

/// Row: copy.rsync_flags
#[test]
fn rsync_brings_an_old_copy_up_to_date_in_place() {
    let Some(scene) = Scene::new() else { return };
    if !has_tool("rsync") {
        return;
    }
    let from = format!("{}/", scene.mnt.display());
    for (number, flags) in [
        &["-aS"][..],
        &["-aS", "--inplace"],
        &["-a", "--inplace", "--no-whole-file"],
        &["-a", "--no-whole-file"],
        &["-a", "--append-verify"],
    ]
    .iter()
    .enumerate()
    {
        let to = scene.rig.dir(&format!("rsync-{number}"));
        // An older and shorter copy, differing in places.
        let mut old = scene.expected.clone();
        old.truncate(scene.expected.len() - 20_000);
        old.iter_mut()
            .step_by(99_991)
            .for_each(|byte| *byte = !*byte);
        fs::write(to.join("data.pages"), old).unwrap();
        succeed(Command::new("rsync").args(*flags).arg(&from).arg(&to));
        scene.assert_copied(&to.join("data.pages"));
        let again = succeed(
            Command::new("rsync")
                .args(*flags)
                .arg("-i")
                .arg(&from)
                .arg(&to),
        );
        assert_eq!(again, "", "{flags:?}");
    }
}
