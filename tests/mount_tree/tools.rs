//! Copies made by the tools that people have.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::rig::{Rig, has_tool, run};

/// Compares content with diff, and what a tool has to keep with stat.
fn assert_same(mount: &Path, copy: &Path) {
    let mut diff = Command::new("diff");
    assert_eq!(run(diff.arg("-r").arg(mount).arg(copy)), "");
    for name in ["data.pages", "empty", "tiny", "folder", "folder/inner/leaf"] {
        let facts = |root: &Path| {
            let m = fs::metadata(root.join(name)).unwrap();
            (
                m.mode(),
                m.uid(),
                m.gid(),
                m.mtime(),
                m.mtime_nsec(),
                m.len() * u64::from(m.is_file()),
            )
        };
        assert_eq!(facts(mount), facts(copy), "{name}");
    }
}

#[test]
fn cmp_and_diff_find_no_difference() {
    let Some(rig) = Rig::new() else { return };
    let plain = rig.plain_copy();
    run(Command::new("cmp")
        .arg(rig.large_path())
        .arg(plain.join("data.pages")));
    assert_eq!(
        run(Command::new("diff").arg("-r").arg(&rig.mnt).arg(&plain)),
        ""
    );
}

#[test]
fn cp_makes_a_true_copy() {
    let Some(rig) = Rig::new() else { return };
    let plain = rig.plain_copy();
    for sparse in ["auto", "always", "never"] {
        let copy = rig.path(&format!("copy-{sparse}"));
        let mut cp = Command::new("cp");
        run(cp
            .arg("-a")
            .arg(format!("--sparse={sparse}"))
            .arg(&rig.mnt)
            .arg(&copy));
        assert_same(&rig.mnt, &copy);
        assert_eq!(
            run(Command::new("diff").arg("-r").arg(&plain).arg(&copy)),
            ""
        );
        fs::remove_dir_all(copy).unwrap();
    }
}

#[test]
fn tar_makes_a_true_copy() {
    let Some(rig) = Rig::new() else { return };
    if !has_tool("tar") {
        return;
    }
    let (archive, copy) = (rig.path("archive.tar"), rig.path("copy"));
    fs::create_dir(&copy).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--format=posix", "--sparse", "-cf"])
        .arg(&archive);
    run(tar.arg("-C").arg(&rig.mnt).arg("."));
    let mut untar = Command::new("tar");
    run(untar.arg("-xpf").arg(&archive).arg("-C").arg(&copy));
    assert_same(&rig.mnt, &copy);
}

/// The second run over an unchanged view has nothing to do, by times and by checksums.
#[test]
fn rsync_copies_once() {
    let Some(rig) = Rig::new() else { return };
    if !has_tool("rsync") {
        return;
    }
    let copy = rig.path("copy");
    let from = format!("{}/", rig.mnt.display());
    let rsync = |flags: &str| {
        let mut rsync = Command::new("rsync");
        run(rsync.args([flags, "--itemize-changes", &from]).arg(&copy))
    };
    let first = rsync("-a");
    assert!(first.contains(">f+++++++++ data.pages"), "{first}");
    assert_same(&rig.mnt, &copy);
    assert_eq!(rsync("-a"), "");
    assert_eq!(rsync("-ac"), "");
}

/// A view that is mounted again is the same to a tool that remembers inodes and times.
#[test]
fn a_second_mount_of_the_same_view_looks_the_same() {
    let facts = || {
        let rig = Rig::new()?;
        let find = "%P %i %m %U %G %s %b %n %T@ %C@\n";
        let mut command = Command::new("find");
        let printed = run(command.arg(&rig.mnt).args(["-printf", find]));
        rig.session
            .as_ref()
            .unwrap()
            .unmount(stillfs::mount::Lazy::No)
            .unwrap();
        Some(printed)
    };
    let (Some(first), Some(second)) = (facts(), facts()) else {
        return;
    };
    assert_eq!(first.lines().count(), 7);
    assert_eq!(first, second);
}
