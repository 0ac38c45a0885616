//! `stillfs check`: every structure of a database is walked through, and nothing is changed.
//!
//! Runs in its own process, on a stopped database, a copy, a mount, or a pin of a running engine.
//! The log is replayed in memory, so damage there is found too. What is checked is one committed
//! state: every page that belongs to it, and both copies of the header.

mod finding;
mod sqlite;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::exit::{Exit, Failure, Outcome};
use super::output;
use crate::amount::Many;
use crate::database::{Engine, Header, Totals};
use crate::engine::error::{EngineError, ErrorKind, FileRole};
use crate::engine::header::HeaderState;
use crate::lsn::Lsn;
use crate::os::{self, Host};
use crate::page::{self, PageFault, PageNo};
use crate::source::SourceError;
use crate::source::still::{self, StillDatabase, StillKind};
use finding::FindingRow;

/// Look for damage in a database
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exits 0 if nothing is wrong, 12 if something is damaged, 13 if the pin was lost meanwhile, 3 if an
SQLite file could not be checked because it is encrypted.

SQLite databases are checked by SQLite's own integrity_check, in a view of the moment, so that no
writer waits; rows that break a foreign key are told in a note.

Examples:
  stillfs check /var/lib/app          running: by a pin of its own
  stillfs check /var/lib/app/app.db   an SQLite database, running or a copy
  stillfs check /mnt/still --json     a mount, for programs
  stillfs check backup/               a copy")]
pub(crate) struct CheckArgs {
    /// A database: its directory (an engine may run on it), a mount, a copy, a data.pages file, or an
    /// SQLite file
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a check says. With `--json` these names are stable.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing is wrong.
    ok: bool,
    /// The exit code.
    exit: u8,
    /// What was checked.
    path: String,
    /// How it was opened; null where it could not be.
    kind: Option<StillKind>,
    /// The commit that was checked; like the next three null where nothing could be opened.
    timestamp: Option<u64>,
    lsn: Option<u64>,
    page_size: Option<u64>,
    page_count: Option<u64>,
    totals: Option<TotalsRow>,
    /// How many findings there are; at most 1000 are listed.
    finding_count: u64,
    findings: Vec<FindingRow>,
    /// What is no damage but worth knowing.
    notes: Vec<String>,
    /// The SQLite databases that were checked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    databases: Vec<sqlite::DatabaseRow>,
}

/// What was walked through.
#[derive(Clone, Copy, Debug, Serialize)]
struct TotalsRow {
    tables: u64,
    entries: u64,
    key_bytes: u64,
    value_bytes: u64,
    leaf_pages: u64,
    inner_pages: u64,
    overflow_pages: u64,
    trunk_pages: u64,
    free_pages: u64,
    unreached_pages: u64,
}

/// Checks the database at the path.
///
/// `Done` or `Corrupt`. Errors: those of opening it, but damage is a report; `PinLost` if the pin
/// ended before all was read.
pub(crate) fn run(args: &CheckArgs) -> Outcome {
    let host = Host::system();
    if let Some(target) = sqlite::Target::of(&host, &args.path)? {
        let (report, exit) = target.check(&args.path)?;
        report.print(args.json);
        return Ok(exit);
    }
    let report = match still::open(&host, &args.path, "stillfs check") {
        Ok(still) => {
            let report = check(&still, &args.path)?;
            still.release()?;
            report
        }
        Err(SourceError::Engine(error)) if error.kind() == ErrorKind::Corrupt => {
            Report::unopened(&args.path, FindingRow::of_error(&error, None))
        }
        Err(error) => return Err(error.into()),
    };
    report.print(args.json);
    Ok(if report.ok { Exit::Done } else { Exit::Corrupt })
}

/// What is wrong with the restored database of ours at `path`, which nobody else has open: its first
/// finding, and how many more.
///
/// Errors: those of opening it that are no damage.
pub(super) fn problem_of_native(host: &Host, path: &Path) -> Result<Option<String>, Failure> {
    let report = match still::open(host, path, "stillfs restore") {
        Ok(still) => {
            let report = check(&still, path)?;
            still.release()?;
            report
        }
        Err(SourceError::Engine(error)) if error.kind() == ErrorKind::Corrupt => {
            Report::unopened(path, FindingRow::of_error(&error, None))
        }
        Err(error) => return Err(error.into()),
    };
    Ok(first_of(&report.findings, report.finding_count))
}

/// The same of an SQLite file. One that is encrypted can be checked by its own application only.
///
/// Errors: if SQLite cannot be asked.
pub(super) fn problem_of_sqlite(host: &Host, path: &Path) -> Result<Option<String>, Failure> {
    let findings = sqlite::findings_of_still_file(host, path)?;
    Ok(first_of(&findings, findings.len() as u64))
}

fn first_of(findings: &[FindingRow], count: u64) -> Option<String> {
    let first = findings.first()?.to_string();
    Some(match count.saturating_sub(1) {
        0 => first,
        more => format!("{first}, and {} more", Many(more, "finding")),
    })
}

/// Walks through `still`. Errors: `PinLost` if its pin ended before all was read.
fn check(still: &StillDatabase, path: &Path) -> Result<Report, Failure> {
    let engine = still.engine();
    let walked = engine.check()?;
    let damaged_copies = damaged_header_copies(engine)?;
    // What was found after a pin ended says nothing about the database.
    still.look()?;
    let mut findings: Vec<_> = walked.findings.iter().map(FindingRow::of_walk).collect();
    let mut notes = Vec::new();
    let mut finding_count = walked.finding_count;
    if engine.header().state == HeaderState::Clean {
        finding_count += damaged_copies.len() as u64;
        findings.splice(0..0, damaged_copies);
    } else {
        // The copy that was being written when the machine stopped; the next start writes both.
        let note = |copy: &FindingRow| format!("{copy}; the other copy of the header counts");
        notes.extend(damaged_copies.iter().map(note));
    }
    let stats = engine.stats();
    let mut report = Report {
        ok: true,
        exit: Exit::Done as u8,
        path: path.display().to_string(),
        kind: Some(still.kind()),
        timestamp: Some(stats.timestamp),
        lsn: Some(stats.lsn),
        page_size: Some(stats.page_size),
        page_count: Some(stats.page_count),
        totals: Some(walked.totals.into()),
        finding_count,
        findings,
        notes,
        databases: Vec::new(),
    };
    report.judge();
    Ok(report)
}

/// The walk leaves the two header pages out, and opening is content with one of them.
fn damaged_header_copies(engine: &Engine) -> Result<Vec<FindingRow>, Failure> {
    let mut damaged = Vec::new();
    let mut bytes = vec![0; engine.page_size().bytes()];
    for copy in [PageNo(0), PageNo(1)] {
        let offset = copy.0 * u64::from(engine.page_size().get());
        let checked = match os::read_up_to(&**engine.live_file(), &mut bytes, offset) {
            Ok(found) if found < bytes.len() => Err(PageFault::Short { found }),
            Ok(_) => page::check(&bytes, copy, Lsn::MAX),
            Err(source) => {
                let error = EngineError::Io {
                    op: "read",
                    file: FileRole::PageFile,
                    path: Some(engine.data_path().to_owned()),
                    source,
                };
                damaged.push(FindingRow::of_error(&error, Some(copy)));
                continue;
            }
        };
        match checked {
            Err(fault) => damaged.push(FindingRow::of_page(copy, &fault)),
            Ok(()) => damaged.extend(
                Header::decode(&bytes)
                    .err()
                    .map(|fault| FindingRow::of_header(copy, fault)),
            ),
        }
    }
    Ok(damaged)
}

impl Report {
    /// Of a database that is too damaged to be opened.
    fn unopened(path: &Path, finding: FindingRow) -> Self {
        let mut report = Self {
            ok: false,
            exit: Exit::Corrupt as u8,
            path: path.display().to_string(),
            kind: None,
            timestamp: None,
            lsn: None,
            page_size: None,
            page_count: None,
            totals: None,
            finding_count: 1,
            findings: vec![finding],
            notes: Vec::new(),
            databases: Vec::new(),
        };
        report.judge();
        report
    }

    fn print(&self, is_json: bool) {
        if is_json {
            output::json(self);
        } else {
            self.lines().iter().for_each(|line| output::line(line));
        }
    }

    fn judge(&mut self) {
        self.ok = self.finding_count == 0;
        self.exit = if self.ok { Exit::Done } else { Exit::Corrupt } as u8;
    }

    /// For people.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.kind.map(|kind| match kind {
            StillKind::Pinned if !self.databases.is_empty() => {
                format!("{}: a view of this moment", self.path)
            }
            StillKind::Pinned => format!("{}: a pin of the running engine", self.path),
            _ => format!("{}: as it lies on disk", self.path),
        }));
        if let (Some(timestamp), Some(lsn)) = (self.timestamp, self.lsn) {
            lines.push(format!("commit {timestamp} at LSN {lsn}"));
        }
        // Each of several databases says so itself.
        if let (Some(size), Some(count), true) =
            (self.page_size, self.page_count, self.databases.is_empty())
        {
            lines.push(format!("{count} pages of {size} bytes"));
        }
        lines.extend(self.totals.iter().flat_map(TotalsRow::lines));
        lines.extend(self.databases.iter().map(sqlite::DatabaseRow::line));
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines.extend(
            self.findings
                .iter()
                .map(|finding| format!("damaged: {finding}")),
        );
        let unlisted = self.finding_count - self.findings.len() as u64;
        if unlisted > 0 {
            lines.push(format!("... and {unlisted} more findings"));
        }
        lines.push(match self.finding_count {
            0 => "ok".to_owned(),
            count => format!("{} is damaged: {}", self.path, Many(count, "finding")),
        });
        lines
    }
}

impl TotalsRow {
    fn lines(&self) -> [String; 2] {
        let Self {
            tables,
            entries,
            key_bytes,
            value_bytes,
            leaf_pages,
            inner_pages,
            overflow_pages,
            trunk_pages,
            free_pages,
            unreached_pages,
        } = self;
        [
            format!(
                "{}, {}, {} of keys, {} of values",
                Many(*tables, "table"),
                Many(*entries, "entry"),
                Many(*key_bytes, "byte"),
                Many(*value_bytes, "byte"),
            ),
            format!(
                "pages: {leaf_pages} leaves, {inner_pages} inner, {overflow_pages} overflow, \
                 {trunk_pages} trunks, {free_pages} free, {unreached_pages} unreached"
            ),
        ]
    }
}

impl From<Totals> for TotalsRow {
    fn from(totals: Totals) -> Self {
        Self {
            tables: totals.table_count,
            entries: totals.entry_count,
            key_bytes: totals.key_bytes,
            value_bytes: totals.value_bytes,
            leaf_pages: totals.leaf_pages,
            inner_pages: totals.inner_pages,
            overflow_pages: totals.overflow_pages,
            trunk_pages: totals.trunk_pages,
            free_pages: totals.free_pages,
            unreached_pages: totals.unreached_pages,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;
    use crate::database::{Database, EngineOptions, PinServing, SHADOW_DIR};

    fn database(dir: &Path) -> Database {
        let database = Database::open(dir, &EngineOptions::default(), PinServing::On).unwrap();
        let mut write = database.begin_write().unwrap();
        for number in 0..2000_u32 {
            write.put("t", &number.to_be_bytes(), &[7; 100]).unwrap();
        }
        write.commit().unwrap();
        database
    }

    fn open(dir: &Path) -> StillDatabase {
        still::open(&Host::system(), dir, "test").unwrap()
    }

    #[test]
    fn running_database_is_checked_through_a_pin_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        let still = open(dir.path());
        let mut write = database.begin_write().unwrap();
        write.clear("t").unwrap();
        write.commit().unwrap();
        database.checkpoint().unwrap();
        let report = check(&still, dir.path()).unwrap();
        assert!(report.ok, "{:?}", report.findings);
        assert_eq!(report.kind, Some(StillKind::Pinned));
        assert_eq!(report.totals.map(|totals| totals.entries), Some(2000));
        still.release().unwrap();
        assert_eq!(database.stats().pins, 0);
    }

    /// Whatever a reader of an ended pin meets is no damage of the database, and no proof that there
    /// is none.
    #[test]
    fn pin_that_ended_meanwhile_is_neither_clean_nor_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let _database = database(dir.path());
        let still = open(dir.path());
        let names = std::fs::read_dir(dir.path().join(SHADOW_DIR)).unwrap();
        let pins = names.map(|name| name.unwrap().path());
        let pins: Vec<_> = pins
            .filter(|path| path.extension().is_some_and(|end| end == "pin"))
            .collect();
        assert_eq!(pins.len(), 1);
        let index = std::fs::OpenOptions::new().write(true).open(&pins[0]);
        index.unwrap().set_len(0).unwrap();
        assert_eq!(check(&still, dir.path()).unwrap_err().exit, Exit::PinLost);
    }

    #[test]
    fn damaged_file_is_named_once() {
        use crate::engine::error::{HeaderFault, LogFault};
        let (path, at) = (PathBuf::from("/d/f"), Lsn(7));
        let (segment, fault) = (path.clone(), LogFault::SegmentHeader);
        let log = EngineError::Log { segment, at, fault };
        let fault = HeaderFault::Magic;
        for error in [EngineError::Header { path, fault }, log] {
            let line = FindingRow::of_error(&error, None).to_string();
            assert!(line.starts_with("/d/f: "), "{line}");
            assert_eq!(line.matches("/d/f").count(), 1, "{line}");
        }
    }

    #[test]
    fn report_names_file_page_and_expectation() {
        let fault = PageFault::Checksum {
            expected: 1,
            found: 2,
        };
        let row = FindingRow::of_page(PageNo(7), &fault);
        let report = Report::unopened(Path::new("/d"), row);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["ok"], &json["exit"]), (&false.into(), &12.into()));
        let finding = &json["findings"][0];
        assert_eq!(finding["file"], "data.pages");
        assert_eq!(finding["page"], 7);
        assert_eq!(finding["problem"], "checksum");
        assert_eq!(finding["expected"], "00000001");
        assert_eq!(finding["found"], "00000002");
        let text = report.lines().join("\n");
        assert!(
            text.contains("damaged: data.pages page 7: checksum 00000002"),
            "{text}"
        );
    }
}
