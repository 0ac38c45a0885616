//! Backups that are the same in another repository.

use std::path::Path;

use super::*;
use crate::os::{OpenMode, write_all_at};
use crate::repository::compression::Compression;
use crate::repository::pack::PackDirectory;
use crate::repository::prune::{Run, prune};
use crate::repository::retention::forget_named;
use crate::repository::specimen::{
    Specimen, UNIT, files, noise, read_back, require_whole, units, verified,
};

fn copied_all(from: &Repository, to: &Repository) -> CopyReport {
    copy(from, to, &from.ids().unwrap(), &Control::default()).unwrap()
}

/// BK5, BK10: what was copied is complete by itself, and verified only when it was.
#[test]
fn copies_have_the_content_and_the_facts_and_the_hold_of_their_originals() {
    let (from, ids) = Specimen::rich(1);
    require_whole(&from.repository, &from.backups);
    let to = Specimen::new(2, "/s");
    let report = copied_all(&from.repository, &to.repository);
    assert_eq!(report.copied, ids);
    assert!(
        report.present.is_empty() && report.failed.is_empty(),
        "{report:?}"
    );
    let marks = ids.iter().map(|id| to.repository.mark(id).unwrap());
    let held: Vec<_> = marks.clone().map(|mark| mark.is_held).collect();
    assert_eq!(held, [false, true, false]);
    assert!(marks.into_iter().all(|mark| mark.verified.is_none()));
    require_whole(&to.repository, &from.backups);
    for id in &ids {
        let [one, other] = [&from.repository, &to.repository].map(|r| r.manifest(id).unwrap());
        assert_eq!(one.facts, other.facts);
    }
    let stored: u64 = ["packs", "backups", "marks"]
        .into_iter()
        .flat_map(|folder| {
            let store = to.repository.store();
            let names = store.list(folder).unwrap().into_iter();
            names.map(move |name| store.size(&format!("{folder}/{name}")).unwrap())
        })
        .sum();
    assert!(
        report.bytes_stored.abs_diff(stored) < 200,
        "{report:?} {stored}"
    );

    // No backup goes on with a log that is of no database in it.
    let store = from.repository.store();
    let piece = format!("log/{0:032x}-{0:032x}-{0:08x}-{0:016x}-{1:016x}", 1, 2);
    store.put(&piece, &[b"x"], Put::New).unwrap();
    store.put(&format!("{piece}-gap"), &[], Put::New).unwrap();

    let again = copied_all(&from.repository, &to.repository);
    assert_eq!(
        (&again.log, &again.present),
        (&Default::default(), &ids.to_vec())
    );
    assert!(to.repository.store().list("log").unwrap().is_empty());
    assert_eq!((again.bytes_read, again.bytes_stored), (0, 0));
}

/// BK4: what the other repository has is not stored twice, nor what only shares a frame with it.
#[test]
fn content_that_is_there_is_not_stored_again() {
    let mut from = Specimen::new(1, "/r");
    let mut to = Specimen::new(2, "/s");
    let here = files(&[("a", noise(1, 10 * UNIT)), ("b", units("both", 6))]);
    let there = files(&[("x", [noise(1, 3 * UNIT), units("both", 6)].concat())]);
    from.back_up(1, &here, Compression::Zstd(3));
    to.back_up_of("/other", 2, &there, Compression::Lz4);
    let report = copied_all(&from.repository, &to.repository);
    assert_eq!(report.copied.len(), 1);
    to.backups.append(&mut from.backups);
    require_whole(&to.repository, &to.backups);
    let store = to.repository.store();
    let mut digests = Vec::new();
    for name in store.list("packs").unwrap() {
        let id = PackId(crate::repository::hex::decode(&name).unwrap());
        let directory = PackDirectory::read(store.as_ref(), to.repository.id(), id).unwrap();
        digests.extend(directory.slots.iter().map(|slot| slot.digest));
    }
    let count = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!((digests.len(), count), (16, 16));
}

/// A backup copied out of packs that prune has hollowed, and back again.
#[test]
fn copy_goes_around_emptied_slots() {
    let mut from = Specimen::new(1, "/r");
    let all = files(&[("a", noise(1, 9 * UNIT)), ("b", noise(2, 9 * UNIT))]);
    let some = files(&[("b", noise(2, 9 * UNIT))]);
    let all = from.back_up(1, &all, Compression::Lz4);
    from.back_up(2, &some, Compression::Lz4);
    forget_named(&from.repository, std::slice::from_ref(&all), Run::Really).unwrap();
    from.backups.remove(&all);
    let report = prune(&from.repository, Run::Really, &Control::default()).unwrap();
    assert_eq!(report.packs_hollowed, 1);
    let to = Specimen::new(2, "/s");
    copied_all(&from.repository, &to.repository);
    require_whole(&to.repository, &from.backups);
}

#[test]
fn damaged_backup_is_named_and_the_others_are_copied() {
    let (mut from, [first, second, third]) = Specimen::rich(1);
    let disk = &from.machine.host.disk;
    // The pack of the second: what it does not share with the first.
    let path = Path::new("/r/packs/02020202020202020202020202020202");
    let file = disk.open(path, OpenMode::ReadWrite).unwrap();
    write_all_at(file.as_ref(), b"x", 70).unwrap();
    let to = Specimen::new(2, "/s");
    let report = copied_all(&from.repository, &to.repository);
    assert_eq!(report.copied, [first, third]);
    assert_eq!(report.failed.len(), 1);
    assert_eq!(report.failed[0].0, second);
    assert!(report.failed[0].1.contains("packs/0202"), "{report:?}");
    from.backups.remove(&second);
    require_whole(&to.repository, &from.backups);
}

#[test]
fn unknown_backup_and_the_same_repository_are_refused() {
    let (from, [first, ..]) = Specimen::rich(1);
    let nobody = BackupId::new(0, [0; 4]);
    let to = Specimen::new(2, "/s");
    let control = Control::default();
    let error = copy(&from.repository, &to.repository, &[first, nobody], &control).unwrap_err();
    assert!(matches!(error, RepositoryError::NoBackup { .. }), "{error}");
    assert!(to.repository.ids().unwrap().is_empty());
    let again = Repository::open(&from.machine.host, Path::new("/r")).unwrap();
    let error = copy(&from.repository, &again, &[], &control).unwrap_err();
    assert!(
        matches!(error, RepositoryError::SameRepository { .. }),
        "{error}"
    );
}

#[test]
fn cancelled_copy_goes_on_where_it_stopped() {
    let (from, ids) = Specimen::rich(1);
    let to = Specimen::new(2, "/s");
    let control = Control::default();
    copy(&from.repository, &to.repository, &ids[..1], &control).unwrap();
    control.cancel();
    let error = copy(&from.repository, &to.repository, &ids, &control).unwrap_err();
    assert!(matches!(error, RepositoryError::Cancelled), "{error}");
    assert_eq!(verified(&to.repository).verified, ids[..1]);
    let report = copied_all(&from.repository, &to.repository);
    assert_eq!(report.copied, ids[1..]);
    require_whole(&to.repository, &from.backups);
    assert!(read_back(&to.repository, &ids[2]).unwrap() == from.backups[&ids[2]]);
}
