//! Runs a plan, and finds the shortest one that fails.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::counts::{Counts, one};
use crate::plan::Plan;
use crate::world::World;

/// Runs of a shrinking plan, at most.
const TRIES_MAX: usize = 400;

/// How a run failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The step in which it did; the number of steps if at the end.
    pub(crate) step: usize,
    pub(crate) message: String,
    pub(crate) trace: Vec<String>,
}

thread_local! {
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of a world are caught and told by [`Failure`]; those of others are told as ever.
fn catch_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_caught = MESSAGE.with(|message| {
                let mut message = message.borrow_mut();
                let is_caught = message.is_some();
                if is_caught {
                    *message = Some(info.to_string());
                }
                is_caught
            });
            if !is_caught {
                before(info);
            }
        }));
    });
}

/// Runs the steps of `plan` at the places of `kept`.
pub(crate) fn run_kept(plan: &Plan, kept: &[usize], is_traced: bool) -> Result<World, Failure> {
    catch_messages();
    MESSAGE.with(|message| *message.borrow_mut() = Some(String::new()));
    let mut world = World::new(plan, is_traced);
    let mut at = kept.len();
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        for (place, number) in kept.iter().enumerate() {
            at = place;
            world.step(*number, plan.steps[*number]);
        }
        at = kept.len();
        world.finish();
    }));
    let message = MESSAGE.with(|message| message.borrow_mut().take());
    one(&world.counts.seeds);
    match outcome {
        Ok(()) => Ok(world),
        Err(_) => Err(Failure {
            step: at,
            message: message.unwrap_or_default(),
            trace: std::mem::take(&mut world.trace.lines),
        }),
    }
}

/// Runs all of `plan`.
pub(crate) fn run(plan: &Plan, counts: &Counts) -> Result<(), Failure> {
    let kept: Vec<usize> = (0..plan.steps.len()).collect();
    run_kept(plan, &kept, false).map(|world| counts.add(&world.counts))
}

/// Leaves out steps for as long as the run fails; gives what is left.
pub(crate) fn shrink(plan: &Plan, failure: &Failure) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..plan.steps.len().min(failure.step + 1)).collect();
    let mut tries = 0;
    let mut chunk = kept.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < kept.len() && tries < TRIES_MAX {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + chunk).min(kept.len()));
            tries += 1;
            match run_kept(plan, &fewer, false) {
                Err(failure) => {
                    fewer.truncate(failure.step + 1);
                    kept = fewer;
                }
                Ok(_) => at += chunk,
            }
        }
        chunk /= 2;
    }
    kept
}
