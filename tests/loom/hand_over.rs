//! What an SQLite view is read from changes, and ends, while it is read: `source::sqlite::hand_over`.
//!
//! The application overwrites as soon as it sees the lock free. Taking and letting go of a lock is a system
//! call, which orders for whoever makes it; so each has a fence here, and the lock itself is a relaxed
//! atomic.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed as Counted;

use stillfs::source::sqlite::hand_over::{HandOver, Stage, end, keep, read};

use super::*;

/// One order that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// H1: the lock is let go before the stage is changed.
    LockFirst,
    /// H2: a read does not look at the stage again.
    SecondLookLeftOut,
    /// H2: the second look is not ordered after the bytes.
    NoFenceAfterBytes,
    /// H3: the copy is finished after the stage says that it is read.
    StageBeforeCopy,
    /// H3: neither is the copy ordered before the stage, nor its reading after.
    NoFenceAfterStage,
    /// H5: a change asks nobody what was before.
    ChangeUnasked,
}

struct Scene {
    wrong: Wrong,
    stage: AtomicU64,
    /// 1 while it is held.
    lock: AtomicU64,
    live: Page,
    kept: Page,
    /// Whether the mark sees that it was overwritten; if not, the order alone has to do.
    sees: bool,
}

/// One thread's steps.
struct Steps<'a> {
    scene: &'a Scene,
    fences: Cell<u32>,
    looks: Cell<u32>,
}

impl Scene {
    fn new(wrong: Wrong, sees: bool) -> Arc<Self> {
        Arc::new(Self {
            wrong,
            stage: AtomicU64::new(Stage::Mark.encode()),
            lock: AtomicU64::new(1),
            live: page_of(pinned(0)),
            kept: page_of(0),
            sees,
        })
    }

    fn steps(&self) -> Steps<'_> {
        Steps {
            scene: self,
            fences: Cell::new(0),
            looks: Cell::new(0),
        }
    }

    fn reader(scene: &Arc<Self>, answers: &'static Answers) -> thread::JoinHandle<()> {
        let scene = scene.clone();
        thread::spawn(move || {
            let steps = scene.steps();
            let given = |page: &Page| load(page).map(|half| half as u8).to_vec();
            let on_mark = || {
                let bytes = given(&scene.live);
                if !scene.sees {
                    return Ok(bytes);
                }
                fence(AcqRel);
                if load(&scene.live) == [pinned(0); 2] {
                    return Ok(bytes);
                }
                Err(ReadError::PinEnded {
                    reason: EndSeen::LockIgnored,
                })
            };
            answers.judge(read(&steps, on_mark, || Ok(given(&scene.kept))));
        })
    }

    /// Whoever heeds the lock.
    fn application(scene: &Arc<Self>) -> thread::JoinHandle<()> {
        let scene = scene.clone();
        thread::spawn(move || {
            let is_free = scene.lock.load(Relaxed) == 0;
            fence(AcqRel);
            if is_free {
                store(&scene.live, [NEWER; 2]);
            }
        })
    }

    /// Copies, and changes over.
    fn spill(&self) -> bool {
        let copy = || store(&self.kept, [pinned(0); 2]);
        let late = self.wrong == Wrong::StageBeforeCopy;
        if !late {
            copy();
        }
        let is_kept = keep(&self.steps());
        if late {
            copy();
        }
        is_kept
    }

    fn at_last(&self) -> Stage {
        Stage::decode(self.stage.load(Relaxed))
    }
}

impl HandOver for Steps<'_> {
    fn stage(&self) -> Stage {
        self.looks.set(self.looks.get() + 1);
        if self.scene.wrong == Wrong::SecondLookLeftOut && self.looks.get() > 1 {
            return Stage::Mark;
        }
        Stage::decode(self.scene.stage.load(Relaxed))
    }

    fn change(&self, from: Stage, to: Stage) -> bool {
        let (from, to) = (from.encode(), to.encode());
        match self.scene.wrong {
            Wrong::LockFirst => self.let_go(),
            Wrong::ChangeUnasked => {
                self.scene.stage.store(to, Relaxed);
                return true;
            }
            _ => {}
        }
        let stage = &self.scene.stage;
        stage.compare_exchange(from, to, Relaxed, Relaxed).is_ok()
    }

    fn fence(&self) {
        let number = self.fences.replace(self.fences.get() + 1);
        let is_left_out = match self.scene.wrong {
            // Of the reader the first, and of the one who keeps, as well.
            Wrong::NoFenceAfterStage => number == 0,
            Wrong::NoFenceAfterBytes => number == 1,
            _ => false,
        };
        if !is_left_out {
            fence(AcqRel);
        }
    }

    fn let_go(&self) {
        fence(AcqRel);
        self.scene.lock.store(0, Relaxed);
    }

    fn drop_kept(&self) {}
}

/// H1, H2: the view ends while it is read.
fn ending(wrong: Wrong, sees: bool, answers: &'static Answers) {
    let scene = Scene::new(wrong, sees);
    let (reader, application) = (Scene::reader(&scene, answers), Scene::application(&scene));
    assert!(end(&scene.steps(), EndSeen::Expired));
    reader.join().unwrap();
    application.join().unwrap();
    let last = Stage::Ended(EndSeen::Expired);
    assert_eq!(scene.at_last(), last, "the end is not of the pin's holder");
}

/// H2, H3, H4: it changes over to a copy while it is read: no read fails.
fn spilling(wrong: Wrong, sees: bool, answers: &'static Answers) {
    let scene = Scene::new(wrong, sees);
    let (reader, application) = (Scene::reader(&scene, answers), Scene::application(&scene));
    assert!(scene.spill(), "{wrong:?}: the stage is not of the pin");
    reader.join().unwrap();
    application.join().unwrap();
    assert_eq!(scene.at_last(), Stage::Kept, "the stage is not of the pin");
}

/// H5: it changes over on one thread and ends on another: ended it is, whoever came first.
fn both_at_once(wrong: Wrong, sees: bool, answers: &'static Answers) {
    let scene = Scene::new(wrong, sees);
    let spiller = {
        let scene = scene.clone();
        thread::spawn(move || scene.spill())
    };
    let reader = Scene::reader(&scene, answers);
    assert!(end(&scene.steps(), EndSeen::Expired));
    spiller.join().unwrap();
    reader.join().unwrap();
    let last = Stage::Ended(EndSeen::Expired);
    assert_eq!(scene.at_last(), last, "the end is not of the pin's holder");
}

type Change = fn(Wrong, bool, &'static Answers);

fn explored(change: Change, wrong: Wrong, sees: bool) -> &'static Answers {
    let answers: &'static Answers = Box::leak(Box::default());
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 10_000;
    builder.check(move || change(wrong, sees, answers));
    answers
}

fn holds(change: Change, refusals: Refusals) {
    for sees in [false, true] {
        let answers = explored(change, Wrong::Nothing, sees);
        assert!(answers.right.load(Counted) > 0, "{answers:?}");
        let is_refused = answers.refused.load(Counted) > 0;
        assert_eq!(is_refused, refusals == Refusals::Possible, "{answers:?}");
    }
}

fn breaks(change: Change, wrong: Wrong, sees: bool) {
    let found = catch_unwind(AssertUnwindSafe(|| explored(change, wrong, sees)));
    let Err(cause) = found else {
        panic!("loom found nothing wrong with {wrong:?}");
    };
    let text = cause.downcast_ref::<String>().expect("the judge's words");
    assert!(text.contains("is not of the pin"), "{wrong:?}: {text}");
}

#[test]
fn view_that_ends_gives_no_byte_of_after() {
    holds(ending, Refusals::Possible);
}

#[test]
fn end_of_a_view_needs_its_order() {
    breaks(ending, Wrong::LockFirst, false);
    breaks(ending, Wrong::SecondLookLeftOut, false);
    breaks(ending, Wrong::NoFenceAfterBytes, false);
}

#[test]
fn view_that_changes_over_reads_on() {
    holds(spilling, Refusals::Never);
}

#[test]
fn change_over_needs_its_order() {
    breaks(spilling, Wrong::LockFirst, false);
    breaks(spilling, Wrong::SecondLookLeftOut, false);
    breaks(spilling, Wrong::NoFenceAfterBytes, false);
    breaks(spilling, Wrong::StageBeforeCopy, false);
    breaks(spilling, Wrong::NoFenceAfterStage, false);
    breaks(spilling, Wrong::LockFirst, true);
}

#[test]
fn end_is_for_ever() {
    holds(both_at_once, Refusals::Possible);
}

#[test]
fn end_asks_what_was_before() {
    breaks(both_at_once, Wrong::ChangeUnasked, false);
}
