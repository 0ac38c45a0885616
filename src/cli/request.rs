//! What is asked of a source, as people write it: the source's own words after `-o`, the options for
//! SQLite databases and for directories; and which of them a kind of source knows.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::bounds::{BoundArgs, FullPolicy};
use crate::cli::exit::Failure;
use crate::cli::kind;
use crate::cli::output;
use crate::mount::MountOptions;
use crate::mount::options::{KNOWN, OptionError};
use crate::os::path::{FileType, canonical, file_type_of};
use crate::source::{
    Files, HeaderShown, Instant, Keeping, Kind, Recovery, SqliteOptions, TreeOptions, Unpinned,
};

/// The words after `-o` that are a source's, each with the value that it takes.
const WORDS: [(&str, Option<&str>); 4] = [
    ("sqlite_header", Some("rollback")),
    ("no_recover", None),
    ("clone", None),
    ("files", Some("clone")),
];

/// What the words after `-o` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// Of the mount.
    pub(crate) mount: MountOptions,
    pub(crate) header: HeaderShown,
    recovery: Recovery,
    keeping: Keeping,
    files: Files,
}

impl Words {
    /// Errors: usage, for a word that there is not, is refused, or has a wrong value.
    pub(crate) fn parse(lists: &[String]) -> Result<Self, Failure> {
        let mut words = Self::default();
        for word in lists.iter().flat_map(|list| list.split(',')) {
            if !words.take(word)? {
                words.mount.apply(word).map_err(with_all_known)?;
            }
        }
        Ok(words)
    }

    /// Whether a word is a source's; then it is followed.
    ///
    /// Errors: usage, for a wrong value.
    fn take(&mut self, word: &str) -> Result<bool, Failure> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let Some((_, takes)) = WORDS.iter().find(|(known, _)| *known == name) else {
            return Ok(false);
        };
        if value != *takes {
            let form = takes.map_or(name.to_owned(), |takes| format!("{name}={takes}"));
            return Err(Failure::usage(anyhow::anyhow!(
                "mount option '{word}': write {form}"
            )));
        }
        match name {
            "sqlite_header" => self.header = HeaderShown::Rollback,
            "no_recover" => self.recovery = Recovery::Refused,
            "clone" => self.keeping = Keeping::Clone,
            _ => self.files = Files::Clone,
        }
        Ok(true)
    }
}

/// The mount does not know the words of a source.
fn with_all_known(error: OptionError) -> Failure {
    let OptionError::Unknown { name } = error else {
        return Failure::usage(error);
    };
    let ours = WORDS.iter().map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => (*name).to_owned(),
    });
    let known: Vec<String> = KNOWN
        .iter()
        .map(|name| (*name).to_owned())
        .chain(ours)
        .collect();
    Failure::usage(anyhow::anyhow!(
        "unknown mount option '{name}' (known: {})",
        known.join(", ")
    ))
}

/// Options for SQLite databases and for directories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct SourceArgs {
    /// A file that is an SQLite database although nothing shows it, like an encrypted one without a log:
    /// its path in SOURCE, or an absolute one; may be given more than once
    #[arg(long, value_name = "PATH")]
    pub(crate) sqlite: Vec<PathBuf>,
    /// Directories: pin all databases at one instant, for which their writers are stopped, so that a
    /// transaction over several of them is in all or in none
    #[arg(long)]
    pub(crate) atomic_set: bool,
    /// Directories: leave out databases that cannot be pinned, name them, and exit with 3
    #[arg(long)]
    pub(crate) skip_unpinnable: bool,
    /// SQLite: where private copies go that are no clones [default: $TMPDIR, else /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
}

impl SourceArgs {
    /// The same with absolute paths.
    ///
    /// Errors: usage, for a database that is not there or not in `source`, and a directory that is not there.
    pub(crate) fn resolve(&self, source: &Path) -> Result<Self, Failure> {
        let mut resolved = self.clone();
        for path in &mut resolved.sqlite {
            *path = inside(source, path)?;
        }
        if let Some(scratch) = &mut resolved.scratch {
            *scratch = canonical(scratch).map_err(|error| {
                Failure::usage(anyhow::anyhow!("--scratch {}: {error}", scratch.display()))
            })?;
        }
        Ok(resolved)
    }

    /// The same on another command line.
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        // As one word each: a path may begin like an option.
        let with = |option: &str, path: &Path| {
            let mut word = OsString::from(option);
            word.push(path);
            word
        };
        words.extend(self.sqlite.iter().map(|path| with("--sqlite=", path)));
        words.extend(self.atomic_set.then(|| "--atomic-set".into()));
        words.extend(self.skip_unpinnable.then(|| "--skip-unpinnable".into()));
        words.extend(self.scratch.iter().map(|path| with("--scratch=", path)));
        words
    }

    /// What is asked of SQLite databases.
    pub(crate) fn sqlite_options(&self, words: &Words, bounds: &BoundArgs) -> SqliteOptions {
        let mut options = SqliteOptions {
            header: words.header,
            recovery: words.recovery,
            keeping: words.keeping,
            scratch: self.scratch.clone(),
            ..SqliteOptions::default()
        };
        bounds.bound_sqlite(&mut options);
        options
    }

    /// What is asked of directory trees.
    pub(crate) fn tree_options(&self, words: &Words) -> TreeOptions {
        TreeOptions {
            files: words.files,
            sqlite_files: self.sqlite.clone(),
            instant: if self.atomic_set {
                Instant::Same
            } else {
                Instant::Close
            },
            unpinned: if self.skip_unpinnable {
                Unpinned::LeftOut
            } else {
                Unpinned::Refused
            },
        }
    }
}

/// Where a database that was named is, links resolved.
///
/// Errors: usage, if it is not in `source`.
fn inside(source: &Path, path: &Path) -> Result<PathBuf, Failure> {
    let wrong = |why: String| Failure::usage(anyhow::anyhow!("--sqlite {}: {why}", path.display()));
    // A file is named from its directory on.
    let from = match file_type_of(source) {
        Ok(FileType::Directory) => source,
        _ => source.parent().unwrap_or(source),
    };
    let found = canonical(&from.join(path)).map_err(|error| {
        let from = output::path(from);
        wrong(format!("{error}; the path begins at {from}"))
    })?;
    if found.strip_prefix(source).is_err() {
        return Err(wrong(format!("it is not in {}", output::path(source))));
    }
    match file_type_of(&found) {
        Ok(FileType::File) => Ok(found),
        _ => Err(wrong("it is no regular file".to_owned())),
    }
}

/// An option that was given, and the kinds of source that know it.
type Given = (bool, &'static str, &'static [Kind]);

const NATIVE: &[Kind] = &[Kind::Native, Kind::Tree];
const SQLITE: &[Kind] = &[Kind::Sqlite, Kind::Tree];
const TREE: &[Kind] = &[Kind::Tree];

/// Refuses what a source of this kind has not.
///
/// Errors: usage.
pub(crate) fn refuse_foreign(
    source: &Path,
    kind: Kind,
    words: &Words,
    bounds: &BoundArgs,
    asked: &SourceArgs,
) -> Result<(), Failure> {
    let given: [Given; 13] = [
        (bounds.shadow_limit.is_some(), "--shadow-limit", NATIVE),
        (
            bounds.on_full == Some(FullPolicy::Hold),
            "--on-full hold",
            NATIVE,
        ),
        (
            bounds.on_full == Some(FullPolicy::Spill),
            "--on-full spill",
            SQLITE,
        ),
        (
            bounds.source_wal_limit.is_some(),
            "--source-wal-limit",
            SQLITE,
        ),
        (bounds.max_lock.is_some(), "--max-lock", SQLITE),
        (asked.scratch.is_some(), "--scratch", SQLITE),
        (
            words.header != HeaderShown::default(),
            "-o sqlite_header",
            SQLITE,
        ),
        (
            words.recovery != Recovery::default(),
            "-o no_recover",
            SQLITE,
        ),
        (words.keeping != Keeping::default(), "-o clone", SQLITE),
        (words.files != Files::default(), "-o files", TREE),
        (!asked.sqlite.is_empty(), "--sqlite", SQLITE),
        (asked.atomic_set, "--atomic-set", TREE),
        (asked.skip_unpinnable, "--skip-unpinnable", TREE),
    ];
    let foreign = given
        .iter()
        .find(|(is_given, _, kinds)| *is_given && !kinds.contains(&kind));
    if let Some((_, option, kinds)) = foreign {
        let kinds: Vec<&str> = kinds.iter().map(|kind| kind::many(*kind)).collect();
        return Err(Failure::usage(anyhow::anyhow!(
            "{option} is for {}, and {} is {}",
            kinds.join(" and "),
            source.display(),
            kind::one(kind)
        )));
    }
    if bounds.on_full == Some(FullPolicy::Spill) && bounds.source_wal_limit.is_none() {
        return Err(Failure::usage(anyhow::anyhow!(
            "--on-full spill needs --source-wal-limit SIZE: without it there is no limit to spill at"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::symlink;

    use clap::Parser;

    use super::*;
    use crate::cli::size::ByteSize;
    use crate::os::path::create_dir_all;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        asked: SourceArgs,
    }

    fn parse(words: &[&str]) -> Result<Words, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Words::parse(&words).map_err(|failure| failure.text())
    }

    #[test]
    fn words_go_to_the_mount_or_to_the_source() {
        let words = parse(&[
            "allow_other,sqlite_header=rollback",
            "no_recover,,files=clone,clone",
        ]);
        let words = words.unwrap();
        assert_eq!(words.mount, "allow_other".parse().unwrap());
        assert_eq!(words.header, HeaderShown::Rollback);
        assert_eq!(words.recovery, Recovery::Refused);
        assert_eq!(words.keeping, Keeping::Clone);
        assert_eq!(words.files, Files::Clone);
        assert_eq!(parse(&[]).unwrap(), Words::default());
        // A comment of fstab is no word of ours, whatever it looks like.
        assert_eq!(parse(&["x-files=clone"]).unwrap(), Words::default());
    }

    #[test]
    fn a_wrong_word_is_refused_with_all_that_are_known() {
        let error = parse(&["noexec,no_recovery"]).unwrap_err();
        for known in [
            "'no_recovery'",
            "allow_other",
            "no_recover,",
            "files=clone",
            "sqlite_header=rollback",
        ] {
            assert!(error.contains(known), "{known}: {error}");
        }
        for (word, form) in [
            ("sqlite_header", "sqlite_header=rollback"),
            ("sqlite_header=wal", "sqlite_header=rollback"),
            ("files=live", "files=clone"),
            ("clone=1", "clone"),
            ("no_recover=", "no_recover"),
        ] {
            let error = parse(&[word]).unwrap_err();
            assert!(error.ends_with(&format!("write {form}")), "{word}: {error}");
        }
        assert!(parse(&["rw"]).unwrap_err().contains("read-only"));
    }

    /// The daemon's command line says what the user's said, names that are no UTF-8 included.
    #[test]
    fn what_is_asked_survives_the_way_to_the_daemon() {
        let odd = PathBuf::from(OsString::from_vec(b"/a \xff,=\n'".to_vec()));
        for given in [
            SourceArgs::default(),
            SourceArgs {
                sqlite: vec!["/a/x.db".into(), odd.clone(), "-x".into()],
                atomic_set: true,
                skip_unpinnable: true,
                scratch: Some(odd),
            },
        ] {
            let mut line = vec![OsString::from("daemon")];
            line.extend(given.to_arguments());
            assert_eq!(Line::try_parse_from(line).unwrap().asked, given);
        }
    }

    #[test]
    fn databases_are_named_from_the_source_on_and_lie_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let source = dir.join("app");
        for folder in ["app/sub", "app-other"] {
            create_dir_all(&dir.join(folder), 0o700).unwrap();
        }
        symlink(dir.join("app-other"), source.join("out.link")).unwrap();
        let resolve = |path: &str| {
            let asked = SourceArgs {
                sqlite: vec![path.into()],
                ..SourceArgs::default()
            };
            asked
                .resolve(&source)
                .map(|asked| asked.sqlite)
                .map_err(|failure| failure.text())
        };
        std::fs::write(source.join("sub/a.db"), "").unwrap();
        let named = vec![source.join("sub/a.db")];
        assert_eq!(resolve("sub/a.db"), Ok(named.clone()));
        assert_eq!(resolve("./sub/../sub/a.db"), Ok(named.clone()));
        assert_eq!(resolve(named[0].to_str().unwrap()), Ok(named));
        assert!(
            resolve("sub")
                .unwrap_err()
                .ends_with("it is no regular file")
        );
        for outside in ["../app-other", "/dev/null", "out.link"] {
            let error = resolve(outside).unwrap_err();
            assert!(error.contains("it is not in"), "{outside}: {error}");
        }
        assert!(
            resolve("missing")
                .unwrap_err()
                .contains("--sqlite missing: ")
        );
    }

    #[test]
    fn what_a_kind_of_source_has_not_is_refused_by_name() {
        let check = |kind, words: &[&str], bounds: &BoundArgs, asked: &SourceArgs| {
            let words = parse(words).unwrap();
            let source = Path::new("/s");
            refuse_foreign(source, kind, &words, bounds, asked).map_err(|failure| failure.text())
        };
        let (free, nothing) = (BoundArgs::default(), SourceArgs::default());
        for kind in [Kind::Native, Kind::Sqlite, Kind::Tree] {
            assert_eq!(check(kind, &["allow_other"], &free, &nothing), Ok(()));
        }
        let full = |policy| BoundArgs {
            on_full: Some(policy),
            source_wal_limit: (policy == FullPolicy::Spill).then_some(ByteSize(1)),
            ..BoundArgs::default()
        };
        let hold = check(Kind::Sqlite, &[], &full(FullPolicy::Hold), &nothing);
        let text =
            "--on-full hold is for stillfs databases and directories, and /s is an SQLite database";
        assert_eq!(hold, Err(text.to_owned()));
        let spill = check(Kind::Native, &[], &full(FullPolicy::Spill), &nothing);
        assert!(
            spill
                .unwrap_err()
                .starts_with("--on-full spill is for SQLite databases and dir")
        );
        for kind in [Kind::Sqlite, Kind::Tree] {
            assert_eq!(
                check(kind, &["clone"], &full(FullPolicy::Spill), &nothing),
                Ok(())
            );
        }
        // In a directory there may be databases of both kinds.
        assert_eq!(
            check(Kind::Tree, &[], &full(FullPolicy::Hold), &nothing),
            Ok(())
        );
        let unlimited = BoundArgs {
            on_full: Some(FullPolicy::Spill),
            ..BoundArgs::default()
        };
        let unlimited = check(Kind::Sqlite, &[], &unlimited, &nothing);
        assert!(unlimited.unwrap_err().contains("needs --source-wal-limit"));
        let set = SourceArgs {
            atomic_set: true,
            ..SourceArgs::default()
        };
        assert!(check(Kind::Sqlite, &[], &free, &set).is_err());
        assert!(check(Kind::Native, &["clone"], &free, &nothing).is_err());
        assert_eq!(check(Kind::Tree, &["files=clone"], &free, &set), Ok(()));
    }
}
