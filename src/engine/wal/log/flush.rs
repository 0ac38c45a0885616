//! Group commit: one sync at a time, and it serves all that wait.
//!
//! Whoever finds nobody syncing does it, for everything that was appended by then. The others sleep and
//! are called by name: those whose log it made durable, and one of the rest, which syncs next. So a commit
//! is woken once, as a rule, and by nobody whose sync was too early for it. Who has synced for itself goes on
//! once for those who came meanwhile.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

use super::Log;
use crate::engine::error::{EngineError, Result};
use crate::fault::{self, Fault};
use crate::lsn::Lsn;
use crate::os::File;

#[derive(Debug, Default)]
pub(super) struct Flush {
    durable: Lsn,
    leading: bool,
    poison: Option<String>,
    waiting: Vec<Waiter>,
}

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// That this is durable, or nobody syncs.
    Durable(Lsn),
    /// That nobody syncs.
    Lead,
}

impl Wanted {
    fn is_served(self, durable: Lsn) -> bool {
        matches!(self, Self::Durable(lsn) if lsn <= durable)
    }
}

#[derive(Debug)]
struct Waiter {
    wanted: Wanted,
    call: Arc<Call>,
}

#[derive(Debug)]
struct Call {
    is_called: AtomicBool,
    thread: Thread,
}

impl Call {
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

impl Flush {
    pub(super) fn new(durable: Lsn) -> Self {
        Self {
            durable,
            ..Self::default()
        }
    }

    /// Errors: `Poisoned` if `lsn` is not durable and will not be.
    fn is_durable(&self, lsn: Lsn) -> Result<bool> {
        if self.durable >= lsn {
            return Ok(true);
        }
        self.refuse_if_poisoned()?;
        Ok(false)
    }

    fn refuse_if_poisoned(&self) -> Result<()> {
        match self.poison.clone() {
            Some(cause) => Err(EngineError::Poisoned { cause }),
            None => Ok(()),
        }
    }

    /// Adds the calling thread, which then waits with the result, holding no lock.
    fn join(&mut self, wanted: Wanted) -> Arc<Call> {
        let call = Arc::new(Call {
            is_called: AtomicBool::new(false),
            thread: thread::current(),
        });
        let waiter = Waiter {
            wanted,
            call: call.clone(),
        };
        self.waiting.push(waiter);
        call
    }

    /// Whom to call now that nobody syncs, the next who may first: no other call comes before another sync
    /// has ended, so one at least must be of those that are left.
    fn take_called(&mut self) -> Vec<Waiter> {
        if self.poison.is_some() {
            return std::mem::take(&mut self.waiting);
        }
        let is_served = |one: &Waiter| one.wanted.is_served(self.durable);
        let next = self.waiting.iter().position(|one| !is_served(one));
        let next = next.map(|next| self.waiting.remove(next));
        let mut called: Vec<Waiter> = next.into_iter().collect();
        called.extend(self.take_served());
        let leads = |one: &mut Waiter| one.wanted == Wanted::Lead;
        called.extend(self.waiting.extract_if(.., leads));
        called
    }

    /// Those whose log is durable.
    fn take_served(&mut self) -> Vec<Waiter> {
        let durable = self.durable;
        let served = self
            .waiting
            .extract_if(.., |one| one.wanted.is_served(durable));
        served.collect()
    }
}

impl Log {
    /// How far the log is known to be synced.
    pub(crate) fn durable(&self) -> Lsn {
        self.flush.lock().durable
    }

    /// Waits until everything before `lsn` is durable: one caller syncs for all that wait.
    ///
    /// Errors: `Poisoned` after a failed sync, this one or an earlier one (W3).
    pub(crate) fn flush(&self, lsn: Lsn) -> Result<()> {
        let (file, end) = loop {
            let mut flush = self.flush.lock();
            if flush.is_durable(lsn)? {
                return Ok(());
            }
            if flush.leading {
                let call = flush.join(Wanted::Durable(lsn));
                drop(flush);
                call.wait();
                continue;
            }
            drop(flush);
            // Tail first, so that whoever holds the tail may wait for the lead.
            let tail = self.tail.lock();
            let mut flush = self.flush.lock();
            if flush.is_durable(lsn)? {
                return Ok(());
            }
            if !flush.leading {
                flush.leading = true;
                break (tail.file.clone(), tail.end);
            }
        };
        if fault::is(Fault::CommitUnsynced) {
            return self.end_lead("", Ok(()), end);
        }
        let synced = file.sync_data();
        if synced.is_ok()
            && let Some((file, later)) = self.go_on(end)
        {
            // What this one waits for is durable, whatever becomes of the rest.
            let _ = self.end_lead("cannot sync the log", file.sync_data(), later);
            return Ok(());
        }
        self.end_lead("cannot sync the log", synced, end)
    }

    /// Keeps the lead after the sync of everything before `end`, for one sync more, if others wait for that:
    /// the disk idles while a thread wakes up. Gives what to sync then.
    fn go_on(&self, end: Lsn) -> Option<(Arc<dyn File>, Lsn)> {
        // Whoever has the tail may wait for the lead.
        let tail = self.tail.try_lock()?;
        let mut flush = self.flush.lock();
        let is_later = |one: &Waiter| matches!(one.wanted, Wanted::Durable(lsn) if lsn > end);
        if !flush.waiting.iter().any(is_later)
            || flush.waiting.iter().any(|one| one.wanted == Wanted::Lead)
            || flush.poison.is_some()
        {
            return None;
        }
        let next = (tail.file.clone(), tail.end);
        drop(tail);
        flush.durable = flush.durable.max(end);
        let called = flush.take_served();
        drop(flush);
        called.iter().for_each(|one| one.call.call());
        Some(next)
    }

    /// Becomes the one that syncs. The kernel tells of a failed write-back once: of two that sync at
    /// a time, one would take lost bytes for durable ones.
    ///
    /// Errors: `Poisoned`.
    pub(super) fn take_lead(&self) -> Result<()> {
        loop {
            let mut flush = self.flush.lock();
            flush.refuse_if_poisoned()?;
            if !flush.leading {
                flush.leading = true;
                return Ok(());
            }
            let call = flush.join(Wanted::Lead);
            drop(flush);
            call.wait();
        }
    }

    /// Ends the lead with what the sync of everything before `end` said.
    ///
    /// Errors: `Poisoned` if it failed (W3).
    pub(super) fn end_lead(&self, what: &str, synced: io::Result<()>, end: Lsn) -> Result<()> {
        let mut flush = self.flush.lock();
        flush.leading = false;
        let outcome = match synced {
            Ok(()) => {
                flush.durable = flush.durable.max(end);
                Ok(())
            }
            Err(_) if fault::is(Fault::FailedSyncForgotten) => Ok(()),
            Err(error) => {
                let cause = || format!("{what}: {error}");
                flush.poison.get_or_insert_with(cause);
                flush.refuse_if_poisoned()
            }
        };
        let called = flush.take_called();
        drop(flush);
        called.iter().for_each(|one| one.call.call());
        outcome
    }

    /// Lets nothing be appended or synced any more.
    pub(crate) fn poison(&self, cause: &str) {
        let mut flush = self.flush.lock();
        flush.poison.get_or_insert_with(|| cause.to_owned());
        let called = flush.take_called();
        drop(flush);
        called.iter().for_each(|one| one.call.call());
    }

    /// Whether nothing is appended any more.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.flush.lock().poison.is_some()
    }

    /// Errors: `Poisoned`.
    pub(crate) fn refuse_if_poisoned(&self) -> Result<()> {
        self.flush.lock().refuse_if_poisoned()
    }
}
