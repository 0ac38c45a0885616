//! What a repository has of logs, as `stillfs backups` lists it.

use serde::Serialize;

use crate::amount::Many;
use crate::cli::listing;
use crate::repository::log::{CoveredRun, LogCatalog, LogLine};

/// The log of one history of one database. The names are stable.
#[derive(Debug, Serialize)]
pub(super) struct LogRow {
    database: String,
    history: String,
    /// The history that it forked from.
    parent: Option<String>,
    /// What is covered without a hole: a restore can go on to any commit in it.
    covered: Vec<RunRow>,
    gap_count: u64,
}

#[derive(Debug, Serialize)]
struct RunRow {
    first_lsn: u64,
    end_lsn: u64,
    first_timestamp: Option<u64>,
    last_timestamp: Option<u64>,
    /// Wall clock of the first commit, and of the last.
    from_ns: Option<u64>,
    until_ns: Option<u64>,
    bytes_stored: u64,
}

/// Those of all lines.
pub(super) fn rows(catalog: &LogCatalog) -> Vec<LogRow> {
    catalog.lines().map(LogRow::of).collect()
}

impl LogRow {
    fn of(line: &LogLine) -> Self {
        Self {
            database: line.id.database.to_string(),
            history: line.id.history.to_string(),
            parent: line.fork.map(|fork| fork.history.to_string()),
            covered: line.runs.iter().map(RunRow::of).collect(),
            gap_count: line.gaps.len() as u64,
        }
    }

    /// A line for each run, for people.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.covered.iter().map(|run| {
            let numbers = run.first_timestamp.zip(run.last_timestamp);
            let times = run.from_ns.zip(run.until_ns);
            let commits = match numbers.zip(times) {
                Some(((first, last), (from, until))) => format!(
                    "commits {first} to {last}, {} to {}",
                    listing::when(from),
                    listing::when(until)
                ),
                None => "no commit yet".to_owned(),
            };
            let gaps = match self.gap_count {
                0 => String::new(),
                count => format!("; {}", Many(count, "gap")),
            };
            format!("log of history {}: {commits}{gaps}", self.history)
        })
    }
}

impl RunRow {
    fn of(run: &CoveredRun) -> Self {
        let (first, last) = (run.first_commit, run.last_commit);
        Self {
            first_lsn: run.first.0,
            end_lsn: run.end.0,
            first_timestamp: first.map(|commit| commit.timestamp.0),
            last_timestamp: last.map(|commit| commit.timestamp.0),
            from_ns: first.map(|commit| commit.wall_ns),
            until_ns: last.map(|commit| commit.wall_ns),
            bytes_stored: run
                .pieces
                .iter()
                .map(|part| part.facts.object_bytes())
                .sum(),
        }
    }
}
