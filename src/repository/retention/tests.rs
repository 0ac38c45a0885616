//! Backups forgotten, and never one more than the report says.

use std::path::Path;

use super::*;
use crate::os::sim::{Fault, Faults, Operation};
use crate::os::{OpenMode, write_all_at};
use crate::repository::compression::Compression;
use crate::repository::specimen::{Specimen, files, require_whole, units};

const LAST: Keep = Keep {
    last: 1,
    hourly: 0,
    daily: 0,
    weekly: 0,
    monthly: 0,
    within: None,
};

fn write_over(specimen: &Specimen, object: &str) {
    let path = Path::new("/r").join(object);
    let disk = &specimen.machine.host.disk;
    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
    write_all_at(file.as_ref(), b"x", 60).unwrap();
}

#[test]
fn what_the_rules_do_not_keep_goes_and_what_is_held_stays() {
    let (mut specimen, [first, second, third]) = Specimen::rich(1);
    let expected = ForgetReport {
        kept: vec![
            (second.clone(), vec![Reason::Held]),
            (third.clone(), vec![Reason::Last]),
        ],
        forgotten: vec![first.clone()],
    };
    let report = forget(&specimen.repository, &LAST, Run::Dry).unwrap();
    assert_eq!(report, expected);
    require_whole(&specimen.repository, &specimen.backups);
    assert_eq!(specimen.repository.ids().unwrap().len(), 3);

    let report = forget(&specimen.repository, &LAST, Run::Really).unwrap();
    assert_eq!(report, expected);
    specimen.backups.remove(&first);
    assert_eq!(specimen.repository.store().list("marks").unwrap().len(), 2);
    require_whole(&specimen.repository, &specimen.backups);
    assert_eq!(specimen.crash(1).ids().unwrap(), [second, third]);
}

#[test]
fn sources_are_counted_apart() {
    let mut specimen = Specimen::new(1, "/r");
    let content = files(&[("a", units("same", 2))]);
    let mut back_up = |path, second| specimen.back_up_of(path, second, &content, Compression::Lz4);
    let old = back_up("/one", 1);
    let [other, newest] = [back_up("/two", 2), back_up("/one", 3)];
    let report = forget(&specimen.repository, &LAST, Run::Really).unwrap();
    assert_eq!(report.forgotten, [old]);
    assert_eq!(specimen.repository.ids().unwrap(), [other, newest]);
}

#[test]
fn without_a_rule_nothing_would_be_kept_and_nothing_is_done() {
    let (specimen, _) = Specimen::rich(1);
    let error = forget(&specimen.repository, &Keep::default(), Run::Really).unwrap_err();
    assert!(matches!(error, RepositoryError::NothingKept), "{error}");
    assert_eq!(specimen.repository.ids().unwrap().len(), 3);
}

#[test]
fn what_cannot_be_read_is_forgotten_by_no_rule() {
    let (specimen, [first, second, third]) = Specimen::rich(1);
    write_over(&specimen, &format!("backups/{first}"));
    write_over(&specimen, &format!("marks/{second}"));
    let report = forget(&specimen.repository, &LAST, Run::Really).unwrap();
    let unreadable = |id: BackupId| (id, vec![Reason::Unreadable]);
    let last = (third, vec![Reason::Last]);
    assert_eq!(report.kept, [unreadable(first), unreadable(second), last]);
    assert_eq!(report.forgotten, []);
}

#[test]
fn named_ones_go_all_or_none_and_held_ones_never() {
    let (mut specimen, [first, second, third]) = Specimen::rich(1);
    let named = |specimen: &Specimen, ids: &[&BackupId]| {
        let ids: Vec<_> = ids.iter().copied().cloned().collect();
        forget_named(&specimen.repository, &ids, Run::Really)
    };
    let error = named(&specimen, &[&first, &second]).unwrap_err();
    assert!(matches!(error, RepositoryError::Held { backup } if backup == second));
    let nobody = BackupId::new(0, [0; 4]);
    let error = named(&specimen, &[&first, &nobody]).unwrap_err();
    assert!(matches!(error, RepositoryError::NoBackup { .. }), "{error}");
    write_over(&specimen, &format!("marks/{third}"));
    let error = named(&specimen, &[&first, &third]).unwrap_err();
    assert!(
        matches!(error, RepositoryError::HoldUnknown { .. }),
        "{error}"
    );
    assert_eq!(specimen.repository.ids().unwrap().len(), 3);

    // Nothing else gets a damaged manifest away.
    write_over(&specimen, &format!("backups/{first}"));
    let report = named(&specimen, &[&first, &first]).unwrap();
    assert_eq!(report.forgotten, std::slice::from_ref(&first));
    specimen.backups.remove(&first);
    let ids = specimen.repository.ids().unwrap();
    assert_eq!(ids, [second, third]);
}

/// Nor a lost one.
#[test]
fn backup_whose_manifest_is_lost_can_be_given_up() {
    let (mut specimen, [first, ..]) = Specimen::rich(1);
    let store = specimen.repository.store();
    store.remove(&Manifest::object(&first)).unwrap();
    let ids = [first.clone()];
    forget_named(&specimen.repository, &ids, Run::Really).unwrap();
    specimen.backups.remove(&first);
    require_whole(&specimen.repository, &specimen.backups);
    assert_eq!(specimen.repository.store().list("marks").unwrap().len(), 2);
}

/// BK3: while another one writes, nothing is forgotten.
#[test]
fn forget_waits_for_no_other_writer() {
    let (specimen, _) = Specimen::rich(1);
    let lock = specimen.repository.store().lock().unwrap();
    let error = forget(&specimen.repository, &LAST, Run::Really).unwrap_err();
    assert!(matches!(error, RepositoryError::Locked { .. }), "{error}");
    drop(lock);
}

#[test]
fn forget_works_on_a_disk_that_is_full() {
    let (specimen, [first, ..]) = Specimen::rich(1);
    let full = Fault::errno(Operation::Write, libc::ENOSPC).times(u64::MAX);
    specimen.machine.disk.set_faults(Faults::none().with(full));
    let report = forget(&specimen.repository, &LAST, Run::Really).unwrap();
    assert_eq!(report.forgotten, [first]);
}

/// While it is forgotten nobody holds a backup, nor is one forgotten while somebody does.
#[test]
fn nothing_is_forgotten_while_somebody_changes_marks() {
    let (specimen, [first, ..]) = Specimen::rich(1);
    let other = specimen.machine.disk.another_process();
    let other = specimen.machine.with_disk(other);
    let other = Repository::open(&other.host, Path::new("/r")).unwrap();
    let marks = other.store().lock_marks().unwrap();
    for refused in [
        forget(&specimen.repository, &LAST, Run::Really),
        forget_named(
            &specimen.repository,
            std::slice::from_ref(&first),
            Run::Really,
        ),
    ] {
        let is_locked = matches!(refused, Err(RepositoryError::Locked { .. }));
        assert!(is_locked, "{refused:?}");
    }
    assert_eq!(specimen.repository.ids().unwrap().len(), 3);
    drop(marks);
    let report = forget(&specimen.repository, &LAST, Run::Really).unwrap();
    assert_eq!(report.forgotten, [first]);
}

/// Backups of the time when the clock was ahead stay, and push none out.
#[test]
fn backups_of_the_future_count_in_no_rule() {
    const DAY: u64 = 24 * 60 * 60;
    let mut specimen = Specimen::new(1, "/r");
    let content = files(&[("a", units("same", 2))]);
    let seconds = [1, 2, DAY, DAY + 1, 4000 * DAY];
    let ids = seconds.map(|second| specimen.back_up(second, &content, Compression::Lz4));
    let [old, older, ahead, future, far] = ids;
    let hold = &mut |mark: &mut Mark| mark.is_held = true;
    specimen.repository.set_mark(&far, hold).unwrap();
    let report = forget(&specimen.repository, &LAST, Run::Really).unwrap();
    assert_eq!(report.forgotten, [old, older]);
    let kept = [
        (ahead, vec![Reason::Last]),
        (future, vec![Reason::Future]),
        (far, vec![Reason::Future, Reason::Held]),
    ];
    assert_eq!(report.kept, kept);
}
