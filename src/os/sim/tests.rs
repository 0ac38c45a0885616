//! The simulated disk as a whole.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::os::{LockKind, read_exact_at, read_up_to, write_all_at};

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn create(disk: &SimDisk, at: &str, content: &[u8]) -> Arc<dyn File> {
    let file = disk.open(path(at), OpenMode::CreateNew).unwrap();
    write_all_at(file.as_ref(), content, 0).unwrap();
    file
}

fn content(disk: &SimDisk, at: &str) -> Option<Vec<u8>> {
    let file = disk.open(path(at), OpenMode::Read).ok()?;
    let mut out = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    read_exact_at(file.as_ref(), &mut out, 0).unwrap();
    Some(out)
}

fn images<T: Ord>(disk: &SimDisk, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    (0..200)
        .map(|seed| look(&disk.image_after_crash(seed)))
        .collect()
}

/// X1, O1.
#[test]
fn file_synced_with_its_name_survives_every_crash() {
    let disk = SimDisk::new(1);
    disk.create_dir(path("/db")).unwrap();
    disk.sync_dir(path("/")).unwrap();
    create(&disk, "/db/a", b"abc").sync_data().unwrap();
    disk.sync_dir(path("/db")).unwrap();
    let seen = images(&disk, |disk| content(disk, "/db/a"));
    assert_eq!(seen, BTreeSet::from([Some(b"abc".to_vec())]));
}

/// X1, O1, O2: the data alone do not help, and neither does the name alone.
#[test]
fn synced_file_may_vanish_with_its_name_and_a_synced_name_may_have_no_data() {
    let disk = SimDisk::new(1);
    create(&disk, "/a", b"abc").sync_data().unwrap();
    let seen = images(&disk, |disk| content(disk, "/a"));
    assert_eq!(seen, BTreeSet::from([None, Some(b"abc".to_vec())]));

    let disk = SimDisk::new(1);
    create(&disk, "/a", b"abc");
    disk.sync_dir(path("/")).unwrap();
    let seen = images(&disk, |disk| content(disk, "/a"));
    let expected = [vec![], vec![0; 3], b"abc".to_vec()].map(Some);
    assert_eq!(seen, BTreeSet::from(expected));
}

/// X1: until the directory is synced, the old file must still be whole.
#[test]
fn unsynced_removal_and_replacement_leave_the_old_file_whole() {
    let disk = SimDisk::new(1);
    create(&disk, "/a", b"old").sync_data().unwrap();
    create(&disk, "/b", b"gone").sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    create(&disk, "/new", b"new").sync_data().unwrap();
    disk.rename(path("/new"), path("/a")).unwrap();
    disk.remove(path("/b")).unwrap();
    assert_eq!(content(&disk, "/b"), None);
    let seen = images(&disk, |disk| content(disk, "/a"));
    assert_eq!(
        seen,
        BTreeSet::from([Some(b"old".to_vec()), Some(b"new".to_vec())])
    );
    let seen = images(&disk, |disk| content(disk, "/b"));
    assert_eq!(seen, BTreeSet::from([None, Some(b"gone".to_vec())]));
    disk.sync_dir(path("/")).unwrap();
    let seen = images(&disk, |disk| (content(disk, "/a"), content(disk, "/b")));
    assert_eq!(seen, BTreeSet::from([(Some(b"new".to_vec()), None)]));
}

/// X2: the files of one disk do not share their fate.
#[test]
fn one_file_may_be_lost_where_another_is_kept() {
    let disk = SimDisk::new(1);
    let files = ["/a", "/b"].map(|at| create(&disk, at, &[0; 4096]));
    files.iter().for_each(|file| file.sync_data().unwrap());
    disk.sync_dir(path("/")).unwrap();
    files
        .iter()
        .for_each(|file| write_all_at(file.as_ref(), &[1; 4096], 0).unwrap());
    let whole = |disk: &SimDisk, at| {
        let bytes = content(disk, at).unwrap();
        [0, 1]
            .into_iter()
            .find(|value| bytes.iter().all(|byte| byte == value))
    };
    let seen = images(&disk, |disk| (whole(disk, "/a"), whole(disk, "/b")));
    for pair in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        assert!(seen.contains(&(Some(pair.0), Some(pair.1))), "{pair:?}");
    }
    assert!(seen.iter().any(|(a, _)| a.is_none()), "torn");
}

#[test]
fn same_seed_gives_the_same_image() {
    let disk = SimDisk::new(1);
    create(&disk, "/a", &[1; 8192]);
    for seed in 0..50 {
        let [one, two] = [(); 2].map(|()| content(&disk.image_after_crash(seed), "/a"));
        assert_eq!(one, two);
    }
}

#[test]
fn image_of_a_crash_is_another_disk() {
    let disk = SimDisk::new(1);
    let file = create(&disk, "/a", b"abc");
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    let image = disk.image_after_crash(1);
    write_all_at(file.as_ref(), b"xyz", 0).unwrap();
    assert_eq!(content(&image, "/a").unwrap(), b"abc");
    assert_eq!(
        image
            .open(path("/a"), OpenMode::Read)
            .unwrap()
            .identity()
            .unwrap(),
        file.identity().unwrap()
    );
}

/// X4.
#[test]
fn killed_process_loses_handles_and_locks_and_no_data() {
    let disk = SimDisk::new(1);
    let daemon = disk.another_process();
    let file = create(&disk, "/a", b"abc");
    assert!(file.try_lock(LockKind::Exclusive).unwrap());
    let other = create(&daemon, "/pin", b"");
    assert!(other.try_lock(LockKind::Exclusive).unwrap());
    let next = disk.process_crash();
    assert!(SimDisk::is_stopped(&file.len().unwrap_err()));
    assert_eq!(content(&next, "/a").unwrap(), b"abc");
    let lock_of = |at| {
        let file = next.open(path(at), OpenMode::Read).unwrap();
        file.try_lock(LockKind::Exclusive).unwrap()
    };
    assert!(lock_of("/a"));
    assert!(!lock_of("/pin"), "the daemon lives");
    // What was not synced is still not on the disk.
    assert_eq!(images(&next, |disk| content(disk, "/a").is_some()).len(), 2);
}

/// X5.
#[test]
fn handles_of_a_crashed_machine_fail_and_change_nothing() {
    let disk = SimDisk::new(1);
    let file = create(&disk, "/a", b"abc");
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    assert!(file.try_lock(LockKind::Exclusive).unwrap());
    let after = disk.crash(1);
    let mut out = [0; 3];
    let errors = [
        file.read_at(&mut out, 0).unwrap_err(),
        file.write_at(b"x", 0).unwrap_err(),
        file.sync_data().unwrap_err(),
        file.set_len(0).unwrap_err(),
        file.identity().unwrap_err(),
        file.try_lock(LockKind::Shared).unwrap_err(),
        disk.open(path("/a"), OpenMode::Read).unwrap_err(),
        disk.sync_dir(path("/")).unwrap_err(),
    ];
    assert!(errors.iter().all(SimDisk::is_stopped));
    let anew = after.open(path("/a"), OpenMode::ReadWrite).unwrap();
    assert!(anew.try_lock(LockKind::Exclusive).unwrap());
    drop(file);
    assert_eq!(content(&after, "/a").unwrap(), b"abc");
}

#[test]
fn power_off_before_a_change_stops_every_process() {
    let disk = SimDisk::new(1);
    let daemon = disk.another_process();
    disk.set_faults(Faults::power_off_before_change(2));
    let file = create(&disk, "/a", b"abc");
    assert!(SimDisk::is_stopped(&file.sync_data().unwrap_err()));
    assert!(SimDisk::is_stopped(&daemon.list(path("/")).unwrap_err()));
    assert_eq!(disk.change_count(), 2);
    assert!(disk.crash(1).list(path("/")).is_ok());
}

#[test]
fn kill_before_a_change_stops_only_the_process_that_makes_it() {
    let disk = SimDisk::new(1);
    let daemon = disk.another_process();
    disk.set_faults(Faults::kill_before_change(1));
    let file = disk.open(path("/a"), OpenMode::CreateNew).unwrap();
    assert!(SimDisk::is_stopped(&file.write_at(b"x", 0).unwrap_err()));
    assert!(SimDisk::is_stopped(&disk.list(path("/")).unwrap_err()));
    assert_eq!(daemon.list(path("/")).unwrap(), ["a"]);
    assert_eq!(disk.process_crash().list(path("/")).unwrap(), ["a"]);
}

/// X3, O3.
#[test]
fn failed_sync_may_lose_data_that_a_later_sync_does_not_bring_back() {
    let mut seen = BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let file = create(&disk, "/a", &[1; 512]);
        file.sync_data().unwrap();
        disk.sync_dir(path("/")).unwrap();
        write_all_at(file.as_ref(), &[2; 512], 0).unwrap();
        disk.set_faults(Faults::none().with(Fault::errno(Operation::SyncData, libc::EIO)));
        assert_eq!(
            file.sync_data().unwrap_err().raw_os_error(),
            Some(libc::EIO)
        );
        file.sync_data().unwrap();
        assert_eq!(content(&disk, "/a").unwrap(), [2; 512]);
        seen.insert(content(&disk.image_after_crash(0), "/a").unwrap()[0]);
    }
    assert_eq!(seen, BTreeSet::from([1, 2]));
}

/// X3: an interrupted sync has done nothing, and may be tried again.
#[test]
fn interrupted_sync_loses_nothing() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let file = create(&disk, "/a", &[1; 512]);
        let interrupted = |operation| Fault::errno(operation, libc::EINTR);
        disk.set_faults(
            Faults::none()
                .with(interrupted(Operation::SyncData))
                .with(interrupted(Operation::SyncDir)),
        );
        assert_eq!(
            file.sync_data().unwrap_err().kind(),
            io::ErrorKind::Interrupted
        );
        assert_eq!(
            disk.sync_dir(path("/")).unwrap_err().kind(),
            io::ErrorKind::Interrupted
        );
        file.sync_data().unwrap();
        disk.sync_dir(path("/")).unwrap();
        assert_eq!(content(&disk.image_after_crash(0), "/a").unwrap(), [1; 512]);
    }
}

#[test]
fn short_and_interrupted_transfers_are_finished_by_the_loops() {
    let disk = SimDisk::new(1);
    let file = disk.open(path("/a"), OpenMode::CreateNew).unwrap();
    disk.set_faults(
        Faults::none()
            .with(Fault::short_write(3))
            .with(Fault::errno(Operation::Write, libc::EINTR).after(1))
            .with(Fault::short_read(2).times(2))
            .with(Fault::errno(Operation::Read, libc::EINTR).after(2)),
    );
    write_all_at(file.as_ref(), b"0123456789", 0).unwrap();
    let mut out = [0; 10];
    assert_eq!(read_up_to(file.as_ref(), &mut out, 0).unwrap(), 10);
    assert_eq!(&out, b"0123456789");
    assert_eq!(
        (disk.count(Operation::Write), disk.count(Operation::Read)),
        (3, 4)
    );
}

#[test]
fn full_disk_takes_what_fits_and_then_says_so() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(2 * 4096));
    let file = disk.open(path("/a"), OpenMode::CreateNew).unwrap();
    assert_eq!(file.write_at(&[1; 10_000], 0).unwrap(), 8192);
    let error = file.write_at(&[1; 10], 8192).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.free_bytes(path("/")).unwrap(), 0);
    assert_eq!(
        file.write_at(&[2; 8192], 0).unwrap(),
        8192,
        "nothing to allocate"
    );
    file.set_len(1 << 30).unwrap();
    disk.remove(path("/a")).unwrap();
    assert_eq!(disk.free_bytes(path("/")).unwrap(), 0, "still open");
    drop(file);
    assert_eq!(disk.free_bytes(path("/")).unwrap(), 8192);
}

#[test]
fn unnamed_file_goes_with_its_last_handle() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(1 << 20));
    let file = disk.unnamed(path("/")).unwrap();
    write_all_at(file.as_ref(), &[1; 4096], 0).unwrap();
    let second = Arc::clone(&file);
    drop(file);
    assert_eq!(disk.free_bytes(path("/")).unwrap(), (1 << 20) - 4096);
    drop(second);
    assert_eq!(disk.free_bytes(path("/")).unwrap(), 1 << 20);
}

/// Else a long run would keep every log segment that ever was.
#[test]
fn removed_files_are_forgotten_when_no_crash_can_bring_them_back() {
    let disk = SimDisk::new(1);
    let nodes = || disk.world.lock().node_count();
    let file = create(&disk, "/a", b"abc");
    disk.sync_dir(path("/")).unwrap();
    disk.remove(path("/a")).unwrap();
    assert_eq!(
        nodes(),
        2,
        "the directory and the file that a crash may bring back"
    );
    disk.sync_dir(path("/")).unwrap();
    assert_eq!(nodes(), 2, "still open");
    drop(file);
    assert_eq!(nodes(), 1);
    drop(disk.unnamed(path("/")).unwrap());
    assert_eq!(nodes(), 1);
}

#[test]
fn failing_operations_fail_as_planned_and_do_nothing() {
    let disk = SimDisk::new(1);
    let file = create(&disk, "/a", b"abc");
    let plan = [
        Operation::Open,
        Operation::Read,
        Operation::Write,
        Operation::SetLen,
        Operation::Rename,
        Operation::Remove,
        Operation::CreateDir,
        Operation::List,
        Operation::Lock,
        Operation::Unnamed,
        Operation::FreeBytes,
    ];
    let plan = plan.map(|operation| Fault::errno(operation, libc::EIO));
    disk.set_faults(plan.into_iter().fold(Faults::none(), Faults::with));
    let root = path("/");
    let errors = [
        disk.open(path("/b"), OpenMode::CreateNew).unwrap_err(),
        file.read_at(&mut [0; 3], 0).unwrap_err(),
        file.write_at(b"x", 0).unwrap_err(),
        file.set_len(0).unwrap_err(),
        disk.rename(path("/a"), path("/b")).unwrap_err(),
        disk.remove(path("/a")).unwrap_err(),
        disk.create_dir(path("/d")).unwrap_err(),
        disk.list(root).unwrap_err(),
        file.try_lock(LockKind::Shared).unwrap_err(),
        disk.unnamed(root).unwrap_err(),
        disk.free_bytes(root).unwrap_err(),
    ];
    assert!(
        errors
            .iter()
            .all(|error| error.raw_os_error() == Some(libc::EIO))
    );
    assert_eq!(disk.list(root).unwrap(), ["a"]);
    assert_eq!(content(&disk, "/a").unwrap(), b"abc");
}

#[test]
fn many_threads_may_use_one_handle() {
    let disk = SimDisk::new(1);
    let file = disk.open(path("/a"), OpenMode::CreateNew).unwrap();
    std::thread::scope(|scope| {
        for index in 0..4_u8 {
            let file = Arc::clone(&file);
            scope.spawn(move || {
                for round in 0..50 {
                    let offset = (round * 4 + u64::from(index)) * 100;
                    write_all_at(file.as_ref(), &[index; 100], offset).unwrap();
                }
            });
        }
    });
    let bytes = content(&disk, "/a").unwrap();
    assert_eq!(bytes.len(), 20_000);
    for (part, index) in bytes.chunks(100).zip((0..4_u8).cycle()) {
        assert!(part.iter().all(|byte| *byte == index));
    }
}
