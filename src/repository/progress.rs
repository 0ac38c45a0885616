//! How far a job is, and how it is told to stop. Shared between the job's threads and whoever looks on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use serde::Serialize;

use crate::repository::error::{RepositoryError, Result};

/// Where a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Phase {
    /// Nothing was started.
    #[default]
    Idle = 0,
    /// Content is read and written.
    InProgress = 1,
    /// The manifest is published, or the target swapped in.
    Finalizing = 2,
    /// It is done.
    Completed = 3,
    /// It failed, or was cancelled.
    Failed = 4,
}

impl Phase {
    fn of(code: u8) -> Self {
        match code {
            1 => Self::InProgress,
            2 => Self::Finalizing,
            3 => Self::Completed,
            4 => Self::Failed,
            _ => Self::Idle,
        }
    }
}

/// How far a job is at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// From 0.0 to 1.0; never goes back.
    pub fraction: f64,
    /// Bytes that were dealt with.
    pub bytes_done: u64,
    /// Bytes that there are to deal with, as far as known.
    pub bytes_total: u64,
    /// Files that were dealt with.
    pub files_done: u64,
    /// Bytes that were stored.
    pub bytes_stored: u64,
}

#[derive(Debug, Default)]
struct Counters {
    phase: AtomicU8,
    bytes_done: AtomicU64,
    bytes_total: AtomicU64,
    files_done: AtomicU64,
    bytes_stored: AtomicU64,
    /// Bits of the largest fraction that was told; those of numbers that are not negative are in order.
    fraction_told: AtomicU64,
}

/// The handle by which a job tells how far it is, and is told to stop. Clones are of the same job.
#[derive(Clone, Debug, Default)]
pub struct Control {
    counters: Arc<Counters>,
    is_cancelled: Arc<AtomicBool>,
}

impl Control {
    /// Asks the job to stop: it ends with `Cancelled` before it deals with the next piece.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Errors: `Cancelled` if somebody asked.
    pub fn refuse_if_cancelled(&self) -> Result<()> {
        match self.is_cancelled.load(Ordering::Relaxed) {
            true => Err(RepositoryError::Cancelled),
            false => Ok(()),
        }
    }

    /// One for a part of the job that counts for itself, and is told to stop with the whole.
    pub(super) fn of_part(&self) -> Self {
        Self {
            counters: Arc::default(),
            is_cancelled: Arc::clone(&self.is_cancelled),
        }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let phase = Phase::of(self.counters.phase.load(Ordering::Acquire));
        let bytes_done = self.counters.bytes_done.load(Ordering::Relaxed);
        let bytes_total = self.counters.bytes_total.load(Ordering::Relaxed);
        let fraction = fraction(phase, bytes_done, bytes_total);
        let told = &self.counters.fraction_told;
        let before = told.fetch_max(fraction.to_bits(), Ordering::Relaxed);
        Progress {
            phase,
            fraction: fraction.max(f64::from_bits(before)),
            bytes_done,
            bytes_total,
            files_done: self.counters.files_done.load(Ordering::Relaxed),
            bytes_stored: self.counters.bytes_stored.load(Ordering::Relaxed),
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.counters.phase.store(phase as u8, Ordering::Release);
    }

    pub(super) fn expect_bytes(&self, total: u64) {
        self.counters.bytes_total.store(total, Ordering::Relaxed);
    }

    pub(super) fn add_bytes(&self, bytes: u64) {
        self.counters.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn add_file(&self) {
        self.counters.files_done.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_stored(&self, bytes: u64) {
        self.counters
            .bytes_stored
            .fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A live file that grows may bring more bytes than were expected; and what is not yet published is not
/// done.
#[expect(
    clippy::cast_precision_loss,
    reason = "a share needs no more than 53 bits"
)]
fn fraction(phase: Phase, done: u64, total: u64) -> f64 {
    match phase {
        Phase::Idle => 0.0,
        Phase::Completed => 1.0,
        Phase::InProgress | Phase::Finalizing | Phase::Failed if total == 0 => 0.0,
        _ => (done as f64 / total as f64).min(0.999),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What people watch never goes back, whatever turns out to be more than was expected.
    #[test]
    fn the_fraction_grows_and_is_whole_only_at_the_end() {
        let control = Control::default();
        let told = || control.progress().fraction;
        assert_eq!(told(), 0.0);
        control.enter(Phase::InProgress);
        assert_eq!(told(), 0.0);
        control.expect_bytes(100);
        control.add_bytes(60);
        assert_eq!(told(), 0.6);
        control.expect_bytes(1000);
        assert_eq!(told(), 0.6);
        control.add_bytes(1140);
        assert_eq!(told(), 0.999);
        control.enter(Phase::Finalizing);
        assert_eq!(told(), 0.999);
        control.enter(Phase::Completed);
        assert_eq!(told(), 1.0);
    }

    #[test]
    fn a_cancel_is_heard_by_every_clone() {
        let control = Control::default();
        assert!(control.clone().refuse_if_cancelled().is_ok());
        control.clone().cancel();
        assert!(matches!(
            control.refuse_if_cancelled(),
            Err(RepositoryError::Cancelled)
        ));
    }
}
