//! Repositories made, opened, listed, and backups published, over every crash.

use std::collections::BTreeSet;

use super::*;
use crate::os::sim::{Fault, Faults, Operation};
use crate::os::{Disk, OpenMode, SimulatedHost, write_all_at};
use crate::repository::blob_reader::BlobReader;
use crate::repository::compression::Compression;
use crate::repository::digest::Digest;
use crate::repository::manifest::sample;
use crate::repository::pack::{PackBuilder, PackId, SealedFrame, Slot};

const PACK: PackId = PackId([1; 16]);

fn root() -> &'static Path {
    Path::new("/a/r")
}

fn create(machine: &SimulatedHost) -> Repository {
    Repository::open_or_create(&machine.host, root()).unwrap()
}

fn units() -> [Vec<u8>; 3] {
    [vec![1; 4096], vec![2; 4096], vec![3; 100]]
}

/// Two frames of [`units`].
fn put_pack(repository: &Repository) -> Result<()> {
    let mut builder = PackBuilder::new(repository.id(), PACK);
    for units in [&units()[..2], &units()[2..]] {
        let slot = |unit: &Vec<u8>| Slot {
            digest: Digest::of(unit),
            bytes: u32::try_from(unit.len()).unwrap(),
        };
        let slots = units.iter().map(slot).collect();
        builder.push(SealedFrame::seal(&units.concat(), slots, Compression::Lz4));
    }
    builder
        .finish(repository.store().as_ref(), Put::New)
        .map(drop)
}

fn back_up(repository: &Repository) -> Result<()> {
    let lock = repository.store().lock()?;
    put_pack(repository)?;
    repository
        .publish(&sample(), &Mark::default(), lock.as_ref())
        .map(drop)
}

/// BK5, BK1.
#[test]
fn what_was_published_is_found_again_after_a_crash() {
    let machine = Host::simulated(1);
    back_up(&create(&machine)).unwrap();
    let manifest = sample();
    let id = &manifest.facts.id;
    let again = machine.crash(3);
    let repository = Repository::open(&again.host, root()).unwrap();
    assert_eq!(repository.manifest(id).unwrap(), manifest);
    assert_eq!(repository.facts(id).unwrap(), manifest.facts);
    let mut out = vec![0];
    let reader = BlobReader::new(&repository);
    reader.read(PACK, 1, 2, &mut out).unwrap();
    assert!(out[1..] == units()[1..].concat());
    assert_eq!(repository.mark(id).unwrap(), Mark::default());
    let hold = |is_held| move |mark: &mut Mark| mark.is_held = is_held;
    repository.set_mark(id, &mut hold(true)).unwrap();
    assert!(repository.mark(id).unwrap().is_held);
    let other: BackupId = "20261120T190729Z-00000000".parse().unwrap();
    let error = repository.set_mark(&other, &mut hold(true)).unwrap_err();
    assert!(matches!(error, RepositoryError::NoBackup { .. }), "{error}");
    let error = back_up(&repository).unwrap_err();
    assert!(matches!(error, RepositoryError::Exists { .. }), "{error}");
    assert!(repository.mark(id).unwrap().is_held);
}

/// BK1: power fails before each change in turn. Where the manifest is seen, all that it names is whole.
#[test]
fn manifest_that_a_crash_leaves_has_its_pack_and_its_mark() {
    let mut seen = BTreeSet::new();
    for change in 0.. {
        let machine = Host::simulated(1);
        let repository = create(&machine);
        machine
            .disk
            .set_faults(Faults::power_off_before_change(change));
        let outcome = back_up(&repository);
        for seed in 0..10 {
            let after = machine.with_disk(machine.disk.image_after_crash(seed));
            let after = Repository::open(&after.host, root()).unwrap();
            let ids = after.ids().unwrap();
            let why = format!("change {change} seed {seed} {outcome:?}");
            assert!(outcome.is_err() || ids.len() == 1, "{why}");
            for id in &ids {
                assert_eq!(after.manifest(id).expect(&why), sample());
                assert!(!after.mark(id).expect(&why).is_held, "{why}");
                let mut out = Vec::new();
                BlobReader::new(&after)
                    .read(PACK, 0, 3, &mut out)
                    .expect(&why);
                assert!(out == units().concat(), "{why}");
            }
            seen.insert(ids.len());
        }
        if outcome.is_ok() {
            break;
        }
    }
    assert_eq!(seen.len(), 2);
}

/// BK1, BK3: who has lost the lock publishes nothing.
#[test]
fn nothing_is_published_without_the_lock_or_with_a_manifest_that_lies() {
    let machine = Host::simulated(1);
    let repository = create(&machine);
    let lock = repository.store().lock().unwrap();
    let mut lie = sample();
    lie.entries.pop();
    lie.entries.swap(1, 3);
    let error = repository
        .publish(&lie, &Mark::default(), lock.as_ref())
        .unwrap_err();
    assert!(matches!(error, RepositoryError::Damaged { .. }), "{error}");
    machine.disk.remove(&root().join("LOCK")).unwrap();
    let error = repository
        .publish(&sample(), &Mark::default(), lock.as_ref())
        .unwrap_err();
    assert!(matches!(error, RepositoryError::Locked { .. }), "{error}");
    assert!(repository.ids().unwrap().is_empty());
}

/// The machine stops, or the process is killed, before each change of the making of a repository.
#[test]
fn repository_whose_making_was_interrupted_is_finished_by_the_next() {
    for is_kill in [false, true] {
        for change in 0.. {
            let machine = Host::simulated(1);
            machine.disk.set_faults(match is_kill {
                true => Faults::kill_before_change(change),
                false => Faults::power_off_before_change(change),
            });
            let made = Repository::open_or_create(&machine.host, root());
            machine.disk.set_faults(Faults::none());
            for seed in 0..10 {
                let why = format!(
                    "kill {is_kill} change {change} seed {seed} {}",
                    made.is_ok()
                );
                let after = match is_kill {
                    true => machine.with_disk(machine.disk.another_process()),
                    false => machine.with_disk(machine.disk.image_after_crash(seed)),
                };
                match (&made, Repository::open(&after.host, root())) {
                    (Ok(made), found) => assert_eq!(found.expect(&why).id(), made.id()),
                    (_, Ok(_) | Err(RepositoryError::NoRepository { .. })) => {}
                    (_, Err(error)) => panic!("{why}: {error}"),
                }
                let finished = Repository::open_or_create(&after.host, root()).expect(&why);
                back_up(&finished).expect(&why);
                let crashed = after.crash(seed);
                let again = Repository::open(&crashed.host, root()).expect(&why);
                assert_eq!(again.id(), finished.id());
                if is_kill {
                    break;
                }
            }
            if made.is_ok() {
                break;
            }
        }
    }
}

fn put_file(disk: &dyn Disk, path: &Path) {
    let file = disk.open(path, OpenMode::CreateNew).unwrap();
    write_all_at(file.as_ref(), b"content", 0).unwrap();
}

#[test]
fn only_an_empty_folder_becomes_a_repository() {
    let machine = Host::simulated(1);
    let (host, disk) = (&machine.host, &machine.disk);
    let path = |text: &'static str| Path::new(text);
    let open = |text| Repository::open(host, path(text)).map(drop);
    let create = |text| Repository::open_or_create(host, path(text)).map(drop);
    for folder in [
        "/other",
        "/mounted",
        "/mounted/lost+found",
        "/torn",
        "/torn/packs",
    ] {
        disk.create_dir(path(folder)).unwrap();
    }
    put_file(disk, path("/other/file"));
    put_file(disk, path("/torn/packs/00"));
    put_file(disk, path("/file"));
    let changes = disk.change_count();
    for text in ["/none", "/mounted"] {
        let error = open(text).unwrap_err();
        assert!(
            matches!(error, RepositoryError::NoRepository { .. }),
            "{text}: {error}"
        );
    }
    for text in ["/other", "/torn", "/file"] {
        for result in [open(text), create(text)] {
            let error = result.unwrap_err();
            assert!(
                matches!(error, RepositoryError::NotARepository { .. }),
                "{text}: {error}"
            );
        }
    }
    assert_eq!(disk.change_count(), changes);
    create("/mounted").unwrap();
    create("/deep/er/r").unwrap();
    open("/deep/er/r").unwrap();
}

#[test]
fn backups_are_found_by_their_beginning_and_strange_names_passed_over() {
    let machine = Host::simulated(1);
    let repository = create(&machine);
    let find = |name| repository.find(name);
    assert!(matches!(
        find("latest"),
        Err(RepositoryError::NoBackup { .. })
    ));
    let mut manifest = sample();
    let lock = repository.store().lock().unwrap();
    let ids = [
        "20261121T000000Z-00000001",
        "20261120T000000Z-00000002",
        "20261120T000000Z-00000003",
    ];
    for id in ids {
        manifest.facts.id = id.parse().unwrap();
        repository
            .publish(&manifest, &Mark::default(), lock.as_ref())
            .unwrap();
    }
    put_file(&machine.disk, &root().join("backups/README"));
    put_file(
        &machine.disk,
        &root().join("backups/20261122T000000Z-00000004"),
    );
    let listed = repository.backups().unwrap();
    let names: Vec<_> = listed.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(names, [ids[1], ids[2], ids[0], "20261122T000000Z-00000004"]);
    let wrong: Vec<_> = listed.iter().map(|(_, facts)| facts.is_err()).collect();
    assert_eq!(wrong, [false, false, false, true]);
    assert_eq!(
        find("latest").unwrap().as_str(),
        "20261122T000000Z-00000004"
    );
    assert_eq!(find("20261121").unwrap().as_str(), ids[0]);
    assert_eq!(find(ids[1]).unwrap().as_str(), ids[1]);
    let many = find("20261120T");
    assert!(matches!(
        many,
        Err(RepositoryError::ManyBackups { count: 2, .. })
    ));
    for name in ["", "2025", "README"] {
        assert!(
            matches!(find(name), Err(RepositoryError::NoBackup { .. })),
            "{name}"
        );
    }
    let gone: BackupId = "20261130T000000Z-00000001".parse().unwrap();
    let missing = repository.facts(&gone).map(drop);
    assert!(matches!(missing, Err(RepositoryError::NoBackup { .. })));
}

/// A last sync that fails takes the manifest back, so that nobody sees what a crash may take.
#[test]
fn manifest_whose_name_could_not_be_synced_is_taken_back() {
    let machine = Host::simulated(1);
    let repository = create(&machine);
    let lock = repository.store().lock().unwrap();
    repository.store().settle().unwrap();
    let fault = Fault::kind(Operation::SyncDir, std::io::ErrorKind::Other).on("backups");
    machine.disk.set_faults(Faults::none().with(fault));
    let error = repository
        .publish(&sample(), &Mark::default(), lock.as_ref())
        .unwrap_err();
    assert!(matches!(error, RepositoryError::Io { .. }), "{error}");
    assert!(repository.ids().unwrap().is_empty());
    drop(lock);
    back_up(&create(&machine)).unwrap();
}

/// A hold is never written over by who changes the mark at the same time: it is done, or it is refused.
#[test]
fn mark_is_changed_by_one_at_a_time() {
    let machine = Host::simulated(1);
    let repository = create(&machine);
    back_up(&repository).unwrap();
    let other = machine.with_disk(machine.disk.another_process());
    let other = Repository::open(&other.host, root()).unwrap();
    let id = sample().facts.id;
    let hold = || other.set_mark(&id, &mut |mark| mark.is_held = true);
    let mut meanwhile = None;
    repository
        .set_mark(&id, &mut |mark| {
            mark.is_underway = false;
            meanwhile = Some(hold());
        })
        .unwrap();
    let is_held = repository.mark(&id).unwrap().is_held;
    assert_eq!(meanwhile.unwrap().is_ok(), is_held);
    hold().unwrap();
    assert!(repository.mark(&id).unwrap().is_held);
}

/// A clock that was ahead once does not stand in the way of what is made since.
#[test]
fn latest_is_not_of_the_future_unless_all_are() {
    let machine = Host::simulated(1);
    let repository = create(&machine);
    let mut manifest = sample();
    let lock = repository.store().lock().unwrap();
    // The simulated clock is at the last of them.
    let ids = [
        "20370101T000000Z-00000001",
        "20260101T120000Z-00000001",
        "20260101T000000Z-00000001",
    ];
    for (count, id) in ids.into_iter().enumerate() {
        manifest.facts.id = id.parse().unwrap();
        let mark = Mark::default();
        repository.publish(&manifest, &mark, &*lock).unwrap();
        let latest = ids[count.min(1)];
        assert_eq!(repository.find("latest").unwrap().as_str(), latest);
    }
}
