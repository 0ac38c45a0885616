//! Batches that write, of many connections, in one transaction.
//!
//! ```text
//! connection --batch--> waiting --> run, one whole batch after the other --> one commit --> replies
//!                                   by the thread of one of them
//! ```
//!
//! A commit waits for one sync of the log, whoever it is for. So while one transaction commits, the batches
//! that arrive gather for the next one, and one thread runs them all: the others sleep once, until their
//! replies may leave.
//!
//! * R12 Batches that share a transaction run whole, one after the other, and if its commit fails each of
//!   them is told so. One that is large shares none, and neither does that of a client whose last one made a
//!   transaction fail; those that were not tried before it wait for the next one.
//!
//! Locking: the mutex of the group, then that of a place; both are held for moments. A leader holds the
//! seat of the database and the write transaction, and waits for a commit under way, which needs neither.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

use parking_lot::{Condvar, Mutex};

use super::Shared;
use super::batch::{self, Answer, Work};
use super::seat::Entered;
use super::store::{Intent, Store};

/// Most batches of one transaction.
const BATCHES_MAX: usize = 128;
/// As many waiting batches are run while the commit before is still under way.
const EARLY: usize = 8;

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Group {
    state: Mutex<State>,
    /// A commit has ended, or enough batches wait.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Arc<Place>>,
    /// Somebody runs batches, or is called to.
    is_led: bool,
    /// Transactions that are being committed.
    commits: usize,
}

/// Where a batch waits, and comes back to its thread.
#[derive(Debug)]
struct Place {
    content: Mutex<Content>,
    is_called: AtomicBool,
    thread: Thread,
}

#[derive(Debug)]
enum Content {
    Waiting(Work),
    /// Its thread is to run it, and others.
    Lead(Work),
    /// With whoever runs it.
    Taken,
    Done(Work),
}

impl Place {
    fn new(work: Work) -> Arc<Self> {
        Arc::new(Self {
            content: Mutex::new(Content::Waiting(work)),
            is_called: AtomicBool::new(false),
            thread: thread::current(),
        })
    }

    /// Takes what is in it; says whether its thread is to lead.
    fn take(&self) -> Option<(Work, bool)> {
        match std::mem::replace(&mut *self.content.lock(), Content::Taken) {
            Content::Waiting(work) | Content::Done(work) => Some((work, false)),
            Content::Lead(work) => Some((work, true)),
            Content::Taken => None,
        }
    }

    fn wait(&self) {
        while !self.is_called.load(Ordering::Acquire) {
            thread::park();
        }
    }

    fn call(&self) {
        self.is_called.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// A batch that was run.
struct Ran {
    /// Where its thread waits; `None` for the one that runs them.
    place: Option<Arc<Place>>,
    work: Work,
    answers: Vec<Answer>,
}

/// Runs commands from the head of what is pending as [`batch::run`] does, in a transaction with others where they
/// write and may share one. `None` where a batch that shared it took them along when it broke down.
pub(super) fn run(shared: &Shared, work: Work) -> Option<Work> {
    let intent = batch::intent(shared, &work.session, &work.pending);
    let may_share = intent == Intent::Write && !work.is_large() && !work.session.breaks_batches;
    // Whoever leads takes the seat: who waits for it holds none.
    if may_share && shared.seat.enter().is_some() {
        return Group::run(shared, work);
    }
    Some(batch::run(shared, work, intent))
}

impl Group {
    /// Runs a batch that writes, in one transaction with others; gives it back with its replies once that
    /// was committed, or `None` where the thread that ran it broke down.
    fn run(shared: &Shared, work: Work) -> Option<Work> {
        let place = {
            let mut state = shared.group.state.lock();
            if !state.is_led {
                state.is_led = true;
                drop(state);
                return lead(shared, work);
            }
            let place = Place::new(work);
            state.waiting.push_back(place.clone());
            if state.waiting.len() == EARLY {
                shared.group.changed.notify_all();
            }
            place
        };
        place.wait();
        match place.take()? {
            (work, true) => lead(shared, work),
            (work, false) => Some(work),
        }
    }

    /// The batches to run next, at most `room`; none when it is time to commit.
    fn next(&self, room: usize) -> VecDeque<Arc<Place>> {
        let mut state = self.state.lock();
        // What is run now is synced after that commit anyway.
        while room > 0 && state.commits > 0 && state.waiting.len() < EARLY {
            self.changed.wait(&mut state);
        }
        let count = room.min(state.waiting.len());
        state.waiting.drain(..count).collect()
    }

    /// Lets batches that were not tried wait for the next transaction, before those that came later.
    fn put_back(&self, untried: VecDeque<Arc<Place>>) {
        let mut state = self.state.lock();
        for place in untried.into_iter().rev() {
            state.waiting.push_front(place);
        }
    }

    /// Batches that wait for whoever runs them.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Whether somebody runs batches.
    #[cfg(test)]
    pub(super) fn is_led(&self) -> bool {
        self.state.lock().is_led
    }

    /// Lets somebody else run batches.
    fn hand_on(state: &mut State) {
        let Some(place) = state.waiting.pop_front() else {
            state.is_led = false;
            return;
        };
        let mut content = place.content.lock();
        *content = match std::mem::replace(&mut *content, Content::Taken) {
            Content::Waiting(work) => Content::Lead(work),
            other => other,
        };
        drop(content);
        place.call();
    }
}

/// The role of the one that runs batches, and then commits. Dropped before its end, it calls those whose
/// batches are lost.
struct Leading<'a> {
    group: &'a Group,
    is_committing: bool,
    places: Vec<Arc<Place>>,
}

impl Leading<'_> {
    fn begin_commit(&mut self) {
        let mut state = self.group.state.lock();
        state.commits += 1;
        self.is_committing = true;
        Group::hand_on(&mut state);
    }
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let mut state = self.group.state.lock();
        match self.is_committing {
            true => state.commits -= 1,
            false => Group::hand_on(&mut state),
        }
        drop(state);
        self.group.changed.notify_all();
        // Those of batches that are done were filled before.
        self.places.iter().for_each(|place| place.call());
    }
}

/// Runs `own` and what waits, and commits.
fn lead(shared: &Shared, mut own: Work) -> Option<Work> {
    let mut leading = Leading {
        group: &shared.group,
        is_committing: false,
        places: Vec::new(),
    };
    let entered = shared.seat.enter();
    let database = entered.as_ref().and_then(Entered::database);
    let mut store = Store::new(database, Intent::Write);
    let answers = batch::run_in(shared, &mut own, &mut store);
    own.session.breaks_batches = store.is_failed();
    let mut batches = vec![Ran {
        place: None,
        work: own,
        answers,
    }];
    while !store.is_failed() {
        let mut called = leading.group.next(BATCHES_MAX - batches.len());
        if called.is_empty() {
            break;
        }
        leading.places.extend(called.iter().cloned());
        while !store.is_failed()
            && let Some(place) = called.pop_front()
        {
            let Some((mut work, _)) = place.take() else {
                continue;
            };
            let answers = batch::run_in(shared, &mut work, &mut store);
            work.session.breaks_batches = store.is_failed();
            let place = Some(place);
            batches.push(Ran {
                place,
                work,
                answers,
            });
        }
        // They are called by whoever runs them.
        let tried = leading.places.len() - called.len();
        leading.places.truncate(tried);
        leading.group.put_back(called);
    }
    leading.begin_commit();
    let failure = batch::commit(shared, store);
    drop(entered);
    let mut own = None;
    for Ran {
        place,
        mut work,
        answers,
    } in batches
    {
        batch::answer(answers, failure.as_ref(), &mut work.out);
        match place {
            Some(place) => *place.content.lock() = Content::Done(work),
            None => own = Some(work),
        }
    }
    drop(leading);
    own
}
