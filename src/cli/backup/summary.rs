//! What is said of a backup when it is done.

use serde::Serialize;

use crate::amount::Many;
use crate::cli::exit::Exit;
use crate::cli::listing;
use crate::cli::omitted::{Omitted, OmittedRow};
use crate::cli::output;
use crate::cli::repository_place::RepositoryPlace;
use crate::repository::backup::BackupReport;
use crate::repository::{BackupFacts, LeftOutFact};

/// The last line of `--json`. The names are stable, those of the facts too.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    message_type: &'static str,
    exit: u8,
    repository: String,
    /// Why `auto` took the kind that it took.
    why: &'static str,
    backup: &'a BackupFacts,
}

/// Tells of the backup; the exit code for it.
pub(super) fn tell(report: &BackupReport, place: &RepositoryPlace, is_json: bool) -> Exit {
    let facts = &report.facts;
    let exit = omitted(&facts.left_out).tell_of("backup");
    match is_json {
        true => output::json_line(&Summary {
            message_type: "summary",
            exit: exit.code(),
            repository: place.text(),
            why: report.why,
            backup: facts,
        }),
        false => lines(report).iter().for_each(|line| output::line(line)),
    }
    exit
}

/// What nobody asked to leave out.
fn omitted(left_out: &[LeftOutFact]) -> Omitted {
    let unwanted = left_out.iter().filter(|fact| !fact.is_wanted);
    let rows: Vec<OmittedRow> = unwanted
        .map(|fact| OmittedRow {
            path: fact.path.clone(),
            reason: fact.reason.clone(),
        })
        .collect();
    Omitted {
        count: rows.len() as u64,
        rows,
    }
}

fn lines(report: &BackupReport) -> Vec<String> {
    let BackupReport { facts, why } = report;
    let took = &facts.statistics;
    let kind = listing::kind(facts.kind);
    let mut lines = vec![format!("backup {} ({kind}: {why})", facts.id)];
    let files = Many(took.files, "file");
    let databases = Many(facts.databases.len() as u64, "database");
    let shown = listing::when(facts.moment_ns);
    lines.push(format!(
        "holds   {} in {files}, {databases} among them, as of {shown} UTC",
        output::bytes(took.bytes)
    ));
    lines.push(format!(
        "read    {} in {}",
        output::bytes(took.bytes_read),
        listing::rate(took.bytes_read, took.duration_ns)
    ));
    lines.push(format!(
        "stored  {} for {} that the repository did not have",
        output::bytes(took.bytes_stored),
        output::bytes(took.bytes_new)
    ));
    let wanted = facts.left_out.iter().filter(|fact| fact.is_wanted).count();
    if wanted > 0 {
        lines.push(format!("left out as asked: {wanted}"));
    }
    lines
}
