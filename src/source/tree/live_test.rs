//! A plain file after the pin: as it is now, if it still is the same file, and no database.

#![allow(clippy::disallowed_methods)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::os::{Host, read_up_to};
use crate::source::{self, PinAs, TreeOptions, Unpinned};
use crate::view::tree::{Content, LiveError, LiveFile, NodeId};

/// A pinned tree with `dir/file`, and what shows that file.
fn pinned() -> (tempfile::TempDir, Arc<dyn LiveFile>) {
    let root = tempfile::tempdir().unwrap();
    fs::write(
        root.path().join("left-out.db"),
        b"SQLite format 3\0\x10\x00\x03\x03",
    )
    .unwrap();
    fs::create_dir(root.path().join("dir")).unwrap();
    fs::write(root.path().join("dir/file"), b"before").unwrap();
    let pin_as = PinAs {
        tree: TreeOptions {
            unpinned: Unpinned::LeftOut,
            ..TreeOptions::default()
        },
        ..PinAs::plain("a test")
    };
    let source = source::pin(&Host::system(), root.path(), &pin_as).unwrap();
    let dir = source.tree.lookup(NodeId::ROOT, "dir".as_ref()).unwrap();
    let file = source.tree.lookup(dir.id, "file".as_ref()).unwrap();
    match &file.content {
        Content::Live(live) => (root, live.clone()),
        other => panic!("{other:?}"),
    }
}

fn text(live: &dyn LiveFile) -> Vec<u8> {
    let file = live.open().unwrap();
    let mut out = vec![0; 64];
    let count = read_up_to(file.as_ref(), &mut out, 0).unwrap();
    out.truncate(count);
    out
}

#[test]
fn file_is_read_as_it_is_now() {
    let (root, live) = pinned();
    assert_eq!(text(live.as_ref()), b"before");
    fs::write(root.path().join("dir/file"), b"afterwards").unwrap();
    assert_eq!(text(live.as_ref()), b"afterwards");
    assert_eq!(live.stat().unwrap().size, 10);
    assert_eq!(live.listed().unwrap().size, 6);
}

/// T4
#[test]
fn deleted_file_is_gone_and_another_is_not_served() {
    let (root, live) = pinned();
    let path = root.path().join("dir/file");
    fs::write(root.path().join("other"), b"other").unwrap();
    fs::rename(root.path().join("other"), &path).unwrap();
    assert!(matches!(live.open(), Err(LiveError::Replaced)));
    assert!(matches!(live.stat(), Err(LiveError::Replaced)));
    fs::remove_file(&path).unwrap();
    assert!(matches!(live.open(), Err(LiveError::Gone)));
    assert!(matches!(live.xattr_names(), Err(LiveError::Gone)));
    // A pipe would be waited at for ever.
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    assert!(matches!(live.open(), Err(LiveError::Replaced)));
    fs::remove_dir_all(root.path().join("dir")).unwrap();
    assert!(matches!(live.open(), Err(LiveError::Gone)));
}

/// T3, G31: whoever may exchange directories below us does not lead us out: not even to the very same file.
#[test]
fn link_in_the_place_of_a_directory_is_not_followed() {
    let (root, live) = pinned();
    let outside = tempfile::tempdir().unwrap();
    fs::hard_link(root.path().join("dir/file"), outside.path().join("file")).unwrap();
    fs::rename(root.path().join("dir"), root.path().join("moved")).unwrap();
    symlink(outside.path(), root.path().join("dir")).unwrap();
    assert!(matches!(live.open(), Err(LiveError::Replaced)));
    fs::remove_file(root.path().join("dir")).unwrap();
    fs::rename(root.path().join("moved"), root.path().join("dir")).unwrap();
    assert_eq!(text(live.as_ref()), b"before");
    fs::remove_file(root.path().join("dir/file")).unwrap();
    symlink(outside.path().join("file"), root.path().join("dir/file")).unwrap();
    assert!(matches!(live.open(), Err(LiveError::Replaced)));
}

/// T4: its bytes would not be of one moment.
#[test]
fn file_that_has_become_a_database_is_not_served() {
    let (root, live) = pinned();
    let path = root.path().join("dir/file");
    fs::write(&path, b"SQLite format").unwrap();
    assert_eq!(text(live.as_ref()), b"SQLite format");
    fs::write(&path, b"SQLite format 3\0\x10\x00\x01\x01").unwrap();
    assert!(matches!(live.open(), Err(LiveError::BecameDatabase)));
    live.stat().unwrap();
}

#[test]
fn attributes_are_those_of_the_file() {
    let (root, live) = pinned();
    let path = root.path().join("dir/file");
    let set = Command::new("setfattr")
        .args(["-n", "user.colour", "-v", "green"])
        .arg(&path)
        .status();
    if !set.is_ok_and(|status| status.success()) {
        let name = OsStr::new("user.colour");
        assert_eq!(live.xattr(name).unwrap(), None);
        println!("SKIPPED: needs setfattr and a file system that has attributes");
        return;
    }
    assert_eq!(live.xattr_names().unwrap(), ["user.colour"]);
    let value = live.xattr("user.colour".as_ref()).unwrap();
    assert_eq!(value.as_deref(), Some(b"green".as_slice()));
    assert_eq!(live.xattr("user.size".as_ref()).unwrap(), None);
    assert!(Path::new(&path).exists());
}
