//! The threads that requests are made on.

use std::future::Future;
use std::io;
use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};

/// Requests wait for the network, and their content was hashed before.
const THREADS: usize = 2;

/// Threads that make requests. Whoever waits for one may be any thread, one of a runtime too.
#[derive(Debug)]
pub(super) struct Threads {
    runtime: Option<Runtime>,
}

impl Threads {
    /// Starts them. Errors: the system's.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("stillfs-store")
            .enable_io()
            .enable_time()
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    /// Begins `work`, and does not wait for it.
    pub(super) fn begin(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            drop(runtime.spawn(work));
        }
    }

    /// What `work` comes to; nothing if it panicked, which is a bug.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (tell, told) = mpsc::sync_channel(1);
        self.begin(async move {
            // Who no longer waits does not need to know.
            drop(tell.send(work.await));
        });
        told.recv().ok()
    }
}

impl Drop for Threads {
    /// Waits for nobody: the last handle may go on a thread of a runtime, which must not wait.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
