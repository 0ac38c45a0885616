//! `stillfs backups`: what a repository holds. Changes nothing and takes no lock.

mod logs;

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;

use crate::amount::Many;
use crate::cli::backups::logs::LogRow;
use crate::cli::exit::{Exit, Outcome};
use crate::cli::listing;
use crate::cli::output;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::os::{Host, machine};
use crate::repository::log::LogCatalog;
use crate::repository::{BackupFacts, BackupId, Repository, RepositoryError, Verified};

/// Which columns of the table hold numbers.
const NUMBERS: [bool; 9] = [false, false, true, false, true, true, false, false, false];

/// Arguments of `stillfs backups`.
#[derive(Debug, Args)]
#[command(after_help = "\
Oldest first. WHEN is the moment that a backup shows, UTC; SIZE what it holds, and STORED what the
repository had to take in for it. Exits 10 if there is no repository, 12 if a backup cannot be read,
which is named. Archived logs
come last: a restore can go on from a backup to any commit that they cover.

Examples:
  stillfs backups /backup/app
  stillfs backups /backup/app --json")]
pub(crate) struct BackupsArgs {
    /// The repository: a directory, or s3://BUCKET/PREFIX
    repo: RepositoryPlace,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    key: KeyArgs,
}

/// All of a repository. The names are stable.
#[derive(Debug, Serialize)]
struct Listed {
    repository: String,
    repository_id: String,
    pack_count: u64,
    pack_bytes: u64,
    backup_count: u64,
    /// Bytes of all files of all backups.
    bytes: u64,
    /// Oldest first.
    backups: Vec<Row>,
    damaged: Vec<DamagedRow>,
    /// Archived logs.
    logs: Vec<LogRow>,
}

/// One backup: its facts, and what was found out later.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    facts: BackupFacts,
    /// `null` where that cannot be read.
    is_held: Option<bool>,
    verified: Option<Verified>,
}

/// One that cannot be read, or whose mark cannot: such a one is among the others too.
#[derive(Debug, Serialize)]
struct DamagedRow {
    id: BackupId,
    problem: String,
}

pub(crate) fn run(args: &BackupsArgs) -> Outcome {
    let host = Host::system();
    let repository = args.key.open(&host, &args.repo)?;
    let catalog = LogCatalog::read(&repository)?;
    let listed = Listed::read(&repository, &catalog)?;
    match args.json {
        true => output::json(&listed),
        false => {
            let lines = listed.lines(host.clock.wall_ns(), &machine::name());
            lines.iter().for_each(|line| output::line(line));
        }
    }
    for row in &listed.damaged {
        output::problem(&format!("backup {}: {}", row.id, row.problem));
    }
    for (object, problem) in catalog.damaged() {
        output::problem(&format!("{object}: {problem}"));
    }
    Ok(
        match listed.damaged.is_empty() && catalog.damaged().is_empty() {
            true => Exit::Done,
            false => Exit::Corrupt,
        },
    )
}

impl Listed {
    /// Errors: `Io`.
    fn read(repository: &Repository, catalog: &LogCatalog) -> Result<Self, RepositoryError> {
        let (pack_count, pack_bytes) = packs(repository)?;
        let (mut backups, mut damaged) = (Vec::new(), Vec::new());
        let mut unread_count = 0;
        for (id, facts) in repository.backups()? {
            let facts = match facts {
                Ok(facts) => facts,
                // Forgotten by another meanwhile.
                Err(RepositoryError::NoBackup { .. }) => continue,
                Err(error) => {
                    damaged.push(DamagedRow::of(id, &error));
                    unread_count += 1;
                    continue;
                }
            };
            let mark = repository.mark(&id);
            if let Err(error) = &mark {
                damaged.push(DamagedRow::of(id, error));
            }
            let mark = mark.ok();
            backups.push(Row {
                facts,
                is_held: mark.as_ref().map(|mark| mark.is_held),
                verified: mark.and_then(|mark| mark.verified),
            });
        }
        let id = repository.id();
        let bytes = backups.iter().map(|row| row.facts.statistics.bytes);
        Ok(Self {
            repository: repository.store().place(),
            repository_id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            pack_count,
            pack_bytes,
            backup_count: backups.len() as u64 + unread_count,
            bytes: bytes.fold(0, u64::saturating_add),
            backups,
            damaged,
            logs: logs::rows(catalog),
        })
    }

    fn lines(&self, now_ns: u64, host: &str) -> Vec<String> {
        let heads = [
            "ID", "WHEN", "AGE", "TYPE", "SIZE", "STORED", "STATE", "TAG", "SOURCE",
        ];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        rows.extend(self.backups.iter().map(|row| row.words(now_ns, host)));
        let mut lines = match self.backups.is_empty() {
            true => Vec::new(),
            false => listing::columns(&rows, &NUMBERS),
        };
        let sources = self.backups.iter().map(|row| &row.facts.source);
        let sources = sources.map(|source| (&source.kind, &source.host, &source.path));
        let sources = sources.collect::<BTreeSet<_>>().len() as u64;
        lines.push(format!(
            "{} of {}, {} in all; {} in {}",
            Many(self.backup_count, "backup"),
            Many(sources, "source"),
            output::bytes(self.bytes),
            output::bytes(self.pack_bytes),
            Many(self.pack_count, "pack"),
        ));
        lines.extend(self.logs.iter().flat_map(LogRow::lines));
        lines
    }
}

impl DamagedRow {
    fn of(id: BackupId, error: &RepositoryError) -> Self {
        let problem = error.to_string();
        Self { id, problem }
    }
}

impl Row {
    fn words(&self, now_ns: u64, host: &str) -> Vec<String> {
        let facts = &self.facts;
        vec![
            facts.id.to_string(),
            listing::when(facts.moment_ns),
            listing::age(facts.moment_ns, now_ns),
            listing::kind(facts.kind).to_owned(),
            output::bytes(facts.statistics.bytes),
            output::bytes(facts.statistics.bytes_stored),
            self.state(),
            output::plain(facts.tag.as_deref().unwrap_or("-")),
            listing::source(&facts.source, host),
        ]
    }

    fn state(&self) -> String {
        let verified = self.verified.as_ref();
        let words = [
            match self.is_held {
                Some(true) => Some("held"),
                Some(false) => None,
                None => Some("unreadable mark"),
            },
            verified.map(|verified| match verified.is_restore_tested {
                true => "restore-tested",
                false => "verified",
            }),
        ];
        let words: Vec<&str> = words.into_iter().flatten().collect();
        match words.is_empty() {
            true => "-".to_owned(),
            false => words.join(","),
        }
    }
}

/// How many packs there are, and their bytes. One that goes meanwhile is none.
fn packs(repository: &Repository) -> Result<(u64, u64), RepositoryError> {
    let store = repository.store();
    let (mut count, mut bytes) = (0, 0_u64);
    for name in store.list("packs")? {
        match store.size(&format!("packs/{name}")) {
            Ok(size) => {
                count += 1;
                bytes = bytes.saturating_add(size);
            }
            Err(RepositoryError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((count, bytes))
}
