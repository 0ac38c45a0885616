//! Pins of a source as a mount takes them, from a process that is not its writer.

use std::path::Path;

use serde::Serialize;
use stillfs::os::Host;
use stillfs::source::{PinAs, pin};

use crate::Outcome;
use crate::traffic::Percentiles;

/// How long pinning took.
#[derive(Debug, Serialize)]
pub(crate) struct SourcePins {
    /// From the call until the view can be read: opening, recognising, the index of what is in a log.
    pub(crate) pinned: Percentiles,
    /// Until the source knows no more of it.
    pub(crate) released: Percentiles,
}

/// So many pins, each released before the next.
pub(crate) fn measure(host: &Host, path: &Path, pins: u64) -> Outcome<SourcePins> {
    let (mut pinned, mut released) = (Vec::new(), Vec::new());
    for _ in 0..pins {
        let begun = host.clock.monotonic();
        let source = pin(host, path, &PinAs::plain("bench"))?;
        let there = host.clock.monotonic();
        source.lease.release()?;
        pinned.push(there - begun);
        released.push(host.clock.monotonic() - there);
    }
    Ok(SourcePins {
        pinned: Percentiles::of(pinned),
        released: Percentiles::of(released),
    })
}
