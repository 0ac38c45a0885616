//! Names, attributes and extended attributes (M1).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::Ordering;

use nix::sys::statvfs::{FsFlags, statvfs};

use stillfs::os::mount_table;

use crate::rig::{CHANGED_NS, LARGE_BYTES, Rig, TINY, errno_of, has_tool, is_root, owner, run};

#[test]
fn stat_says_what_the_tree_says() {
    let Some(rig) = Rig::new() else { return };
    let large = fs::metadata(rig.large_path()).unwrap();
    assert_eq!(large.len(), LARGE_BYTES);
    assert_eq!(large.blocks(), LARGE_BYTES.div_ceil(512));
    assert_eq!((large.nlink(), large.ino()), (1, 1001));
    assert_eq!((large.uid(), large.gid()), owner());
    assert_eq!(large.mode(), libc::S_IFREG | 0o640);
    assert_eq!(large.blksize(), 1 << 20);
    let nanoseconds = |seconds: i64, rest: i64| seconds * 1_000_000_000 + rest;
    let changed = i64::try_from(CHANGED_NS + 1).unwrap();
    assert_eq!(nanoseconds(large.mtime(), large.mtime_nsec()), changed);
    assert_eq!(nanoseconds(large.ctime(), large.ctime_nsec()), changed);
    assert_eq!(nanoseconds(large.atime(), large.atime_nsec()), changed);
    let root = fs::metadata(&rig.mnt).unwrap();
    assert_eq!((root.mode(), root.nlink()), (libc::S_IFDIR | 0o755, 3));
    assert_eq!(
        fs::metadata(rig.mnt.join("folder/inner")).unwrap().nlink(),
        2
    );
}

/// M1, V1: backup tools compare inode and times with their last run: reading must change neither.
///
/// Row: stat.read
#[test]
fn reading_changes_no_attribute() {
    let Some(rig) = Rig::new() else { return };
    let before = fs::metadata(rig.mnt.join("tiny")).unwrap();
    assert_eq!(fs::read(rig.mnt.join("tiny")).unwrap(), TINY);
    let after = fs::metadata(rig.mnt.join("tiny")).unwrap();
    let facts = |m: &fs::Metadata| (m.ino(), m.atime_nsec(), m.mtime_nsec(), m.ctime_nsec());
    assert_eq!(facts(&before), facts(&after));
}

#[test]
fn statfs_sums_up_and_has_no_room() {
    let Some(rig) = Rig::new() else { return };
    let totals = statvfs(&rig.mnt).unwrap();
    let small_blocks = 3;
    assert_eq!(totals.blocks(), LARGE_BYTES.div_ceil(512) + small_blocks);
    assert_eq!((totals.fragment_size(), totals.files()), (512, 9));
    assert_eq!((totals.blocks_free(), totals.files_free()), (0, 0));
    let flags = FsFlags::ST_RDONLY | FsFlags::ST_NOSUID | FsFlags::ST_NODEV;
    assert!(totals.flags().contains(flags), "{:?}", totals.flags());
}

#[test]
fn the_mount_table_names_type_and_source() {
    let Some(rig) = Rig::new() else { return };
    let entry = mount_table::find(&rig.mnt).unwrap().unwrap();
    assert_eq!(entry.file_system, "fuse.stillfs");
    assert_eq!(entry.source, "/var/lib/a,b c");
}

#[test]
fn facts_are_reached_by_name_and_never_listed() {
    let Some(rig) = Rig::new() else { return };
    let names: Vec<_> = fs::read_dir(&rig.mnt)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["data.pages", "empty", "folder", "tiny"]);
    let facts = fs::read(rig.mnt.join(".stillfs/snapshot.json")).unwrap();
    assert_eq!(facts, b"{}");
}

/// Row: name.absent
#[test]
fn an_unknown_name_is_absent_every_time() {
    let Some(rig) = Rig::new() else { return };
    for _ in 0..3 {
        let answer = fs::metadata(rig.mnt.join("data.pages-wal"));
        assert_eq!(errno_of(answer), libc::ENOENT);
    }
    let answer = fs::read_link(rig.mnt.join("tiny"));
    assert_eq!(errno_of(answer), libc::EINVAL);
}

/// Prints the names of a directory, read with a getdents buffer of the size given.
const GETDENTS: &str = r"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
room = int(sys.argv[2])
buffer = ctypes.create_string_buffer(room)
number = {'x86_64': 217, 'aarch64': 61}[os.uname().machine]
while True:
    count = libc.syscall(number, fd, buffer, room)
    if count < 0: sys.exit('getdents64: errno %d' % ctypes.get_errno())
    if count == 0: break
    at = 0
    while at < count:
        ino, offset, length = struct.unpack_from('<QqH', buffer.raw, at)
        print(buffer.raw[at + 19:at + length].split(b'\0')[0].decode())
        at += length
";

/// Row: list.many
#[test]
fn five_thousand_names_come_through_any_buffer() {
    let many = 5000;
    let Some(rig) = Rig::with("", many) else {
        return;
    };
    let directory = rig.mnt.join("many");
    let names: BTreeSet<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len() as u64, many);
    if !has_tool("python3") {
        return;
    }
    for room in ["64", "100", "1000", "65536"] {
        let mut python = Command::new("python3");
        let printed = run(python.args(["-c", GETDENTS]).arg(&directory).arg(room));
        let mut lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.len() as u64, many + 2, "{room} bytes at a time");
        lines.retain(|name| *name != "." && *name != "..");
        assert!(
            lines.iter().copied().eq(names.iter()),
            "{room} bytes at a time"
        );
    }
}

#[test]
fn extended_attributes_are_listed_and_the_status_only_got() {
    let Some(rig) = Rig::new() else { return };
    if !has_tool("getfattr") {
        return;
    }
    let getfattr = || {
        let mut command = Command::new("getfattr");
        command.args(["--absolute-names", "--only-values"]);
        command
    };
    let mut list = Command::new("getfattr");
    let list = list.args(["--absolute-names", "-d", "-m", "-"]);
    let dump = run(list.arg(&rig.mnt));
    assert!(dump.contains("user.stillfs.pin=\"beef\""), "{dump}");
    assert!(!dump.contains("status"), "{dump}");
    let kind = run(getfattr()
        .args(["-n", "user.stillfs.kind"])
        .arg(rig.mnt.join("tiny")));
    assert_eq!(kind, "tiny");
    let status = |rig: &Rig| run(getfattr().args(["-n", "user.stillfs.status"]).arg(&rig.mnt));
    assert_eq!(status(&rig), "{\"bytes_read\":0}");
    fs::read(rig.large_path()).unwrap();
    let bytes_read = rig.large.bytes_read.load(Ordering::Relaxed);
    assert!(bytes_read >= LARGE_BYTES);
    assert_eq!(status(&rig), format!("{{\"bytes_read\":{bytes_read}}}"));
    let missing = getfattr()
        .args(["-n", "user.none"])
        .arg(&rig.mnt)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(said.contains("No such attribute"), "{said}");
}

/// The kernel's own 128 KiB of read-ahead would cost a fifth of the speed.
#[test]
fn read_ahead_is_raised() {
    let Some(rig) = Rig::new() else { return };
    if !is_root() {
        return;
    }
    let entry = mount_table::find(&rig.mnt).unwrap().unwrap();
    let (major, minor) = (entry.identity.major, entry.identity.minor);
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    assert_eq!(fs::read_to_string(path).unwrap(), "1024\n");
}

/// Row: access.others
#[test]
fn others_see_a_mount_only_with_allow_other_and_only_what_modes_allow() {
    if !is_root() {
        return;
    }
    let (uid, gid) = owner();
    for options in ["", "allow_other"] {
        let Some(rig) = Rig::with(options, 0) else {
            return;
        };
        fs::set_permissions(rig.path(""), PermissionsExt::from_mode(0o755)).unwrap();
        let can_read = |uid: u32, gid: u32| {
            let mut cat = Command::new("cat");
            let cat = cat.arg(rig.mnt.join("tiny")).uid(uid).gid(gid);
            cat.output().unwrap().stdout == TINY
        };
        assert_eq!(can_read(uid, gid), options == "allow_other");
        assert!(!can_read(uid + 1, gid + 1), "{options}");
        assert!(can_read(0, 0), "{options}");
    }
}
