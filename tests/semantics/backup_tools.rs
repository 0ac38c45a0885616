//! Backup tools that remember files: what did not change is not read again.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::process::{assert_same_bytes, has_tool, succeed};
use crate::rig::mount_status;
use crate::scene::Scene;

/// Bytes that the daemon gave: nothing of this mount comes from the kernel's cache.
fn served(scene: &Scene) -> u64 {
    mount_status(&scene.mnt)["bytes_served"].as_u64().unwrap()
}

/// The bytes that `run` made the daemon read.
fn read_by(scene: &Scene, run: impl FnOnce() -> String) -> (String, u64) {
    let before = served(scene);
    let said = run();
    (said, served(scene) - before)
}

/// Row: backup.restic
#[test]
fn restic_reads_an_unchanged_view_once() {
    let Some(scene) = Scene::with(&["-o", "direct_io"]) else {
        return;
    };
    if !(has_tool("restic")) {
        return;
    }
    let repository = scene.rig.path("repository");
    let restic = |words: &[&str]| {
        let mut restic = Command::new("restic");
        restic
            .arg("-r")
            .arg(&repository)
            .args(["--no-cache", "--json"]);
        succeed(restic.args(words).env("RESTIC_PASSWORD", "x"))
    };
    restic(&["init"]);
    let mnt = scene.mnt.to_str().unwrap();
    let size = scene.expected.len() as u64;
    let (first, bytes) = read_by(&scene, || restic(&["backup", mnt]));
    assert!(bytes >= size, "{bytes} {first}");
    let (second, bytes) = read_by(&scene, || restic(&["backup", mnt]));
    assert_eq!(bytes, 0);
    let summary: Value = serde_json::from_str(second.lines().last().unwrap()).unwrap();
    assert_eq!(summary["files_unmodified"], 2, "{summary}");
    assert_eq!(summary["files_changed"], 0, "{summary}");
    let to = scene.rig.dir("restored");
    restic(&["restore", "latest", "--target", to.to_str().unwrap()]);
    assert_same_bytes(&scene.mnt, &to.join(scene.mnt.strip_prefix("/").unwrap()));
}

/// Row: backup.borg
#[test]
fn borg_reads_an_unchanged_page_file_once() {
    let Some(scene) = Scene::with(&["-o", "direct_io"]) else {
        return;
    };
    if !has_tool("borg") {
        return;
    }
    let borg = |words: &[&str], at: &Path| {
        let mut borg = Command::new("borg");
        borg.env("BORG_BASE_DIR", scene.rig.path("borg"))
            .env("BORG_REPO", scene.rig.path("repository"));
        borg.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        let ended = crate::process::end_of(borg.args(words).current_dir(at));
        assert_eq!(ended.code(), 0, "{words:?}: {ended:?}");
        ended.err
    };
    borg(&["init", "-e", "none"], &scene.mnt);
    let create = |name: &str| {
        let archive = format!("::{name}");
        read_by(&scene, || {
            borg(
                &["create", "--list", &archive, scene.mnt.to_str().unwrap()],
                Path::new("/"),
            )
        })
    };
    let size = scene.expected.len() as u64;
    let (first, bytes) = create("first");
    assert!(bytes >= size && first.contains("A "), "{bytes} {first}");
    let (second, bytes) = create("second");
    let of = |name: &str| {
        second
            .lines()
            .find(|line| line.ends_with(name))
            .unwrap()
            .to_owned()
    };
    assert!(of("data.pages").starts_with("U "), "{second}");
    // The file of the newest ctime borg always reads again, and that is the small one.
    assert!(bytes < 10_000, "{bytes} {second}");
    let to = scene.rig.dir("restored");
    borg(&["extract", "::second"], &to);
    assert_same_bytes(&scene.mnt, &to.join(scene.mnt.strip_prefix("/").unwrap()));
}
