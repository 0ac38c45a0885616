//! The writeback gate: live writes on one side, a pin's spill on the other.
//!
//! A checkpoint passes the gate for each batch of live writes. A pin closes it, which waits until
//! the writes in flight have returned, and opens it after its spill. Closings take turns, and
//! between two of them a waiting batch goes through, so that pins in a row cannot hold up
//! checkpoints for ever. No lock that a commit takes is involved.

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
struct State {
    closed: bool,
    in_flight: u32,
    batches_waiting: u32,
    /// Set when a closing ended while batches waited: they go before the next closing.
    batch_turn: bool,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// Live writes are in flight while this lives.
#[derive(Debug)]
#[must_use]
pub(crate) struct Passage<'a>(&'a Gate);

/// No live write starts or is in flight while this lives.
#[derive(Debug)]
#[must_use]
pub(crate) struct Closed<'a>(&'a Gate);

impl Gate {
    /// Waits while the gate is closed; live writes may be made until the passage is dropped.
    pub(crate) fn pass(&self) -> Passage<'_> {
        let mut state = self.state.lock();
        state.batches_waiting += 1;
        while state.closed {
            self.changed.wait(&mut state);
        }
        state.batches_waiting -= 1;
        state.batch_turn = false;
        state.in_flight += 1;
        Passage(self)
    }

    /// Closes the gate and waits for the writes in flight.
    pub(crate) fn close(&self) -> Closed<'_> {
        let mut state = self.state.lock();
        while state.closed || (state.batch_turn && state.batches_waiting > 0) {
            self.changed.wait(&mut state);
        }
        state.closed = true;
        while state.in_flight > 0 && !crate::fault::is(crate::fault::Fault::CleanInFlight) {
            self.changed.wait(&mut state);
        }
        Closed(self)
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.in_flight -= 1;
        drop(state);
        self.0.changed.notify_all();
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = false;
        state.batch_turn = state.batches_waiting > 0;
        drop(state);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn no_write_is_in_flight_while_the_gate_is_closed() {
        let gate = Gate::default();
        let writing = AtomicU32::new(0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Ordering::SeqCst) {
                        let _passage = gate.pass();
                        writing.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        writing.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..2000 {
                let _closed = gate.close();
                assert_eq!(writing.load(Ordering::SeqCst), 0);
            }
            done.store(true, Ordering::SeqCst);
        });
    }

    #[test]
    fn waiting_batch_goes_between_two_closings() {
        let gate = Gate::default();
        let passed = AtomicBool::new(false);
        thread::scope(|scope| {
            let first = gate.close();
            scope.spawn(|| {
                let _passage = gate.pass();
                passed.store(true, Ordering::SeqCst);
            });
            while gate.state.lock().batches_waiting == 0 {
                thread::yield_now();
            }
            drop(first);
            let _second = gate.close();
            assert!(passed.load(Ordering::SeqCst));
        });
    }
}
