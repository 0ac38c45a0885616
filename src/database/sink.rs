//! Joins the engine's contract for pre-images to the shadow.

use std::sync::Arc;

use crate::engine::{CaptureFailure, PreImageSink};
use crate::os::{Clock, File};
use crate::page::PageNo;
use crate::shadow::{EndReason, Shadow};

/// The shadow, as the engine calls it.
#[derive(Debug)]
pub(super) struct ShadowSink {
    pub(super) shadow: Arc<Shadow>,
    pub(super) clock: Arc<dyn Clock>,
}

impl PreImageSink for ShadowSink {
    fn before_overwrite(&self, pages: &[PageNo], live: &dyn File) -> Result<(), CaptureFailure> {
        self.shadow.tend_sometimes(self.clock.monotonic());
        Ok(self.shadow.before_overwrite(pages, live)?)
    }

    fn poisoned(&self) {
        if let Err(error) = self.shadow.end_all(EndReason::Poisoned) {
            // A checkpoint under way still captures for such a pin or overwrites nothing, so what it
            // reads stays right.
            tracing::error!(%error, "cannot end the pins of a poisoned engine visibly");
        }
    }
}
