//! What the real disk and the simulated one must both do, and do alike.

#![allow(clippy::disallowed_methods)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use crate::os::real_disk::RealDisk;
use crate::os::sim::SimDisk;
use crate::os::{Disk, File, LockKind, OpenMode, read_up_to, write_all_at};

fn on_both(test: impl Fn(&dyn Disk, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    test(&RealDisk, dir.path());
    let sim = SimDisk::new(1);
    sim.create_dir(Path::new("/dir")).unwrap();
    test(&sim, Path::new("/dir"));
}

fn errno(result: io::Result<impl Sized>) -> Option<i32> {
    result.err().expect("must fail").raw_os_error()
}

#[test]
fn locks_exclude_each_other_as_flock_does() {
    use LockKind::{Exclusive, Shared};
    on_both(|disk, dir| {
        let at = dir.join("a");
        let one = disk.open(&at, OpenMode::CreateNew).unwrap();
        let two = disk.open(&at, OpenMode::Read).unwrap();
        let three = disk.open(&at, OpenMode::ReadWrite).unwrap();
        assert!(one.try_lock(Shared).unwrap());
        assert!(two.try_lock(Shared).unwrap());
        assert!(!three.try_lock(Exclusive).unwrap());
        // Changing a lock gives the old one up first, even where the new one is refused.
        assert!(!one.try_lock(Exclusive).unwrap());
        assert!(two.try_lock(Exclusive).unwrap());
        assert!(
            two.try_lock(Exclusive).unwrap(),
            "again by the same open file"
        );
        assert!(!one.try_lock(Shared).unwrap());
        assert!(two.try_lock(Shared).unwrap());
        assert!(one.try_lock(Shared).unwrap());
    });
}

#[test]
fn lock_ends_with_the_last_handle_and_not_before() {
    on_both(|disk, dir| {
        let at = dir.join("a");
        let one = disk.open(&at, OpenMode::CreateNew).unwrap();
        let same = Arc::clone(&one);
        let other = disk.open(&at, OpenMode::Read).unwrap();
        assert!(one.try_lock(LockKind::Exclusive).unwrap());
        drop(one);
        assert!(!other.try_lock(LockKind::Shared).unwrap());
        drop(same);
        assert!(other.try_lock(LockKind::Shared).unwrap());
    });
}

/// The lock of an engine is on its directory's inode, so it must go with the inode, not the name.
#[test]
fn directories_are_locked_like_files_and_by_inode() {
    on_both(|disk, dir| {
        let at = dir.join("d");
        disk.create_dir(&at).unwrap();
        let one = disk.open(&at, OpenMode::Directory).unwrap();
        assert!(one.try_lock(LockKind::Exclusive).unwrap());
        disk.rename(&at, &dir.join("e")).unwrap();
        let two = disk.open(&dir.join("e"), OpenMode::Directory).unwrap();
        assert_eq!(one.identity().unwrap(), two.identity().unwrap());
        assert!(!two.try_lock(LockKind::Exclusive).unwrap());
        disk.create_dir(&at).unwrap();
        let three = disk.open(&at, OpenMode::Directory).unwrap();
        assert_ne!(one.identity().unwrap(), three.identity().unwrap());
        assert!(three.try_lock(LockKind::Exclusive).unwrap());
        drop(one);
        assert!(two.try_lock(LockKind::Exclusive).unwrap());
    });
}

#[test]
fn refusals_have_the_same_numbers() {
    on_both(|disk, dir| {
        let file = dir.join("a");
        let folder = dir.join("d");
        let missing = dir.join("m");
        let opened = disk.open(&file, OpenMode::CreateNew).unwrap();
        disk.create_dir(&folder).unwrap();
        let open = |at: &Path, mode| errno(disk.open(at, mode));
        assert_eq!(open(&file, OpenMode::CreateNew), Some(libc::EEXIST));
        assert_eq!(open(&folder, OpenMode::CreateNew), Some(libc::EEXIST));
        assert_eq!(open(&folder, OpenMode::Read), Some(libc::EISDIR));
        assert_eq!(open(&folder, OpenMode::ReadWrite), Some(libc::EISDIR));
        assert_eq!(open(&missing, OpenMode::Read), Some(libc::ENOENT));
        assert_eq!(
            open(&missing.join("x"), OpenMode::CreateNew),
            Some(libc::ENOENT)
        );
        assert_eq!(
            open(&file.join("x"), OpenMode::CreateNew),
            Some(libc::ENOTDIR)
        );
        assert_eq!(open(&file.join("x"), OpenMode::Read), Some(libc::ENOTDIR));
        assert_eq!(open(&file, OpenMode::Directory), Some(libc::ENOTDIR));
        assert_eq!(errno(disk.create_dir(&file)), Some(libc::EEXIST));
        assert_eq!(errno(disk.create_dir(&folder)), Some(libc::EEXIST));
        assert_eq!(errno(disk.remove(&missing)), Some(libc::ENOENT));
        assert_eq!(errno(disk.remove(&folder)), Some(libc::EISDIR));
        assert_eq!(errno(disk.rename(&missing, &file)), Some(libc::ENOENT));
        assert_eq!(errno(disk.link(&missing, &missing)), Some(libc::ENOENT));
        assert_eq!(errno(disk.link(&file, &file)), Some(libc::EEXIST));
        assert_eq!(errno(disk.link(&folder, &missing)), Some(libc::EPERM));
        assert_eq!(errno(disk.rename(&file, &folder)), Some(libc::EISDIR));
        assert_eq!(errno(disk.rename(&folder, &file)), Some(libc::ENOTDIR));
        assert_eq!(
            errno(disk.rename(&folder, &folder.join("x"))),
            Some(libc::EINVAL)
        );
        assert_eq!(errno(disk.list(&file)), Some(libc::ENOTDIR));
        assert_eq!(errno(disk.list(&missing)), Some(libc::ENOENT));
        assert_eq!(errno(disk.sync_dir(&missing)), Some(libc::ENOENT));
        assert_eq!(errno(disk.unnamed(&missing)), Some(libc::ENOENT));
        assert_eq!(errno(disk.free_bytes(&missing)), Some(libc::ENOENT));
        let read_only = disk.open(&file, OpenMode::Read).unwrap();
        assert_eq!(errno(read_only.write_at(b"x", 0)), Some(libc::EBADF));
        assert_eq!(errno(read_only.set_len(0)), Some(libc::EINVAL));
        assert_eq!(errno(opened.write_at(b"x", u64::MAX)), Some(libc::EINVAL));
        let directory = disk.open(&folder, OpenMode::Directory).unwrap();
        assert_eq!(errno(directory.read_at(&mut [0; 1], 0)), Some(libc::EISDIR));
        assert_eq!(errno(directory.write_at(b"x", 0)), Some(libc::EBADF));
        directory.sync_data().unwrap();
    });
}

#[test]
fn file_without_a_name_keeps_working_and_is_listed_nowhere() {
    on_both(|disk, dir| {
        let removed = disk.open(&dir.join("a"), OpenMode::CreateNew).unwrap();
        let unnamed = disk.unnamed(dir).unwrap();
        disk.remove(&dir.join("a")).unwrap();
        assert!(disk.list(dir).unwrap().is_empty());
        for file in [removed, unnamed] {
            write_all_at(file.as_ref(), b"abc", 1).unwrap();
            file.sync_data().unwrap();
            assert_eq!(content(file.as_ref()), b"\0abc");
        }
    });
}

#[test]
fn listing_is_sorted_by_bytes() {
    on_both(|disk, dir| {
        for name in ["b", "a", "B", "\u{e9}", "10", "9"] {
            disk.open(&dir.join(name), OpenMode::CreateNew).unwrap();
        }
        assert_eq!(
            disk.list(dir).unwrap(),
            ["10", "9", "B", "a", "b", "\u{e9}"]
        );
    });
}

fn content(file: &dyn File) -> Vec<u8> {
    let mut out = vec![0xee; 100_000];
    let count = read_up_to(file, &mut out, 0).unwrap();
    assert_eq!(file.len().unwrap(), count as u64);
    out.truncate(count);
    out
}

/// A step of the model test; files are named by small numbers.
#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    Write {
        file: u8,
        offset: u64,
        length: usize,
        fill: u8,
    },
    Read {
        file: u8,
        offset: u64,
        length: usize,
    },
    SetLen {
        file: u8,
        size: u64,
    },
    Punch {
        file: u8,
        offset: u64,
        bytes: u64,
    },
    Rename {
        from: u8,
        to: u8,
    },
    Remove(u8),
    List,
    Sync(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let file = || 0..4_u8;
    let offset = || prop_oneof![0..20_000_u64, Just(0), Just(4096), Just(8191)];
    let length = || prop_oneof![0..10_000_usize, Just(1), Just(4096)];
    prop_oneof![
        2 => file().prop_map(Step::Create),
        6 => (file(), offset(), length(), any::<u8>())
            .prop_map(|(file, offset, length, fill)| Step::Write { file, offset, length, fill }),
        4 => (file(), offset(), length())
            .prop_map(|(file, offset, length)| Step::Read { file, offset, length }),
        2 => (file(), offset()).prop_map(|(file, size)| Step::SetLen { file, size }),
        2 => (file(), offset(), offset())
            .prop_map(|(file, offset, bytes)| Step::Punch { file, offset, bytes }),
        1 => (file(), file()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => file().prop_map(Step::Remove),
        1 => Just(Step::List),
        1 => file().prop_map(Step::Sync),
    ]
}

/// Takes one step; returns everything that can be seen of it, errors by their number.
fn take(disk: &dyn Disk, dir: &Path, step: &Step) -> Result<Vec<u8>, Option<i32>> {
    let at = |file: u8| -> PathBuf { dir.join(file.to_string()) };
    let open = |file| disk.open(&at(file), OpenMode::ReadWrite);
    let act = || -> io::Result<Vec<u8>> {
        match *step {
            Step::Create(file) => disk
                .open(&at(file), OpenMode::CreateNew)
                .map(|_| Vec::new()),
            Step::Write {
                file,
                offset,
                length,
                fill,
            } => {
                let file = open(file)?;
                write_all_at(file.as_ref(), &vec![fill; length], offset)?;
                Ok(content(file.as_ref()))
            }
            Step::Read {
                file,
                offset,
                length,
            } => {
                let mut out = vec![0xee; length];
                let count = read_up_to(open(file)?.as_ref(), &mut out, offset)?;
                out.truncate(count);
                Ok(out)
            }
            Step::SetLen { file, size } => {
                let file = open(file)?;
                file.set_len(size)?;
                Ok(content(file.as_ref()))
            }
            Step::Punch {
                file,
                offset,
                bytes,
            } => {
                let file = open(file)?;
                file.punch(offset, bytes)?;
                Ok(content(file.as_ref()))
            }
            Step::Rename { from, to } => disk.rename(&at(from), &at(to)).map(|()| Vec::new()),
            Step::Remove(file) => disk.remove(&at(file)).map(|()| Vec::new()),
            Step::List => Ok(format!("{:?}", disk.list(dir)?).into_bytes()),
            Step::Sync(file) => open(file)?.sync_data().map(|()| Vec::new()),
        }
    };
    act().map_err(|error| error.raw_os_error())
}

/// O2: what an engine does with the folder of its log.
#[test]
fn both_disks_remove_only_empty_directories() {
    let real_dir = tempfile::tempdir().unwrap();
    let sim = SimDisk::new(1);
    let disks: [(&dyn Disk, &Path); 2] = [(&RealDisk, real_dir.path()), (&sim, Path::new("/"))];
    for (disk, dir) in disks {
        let (folder, file) = (dir.join("folder"), dir.join("folder/file"));
        let refused = |path: &Path| disk.remove_dir(path).unwrap_err().kind();
        assert_eq!(refused(&folder), io::ErrorKind::NotFound);
        disk.create_dir(&folder).unwrap();
        disk.open(&file, OpenMode::CreateNew).unwrap();
        assert_eq!(refused(&folder), io::ErrorKind::DirectoryNotEmpty);
        assert_eq!(refused(&file), io::ErrorKind::NotADirectory);
        disk.remove(&file).unwrap();
        disk.remove_dir(&folder).unwrap();
        assert_eq!(refused(&folder), io::ErrorKind::NotFound);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// O1: the real disk is the model: whatever it shows, the simulated one must show too.
    #[test]
    fn simulated_disk_shows_what_the_real_one_shows(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        // Memory, so that the syncs of the test cost nothing.
        let real_dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let sim = SimDisk::new(1);
        for step in &steps {
            let real = take(&RealDisk, real_dir.path(), step);
            let simulated = take(&sim, Path::new("/"), step);
            prop_assert_eq!(real, simulated, "{:?}", step);
        }
    }
}
