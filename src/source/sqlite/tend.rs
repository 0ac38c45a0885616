//! Looks after the log that a view holds: tells of it, ends the view at its limit, or copies what the view
//! still needs to a private file and lets the mark go.
//!
//! Copies are made on a thread of their own, of which a view has at most one. It reads the view as any
//! reader does, so that whatever ends the view ends the copy; and it looks at the mark once more before
//! the view changes over to the copy.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::database::Trend;
use crate::source::sqlite::hand_over::{self, HandOver, Stage};
use crate::source::sqlite::limit::{Copying, Outlook, Verdict};
use crate::source::sqlite::scratch::{Place, ScratchError, clone_of_pin, copy_whole, floor_bytes};
use crate::source::sqlite::view::{Inner, Kept};
use crate::source::sqlite::wal_pin::HeldWal;
use crate::view::tree::{EndSeen, ReadError};

/// When a copy that failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// What is known of a view's log, and of the copy that is made.
#[derive(Debug, Default)]
pub(super) struct Tending {
    trend: Trend,
    pub(super) held: HeldWal,
    pub(super) growth_bytes_per_second: u64,
    pub(super) warning: Option<String>,
    spill: Spill,
    /// Whether the log said already that there is something to be told.
    is_told: bool,
}

#[derive(Debug, Default)]
enum Spill {
    #[default]
    Idle,
    Running,
    Failed {
        at: Duration,
        why: String,
    },
}

/// One round. Cheap: a look at the log and at the free space.
pub(super) fn tend(view: &Arc<Inner>) {
    let mut tending = view.tending.lock();
    if view.stage() != Stage::Mark {
        tending.forget();
        return;
    }
    let held = view.mark().map(|mark| mark.held());
    match held {
        Ok(Ok(held)) => tending.held = held,
        Ok(Err(error)) => {
            tracing::warn!(database = %view.database.display(), %error, "cannot tell how much log is held");
        }
        // It has just been let go.
        Err(_) => return,
    }
    let now = view.host.clock.monotonic();
    let bytes = tending.held.bytes;
    tending.growth_bytes_per_second = tending.trend.growth(now, bytes);
    tending.trend.observe(now, bytes);
    let outlook = outlook(view, &tending);
    tending.warn(view, outlook.warning());
    match outlook.verdict() {
        Verdict::Nothing => {}
        Verdict::Spill => tending.start(view, now),
        Verdict::End => {
            if let Spill::Failed { why, .. } = &tending.spill {
                tracing::error!(database = %view.database.display(), why, "there is no copy, and the log is at its limit");
            }
            view.end(EndSeen::WalLimit);
            tending.forget();
        }
    }
}

fn outlook(view: &Inner, tending: &Tending) -> Outlook {
    let dir = view.database.parent();
    let free = dir.and_then(|dir| view.host.disk.free_bytes(dir).ok());
    Outlook {
        held: tending.held,
        growth_bytes_per_second: tending.growth_bytes_per_second,
        limit_bytes: view.options.wal_limit_bytes,
        full: view.options.wal_full,
        copying: match tending.spill {
            Spill::Idle | Spill::Running => Copying::Possible,
            Spill::Failed { .. } => Copying::Failed,
        },
        database_bytes: view.shape.bytes,
        free_bytes: free,
        floor_bytes: dir.map_or(0, floor_bytes),
    }
}

impl Tending {
    /// Why there is no copy, if one was tried.
    pub(super) fn failed_copy(&self) -> Option<String> {
        match &self.spill {
            Spill::Failed { why, .. } => Some(format!("no copy could be made: {why}")),
            Spill::Idle | Spill::Running => None,
        }
    }

    /// Nothing is held any more.
    fn forget(&mut self) {
        self.held = HeldWal::default();
        self.growth_bytes_per_second = 0;
        self.warning = None;
    }

    fn warn(&mut self, view: &Inner, warning: Option<String>) {
        let spill = match &self.spill {
            Spill::Running => Some("a copy is being made".to_owned()),
            Spill::Idle | Spill::Failed { .. } => self.failed_copy(),
        };
        let parts: Vec<String> = warning.into_iter().chain(spill).collect();
        self.warning = (!parts.is_empty()).then(|| parts.join("; "));
        match &self.warning {
            Some(warning) if !self.is_told => {
                tracing::warn!(database = %view.database.display(), warning);
                self.is_told = true;
            }
            Some(_) => {}
            None => self.is_told = false,
        }
    }

    /// Starts to copy, unless that is under way or has just failed.
    fn start(&mut self, view: &Arc<Inner>, now: Duration) {
        match &self.spill {
            Spill::Running => return,
            Spill::Failed { at, .. } if now.saturating_sub(*at) < AGAIN => return,
            Spill::Idle | Spill::Failed { .. } => {}
        }
        tracing::info!(database = %view.database.display(), "copies what the view needs, to let the log go");
        let worker = Arc::clone(view);
        let thread = thread::Builder::new().name("stillfs-spill".to_owned());
        self.spill = match thread.spawn(move || spill(&worker)) {
            Ok(_) => Spill::Running,
            Err(error) => Spill::failed(now, &error),
        };
    }
}

impl Spill {
    fn failed(at: Duration, error: &dyn std::error::Error) -> Self {
        let why = error.to_string();
        Self::Failed { at, why }
    }
}

/// The thread that copies.
fn spill(view: &Inner) {
    let kept = clone(view).or_else(|error| match error {
        ScratchError::Read(_) => Err(error),
        _ => copy(view),
    });
    let ended = match kept.and_then(|kept| change_over(view, kept)) {
        Ok(()) => {
            tracing::info!(database = %view.database.display(), "reads on from a private copy; the log is free");
            Spill::Idle
        }
        Err(error) => {
            tracing::warn!(database = %view.database.display(), %error, "cannot copy what the view needs");
            Spill::failed(view.host.clock.monotonic(), &error)
        }
    };
    view.tending.lock().spill = ended;
}

/// Keeps the view by a clone, made at once. Errors: `NoClone` where the file system cannot; any.
pub(super) fn keep_by_clone(view: &Inner) -> Result<(), ScratchError> {
    let kept = clone(view)?;
    change_over(view, kept)
}

fn clone(view: &Inner) -> Result<Kept, ScratchError> {
    let Some(parts) = view.mark()?.parts() else {
        let dir = view.database.clone();
        return Err(ScratchError::NoClone { dir });
    };
    let read = |offset, out: &mut [u8]| view.read_as_it_is(offset, out).map(drop);
    clone_of_pin(
        &view.host,
        &view.database,
        &view.options,
        view.shape,
        parts,
        read,
    )
}

fn copy(view: &Inner) -> Result<Kept, ScratchError> {
    let place = Place::of_copies(&view.host, &view.options);
    let read = |offset, out: &mut [u8]| view.read_as_it_is(offset, out).map(drop);
    copy_whole(&place, view.shape.bytes, read, || true)
}

/// The mark is looked at after the last byte was copied; only then the copy counts.
fn change_over(view: &Inner, kept: Kept) -> Result<(), ScratchError> {
    view.look()?;
    if view.keep(kept) {
        return Ok(());
    }
    // It has ended in between, and a look says why.
    view.look()?;
    Err(ScratchError::GivenUp)
}

impl Inner {
    /// Whether the view holds at this moment. Errors: any [`ReadError`].
    pub(super) fn look(&self) -> Result<(), ReadError> {
        hand_over::read(self, || self.mark()?.look(), || self.kept().map(drop))
    }
}
