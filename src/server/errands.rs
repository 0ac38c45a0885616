//! Threads for batches that may last, one for each.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::Shared;
use super::batch::{self, Course};
use super::desk::Errand;
use super::store::Intent;

/// What such a thread has for its stack. Ten thousand of them are to fit into memory.
const STACK_BYTES: usize = 256 << 10;

/// The threads that were started and not joined yet.
#[derive(Debug, Default)]
pub(super) struct Errands {
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Errands {
    fn add(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads.lock();
        threads.push(thread);
        // They left nothing behind: a panic was told to the loop by what was dropped.
        threads.retain(|thread| !thread.is_finished());
    }

    /// Waits for those that are about to end.
    pub(super) fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("the thread of a batch panicked");
            }
        }
    }
}

/// Runs a batch in a transaction and a thread of its own, sends its replies and gives the work back.
///
/// Errors: there is no thread; the work is lost then, and its loop told so.
pub(super) fn start(shared: &Arc<Shared>, mut errand: Errand, intent: Intent) -> io::Result<()> {
    let own = Arc::clone(shared);
    let run = move || {
        let Some(work) = errand.take() else {
            return;
        };
        errand.put_back(batch::run(&own, work, intent, Course::Alone));
        // Whoever waits for the connection to end counts on the handle of the database being gone.
        drop(own);
        errand.finish();
    };
    let thread = std::thread::Builder::new()
        .name("batch".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(run)?;
    shared.errands.add(thread);
    Ok(())
}
