//! Archivers that were not there in time: gaps, and copies of a database that are not the one that was archived.

use std::path::Path;

use crate::engine::ArchiveCursor;
use crate::engine::error::EngineError;
use crate::os::random::SeededRandom;
use crate::repository::error::RepositoryError;
use crate::repository::log::model_test::{DIR, Site};
use crate::repository::log::{Archiver, FOLDER, LogCatalog};
use crate::repository::progress::Control;

/// LA4, LA5: an archiver that stands still makes nobody wait and takes no more room than the log may have;
/// the hole is recorded, and what comes after it is there.
#[test]
fn what_had_to_go_before_it_was_archived_is_a_gap() {
    let random = SeededRandom::new(3);
    let mut site = Site::new(3);
    site.log_bytes_max = 256 << 10;
    site.start();
    assert!(site.commit(&random));
    site.step().unwrap().unwrap();
    let before = site.truth.len() as u64;
    let mut largest = 0;
    for _ in 0..200 {
        assert!(site.commit(&random));
        let engine = site.engine.as_ref().unwrap();
        if random.below(5) == 0 {
            engine.checkpoint().unwrap();
            largest = engine.stats().wal_bytes.max(largest);
        }
    }
    assert!((128 << 10..=256 << 10).contains(&largest), "{largest}");
    let report = site.step().unwrap().unwrap();
    assert_eq!(report.gaps.len(), 1, "{report:?}");
    let catalog = LogCatalog::read(&site.repository()).unwrap();
    let line = catalog.line(report.line).unwrap();
    assert_eq!(line.gaps, report.gaps);
    let runs = site.archived();
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[0].1.last().unwrap().timestamp.0, before);
    assert_eq!(
        (runs[0].0.end, runs[1].0.first),
        (report.gaps[0].first, report.gaps[0].end)
    );
    assert_eq!(site.expect_true(), site.truth.len() as u64);
    assert_eq!(site.step().unwrap().unwrap().gaps, [], "told once");
}

/// LA5: an archive that was begun when there was nothing to take misses what went since.
#[test]
fn gap_right_at_the_beginning_is_told() {
    let random = SeededRandom::new(9);
    let mut site = Site::new(9);
    site.log_bytes_max = 256 << 10;
    site.start();
    assert!(site.commit(&random));
    site.engine.as_ref().unwrap().checkpoint().unwrap();
    let begun = site.step().unwrap().unwrap();
    assert_eq!((begun.pieces, begun.gaps.len()), (0, 0));
    site.archiver = None;
    fall_behind(&mut site, &random);
    let report = site.step().unwrap().unwrap();
    assert_eq!(report.gaps.len(), 1, "{report:?}");
    assert_eq!(report.gaps[0].first, begun.archived);
    assert_eq!(site.expect_true(), site.truth.len() as u64);
}

/// LA5: so does one all of whose pieces were pruned meanwhile: the cursor tells how far it was.
#[test]
fn gap_after_all_was_pruned_is_told() {
    let random = SeededRandom::new(19);
    let mut site = Site::new(19);
    site.log_bytes_max = 256 << 10;
    site.start();
    assert!(site.commit(&random));
    let begun = site.step().unwrap().unwrap();
    assert!(begun.pieces > 0);
    site.archiver = None;
    let repository = site.repository();
    for name in repository.store().list(FOLDER).unwrap() {
        repository
            .store()
            .remove(&format!("{FOLDER}/{name}"))
            .unwrap();
    }
    fall_behind(&mut site, &random);
    let report = site.step().unwrap().unwrap();
    assert_eq!(report.gaps.len(), 1, "{report:?}");
    assert_eq!(report.gaps[0].first, begun.archived);
}

/// More is written than the log may have.
fn fall_behind(site: &mut Site, random: &SeededRandom) {
    for _ in 0..100 {
        assert!(site.commit(random));
        if random.below(5) == 0 {
            site.engine.as_ref().unwrap().checkpoint().unwrap();
        }
    }
}

/// LA5: a gap that was found by a step that failed afterwards is told by the next that does not, with another
/// handle of the repository too.
#[test]
fn gap_of_a_step_that_failed_is_told_later() {
    let random = SeededRandom::new(20);
    let mut site = Site::new(20);
    site.log_bytes_max = 256 << 10;
    site.start();
    assert!(site.commit(&random));
    site.step().unwrap().unwrap();
    fall_behind(&mut site, &random);
    let mut archiver = site.archiver.take().unwrap();
    let state = site.state().unwrap();
    let step = |archiver: &mut Archiver| archiver.step(&state, &Control::default());
    site.keeper.disk.set_capacity(Some(0));
    for _ in 0..2 {
        // A gap takes no room, what comes after it does.
        step(&mut archiver).unwrap_err();
        assert_eq!(archiver.untold().len(), 1);
        archiver.reopen(site.repository());
    }
    site.keeper.disk.set_capacity(None);
    assert_eq!(step(&mut archiver).unwrap().gaps.len(), 1);
    assert_eq!(step(&mut archiver).unwrap().gaps.len(), 0);
    assert_eq!(archiver.untold(), []);
}

/// LA4: a segment that was listed is not held: the engine may let it go, and its room is free.
#[test]
fn listed_segment_may_go_before_it_is_read() {
    let random = SeededRandom::new(21);
    let mut site = Site::new(21);
    site.start();
    assert!(site.commit(&random));
    let disk = &*site.source.host.disk;
    let listed = site.state().unwrap().segments(disk, Path::new(DIR));
    let listed = &listed.unwrap()[0];
    listed.read(disk, listed.header.start, 1 << 20).unwrap();
    site.engine.as_ref().unwrap().checkpoint().unwrap();
    let gone = listed.read(disk, listed.header.start, 1 << 20).unwrap_err();
    let EngineError::Io { source, .. } = &gone else {
        panic!("{gone}");
    };
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
}

/// LA2: two copies of a database are two: once the other one was archived, this one is refused, and its engine
/// is told nothing, until it is started anew.
#[test]
fn copies_of_a_database_are_not_archived_as_one() {
    let random = SeededRandom::new(22);
    let mut site = Site::new(22);
    site.start();
    for _ in 0..2 {
        assert!(site.commit(&random));
    }
    site.step().unwrap().unwrap();
    site.archiver = None;
    let other = site.source.with_disk(site.source.disk.image_after_crash(5));
    let (own, engine) = (
        std::mem::replace(&mut site.source, other),
        site.engine.take(),
    );
    let truth = site.truth.clone();
    site.start();
    for _ in 0..3 {
        assert!(site.commit(&random));
    }
    site.step().unwrap().unwrap();

    (site.source, site.engine, site.archiver, site.truth) = (own, engine, None, truth);
    let id = site.repository().id();
    let cursor = |site: &Site| ArchiveCursor::read(&site.source.host, Path::new(DIR), id).unwrap();
    let before = cursor(&site).archived;
    for _ in 0..5 {
        assert!(site.commit(&random));
        let refused = site.step().unwrap();
        assert!(
            matches!(refused, Err(RepositoryError::OtherCopy { .. })),
            "{refused:?}"
        );
        assert_eq!(cursor(&site).archived, before);
    }
    site.engine = None;
    site.source = site.source.process_crash();
    site.start();
    assert!(site.commit(&random));
    site.step().unwrap().unwrap();
    assert_eq!(site.archived().last().unwrap().1.last(), site.truth.last());
}
