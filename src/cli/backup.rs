//! `stillfs backup`: databases are pinned, and what the pin shows is taken into a repository.
//!
//! Runs in its own process, without a mount. The pin lasts as long as the backup; the repository is locked
//! while it is written to.

mod pinned;
mod summary;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::audit::Note;
use crate::cli::bounds::BoundArgs;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::interrupt::Interrupt;
use crate::cli::job::{self, Audience};
use crate::cli::kind;
use crate::cli::mount::absolute;
use crate::cli::nesting;
use crate::cli::output;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::cli::request::{self, SourceArgs, Words};
use crate::cli::size::{self, ByteSize};
use crate::mount::MountOptions;
use crate::os::Host;
use crate::os::process::raise_file_limit;
use crate::repository::backup::{BackupOptions, Runner, Wanted};
use crate::repository::{Compression, RepositoryError};
use crate::source::{self, HeaderShown, Kind};
use pinned::Request;

const TAG_CHARACTERS_MAX: usize = 100;
const JOBS_MAX: u64 = 256;

/// Arguments of `stillfs backup`.
#[derive(Debug, Args)]
#[command(after_help = "\
Pins SOURCE as mount does, takes what the pin shows into the repository, and lets the pin go however
it ends. A repository that is not there yet is made; one that is encrypted, by stillfs init before.
Every backup is complete by itself: the type says what was compared and read, not what is needed to
restore it.
  auto          full if there is none, or the last full one is 7 days or 30 backups old; else
                incremental
  full          everything is read
  incremental   what changed since the newest backup of SOURCE is read
  differential  what changed since the newest full backup of SOURCE is read

Exits 0; 3 if something was left out that nobody asked to leave out, which is named; 11 if another
process writes to the repository; 12 if something is damaged; 13 if the pin was lost, and then there
is no backup; 130 after Ctrl-C. An interrupted backup leaves the repository as it was, and the next
one uses what it had stored. --json prints lines, of which message_type says what they are: progress
(once a second), and at the end summary or error.

While somebody commits to SOURCE, a backup works in small pieces and rests longer than it works, so
that commits hardly wait; it takes several times as long then. --full-speed takes what there is.

Not in a backup: extended attributes, ACLs, pipes, sockets and devices.

Examples:
  stillfs backup /var/lib/app --repo /backup/app
  stillfs backup /var/lib/app/app.db --repo /backup/app --type full --tag before-upgrade
  stillfs backup /srv/www --repo /backup/www --exclude '*.log' --exclude cache --max-size 1G
  STILLFS_REPO=/backup/app stillfs backup /var/lib/app --limit-rate 20M --compress zstd:6 --json")]
pub(crate) struct BackupArgs {
    /// A stillfs database (its directory), an SQLite file, or a directory with databases in it
    pub(crate) source: PathBuf,
    /// The repository: a directory, or s3://BUCKET/PREFIX; it is made if it is not there
    #[arg(long, value_name = "REPO", env = "STILLFS_REPO")]
    pub(crate) repo: RepositoryPlace,
    /// auto, full, incremental or differential
    #[arg(long = "type", value_name = "TYPE", default_value = "auto", value_parser = wanted)]
    wanted: Wanted,
    /// A word to find the backup by
    #[arg(long, value_parser = tag)]
    tag: Option<String>,
    /// Directories: leave out what has this name; with a slash in it, what has this path in SOURCE, from
    /// its top on if it begins with a slash; may be given more than once
    #[arg(long, value_name = "GLOB", value_parser = pattern)]
    exclude: Vec<glob::Pattern>,
    /// Directories: leave out plain files that are larger; databases never
    #[arg(long, value_name = "SIZE", value_parser = size::nonzero)]
    max_size: Option<ByteSize>,
    /// Do not stand back for those who write the source meanwhile
    #[arg(long)]
    full_speed: bool,
    /// Read at most so many bytes per second
    #[arg(long, value_name = "RATE", value_parser = size::nonzero)]
    limit_rate: Option<ByteSize>,
    /// lz4, zstd, zstd:LEVEL (1 to 19), or none
    #[arg(long, value_name = "HOW", default_value = "lz4")]
    compress: Compression,
    /// Threads that read and compress [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=JOBS_MAX))]
    jobs: Option<u64>,
    /// Print lines of JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Options, separated by commas: of SQLite databases no_recover, clone; of directories files=clone
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    #[command(flatten)]
    bounds: BoundArgs,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    #[command(flatten)]
    asked: SourceArgs,
}

pub(crate) fn run(args: &BackupArgs, note: &mut Note) -> Outcome {
    let host = Host::system();
    let source = absolute(&args.source)?;
    let place = args.repo.real();
    let asked = args.asked.resolve(&source)?;
    let words = words(&args.options)?;
    let kind = source::kind_of(&host, &source, &asked.sqlite)?;
    request::refuse_foreign(&source, kind, &words, &args.bounds, &asked)?;
    let options = args.backup_options(&source, kind, &place)?;
    if let Err(error) = raise_file_limit() {
        tracing::debug!(%error, "cannot raise the limit of open files");
    }
    // Before the pin: what comes from here on ends in an orderly release.
    let interrupt = Interrupt::listen()?;
    let repository = args.key.open_or_create(&host, &place)?;
    let subject = pinned::pin(
        &host,
        &Request {
            source: &source,
            words: &words,
            bounds: &args.bounds,
            asked: &asked,
        },
    )?;
    let runner = Runner::new(repository);
    runner.start(subject, options)?;
    let wait = || runner.wait().unwrap_or(Err(RepositoryError::WorkerLost));
    let report = job::run("backup", Audience::of(args.json), &interrupt, &runner, wait)?;
    note.backups.push(report.facts.id.to_string());
    Ok(summary::tell(&report, &place, args.json))
}

impl BackupArgs {
    /// What is asked of the backup; a repository that lies in the source is left out of it.
    ///
    /// Errors: usage, for a source in the repository, and for what this kind of source has not.
    fn backup_options(
        &self,
        source: &Path,
        kind: Kind,
        place: &RepositoryPlace,
    ) -> Result<BackupOptions, Failure> {
        let folder = place.folder();
        if folder.is_some_and(|folder| nesting::place_in(source, folder).is_some()) {
            return Err(Failure::usage(anyhow::anyhow!(
                "{} lies in the repository {}",
                output::path(source),
                place
            )));
        }
        let given = [
            (!self.exclude.is_empty(), "--exclude"),
            (self.max_size.is_some(), "--max-size"),
        ];
        let foreign = given.iter().find(|(is_given, _)| *is_given);
        if let (Some((_, option)), Kind::Native | Kind::Sqlite) = (foreign, kind) {
            return Err(Failure::usage(anyhow::anyhow!(
                "{option} is for directories, and {} is {}",
                output::path(source),
                kind::one(kind)
            )));
        }
        let mut exclude = self.exclude.clone();
        let inside = folder.and_then(|folder| nesting::place_in(folder, source));
        if let (Some(inside), Kind::Tree) = (inside, kind) {
            let anchored = format!("/{}", glob::Pattern::escape(&inside.to_string_lossy()));
            exclude.push(glob::Pattern::new(&anchored)?);
            output::problem(&format!(
                "the repository lies in the source, at {}, and is left out",
                inside.display()
            ));
        }
        Ok(BackupOptions {
            wanted: self.wanted,
            tag: self.tag.clone(),
            exclude,
            size_max: self.max_size.map(|size| size.0),
            rate_max: self.limit_rate.map(|rate| rate.0),
            full_speed: self.full_speed,
            compression: self.compress,
            workers: usize::try_from(self.jobs.unwrap_or(0))?,
        })
    }
}

/// The words after `-o` that make sense without a mount.
///
/// Errors: usage, for the others.
fn words(lists: &[String]) -> Result<Words, Failure> {
    let words = Words::parse(lists)?;
    if words.mount != MountOptions::default() {
        return Err(Failure::usage(anyhow::anyhow!(
            "-o {}: a backup mounts nothing, and knows no_recover, clone and files=clone",
            lists.join(",")
        )));
    }
    if words.header != HeaderShown::default() {
        return Err(Failure::usage(anyhow::anyhow!(
            "-o sqlite_header changes what the file says, and a backup is to be what the database is"
        )));
    }
    Ok(words)
}

/// Errors: what to write instead.
fn wanted(text: &str) -> Result<Wanted, String> {
    match text {
        "auto" => Ok(Wanted::Auto),
        "full" => Ok(Wanted::Full),
        "incremental" => Ok(Wanted::Incremental),
        "differential" => Ok(Wanted::Differential),
        _ => Err("write auto, full, incremental or differential".to_owned()),
    }
}

/// Errors: what to write instead.
fn tag(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && !text.chars().any(char::is_control);
    match is_plain && text.chars().count() <= TAG_CHARACTERS_MAX {
        true => Ok(text.to_owned()),
        false => Err(format!("a tag has 1 to {TAG_CHARACTERS_MAX} characters")),
    }
}

/// Errors: why it is none.
fn pattern(text: &str) -> Result<glob::Pattern, String> {
    let pattern = glob::Pattern::new(text).map_err(|error| error.to_string())?;
    match text.trim_matches('/').is_empty() {
        true => Err("nothing would be left".to_owned()),
        false => Ok(pattern),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn folder(path: &str) -> RepositoryPlace {
        RepositoryPlace::Folder(path.into())
    }

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BackupArgs,
    }

    fn parse(words: &[&str]) -> Result<BackupArgs, String> {
        let line = [&["backup", "/s", "--repo", "/r"], words].concat();
        let line = Line::try_parse_from(line);
        line.map(|line| line.args)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn options_reach_the_backup() {
        let line = "--type differential --tag nightly --exclude *.log --exclude /a/b --max-size 1M \
                    --limit-rate 20M --full-speed --compress zstd:7 --jobs 3";
        let args = parse(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
        let options = args.backup_options("/s".as_ref(), Kind::Tree, &folder("/r"));
        let options = options.map_err(|failure| failure.text()).unwrap();
        assert_eq!(options.wanted, Wanted::Differential);
        assert_eq!(options.tag.as_deref(), Some("nightly"));
        let exclude: Vec<&str> = options.exclude.iter().map(glob::Pattern::as_str).collect();
        assert_eq!(exclude, ["*.log", "/a/b"]);
        assert_eq!(options.size_max, Some(1 << 20));
        assert_eq!(options.rate_max, Some(20 << 20));
        assert!(options.full_speed);
        assert_eq!(options.compression, Compression::Zstd(7));
        assert_eq!(options.workers, 3);
        let nothing = parse(&[]).unwrap();
        let nothing = nothing.backup_options("/s".as_ref(), Kind::Native, &folder("/r"));
        let nothing = nothing.map_err(|failure| failure.text()).unwrap();
        assert_eq!((nothing.wanted, nothing.workers), (Wanted::Auto, 0));
        assert!(!nothing.full_speed);
    }

    #[test]
    fn what_is_no_option_is_refused_with_what_to_write() {
        for (words, part) in [
            (&["--type", "some"][..], "incremental or differential"),
            (&["--compress", "gzip"], "zstd:LEVEL"),
            (&["--compress", "zstd:20"], "1 to 19"),
            (&["--jobs", "0"], "--jobs"),
            (&["--limit-rate", "0"], "must not be 0"),
            (&["--max-size", "1MB"], "two things"),
            (&["--exclude", "[a"], "--exclude"),
            (&["--exclude", "/"], "nothing would be left"),
            (&["--tag", ""], "1 to 100 characters"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
        for (words, part) in [
            (&["-o", "allow_other"][..], "mounts nothing"),
            (&["-o", "clone,sqlite_header=rollback"], "sqlite_header"),
        ] {
            let args = parse(words).unwrap();
            let error = super::words(&args.options).unwrap_err();
            assert!(error.text().contains(part), "{}", error.text());
        }
        words(&["clone,no_recover,files=clone".to_owned()]).unwrap();
    }

    /// A repository must not grow by its own content, nor be backed up into itself.
    #[test]
    fn repository_in_the_source_is_left_out_and_a_source_in_it_is_refused() {
        let args = parse(&["--exclude", "*.log"]).unwrap();
        let options = |source: &str, place: &str, kind| {
            let options = args.backup_options(source.as_ref(), kind, &folder(place));
            options.map_err(|failure| failure.text()).map(|options| {
                let last = options.exclude.last().unwrap();
                last.as_str().to_owned()
            })
        };
        let inside = options("/none/app", "/none/app/[x]/repo", Kind::Tree);
        assert_eq!(inside.unwrap(), "/[[]x[]]/repo");
        let beside = options("/none/app", "/none/app-repo", Kind::Tree);
        assert_eq!(beside.unwrap(), "*.log");
        for source in ["/none/repo", "/none/repo/packs"] {
            let refused = options(source, "/none/repo", Kind::Tree).unwrap_err();
            assert!(refused.contains("lies in the repository"), "{refused}");
        }
        for kind in [Kind::Native, Kind::Sqlite] {
            let refused = options("/none/app", "/none/repo", kind).unwrap_err();
            assert!(
                refused.contains("--exclude is for directories"),
                "{refused}"
            );
        }
    }
}
