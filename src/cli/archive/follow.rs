//! Following a log: look, archive, wait, until somebody asks it to stop.
//!
//! A commit that became durable right after a look is taken with the next one. So the lag of everything
//! that a step stores is less than from the look before to the end of this step, and that is what is told.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::state::{self, Asked};
use super::{GapRow, Tally};
use crate::cli::exit::{Exit, Failure};
use crate::cli::interrupt::Interrupt;
use crate::cli::job::Audience;
use crate::cli::output;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::engine::LOG_DIR;
use crate::os::{Host, OpenMode};
use crate::repository::log::{Archiver, StepReport};
use crate::repository::{Control, RepositoryError};

/// Looks per lag: the rest of it is for reading and storing.
pub(super) const LOOKS_PER_LAG: u32 = 3;
/// How soon a request to stop is heard.
const PAUSE: Duration = Duration::from_millis(50);

/// What follows.
pub(super) struct Follower<'a> {
    pub(super) host: &'a Host,
    pub(super) dir: &'a Path,
    pub(super) place: &'a RepositoryPlace,
    pub(super) key: &'a KeyArgs,
    pub(super) archiver: &'a mut Archiver,
    pub(super) max_lag: Duration,
    pub(super) audience: Audience,
}

/// A line of `--json` for each step that stored something. The names are stable.
#[derive(Debug, Serialize)]
struct StepLine {
    message_type: &'static str,
    archived_lsn: u64,
    timestamp: Option<u64>,
    commits: u64,
    pieces: u64,
    bytes: u64,
    bytes_stored: u64,
    gaps: Vec<GapRow>,
    /// Where what is archived anew begins, if the machine was put back with its memory.
    put_back_lsn: Option<u64>,
    /// No commit of this step was durable for longer before it was settled; `null` for the first, which
    /// takes what was there.
    lag_ms: Option<u64>,
}

/// What a look came to.
enum Step {
    Done(StepReport),
    /// Nothing has happened since the last one.
    Nothing,
    /// Nobody can tell at the moment.
    Unknown,
}

/// Archives until `interrupt`, and then what is left.
///
/// Errors: what does not pass by itself.
pub(super) fn follow(
    follower: &mut Follower<'_>,
    interrupt: &Interrupt,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let clock = follower.host.clock.clone();
    let mut before = None;
    let mut trouble = String::new();
    let mut still = None;
    let mut is_doubted = false;
    loop {
        let is_last = interrupt.is_asked();
        let looked = clock.monotonic();
        match follower.step(&mut still) {
            Ok(Step::Done(report)) => {
                let done = clock.monotonic();
                let lag = before.map(|before| done.saturating_sub(before));
                follower.tell(&report, lag);
                tally.add(&report);
                before = Some(looked);
                trouble.clear();
                is_doubted = false;
            }
            // Nothing was there that could be late.
            Ok(Step::Nothing) => before = before.map(|_| looked),
            Ok(Step::Unknown) => {}
            Err(failure) if is_last || is_final(&failure, is_doubted) => return Err(failure),
            Err(failure) => {
                is_doubted = !is_passing(&failure);
                let text = failure.text();
                if trouble != text {
                    output::problem(&format!("{text}; it is tried again"));
                    trouble = text;
                }
                follower.reopen();
            }
        }
        if is_last {
            return Ok(());
        }
        let pause = follower.max_lag / LOOKS_PER_LAG;
        while clock.monotonic().saturating_sub(looked) < pause && !interrupt.is_asked() {
            clock.sleep(PAUSE.min(pause));
        }
    }
}

/// Whether what failed may work the next time, without anybody's doing: an engine that stops or starts, a
/// repository that is away or full, or was given new keys, with which it is opened again.
fn is_passing(failure: &Failure) -> bool {
    let error = failure.error.downcast_ref();
    let is_away = |error: &RepositoryError| matches!(error, RepositoryError::Store { fault, .. } if fault.may_pass());
    failure.exit == Exit::Failed
        || error.is_some_and(is_away)
        || failure.exit == Exit::RepositoryMissing
        || matches!(error, Some(RepositoryError::KeysChanged { .. }))
}

/// Whether there is no use in trying again. What looks like damage, or another archiver, may be a moment in which
/// a directory is exchanged or the other one ends: that counts when it comes the second time.
fn is_final(failure: &Failure, is_doubted: bool) -> bool {
    let may_pass = matches!(failure.exit, Exit::Corrupt | Exit::InUse);
    !is_passing(failure) && (is_doubted || !may_pass)
}

impl Follower<'_> {
    /// One look, and what it finds archived. `still` is what lay there at the last look without an engine.
    fn step(&mut self, still: &mut Option<Vec<(String, u64)>>) -> Result<Step, Failure> {
        let there = self.segments();
        if still.is_some() && *still == there && self.is_engineless() {
            return Ok(Step::Nothing);
        }
        *still = None;
        let (state, is_still) = match state::ask(self.host, self.dir)? {
            Asked::Engine(state) => (state, false),
            Asked::Still(state) => (state, true),
            Asked::Busy => return Ok(Step::Unknown),
        };
        let report = self.archiver.step(&state, &Control::default())?;
        if is_still {
            *still = there;
        }
        Ok(Step::Done(report))
    }

    fn is_engineless(&self) -> bool {
        !crate::engine::is_held_by_engine(self.host, self.dir)
    }

    /// Names and sizes of the segments. An engine makes a new one when it starts.
    fn segments(&self) -> Option<Vec<(String, u64)>> {
        let disk = &*self.host.disk;
        let folder = self.dir.join(LOG_DIR);
        let names = disk.list(&folder).unwrap_or_default();
        let sized = names.into_iter().map(|name| {
            let file = disk.open(&folder.join(&name), OpenMode::Read);
            let bytes = file.and_then(|file| file.len()).ok()?;
            Some((name.to_string_lossy().into_owned(), bytes))
        });
        sized.collect()
    }

    /// After trouble: a handle on which a sync failed writes nothing any more.
    fn reopen(&mut self) {
        if let Ok(repository) = self.key.open(self.host, self.place) {
            self.archiver.reopen(repository);
        }
    }

    fn tell(&self, report: &StepReport, lag: Option<Duration>) {
        if report.pieces == 0 && report.gaps.is_empty() && report.put_back.is_none() {
            return;
        }
        if let Some(lag) = lag.filter(|lag| *lag > self.max_lag) {
            tracing::warn!(
                lag_ms = lag.as_millis(),
                "the archive is behind: commits were in it later than --max-lag"
            );
        }
        if self.audience != Audience::Programs {
            return;
        }
        output::json_line(&StepLine {
            message_type: "progress",
            archived_lsn: report.archived.0,
            timestamp: report.last_commit.map(|commit| commit.timestamp.0),
            commits: report.commits,
            pieces: report.pieces,
            bytes: report.bytes,
            bytes_stored: report.bytes_stored,
            gaps: report.gaps.iter().map(GapRow::of).collect(),
            put_back_lsn: report.put_back.map(|first| first.0),
            lag_ms: lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
        });
    }
}
