//! An engine that writes, an archiver that follows, and both killed and crashed at random: what is archived
//! against what was committed.

use std::path::Path;
use std::time::Duration;

use crate::engine::{Engine, EngineOptions, LogSegmentHeader, LogState, whole_log_records};
use crate::id::HistoryId;
use crate::lsn::Lsn;
use crate::os::random::SeededRandom;
use crate::os::sim::Faults;
use crate::os::{Host, SimulatedHost};
use crate::page::PageSize;
use crate::repository::catalog::Repository;
use crate::repository::error::RepositoryError;
use crate::repository::log::{
    Archiver, CommitStamp, CoveredRun, LineId, LogCatalog, StepReport, read_piece,
};
use crate::repository::progress::Control;

pub(super) const DIR: &str = "/db";
const REPO: &str = "/repo";

/// The machine of a database and that of a repository.
pub(super) struct Site {
    pub(super) source: SimulatedHost,
    pub(super) keeper: SimulatedHost,
    pub(super) engine: Option<Engine>,
    pub(super) archiver: Option<Archiver>,
    /// Every commit that counts, by its number less one.
    pub(super) truth: Vec<CommitStamp>,
    pub(super) log_bytes_max: u64,
    line: Option<LineId>,
}

impl Site {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            source: Host::simulated(seed),
            keeper: Host::simulated(seed ^ 0x5555),
            engine: None,
            archiver: None,
            truth: Vec::new(),
            log_bytes_max: 1 << 30,
            line: None,
        }
    }

    /// Starts the engine; what recovery found is the truth: everything acknowledged, and one commit more at
    /// most, which the crash came upon.
    pub(super) fn start(&mut self) {
        let options = EngineOptions {
            page_size: PageSize::new(4096).unwrap(),
            cache_bytes: 1 << 18,
            checkpoint_bytes: u64::MAX,
            log_bytes_max: self.log_bytes_max,
            ..EngineOptions::default()
        };
        let engine = Engine::open(&self.source.host, Path::new(DIR), &options, None).unwrap();
        let stats = engine.stats();
        let known = self.truth.len() as u64;
        assert!((known..=known + 1).contains(&stats.timestamp));
        let identity = engine.identity();
        self.line = Some(LineId {
            database: identity.database,
            history: identity.history,
        });
        self.engine = Some(engine);
        if stats.timestamp > known {
            self.note_commit();
        }
    }

    fn note_commit(&mut self) {
        let point = self
            .engine
            .as_ref()
            .unwrap()
            .begin_read()
            .snapshot()
            .point();
        assert_eq!(point.timestamp.0, self.truth.len() as u64 + 1);
        self.truth.push(CommitStamp::of(&point));
    }

    /// One commit, or a crash in it.
    pub(super) fn commit(&mut self, random: &SeededRandom) -> bool {
        let engine = self.engine.as_ref().unwrap();
        let write = || {
            let mut write = engine.begin_write()?;
            for _ in 0..=random.below(4) {
                let key = format!("key {}", random.below(60));
                // No two alike: a commit that changes nothing is none.
                let mut value = random.next().to_le_bytes().to_vec();
                value.resize(8 + usize::try_from(random.below(3000)).unwrap(), 7);
                write.put("t", key.as_bytes(), &value)?;
            }
            write.commit().map(drop)
        };
        let is_done: Result<(), crate::engine::error::EngineError> = write();
        if is_done.is_ok() {
            self.note_commit();
        }
        is_done.is_ok()
    }

    pub(super) fn state(&self) -> Option<LogState> {
        match &self.engine {
            Some(engine) => Some(engine.log_state()),
            None => LogState::settle(&self.source.host, Path::new(DIR)).ok(),
        }
    }

    /// A step of the archiver, which is started if there is none.
    pub(super) fn step(&mut self) -> Option<Result<StepReport, RepositoryError>> {
        let state = self.state()?;
        Some(self.step_from(&state))
    }

    pub(super) fn step_from(&mut self, state: &LogState) -> Result<StepReport, RepositoryError> {
        let mut archiver = match self.archiver.take() {
            Some(archiver) => archiver,
            None => {
                let of_source = self.source.disk.another_process();
                let source = self.source.with_disk(of_source).host;
                let keeper = self.keeper.with_disk(self.keeper.disk.another_process());
                let repository = Repository::open_or_create(&keeper.host, Path::new(REPO))?;
                Archiver::new(&source, Path::new(DIR), repository)
            }
        };
        let report = archiver.step(state, &Control::default())?;
        assert!(report.archived >= state.durable, "{report:?} {state:?}");
        self.archiver = Some(archiver);
        Ok(report)
    }

    pub(super) fn repository(&self) -> Repository {
        Repository::open_or_create(&self.keeper.host, Path::new(REPO)).unwrap()
    }

    /// What is archived: the runs, each with all of its commits.
    pub(super) fn archived(&self) -> Vec<(CoveredRun, Vec<CommitStamp>)> {
        let repository = self.repository();
        let catalog = LogCatalog::read(&repository).unwrap();
        assert_eq!(catalog.damaged(), []);
        let Some(line) = self.line.and_then(|line| catalog.line(line)) else {
            return Vec::new();
        };
        let commits = |run: &CoveredRun| {
            let (mut found, mut at, mut rest) = (Vec::new(), run.first, Vec::new());
            for part in &run.pieces {
                assert_eq!(part.from, at);
                at = part.until;
                let piece = read_piece(&repository, &part.facts).unwrap();
                let header = LogSegmentHeader::decode(&piece.segment).unwrap().unwrap();
                let into = |lsn: Lsn| usize::try_from(lsn.0 - part.facts.first.0).unwrap();
                let bytes = &piece.records[into(part.from)..into(part.until)];
                let (count, commits) = whole_log_records(&header, part.from, bytes, usize::MAX);
                assert_eq!(count, bytes.len(), "whole records");
                rest.extend(commits.iter().map(CommitStamp::of));
                found.append(&mut rest);
            }
            assert_eq!(found.first().copied(), run.first_commit);
            assert_eq!(found.last().copied(), run.last_commit);
            found
        };
        line.runs
            .iter()
            .map(|run| (run.clone(), commits(run)))
            .collect()
    }

    /// Every archived commit is the one that counts, none is left out within a run, and the engine that
    /// recovers has them all (LA1).
    pub(super) fn expect_true(&self) -> u64 {
        let mut last = 0;
        for (_, commits) in self.archived() {
            for commit in commits {
                let at = usize::try_from(commit.timestamp.0).unwrap() - 1;
                if self.engine.is_none() && at == self.truth.len() {
                    // The crash came upon it; the next engine will tell that it counts.
                    last = commit.timestamp.0;
                    continue;
                }
                assert_eq!(self.truth.get(at), Some(&commit));
                assert!(commit.timestamp.0 > last, "in order");
                last = commit.timestamp.0;
            }
        }
        last
    }

    pub(super) fn crash_source(&mut self, seed: u64) {
        (self.engine, self.archiver) = (None, None);
        self.source = self.source.crash(seed);
    }

    fn kill_engine(&mut self) {
        self.engine = None;
        self.source = self.source.process_crash();
        self.archiver = None;
    }

    fn stop_archiver(&mut self, seed: u64, is_machine: bool) {
        self.archiver = None;
        self.keeper = match is_machine {
            true => self.keeper.crash(seed),
            false => self.keeper.process_crash(),
        };
    }
}

/// One random thing happens.
fn happen(site: &mut Site, random: &SeededRandom) {
    match random.below(20) {
        0..8 => {
            if site.engine.is_none() {
                site.start();
            }
            assert!(site.commit(random));
        }
        8..10 => {
            if let Some(engine) = &site.engine {
                engine.checkpoint().unwrap();
            }
        }
        10..14 => {
            if let Some(outcome) = site.step() {
                assert_eq!(outcome.unwrap().put_back, None);
            }
        }
        14 => {
            // The archiver's step is cut short, by its own end or by that of the repository's machine.
            let number = random.below(30);
            let is_machine = random.below(2) == 0;
            site.keeper.disk.set_faults(match is_machine {
                true => Faults::power_off_before_change(number),
                false => Faults::kill_before_change(number),
            });
            let _ = site.step();
            site.keeper.disk.set_faults(Faults::none());
            site.stop_archiver(random.next(), is_machine);
        }
        15 => {
            if site.engine.is_some() {
                // In the middle of a commit. What a killed engine did not sync is there to be read.
                let (number, is_machine) = (random.below(6), random.below(2) == 0);
                site.source.disk.set_faults(match is_machine {
                    true => Faults::power_off_before_change(number),
                    false => Faults::kill_before_change(number),
                });
                while site.commit(random) {}
                site.source.disk.set_faults(Faults::none());
                match is_machine {
                    true => site.crash_source(random.next()),
                    false => site.kill_engine(),
                }
            }
        }
        16 => site.kill_engine(),
        17 => {
            if let Some(engine) = site.engine.take() {
                engine.close().unwrap();
            }
        }
        18 => site.crash_source(random.next()),
        _ => site.stop_archiver(random.next(), random.below(2) == 0),
    }
}

/// LA1, LA2, LA3, LA6, LA7: whatever is killed or crashes, what is archived is a part of what was committed,
/// without a hole, and all of it after a step.
#[test]
fn archive_is_always_a_prefix_of_what_was_committed() {
    for seed in 0..60 {
        let random = SeededRandom::new(seed);
        let mut site = Site::new(seed);
        site.start();
        // From the first commit on.
        site.step().unwrap().unwrap();
        for number in 0..60 {
            println!("seed {seed}, event {number}");
            happen(&mut site, &random);
            if random.below(4) == 0 {
                let runs = site.archived().len();
                assert!(runs <= 1, "nothing is missing");
                site.expect_true();
            }
        }
        // A crash of either now takes nothing back that was archived.
        let archived = site.expect_true();
        site.crash_source(seed);
        site.start();
        assert!(archived <= site.truth.len() as u64);
        site.step().unwrap().unwrap();
        assert_eq!(site.expect_true(), site.truth.len() as u64);
        assert_eq!(site.archived().len(), 1);
    }
}

/// LA1, LA2: of what was acknowledged longer ago than the lag that was told, nothing is lost with the machine,
/// 100 times over, wherever the archiver is in its work.
#[test]
fn machine_that_disappears_takes_no_more_with_it_than_the_lag() {
    let max_lag = Duration::from_secs(10);
    for seed in 0..100 {
        let random = SeededRandom::new(seed + 1000);
        let mut site = Site::new(seed);
        site.start();
        let now = |site: &Site| site.source.host.clock.monotonic();
        let end = Duration::from_millis(random.below(60_000));
        let mut acknowledged: Vec<Duration> = Vec::new();
        let (mut next_look, mut looked) = (Duration::ZERO, Vec::new());
        let mut pending: Option<(LogState, Duration, Duration)> = None;
        while now(&site) < end {
            site.source
                .clock
                .advance(Duration::from_millis(random.below(400)));
            match pending.take_if(|(_, _, due)| now(&site) >= *due) {
                Some((state, asked, _)) => {
                    site.step_from(&state).unwrap();
                    looked.push((asked, now(&site)));
                    next_look = asked + max_lag / 3;
                }
                None if pending.is_none() && now(&site) >= next_look => {
                    // Reading and storing take their time.
                    let due = now(&site) + Duration::from_millis(random.below(2500));
                    pending = Some((site.state().unwrap(), now(&site), due));
                }
                None => {}
            }
            assert!(site.commit(&random));
            acknowledged.push(now(&site));
            if random.below(15) == 0 {
                site.engine.as_ref().unwrap().checkpoint().unwrap();
            }
        }
        let gone = now(&site);
        // The machine of the repository, too, comes back with what was settled only.
        site.stop_archiver(seed, true);
        let archived = site.expect_true();
        let due = acknowledged.iter().filter(|at| **at + max_lag <= gone);
        assert!(due.count() as u64 <= archived, "seed {seed}: {archived}");
        // What was told: all before the last look that came to its end.
        let told = looked.last().map(|(asked, _)| *asked);
        let told = acknowledged
            .iter()
            .filter(|at| told.is_some_and(|told| **at < told));
        assert!(told.count() as u64 <= archived, "seed {seed}: {archived}");
    }
}

/// LA4: log that is kept for an archive alone gives its space to commits when the disk is full.
#[test]
fn full_disk_takes_back_what_is_kept_for_an_archive() {
    let random = SeededRandom::new(4);
    let mut site = Site::new(4);
    site.start();
    assert!(site.commit(&random));
    site.step().unwrap().unwrap();
    site.source.disk.set_capacity(Some(2 << 20));
    for number in 0..800 {
        assert!(site.commit(&random), "commit {number}");
        if random.below(10) == 0 {
            site.engine.as_ref().unwrap().checkpoint().unwrap();
        }
    }
    site.source.disk.set_capacity(None);
    assert_eq!(site.step().unwrap().unwrap().gaps.len(), 1);
}

/// LA3: who does not archive keeps nothing: a stop leaves no log, and a checkpoint none but the newest.
#[test]
fn without_an_archive_no_log_is_kept() {
    let random = SeededRandom::new(5);
    let mut site = Site::new(5);
    site.start();
    for _ in 0..5 {
        assert!(site.commit(&random));
        site.engine.as_ref().unwrap().checkpoint().unwrap();
        assert_eq!(site.engine.as_ref().unwrap().stats().log_kept_bytes, 0);
    }
    site.engine.take().unwrap().close().unwrap();
    let left = site.source.host.disk.list(Path::new("/db/wal")).unwrap();
    assert_eq!(left.len(), 0);
}

/// LA6: a past that was put back goes on in another incarnation; from there on its commits count, and what
/// the first had after that moment does not.
#[test]
fn past_that_was_put_back_goes_on_in_a_later_generation() {
    let random = SeededRandom::new(6);
    let mut site = Site::new(6);
    site.start();
    for _ in 0..3 {
        assert!(site.commit(&random));
    }
    site.step().unwrap().unwrap();
    let past = site.source.disk.image_after_crash(9);
    for _ in 0..4 {
        assert!(site.commit(&random));
    }
    site.step().unwrap().unwrap();
    assert_eq!(site.expect_true(), 7);
    (site.engine, site.archiver) = (None, None);
    site.source = site.source.with_disk(past);
    site.truth.truncate(3);
    site.start();
    for _ in 0..2 {
        assert!(site.commit(&random));
    }
    site.step().unwrap().unwrap();
    assert_eq!(site.expect_true(), 5);
    assert_eq!(site.archived().len(), 1);
}

/// LA8: a second archiver of the same log is refused as long as the first one lives, and no longer.
#[test]
fn second_archiver_of_a_line_is_refused() {
    let random = SeededRandom::new(7);
    let mut site = Site::new(7);
    site.start();
    assert!(site.commit(&random));
    site.step().unwrap().unwrap();
    let first = site.archiver.take();
    let refused = site.step().unwrap();
    assert!(
        matches!(refused, Err(RepositoryError::LineLocked { .. })),
        "{refused:?}"
    );
    drop(first);
    site.step().unwrap().unwrap();
    // A writer of the repository is not in its way.
    let lock = site.repository().store().lock().unwrap();
    assert!(site.commit(&random));
    assert_eq!(site.step().unwrap().unwrap().pieces, 1);
    drop(lock);
}

/// A database that was forked is of another line, and the catalog tells where it comes from.
#[test]
fn fork_is_archived_as_a_line_of_its_own() {
    let random = SeededRandom::new(8);
    let mut site = Site::new(8);
    site.start();
    assert!(site.commit(&random));
    site.step().unwrap().unwrap();
    let old = site.line.unwrap();
    site.engine.take().unwrap().close().unwrap();
    site.step().unwrap().unwrap();
    let (host, path) = (&site.source.host, Path::new(DIR).join("data.pages"));
    let file = host
        .disk
        .open(&path, crate::os::OpenMode::ReadWrite)
        .unwrap();
    crate::engine::start_history(&*file, &path, HistoryId([9; 16])).unwrap();
    for name in host.disk.list(Path::new("/db/wal")).unwrap() {
        host.disk.remove(&Path::new("/db/wal").join(name)).unwrap();
    }
    site.start();
    assert!(site.commit(&random));
    site.step().unwrap().unwrap();
    let catalog = LogCatalog::read(&site.repository()).unwrap();
    let new = catalog.line(site.line.unwrap()).unwrap();
    let fork = new.fork.map(|fork| (fork.history, fork.lsn));
    assert_eq!(fork, Some((old.history, site.truth[0].lsn)));
    assert_eq!(new.gaps, []);
    assert_eq!(new.runs[0].first_commit, Some(site.truth[1]));
    let forked_at = new.run_after(site.truth[0]).unwrap();
    assert_eq!(forked_at.first_commit, Some(site.truth[1]));
    assert_eq!(catalog.lines_of(old.database).count(), 2);
}
