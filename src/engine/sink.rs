//! The engine's contract with whoever keeps what it is about to overwrite.
//!
//! Writeback asks before it overwrites, and relief asks for space; neither knows of pins.

use std::fmt;

use crate::os::File;
use crate::page::PageNo;

/// Why a pre-image could not be kept.
pub type CaptureFailure = Box<dyn std::error::Error + Send + Sync>;

/// What a sink says of pages that are to be overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// They may be.
    Kept,
    /// Not yet: somebody needs them and has no room for them.
    Held,
}

/// Why something that is kept must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// The log is at its limit, and the checkpoint that would shorten it is held up.
    LogFull,
    /// The file system has no space left.
    DiskFull,
}

/// What wants to know of a live page before it is overwritten. The engine's own contract: it knows
/// nothing of pins.
pub trait PreImageSink: Send + Sync + fmt::Debug {
    /// Called before the live `pages` (ascending) are overwritten, with the live file as it is.
    ///
    /// After `Kept` whoever still needs the content has it, or can see that it is lost. After `Held`
    /// nothing of it is overwritten: the checkpoint stops, and is tried again later.
    /// Errors: as after `Held`, but the checkpoint has failed.
    fn before_overwrite(&self, pages: &[PageNo], live: &dyn File) -> Result<Keep, CaptureFailure>;

    /// Called when a checkpoint has overwritten all that it had to: nothing is held up any more.
    fn passed(&self);

    /// Called when the log is at its limit and a checkpoint is held up, or when the disk is full. Ends
    /// one thing that is kept, visibly, and gives its space back; says whether there was anything.
    /// May be called with the engine's locks held: it must not call the engine.
    fn relieve(&self, pressure: Pressure) -> bool;

    /// Called once when the engine stops writing for good after a failed sync.
    /// Whoever else hears of that waits for it: it must not call the engine.
    fn poisoned(&self);
}
