//! What of a tree is shown. No database of these tests needs to be pinned.

#![allow(clippy::disallowed_methods)]

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::os::Host;
use crate::os::beneath::OpenDir;
use crate::os::file_user::as_owner_of;
use crate::os::path::FileType;
use crate::os::process::effective_user;
use crate::source::fixture::{StopAtEnd, Xfs};
use crate::source::{self, Files, PinAs, PinnedSource, SourceError, TreeOptions, Unpinned};
use crate::view::tree::{Content, Node, NodeId, Tree};

/// The first bytes of a database that nobody can pin: one with two logs.
const NO_DATABASE: &[u8] = b"SQLite format 3\0\x10\x00\x03\x03";

fn pin(dir: &Path) -> Result<PinnedSource, SourceError> {
    let pin_as = PinAs {
        tree: TreeOptions {
            unpinned: Unpinned::LeftOut,
            ..TreeOptions::default()
        },
        ..PinAs::plain("a test")
    };
    source::pin(&Host::system(), dir, &pin_as)
}

/// A directory that is taken for a source, for the sake of one database that is left out.
fn source_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("left-out.db"), NO_DATABASE).unwrap();
    dir
}

fn node<'a>(tree: &'a Tree, path: &str) -> Option<&'a Node> {
    let mut at = tree.node(NodeId::ROOT);
    for part in Path::new(path) {
        at = tree.lookup(at?.id, part);
    }
    at
}

fn names(tree: &Tree, path: &str) -> Vec<String> {
    match &node(tree, path).unwrap().content {
        Content::Directory(children) => {
            let names = children
                .keys()
                .map(|name| name.to_string_lossy().into_owned());
            names.filter(|name| name != ".stillfs").collect()
        }
        other => panic!("{path} is no directory: {other:?}"),
    }
}

#[test]
fn every_kind_of_file_is_shown_as_it_is() {
    let dir = source_dir();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("plain"), b"abc").unwrap();
    fs::create_dir(at("sub")).unwrap();
    fs::set_permissions(at("sub"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::hard_link(at("plain"), at("sub/again")).unwrap();
    symlink("nowhere/at all", at("link")).unwrap();
    let odd = OsStr::from_bytes(b"\xff\xfe odd");
    fs::write(dir.path().join(odd), b"").unwrap();
    let made = Command::new("mkfifo").arg(at("fifo")).status().unwrap();
    assert!(made.success());
    let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let source = pin(dir.path()).unwrap();
    let tree = &source.tree;
    assert_eq!(
        names(tree, ""),
        [
            "fifo",
            "link",
            "plain",
            "socket",
            "sub",
            "\u{fffd}\u{fffd} odd"
        ]
    );
    let (plain, again) = (
        node(tree, "plain").unwrap(),
        node(tree, "sub/again").unwrap(),
    );
    assert_eq!(plain.id, again.id);
    assert_eq!(tree.name_count(plain.id), 2);
    let found = fs::metadata(at("plain")).unwrap();
    assert_eq!(plain.id.0, found.ino());
    let times = tree.times(plain);
    assert_eq!(
        times.mtime_ns,
        found.mtime() * 1_000_000_000 + found.mtime_nsec()
    );
    assert_eq!(
        times.ctime_ns,
        found.ctime() * 1_000_000_000 + found.ctime_nsec()
    );
    let sub = node(tree, "sub").unwrap();
    assert_eq!(sub.attributes.mode, 0o2750);
    assert_eq!(sub.attributes.uid, found.uid());
    let link = &node(tree, "link").unwrap().content;
    assert!(matches!(link, Content::Link(target) if target == "nowhere/at all"));
    for (name, kind) in [("fifo", FileType::Fifo), ("socket", FileType::Socket)] {
        let content = &node(tree, name).unwrap().content;
        assert!(matches!(content, Content::Special(special) if special.kind == kind));
    }
    assert!(tree.lookup(NodeId::ROOT, odd).is_some());
    assert_eq!(source.left_out.len(), 1, "{:?}", source.left_out);
}

/// T2, A3: nothing of a database's helper files, also where the database itself is left out; a file of such a
/// name without a database is a file like others.
#[test]
fn what_is_beside_a_database_is_not_shown() {
    let dir = source_dir();
    for name in [
        "left-out.db-wal",
        "left-out.db-shm",
        "left-out.db-journal",
        "left-out.db-mj01234567A",
        "other-wal",
        "left-out.db-walnut",
    ] {
        fs::write(dir.path().join(name), b"x").unwrap();
    }
    let source = pin(dir.path()).unwrap();
    assert_eq!(names(&source.tree, ""), ["left-out.db-walnut", "other-wal"]);
    assert_eq!(source.left_out[0].path, Path::new("left-out.db"));
}

/// T2: a folder is nothing of SQLite's, whatever its name.
#[test]
fn folder_that_is_named_like_a_helper_file_is_shown() {
    let dir = source_dir();
    fs::create_dir(dir.path().join("left-out.db-journal")).unwrap();
    fs::write(dir.path().join("left-out.db-journal/diary"), b"x").unwrap();
    let source = pin(dir.path()).unwrap();
    assert_eq!(names(&source.tree, ""), ["left-out.db-journal"]);
    assert_eq!(names(&source.tree, "left-out.db-journal"), ["diary"]);
}

/// A1: what is a database by one name is not live by another, by which nothing tells that it is one.
#[test]
fn every_name_of_a_database_is_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("secret"), [0xa5; 8192]).unwrap();
    fs::hard_link(at("secret"), at("another")).unwrap();
    fs::hard_link(at("secret"), at("third")).unwrap();
    let mut pin_as = PinAs::plain("a test");
    pin_as.tree.sqlite_files = vec![at("secret").canonicalize().unwrap()];
    let source = source::pin(&Host::system(), dir.path(), &pin_as).unwrap();
    assert_eq!(source.reads.members().len(), 1);
    let named = node(&source.tree, "secret").unwrap();
    for name in ["another", "third"] {
        let other = node(&source.tree, name).unwrap();
        assert!(matches!(other.content, Content::Paged(_)), "{name} is live");
        assert_eq!(other.id, named.id);
    }
    assert_eq!(source.tree.name_count(named.id), 3);
}

/// T5
#[test]
fn database_that_cannot_be_pinned_is_named() {
    let dir = source_dir();
    fs::write(dir.path().join("second.db"), NO_DATABASE).unwrap();
    let error = source::pin(&Host::system(), dir.path(), &PinAs::plain("a test")).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, SourceError::Members { others: 1, .. }),
        "{text}"
    );
    assert!(text.contains("left-out.db"), "{text}");
}

/// Nothing of it would be still.
#[test]
fn tree_without_a_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("plain"), b"x").unwrap();
    let error = pin(dir.path()).unwrap_err();
    assert!(matches!(error, SourceError::NoDatabase { .. }), "{error}");
}

#[test]
fn ten_thousand_files_are_shown() {
    let dir = source_dir();
    let mut expected = Vec::new();
    for folder in 0..20 {
        let below = dir.path().join(format!("{folder:02}"));
        fs::create_dir(&below).unwrap();
        for file in 0..500 {
            fs::write(
                below.join(format!("{file:03}")),
                b"longer than any magic number",
            )
            .unwrap();
        }
        expected.push(format!("{folder:02}"));
    }
    let source = pin(dir.path()).unwrap();
    assert_eq!(names(&source.tree, ""), expected);
    assert_eq!(names(&source.tree, "07").len(), 500);
    assert_eq!(source.tree.node_count(), 1 + 2 + 20 + 10_000);
}

/// Neither the stack nor the length of a path bounds how deep a tree may be.
#[test]
fn deep_tree_is_shown_to_its_bottom() {
    const DEPTH: usize = 1500;
    let dir = source_dir();
    let name = "d".repeat(40);
    let mut at = OpenDir::open(dir.path()).unwrap();
    for _ in 0..DEPTH {
        fs::create_dir(at.way().join(&name)).unwrap();
        at = at.dir(Path::new(&name)).unwrap();
    }
    fs::write(at.way().join("bottom"), b"reached").unwrap();
    let source = pin(dir.path()).unwrap();
    let mut node = source.tree.node(NodeId::ROOT).unwrap();
    for _ in 0..DEPTH {
        node = source.tree.lookup(node.id, name.as_ref()).unwrap();
    }
    let bottom = source.tree.lookup(node.id, "bottom".as_ref()).unwrap();
    let Content::Live(live) = &bottom.content else {
        panic!("a plain file is live");
    };
    assert_eq!(live.open().unwrap().len().unwrap(), 7);
    drop(source);
    fs::remove_dir_all(dir.path()).unwrap();
}

/// T1, T3: a tree changes while it is walked: what is gone is not there, and the rest is.
#[test]
fn names_that_come_and_go_do_not_disturb_the_walk() {
    let dir = source_dir();
    for stays in ["a", "m", "z"] {
        fs::create_dir(dir.path().join(stays)).unwrap();
        fs::write(dir.path().join(stays).join("file"), b"x").unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let passing = dir.path().join("passing");
            while !stop.load(Ordering::Relaxed) {
                fs::create_dir(&passing).unwrap();
                fs::write(passing.join("file"), b"x").unwrap();
                fs::remove_dir_all(&passing).unwrap();
                fs::write(&passing, b"a file of this name").unwrap();
                fs::remove_file(&passing).unwrap();
                symlink("/", &passing).unwrap();
                fs::remove_file(&passing).unwrap();
            }
        });
        let _stop = StopAtEnd(&stop);
        for _ in 0..300 {
            let source = pin(dir.path()).unwrap();
            for stays in ["a/file", "m/file", "z/file"] {
                assert!(node(&source.tree, stays).is_some(), "{stays}");
            }
            assert_eq!(source.left_out.len(), 1, "{:?}", source.left_out);
            assert!(source.tree.node_count() < 20, "nothing outside is walked");
        }
    });
}

/// A directory that cannot be listed is a part left out, and no empty directory.
#[test]
fn directory_that_cannot_be_read_is_told_of() {
    if effective_user() != 0 {
        println!("SKIPPED: needs root, to be another user");
        return;
    }
    let dir = source_dir();
    fs::create_dir(dir.path().join("closed")).unwrap();
    fs::create_dir(dir.path().join("open")).unwrap();
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(dir.path(), Some(12_345), Some(12_345)).unwrap();
    let root = OpenDir::open(dir.path()).unwrap();
    let (source, refused) = as_owner_of(root.as_fd(), || {
        let refused = source::pin(&Host::system(), dir.path(), &PinAs::plain("a test"));
        (pin(dir.path()).unwrap(), refused.unwrap_err())
    })
    .unwrap();
    assert_eq!(names(&source.tree, ""), ["open"]);
    let paths: Vec<&PathBuf> = source.left_out.iter().map(|one| &one.path).collect();
    assert!(paths.contains(&&PathBuf::from("closed")), "{paths:?}");
    assert!(
        refused.to_string().contains("closed cannot be read"),
        "{refused}"
    );
}

/// What the kernel makes up is no part of an application's folder, and reading it may never end.
#[test]
fn made_up_file_systems_are_not_entered() {
    let has_pts = Path::new("/dev/pts/ptmx").exists();
    if !has_pts {
        println!("SKIPPED: needs /dev/pts");
        return;
    }
    let pin_as = PinAs {
        tree: TreeOptions {
            unpinned: Unpinned::LeftOut,
            ..TreeOptions::default()
        },
        ..PinAs::plain("a test")
    };
    let walked = super::walk::walk(&Host::system(), Path::new("/dev"), &pin_as).unwrap();
    let left_out = walked.left_out.iter();
    let pts = left_out.clone().find(|one| one.path == Path::new("pts"));
    assert!(pts.expect("it is told of").reason.contains("devpts"));
    let number = walked
        .of_folders
        .iter()
        .position(|one| &*one.name == "pts")
        .unwrap();
    let number = u32::try_from(number).unwrap();
    assert!(walked.plain.iter().all(|one| one.folder != number));
    assert!(walked.others.iter().all(|one| one.folder != number));
}

#[test]
fn database_that_is_named_must_be_below_and_there() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("sealed"), [7; 5000]).unwrap();
    let named = |path: PathBuf| {
        let pin_as = PinAs {
            tree: TreeOptions {
                sqlite_files: vec![path],
                ..TreeOptions::default()
            },
            ..PinAs::plain("a test")
        };
        source::pin(&Host::system(), dir.path(), &pin_as)
    };
    let text = named(dir.path().join("missing")).unwrap_err().to_string();
    assert!(text.contains("no regular file of that name"), "{text}");
    let text = named("/etc/passwd".into()).unwrap_err().to_string();
    assert!(text.contains("is not below"), "{text}");
    let source = named(dir.path().join("sealed")).unwrap();
    let sealed = node(&source.tree, "sealed").unwrap();
    assert!(matches!(sealed.content, Content::Paged(_)), "it is still");
    fs::write(dir.path().join("sealed"), [8; 6000]).unwrap();
    let mut out = vec![0; 9000];
    assert_eq!(source.tree.read(sealed, 0, &mut out).unwrap(), 5000);
    assert!(out[..5000].iter().all(|byte| *byte == 7));
}

/// Where blocks can be shared is tested on such a file system; that others say so, here.
#[test]
fn clones_are_refused_where_there_are_none() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::write(dir.path().join("plain"), b"x").unwrap();
    let pin_as = PinAs {
        tree: TreeOptions {
            files: Files::Clone,
            ..TreeOptions::default()
        },
        ..PinAs::plain("a test")
    };
    let error = source::pin(&Host::system(), dir.path(), &pin_as).unwrap_err();
    assert!(matches!(error, SourceError::NoClone { .. }), "{error}");
}

#[test]
fn plain_files_are_as_they_were_where_blocks_can_be_shared() {
    let Some(xfs) = Xfs::new() else {
        return;
    };
    let top = xfs.root().join("app");
    fs::create_dir_all(top.join("sub")).unwrap();
    let was: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    fs::write(top.join("plain"), &was).unwrap();
    fs::hard_link(top.join("plain"), top.join("sub/again")).unwrap();
    fs::write(top.join("sub/empty"), b"").unwrap();
    let listed = fs::metadata(top.join("plain")).unwrap();
    let pin_as = PinAs {
        tree: TreeOptions {
            files: Files::Clone,
            ..TreeOptions::default()
        },
        ..PinAs::plain("a test")
    };
    let source = source::pin(&Host::system(), &top, &pin_as).unwrap();
    fs::write(top.join("plain"), b"overwritten").unwrap();
    fs::remove_file(top.join("sub/again")).unwrap();
    fs::write(top.join("later"), b"later").unwrap();
    let tree = &source.tree;
    assert_eq!(names(tree, ""), ["plain", "sub"]);
    assert_eq!(names(&source.tree, "sub"), ["again", "empty"]);
    for path in ["plain", "sub/again"] {
        let node = node(tree, path).unwrap();
        let mut out = vec![0; 200_000];
        assert_eq!(tree.read(node, 0, &mut out).unwrap(), was.len());
        assert!(out[..was.len()] == was);
        assert_eq!(node.id.0, listed.ino());
        let mtime_ns = listed.mtime() * 1_000_000_000 + listed.mtime_nsec();
        assert_eq!(tree.times(node).mtime_ns, mtime_ns);
    }
    assert_eq!(node(tree, "sub/empty").unwrap().size(), 0);
    assert!(
        fs::read_dir(&top).unwrap().count() == 3,
        "nothing of ours is in the folder"
    );
}
