//! An engine that ends under a mount: reads go on while nobody writes, and fail when one starts.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::books::Books;
use crate::load::Load;
use crate::process::{assert_same_bytes, eventually};
use crate::rig::{Rig, copy, is_mounted, mount_status, refused, umount};

/// How the engine ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Crash,
    Stop,
}

/// A file of a mount that was opened, and in part read, before the engine ended.
struct Opened {
    file: File,
    expected: Vec<u8>,
}

/// What reading a mount gave, piece by piece.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reads {
    right: usize,
    failed: usize,
}

impl Opened {
    fn new(mount: &Path, copy: &Path) -> Self {
        let opened = Self {
            file: File::open(mount.join("data.pages")).unwrap(),
            expected: fs::read(copy.join("data.pages")).unwrap(),
        };
        let mut head = [0; 4096];
        opened.file.read_exact_at(&mut head, 0).unwrap();
        assert!(opened.expected.starts_with(&head));
        opened
    }

    /// Reads it all: each piece is right, or EIO, and nothing else.
    fn read(&self) -> Reads {
        let mut reads = Reads::default();
        let mut piece = vec![0; 64 << 10];
        for (number, expected) in self.expected.chunks(piece.len()).enumerate() {
            let offset = (number * piece.len()) as u64;
            match self.file.read_at(&mut piece, offset) {
                Ok(count) => {
                    assert_eq!(count, expected.len(), "a short read at {offset}");
                    assert!(piece[..count] == *expected, "wrong bytes at {offset}");
                    reads.right += 1;
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
                    reads.failed += 1;
                }
            }
        }
        reads
    }
}

fn an_engine_ends_under_a_mount(end: End) {
    let Some(mut rig) = Rig::with_fill(4000) else {
        return;
    };
    let load = Load::start(rig.engine().address);
    let (direct, cached) = (
        rig.mount("direct", &["-o", "direct_io"]),
        rig.mount("cached", &[]),
    );
    let copies = [rig.path("copy-direct"), rig.path("copy-cached")];
    copy(&direct, &copies[0]);
    copy(&cached, &copies[1]);
    // A third mount of which nearly nothing was read when the engine ends; the load has changed much
    // of the live file by then. What it must show is learned from it while the engine is gone.
    let unread = rig.mount("unread", &[]);
    load.progress();
    load.expect_end();
    match end {
        End::Crash => rig.take_engine().kill(),
        End::Stop => assert!(rig.take_engine().stop().success()),
    }
    let acknowledged = load.stop();

    // Nobody writes: the views stand.
    let opened = [
        Opened::new(&direct, &copies[0]),
        Opened::new(&cached, &copies[1]),
    ];
    for one in &opened {
        assert_eq!(one.read().failed, 0);
    }
    assert_same_bytes(&direct, &copies[0]);
    assert_same_bytes(&cached, &copies[1]);
    eventually("the daemon knows", || {
        mount_status(&direct)["state"] == "engine gone"
    });
    let fresh = rig.dir("fresh");
    let mount = [
        OsStr::new("mount"),
        rig.source.as_os_str(),
        fresh.as_os_str(),
    ];
    refused(&mount, 1, "no engine runs on");
    let uncached = File::open(unread.join("data.pages")).unwrap();

    rig.start();
    assert_nothing_lost(&rig, &acknowledged);
    let pieces = opened[0].expected.len().div_ceil(64 << 10);
    let all_failed = Reads {
        right: 0,
        failed: pieces,
    };
    assert_eq!(opened[0].read(), all_failed);
    let late = uncached.read_at(&mut [0; 4096], 1 << 20).unwrap_err();
    assert_eq!(late.raw_os_error(), Some(libc::EIO));
    opened[1].read();
    // The new engine writes over everything that the old mounts show.
    let load = Load::start(rig.engine().address);
    load.progress();
    assert_eq!(opened[0].read(), all_failed);
    opened[1].read();
    assert_eq!(mount_status(&direct)["state"], "ended");
    load.stop();

    drop((opened, uncached));
    for mount in [&direct, &cached, &unread] {
        umount(mount);
    }
    rig.assert_nothing_left(&[]);
    rig.mount_on(&fresh, &[]);
    assert!(is_mounted(&fresh));
    copy(&fresh, &rig.path("copy-fresh"));
    assert_same_bytes(&fresh, &rig.path("copy-fresh"));
}

/// Every acknowledged write is there after the restart, and the state is a committed one.
fn assert_nothing_lost(rig: &Rig, acknowledged: &[u64]) {
    let books = Books::read(rig.engine().address);
    books.audit();
    for (writer, count) in books.transfers().into_iter().enumerate() {
        // A transfer whose acknowledgement was on its way may be there too.
        let possible = acknowledged[writer]..=acknowledged[writer] + 1;
        assert!(possible.contains(&count), "{writer}: {count} {possible:?}");
    }
}

/// Wrong bytes after a restart would be the worst: a live file that belongs to a later state (N3, S3).
#[test]
fn a_view_outlives_a_crash_of_the_engine_and_ends_with_its_restart() {
    an_engine_ends_under_a_mount(End::Crash);
}

/// A clean stop writes everything back: what the pin still needs is captured first (S1).
#[test]
fn a_view_outlives_a_clean_stop_of_the_engine_and_ends_with_its_restart() {
    an_engine_ends_under_a_mount(End::Stop);
}

/// With the engine gone for good the mount must not be stuck.
#[test]
fn a_mount_whose_engine_is_gone_can_be_unmounted() {
    let Some(mut rig) = Rig::with_fill(100) else {
        return;
    };
    let mount = rig.mount("mnt", &[]);
    let daemon = crate::rig::daemon_of(&mount);
    rig.take_engine().kill();
    umount(&mount);
    rig.start();
    rig.assert_nothing_left(&[daemon]);
}
