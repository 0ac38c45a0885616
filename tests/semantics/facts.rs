//! Attributes, extended attributes, access, totals.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::unistd::{AccessFlags, access};

use crate::process::{end_of, has_tool, succeed};
use crate::scene::{Scene, errno_of};
use crate::system::{getxattr, listxattr};

/// Row: xattr.sizes
#[test]
fn extended_attributes_answer_for_every_size_of_buffer() {
    let Some(scene) = Scene::new() else { return };
    for path in [scene.pages(), scene.mnt.clone()] {
        let (size, nothing) = listxattr(&path, 0).unwrap();
        assert!(size > 0 && nothing.is_empty());
        assert_eq!(errno_of(listxattr(&path, size - 1)), libc::ERANGE);
        let (_, names) = listxattr(&path, size).unwrap();
        let names = String::from_utf8(names).unwrap();
        let names: Vec<&str> = names.split_terminator('\0').collect();
        assert!(names.contains(&"user.stillfs.lsn"), "{names:?}");
        assert!(
            !names.contains(&"user.stillfs.status"),
            "it changes: {names:?}"
        );
        for name in names {
            let (size, _) = getxattr(&path, name, 0).unwrap();
            assert_eq!(
                errno_of(getxattr(&path, name, size - 1)),
                libc::ERANGE,
                "{name}"
            );
            let exact = getxattr(&path, name, size).unwrap();
            assert_eq!(exact, getxattr(&path, name, 4096).unwrap(), "{name}");
        }
        for name in [
            "user.none",
            "security.capability",
            "system.posix_acl_access",
            "trusted.x",
        ] {
            let errno = errno_of(getxattr(&path, name, 100));
            assert!(
                [libc::ENODATA, libc::EOPNOTSUPP].contains(&errno),
                "{name} {errno}"
            );
        }
    }
    let json = scene.mnt.join("snapshot.json");
    assert_eq!(listxattr(&json, 0).unwrap().0, 0);
}

/// Row: access.answers
#[test]
fn access_says_what_open_would() {
    for options in [&[][..], &["-o", "default_permissions"]] {
        let Some(scene) = Scene::with(options) else {
            return;
        };
        let pages = scene.pages();
        let ask = |flags| access(&pages, flags).map_err(std::io::Error::from);
        ask(AccessFlags::F_OK).unwrap();
        ask(AccessFlags::R_OK).unwrap();
        assert_eq!(errno_of(ask(AccessFlags::W_OK)), libc::EROFS);
        assert_eq!(errno_of(ask(AccessFlags::X_OK)), libc::EACCES);
        access(&scene.mnt, AccessFlags::R_OK | AccessFlags::X_OK).unwrap();
    }
}

/// Row: stat.fixed
#[test]
fn attributes_stay_while_the_source_changes() {
    let Some(scene) = Scene::new() else { return };
    let facts = |path| {
        let m = fs::metadata(path).unwrap();
        (
            m.ino(),
            m.len(),
            m.mtime_nsec(),
            m.ctime_nsec(),
            m.atime_nsec(),
            m.mode(),
            m.blocks(),
        )
    };
    let before = (facts(scene.pages()), facts(scene.mnt.clone()));
    fs::read(scene.pages()).unwrap();
    scene.load.progress();
    let source = fs::metadata(scene.rig.source.join("data.pages")).unwrap();
    assert_ne!(source.len(), before.0.1, "the source has grown meanwhile");
    assert_eq!((facts(scene.pages()), facts(scene.mnt.clone())), before);
    let of_file = (source.ino(), source.mode(), source.uid(), source.gid());
    let shown = fs::metadata(scene.pages()).unwrap();
    assert_eq!(
        (shown.ino(), shown.mode(), shown.uid(), shown.gid()),
        of_file
    );
}

/// Row: statfs.totals
#[test]
fn df_shows_a_full_file_system_of_the_size_of_the_view() {
    let Some(scene) = Scene::new() else { return };
    let df = succeed(
        Command::new("df")
            .args(["-B512", "--output=size,avail,pcent,fstype"])
            .arg(&scene.mnt),
    );
    let words: Vec<&str> = df.lines().nth(1).unwrap().split_whitespace().collect();
    let json = fs::metadata(scene.mnt.join("snapshot.json")).unwrap().len();
    let blocks = (scene.expected.len() as u64).div_ceil(512) + json.div_ceil(512);
    assert_eq!(words, [&blocks.to_string(), "0", "100%", "fuse.stillfs"]);
}

/// Row: tools.content
#[test]
fn wc_grep_and_file_see_the_content() {
    let Some(scene) = Scene::new() else { return };
    let plain = scene.plain_copy();
    let same = |program: &str, arguments: &[&str], name: &str| {
        let said = |dir: &std::path::Path| {
            let mut command = Command::new(program);
            end_of(command.args(arguments).arg(name).current_dir(dir)).out
        };
        assert_eq!(said(&scene.mnt), said(&plain), "{program}");
        assert!(!said(&plain).is_empty(), "{program}");
    };
    same("wc", &[], "data.pages");
    same("grep", &["-c", "-a", "fill"], "data.pages");
    same("sha256sum", &[], "data.pages");
    same("head", &["-c", "100"], "snapshot.json");
    same("tail", &["-c", "9000"], "snapshot.json");
    if has_tool("file") {
        same("file", &[], "snapshot.json");
        same("file", &[], "data.pages");
    }
}

/// Row: ioctl.none
#[test]
fn there_are_no_flags_to_ask_for() {
    let Some(scene) = Scene::new() else { return };
    if has_tool("lsattr") {
        let ended = end_of(Command::new("lsattr").arg(scene.pages()));
        assert_ne!(ended.code(), 0);
        // The one or the other, by the kernel's version.
        let texts = ["Inappropriate ioctl", "Operation not supported"];
        assert!(
            texts.iter().any(|text| ended.err.contains(text)),
            "{ended:?}"
        );
    }
}
