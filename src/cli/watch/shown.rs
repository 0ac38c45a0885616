//! Sources and repositories as they are shown. The names are stable.

use std::time::Duration;

use serde::Serialize;

use super::Expected;
use super::alert::Alert;
use super::record::Record;
use crate::repository::AuditEvent;

/// How many errors of a repository are shown.
const ERRORS_MAX: usize = 5;

/// How well one source is protected.
#[derive(Debug, Serialize)]
pub(crate) struct SourceShown {
    pub(crate) name: String,
    pub(crate) source: String,
    pub(crate) host: String,
    pub(crate) repository: String,
    /// The worst alert; `null` if all is well.
    pub(crate) state: Option<Alert>,
    pub(crate) backup_count: u64,
    /// The newest backup; `null` if there is none.
    pub(crate) backup: Option<String>,
    /// The moment that it shows.
    pub(crate) moment_ns: Option<u64>,
    pub(crate) finished_ns: Option<u64>,
    pub(crate) age_seconds: Option<u64>,
    pub(crate) max_age_seconds: u64,
    pub(crate) bytes: Option<u64>,
    pub(crate) bytes_stored: Option<u64>,
    pub(crate) duration_ns: Option<u64>,
    /// What it lacks and nobody asked to leave out.
    pub(crate) left_out_count: u64,
    /// When a backup of this source was last verified; `null` if none was.
    pub(crate) verified_ns: Option<u64>,
    pub(crate) verified_age_seconds: Option<u64>,
    pub(crate) is_restore_tested: bool,
    /// Runs that the audit log knows, and those of them that were done.
    pub(crate) run_count: u64,
    pub(crate) done_count: u64,
    /// Of these the share that was done; `null` without runs.
    pub(crate) success_ratio: Option<f64>,
    /// Why the last run failed, if it did.
    pub(crate) last_error: Option<ErrorShown>,
}

/// One repository.
#[derive(Debug, Serialize)]
pub(crate) struct RepositoryShown {
    pub(crate) repository: String,
    /// Why it cannot be read; `null` if it can.
    pub(crate) problem: Option<String>,
    pub(crate) repository_id: Option<String>,
    pub(crate) backup_count: u64,
    pub(crate) pack_count: u64,
    pub(crate) pack_bytes: u64,
    pub(crate) free_bytes: Option<u64>,
    /// Packs of which a verification could not read something.
    pub(crate) damaged_count: u64,
    /// Lines of the audit log that cannot be read; an object that is damaged counts as one.
    pub(crate) unreadable_lines: u64,
    /// The newest first.
    pub(crate) last_errors: Vec<ErrorShown>,
}

/// A command that failed.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorShown {
    pub(crate) command: String,
    pub(crate) at_ns: u64,
    pub(crate) exit: u8,
    pub(crate) message: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) path: Option<String>,
}

impl ErrorShown {
    fn of(event: &AuditEvent) -> Self {
        Self {
            command: event.command.clone(),
            at_ns: event.finished_ns,
            exit: event.exit,
            message: event.message.clone(),
            user: event.user.clone(),
            path: event.path.clone(),
        }
    }
}

impl SourceShown {
    pub(super) fn of(expected: &Expected, record: &Record, now_ns: u64) -> Self {
        let (path, host) = (expected.path.as_str(), expected.host.as_str());
        let age = |ns: u64| Duration::from_nanos(now_ns.saturating_sub(ns)).as_secs();
        let newest = record
            .of(path, host)
            .next_back()
            .map(|backup| &backup.facts);
        let verified = record
            .of(path, host)
            .filter_map(|backup| backup.verified.as_ref());
        let verified = verified.max_by_key(|verified| verified.at_ns);
        let verified_ns = record.verified_ns(path, host);
        let run_count = record.runs(path, host).count() as u64;
        let done_count = record.runs(path, host).filter(|run| run.is_done()).count() as u64;
        let last = record.runs(path, host).next_back();
        Self {
            name: expected.name.clone(),
            source: path.to_owned(),
            host: host.to_owned(),
            repository: expected.place.text(),
            state: None,
            backup_count: record.of(path, host).count() as u64,
            backup: newest.map(|facts| facts.id.to_string()),
            moment_ns: newest.map(|facts| facts.moment_ns),
            finished_ns: newest.map(|facts| facts.finished_ns),
            age_seconds: newest.map(|facts| age(facts.moment_ns)),
            max_age_seconds: expected.rule.max_age.as_secs(),
            bytes: newest.map(|facts| facts.statistics.bytes),
            bytes_stored: newest.map(|facts| facts.statistics.bytes_stored),
            duration_ns: newest.map(|facts| facts.statistics.duration_ns),
            left_out_count: newest.map_or(0, |facts| {
                let unwanted = facts.left_out.iter().filter(|fact| !fact.is_wanted);
                unwanted.count() as u64
            }),
            verified_ns,
            verified_age_seconds: verified_ns.map(age),
            is_restore_tested: verified.is_some_and(|verified| verified.is_restore_tested),
            run_count,
            done_count,
            success_ratio: ratio(done_count, run_count),
            last_error: last.filter(|run| !run.is_done()).map(ErrorShown::of),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a log has some thousand lines at most"
)]
fn ratio(done: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| done as f64 / all as f64)
}

impl RepositoryShown {
    pub(super) fn of(record: &Record) -> Self {
        let failed = record
            .log
            .events
            .iter()
            .rev()
            .filter(|event| !event.is_done());
        Self {
            repository: record.place.clone(),
            problem: record.problem.clone(),
            repository_id: record.id.clone(),
            backup_count: (record.backups.len() + record.unreadable.len()) as u64,
            pack_count: record.pack_count,
            pack_bytes: record.pack_bytes,
            free_bytes: record.free_bytes,
            damaged_count: record.damaged_count,
            unreadable_lines: record.log.unreadable,
            last_errors: failed.take(ERRORS_MAX).map(ErrorShown::of).collect(),
        }
    }
}
