//! Machines that were put back with their memory: the same incarnation goes on, but not from what is archived.

use std::time::Duration;

use crate::lsn::Lsn;
use crate::os::random::SeededRandom;
use crate::repository::log::model_test::Site;
use crate::repository::log::{FOLDER, LogCatalog};
use crate::repository::store::Put;

/// A machine, and the same one as it was before: up to that moment both did the same.
struct Twins {
    /// What it did then, and does no longer count.
    before: Site,
    /// It after it was put back.
    after: Site,
    random: SeededRandom,
}

impl Twins {
    fn new(seed: u64, common: &mut dyn FnMut(&mut Site, &SeededRandom)) -> Self {
        let [before, after] = [0, 1].map(|_| {
            let mut site = Site::new(seed);
            site.start();
            common(&mut site, &SeededRandom::new(seed));
            site
        });
        assert_eq!(before.truth, after.truth);
        Self {
            before,
            after,
            random: SeededRandom::new(seed ^ 0xffff),
        }
    }

    /// The repository was not put back: what `before` has archived is there, for `after`.
    fn keep_archive(&mut self) {
        let from = self.before.repository();
        let to = self.after.repository();
        assert_eq!(from.id(), to.id());
        let names = from.store().list(FOLDER).unwrap();
        for name in to.store().list(FOLDER).unwrap() {
            to.store().remove(&format!("{FOLDER}/{name}")).unwrap();
        }
        for name in names {
            let object = format!("{FOLDER}/{name}");
            let mut bytes = vec![0; from.store().size(&object).unwrap().try_into().unwrap()];
            from.store().read_at(&object, 0, &mut bytes).unwrap();
            to.store().put(&object, &[&bytes], Put::Replace).unwrap();
        }
        to.store().settle().unwrap();
        // Time goes on, whatever is put back.
        self.after.source.clock.advance(Duration::from_secs(1000));
    }

    fn commit(&mut self, before: u64, after: u64) {
        for _ in 0..before {
            assert!(self.before.commit(&self.random));
        }
        for _ in 0..after {
            assert!(self.after.commit(&self.random));
        }
    }

    /// Everything that counts is archived, and nothing else; `is_told` says whether it was noticed.
    #[track_caller]
    fn expect_archived(&mut self, is_told: bool) {
        let report = self.after.step().unwrap().unwrap();
        assert_eq!(report.put_back.is_some(), is_told, "{report:?}");
        assert_eq!(self.after.expect_true(), self.after.truth.len() as u64);
        assert_eq!(self.after.archived().len(), 1, "without a hole");
    }
}

/// LA9: whether the machine that was put back is behind what is archived, or past it, and whether its archiver was
/// put back with it or is another one: what is archived from there on is what counts, told once; and a
/// backup of what does not count is gone on from by no later one.
#[test]
fn machine_that_was_put_back_is_noticed_before_anything_is_appended() {
    for (seed, (before, after)) in [(1, 3), (3, 1), (2, 2), (1, 1), (6, 2), (1, 40)]
        .into_iter()
        .enumerate()
    {
        for (is_same_archiver, is_rotated) in
            [(true, false), (false, false), (true, true), (false, true)]
        {
            println!("{before} and {after} commits, {is_same_archiver} {is_rotated}");
            let mut twins = Twins::new(seed as u64, &mut |site, random| {
                for _ in 0..5 {
                    assert!(site.commit(random));
                }
                site.step().unwrap().unwrap();
                if is_rotated {
                    site.engine.as_ref().unwrap().checkpoint().unwrap();
                }
            });
            twins.commit(before, 0);
            twins.before.step().unwrap().unwrap();
            assert_eq!(twins.before.expect_true(), 5 + before);
            if !is_same_archiver {
                twins.after.archiver = None;
            }
            twins.keep_archive();
            twins.commit(0, after);
            if is_rotated {
                twins.after.engine.as_ref().unwrap().checkpoint().unwrap();
                twins.commit(0, 1);
            }
            twins.expect_archived(true);
            twins.commit(0, 2);
            twins.expect_archived(false);
            twins.after.archiver = None;
            twins.commit(0, before + 2);
            twins.expect_archived(false);
            // So does its next incarnation.
            twins.after.crash_source(3);
            twins.after.start();
            twins.commit(0, 2);
            twins.expect_archived(false);
            let catalog = LogCatalog::read(&twins.after.repository()).unwrap();
            let given_up: Vec<_> = catalog.lines().flat_map(|line| &line.gaps).collect();
            assert_eq!(given_up.len(), 1, "{given_up:?}");
            assert!(given_up[0].end >= twins.before.truth.last().unwrap().lsn);
        }
    }
}

/// LA9: an older state that nobody wrote to yet is none that goes on otherwise.
#[test]
fn machine_that_was_put_back_and_did_nothing_yet_changes_nothing() {
    let mut twins = Twins::new(9, &mut |site, random| {
        for _ in 0..3 {
            assert!(site.commit(random));
        }
        site.step().unwrap().unwrap();
    });
    twins.commit(4, 0);
    twins.before.step().unwrap().unwrap();
    for archiver_lives in [true, false] {
        if !archiver_lives {
            twins.after.archiver = None;
        }
        twins.keep_archive();
        let report = twins.after.step().unwrap().unwrap();
        assert_eq!((report.pieces, report.put_back), (0, None));
    }
    assert_eq!(twins.before.expect_true(), 7);
    let names = |site: &Site| site.repository().store().list(FOLDER).unwrap();
    assert_eq!(names(&twins.before), names(&twins.after));
}

/// LA9, LA5: where the log was let go that leads to what is there, it is a gap besides.
#[test]
fn log_that_went_before_the_machine_was_noticed_is_a_gap() {
    let mut begun = Lsn::ZERO;
    let mut twins = Twins::new(11, &mut |site, random| {
        site.log_bytes_max = 256 << 10;
        (site.engine, site.archiver) = (None, None);
        site.start();
        assert!(site.commit(random));
        begun = site.step().unwrap().unwrap().archived;
    });
    for _ in 0..20 {
        twins.commit(10, 0);
        twins.before.step().unwrap().unwrap();
        twins.before.engine.as_ref().unwrap().checkpoint().unwrap();
    }
    twins.keep_archive();
    for _ in 0..15 {
        twins.commit(0, 10);
        twins.after.engine.as_ref().unwrap().checkpoint().unwrap();
    }
    let report = twins.after.step().unwrap().unwrap();
    assert!(report.put_back.is_some());
    assert_eq!(report.gaps.len(), 1, "{report:?}");
    assert_eq!(report.gaps[0].first, begun);
    assert_eq!(twins.after.expect_true(), twins.after.truth.len() as u64);
}

/// LA9: what an incarnation before the one that was put back has committed was given up by nobody, though the
/// machine that was put back does not know that it is archived.
#[test]
fn log_of_an_older_incarnation_counts_on() {
    let mut twins = Twins::new(13, &mut |site, random| {
        assert!(site.commit(random));
        site.step().unwrap().unwrap();
        assert!(site.commit(random) && site.commit(random));
        (site.engine, site.archiver) = (None, None);
        site.start();
        assert!(site.commit(random));
    });
    twins.commit(2, 0);
    twins.before.step().unwrap().unwrap();
    twins.keep_archive();
    twins.commit(0, 3);
    let report = twins.after.step().unwrap().unwrap();
    assert!(
        report.put_back.is_some() && report.gaps.is_empty(),
        "{report:?}"
    );
    assert_eq!(twins.after.expect_true(), twins.after.truth.len() as u64);
    assert_eq!(twins.after.archived().len(), 1, "without a hole");
}
