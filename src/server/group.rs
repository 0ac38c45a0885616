//! Batches that write, of many connections, in one transaction.
//!
//! ```text
//! loops --errands--> waiting --> writer: run, one whole batch after the other --> one commit --> replies
//! ```
//!
//! A commit waits for one sync of the log, whoever it is for. So while the writer commits, the batches that
//! arrive gather, and the next transaction is of all of them.
//!
//! * R12 Batches that share a transaction run whole, one after the other, and if its commit fails each of
//!   them is told so. One that is large shares none, and neither does that of a client whose last one made a
//!   transaction fail; those that were not tried before it wait for the next one.
//!
//! Locking: the mutex of the group is held for moments. The writer holds the seat of the database and the write
//! transaction, and takes no lock while it waits for one of them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parking_lot::{Condvar, Mutex};

use super::Shared;
use super::batch::{self, Answer, Work};
use super::desk::Errand;
use super::seat::Entered;
use super::store::{Intent, Store};

/// Most batches of one transaction.
const BATCHES_MAX: usize = 128;

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Group {
    state: Mutex<State>,
    /// Batches wait, or there will be no more.
    wanted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Errand>,
    /// The writer runs batches, so it finds those that come by itself.
    is_running: bool,
    /// Nothing comes any more.
    is_over: bool,
}

impl Group {
    /// Lets batches wait for the writer.
    pub(super) fn add(&self, errands: &mut Vec<Errand>) {
        let mut state = self.state.lock();
        state.waiting.extend(errands.drain(..));
        if !state.is_running {
            self.wanted.notify_one();
        }
    }

    /// Lets the writer end once nothing waits.
    pub(super) fn end(&self) {
        self.state.lock().is_over = true;
        self.wanted.notify_one();
    }

    /// Waits for a batch; `None` at the end.
    fn first(&self) -> Option<Errand> {
        let mut state = self.state.lock();
        loop {
            if let Some(first) = state.waiting.pop_front() {
                state.is_running = true;
                return Some(first);
            }
            if state.is_over {
                return None;
            }
            state.is_running = false;
            self.wanted.wait(&mut state);
        }
    }

    /// The batches to run next, at most `room`.
    fn next(&self, room: usize) -> Called<'_> {
        let mut state = self.state.lock();
        let count = room.min(state.waiting.len());
        let errands = state.waiting.drain(..count).collect();
        Called {
            group: self,
            errands,
        }
    }

    /// No batch is run any more before the commit.
    fn end_run(&self) {
        self.state.lock().is_running = false;
    }

    /// Batches that wait for the writer.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Whether the writer runs batches.
    #[cfg(test)]
    pub(super) fn is_running(&self) -> bool {
        self.state.lock().is_running
    }
}

/// Runs batches that write until the group ends: the thread of the writer.
pub(super) fn write_all(shared: &Shared) {
    while let Some(first) = shared.group.first() {
        // Its errands are dropped with it, which closes the connections that shared the transaction.
        if catch_unwind(AssertUnwindSafe(|| write(shared, first))).is_err() {
            tracing::error!("a command broke down, and all that shared a transaction with it");
        }
    }
}

/// Batches to be run. Those that were not tried, also because one before them broke down, wait for the next
/// transaction, before those that came later.
struct Called<'a> {
    group: &'a Group,
    errands: VecDeque<Errand>,
}

impl Drop for Called<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state.lock();
        while let Some(errand) = self.errands.pop_back() {
            state.waiting.push_front(errand);
        }
    }
}

/// A batch that was run.
struct Ran {
    errand: Errand,
    work: Box<Work>,
    answers: Vec<Answer>,
}

impl Ran {
    fn new(shared: &Shared, mut errand: Errand, store: &mut Store<'_>) -> Option<Self> {
        let mut work = errand.take()?;
        let answers = batch::run_in(shared, &mut work, store, None);
        work.session.breaks_batches = store.is_failed();
        Some(Self {
            errand,
            work,
            answers,
        })
    }
}

/// Runs `first` and what waits, commits, and sends the replies.
fn write(shared: &Shared, first: Errand) {
    let entered = shared.seat.enter();
    let database = entered.as_ref().and_then(Entered::database);
    let mut store = Store::new(database, Intent::Write);
    let mut batches: Vec<Ran> = Vec::new();
    batches.extend(Ran::new(shared, first, &mut store));
    while !store.is_failed() {
        let mut called = shared.group.next(BATCHES_MAX - batches.len());
        if called.errands.is_empty() {
            break;
        }
        while !store.is_failed()
            && let Some(errand) = called.errands.pop_front()
        {
            batches.extend(Ran::new(shared, errand, &mut store));
        }
    }
    shared.group.end_run();
    let failure = batch::commit(shared, store);
    drop(entered);
    for Ran {
        mut errand,
        mut work,
        answers,
    } in batches
    {
        batch::answer(answers, failure.as_ref(), &mut work.out);
        errand.put_back(work);
        errand.finish();
    }
}
