//! Joins the engine's contract for pre-images to the shadow.

use std::sync::Arc;

use crate::engine::{CaptureFailure, Keep, PreImageSink, Pressure};
use crate::os::{Clock, File};
use crate::page::PageNo;
use crate::shadow::{EndReason, Kept, Shadow, Shortage};

/// The shadow, as the engine calls it.
#[derive(Debug)]
pub(super) struct ShadowSink {
    pub(super) shadow: Arc<Shadow>,
    pub(super) clock: Arc<dyn Clock>,
}

impl PreImageSink for ShadowSink {
    fn before_overwrite(&self, pages: &[PageNo], live: &dyn File) -> Result<Keep, CaptureFailure> {
        self.shadow.tend_sometimes(self.clock.monotonic());
        Ok(match self.shadow.before_overwrite(pages, live)? {
            Kept::All => Keep::Kept,
            Kept::NotYet => Keep::Held,
        })
    }

    fn passed(&self) {
        self.shadow.passed();
    }

    fn relieve(&self, pressure: Pressure) -> bool {
        self.shadow.relieve(match pressure {
            Pressure::LogFull => Shortage::Log,
            Pressure::DiskFull => Shortage::Disk,
        })
    }

    fn poisoned(&self) {
        if let Err(error) = self.shadow.end_all(EndReason::Poisoned) {
            // A checkpoint under way still captures for such a pin or overwrites nothing, so what it
            // reads stays right.
            tracing::error!(%error, "cannot end the pins of a poisoned engine visibly");
        }
    }
}
