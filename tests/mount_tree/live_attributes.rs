//! What is said of live files, and to whom (M8).

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use nix::sys::statvfs::statvfs;

use crate::folder::{Folder, Way};
use crate::machine;
use crate::rig::{errno_of, eventually, has_tool, run};

const WAYS: [Way; 2] = [Way::Kernel, Way::Daemon];

fn append(path: &Path, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// M8: a tool that looks at an open file before and after it read it sees that it has changed.
///
/// Row: live.stat
#[test]
fn an_open_file_says_at_once_what_it_is() {
    for way in WAYS {
        let Some(folder) = Folder::new(way, "") else {
            return;
        };
        let (raw, shown) = (
            folder.source.join("conf/settings"),
            folder.mnt.join("conf/settings"),
        );
        let before = fs::metadata(&shown).unwrap();
        append(&raw, b"more = yes\n");
        let file = File::open(&shown).unwrap();
        let facts = |of: &fs::Metadata| (of.len(), of.mtime_nsec(), of.ctime_nsec(), of.blocks());
        for _ in 0..3 {
            let now = fs::metadata(&raw).unwrap();
            assert_eq!(facts(&file.metadata().unwrap()), facts(&now), "{way:?}");
            append(&raw, b"x");
        }
        assert!(before.len() < file.metadata().unwrap().len());
        drop(file);
        // By its name it may be a second old.
        append(&raw, b"the end");
        let now = fs::metadata(&raw).unwrap();
        eventually("the change is seen", || {
            facts(&fs::metadata(&shown).unwrap()) == facts(&now)
        });
        // What is gone, but open, is still what it is.
        let file = File::open(&shown).unwrap();
        append(&raw, b"last words");
        let now = fs::metadata(&raw).unwrap();
        fs::remove_file(&raw).unwrap();
        assert_eq!(file.metadata().unwrap().len(), now.len());
        assert_eq!(file.metadata().unwrap().nlink(), 1, "a name of the view");
    }
}

/// Row: tree.statfs
#[test]
fn totals_count_live_files_as_they_were_listed_and_each_once() {
    let Some(folder) = Folder::new(Way::Kernel, "") else {
        return;
    };
    let mut blocks = 0;
    let mut seen = std::collections::BTreeSet::new();
    let mut left = vec![folder.source.clone()];
    let mut nodes = 1;
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let facts = entry.metadata().unwrap();
            let is_first = seen.insert(facts.ino());
            nodes += u64::from(is_first);
            if facts.is_dir() {
                left.push(entry.path());
            } else if is_first && facts.is_file() {
                blocks += facts.blocks();
            }
        }
    }
    let totals = statvfs(&folder.mnt).unwrap();
    assert_eq!((totals.blocks(), totals.files()), (blocks, nodes));
    assert_eq!((totals.blocks_free(), totals.files_free()), (0, 0));
}

/// Row: live.xattrs
#[test]
fn attributes_of_live_files_are_listed_and_read() {
    let Some(folder) = Folder::new(Way::Kernel, "") else {
        return;
    };
    let (raw, shown) = (
        folder.source.join("data/blob"),
        folder.mnt.join("data/blob"),
    );
    machine::set_xattr(&raw, "user.one", b"1").unwrap();
    machine::set_xattr(&raw, "trusted.two", b"\0\x01").unwrap();
    machine::set_xattr(&raw, "user.empty", b"").unwrap();
    let mut names = machine::xattr_names(&shown).unwrap();
    names.sort();
    assert_eq!(names, ["trusted.two", "user.empty", "user.one"]);
    for name in &names {
        let value = |path: &Path| machine::xattr(path, name).unwrap().unwrap();
        assert_eq!(value(&raw), value(&shown));
    }
    assert_eq!(machine::xattr(&shown, "user.none".as_ref()).unwrap(), None);
    if has_tool("getfattr") {
        let mut getfattr = Command::new("getfattr");
        let dump = run(getfattr.args(["--absolute-names", "-d", "-m-"]).arg(&shown));
        assert!(dump.contains("user.one=\"1\""), "{dump}");
    }
    fs::remove_file(&raw).unwrap();
    assert_eq!(
        errno_of(machine::xattr(&shown, "user.one".as_ref())),
        libc::ENOENT
    );
    assert_eq!(errno_of(machine::xattr_names(&shown)), libc::ENOENT);
}

/// An access control list as the kernel stores it: a version, then tag, permissions and id of each.
#[allow(
    clippy::host_endian_bytes,
    reason = "the format is little-endian and so written"
)]
fn list_for(user: u32) -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    let nobody = u32::MAX;
    // Owner rw, the user rw, group none, mask rw, others none.
    for (tag, bits, id) in [
        (0x01_u16, 6_u16, nobody),
        (0x02, 6, user),
        (0x04, 0, nobody),
        (0x10, 6, nobody),
        (0x20, 0, nobody),
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(bits.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

/// Whether a user can read a file.
fn can_read(path: &Path, uid: u32, gid: u32) -> bool {
    let mut cat = Command::new("cat");
    cat.arg(path)
        .uid(uid)
        .gid(gid)
        .output()
        .unwrap()
        .status
        .success()
}

/// Row: access.lists
#[test]
fn others_are_let_in_by_modes_and_by_lists() {
    for way in WAYS {
        let Some(folder) = Folder::new(way, "allow_other") else {
            return;
        };
        let (owner, group, friend, stranger) = (4001, 4002, 4003, 4004);
        let (raw, shown) = (
            folder.source.join("data/blob"),
            folder.mnt.join("data/blob"),
        );
        fs::set_permissions(folder.source.join("data"), Permissions::from_mode(0o755)).unwrap();
        chown(&raw, Some(owner), Some(group)).unwrap();
        fs::set_permissions(&raw, Permissions::from_mode(0o640)).unwrap();
        let readers = |path: &Path| {
            [(owner, 1), (friend, group), (friend, 1), (stranger, 1)]
                .map(|(uid, gid)| can_read(path, uid, gid))
        };
        eventually("the mode is seen", || {
            readers(&shown) == [true, true, false, false]
        });
        assert_eq!(readers(&raw), [true, true, false, false]);
        let list = list_for(friend);
        if let Err(error) = machine::set_xattr(&raw, "system.posix_acl_access", &list) {
            println!("SKIPPED: no access control lists here: {error}");
            return;
        }
        // The bits of the group are the mask now, and the group itself may nothing.
        assert_eq!(fs::metadata(&raw).unwrap().mode() & 0o777, 0o660);
        let expected = [true, true, true, false];
        assert_eq!(readers(&raw), expected);
        assert!(!can_read(&raw, stranger, group));
        eventually("the list is seen", || readers(&shown) == expected);
        assert!(!can_read(&shown, stranger, group), "{way:?}");
        let name = "system.posix_acl_access";
        assert_eq!(
            machine::xattr(&shown, name.as_ref()).unwrap().unwrap(),
            list
        );
        assert!(machine::xattr_names(&shown).unwrap().contains(&name.into()));
    }
}

/// Without `allow_other` nobody else is there to be let in, and lists are only shown.
#[test]
fn lists_are_copied_without_being_heeded() {
    let Some(folder) = Folder::new(Way::Kernel, "") else {
        return;
    };
    let name = "system.posix_acl_access";
    let list = list_for(4003);
    if machine::set_xattr(&folder.source.join("data/blob"), name, &list).is_err() {
        println!("SKIPPED: no access control lists here");
        return;
    }
    let shown = machine::xattr(&folder.mnt.join("data/blob"), name.as_ref());
    assert_eq!(shown.unwrap().unwrap(), list);
    if has_tool("rsync") {
        let from = format!("{}/data/blob", folder.mnt.display());
        let copy = folder.rig.path("copy");
        run(Command::new("rsync").args(["-aA", &from]).arg(&copy));
        assert_eq!(machine::xattr(&copy, name.as_ref()).unwrap().unwrap(), list);
    }
}

/// Errors of the source come through as such, and its limits are not the reader's.
///
/// Row: live.refused
#[test]
fn a_file_that_cannot_be_opened_says_why() {
    for way in WAYS {
        let Some(folder) = Folder::new(way, "") else {
            return;
        };
        let shown = folder.mnt.join("conf/settings");
        for (refusal, seen) in [
            (-1, libc::EIO),
            (libc::EACCES, libc::EACCES),
            (libc::EMFILE, libc::ENFILE),
            (libc::ENOSYS, libc::EIO),
        ] {
            folder.shared.refusal.store(refusal, Ordering::Relaxed);
            assert_eq!(errno_of(File::open(&shown)), seen, "{way:?}");
            assert!(fs::metadata(&shown).is_ok());
        }
        folder.shared.refusal.store(0, Ordering::Relaxed);
        let mut bytes = [0; 6];
        let file = File::open(&shown).unwrap();
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"[main]");
    }
}
