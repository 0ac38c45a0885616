//! What a model's reads may give, and how a model is run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize as Count, Ordering::Relaxed as Counted};

use super::*;

/// How often the reads of a model were answered and refused, over all runs.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) right: Count,
    pub(super) refused: Count,
}

impl Answers {
    /// The promise: the bytes of the pin, or an error.
    pub(super) fn judge(&self, read: Result<Vec<u8>, ReadError>) {
        let Ok(bytes) = read else {
            self.refused.fetch_add(1, Counted);
            return;
        };
        for (page, halves) in bytes.chunks_exact(2).enumerate() {
            assert_eq!(
                halves,
                [pinned(page) as u8; 2],
                "page {page} is not of the pin"
            );
        }
        self.right.fetch_add(1, Counted);
    }
}

pub(super) type Model = fn(Bug, &'static Answers);

/// Runs `model` in every way, or in every one in which a thread that could go on is stopped at most so
/// many times for another; gives how its reads were answered.
fn explore(model: Model, bug: Bug, stops: Option<usize>) -> &'static Answers {
    let answers: &'static Answers = Box::leak(Box::default());
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 10_000;
    builder.preemption_bound = stops;
    builder.check(move || model(bug, answers));
    answers
}

/// Whether ended pins may refuse reads in this model.
#[derive(PartialEq, Eq)]
pub(super) enum Refusals {
    Never,
    Possible,
}

pub(super) fn holds(model: Model, refusals: Refusals) {
    holds_within(model, refusals, None);
}

/// For a model with too many runs: see [`explore`].
pub(super) fn holds_within(model: Model, refusals: Refusals, stops: Option<usize>) {
    let answers = explore(model, Bug::None, stops);
    assert!(answers.right.load(Counted) > 0, "{answers:?}");
    let is_refused = answers.refused.load(Counted) > 0;
    assert_eq!(is_refused, refusals == Refusals::Possible, "{answers:?}");
}

pub(super) fn breaks(model: Model, bug: Bug) {
    breaks_within(model, bug, None);
}

/// For a model with too many runs: see [`explore`].
pub(super) fn breaks_within(model: Model, bug: Bug, stops: Option<usize>) {
    let found = catch_unwind(AssertUnwindSafe(|| explore(model, bug, stops)));
    let Err(cause) = found else {
        panic!("loom found nothing wrong with {bug:?}");
    };
    let text = cause.downcast_ref::<String>().expect("the judge's words");
    assert!(text.contains("is not of the pin"), "{bug:?}: {text}");
}

/// A wrong order that shows no wrong bytes, and ends a pin that should have lasted.
pub(super) fn refuses(model: Model, bug: Bug) {
    let answers = explore(model, bug, None);
    assert!(answers.refused.load(Counted) > 0, "{bug:?}: {answers:?}");
}

/// A reader at the side; what it saw is judged at once.
pub(super) fn reader(
    world: &Arc<World>,
    pin: usize,
    count: usize,
    answers: &'static Answers,
) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || answers.judge(world.read(pin, count)))
}
