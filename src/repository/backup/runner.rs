//! Backups in the background, one at a time.

use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::repository::backup::{BackupOptions, Subject, backup};
use crate::repository::catalog::Repository;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::manifest::BackupFacts;
use crate::repository::progress::{Control, Phase, Progress};

/// What a backup came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// What is in its manifest.
    pub facts: BackupFacts,
    /// Why `Auto` took the kind that it took.
    pub why: &'static str,
}

/// Runs backups into one repository on a thread of its own: start, look on, cancel, wait. Any number of
/// threads may use one. Dropping it leaves a backup that runs to itself.
#[derive(Debug)]
pub struct Runner {
    repository: Repository,
    job: Mutex<Job>,
}

/// The last backup that was started.
#[derive(Debug, Default)]
struct Job {
    control: Control,
    thread: Option<JoinHandle<Result<BackupReport>>>,
}

impl Runner {
    /// A runner that is idle.
    #[must_use]
    pub fn new(repository: Repository) -> Self {
        let job = Mutex::default();
        Self { repository, job }
    }

    /// Starts a backup. What nobody waited for of one that is over is forgotten.
    ///
    /// Errors: `Locked` while another one of this runner lasts; `Io`. The pin is then given up.
    pub fn start(&self, subject: Subject, options: BackupOptions) -> Result<()> {
        let mut job = self.job.lock();
        let phase = job.control.progress().phase;
        if matches!(phase, Phase::InProgress | Phase::Finalizing) {
            let place = self.repository.store().place();
            return Err(RepositoryError::Locked { place });
        }
        let control = Control::default();
        control.enter(Phase::InProgress);
        let (repository, watched) = (self.repository.clone(), control.clone());
        let thread = std::thread::Builder::new()
            .name("backup".to_owned())
            .spawn(move || backup(&repository, subject, &options, &watched))
            .map_err(RepositoryError::io("start", "the thread of a backup"))?;
        *job = Job {
            control,
            thread: Some(thread),
        };
        Ok(())
    }

    /// Where the last one that was started is; idle before the first.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.progress().phase
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.job.lock().control.progress()
    }

    /// Asks it to stop.
    pub fn cancel(&self) {
        self.job.lock().control.cancel();
    }

    /// Waits for its end. Errors: those of [`super::backup`].
    ///
    /// Returns `None` if none was started since the last wait.
    pub fn wait(&self) -> Option<Result<BackupReport>> {
        let thread = self.job.lock().thread.take()?;
        Some(thread.join().unwrap_or(Err(RepositoryError::WorkerLost)))
    }
}
