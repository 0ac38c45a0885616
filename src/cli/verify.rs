//! `stillfs verify`: whether backups are what they say. It says exactly what was looked at, and no more.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::amount::Many;
use crate::cli::audit::Note;
use crate::cli::examiner::Examiner;
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::interrupt::Interrupt;
use crate::cli::job::{self, Audience};
use crate::cli::nesting;
use crate::cli::output;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::os::Host;
use crate::repository::{
    BackupId, Control, Depth, Repository, RestoreTest, VerifyFinding, VerifyOptions, VerifyReport,
    verify,
};

/// Where a restore test works, unless asked otherwise.
const SCRATCH: &str = "/var/tmp";

/// Arguments of `stillfs verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without an option manifests and the directories of the packs are read and compared, which is fast
and finds what is missing, cut or exchanged; no content is read. Only --read-data reads every byte,
and only then a backup is called verified. --restore-test besides restores each backup, opens its
databases and walks them, which finds what was damaged before it was backed up. Needs no lock:
backups may go on meanwhile.

Exits 0 if nothing is wrong, 12 with findings: which object, what is wrong, which backups and files
it spoils. --json prints lines, of which message_type says what they are: progress, summary, error.

Examples:
  stillfs verify /backup/app
  stillfs verify /backup/app --read-data                   every byte of every backup
  stillfs verify /backup/app --sample 5%                   for every day; --read-data for every week
  stillfs verify /backup/app latest --read-data --restore-test --scratch /mnt/large")]
pub(crate) struct VerifyArgs {
    /// The repository: a directory, or s3://BUCKET/PREFIX
    pub(crate) repo: RepositoryPlace,
    /// A backup: its name, the beginning of it, or latest [default: all]
    backup: Option<String>,
    /// Read every byte and check it
    #[arg(long)]
    read_data: bool,
    /// Read a share of the content, drawn at random: 5%, or 0.5%
    #[arg(long, value_name = "SHARE", value_parser = share, conflicts_with = "read_data")]
    sample: Option<f64>,
    /// Restore each backup into a scratch folder, and open and walk its databases
    #[arg(long)]
    restore_test: bool,
    /// Where --restore-test restores to [default: $TMPDIR, else /var/tmp]
    #[arg(long, value_name = "DIR", requires = "restore_test")]
    scratch: Option<PathBuf>,
    /// Print lines of JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
}

/// The last line of `--json`. The names are stable.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    message_type: &'static str,
    exit: u8,
    /// Whether nothing is wrong.
    ok: bool,
    repository: String,
    /// `structure`, `sample` or `read_data`.
    depth: &'static str,
    is_restore_tested: bool,
    backup_count: u64,
    pack_count: u64,
    log_piece_count: u64,
    bytes_read: u64,
    /// Backups of which every byte was read back and checked.
    verified: &'a [BackupId],
    findings: Vec<FindingRow<'a>>,
    notes: &'a [String],
}

#[derive(Debug, Serialize)]
struct FindingRow<'a> {
    object: &'a str,
    what: &'a str,
    backups: &'a [BackupId],
    paths: Vec<String>,
}

pub(crate) fn run(args: &VerifyArgs, note: &mut Note) -> Outcome {
    let host = Host::system();
    let repository = args.key.open(&host, &args.repo)?;
    let backup = args.backup.as_ref().map(|name| repository.find(name));
    let backup = backup.transpose()?;
    let scratch = match &args.scratch {
        Some(scratch) => scratch.clone(),
        None => std::env::var_os("TMPDIR").map_or_else(|| SCRATCH.into(), PathBuf::from),
    };
    let scratch = scratch_outside(&scratch, &args.repo)?;
    let examiner = Examiner::new(&host);
    let options = VerifyOptions {
        backup: backup.as_ref(),
        depth: args.depth(),
        restore_test: args.restore_test.then_some(RestoreTest {
            scratch: &scratch,
            examine: &examiner,
        }),
    };
    let (interrupt, control) = (Interrupt::listen()?, Control::default());
    let work = || verify(&repository, &options, &control);
    let report = job::run(
        "verify",
        Audience::of(args.json),
        &interrupt,
        &control,
        work,
    )?;
    note.backups = report.verified.iter().map(ToString::to_string).collect();
    // Then it has changed nothing, and nobody has to know of it.
    note.is_idle = report.findings.is_empty() && args.depth() != Depth::ReadData;
    let exit = match report.findings.is_empty() {
        true => Exit::Done,
        false => Exit::Corrupt,
    };
    match args.json {
        true => output::json_line(&args.summary(&report, &repository, exit)),
        false => args
            .lines(&report)
            .iter()
            .for_each(|line| output::line(line)),
    }
    Ok(exit)
}

/// Errors: usage, for one in the repository, which is no place for other files.
fn scratch_outside(scratch: &Path, repository: &RepositoryPlace) -> Result<PathBuf, Failure> {
    let scratch = nesting::real(scratch);
    let folder = repository.folder();
    match folder.is_some_and(|folder| nesting::place_in(&scratch, folder).is_some()) {
        false => Ok(scratch),
        true => Err(Failure::usage(anyhow::anyhow!(
            "--scratch {} lies in the repository",
            output::path(&scratch)
        ))),
    }
}

impl VerifyArgs {
    fn depth(&self) -> Depth {
        match (self.read_data, self.sample) {
            (true, _) => Depth::ReadData,
            (false, Some(share)) => Depth::Sample(share),
            (false, None) => Depth::Structure,
        }
    }

    fn summary<'a>(
        &self,
        report: &'a VerifyReport,
        repository: &Repository,
        exit: Exit,
    ) -> Summary<'a> {
        let row = |finding: &'a VerifyFinding| FindingRow {
            object: &finding.object,
            what: &finding.what,
            backups: &finding.backups,
            paths: finding.paths.iter().map(|path| lossy(path)).collect(),
        };
        Summary {
            message_type: "summary",
            exit: exit.code(),
            ok: report.findings.is_empty(),
            repository: repository.store().place(),
            depth: match self.depth() {
                Depth::Structure => "structure",
                Depth::Sample(_) => "sample",
                Depth::ReadData => "read_data",
            },
            is_restore_tested: self.restore_test,
            backup_count: report.backup_count,
            pack_count: report.pack_count,
            log_piece_count: report.log_piece_count,
            bytes_read: report.bytes_read,
            verified: &report.verified,
            findings: report.findings.iter().map(row).collect(),
            notes: &report.notes,
        }
    }

    fn lines(&self, report: &VerifyReport) -> Vec<String> {
        let mut lines: Vec<String> = report.findings.iter().flat_map(told).collect();
        let notes = report.notes.iter();
        lines.extend(notes.map(|note| format!("note: {}", output::plain(note))));
        lines.push(format!(
            "{}, {}, {} of content read",
            Many(report.backup_count, "backup"),
            Many(report.pack_count, "pack"),
            output::bytes(report.bytes_read)
        ));
        lines.push(self.verdict(report));
        lines
    }

    /// The last line: what is known after this, and what is not.
    fn verdict(&self, report: &VerifyReport) -> String {
        let findings = report.findings.len() as u64;
        let checked = match (self.depth(), self.restore_test) {
            (Depth::ReadData, false) => "every byte was read back".to_owned(),
            (Depth::ReadData, true) => {
                "every byte was read back, restored, and the databases walked".to_owned()
            }
            (_, true) => "every backup was restored, and its databases walked".to_owned(),
            (Depth::Sample(share), false) => format!(
                "manifests, pack directories and a sample of {}% of the content were read, and the \
                 rest was not: --read-data reads every byte",
                (share * 1e6).round() / 1e4
            ),
            (Depth::Structure, false) => {
                "manifests and pack directories were read, and no content: \
                                          --read-data reads every byte"
                    .to_owned()
            }
        };
        let verified = report.verified.len() as u64;
        match (findings, verified == report.backup_count && verified > 0) {
            (0, true) => format!("ok: {} verified: {checked}", Many(verified, "backup")),
            (0, false) => format!("ok as far as it was looked at: {checked}"),
            (_, _) => format!("DAMAGED: {}; {checked}", Many(findings, "finding")),
        }
    }
}

fn told(finding: &VerifyFinding) -> Vec<String> {
    let what = output::plain(&finding.what);
    let mut lines = vec![format!("damaged: {}: {what}", finding.object)];
    if finding.backups.is_empty() {
        lines.push("  no backup needs it".to_owned());
    }
    let backups = finding.backups.iter();
    lines.extend(backups.map(|backup| format!("  spoils backup {backup}")));
    let paths = finding.paths.iter();
    lines.extend(paths.map(|path| format!("  spoils {}", output::path(path))));
    if finding.paths.len() >= VerifyFinding::PATHS_MAX {
        lines.push("  and perhaps more files".to_owned());
    }
    lines
}

fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Errors: what to write instead.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|text| text.parse().ok());
    number
        .filter(|percent: &f64| *percent > 0.0 && *percent <= 100.0)
        .map(|percent| percent / 100.0)
        .ok_or_else(|| "write a percentage above 0%, as 5%".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: VerifyArgs,
    }

    fn parse(words: &[&str]) -> Result<VerifyArgs, String> {
        let line = [&["verify", "/r"], words].concat();
        let line = Line::try_parse_from(line);
        line.map(|line| line.args)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!(
            parse(&["--sample", "5%"]).unwrap().depth(),
            Depth::Sample(0.05)
        );
        assert_eq!(
            parse(&["--sample", "100%"]).unwrap().depth(),
            Depth::Sample(1.0)
        );
        for text in ["5", "0%", "101%", "-1%", "%", "NaN%", "inf%"] {
            let error = parse(&[&format!("--sample={text}")]).unwrap_err();
            assert!(error.contains("percentage"), "{text}: {error}");
        }
        parse(&["--sample", "5%", "--read-data"]).unwrap_err();
        parse(&["--scratch", "/tmp"]).unwrap_err();
    }

    /// BK10: nobody is told that what was not read is right.
    #[test]
    fn last_line_says_what_was_read_and_no_more() {
        let id: BackupId = "20261120T190729Z-1f3a5c7e".parse().unwrap();
        let report = |verified: usize| VerifyReport {
            backup_count: 2,
            verified: vec![id.clone(); verified],
            ..VerifyReport::default()
        };
        let last = |words: &[&str], report: &VerifyReport| {
            let lines = parse(words).unwrap().lines(report);
            lines.last().unwrap().clone()
        };
        let fast = last(&[], &report(0));
        assert!(
            fast.starts_with("ok as far as") && fast.contains("--read-data"),
            "{fast}"
        );
        let sample = last(&["--sample", "5%"], &report(0));
        assert!(sample.contains("a sample of 5% of the content"), "{sample}");
        let all = last(&["--read-data"], &report(2));
        assert_eq!(all, "ok: 2 backups verified: every byte was read back");
        // Nothing is verified where there is nothing.
        let none = last(&["--read-data"], &VerifyReport::default());
        assert!(none.starts_with("ok as far as"), "{none}");
        let mut damaged = report(1);
        damaged.findings.push(VerifyFinding {
            object: "packs/00".to_owned(),
            what: "it is missing".to_owned(),
            backups: vec![id],
            paths: vec!["a\nb".into()],
        });
        let lines = parse(&["--read-data"]).unwrap().lines(&damaged);
        assert_eq!(lines[0], "damaged: packs/00: it is missing");
        assert_eq!(lines[2], "  spoils a\\nb");
        let last = lines.last().unwrap();
        assert!(last.starts_with("DAMAGED: 1 finding; "), "{last}");
    }
}
