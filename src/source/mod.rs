//! Sources: what can be mounted, behind one contract. A source is recognised by its content, pins a
//! moment of it, and yields the tree that a mount shows.
//!
//! Runs in the mount daemon and in the commands that read (`check`, `dump`).
//!
//! ```text
//! path --recognise--> Kind --pin--> PinnedSource { tree, facts, lease }
//! ```
//!
//! A source's obligations (the native engine is the only one so far):
//!
//! * A1 What its tree gives is one committed state of each database, or an error.
//! * A2 Names, sizes, inode numbers, owners, modes and times are fixed at the pin, the same for every
//!   pin of an unchanged database, and strictly different in time whenever content differs.
//! * A3 Nothing of the engine's own helper files is in the tree.
//! * A4 Giving up the lease lets the engine go on as if there had been no pin.
//!
//! Not here: FUSE, processes, exit codes.

mod error;
pub mod native;
mod native_lease;
pub mod still;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::database::PinOptions;
use crate::id::PinId;
use crate::lsn::{Lsn, Timestamp};
use crate::os::Host;
use crate::view::ReadCounts;
use crate::view::tree::Tree;

pub use error::SourceError;

/// What somebody who pins says of himself.
#[derive(Clone, Debug)]
pub struct PinAs<'a> {
    /// Who holds the pin, as `status` shows it.
    pub holder: &'a str,
    /// Where it will be mounted, if anywhere.
    pub mount_point: Option<&'a Path>,
    /// What bounds the pin.
    pub options: PinOptions,
}

/// What is known of a pinned source.
#[derive(Clone, Debug)]
pub struct SourceFacts {
    /// Kind of the source.
    pub kind: &'static str,
    /// The pin.
    pub pin: PinId,
    /// The pinned commit.
    pub timestamp: Timestamp,
    /// Its LSN.
    pub lsn: Lsn,
    /// Its wall clock, nanoseconds since 1970.
    pub wall_ns: u64,
    /// How long the pin may last.
    pub max_age: Duration,
}

/// How a lease is, for people: whether a read is right is told by the read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseView {
    /// Held.
    Held,
    /// The engine ended the pin, and says why.
    Ended(crate::pin::EndReason),
    /// No engine has run since the pin was taken; the next one is asked for it.
    NoEngine,
    /// The engine is gone; the view stands, and the next engine is asked for the pin.
    EngineGone,
    /// An engine started that did not take the pin over: reads fail by the fence.
    PassedOver,
}

/// What keeps a pin. Dropping it gives the pin up.
pub trait SourceLease: Send + fmt::Debug {
    /// Waits until something happens to the pin, or `timeout` is over.
    fn watch(&mut self, timeout: Duration) -> LeaseView;
    /// How often the pin was given back by an engine that started.
    fn reconnects(&self) -> u64;
    /// Gives the pin up and waits until that is done.
    ///
    /// Errors: `Pin`; the pin is given up all the same.
    fn release(self: Box<Self>) -> Result<(), SourceError>;
}

/// One pinned source.
#[derive(Debug)]
pub struct PinnedSource {
    /// What a mount shows.
    pub tree: Arc<Tree>,
    /// What is known of it.
    pub facts: SourceFacts,
    /// What reading it cost so far.
    pub reads: Arc<dyn ReadMeter>,
    /// What keeps it.
    pub lease: Box<dyn SourceLease>,
}

/// Counts what was read of a view, and looks whether it still stands.
pub trait ReadMeter: Send + Sync + fmt::Debug {
    /// What reading cost so far.
    fn counts(&self) -> ReadCounts;
    /// The last read that failed while the pin held, if one did.
    fn last_failure(&self) -> Option<String>;
    /// Makes every later read fail: the pin is at its maximum age.
    fn expire(&self);
    /// Whether the pin holds at this moment. Errors: any of a read.
    fn look(&self) -> Result<(), crate::view::tree::ReadError>;
}

/// Whether there is something at `path` that can be pinned.
///
/// Errors: `Missing`, `NotASource`, `Io`.
pub fn recognise(host: &Host, path: &Path) -> Result<(), SourceError> {
    native::recognise(host, path)
}

/// Recognises what is at `path` and pins it.
///
/// Errors: any [`SourceError`]; nothing is then pinned.
pub fn pin(host: &Host, path: &Path, pin_as: &PinAs<'_>) -> Result<PinnedSource, SourceError> {
    recognise(host, path)?;
    native::pin(host, path, pin_as)
}
