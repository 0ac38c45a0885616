//! Which SQLite a process runs, by what the files say that it has mapped, and what is known to be wrong
//! with that version.
//!
//! A build of SQLite holds its source id, `YYYY-MM-DD HH:MM:SS` and 64 characters of a hash, and its version,
//! `3.x.y`, as texts that end in zero.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::super::finding::{Finding, Id};
use crate::os::process_map::{MappedFile, mapped_files, path_seen_by};
use crate::os::{Host, OpenMode, read_up_to};

/// Files of a process that are searched at most, and bytes of all of them.
const FILES_MAX: usize = 200;
const BYTES_MAX: u64 = 1 << 30;
const STEP_BYTES: usize = 1 << 20;
/// More than a source id needs: so much of a step is looked at again with the next.
const OVERLAP_BYTES: usize = 256;
/// `YYYY-MM-DD HH:MM:SS `.
const DATE_BYTES: usize = 20;
/// A hash of old; later ones have 64 characters.
const HASH_CHARACTERS_MIN: usize = 40;
/// The day from which builds mend the WAL-reset bug, in every branch that does.
const RESET_MENDED_ON: &str = "2026-03-03";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

/// A build of SQLite.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Build {
    file: PathBuf,
    /// Where only one text looks like it.
    version: Option<Version>,
    /// Of the source: `YYYY-MM-DD`.
    date: String,
}

/// What is known to damage databases in WAL mode.
struct Bug {
    what: &'static str,
    first: Version,
    /// The first version of each branch that mends it, the newest first.
    mended: &'static [Version],
    more: &'static str,
}

const BUGS: &[Bug] = &[
    Bug {
        what: "the WAL-reset bug: two connections that write or checkpoint at one moment can lose pages",
        first: Version(3, 7, 0),
        mended: &[Version(3, 51, 3), Version(3, 50, 7), Version(3, 44, 6)],
        more: "https://sqlite.org/wal.html#walresetbug",
    },
    Bug {
        what: "frequent changes into and out of WAL mode with VACUUM can damage it",
        first: Version(3, 7, 0),
        mended: &[Version(3, 7, 5)],
        more: "https://sqlite.org/releaselog/3_7_5.html",
    },
];

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Build {
    /// The bugs are of WAL mode: without a database in that mode they do not count.
    fn judge(&self, process: u32, with_log: Option<&Path>) -> Finding {
        let version = self.version.map_or_else(
            || format!("SQLite of {}", self.date),
            |version| format!("SQLite {version} of {}", self.date),
        );
        let what = format!("runs {version} ({})", self.file.display());
        let subject = format!("process {process}");
        let bugs = BUGS.iter().filter(|bug| bug.is_in(self)).map(Bug::advice);
        let bugs: Vec<String> = bugs.collect();
        match with_log.filter(|_| !bugs.is_empty()) {
            None => Finding::ok(Id::SqliteLibrary, subject, what),
            Some(path) => {
                let bugs = bugs.join("; and ");
                let text = format!("{what}, and has {} open: {bugs}", path.display());
                Finding::warning(Id::SqliteLibrary, subject, text)
            }
        }
    }
}

impl Bug {
    fn is_in(&self, build: &Build) -> bool {
        let newest = self.mended.first().copied();
        match build.version {
            Some(version) => {
                let is_old = version >= self.first && newest.is_some_and(|newest| version < newest);
                let is_branch = |mended: &&Version| (mended.0, mended.1) == (version.0, version.1);
                let branch = self.mended.iter().find(is_branch);
                is_old && branch.is_none_or(|mended| version < *mended)
            }
            // Only the newest bug can be told by the day.
            None => newest == Some(Version(3, 51, 3)) && build.date.as_str() < RESET_MENDED_ON,
        }
    }

    fn advice(&self) -> String {
        let mended: Vec<String> = self.mended.iter().map(Version::to_string).collect();
        format!(
            "{}; mended in {} ({})",
            self.what,
            mended.join(", "),
            self.more
        )
    }
}

/// The processes that were met, and the builds that were found in files.
#[derive(Debug, Default)]
pub(super) struct Libraries {
    files: BTreeMap<PathBuf, Option<Build>>,
    /// With a database in WAL mode that it has open.
    processes: BTreeMap<u32, Option<PathBuf>>,
}

impl Libraries {
    /// Takes note of a process that has the database at `path` open.
    pub(super) fn note(&mut self, process: u32, path: &Path, is_log: bool) {
        let with_log = self.processes.entry(process).or_default();
        if is_log {
            with_log.get_or_insert_with(|| path.to_owned());
        }
    }

    /// Which SQLite each of the processes runs.
    pub(super) fn look(mut self, host: &Host) -> Vec<Finding> {
        let processes = std::mem::take(&mut self.processes);
        let found = processes.into_iter().filter_map(|(process, with_log)| {
            let build = self.find(host, process)?;
            Some(build.judge(process, with_log.as_deref()))
        });
        found.collect()
    }

    fn find(&mut self, host: &Host, process: u32) -> Option<Build> {
        let mapped = mapped_files(process).ok()?;
        let mut budget = BYTES_MAX;
        for file in candidates(&mapped).into_iter().take(FILES_MAX) {
            if !self.files.contains_key(&file) {
                let seen = path_seen_by(process, &file);
                let found = search(host, &seen, &mut budget);
                let found = found.map(|(version, date)| Build {
                    file: file.clone(),
                    version,
                    date,
                });
                self.files.insert(file.clone(), found);
            }
            if let Some(Some(build)) = self.files.get(&file) {
                return Some(build.clone());
            }
        }
        None
    }
}

/// The programs and libraries, those first that are called after SQLite, then the program itself.
fn candidates(mapped: &[MappedFile]) -> Vec<PathBuf> {
    let mut code: Vec<&Path> = Vec::new();
    for file in mapped.iter().filter(|file| file.is_code) {
        if !code.contains(&&*file.path) {
            code.push(&file.path);
        }
    }
    let is_named = |path: &&Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.contains("sqlite")
    };
    let (named, others): (Vec<&Path>, Vec<&Path>) = code.into_iter().partition(is_named);
    named
        .into_iter()
        .chain(others)
        .map(Path::to_owned)
        .collect()
}

/// The version and the day of the SQLite in a file, if there is one.
fn search(host: &Host, path: &Path, budget: &mut u64) -> Option<(Option<Version>, String)> {
    let file = host.disk.open(path, OpenMode::Read).ok()?;
    let mut versions = BTreeSet::new();
    let mut date = None;
    let mut bytes = vec![0; OVERLAP_BYTES + STEP_BYTES];
    let mut offset: u64 = 0;
    let mut kept = 0;
    while *budget > 0 {
        let count = read_up_to(&*file, bytes.get_mut(kept..)?, offset).ok()?;
        *budget = budget.saturating_sub(count as u64);
        offset += count as u64;
        let found = bytes.get(..kept + count)?;
        // The first text may have begun before, and the last goes on in what is read next.
        let has_begun = offset > (kept + count) as u64;
        let mut texts: Vec<&[u8]> = found.split(|byte| *byte == 0).collect();
        if count > 0 {
            texts.pop();
        }
        for text in texts.into_iter().skip(usize::from(has_begun)) {
            date = date.or_else(|| source_date(text));
            versions.extend(version(text));
        }
        if count == 0 {
            break;
        }
        let again = found.len().min(OVERLAP_BYTES);
        let from = found.len() - again;
        bytes.copy_within(from..from + again, 0);
        kept = again;
    }
    let one = match versions.len() {
        1 => versions.first().copied(),
        _ => None,
    };
    date.map(|date| (one, date))
}

/// The day of a text that is a source id.
fn source_date(text: &[u8]) -> Option<String> {
    let date = text.get(..DATE_BYTES)?;
    let hash = text.get(DATE_BYTES..)?;
    let pattern = b"0000-00-00 00:00:00 ";
    let is_date = date.iter().zip(pattern).all(|(byte, wanted)| match wanted {
        b'0' => byte.is_ascii_digit(),
        wanted => byte == wanted,
    });
    let is_hash = hash.len() >= HASH_CHARACTERS_MIN
        && hash
            .iter()
            .take(HASH_CHARACTERS_MIN)
            .all(u8::is_ascii_hexdigit);
    let date = str::from_utf8(date.get(..10)?).ok()?;
    (is_date && is_hash && date > "2000").then(|| date.to_owned())
}

fn version(text: &[u8]) -> Option<Version> {
    let text = str::from_utf8(text).ok().filter(|text| text.len() < 12)?;
    let mut parts = text.strip_prefix("3.")?.split('.');
    let mut part = || {
        let part = parts.next()?;
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse().ok().filter(|_| is_number)
    };
    let version = Version(3, part()?, part()?);
    parts.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;

    const ID: &str =
        "2022-12-28 14:03:47 df5c253c0b3dd24916e4ec7cf77d3db5294cc9fd45ae7b9c5e82ad8197f3alt1";

    fn build(version: Option<Version>, date: &str) -> Build {
        Build {
            file: "/lib/libsqlite3.so.0".into(),
            version,
            date: date.to_owned(),
        }
    }

    #[test]
    fn versions_with_known_bugs_are_told_from_others() {
        let bugs = |version: Version| {
            let build = build(Some(version), "2026-01-01");
            BUGS.iter().filter(|bug| bug.is_in(&build)).count()
        };
        for (version, count) in [
            (Version(3, 6, 23), 0),
            (Version(3, 7, 0), 2),
            (Version(3, 7, 4), 2),
            (Version(3, 7, 5), 1),
            (Version(3, 40, 1), 1),
            (Version(3, 44, 5), 1),
            (Version(3, 44, 6), 0),
            (Version(3, 45, 0), 1),
            (Version(3, 50, 6), 1),
            (Version(3, 50, 7), 0),
            (Version(3, 51, 2), 1),
            (Version(3, 51, 3), 0),
            (Version(3, 53, 0), 0),
        ] {
            assert_eq!(bugs(version), count, "{version}");
        }
        let of_day = |date: &str| {
            BUGS.iter()
                .filter(|bug| bug.is_in(&build(None, date)))
                .count()
        };
        assert_eq!((of_day("2026-03-02"), of_day("2026-03-13")), (1, 0));
    }

    #[test]
    fn build_is_found_in_a_file_wherever_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        let host = Host::system();
        for before in [0, 3, STEP_BYTES - 60, STEP_BYTES + OVERLAP_BYTES - 40] {
            let mut bytes = vec![b'x'; before];
            bytes.extend([b"\0", ID.as_bytes(), b"\x003.40.1\0", b"13.40.2\0"].concat());
            std::fs::write(&path, &bytes).unwrap();
            let found = search(&host, &path, &mut BYTES_MAX.clone());
            let expected = (Some(Version(3, 40, 1)), "2022-12-28".to_owned());
            assert_eq!(found, Some(expected), "{before}");
        }
        // Another program's version beside it: then the day counts.
        std::fs::write(&path, format!("3.40.1\0{ID}\x003.9.9\0")).unwrap();
        let found = search(&host, &path, &mut BYTES_MAX.clone());
        assert_eq!(found, Some((None, "2022-12-28".to_owned())));
        std::fs::write(&path, "3.40.1\0 no id").unwrap();
        assert_eq!(search(&host, &path, &mut BYTES_MAX.clone()), None);
    }

    #[test]
    fn texts_that_only_look_like_it_are_none() {
        for text in [
            "3.40", "3.40.", "3.4x.1", "3.40.1.2", "4.40.1", "3.+4.1", "",
        ] {
            assert_eq!(version(text.as_bytes()), None, "{text}");
        }
        assert_eq!(source_date(ID.as_bytes()).unwrap(), "2022-12-28");
        for text in [
            "2022-12-28",
            "2022-12-28 14:03:47 short",
            &ID.replace("df5", "no!"),
        ] {
            assert_eq!(source_date(text.as_bytes()), None, "{text}");
        }
    }
}
