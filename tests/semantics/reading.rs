//! Reads of every kind give the bytes of the pinned commit.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use crate::load::Random;
use crate::process::{eventually, succeed};
use crate::rig::umount;
use crate::scene::{Scene, errno_of};
use crate::system::{self, Aligned};

/// Sizes and places around every border that there is: pages of the database and of the kernel,
/// requests, the end.
fn borders(size: usize) -> Vec<(usize, usize)> {
    let places = [
        0,
        1,
        511,
        4095,
        4096,
        8191,
        8192,
        131_071,
        1 << 20,
        size - 1,
        size - 8193,
    ];
    let sizes = [1, 2, 511, 4096, 4097, 8192, 65_537, 131_072, (1 << 20) + 1];
    let all = places
        .iter()
        .flat_map(|place| sizes.map(|size| (*place, size)));
    all.collect()
}

/// Row: read.any, read.end
#[test]
fn a_read_of_any_size_at_any_place_is_cut_by_the_end_alone() {
    for options in [&[][..], &["-o", "direct_io"]] {
        let Some(scene) = Scene::with(options) else {
            return;
        };
        let mut file = File::open(scene.pages()).unwrap();
        let mut bytes = vec![0; 2 << 20];
        for (place, count) in borders(scene.expected.len()) {
            let read = file.read_at(&mut bytes[..count], place as u64).unwrap();
            assert!(
                &bytes[..read] == scene.part(place, count),
                "{count} at {place}"
            );
        }
        let end = scene.expected.len() as u64;
        for past in [end, end + 1, end + (1 << 40), i64::MAX as u64 / 2] {
            assert_eq!(file.read_at(&mut bytes[..100], past).unwrap(), 0, "{past}");
        }
        // One byte after the other, and from the end of the last read on.
        file.seek(SeekFrom::Start(8190)).unwrap();
        for at in 8190..8200 {
            file.read_exact(&mut bytes[..1]).unwrap();
            assert_eq!(bytes[0], scene.expected[at]);
        }
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), end);
    }
}

/// Row: read.concurrent
#[test]
fn concurrent_random_readers_see_one_commit() {
    let Some(scene) = Scene::new() else { return };
    let size = scene.expected.len() as u64;
    thread::scope(|scope| {
        for seed in 0..4 {
            let scene = &scene;
            scope.spawn(move || {
                let file = File::open(scene.pages()).unwrap();
                let mut random = Random(seed);
                let mut bytes = vec![0; 100_000];
                for _ in 0..300 {
                    let place = usize::try_from(random.below(size)).unwrap();
                    let count = usize::try_from(random.below(100_000)).unwrap() + 1;
                    let read = file.read_at(&mut bytes[..count], place as u64).unwrap();
                    assert!(
                        &bytes[..read] == scene.part(place, count),
                        "{seed}: {place}"
                    );
                }
            });
        }
    });
    scene.load.progress();
}

/// Row: read.direct, read.direct_unaligned
#[test]
fn readers_past_the_page_cache_need_no_alignment() {
    for options in [&[][..], &["-o", "direct_io"]] {
        let Some(scene) = Scene::with(options) else {
            return;
        };
        let mut open = OpenOptions::new();
        let file = open
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(scene.pages())
            .unwrap();
        let mut memory = Aligned::new(2 << 20);
        for place in (0..scene.expected.len()).step_by(1 << 20) {
            let into = &mut memory.get()[..1 << 20];
            let read = file.read_at(into, place as u64).unwrap();
            assert!(&into[..read] == scene.part(place, 1 << 20), "{place}");
        }
        for (place, count) in borders(scene.expected.len()) {
            let into = &mut memory.get()[3..3 + count];
            let read = file.read_at(into, place as u64).unwrap();
            assert!(
                &into[..read] == scene.part(place, count),
                "{count} at {place}"
            );
        }
        assert_eq!(
            file.read_at(memory.get(), scene.expected.len() as u64)
                .unwrap(),
            0
        );
    }
}

/// Row: read.splice, read.copy_file_range
#[test]
fn copies_inside_the_kernel_are_whole() {
    for options in [&[][..], &["-o", "direct_io"]] {
        let Some(scene) = Scene::with(options) else {
            return;
        };
        type Copy = fn(&File, &File, usize) -> std::io::Result<usize>;
        let through_pipe: Copy = |from, to, count| {
            let (out, input) = std::io::pipe()?;
            let moved = system::splice(from, &input, count.min(60_000))?;
            let mut left = moved;
            while left > 0 {
                left -= system::splice(&out, to, left)?;
            }
            Ok(moved)
        };
        let ways: [(&str, Copy); 2] = [
            ("sendfile", |from, to, count| {
                system::sendfile(to, from, count)
            }),
            ("splice", through_pipe),
        ];
        for (name, copy) in ways {
            let to = scene.rig.path(name);
            let (from, into) = (
                File::open(scene.pages()).unwrap(),
                File::create(&to).unwrap(),
            );
            while copy(&from, &into, 777_777).unwrap() > 0 {}
            scene.assert_copied(&to);
        }
        // The kernel has no way of its own between two kinds of file systems; tools fall back.
        let from = File::open(scene.pages()).unwrap();
        let into = File::create(scene.rig.path("range")).unwrap();
        let answer = system::copy_file_range(&from, &into, 4096);
        assert_eq!(errno_of(answer), libc::EXDEV);
    }
}

/// Row: read.odd_blocks
#[test]
fn dd_with_odd_blocks_copies_the_commit() {
    let Some(scene) = Scene::new() else { return };
    for block in ["777", "8191", "65537", "3000001"] {
        let to = scene.rig.path("dd");
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", scene.pages().display()));
        dd.arg(format!("of={}", to.display()));
        succeed(dd.args(["status=none", &format!("bs={block}")]));
        scene.assert_copied(&to);
    }
}

/// Row: read.killed
#[test]
fn a_reader_that_is_killed_in_the_middle_leaves_no_trace() {
    let Some(scene) = Scene::with(&["-o", "direct_io"]) else {
        return;
    };
    for _ in 0..10 {
        let mut reader = Command::new("sh")
            .args(["-c", "while :; do cat \"$0\" > /dev/null; done"])
            .arg(scene.pages())
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        scene.load.progress();
        let group = nix::unistd::Pid::from_raw(i32::try_from(reader.id()).unwrap());
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
        reader.wait().unwrap();
    }
    assert!(fs::read(scene.pages()).unwrap() == scene.expected);
    eventually("nobody uses it any more", || {
        !succeed(Command::new("sh").arg("-c").arg(format!(
            "fuser -m {} 2>/dev/null || true",
            scene.mnt.display()
        )))
        .contains(|c: char| c.is_ascii_digit())
    });
    umount(&scene.mnt);
}

/// Row: read.directory
#[test]
fn a_directory_is_not_read_as_a_file() {
    let Some(scene) = Scene::new() else { return };
    assert_eq!(errno_of(fs::read(&scene.mnt)), libc::EISDIR);
    let file = scene.pages().join("below");
    assert_eq!(errno_of(fs::read(file)), libc::ENOTDIR);
}
