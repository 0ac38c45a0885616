//! Restores that are interrupted, and gone on with.

use std::fs;
use std::os::unix::fs::FileExt;

use super::rig::*;
use crate::repository::restore::*;

const UNITS: usize = 4000;

fn whats() -> [(&'static str, What); 3] {
    [
        ("big", content(1, UNITS, 0)),
        ("folder", What::Folder),
        ("folder/other", content(2, 40, 1)),
    ]
}

/// BK8: wherever it was cancelled, nothing is under the name, and the next one takes what is right of
/// what is there and mends what is not.
#[test]
fn a_cancelled_restore_is_gone_on_with_and_ends_equal() {
    let rig = Rig::new();
    let id = rig.back_up("tree", &whats());
    rig.restore(&id, &rig.path("expected")).unwrap();
    let expected = picture(&rig.path("expected"));
    let target = rig.path("target");
    let mut resumed = 0;
    for share in [1, 5, 9, 14, 19] {
        let control = Control::default();
        let bytes = (UNITS * UNIT) as u64;
        let canceller = cancel_after(&control, bytes * share / 10);
        let outcome = rig.restore_with(&id, &target, RestoreOptions::default(), &control);
        canceller.join().unwrap();
        if outcome.is_ok() {
            // It was faster than who cancels it.
            fs::remove_dir_all(&target).unwrap();
            continue;
        }
        assert!(matches!(outcome, Err(RepositoryError::Cancelled)));
        assert!(!target.exists());
        let left = left_behind(&target).unwrap();
        assert_eq!(left, rig.path(".target.stillfs-restore"));
        let there = plan(
            &rig.repository,
            &id,
            &target,
            RestoreOptions::default(),
            &Nobody,
        );
        assert!(there.unwrap().resumes);
        // What a crash may leave: a unit that is not what it was, a hole that has something in it, names.
        if let Ok(big) = fs::OpenOptions::new()
            .write(true)
            .open(left.join("tree/big"))
        {
            big.write_all_at(&[0x55; 100], 3 * 4096 + 5).unwrap();
            big.write_all_at(&[0x55; 100], 13 * 4096).unwrap();
            big.set_len((UNITS * UNIT + 9) as u64).unwrap();
        }
        fs::write(left.join("tree/foreign"), b"x").unwrap();
        fs::create_dir_all(left.join("tree/folder/other/x")).ok();
        fs::create_dir_all(left.join("out/old")).unwrap();
        let report = rig.restore(&id, &target).unwrap();
        assert_eq!(picture(&target), expected, "at {share} of 10");
        assert!(report.bytes_resumed < report.bytes);
        assert_eq!(left_behind(&target), None);
        resumed += report.bytes_resumed;
        fs::remove_dir_all(&target).unwrap();
    }
    assert!(resumed > 0, "some of them had written something");
}

#[test]
fn a_restore_that_is_finished_but_for_the_swap_reads_no_unit_again() {
    let rig = Rig::new();
    let id = rig.back_up("tree", &whats());
    let target = rig.path("target");
    let stop = |_| Err(RepositoryError::Cancelled);
    rig.replace_watched(&id, &target, &stop).unwrap_err();
    let big = rig.repository.manifest(&id).unwrap().packs[0].object();
    let path = rig.path("repository").join(big);
    let bytes = fs::read(&path).unwrap();
    let mut damaged = bytes.clone();
    // Frames only: the directory is needed.
    damaged[200..4000].fill(0);
    fs::write(&path, damaged).unwrap();
    let report = rig.restore(&id, &target).unwrap();
    let zeros = UNITS.div_ceil(8) + 40 / 8;
    let most = report.bytes - ((zeros + 1) * UNIT) as u64;
    assert!(report.bytes_resumed > most, "{report:?}");
    let (_, What::Content(expected)) = &whats()[0] else {
        panic!("a content");
    };
    assert!(&fs::read(target.join("big")).unwrap() == expected);
}

#[test]
fn the_workspace_of_another_backup_is_emptied() {
    let rig = Rig::new();
    let first = rig.back_up("tree", &whats());
    let second = rig.back_up("tree", &[("only", content(3, 2, 0))]);
    let target = rig.path("target");
    let stop = |_| Err(RepositoryError::Cancelled);
    rig.replace_watched(&first, &target, &stop).unwrap_err();
    let report = rig.restore(&second, &target).unwrap();
    assert_eq!(
        (names(&target), report.bytes_resumed),
        (vec!["only".to_owned()], 0)
    );
    assert_eq!(rig.names(), ["target"]);
}

#[test]
fn nothing_is_left_of_a_restore_that_wrote_nothing() {
    let rig = Rig::new();
    let id = rig.back_up("tree", &whats());
    let control = Control::default();
    control.cancel();
    let target = rig.path("target");
    let outcome = rig.restore_with(&id, &target, RestoreOptions::default(), &control);
    assert!(matches!(outcome, Err(RepositoryError::Cancelled)));
    assert!(rig.names().is_empty());
    assert_eq!(left_behind(&target), None);
}

/// Two at a time would write into each other's files.
#[test]
fn a_second_restore_to_the_same_target_is_refused_while_the_first_works() {
    let rig = Rig::new();
    let id = rig.back_up("tree", &whats());
    let target = rig.path("target");
    let refused = std::sync::atomic::AtomicBool::new(false);
    let (repository, is_refused) = (&rig.repository, &refused);
    let watch = |_: swap::Step| {
        let control = Control::default();
        let second = restore(repository, &id, &target, REPLACE, &Nobody, &control);
        if let Err(RepositoryError::TargetInUse { user, .. }) = second {
            assert_eq!(user, "another restore");
            is_refused.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    };
    rig.replace_watched(&id, &target, &watch).unwrap();
    assert!(refused.into_inner());
}

/// BK8: whether it stops before the exchange or after it, the name has the one or the other, whole.
#[test]
fn a_crash_at_any_step_of_an_exchange_leaves_the_old_folder_or_the_restored_one() {
    let rig = Rig::new();
    let id = rig.back_up("tree", &whats());
    rig.restore(&id, &rig.path("expected")).unwrap();
    let expected = picture(&rig.path("expected"));
    let target = rig.path("target");
    let make_old = || {
        fs::create_dir(&target).unwrap();
        fs::write(target.join("old"), b"old").unwrap();
        fs::hard_link(target.join("old"), target.join("too")).unwrap();
    };
    for crashed in [
        swap::Step::SetOut,
        swap::Step::Exchange,
        swap::Step::RemoveWorkspace,
    ] {
        for is_error in [false, true] {
            make_old();
            let old = picture(&target);
            let watch = |step| match (step == crashed, is_error) {
                (false, _) => Ok(()),
                (true, true) => Err(RepositoryError::Cancelled),
                (true, false) => panic!("the machine stops"),
            };
            let run = || rig.replace_watched(&id, &target, &watch);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                Ok(outcome) => drop(outcome.unwrap_err()),
                Err(_) => assert!(!is_error),
            }
            let found = picture(&target);
            let is_new = crashed == swap::Step::RemoveWorkspace;
            assert_eq!(&found, if is_new { &expected } else { &old }, "{crashed:?}");
            let report = rig.replace(&id, &target).unwrap();
            assert_eq!(picture(&target), expected);
            let takes_over = crashed == swap::Step::SetOut || is_error && !is_new;
            assert_eq!(report.bytes_resumed > 0, takes_over, "{crashed:?}");
            assert_eq!(rig.names(), ["expected", "target"]);
            fs::remove_dir_all(&target).unwrap();
        }
    }
}
