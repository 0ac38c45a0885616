//! Who is stood back for, for how long, and that nobody is where nobody writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::courtesy::Courtesy;
use super::fixture::{Pages, Rig, Source, noise, options};
use super::*;
use crate::os::{Clock, Host, SimulatedHost};
use crate::view::tree::Content;

const MS: Duration = Duration::from_millis(1);

/// A machine, the commits to a database on it, and the courtesy towards whoever makes them.
struct Scene {
    machine: SimulatedHost,
    commits: Arc<AtomicU64>,
    courtesy: Courtesy,
}

fn scene(full_speed: bool) -> Scene {
    let machine = Host::simulated(1);
    let commits = Arc::new(AtomicU64::new(0));
    let pages = Pages {
        commits_seen: Some(commits.clone()),
        ..Pages::of(noise(1, 1 << 16), Some(4096))
    };
    let source = Source::new("sqlite").with("app.db", Content::Paged(Arc::new(pages)));
    let subject = source.subject();
    let courtesy = Courtesy::new(machine.host.clock.clone(), &subject.tree, full_speed);
    Scene {
        machine,
        commits,
        courtesy,
    }
}

impl Scene {
    /// Whether anybody is stood back for after so much more time.
    fn is_wanted_after(&self, time: Duration) -> bool {
        self.machine.clock.advance(time);
        self.courtesy.is_wanted()
    }

    fn commit(&self) {
        self.commits.fetch_add(1, Ordering::SeqCst);
    }

    /// Time that a piece takes which works for `work`, rest included.
    fn piece(&self, work: Duration) -> Duration {
        let begun = self.machine.clock.monotonic();
        let piece = self.courtesy.piece();
        self.machine.clock.advance(work);
        piece.end(&|| Ok(())).unwrap();
        self.machine.clock.monotonic() - begun
    }
}

/// BK12
#[test]
fn writers_are_stood_back_for_as_long_as_they_commit() {
    let scene = scene(false);
    assert!(!scene.is_wanted_after(Duration::ZERO));
    assert!(!scene.is_wanted_after(5000 * MS), "nobody has committed");
    assert_eq!(scene.piece(10 * MS), 10 * MS);
    scene.commit();
    assert!(scene.is_wanted_after(100 * MS));
    assert_eq!(scene.piece(10 * MS), 40 * MS);
    assert_eq!(scene.piece(1000 * MS), 1200 * MS, "a rest is bounded");
    assert!(!scene.is_wanted_after(1000 * MS), "nobody goes on");
    assert_eq!(scene.piece(10 * MS), 10 * MS);
}

/// BK12
#[test]
fn whoever_is_in_a_hurry_stands_back_for_nobody() {
    let scene = scene(true);
    for _ in 0..3 {
        scene.commit();
        assert!(!scene.is_wanted_after(200 * MS));
    }
    assert_eq!(scene.piece(10 * MS), 10 * MS);
}

/// BK12: two processors are not taken where one is stood back from.
#[test]
fn one_works_at_a_time_while_somebody_commits() {
    let scene = scene(false);
    scene.courtesy.is_wanted();
    scene.commit();
    assert!(scene.is_wanted_after(100 * MS));
    let first = scene.courtesy.piece();
    let is_second_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let piece = scene.courtesy.piece();
            is_second_done.store(true, Ordering::SeqCst);
            piece.end(&|| Ok(())).unwrap();
        });
        for _ in 0..100 {
            std::thread::yield_now();
        }
        assert!(!is_second_done.load(Ordering::SeqCst));
        first.end(&|| Ok(())).unwrap();
        second.join().unwrap();
    });
}

#[test]
fn whoever_rests_hears_a_cancel() {
    let scene = scene(false);
    scene.courtesy.is_wanted();
    scene.commit();
    assert!(scene.is_wanted_after(100 * MS));
    let piece = scene.courtesy.piece();
    scene.machine.clock.advance(60 * MS);
    let before = scene.machine.clock.monotonic();
    let ended = piece.end(&|| Err(RepositoryError::Cancelled));
    assert!(matches!(ended, Err(RepositoryError::Cancelled)));
    assert_eq!(scene.machine.clock.monotonic(), before);
}

#[test]
fn the_disk_rests_after_each_piece() {
    let scene = scene(false);
    let go_on = || Ok(());
    let rest = scene.courtesy.disk_rest(&go_on);
    for _ in 0..2 {
        let before = scene.machine.clock.monotonic();
        scene.machine.clock.advance(2 * MS);
        rest();
        assert_eq!(scene.machine.clock.monotonic() - before, 14 * MS);
    }
}

/// BK12: what is stored is the same, in whatever pieces; only with a writer are they small.
#[test]
fn packs_are_written_slowly_while_somebody_commits() {
    let content = noise(7, 3 << 20);
    for is_written in [false, true] {
        let rig = Rig::new(1);
        let (repository, store) = rig.gated(Box::new(|_| Ok(())));
        let commits = Arc::new(AtomicU64::new(0));
        let (clock, seen) = (rig.machine.clock.clone(), commits.clone());
        let pages = Pages {
            commits_seen: Some(commits),
            hook: Some(Box::new(move |_| {
                clock.advance(200 * MS);
                seen.fetch_add(u64::from(is_written), Ordering::SeqCst);
                None
            })),
            ..Pages::of(content.clone(), Some(4096))
        };
        let source = Source::new("sqlite").with("app.db", Content::Paged(Arc::new(pages)));
        let wanted = options(Wanted::Full);
        let control = Control::default();
        let made = backup(&repository, source.subject(), &wanted, &control).unwrap();
        assert_eq!(rig.content(&made.facts, "app.db"), content);
        let slow = store.slow_puts.load(Ordering::SeqCst);
        assert_eq!(slow > 0, is_written, "{slow} slow puts");
    }
}
