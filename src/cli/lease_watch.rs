//! The thread that listens to whoever keeps a pin, for as long as the pin is needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;

use crate::cli::exit::Failure;
use crate::cli::members::Members;
use crate::os::readiness::StopSignal;
use crate::pin::EndReason;
use crate::source::{LeaseView, ReadMeter, SourceError, SourceLease};

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct LeaseWatch {
    /// How the lease is.
    pub(crate) seen: Arc<Mutex<LeaseView>>,
    /// How often the pin was given back by an engine that started.
    pub(crate) reconnects: Arc<AtomicU64>,
    /// Makes the thread give the pin up.
    pub(crate) stop: Arc<StopSignal>,
    thread: JoinHandle<Result<(), SourceError>>,
}

impl LeaseWatch {
    /// Looks at the lease every `pause`, and gives it up as soon as it is told to.
    pub(crate) fn start(
        mut lease: Box<dyn SourceLease>,
        reads: Arc<dyn ReadMeter>,
        pause: Duration,
    ) -> Result<Self, Failure> {
        let seen = Arc::new(Mutex::new(lease.watch(Duration::ZERO, None)));
        let stop = StopSignal::new().context("cannot make a signal for the pin's thread")?;
        let stop = Arc::new(stop);
        let reconnects = Arc::new(AtomicU64::new(0));
        let (sees, stops, counts) = (seen.clone(), stop.clone(), reconnects.clone());
        let body = move || {
            // A signal that cannot be asked is as one that was raised: the pin is not kept for ever.
            while !stops.is_raised().unwrap_or(true) {
                let view = lease.watch(pause, Some(&stops));
                counts.store(lease.reconnects(), Ordering::Relaxed);
                let before = std::mem::replace(&mut *sees.lock(), view);
                if before != view {
                    tell(view, &*reads);
                }
            }
            let released = lease.release();
            *sees.lock() = LeaseView::Ended(EndReason::Released);
            released
        };
        let thread = thread::Builder::new()
            .name("stillfs-lease".to_owned())
            .spawn(body)
            .context("cannot start the thread that watches the pin")?;
        Ok(Self {
            seen,
            reconnects,
            stop,
            thread,
        })
    }

    /// Gives the pin up.
    pub(crate) fn release(self) -> Result<(), Failure> {
        self.stop.raise();
        let released = self
            .thread
            .join()
            .map_err(|_| anyhow::anyhow!("the pin's thread panicked"))?;
        Ok(released.context("cannot release the pin")?)
    }
}

fn tell(view: LeaseView, reads: &dyn ReadMeter) {
    match view {
        LeaseView::Held => tracing::info!("the engine that started gave the pin back"),
        LeaseView::Ended(reason) => {
            tracing::error!(%reason, "the pin ended: every further read fails");
        }
        LeaseView::NoEngine | LeaseView::EngineGone => {
            tracing::warn!(
                "no engine is there: the view stands, and the next one is asked for its pin"
            );
        }
        LeaseView::Lost => {
            let reason = Members::of(reads.members(), usize::MAX).end_reason();
            let reason = reason.or_else(|| Some(reads.look().err()?.to_string()));
            let reason = reason.unwrap_or_default();
            tracing::error!(%reason, "the pin is lost: reads of what it showed fail");
        }
        LeaseView::PassedOver => {
            tracing::error!("the engine that started did not take the pin over: reads fail");
        }
    }
}
