//! What all jobs do at their begin and at their end.

use crate::repository::error::Result;
use crate::repository::progress::{Control, Phase};

/// Runs `job` so that whoever looks on sees that it began, and how it ended.
pub(super) fn watched<T>(control: &Control, job: impl FnOnce() -> Result<T>) -> Result<T> {
    control.enter(Phase::InProgress);
    let result = job();
    control.enter(match result {
        Ok(_) => Phase::Completed,
        Err(_) => Phase::Failed,
    });
    result
}
