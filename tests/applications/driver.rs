//! Somebody who uses an application without a pause, and knows how far he is.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crate::process::eventually;

#[derive(Debug, Default)]
struct Progress {
    begun: AtomicU64,
    done: AtomicU64,
    is_over: AtomicBool,
}

/// Takes the steps 1, 2, 3 ... one after the other. Dropping it stops it after the step it is in.
#[derive(Debug)]
pub struct Driver {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// A step that fails panics, which is noticed by whoever waits or stops.
    pub fn start(mut step: impl FnMut(u64) + Send + 'static) -> Self {
        let progress = Arc::new(Progress::default());
        let of_thread = progress.clone();
        let thread = thread::spawn(move || {
            for number in 1.. {
                if of_thread.is_over.load(Ordering::SeqCst) {
                    break;
                }
                of_thread.begun.store(number, Ordering::SeqCst);
                step(number);
                of_thread.done.store(number, Ordering::SeqCst);
            }
        });
        Self {
            progress,
            thread: Some(thread),
        }
    }

    /// Waits for so many steps more.
    pub fn advance(&self, steps: u64) {
        let until = self.progress.done.load(Ordering::SeqCst) + steps;
        eventually("an application goes on", || {
            let has_ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!has_ended, "an application has failed: see above");
            self.progress.done.load(Ordering::SeqCst) >= until
        });
    }

    /// The steps that are done.
    pub fn done(&self) -> u64 {
        self.progress.done.load(Ordering::SeqCst)
    }

    /// The steps that a state may have seen which was taken since `before` were done.
    pub fn possible(&self, before: u64) -> RangeInclusive<u64> {
        before..=self.progress.begun.load(Ordering::SeqCst)
    }

    /// Stops it; gives the number of its steps.
    pub fn stop(mut self) -> u64 {
        self.progress.is_over.store(true, Ordering::SeqCst);
        let thread = self.thread.take().unwrap();
        thread.join().expect("an application has failed: see above");
        self.progress.done.load(Ordering::SeqCst)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.progress.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
