//! Which pages changed between two commits, against the bytes of the pages themselves.

use std::collections::BTreeSet;
use std::ops::Range;

use super::*;
use crate::engine::changed_pages;
use crate::lsn::Lsn;
use crate::os::{Disk, SimulatedHost};
use crate::page::PageRef;

/// A commit as it was acknowledged, or found at an opening.
struct Seen {
    lsn: Lsn,
    pages: Vec<PageRef>,
    /// The pages whose newest content is of this commit.
    touched: BTreeSet<u64>,
    /// Grows with every segment.
    segment: usize,
}

fn look(engine: &Engine, segment: usize) -> Seen {
    let snapshot = Snapshot::durable(engine.shared.clone());
    let point = snapshot.point();
    let pages: Vec<_> = (2..point.page_count)
        .map(|page| snapshot.page(PageNo(page)).unwrap())
        .collect();
    let newest = pages
        .iter()
        .zip(2..)
        .filter(|(page, _)| page.lsn() == point.lsn);
    let touched = newest.map(|(_, number)| number).collect();
    Seen {
        lsn: point.lsn,
        pages,
        touched,
        segment,
    }
}

fn ask(disk: &dyn Disk, engine: &Engine, since: Lsn, until: Lsn) -> Option<Vec<Range<u64>>> {
    let Identity {
        database, history, ..
    } = engine.identity();
    changed_pages(disk, Path::new(DIR), database, history, since, until).unwrap()
}

fn differing(old: &Seen, new: &Seen) -> BTreeSet<u64> {
    let is_other =
        |index: &usize| old.pages.get(*index).map(|page| &page[..]) != Some(&new.pages[*index][..]);
    (0..new.pages.len())
        .filter(is_other)
        .map(|index| index as u64 + 2)
        .collect()
}

/// A history of commits, and how often it was asked.
struct Story {
    machine: SimulatedHost,
    commits: Vec<Seen>,
    segment: usize,
    answers: u64,
    holes: u64,
}

impl Story {
    fn new(seed: u64) -> Self {
        Self {
            machine: Host::simulated(seed),
            commits: Vec::new(),
            segment: 0,
            answers: 0,
            holes: 0,
        }
    }

    /// Opens the database and notes its commit.
    fn open(&mut self) -> Engine {
        let engine = open(&self.machine.host).unwrap();
        // One that was not acknowledged is in the last segment of before.
        self.note(look(&engine, self.segment));
        self.segment += 1;
        engine
    }

    /// A transaction that changed nothing is no commit.
    fn note(&mut self, found: Seen) {
        if self.commits.last().is_none_or(|last| last.lsn != found.lsn) {
            self.commits.push(found);
        }
    }

    fn commit(&mut self, engine: &Engine, random: &SeededRandom) -> Result<(), EngineError> {
        let mut write = engine.begin_write()?;
        Plan::draw(random).on_engine(&mut write)?;
        write.commit()?;
        self.note(look(engine, self.segment));
        Ok(())
    }

    /// W7, W8 for a random pair of commits.
    fn ask(&mut self, engine: &Engine, random: &SeededRandom, at: &str) {
        let pick = || below(random, self.commits.len() as u64) as usize;
        let (a, b) = (pick(), pick());
        let (from, to) = (a.min(b), a.max(b));
        let (old, new) = (&self.commits[from], &self.commits[to]);
        let answer = ask(&*self.machine.host.disk, engine, old.lsn, new.lsn);
        let Some(ranges) = answer else {
            self.holes += 1;
            return;
        };
        self.answers += 1;
        assert!(ranges.iter().all(|range| range.start < range.end), "{at}");
        assert!(
            ranges.windows(2).all(|two| two[0].end < two[1].start),
            "{at}"
        );
        let named: BTreeSet<u64> = ranges.into_iter().flatten().collect();
        let must = differing(old, new);
        assert!(must.is_subset(&named), "{at}: {must:?} in {named:?}");
        let between = old.segment..=new.segment;
        let commits = self.commits.iter();
        let may = commits.filter(|one| between.contains(&one.segment));
        let may: BTreeSet<u64> = may
            .flat_map(|one| one.touched.iter().copied())
            .chain([0, 1])
            .collect();
        assert!(named.is_subset(&may), "{at}: {named:?} in {may:?}");
        if old.lsn == new.lsn {
            assert!(named.is_empty(), "{at}");
        }
    }
}

/// W7, W8: whatever happens between two commits, the answer has every page that differs, and none that
/// no segment between them touched; and there is one.
#[test]
fn changed_pages_are_those_that_differ_through_checkpoints_crashes_and_stops() {
    let (mut answers, mut holes) = (0, 0);
    for seed in 0..25 {
        let random = SeededRandom::new(seed);
        let mut story = Story::new(seed);
        for round in 0..7 {
            let at = format!("seed {seed}, round {round}");
            let engine = story.open();
            let is_stopped = below(&random, 3) == 0;
            if is_stopped {
                let stop = below(&random, 120);
                let faults = Faults::power_off_before_change(stop);
                story.machine.disk.set_faults(faults);
            }
            for _ in 0..20 {
                let done = match below(&random, 4) {
                    0 => engine.checkpoint().map(|_| story.segment += 1),
                    _ => story.commit(&engine, &random),
                };
                if done.is_err() {
                    break;
                }
            }
            let end = below(&random, 3);
            if end == 0 {
                let _ = engine.close();
            }
            drop(engine);
            story.machine = match end {
                _ if is_stopped => story.machine.crash(seed * 31 + round),
                1 => story.machine.crash(seed * 31 + round),
                _ => story.machine.process_crash(),
            };
            story.machine.disk.set_faults(Faults::none());
            let engine = story.open();
            for _ in 0..6 {
                story.ask(&engine, &random, &at);
            }
            drop(engine);
            story.machine = story.machine.process_crash();
        }
        answers += story.answers;
        holes += story.holes;
    }
    assert!(holes * 20 < answers, "{holes} holes, {answers} answers");
}

/// W7, W8: another process asks while the engine commits, checkpoints and lets segments go.
#[test]
fn answers_hold_while_the_engine_goes_on() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let machine = Host::simulated(7);
    let engine = open(&machine.host).unwrap();
    let commits = Mutex::new(vec![(Lsn::ZERO, BTreeSet::new())]);
    let is_over = AtomicBool::new(false);
    let asker = machine.disk.another_process();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let random = SeededRandom::new(1);
            for number in 0..300 {
                let mut write = engine.begin_write().unwrap();
                Plan::draw(&random).on_engine(&mut write).unwrap();
                write.commit().unwrap();
                let Seen { lsn, touched, .. } = look(&engine, 0);
                let mut commits = commits.lock();
                // A transaction that changed nothing is no commit.
                if commits.last().is_none_or(|last| last.0 != lsn) {
                    commits.push((lsn, touched));
                }
                drop(commits);
                if number % 3 == 0 {
                    engine.checkpoint().unwrap();
                }
            }
            is_over.store(true, Ordering::SeqCst);
        });
        let random = SeededRandom::new(2);
        let mut asked = 0;
        while !is_over.load(Ordering::SeqCst) || asked < 20 {
            let known = commits.lock().clone();
            let from = below(&random, known.len() as u64) as usize;
            let to = known.len() - 1;
            let named = ask(&asker, &engine, known[from].0, known[to].0);
            let named: BTreeSet<u64> = named
                .expect("nothing fails")
                .into_iter()
                .flatten()
                .collect();
            for (_, touched) in &known[from + 1..] {
                assert!(touched.is_subset(&named), "{from}..{to}");
            }
            asked += 1;
        }
    });
}
