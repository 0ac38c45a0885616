//! Room given back, and never what is needed.

use std::path::Path;

use super::*;
use crate::os::{OpenMode, write_all_at};
use crate::repository::compression::Compression;
use crate::repository::mark::Mark;
use crate::repository::retention::forget_named;
use crate::repository::specimen::{Specimen, UNIT, files, noise, require_whole, units};

fn pruned(repository: &Repository, run: Run) -> PruneReport {
    prune(repository, run, &Control::default()).unwrap()
}

fn forget_one(specimen: &mut Specimen, id: &BackupId) {
    forget_named(&specimen.repository, std::slice::from_ref(id), Run::Really).unwrap();
    specimen.backups.remove(id);
}

fn pack_names(repository: &Repository) -> Vec<String> {
    repository.store().list("packs").unwrap()
}

fn packs_bytes(repository: &Repository) -> u64 {
    let store = repository.store();
    let size = |name: &String| store.size(&format!("packs/{name}")).unwrap();
    pack_names(repository).iter().map(size).sum()
}

/// BK2: what a manifest needs is in the same slots with the same content, whatever else goes.
#[test]
fn pack_is_hollowed_in_place_and_keeps_what_is_needed() {
    for compression in [Compression::Lz4, Compression::Zstd(9), Compression::None] {
        let mut specimen = Specimen::new(1, "/r");
        let all = files(&[
            ("a", units("drop", 7)),
            ("b", units("keep", 10)),
            ("c", units("away", 6)),
        ]);
        let some = files(&[("a", units("keep", 10)), ("c", noise(3, 2 * UNIT + 9))]);
        let all = specimen.back_up(1, &all, compression);
        let some = specimen.back_up(2, &some, compression);
        assert_eq!(pruned(&specimen.repository, Run::Really).packs_hollowed, 0);
        forget_one(&mut specimen, &all);
        let manifest = specimen.repository.manifest(&some).unwrap();
        let names = pack_names(&specimen.repository);

        let foretold = pruned(&specimen.repository, Run::Dry);
        assert_eq!(packs_bytes(&specimen.repository), foretold.bytes_before);
        let report = pruned(&specimen.repository, Run::Really);
        assert_eq!(report, foretold, "{compression:?}");
        assert_eq!((report.packs_removed, report.packs_hollowed), (0, 1));
        assert!(report.bytes_after < report.bytes_before, "{report:?}");
        assert_eq!(packs_bytes(&specimen.repository), report.bytes_after);
        assert_eq!(pack_names(&specimen.repository), names);
        assert_eq!(specimen.repository.manifest(&some).unwrap(), manifest);
        require_whole(&specimen.repository, &specimen.backups);

        let again = pruned(&specimen.repository, Run::Really);
        assert_eq!(again.packs_hollowed, 0);
        assert_eq!(again.bytes_after, report.bytes_after);
    }
}

#[test]
fn pack_of_which_little_is_needless_stays_as_it_is() {
    let mut specimen = Specimen::new(1, "/r");
    let all = files(&[("a", noise(1, 10 * UNIT)), ("b", noise(2, 3 * UNIT))]);
    let some = files(&[("a", noise(1, 10 * UNIT))]);
    let all = specimen.back_up(1, &all, Compression::Lz4);
    specimen.back_up(2, &some, Compression::Lz4);
    forget_one(&mut specimen, &all);
    let report = pruned(&specimen.repository, Run::Really);
    // Three of thirteen units: less than a quarter.
    assert_eq!(report.packs_hollowed, 0);
    assert_eq!(report.bytes_after, report.bytes_before);
}

#[test]
fn pack_that_nobody_needs_is_removed_with_lone_marks() {
    let (mut specimen, [_, _, third]) = Specimen::rich(1);
    let mark = Mark {
        is_underway: true,
        ..Mark::default()
    };
    let nobody = BackupId::new(0, [0; 4]);
    mark.write(specimen.repository.store().as_ref(), &nobody)
        .unwrap();
    forget_one(&mut specimen, &third);
    let report = pruned(&specimen.repository, Run::Really);
    assert_eq!((report.packs_removed, report.packs_hollowed), (2, 0));
    assert_eq!(pack_names(&specimen.repository).len(), 2);
    let marks = specimen.repository.store().list("marks").unwrap();
    assert_eq!(marks.len(), specimen.backups.len());
    require_whole(&specimen.repository, &specimen.backups);
}

/// What `forget --prune --dry-run` tells is what `forget --prune` does.
#[test]
fn outlook_after_a_forget_is_what_comes_of_it() {
    let (mut specimen, [first, _, third]) = Specimen::rich(1);
    let forgotten = [first, third];
    let foretold = prune_after(&specimen.repository, &forgotten, &Control::default()).unwrap();
    require_whole(&specimen.repository, &specimen.backups);
    forgotten
        .iter()
        .for_each(|id| forget_one(&mut specimen, id));
    assert_eq!(pruned(&specimen.repository, Run::Really), foretold);
    require_whole(&specimen.repository, &specimen.backups);
}

/// BK2: a manifest that cannot be read may need anything.
#[test]
fn nothing_is_removed_while_a_manifest_is_damaged_lost_or_without_its_name() {
    let (specimen, [first, ..]) = Specimen::rich(1);
    let (store, disk) = (specimen.repository.store(), &specimen.machine.host.disk);
    let before = pack_names(&specimen.repository);
    let path = format!("/r/backups/{first}");
    let (path, hidden) = (Path::new(&path), Path::new("/r/backups/old"));
    disk.rename(path, hidden).unwrap();
    let error = prune(&specimen.repository, Run::Really, &Control::default()).unwrap_err();
    assert!(error.to_string().contains("backups/old"), "{error}");
    let lost = Path::new("/elsewhere");
    disk.rename(hidden, lost).unwrap();
    let error = prune(&specimen.repository, Run::Really, &Control::default()).unwrap_err();
    assert!(matches!(error, RepositoryError::LostManifest { backup } if backup == first));
    disk.rename(lost, path).unwrap();
    let file = disk.open(path, OpenMode::ReadWrite).unwrap();
    write_all_at(file.as_ref(), b"x", 50).unwrap();
    let error = prune(&specimen.repository, Run::Really, &Control::default()).unwrap_err();
    assert!(error.to_string().contains(first.as_str()), "{error}");
    assert_eq!(pack_names(&specimen.repository), before);
    assert!(store.list("tmp").unwrap().is_empty());
}

/// BK4: what is not what it should be is never written again as if it were.
#[test]
fn damaged_pack_that_is_needed_is_named_and_left() {
    let mut specimen = Specimen::new(1, "/r");
    let all = files(&[("a", noise(1, 8 * UNIT)), ("b", noise(2, 8 * UNIT))]);
    let some = files(&[("a", noise(1, 8 * UNIT))]);
    let all = specimen.back_up(1, &all, Compression::None);
    specimen.back_up(2, &some, Compression::None);
    forget_one(&mut specimen, &all);
    let name = &pack_names(&specimen.repository)[0];
    let path = format!("/r/packs/{name}");
    let file = specimen.machine.host.disk;
    let file = file.open(Path::new(&path), OpenMode::ReadWrite).unwrap();
    write_all_at(file.as_ref(), b"x", 70).unwrap();
    let before = packs_bytes(&specimen.repository);
    let report = pruned(&specimen.repository, Run::Really);
    assert_eq!(report.packs_hollowed, 0);
    assert!(report.packs_damaged[0].contains(name), "{report:?}");
    assert_eq!(packs_bytes(&specimen.repository), before);
}

/// BK3: while another one writes, nothing is pruned.
#[test]
fn prune_waits_for_no_other_writer() {
    let (specimen, _) = Specimen::rich(1);
    let lock = specimen.repository.store().lock().unwrap();
    let error = prune(&specimen.repository, Run::Really, &Control::default()).unwrap_err();
    assert!(matches!(error, RepositoryError::Locked { .. }), "{error}");
    drop(lock);
    assert_eq!(pruned(&specimen.repository, Run::Really).packs_removed, 1);
}

#[test]
fn prune_works_on_a_disk_that_is_full() {
    let (mut specimen, [first, second, _]) = Specimen::rich(1);
    let release = &mut |mark: &mut Mark| mark.is_held = false;
    specimen.repository.set_mark(&second, release).unwrap();
    forget_one(&mut specimen, &second);
    forget_one(&mut specimen, &first);
    specimen.machine.disk.set_capacity(Some(0));
    let report = pruned(&specimen.repository, Run::Really);
    assert_eq!(report.packs_removed, 3);
    specimen.machine.disk.set_capacity(None);
    require_whole(&specimen.repository, &specimen.backups);
}
