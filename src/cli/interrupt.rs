//! Whether somebody asked this process to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::cli::exit::{Exit, Failure};

/// Set by Ctrl-C and SIGTERM, for a job that ends in an orderly way. The second of them ends the process
/// at once: what it was writing is found and removed by whoever writes next.
#[derive(Debug)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// From here on.
    ///
    /// Errors: the system's.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order the first signal finds that none was before it.
            let code = i32::from(Exit::Interrupted.code());
            flag::register_conditional_shutdown(signal, code, asked.clone())
                .and_then(|_| flag::register(signal, asked.clone()))
                .context("cannot listen to signals")?;
        }
        Ok(Self { asked })
    }

    /// One that was asked already.
    #[cfg(test)]
    pub(crate) fn asked() -> Self {
        Self {
            asked: Arc::new(AtomicBool::new(true)),
        }
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}
