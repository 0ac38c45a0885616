//! `stillfs archive`: the log of a database in the repository, commit after commit.
//!
//! Runs in its own process, beside the engine or without one. The engine is asked how far its log is
//! durable; without one what it left is made durable first (LA1).

mod follow;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::amount::Many;
use crate::cli::audit::Note;
use crate::cli::bounds;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::interrupt::Interrupt;
use crate::cli::job::{self, Audience};
use crate::cli::mount::absolute;
use crate::cli::output;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::lsn::Lsn;
use crate::os::{Host, priority};
use crate::repository::Control;
use crate::repository::log::{Archiver, LogGap, StepReport};

/// Arguments of `stillfs archive`.
#[derive(Debug, Args)]
#[command(after_help = "\
Takes the log of a stillfs database into the repository, so that a restore can go on from a backup
to any commit. Without --follow it takes what is durable at the moment, and ends. With it it goes
on, over restarts of the engine, until SIGTERM or Ctrl-C; then it takes the rest. A backup of the
same repository may run at the same time.

From the first run on the engine keeps log until it is archived, within serve --wal-limit; what had
to go before is a gap, which is recorded, and the next backup of type auto is full. To end that,
remove DIR/archive.

Exits 0; 3 if there is a gap, which is named, or if the machine was put back with its memory, so
that its log is not what was archived of it (that is noticed, and archived anew); 11 if the same log
is archived by another process, another copy of the database was archived there meanwhile, or the
directory is in use by an engine that answers no questions; 12 if the log is damaged. --json prints
lines, of which message_type says what they are: progress, and at the end summary or error.

Examples:
  stillfs archive /var/lib/app --repo /backup/app
  stillfs archive /var/lib/app --repo /backup/app --follow --max-lag 10s")]
pub(crate) struct ArchiveArgs {
    /// Directory of the database
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The repository: a directory, which is made if it is not there
    #[arg(long, value_name = "REPO", env = "STILLFS_REPO")]
    pub(crate) repo: RepositoryPlace,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Go on until told to stop
    #[arg(long)]
    follow: bool,
    /// How long after a commit is durable it may take until it is in the repository: a number with s, m
    /// or h
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = bounds::max_lag, requires = "follow")]
    max_lag: Duration,
    /// Print lines of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// No step rests for longer, so that a request to stop is heard.
const LEISURE_MAX: Duration = Duration::from_secs(4);

/// What was archived so far. The names are stable.
#[derive(Debug, Default, Serialize)]
struct Tally {
    database: Option<String>,
    history: Option<String>,
    /// Everything before it is in the repository.
    archived_lsn: Option<u64>,
    /// The newest commit that is.
    timestamp: Option<u64>,
    wall_ns: Option<u64>,
    commits: u64,
    pieces: u64,
    bytes: u64,
    bytes_stored: u64,
    gaps: Vec<GapRow>,
    /// Where what is archived anew begins, if the machine was put back with its memory.
    put_back_lsn: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
struct GapRow {
    first_lsn: u64,
    end_lsn: u64,
}

/// The last line of `--json`. The names are stable.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    message_type: &'static str,
    exit: u8,
    #[serde(flatten)]
    tally: &'a Tally,
}

pub(crate) fn run(args: &ArchiveArgs, note: &mut Note) -> Outcome {
    let host = Host::system();
    let dir = absolute(&args.dir)?;
    let place = args.repo.real();
    if place.overlaps(&RepositoryPlace::Folder(dir.clone())) {
        return Err(Failure::usage(anyhow::anyhow!(
            "{} and {} are one place, or one lies in the other",
            output::path(&dir),
            place
        )));
    }
    let interrupt = Interrupt::listen()?;
    state::refuse_other(&host, &dir)?;
    let repository = args.key.open_or_create(&host, &place)?;
    let mut archiver = Archiver::new(&host, &dir, repository);
    if args.follow {
        // Whoever commits is waited for as long as the lag leaves time.
        let leisure = args.max_lag / follow::LOOKS_PER_LAG;
        archiver = archiver.with_leisure(leisure.min(LEISURE_MAX));
        priority::stand_back();
    }
    let mut tally = Tally::default();
    let outcome = match args.follow {
        true => follow::follow(
            &mut follow::Follower {
                host: &host,
                dir: &dir,
                place: &place,
                key: &args.key,
                archiver: &mut archiver,
                max_lag: args.max_lag,
                audience: Audience::of(args.json),
            },
            &interrupt,
            &mut tally,
        ),
        false => {
            let state = state::ask_patiently(&host, &dir, &interrupt)?;
            let control = Control::default();
            let audience = Audience::of(args.json);
            let work = || archiver.step(&state, &control);
            let report = job::run("archive", audience, &interrupt, &control, work);
            report.map(|report| tally.add(&report))
        }
    };
    if outcome.is_err() {
        // They are recorded, so that no later step finds them anew.
        archiver.untold().iter().for_each(tell_gap);
        archiver.untold_put_back().iter().for_each(tell_put_back);
    }
    outcome?;
    note.is_idle = tally.pieces == 0 && tally.gaps.is_empty();
    Ok(tell(&tally, args.json))
}

/// Tells what it came to, and gives the exit code.
fn tell(tally: &Tally, is_json: bool) -> Exit {
    let exit = match tally.gaps.is_empty() && tally.put_back_lsn.is_none() {
        true => Exit::Done,
        false => Exit::LeftOut,
    };
    if is_json {
        output::json_line(&Summary {
            message_type: "summary",
            exit: exit.code(),
            tally,
        });
        return exit;
    }
    output::line(&format!(
        "archived {} in {}: {} of log, {} stored; up to LSN {}",
        Many(tally.commits, "commit"),
        Many(tally.pieces, "piece"),
        output::bytes(tally.bytes),
        output::bytes(tally.bytes_stored),
        tally.archived_lsn.unwrap_or_default()
    ));
    exit
}

impl Tally {
    fn add(&mut self, report: &StepReport) {
        self.database = Some(report.line.database.to_string());
        self.history = Some(report.line.history.to_string());
        self.archived_lsn = Some(report.archived.0);
        if let Some(commit) = report.last_commit {
            self.timestamp = Some(commit.timestamp.0);
            self.wall_ns = Some(commit.wall_ns);
        }
        self.commits += report.commits;
        self.pieces += report.pieces;
        self.bytes += report.bytes;
        self.bytes_stored += report.bytes_stored;
        if let Some(first) = report.put_back {
            tell_put_back(&first);
            self.put_back_lsn = Some(first.0);
        }
        for gap in &report.gaps {
            tell_gap(gap);
            self.gaps.push(GapRow::of(gap));
        }
    }
}

impl GapRow {
    fn of(gap: &LogGap) -> Self {
        Self {
            first_lsn: gap.first.0,
            end_lsn: gap.end.0,
        }
    }
}

fn tell_put_back(first: &Lsn) {
    output::problem(&format!(
        "the log is not the one that was archived: the machine was put back to an earlier state with its memory, or \
         is a copy of another one that runs. From LSN {first} on it is archived anew, and commits that were archived \
         before and are not in it do not count any more; the next backup of type auto is full"
    ));
}

fn tell_gap(gap: &LogGap) {
    output::problem(&format!(
        "the log from LSN {} to {} was gone before it was archived: no restore to a moment in it; the next \
         backup of type auto is full",
        gap.first, gap.end
    ));
}
