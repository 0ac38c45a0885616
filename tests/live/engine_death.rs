//! An engine that ends under a mount: reads go on while nobody writes, and under the engine that comes next.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::books::Books;
use crate::load::Load;
use crate::process::{assert_same_bytes, end_of, eventually, stillfs};
use crate::rig::{Engine, Rig, copy, mount_status, umount, umount_ended};

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

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// What reading a mount gave, piece by piece.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reads {
    right: usize,
    cut: usize,
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
    ///
    /// Where the kernel has a part of a piece in its cache, it gives that part, and the error with the
    /// next read: a tool that reads on never takes it for the end of the file.
    fn read(&self) -> Reads {
        let mut reads = Reads::default();
        let mut bytes = vec![0; PIECE];
        for (number, expected) in self.expected.chunks(PIECE).enumerate() {
            let offset = number * PIECE;
            let Some(count) = self.read_piece(offset, &mut bytes) else {
                reads.failed += 1;
                continue;
            };
            assert!(
                bytes[..count] == expected[..count],
                "wrong bytes at {offset}"
            );
            if count == expected.len() {
                reads.right += 1;
            } else {
                let rest = self.read_piece(offset + count, &mut bytes);
                assert_eq!(rest, None, "a short read at {offset} and no error after it");
                reads.cut += 1;
            }
        }
        reads
    }

    /// How many bytes came; `None` for EIO.
    fn read_piece(&self, offset: usize, out: &mut [u8]) -> Option<usize> {
        match self.file.read_at(out, offset as u64) {
            Ok(count) => Some(count),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
                None
            }
        }
    }

    fn pieces(&self) -> usize {
        self.expected.len().div_ceil(PIECE)
    }

    fn assert_whole(&self) {
        let right = self.pieces();
        let whole = Reads {
            right,
            ..Reads::default()
        };
        assert_eq!(self.read(), whole);
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
    // Of these nothing is read before the engine is gone, and of the second nothing before the next.
    let (late, unread) = (rig.mount("late", &[]), rig.mount("unread", &[]));
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
        one.assert_whole();
    }
    assert_same_bytes(&direct, &copies[0]);
    assert_same_bytes(&cached, &copies[1]);
    copy(&late, &rig.path("copy-late"));
    eventually("the daemon knows", || {
        mount_status(&direct)["state"] == "engine gone"
    });
    let uncached = File::open(unread.join("data.pages")).unwrap();

    rig.start();
    assert_nothing_lost(&rig, &acknowledged);
    for mount in [&direct, &cached, &late, &unread] {
        eventually("the daemon has reclaimed its pin", || {
            mount_status(mount)["state"] == "held"
        });
        assert_eq!(mount_status(mount)["reconnects"], 1);
    }
    let load = Load::start(rig.engine().address);
    load.progress();
    for one in &opened {
        one.assert_whole();
    }
    assert_same_bytes(&direct, &copies[0]);
    assert_same_bytes(&late, &rig.path("copy-late"));
    uncached.read_exact_at(&mut [0; 4096], 1 << 20).unwrap();
    copy(&unread, &rig.path("copy-unread"));
    load.stop();
    for name in ["copy-direct", "copy-late", "copy-unread"] {
        let restored = Engine::start(&rig.path(name));
        Books::read(restored.address).audit();
    }
    drop((opened, uncached));
    for mount in [&direct, &cached, &late, &unread] {
        umount(mount);
    }
    rig.assert_nothing_left(&[]);
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

/// Wrong bytes after a restart would be the worst: a live file that belongs to a later state (D5, N3).
#[test]
fn a_view_outlives_a_crash_of_the_engine_and_its_restart() {
    an_engine_ends_under_a_mount(End::Crash);
}

/// A clean stop writes everything back: what the pin still needs is captured first (S1).
#[test]
fn a_view_outlives_a_clean_stop_of_the_engine_and_its_restart() {
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

/// What is read of an ended view says nothing about the database: that has a code of its own.
#[test]
fn a_check_of_an_ended_view_says_so_and_not_that_it_is_damaged() {
    let Some(mut rig) = Rig::with_fill(100) else {
        return;
    };
    let mount = rig.mount("mnt", &["-o", "direct_io"]);
    let check = |options: &[&str]| {
        let mut command = stillfs();
        end_of(command.args(options).arg(&mount))
    };
    assert_eq!(check(&["check"]).code(), 0);
    rig.take_engine().kill();
    fs::remove_dir_all(rig.source.join("shadow")).unwrap();
    rig.start();
    for options in [&["check"][..], &["dump"], &["dump", "--digest"]] {
        let ended = check(options);
        assert_eq!(ended.code(), 13, "{ended:?}");
        assert!(ended.err.contains("has ended"), "{ended:?}");
    }
    umount_ended(&mount);
    rig.assert_nothing_left(&[]);
}
