//! Reads: whole, right, or an error (M2, M4).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::rig::{
    ENDED, GOOD, LARGE_BYTES, Rig, UNREADABLE, errno_of, eventually, expected, has_tool, run,
};

/// Reads what is asked for, or fails.
fn read_at(file: &File, offset: u64, count: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

#[test]
fn concurrent_random_readers_see_the_right_bytes() {
    for options in ["", "direct_io"] {
        let Some(rig) = Rig::with(options, 0) else {
            return;
        };
        thread::scope(|scope| {
            for seed in 1..=4_u64 {
                let path = rig.large_path();
                scope.spawn(move || {
                    let file = File::open(path).unwrap();
                    let mut random = seed;
                    for _ in 0..300 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let count = usize::try_from(random % 300_000 + 1).unwrap();
                        let offset = (random >> 20) % (LARGE_BYTES - count as u64);
                        let bytes = read_at(&file, offset, count).unwrap();
                        assert!(
                            bytes == expected(offset, count),
                            "{count} bytes at {offset}"
                        );
                    }
                });
            }
        });
    }
}

#[test]
fn a_read_ends_at_the_end_of_the_file_and_not_before() {
    for options in ["", "direct_io"] {
        let Some(rig) = Rig::with(options, 0) else {
            return;
        };
        let file = File::open(rig.large_path()).unwrap();
        let mut bytes = vec![0; 100_000];
        let start = LARGE_BYTES - 70_001;
        assert_eq!(
            file.read_at(&mut bytes, start).unwrap(),
            70_001,
            "{options}"
        );
        assert!(bytes[..70_001] == expected(start, 70_001));
        assert_eq!(file.read_at(&mut bytes, LARGE_BYTES).unwrap(), 0);
        assert_eq!(file.read_at(&mut bytes, LARGE_BYTES + 5).unwrap(), 0);
        let whole = fs::read(rig.large_path()).unwrap();
        assert!(
            whole == expected(0, usize::try_from(LARGE_BYTES).unwrap()),
            "{options}"
        );
        assert!(fs::read(rig.mnt.join("empty")).unwrap().is_empty());
    }
}

/// What a pin shows never changes, so what was read once need not be asked again. The kernel may drop
/// its cache whenever it likes, so there is more than one attempt.
///
/// Row: read.cached
#[test]
fn a_second_reading_comes_from_the_kernels_cache() {
    let Some(rig) = Rig::new() else { return };
    let bytes_asked = || {
        let before = rig.large.bytes_read.load(Ordering::Relaxed);
        fs::read(rig.large_path()).unwrap();
        rig.large.bytes_read.load(Ordering::Relaxed) - before
    };
    assert!(bytes_asked() >= LARGE_BYTES);
    assert!((0..10).any(|_| bytes_asked() == 0));
}

/// Row: read.direct_io
#[test]
fn direct_io_asks_every_time() {
    let Some(rig) = Rig::with("direct_io", 0) else {
        return;
    };
    for times in 1..=2 {
        fs::read(rig.large_path()).unwrap();
        let read = rig.large.bytes_read.load(Ordering::Relaxed);
        assert_eq!(read, times * LARGE_BYTES);
    }
}

#[test]
fn a_mapping_shows_the_right_bytes() {
    let Some(rig) = Rig::new() else { return };
    if !has_tool("python3") {
        return;
    }
    let plain = rig.plain_copy().join("data.pages");
    let compare = "import mmap, sys\n\
        def load(path):\n    f = open(path, 'rb')\n    return mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n\
        a, b = load(sys.argv[1]), load(sys.argv[2])\n\
        assert len(a) == len(b) > 0\n\
        for at in (len(a) - 1, 33333333, 4095, 4096, 0):\n    assert a[at] == b[at], at\n\
        assert a[:] == b[:]\nprint('equal')\n";
    let printed = run(Command::new("python3")
        .args(["-c", compare])
        .arg(rig.large_path())
        .arg(plain));
    assert_eq!(printed, "equal\n");
}

/// Row: seek.data
#[test]
fn a_file_is_one_extent_of_data() {
    let Some(rig) = Rig::new() else { return };
    let large = File::open(rig.large_path()).unwrap();
    let end = i64::try_from(LARGE_BYTES).unwrap();
    for offset in [0, 1, 4096, end - 1] {
        assert_eq!(lseek(&large, offset, Whence::SeekData), Ok(offset));
        assert_eq!(lseek(&large, offset, Whence::SeekHole), Ok(end));
    }
    let empty = File::open(rig.mnt.join("empty")).unwrap();
    for (file, past) in [(&large, end), (&large, end + 9), (&empty, 0)] {
        assert_eq!(lseek(file, past, Whence::SeekData), Err(Errno::ENXIO));
        assert_eq!(lseek(file, past, Whence::SeekHole), Err(Errno::ENXIO));
    }
    assert_eq!(lseek(&large, 0, Whence::SeekEnd), Ok(end));
}

/// M4: the end is final, and what the kernel had cached before is dropped.
///
/// Row: read.ended
#[test]
fn after_the_end_of_a_pin_every_read_fails() {
    let Some(rig) = Rig::new() else { return };
    let file = File::open(rig.large_path()).unwrap();
    read_at(&file, 0, 4096).unwrap();
    rig.large.behaviour.store(ENDED, Ordering::Relaxed);
    let far = LARGE_BYTES / 2;
    assert_eq!(errno_of(read_at(&file, far, 4096)), libc::EIO);
    eventually("the kernel's cache is dropped", || {
        read_at(&file, 0, 4096).is_err()
    });
    assert_eq!(errno_of(read_at(&file, 0, 4096)), libc::EIO);
    rig.large.behaviour.store(GOOD, Ordering::Relaxed);
    assert_eq!(errno_of(read_at(&file, far, 4096)), libc::EIO);
    assert_eq!(errno_of(fs::read(rig.large_path())), libc::EIO);
    let other = fs::read(rig.mnt.join("folder/inner/leaf")).unwrap();
    assert_eq!(other, b"leaf");
}

/// What was read before the end is right, and a reader that got it may go on using it.
///
/// Row: read.damaged
#[test]
fn a_page_that_cannot_be_read_fails_alone() {
    for options in ["", "direct_io"] {
        let Some(rig) = Rig::with(options, 0) else {
            return;
        };
        let file = File::open(rig.large_path()).unwrap();
        rig.large.behaviour.store(UNREADABLE, Ordering::Relaxed);
        assert_eq!(errno_of(read_at(&file, 5000, 100)), libc::EIO);
        rig.large.behaviour.store(GOOD, Ordering::Relaxed);
        assert_eq!(read_at(&file, 5000, 100).unwrap(), expected(5000, 100));
    }
}

#[test]
fn odd_offsets_and_sizes_of_dd_are_right() {
    let Some(rig) = Rig::new() else { return };
    if !has_tool("dd") {
        return;
    }
    for (skip, count, block) in [
        (1, 4095, 7),
        (8191, 100_001, 777),
        (33_554_431, 3_000_003, 65_537),
    ] {
        let out = rig.path("dd");
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", rig.large_path().display()));
        dd.arg(format!("of={}", out.display()));
        dd.arg(format!("bs={block}")).arg("status=none");
        dd.arg("iflag=skip_bytes,count_bytes");
        dd.arg(format!("skip={skip}")).arg(format!("count={count}"));
        run(&mut dd);
        assert!(
            fs::read(out).unwrap() == expected(skip, count),
            "{skip} {count}"
        );
    }
}
