//! The configuration: which sources are backed up to where, which backups stay, and what is an alert.
//!
//! ```toml
//! textfile = "/var/lib/prometheus/node-exporter/stillfs.prom"    # optional
//!
//! [[backup]]
//! name = "app"
//! source = "/var/lib/app"
//! repo = "/backup/app"
//! options = ["--exclude", "*.log"]                      # as `stillfs backup` knows them
//! keep = { last = 3, daily = 7, weekly = 5, monthly = 12, within = "30d" }
//! verify = { every = "7d", restore-test = true }
//! alert = { max-age = "26h", verified-within = "21d", shrink = "50%" }
//! ```
//!
//! Everything is checked before anything is done: what is not known is refused with its place.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use serde::de::{Deserialize, Deserializer, Error as _};
use toml::Spanned;

use crate::cli::backup::BackupArgs;
use crate::cli::bounds::period;
use crate::cli::exit::Failure;
use crate::cli::nesting;
use crate::cli::output;
use crate::cli::repository_key::KeyArgs;
use crate::cli::repository_place::RepositoryPlace;
use crate::cli::verify::VerifyArgs;
use crate::os::Host;
use crate::os::path::{FileType, file_type_of, read_small_file};
use crate::repository::Keep;

/// Where it is looked for: a file, or a folder with `*.toml` in it.
pub(crate) const PLACE: &str = "/etc/stillfs";
/// A file is not larger.
const FILE_BYTES_MAX: u64 = 1 << 20;
const NAME_BYTES_MAX: usize = 64;

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Config {
    pub(crate) entries: Vec<Entry>,
    /// Where metrics are written after each run.
    pub(crate) textfile: Option<PathBuf>,
}

/// One `[[backup]]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Entry {
    #[serde(deserialize_with = "name")]
    pub(crate) name: String,
    #[serde(deserialize_with = "absolute")]
    pub(crate) source: PathBuf,
    #[serde(deserialize_with = "place")]
    pub(crate) repo: RepositoryPlace,
    options: Option<Spanned<Vec<String>>>,
    keep: Option<Spanned<KeepRule>>,
    verify: Option<Spanned<VerifyRule>>,
    #[serde(default)]
    pub(crate) alert: AlertRule,
}

/// Which backups stay.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct KeepRule {
    last: u32,
    hourly: u32,
    daily: u32,
    weekly: u32,
    monthly: u32,
    #[serde(deserialize_with = "maybe_duration")]
    within: Option<Duration>,
}

/// When every byte is read back.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct VerifyRule {
    #[serde(deserialize_with = "duration")]
    pub(crate) every: Duration,
    #[serde(default)]
    restore_test: bool,
    scratch: Option<PathBuf>,
}

/// What is an alert.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct AlertRule {
    /// The newest backup is older.
    #[serde(deserialize_with = "duration")]
    pub(crate) max_age: Duration,
    /// No backup was verified within this time [default: twice `verify.every`, else 35 days].
    #[serde(deserialize_with = "maybe_duration")]
    verified_within: Option<Duration>,
    /// The newest backup is smaller than those before by this share.
    #[serde(deserialize_with = "share")]
    pub(crate) shrink: f64,
}

impl Default for AlertRule {
    /// A day and what a night's run may take, and half.
    fn default() -> Self {
        Self {
            max_age: Duration::from_secs(26 * 3600),
            verified_within: None,
            shrink: 0.5,
        }
    }
}

impl AlertRule {
    /// Within which time a backup must have been verified.
    pub(crate) fn verified_within(&self, verify: Option<&VerifyRule>) -> Duration {
        self.verified_within.unwrap_or(match verify {
            Some(verify) => verify.every.saturating_mul(2),
            None => Duration::from_secs(35 * 86_400),
        })
    }
}

/// One file.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    textfile: Option<PathBuf>,
    #[serde(default)]
    backup: Vec<Spanned<Entry>>,
}

/// A place in a file, for people.
struct At<'a> {
    path: &'a Path,
    text: &'a str,
}

/// The options of an entry on a command line of their own.
#[derive(Debug, Parser)]
#[command(name = "stillfs", no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    args: BackupArgs,
}

/// A verification on a command line of its own.
#[derive(Debug, Parser)]
#[command(name = "stillfs", no_binary_name = true, disable_help_flag = true)]
struct VerifyLine {
    #[command(flatten)]
    args: VerifyArgs,
}

impl Config {
    /// Reads the file, or all `*.toml` of the folder, in the order of their names.
    ///
    /// Errors: usage, with file and line; one of the system.
    pub(crate) fn load(host: &Host, place: &Path) -> Result<Self, Failure> {
        let mut config = Self::default();
        for path in files(host, place)? {
            let bytes = read_small_file(&path, FILE_BYTES_MAX).map_err(|error| {
                Failure::usage(anyhow::anyhow!(
                    "cannot read {}: {error}",
                    output::path(&path)
                ))
            })?;
            let text = String::from_utf8(bytes).map_err(|error| {
                Failure::usage(anyhow::anyhow!("{}: {error}", output::path(&path)))
            })?;
            config.take(&At {
                path: &path,
                text: &text,
            })?;
        }
        if config.entries.is_empty() {
            return Err(Failure::usage(anyhow::anyhow!(
                "there is no [[backup]] in {}: write one with name, source and repo",
                output::path(place)
            )));
        }
        Ok(config)
    }

    /// Whether there is one at `place`.
    pub(crate) fn is_there(host: &Host, place: &Path) -> bool {
        files(host, place).is_ok()
    }

    /// The entries of these names, in their order; of none, all.
    ///
    /// Errors: usage, for a name that there is not.
    pub(crate) fn chosen(&self, names: &[String]) -> Result<Vec<&Entry>, Failure> {
        if names.is_empty() {
            return Ok(self.entries.iter().collect());
        }
        let find = |name: &String| {
            let found = self.entries.iter().find(|entry| entry.name == *name);
            found.ok_or_else(|| {
                let known: Vec<&str> = self.entries.iter().map(|entry| &*entry.name).collect();
                let known = known.join(", ");
                Failure::usage(anyhow::anyhow!(
                    "there is no [[backup]] {name}; there are: {known}"
                ))
            })
        };
        names.iter().map(find).collect()
    }

    fn take(&mut self, at: &At<'_>) -> Result<(), Failure> {
        let file: File = toml::from_str(at.text)
            .map_err(|error| at.refuse(error.span().unwrap_or(0..0), error.message()))?;
        if let Some(textfile) = file.textfile {
            if !textfile.is_absolute() {
                return Err(at.refuse(0..0, "textfile: write an absolute path"));
            }
            self.textfile = Some(textfile);
        }
        for entry in file.backup {
            let span = entry.span();
            let entry = entry.into_inner();
            if self.entries.iter().any(|other| other.name == entry.name) {
                return Err(at.refuse(span, format!("there is another [[backup]] {}", entry.name)));
            }
            let places = |one: &Entry| (nesting::real(&one.source), one.repo.real());
            let of_entry = places(&entry);
            if let Some(other) = self.entries.iter().find(|one| places(one) == of_entry) {
                let name = &other.name;
                let what = format!("[[backup]] {name} has the same source and repo");
                return Err(at.refuse(span, what));
            }
            let of_options = entry.options.as_ref().map(Spanned::span);
            if let Err(problem) = entry.backup_args() {
                return Err(at.refuse(of_options.unwrap_or(span), problem));
            }
            let of_verify = entry.verify.as_ref().map(Spanned::span);
            if let Err(problem) = entry.verify_args() {
                return Err(at.refuse(of_verify.unwrap_or(span), problem));
            }
            if let Some(keep) = entry.keep.as_ref()
                && entry.keep() == Some(Keep::default())
            {
                return Err(at.refuse(keep.span(), "keep: these rules keep nothing"));
            }
            self.entries.push(entry);
        }
        Ok(())
    }
}

impl Entry {
    /// The command line of its backup. Errors: what is wrong with its options.
    pub(crate) fn backup_args(&self) -> Result<BackupArgs, String> {
        let options = self.options.as_ref().map(Spanned::get_ref);
        let options = options.into_iter().flatten();
        let mut words = vec![self.source.as_os_str().to_owned(), "--repo".into()];
        words.push(self.repo.word());
        words.extend(options.map(Into::into));
        let line = Line::try_parse_from(words);
        let args = line.map_err(|error| first_line("options", &error))?.args;
        if args.json {
            return Err("options: --json has no place here".to_owned());
        }
        match self.relative_key(&args) {
            Some(path) => Err(format!(
                "options: {}: write an absolute path, as /etc/stillfs/app.key",
                output::path(path)
            )),
            None => Ok(args),
        }
    }

    /// A key file that is told in the options, and is another one in every folder.
    fn relative_key<'a>(&self, args: &'a BackupArgs) -> Option<&'a Path> {
        let options = self.options.as_ref().map(Spanned::get_ref);
        let is_told = |word: &String| {
            ["--key-file", "--passphrase-file", "--cacert"]
                .iter()
                .any(|option| word.starts_with(option))
        };
        let is_told = options.into_iter().flatten().any(is_told);
        args.key.relative().filter(|_| is_told)
    }

    /// When every byte is read back, if it is.
    pub(crate) fn verify(&self) -> Option<&VerifyRule> {
        self.verify.as_ref().map(Spanned::get_ref)
    }

    /// The command line of that. Errors: what is wrong with it.
    pub(crate) fn verify_args(&self) -> Result<Option<VerifyArgs>, String> {
        let Some(rule) = self.verify() else {
            return Ok(None);
        };
        let mut words = vec![self.repo.word(), "--read-data".into()];
        if rule.restore_test {
            words.push("--restore-test".into());
        }
        if let Some(scratch) = &rule.scratch {
            if !rule.restore_test {
                return Err("verify: scratch is for restore-test = true".to_owned());
            }
            if scratch.is_relative() {
                return Err("verify: scratch: write an absolute path, as /var/tmp".to_owned());
            }
            words.extend(["--scratch".into(), scratch.as_os_str().to_owned()]);
        }
        let line = VerifyLine::try_parse_from(words);
        let mut args = line.map_err(|error| first_line("verify", &error))?.args;
        args.key = self.key();
        Ok(Some(args))
    }

    /// What its repository is opened with: an option of the backup.
    pub(crate) fn key(&self) -> KeyArgs {
        self.backup_args().map(|args| args.key).unwrap_or_default()
    }

    /// Which of its backups stay, if any may go.
    pub(crate) fn keep(&self) -> Option<Keep> {
        let rule = self.keep.as_ref()?.get_ref();
        Some(Keep {
            last: rule.last,
            hourly: rule.hourly,
            daily: rule.daily,
            weekly: rule.weekly,
            monthly: rule.monthly,
            within: rule.within,
        })
    }
}

/// What a command line is refused with, in few words.
fn first_line(key: &str, error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    format!("{key}: {}", first.trim_start_matches("error: "))
}

impl At<'_> {
    fn refuse(&self, span: Range<usize>, what: impl fmt::Display) -> Failure {
        let before = self.text.get(..span.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let what = what.to_string().replace('\n', "; ");
        let path = output::path(self.path);
        Failure::usage(anyhow::anyhow!("{path}:{line}: {what}"))
    }
}

/// Errors: usage, if there is none.
fn files(host: &Host, place: &Path) -> Result<Vec<PathBuf>, Failure> {
    let missing = |why: &dyn fmt::Display| {
        Failure::usage(anyhow::anyhow!(
            "there is no configuration at {}: {why}; --config FILE says where one is",
            output::path(place)
        ))
    };
    match file_type_of(place) {
        Err(error) => Err(missing(&error)),
        Ok(FileType::Directory) => {
            let names = host.disk.list(place).map_err(|error| missing(&error))?;
            let paths = names.iter().map(|name| place.join(name));
            let is_toml = |path: &PathBuf| path.extension().is_some_and(|end| end == "toml");
            let paths: Vec<PathBuf> = paths.filter(is_toml).collect();
            match paths.is_empty() {
                true => Err(missing(&"no *.toml is in it")),
                false => Ok(paths),
            }
        }
        Ok(_) => Ok(vec![place.to_owned()]),
    }
}

fn name<'de, D: Deserializer<'de>>(text: D) -> Result<String, D::Error> {
    let text = String::deserialize(text)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_good = !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(is_plain);
    match is_good {
        true => Ok(text),
        false => Err(D::Error::custom(
            "name: write 1 to 64 letters, digits, `.`, `_` and `-`",
        )),
    }
}

fn absolute<'de, D: Deserializer<'de>>(text: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(text)?;
    match path.is_absolute() {
        true => Ok(path),
        false => Err(D::Error::custom("write an absolute path, as /var/lib/app")),
    }
}

fn place<'de, D: Deserializer<'de>>(text: D) -> Result<RepositoryPlace, D::Error> {
    let text = PathBuf::deserialize(text)?;
    match RepositoryPlace::parse(text.as_os_str()).map_err(D::Error::custom)? {
        RepositoryPlace::Folder(path) if path.is_relative() => Err(D::Error::custom(
            "write an absolute path, as /backup/app, or s3://BUCKET/PREFIX",
        )),
        place => Ok(place),
    }
}

fn duration<'de, D: Deserializer<'de>>(text: D) -> Result<Duration, D::Error> {
    period(&String::deserialize(text)?).map_err(D::Error::custom)
}

fn maybe_duration<'de, D: Deserializer<'de>>(text: D) -> Result<Option<Duration>, D::Error> {
    duration(text).map(Some)
}

fn share<'de, D: Deserializer<'de>>(text: D) -> Result<f64, D::Error> {
    crate::cli::verify::share(&String::deserialize(text)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        let path = Path::new("/c.toml");
        let taken = config.take(&At { path, text });
        taken.map(|()| config).map_err(|failure| failure.text())
    }

    const HEAD: &str = "[[backup]]\nname = \"app\"\nsource = \"/a\"\nrepo = \"/r\"\n";

    #[test]
    fn entry_is_what_was_written() {
        let more = "options = [\"--exclude\", \"*.log\", \"--jobs\", \"2\"]\n\
                    keep = { daily = 7, within = \"2w\" }\n\
                    verify = { every = \"7d\", restore-test = true }\n\
                    alert = { max-age = \"36h\", shrink = \"20%\" }\n";
        let config = load(&format!("textfile = \"/t.prom\"\n{HEAD}{more}")).unwrap();
        let entry = &config.entries[0];
        let keep = entry.keep().unwrap();
        assert_eq!((keep.daily, keep.last), (7, 0));
        assert_eq!(keep.within, Some(Duration::from_secs(14 * 86_400)));
        let verify = entry.verify().unwrap();
        assert!(verify.restore_test && verify.every == Duration::from_secs(7 * 86_400));
        let within = entry.alert.verified_within(Some(verify));
        assert_eq!(within, Duration::from_secs(14 * 86_400));
        assert_eq!(entry.alert.max_age, Duration::from_secs(36 * 3600));
        assert!((entry.alert.shrink - 0.2).abs() < 1e-9);
        entry.backup_args().unwrap();
        let plain = load(HEAD).unwrap();
        assert_eq!(plain.entries[0].keep(), None);
        assert!(plain.chosen(&["app".to_owned()]).is_ok());
        let unknown = plain.chosen(&["other".to_owned()]).unwrap_err().text();
        assert!(unknown.ends_with("there are: app"), "{unknown}");
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_place_and_what_is_right() {
        for (more, parts) in [
            ("colour = 1", &[":5:", "colour", "expected one of"][..]),
            ("keep = { dayly = 1 }", &[":5:", "dayly", "daily"]),
            ("keep = { last = -1 }", &[":5:", "u32"]),
            ("keep = { last = 0 }", &[":5:", "keep nothing"]),
            ("verify = { every = \"often\" }", &[":5:", "36h"]),
            ("verify = {}", &[":5:", "every"]),
            (
                "verify = { every = \"7d\", scratch = \"/s\" }",
                &[":5:", "restore-test"],
            ),
            (
                "verify = { every = \"7d\", restore-test = true, scratch = \"s\" }",
                &[":5:", "scratch", "absolute"],
            ),
            (
                "options = [\"--key-file\", \"k\"]",
                &[":5:", "k: write an absolute path"],
            ),
            (
                "options = [\"--passphrase-file=k\"]",
                &[":5:", "k: write an absolute path"],
            ),
            (
                "[[backup]]\nname = \"b\"\nsource = \"/./a\"\nrepo = \"/r/\"",
                &[":5:", "app has the same source and repo"],
            ),
            ("alert = { shrink = \"half\" }", &[":5:", "percentage"]),
            ("options = [\"--exclud\", \"x\"]", &[":5:", "--exclud"]),
            ("options = [\"--repo\", \"/x\"]", &[":5:", "--repo"]),
            ("options = [\"--json\"]", &[":5:", "--json"]),
            (
                "[[backup]]\nname = \"app\"\nsource = \"/b\"\nrepo = \"/r\"",
                &[":5:", "another"],
            ),
            (
                "[[backup]]\nname = \"b/c\"\nsource = \"/b\"\nrepo = \"/r\"",
                &[":6:", "letters"],
            ),
            (
                "[[backup]]\nname = \"b\"\nsource = \"b\"\nrepo = \"/r\"",
                &[":7:", "absolute"],
            ),
            (
                "[[backup]]\nname = \"b\"\nrepo = \"/r\"",
                &[":5:", "source"],
            ),
            ("= 3", &[":5:"]),
        ] {
            let error = load(&format!("{HEAD}{more}\n")).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{more}: {part:?} is not in {error}");
            }
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
