//! Machines that are put back with their memory at random, more than once, to any moment of any past: what counts
//! is never of two pasts.

use std::time::Duration;

use crate::lsn::Lsn;
use crate::os::random::SeededRandom;
use crate::repository::error::RepositoryError;
use crate::repository::log::model_test::Site;
use crate::repository::log::{FOLDER, LogCatalog, StepReport};
use crate::repository::store::Put;

/// What is archived: each object, and its bytes.
type Objects = Vec<(String, Vec<u8>)>;

/// What happens to a machine. The same again leads to the same state, that of its memory too.
#[derive(Clone)]
enum Event {
    Commit(u64),
    Checkpoint,
    Archive,
    /// The archiver is gone, and another one comes.
    ArchiverEnds,
    /// The machine is put back to what it was before this; what is archived stays.
    PutBack(Objects),
}

/// A machine, and what led to its state.
struct World {
    seed: u64,
    log_bytes_max: u64,
    path: Vec<Event>,
    site: Site,
}

impl World {
    fn new(seed: u64, log_bytes_max: u64) -> Self {
        let mut site = Site::new(seed);
        site.log_bytes_max = log_bytes_max;
        site.start();
        let mut world = Self {
            seed,
            log_bytes_max,
            path: Vec::new(),
            site,
        };
        world.act(Event::Archive);
        world
    }

    /// Lets it happen; gives what the archiver told.
    fn act(&mut self, event: Event) -> Option<Result<StepReport, RepositoryError>> {
        self.path.push(event.clone());
        let engine = self.site.engine.as_ref().unwrap();
        match event {
            Event::Commit(seed) => assert!(self.site.commit(&SeededRandom::new(seed))),
            Event::Checkpoint => drop(engine.checkpoint().unwrap()),
            Event::Archive => return self.site.step(),
            Event::ArchiverEnds => self.site.archiver = None,
            Event::PutBack(objects) => {
                self.set_objects(&objects);
                // Time goes on, whatever is put back.
                self.site.source.clock.advance(Duration::from_secs(1000));
            }
        }
        None
    }

    fn commits(&mut self, seed: u64, count: u64) {
        for number in 0..count {
            self.act(Event::Commit(seed * 1000 + number));
        }
    }

    /// Everything is archived that is there; `is_told` says whether the machine was put back.
    #[track_caller]
    fn archive(&mut self, is_told: bool) -> StepReport {
        let report = self.act(Event::Archive).unwrap().unwrap();
        assert_eq!(report.put_back.is_some(), is_told, "{report:?}");
        self.expect_own();
        report
    }

    fn objects(&self) -> Objects {
        let store = self.site.repository().store().clone();
        let names = store.list(FOLDER).unwrap().into_iter();
        let read = |name: String| {
            let object = format!("{FOLDER}/{name}");
            let mut bytes = vec![0; store.size(&object).unwrap().try_into().unwrap()];
            store.read_at(&object, 0, &mut bytes).unwrap();
            (object, bytes)
        };
        names.map(read).collect()
    }

    fn set_objects(&self, objects: &Objects) {
        let store = self.site.repository().store().clone();
        for (object, _) in self.objects() {
            store.remove(&object).unwrap();
        }
        for (object, bytes) in objects {
            store.put(object, &[bytes], Put::Replace).unwrap();
        }
        store.settle().unwrap();
    }

    /// The machine is put back to where `path` led.
    fn put_back(&mut self, path: &[Event]) {
        let objects = self.objects();
        *self = Self::at(self.seed, self.log_bytes_max, path);
        self.act(Event::PutBack(objects));
    }

    fn at(seed: u64, log_bytes_max: u64, path: &[Event]) -> Self {
        let mut world = Self::new(seed, log_bytes_max);
        for event in &path[1..] {
            drop(world.act(event.clone()));
        }
        world
    }

    /// Nothing but what this machine committed counts, up to its last commit.
    #[track_caller]
    fn expect_own(&self) {
        self.site.expect_true();
        let runs = self.site.archived();
        let last = runs
            .iter()
            .filter_map(|(_, commits)| commits.last())
            .max_by_key(|c| c.lsn);
        assert_eq!(last, self.site.truth.last());
    }
}

/// LA9: no commit is where both can be compared: the same job ran again, and what is archived last is the note of
/// the checkpoint behind it.
#[test]
fn notes_that_are_alike_are_no_proof() {
    for is_same_archiver in [true, false] {
        let mut world = World::new(31, 1 << 30);
        world.commits(1, 3);
        world.archive(false);
        let there = world.path.clone();
        world.commits(2, 2);
        world.archive(false);
        world.act(Event::Checkpoint);
        let bytes = |world: &World| world.site.engine.as_ref().unwrap().stats().wal_bytes;
        let before = bytes(&world);
        world.commits(9, 1);
        let end = world.site.truth.last().unwrap().lsn;
        let mut state = world.site.state().unwrap();
        state.durable = Lsn(end.0 - (bytes(&world) - before));
        let report = world.site.step_from(&state).unwrap();
        assert_eq!((report.commits, report.archived), (0, state.durable));

        world.put_back(&there);
        if !is_same_archiver {
            world.act(Event::ArchiverEnds);
        }
        world.commits(2, 2);
        world.act(Event::Checkpoint);
        world.commits(3, 1);
        world.archive(true);
        world.commits(4, 1);
        world.archive(false);
        assert_eq!(world.site.archived().len(), 1);
    }
}

/// LA9: a checkpoint, after which nothing but its notes is left of the log, is none that was put back.
#[test]
fn checkpoints_in_between_are_no_other_past() {
    let mut world = World::new(32, 1 << 30);
    for round in 0..12 {
        world.commits(round, round % 3);
        world.archive(false);
        for _ in 0..round % 4 {
            world.act(Event::Checkpoint);
        }
        if round % 2 == 0 {
            world.archive(false);
        }
        if round % 3 == 0 {
            world.act(Event::ArchiverEnds);
        }
    }
    let catalog = LogCatalog::read(&world.site.repository()).unwrap();
    assert!(catalog.lines().all(|line| line.gaps.is_empty()));
}

/// LA9: put back to an older moment, and then to a later one of the first past: the second past, which is archived
/// up to before, in or behind what the third has on disk, is no part of the third.
#[test]
fn past_between_two_others_does_not_count() {
    for (second, is_gone) in [(1, false), (4, false), (9, false), (1, true), (4, true)] {
        for is_rotated in [false, true] {
            println!("{second} {is_gone} {is_rotated}");
            let limit = if is_gone { 128 << 10 } else { 1 << 30 };
            let mut world = World::new(33, limit);
            world.commits(1, 3);
            world.archive(false);
            let older = world.path.clone();
            world.commits(2, 5);
            world.archive(false);
            if is_rotated {
                world.act(Event::Checkpoint);
                world.archive(false);
            }
            let later = world.path.clone();
            world.commits(3, 2);
            world.archive(false);

            world.put_back(&older);
            world.commits(4, second);
            world.archive(true);
            world.put_back(&later);
            for round in 0..if is_gone { 40 } else { 1 } {
                world.commits(5 + round, 4);
                if is_gone {
                    world.act(Event::Checkpoint);
                }
            }
            world.commits(77, 1);
            world.archive(true);
            world.commits(78, 1);
            world.archive(false);
        }
    }
}

/// LA9: at random.
#[test]
fn what_counts_is_of_one_past() {
    for seed in 0..40 {
        let random = SeededRandom::new(seed + 500);
        let limit = if seed % 3 == 0 { 160 << 10 } else { 1 << 30 };
        let mut world = World::new(seed, limit);
        let mut moments = vec![world.path.clone()];
        let mut put_back = 0;
        for number in 0..30 {
            println!("seed {seed}, event {number}");
            match random.below(12) {
                0..5 => world.commits(random.next() >> 20, 1 + random.below(3)),
                5..7 => drop(world.act(Event::Checkpoint)),
                7..9 => {
                    world.act(Event::Archive).unwrap().unwrap();
                    world.site.expect_true();
                }
                9 => drop(world.act(Event::ArchiverEnds)),
                10 => moments.push(world.path.clone()),
                _ => {
                    let moment = random.below(moments.len() as u64);
                    put_back += 1;
                    let path = moments[usize::try_from(moment).unwrap()].clone();
                    world.put_back(&path);
                    // A machine that did nothing yet may not see that it was put back.
                    world.commits(random.next() >> 20, 1 + random.below(2));
                }
            }
        }
        world.commits(seed + 1, 1);
        world.act(Event::Archive).unwrap().unwrap();
        world.site.expect_true();
        let runs = world.site.archived().len();
        assert!(runs == 1 || put_back > 0, "{runs}");
        // The next incarnation goes on.
        world.site.crash_source(seed);
        world.site.start();
        assert!(world.site.commit(&random));
        let report = world.site.step().unwrap().unwrap();
        assert_eq!(report.put_back, None);
        world.expect_own();
    }
}

/// LA9: interrupted when the gap before the later generation was settled, and nothing after it: it is gone on with
/// after a power cut, and after the engine let more go; and it is told.
#[test]
fn interruption_after_the_gap_is_gone_on_from() {
    for is_power_cut in [true, false] {
        for is_same_archiver in [true, false] {
            println!("{is_power_cut} {is_same_archiver}");
            let mut world = World::new(41, 256 << 10);
            world.commits(1, 1);
            let begun = world.archive(false).archived;
            let there = world.path.clone();
            for round in 2..12 {
                world.commits(round, 10);
                world.archive(false);
                world.act(Event::Checkpoint);
            }
            world.put_back(&there);
            for round in 20..36 {
                world.commits(round, 10);
                world.act(Event::Checkpoint);
            }
            world.commits(40, 2);
            let state = world.site.state().unwrap();
            let mut archiver = world.site.archiver.take().unwrap();
            world.site.keeper.disk.set_capacity(Some(0));
            // A gap takes no room, what comes after it does.
            let control = crate::repository::progress::Control::default();
            archiver.step(&state, &control).unwrap_err();
            assert!(archiver.untold_put_back().is_some());
            assert_eq!(archiver.untold()[0].first, begun);
            world.site.keeper.disk.set_capacity(None);
            if is_same_archiver {
                archiver.reopen(world.site.repository());
                world.site.archiver = Some(archiver);
            } else {
                drop(archiver);
            }
            if is_power_cut {
                let kept = world.site.archiver.take();
                world.site.crash_source(7);
                if !is_same_archiver {
                    drop(kept);
                }
                world.site.start();
                assert!(world.site.commit(&SeededRandom::new(9)));
            } else {
                for round in 50..66 {
                    world.commits(round, 10);
                    world.act(Event::Checkpoint);
                }
            }
            let archived = world.site.archived().len();
            assert_eq!(archived, 1, "what counted before the gap");
            let report = world.site.step().unwrap().unwrap();
            assert!(report.put_back.is_some(), "{report:?}");
            world.expect_own();
            let runs = world.site.archived();
            let commits: usize = runs.iter().map(|(_, commits)| commits.len()).sum();
            assert!(commits > 20, "what was on disk is there: {commits}");
            assert_eq!(world.site.step().unwrap().unwrap().put_back, None);
        }
    }
}

/// LA9, LA6: a piece of the later generation that is damaged does not bring back what was given up.
#[test]
fn damaged_piece_supersedes_all_the_same() {
    for is_gap_kept in [true, false] {
        let mut world = World::new(42, 1 << 30);
        for round in 7..10 {
            world.commits(round, 2);
            world.archive(false);
            world.act(Event::Checkpoint);
        }
        world.commits(2, 1);
        world.archive(false);
        let there = world.path.clone();
        world.commits(3, 4);
        world.archive(false);
        world.put_back(&there);
        world.commits(4, 2);
        world.archive(true);
        let mut objects = world.objects();
        for (object, bytes) in &mut objects {
            if object.contains("-00000002-") && !bytes.is_empty() {
                bytes[20] ^= 1;
            }
        }
        objects.retain(|(object, _)| is_gap_kept || !object.ends_with("-gap"));
        world.set_objects(&objects);
        let catalog = LogCatalog::read(&world.site.repository()).unwrap();
        assert!(!catalog.damaged().is_empty());
        let line = catalog.lines().next().unwrap();
        let last = line.runs.iter().filter_map(|run| run.last_commit);
        let last = last.max_by_key(|last| last.lsn).unwrap();
        assert!(world.site.truth.contains(&last), "{last:?}");
    }
}

/// LA5, LA9: after the machine was put back one backup is full, of the new past, and the next ones are not, though the
/// log has not grown past what was given up.
#[test]
fn gap_of_what_was_given_up_is_none_of_the_new_past() {
    let mut world = World::new(43, 1 << 30);
    world.commits(1, 2);
    let line = world.archive(false).line;
    let old = *world.site.truth.last().unwrap();
    let there = world.path.clone();
    world.commits(2, 20);
    world.archive(false);
    let lost = *world.site.truth.last().unwrap();
    world.put_back(&there);
    world.commits(3, 2);
    let new = *world.site.truth.last().unwrap();
    world.archive(true);
    let repository = world.site.repository();
    let is_cut = |commit: super::CommitStamp, is_known: bool| {
        super::retention::is_cut_after(&repository, line, commit.lsn, is_known.then_some(commit))
            .unwrap()
    };
    assert!(new.lsn < lost.lsn);
    assert!(!is_cut(new, true));
    assert!(is_cut(new, false));
    assert!(!is_cut(old, true), "both pasts have it");
    let mut other = new;
    other.wall_ns += 1;
    assert!(is_cut(other, true));
    // The step that found it may have been killed before anything was stored.
    for (object, bytes) in world.objects() {
        if object.contains("-00000002-") && !bytes.is_empty() {
            repository.store().remove(&object).unwrap();
        }
    }
    assert!(is_cut(new, true));
}

/// LA5, LA9: that the machine was put back is told by the next report if the step that found it failed.
#[test]
fn put_back_of_a_step_that_failed_is_told_later() {
    let mut world = World::new(44, 1 << 30);
    world.commits(1, 2);
    world.archive(false);
    let there = world.path.clone();
    world.commits(2, 2);
    world.archive(false);
    world.put_back(&there);
    world.commits(3, 2);
    world.site.keeper.disk.set_capacity(Some(0));
    let mut archiver = world.site.archiver.take().unwrap();
    let state = world.site.state().unwrap();
    let control = crate::repository::progress::Control::default();
    for _ in 0..2 {
        archiver.step(&state, &control).unwrap_err();
        assert!(archiver.untold_put_back().is_some());
        archiver.reopen(world.site.repository());
    }
    world.site.keeper.disk.set_capacity(None);
    let report = archiver.step(&state, &control).unwrap();
    assert!(report.put_back.is_some());
    assert_eq!(archiver.untold_put_back(), None);
    let report = archiver.step(&state, &control).unwrap();
    assert_eq!(report.put_back, None);
    drop(archiver);
    world.expect_own();
}

/// LA9: a store that does not answer while the last archived bytes are compared is no proof of anything: the step
/// fails, and nothing is appended.
#[test]
fn nothing_is_appended_while_the_archive_cannot_be_compared() {
    let mut world = World::new(45, 1 << 30);
    world.commits(1, 2);
    world.archive(false);
    let there = world.path.clone();
    world.commits(2, 3);
    world.archive(false);
    world.put_back(&there);
    world.act(Event::ArchiverEnds);
    world.commits(3, 5);
    let state = world.site.state().unwrap();
    let control = crate::repository::progress::Control::default();
    let before = world.objects();
    let mut reads = 0;
    loop {
        let (silent, repository) =
            super::copy::tests::Silent::of(&world.site.keeper.host, &world.site.repository());
        let dir = std::path::Path::new(super::model_test::DIR);
        let mut archiver = super::Archiver::new(&world.site.source.host, dir, repository);
        silent
            .reads_left
            .store(reads, std::sync::atomic::Ordering::SeqCst);
        match archiver.step(&state, &control) {
            Ok(report) => {
                assert!(report.put_back.is_some(), "after {reads} reads");
                break;
            }
            Err(error) => assert!(matches!(error, RepositoryError::Store { .. }), "{error}"),
        }
        assert_eq!(world.objects(), before);
        reads += 1;
    }
    assert!(reads > 2, "{reads}");
    world.expect_own();
}
