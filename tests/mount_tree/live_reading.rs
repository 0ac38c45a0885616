//! The bytes of live files: what is there when they are read (M8, M9).

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::unistd::{Whence, lseek};

use crate::folder::{Folder, HELD, Way};
use crate::rig::{errno_of, eventually, expected, has_tool, run};

const WAYS: [(Way, &str); 4] = [
    (Way::Kernel, ""),
    (Way::Kernel, "direct_io"),
    (Way::Daemon, ""),
    (Way::Daemon, "direct_io"),
];

fn append(path: &Path, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// M9: root's mounts cost the daemon no reading, and everybody else's are right all the same.
///
/// Row: live.read
#[test]
fn live_files_are_read_by_the_kernel_where_it_can() {
    for (way, options) in WAYS {
        let Some(folder) = Folder::new(way, options) else {
            return;
        };
        let large = ["data/blob", "data/sparse", HELD];
        let small = ["data/empty", "conf/three", "conf/settings"];
        for name in large.iter().chain(&small) {
            let (raw, shown) = (folder.source.join(name), folder.mnt.join(name));
            assert!(
                fs::read(raw).unwrap() == fs::read(shown).unwrap(),
                "{way:?} {name}"
            );
        }
        assert_eq!(folder.bytes_read() == 0, way == Way::Kernel, "{options}");
        eventually("every file is closed", || folder.open() == 0);
    }
}

/// M8: whatever was read before, the next open sees the change.
///
/// Row: live.reopened
#[test]
fn every_open_reads_what_is_there_then() {
    for (way, options) in WAYS {
        let Some(folder) = Folder::new(way, options) else {
            return;
        };
        let (raw, shown) = (
            folder.source.join("data/blob"),
            folder.mnt.join("data/blob"),
        );
        let time = fs::metadata(&raw).unwrap().modified().unwrap();
        let file = fs::OpenOptions::new().write(true).open(&raw).unwrap();
        for round in 0..5_u8 {
            // The same size and the same time: nothing but the open itself tells.
            file.write_all_at(&[round; 5000], 4000).unwrap();
            file.set_modified(time).unwrap();
            let read = fs::read(&shown).unwrap();
            assert!(
                read[4000..9000] == [round; 5000],
                "{way:?} {options} {round}"
            );
            assert!(read == fs::read(&raw).unwrap());
        }
    }
}

/// M8: zeros at the end of what was there before are no content, and a shorter file ends earlier. A
/// large file may be read by the kernel, or be kept by it; a small one is not.
///
/// Row: live.grows
#[test]
fn a_file_that_grows_and_shrinks_while_it_is_open_is_what_it_is() {
    for (way, options) in WAYS {
        let Some(folder) = Folder::new(way, options) else {
            return;
        };
        for bytes in [19, 70_001] {
            let raw = folder.source.join("conf/settings");
            fs::OpenOptions::new()
                .write(true)
                .open(&raw)
                .and_then(|file| file.set_len(bytes))
                .unwrap();
            let file = File::open(folder.mnt.join("conf/settings")).unwrap();
            grow_and_shrink(&raw, &file, &format!("{way:?} {options} {bytes}"));
        }
    }
}

fn grow_and_shrink(raw: &Path, file: &File, what: &str) {
    let mut content = fs::read(raw).unwrap();
    let all = || {
        let mut bytes = vec![0; 150_000];
        let count = file.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(count);
        bytes
    };
    assert!(all() == content, "{what}");
    for round in 1..=20_usize {
        let more = vec![u8::try_from(round).unwrap(); 777 * (round % 3) + 1];
        append(raw, &more);
        content.extend(more);
        // A small read of the new end alone, and then everything.
        let mut last = [0; 1];
        let at = content.len() as u64 - 1;
        assert_eq!(file.read_at(&mut last, at).unwrap(), 1, "{what} {round}");
        assert_eq!(usize::from(last[0]), round, "{what}");
        assert!(all() == content, "{what} {round}");
    }
    let cut = fs::OpenOptions::new().write(true).open(raw).unwrap();
    cut.set_len(10).unwrap();
    assert_eq!(all(), content[..10], "{what}");
    append(raw, b"again");
    assert_eq!(all(), [&content[..10], b"again"].concat(), "{what}");
}

/// A log that is written while it is read: every byte that is read was written there.
#[test]
fn a_log_is_read_while_it_is_written() {
    for (way, options) in WAYS {
        let Some(folder) = Folder::new(way, options) else {
            return;
        };
        let name = "data/empty";
        let (raw, shown) = (folder.source.join(name), folder.mnt.join(name));
        let is_over = AtomicBool::new(false);
        let total = 2_000_000;
        let written = expected(0, total);
        thread::scope(|scope| {
            scope.spawn(|| {
                for part in written.chunks(1777) {
                    append(&raw, part);
                }
                is_over.store(true, Ordering::Release);
            });
            let mut file = File::open(&shown).unwrap();
            let mut read = Vec::new();
            loop {
                let was_over = is_over.load(Ordering::Acquire);
                let part = Read::by_ref(&mut file).take(50_000);
                let count = { part }.read_to_end(&mut read).unwrap();
                assert!(
                    read == written[..read.len()],
                    "{way:?} {options} {}",
                    read.len()
                );
                if was_over && count == 0 {
                    break;
                }
            }
            assert_eq!(read.len(), total, "{way:?} {options}");
        });
    }
}

/// M9: several have it open at once, open it again, and close it in another order.
///
/// Row: live.shared
#[test]
fn many_have_one_file_open() {
    for (way, options) in WAYS {
        let Some(folder) = Folder::new(way, options) else {
            return;
        };
        let content = fs::read(folder.source.join("data/blob")).unwrap();
        thread::scope(|scope| {
            for seed in 1..=4_u64 {
                let (folder, content) = (&folder, &content);
                scope.spawn(move || {
                    let mut random = seed * 0x9e37_79b9;
                    let mut files = Vec::new();
                    for _ in 0..150 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        if files.len() < 3 || random % 2 == 0 {
                            files.push(File::open(folder.mnt.join("data/blob")).unwrap());
                        } else {
                            let at = usize::try_from(random >> 8).unwrap() % files.len();
                            drop(files.swap_remove(at));
                        }
                        let at = (random >> 16) % 2_900_000;
                        let mut bytes = [0; 5000];
                        files[0].read_exact_at(&mut bytes, at).unwrap();
                        let at = usize::try_from(at).unwrap();
                        assert!(bytes == content[at..at + 5000], "{way:?} {options}");
                    }
                });
            }
        });
        eventually("every file is closed", || folder.open() == 0);
    }
}

/// Row: live.holes
#[test]
fn holes_of_live_files_are_where_they_are() {
    for (way, options) in WAYS {
        let Some(folder) = Folder::new(way, options) else {
            return;
        };
        let open = |root: &Path| File::open(root.join("data/sparse")).unwrap();
        let (raw, shown) = (open(&folder.source), open(&folder.mnt));
        let mut at = 0;
        let mut extents = 0;
        for whence in [Whence::SeekData, Whence::SeekHole].into_iter().cycle() {
            let (found, expected) = (lseek(&shown, at, whence), lseek(&raw, at, whence));
            assert_eq!(found, expected, "{at}");
            let Ok(next) = found else { break };
            (at, extents) = (next, extents + 1);
        }
        assert_eq!(extents, 6, "three islands");
        assert_eq!(lseek(&shown, 0, Whence::SeekEnd), Ok(12 << 20));
    }
}

/// A mapping outlives its descriptor, and shows what is there.
///
/// Row: live.mapped
#[test]
fn live_files_are_mapped() {
    if !has_tool("python3") {
        return;
    }
    let compare = "import mmap, sys\n\
        raw = open(sys.argv[1], 'rb').read()\n\
        for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):\n\
        \x20   with open(sys.argv[2], 'rb') as f:\n\
        \x20       m = mmap.mmap(f.fileno(), 0, flags=flags, prot=mmap.PROT_READ)\n\
        \x20   with open(sys.argv[2], 'rb') as f:\n\
        \x20       assert f.read() == raw\n\
        \x20   assert m[:] == raw, flags\n\
        print('equal')\n";
    for (way, options) in WAYS {
        let Some(folder) = Folder::new(way, options) else {
            return;
        };
        let (raw, shown) = (
            folder.source.join("data/blob"),
            folder.mnt.join("data/blob"),
        );
        let printed = run(Command::new("python3")
            .args(["-c", compare])
            .arg(raw)
            .arg(shown));
        assert_eq!(printed, "equal\n");
        eventually("every file is closed", || folder.open() == 0);
    }
}

/// Programs of a folder run, which maps them; so does an overlay on top of the view.
#[test]
fn programs_run_and_an_overlay_stands_on_a_view_of_live_files() {
    for (way, options) in WAYS {
        let folder = Folder::with(way, options, |at| {
            fs::copy("/bin/true", at.join("program")).unwrap();
            fs::write(at.join("script"), "#!/bin/sh\necho ran\n").unwrap();
            fs::set_permissions(at.join("script"), Permissions::from_mode(0o755)).unwrap();
            fs::write(at.join("large"), expected(3, 300_000)).unwrap();
        });
        let Some(folder) = folder else { return };
        run(&mut Command::new(folder.mnt.join("program")));
        assert_eq!(run(&mut Command::new(folder.mnt.join("script"))), "ran\n");
        let over = ["upper", "work", "over"].map(|name| folder.rig.path(name));
        for dir in &over {
            fs::create_dir(dir).unwrap();
        }
        let [upper, work, over] = over.map(|path| path.display().to_string());
        let lower = folder.mnt.display();
        let list = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let none: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        let mounted = nix::mount::mount(
            none,
            over.as_str(),
            Some("overlay"),
            flags,
            Some(list.as_str()),
        );
        if let Err(error) = mounted {
            println!("SKIPPED: no overlay here: {error}");
            return;
        }
        let read = fs::read(format!("{over}/large"));
        let appended = fs::OpenOptions::new()
            .append(true)
            .open(format!("{over}/large"));
        let grown = appended.and_then(|mut file| file.write_all(b"more"));
        let copied_up = fs::read(format!("{over}/large"));
        nix::mount::umount2(over.as_str(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert!(read.unwrap() == expected(3, 300_000), "{way:?} {options}");
        grown.unwrap();
        assert_eq!(copied_up.unwrap().len(), 300_004, "{way:?} {options}");
        assert_eq!(
            fs::metadata(folder.source.join("large")).unwrap().len(),
            300_000
        );
    }
}

/// M3: live files are no way to write to the source.
#[test]
fn live_files_are_not_written() {
    for (way, options) in WAYS {
        let Some(folder) = Folder::new(way, options) else {
            return;
        };
        for name in ["data/blob", HELD] {
            let shown = folder.mnt.join(name);
            let write = fs::OpenOptions::new().write(true).open(&shown);
            assert_eq!(errno_of(write), libc::EROFS);
            let file = File::open(&shown).unwrap();
            assert_eq!(errno_of(file.write_at(b"x", 0)), libc::EBADF);
            assert_eq!(errno_of(fs::remove_file(&shown)), libc::EROFS);
        }
    }
}
