//! Names and listings.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::process::succeed;
use crate::scene::{Scene, errno_of};
use crate::system::getdents;

const NAMES: [&[u8]; 4] = [b".", b"..", b"data.pages", b"snapshot.json"];

/// Row: name.long
#[test]
fn a_name_that_is_too_long_is_that_and_not_absent() {
    let Some(scene) = Scene::new() else { return };
    let at = |length: usize| fs::metadata(scene.mnt.join("n".repeat(length)));
    assert_eq!(errno_of(at(255)), libc::ENOENT);
    for length in [256, 1000, 4000] {
        assert_eq!(errno_of(at(length)), libc::ENAMETOOLONG, "{length}");
    }
    let deep = scene.mnt.join("d/".repeat(2500));
    assert_eq!(errno_of(fs::metadata(deep)), libc::ENAMETOOLONG);
}

/// Row: name.odd
#[test]
fn names_are_bytes_and_compared_as_such() {
    let Some(scene) = Scene::new() else { return };
    for name in [
        &b"data.pages "[..],
        b"DATA.PAGES",
        b"data.pages\n",
        b"\xff\xfe",
        b"\x01",
        b"data.pages.",
        b"*",
        b"data.pages-wal",
        b"control.sock",
        b"LOCK",
        b"shadow",
        b"wal",
    ] {
        for _ in 0..2 {
            let found = fs::metadata(scene.mnt.join(OsStr::from_bytes(name)));
            assert_eq!(errno_of(found), libc::ENOENT, "{}", name.escape_ascii());
        }
    }
    fs::metadata(scene.mnt.join(".//./data.pages")).unwrap();
}

/// Row: list.tiny
#[test]
fn a_listing_is_whole_through_the_smallest_buffer() {
    let Some(scene) = Scene::new() else { return };
    // An entry has 19 bytes, its name and a zero, up to the next multiple of 8.
    let smallest = (19 + "snapshot.json".len() + 1).next_multiple_of(8);
    for room in [smallest, smallest + 1, 64, 100, 4096, 1 << 20] {
        let directory = File::open(&scene.mnt).unwrap();
        let mut names = Vec::new();
        loop {
            let entries = getdents(&directory, room).unwrap();
            if entries.is_empty() {
                break;
            }
            names.extend(entries.into_iter().map(|(name, _)| name));
        }
        assert_eq!(names, NAMES, "{room}");
    }
    let directory = File::open(&scene.mnt).unwrap();
    for room in [0, 1, 23] {
        assert_eq!(errno_of(getdents(&directory, room)), libc::EINVAL, "{room}");
    }
    // What did not fit is not lost.
    assert_eq!(getdents(&directory, 4096).unwrap().len(), NAMES.len());
}

/// Row: list.seek
#[test]
fn a_listing_goes_on_from_any_place_that_it_told() {
    let Some(scene) = Scene::new() else { return };
    let mut directory = File::open(&scene.mnt).unwrap();
    let mut offsets = vec![0];
    loop {
        let entries = getdents(&directory, 40).unwrap();
        let Some((_, next)) = entries.last() else {
            break;
        };
        offsets.push(*next);
    }
    assert_eq!(offsets.len(), NAMES.len() + 1);
    for (at, offset) in offsets.iter().enumerate().rev() {
        directory
            .seek(SeekFrom::Start(u64::try_from(*offset).unwrap()))
            .unwrap();
        let names: Vec<_> = getdents(&directory, 4096)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, NAMES[at..], "{offset}");
    }
    directory.seek(SeekFrom::Start(1 << 40)).unwrap();
    assert_eq!(getdents(&directory, 4096).unwrap(), []);
}

/// Row: list.tools
#[test]
fn find_ls_and_du_agree() {
    let Some(scene) = Scene::new() else { return };
    let (size, mnt) = (scene.expected.len(), &scene.mnt);
    let json = fs::metadata(mnt.join("snapshot.json")).unwrap().len();
    let find = succeed(
        Command::new("find")
            .arg(mnt)
            .args(["-type", "f", "-printf", "%f %s %n\n"]),
    );
    let mut lines: Vec<&str> = find.lines().collect();
    lines.sort_unstable();
    let expected = [
        format!("data.pages {size} 1"),
        format!("snapshot.json {json} 1"),
    ];
    assert_eq!(lines, expected);
    let ls = succeed(Command::new("ls").arg("-lAn").arg(mnt));
    let blocks = (size as u64).div_ceil(512).div_ceil(2) + json.div_ceil(512).div_ceil(2);
    assert!(ls.starts_with(&format!("total {blocks}\n")), "{ls}");
    assert_eq!(ls.lines().count(), 3, "{ls}");
    let du = succeed(
        Command::new("du")
            .args(["-sB1"])
            .arg(mnt.join("data.pages")),
    );
    assert!(
        du.starts_with(&format!("{}\t", size.next_multiple_of(512))),
        "{du}"
    );
    let apparent = succeed(Command::new("du").args(["-sb"]).arg(mnt.join("data.pages")));
    assert!(apparent.starts_with(&format!("{size}\t")), "{apparent}");
    let stat = succeed(
        Command::new("stat")
            .args(["-c", "%s %F %h"])
            .arg(mnt.join("data.pages")),
    );
    assert_eq!(stat, format!("{size} regular file 1\n"));
}
