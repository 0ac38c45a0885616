//! SQLite itself, in a process of its own: recovers what its next application would recover.
//!
//! Runs in whatever pins; the other side is the hidden command `stillfs sqlite open`.
//!
//! ```text
//! pin --starts--> helper: rights of the owner -> open -> read -> one line -> waits -> close, no checkpoint
//!     <-- line, within PATIENCE ---------------------------/           \-- end of its input, or of us
//! ```
//!
//! * SH1 The helper changes nothing but what SQLite does at any opening: it makes `-wal` and `-shm`, rebuilds
//!   a wal-index, rolls a hot journal back. It never checkpoints, and it removes neither `-wal` nor `-shm`.
//! * SH2 What it makes belongs to the owner of the database: where we are root, the helper is the owner's.
//! * SH3 While an [`Anchor`] is there, the helper has the database open; it ends with the anchor, and with
//!   the process that has the anchor.
//! * SH4 The helper reaches no file outside of the directory of the database, where the kernel can see to
//!   that (Landlock): a journal names a file for SQLite to remove, and a hostile one may name any.
//! * SH5 That directory is the one that the pin found, whatever its path leads to by now: the helper starts
//!   in it, and takes a name in it that is no link.
//!
//! Blocks up to `PATIENCE`. What the helper says is a stranger's word: it works on a file that may be
//! hostile. Not here: whether there is anything to recover, and what is read afterwards.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::os::path::metadata;
use crate::os::real_disk::RealDisk;
use crate::os::record_lock::record_locks;
use crate::os::{Disk, OpenMode, lock_table, read_up_to};
use crate::source::SqliteOptions;
use crate::source::sqlite::Unpinnable;
use crate::source::sqlite::site::Site;

/// How long SQLite may take: a log of some gigabytes is indexed in that time.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);
/// The program itself, whatever became of its name since it was started.
const OWN_PROGRAM: &str = "/proc/self/exe";
const LINE_BYTES_MAX: u64 = 4096;
const MESSAGE_CHARACTERS_MAX: usize = 300;
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// What the helper says on its standard output, as one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum HelperReport {
    /// It read the database and has it open.
    Open {
        /// Whether it could open it for reading only.
        is_read_only: bool,
    },
    /// It has the file open, and it is no database to read without a key: log and journal are done.
    Unreadable {
        /// What SQLite said.
        message: String,
    },
    /// SQLite failed. The helper ends.
    Failed {
        /// SQLite's extended result code.
        code: i32,
        /// What it said.
        message: String,
    },
    /// The owner, whose rights it took, cannot reach the file. The helper ends.
    Unreachable {
        /// The owner.
        uid: u32,
        /// What the system said.
        message: String,
    },
    /// SQLite would remove the log of an empty database. The helper ends.
    LogOfNothing,
}

/// Why SQLite could not open a database that must be recovered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// Somebody else has it.
    #[error(
        "SQLite must recover it, and it is locked by {holders}: try again when that lets it go ({message})"
    )]
    Busy {
        /// Who holds locks on it, in words.
        holders: String,
        /// What SQLite said.
        message: String,
    },
    /// SQLite says that it is none, and there was nothing to recover.
    #[error(
        "SQLite says that it is no database ({message}); if it is encrypted, start its application"
    )]
    NotADatabase {
        /// What SQLite said.
        message: String,
    },
    /// It is damaged.
    #[error("SQLite finds it damaged ({message}); stillfs check says more")]
    Damaged {
        /// What SQLite said.
        message: String,
    },
    /// SQLite must write there, and may not.
    #[error(
        "SQLite must recover it, and may not write it or its directory ({message}); do it as its owner or as root, or start its application"
    )]
    ReadOnly {
        /// What SQLite said.
        message: String,
    },
    /// No room on the file system, or in memory.
    #[error("SQLite must recover it, and there is no room for that ({message}): free some space")]
    NoRoom {
        /// What SQLite said.
        message: String,
    },
    /// The owner cannot reach his file.
    #[error(
        "SQLite must recover it with the rights of its owner, user {uid}, who cannot reach it ({message}): open the directories above it to that user"
    )]
    Unreachable {
        /// The owner.
        uid: u32,
        /// What the system said.
        message: String,
    },
    /// An empty file with a log.
    #[error(
        "it is empty, and there is a log beside it, which SQLite would remove: move the log away if it is of another database"
    )]
    LogOfNothing,
    /// No answer in time.
    #[error(
        "SQLite, which must recover it, did not finish in {} s (process {process}); locks on it: {holders}", PATIENCE.as_secs()
    )]
    Silent {
        /// The helper.
        process: u32,
        /// Who holds locks on it, in words.
        holders: String,
    },
    /// The helper ended without a word, or said something else.
    #[error("the process that lets SQLite recover it ({}) {what}", program.display())]
    Lost {
        /// The program.
        program: PathBuf,
        /// What it did.
        what: &'static str,
    },
    /// The helper could not be started.
    #[error("cannot start {}, which lets SQLite recover it: {source}", program.display())]
    NotStarted {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite failed in another way.
    #[error("SQLite, which must recover it, fails: {message} (code {code})")]
    Sqlite {
        /// SQLite's extended result code.
        code: i32,
        /// What it said.
        message: String,
    },
}

/// A process of SQLite that has the database open, so that what it made stays. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Anchor {
    child: Child,
    input: Option<ChildStdin>,
    ended: Receiver<Option<HelperReport>>,
}

/// Lets SQLite open the database at `site` and read of it once: a stale index is rebuilt, a hot journal
/// rolled back, nothing is checkpointed. Blocks until that is done. What there is to do must be looked for
/// again afterwards: where SQLite may not write, it opens a log without making the index that others see.
///
/// Errors: [`Unpinnable::Recovery`].
pub(super) fn open_once(site: &Site, options: &SqliteOptions) -> Result<Anchor, Unpinnable> {
    Ok(open_within(site, options, PATIENCE)?)
}

fn open_within(
    site: &Site,
    options: &SqliteOptions,
    patience: Duration,
) -> Result<Anchor, RecoveryError> {
    let program = options.helper.as_deref().unwrap_or(Path::new(OWN_PROGRAM));
    let not_started = |source| RecoveryError::NotStarted {
        program: program.to_owned(),
        source,
    };
    let path = &*site.way();
    let had_journal = has_journal(path);
    let mut child = Command::new(program)
        .arg0("stillfs")
        .args(["sqlite", "open", "--"])
        .arg(Path::new(".").join(site.name()))
        .env_clear()
        // SH5: the very directory, wherever a path leads.
        .current_dir(site.folder().way())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(not_started)?;
    let input = child.stdin.take();
    let reports = listen(child.stdout.take());
    let anchor = Anchor {
        child,
        input,
        ended: reports,
    };
    let lost = |what| RecoveryError::Lost {
        program: program.to_owned(),
        what,
    };
    match anchor.ended.recv_timeout(patience) {
        Ok(Some(report)) => judge(report, path, had_journal).map(|()| anchor),
        Ok(None) => {
            anchor.kill();
            Err(lost("answers something that is no report"))
        }
        Err(RecvTimeoutError::Disconnected) => Err(lost("ended without a report")),
        Err(RecvTimeoutError::Timeout) => {
            let process = anchor.child.id();
            let holders = holders(path, process);
            anchor.kill();
            Err(RecoveryError::Silent { process, holders })
        }
    }
}

/// Hears the one report, and then the end of the output, which is that of the process.
fn listen(output: Option<ChildStdout>) -> Receiver<Option<HelperReport>> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let Some(output) = output else { return };
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        let read = output
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line);
        if matches!(read, Ok(count) if count > 0) {
            // Nobody listens any more if this came too late.
            let _ = sender.send(serde_json::from_slice(&line).ok());
        }
        let _ = io::copy(&mut output, &mut io::sink());
    });
    receiver
}

/// Whether what the helper reports is good enough to go on.
fn judge(report: HelperReport, path: &Path, had_journal: bool) -> Result<(), RecoveryError> {
    match report {
        HelperReport::Open {
            is_read_only: false,
        } => Ok(()),
        // It reads a log with an index of its own, which nobody else sees, or a file without any.
        HelperReport::Open { is_read_only: true } if has_log(path) => {
            let message = "it could be opened for reading only".to_owned();
            Err(RecoveryError::ReadOnly { message })
        }
        HelperReport::Open { .. } => Ok(()),
        // SQLite opens a log that is there, an empty one too, before it looks at the first page.
        HelperReport::Unreadable { .. } if has_index(path) => Ok(()),
        HelperReport::Unreadable { .. } if had_journal && !has_journal(path) => Ok(()),
        HelperReport::Unreadable { message } => Err(RecoveryError::NotADatabase {
            message: plain(&message),
        }),
        HelperReport::Failed { code, message } => Err(failed(code, &message, path)),
        HelperReport::Unreachable { uid, message } => Err(RecoveryError::Unreachable {
            uid,
            message: plain(&message),
        }),
        HelperReport::LogOfNothing => Err(RecoveryError::LogOfNothing),
    }
}

/// SQLite's extended code in words: <https://sqlite.org/rescode.html>.
fn failed(code: i32, message: &str, path: &Path) -> RecoveryError {
    const IOERR_WRITE: i32 = 778;
    const IOERR_NOMEM: i32 = 3082;
    const IOERR_SHMSIZE: i32 = 4874;
    let message = plain(message);
    match (code & 0xff, code) {
        // SQLITE_BUSY, _LOCKED, _PROTOCOL: the last after many tries to begin to read.
        (5 | 6 | 15, _) => RecoveryError::Busy {
            holders: holders(path, 0),
            message,
        },
        // _CORRUPT, _NOTADB.
        (11, _) => RecoveryError::Damaged { message },
        (26, _) => RecoveryError::NotADatabase { message },
        // _PERM, _READONLY, _CANTOPEN, _AUTH.
        (3 | 8 | 14 | 23, _) => RecoveryError::ReadOnly { message },
        // _NOMEM, _FULL.
        (7 | 13, _) | (_, IOERR_WRITE | IOERR_NOMEM | IOERR_SHMSIZE) => {
            RecoveryError::NoRoom { message }
        }
        _ => RecoveryError::Sqlite { code, message },
    }
}

/// Who holds record locks on the database or its index, other than `helper`.
fn holders(path: &Path, helper: u32) -> String {
    let mut names = Vec::new();
    for path in [path.to_owned(), beside(path, "-shm")] {
        let Ok(file) = RealDisk.open(&path, OpenMode::Read) else {
            continue;
        };
        let locks = file.as_fd().and_then(|file| record_locks(file).ok());
        for lock in locks.unwrap_or_default() {
            let name = match lock.process {
                Some(process) if process == helper => continue,
                Some(process) => {
                    let line = lock_table::command_line(process);
                    let line = line.map_or_else(String::new, |line| format!(" ({})", plain(&line)));
                    format!("process {process}{line}")
                }
                None => "a process that /proc/locks does not name".to_owned(),
            };
            if !names.contains(&name) && names.len() < 10 {
                names.push(name);
            }
        }
    }
    match names.is_empty() {
        true => "nobody who is seen from here".to_owned(),
        false => names.join(", "),
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn has_log(path: &Path) -> bool {
    metadata(&beside(path, "-wal")).is_ok_and(|found| found.size > 0)
}

fn has_index(path: &Path) -> bool {
    let has_log = metadata(&beside(path, "-wal")).is_ok();
    has_log && metadata(&beside(path, "-shm")).is_ok_and(|found| found.size > 0)
}

/// Whether there is a journal that says something.
fn has_journal(path: &Path) -> bool {
    let mut start = [0; JOURNAL_MAGIC.len()];
    let read = RealDisk.open(&beside(path, "-journal"), OpenMode::Read);
    let read = read.and_then(|file| read_up_to(&*file, &mut start, 0));
    read.is_ok() && start == JOURNAL_MAGIC
}

/// A stranger's text, short and without what a terminal would obey.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars().take(MESSAGE_CHARACTERS_MAX) {
        match character.is_control() {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    out
}

impl Anchor {
    /// The process.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once: SQLite is made for that.
    fn kill(mut self) {
        // One that hangs in the kernel does not even die: whoever drops it gives up soon.
        let _ = self.child.kill();
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQLite in process {}", self.process())
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        drop(self.input.take());
        // A report that nobody took is no end.
        let ends = || loop {
            match self.ended.recv_timeout(CLOSE_PATIENCE) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => break false,
            }
        };
        let mut has_ended = ends();
        if !has_ended {
            tracing::warn!(
                process = self.child.id(),
                "SQLite does not close: it is killed"
            );
            let _ = self.child.kill();
            has_ended = ends();
        }
        if has_ended {
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;

    struct Scene {
        dir: tempfile::TempDir,
        options: SqliteOptions,
    }

    impl Scene {
        /// A database, and a helper that does what the shell script says.
        fn new(script: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let program = dir.path().join("helper");
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
            fs::write(dir.path().join("db"), "not empty").unwrap();
            let options = SqliteOptions {
                helper: Some(program),
                ..SqliteOptions::default()
            };
            Self { dir, options }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// While another test starts a process, that has the script open for writing for a moment.
        fn open(&self, patience: Duration) -> Result<Anchor, RecoveryError> {
            loop {
                match open_within(
                    &Site::of(&self.path("db")).unwrap(),
                    &self.options,
                    patience,
                ) {
                    Err(RecoveryError::NotStarted { source, .. })
                        if source.kind() == io::ErrorKind::ExecutableFileBusy => {}
                    opened => return opened,
                }
            }
        }

        fn error(&self) -> RecoveryError {
            self.open(PATIENCE).unwrap_err()
        }
    }

    /// SH3: the helper's input ends with the anchor, and the anchor's end is that of the helper.
    #[test]
    fn helper_lives_as_long_as_its_anchor() {
        let scene = Scene::new(
            r#"echo '{"state":"open","is_read_only":false}'; /bin/cat >/dev/null; echo "$*" >"${4%/db}/ended""#,
        );
        let anchor = scene.open(PATIENCE).unwrap();
        let shown = format!("{anchor}");
        assert_eq!(shown, format!("SQLite in process {}", anchor.process()));
        assert!(!scene.path("ended").exists());
        drop(anchor);
        let said = fs::read_to_string(scene.path("ended")).unwrap();
        assert_eq!(said, "sqlite open -- ./db\n", "SH5");
    }

    /// What works on a hostile file is not believed.
    #[test]
    fn nonsense_of_a_helper_is_an_error_soon() {
        for (script, word) in [
            ("echo nonsense", "no report"),
            ("echo '{\"state\":\"open\"}'", "no report"),
            ("printf '{\"state\":'; exec /bin/cat /dev/zero", "no report"),
            ("exit 0", "without a report"),
            ("kill -SEGV $$", "without a report"),
        ] {
            let begun = Instant::now();
            let error = Scene::new(script).error().to_string();
            assert!(error.contains(word), "{script}: {error}");
            assert!(begun.elapsed() < PATIENCE, "{script}");
        }
        let mut scene = Scene::new("");
        scene.options.helper = Some(scene.path("missing"));
        assert!(matches!(scene.error(), RecoveryError::NotStarted { .. }));
    }

    #[test]
    fn helper_that_says_nothing_is_given_up() {
        let scene = Scene::new("exec /bin/cat");
        let error = scene.open(Duration::from_millis(50)).unwrap_err();
        let RecoveryError::Silent { process, holders } = &error else {
            panic!("{error}");
        };
        assert_eq!(holders, "nobody who is seen from here");
        assert!(!Path::new(&format!("/proc/{process}")).exists());
    }

    #[test]
    fn failures_of_sqlite_say_what_helps() {
        let fails = |code: i32, message: &str| {
            let report = HelperReport::Failed {
                code,
                message: message.to_owned(),
            };
            let line = serde_json::to_string(&report).unwrap();
            Scene::new(&format!("echo '{line}'")).error()
        };
        assert!(matches!(fails(5, "x"), RecoveryError::Busy { .. }));
        assert!(matches!(fails(261, "x"), RecoveryError::Busy { .. }));
        assert!(matches!(fails(267, "x"), RecoveryError::Damaged { .. }));
        assert!(matches!(fails(1544, "x"), RecoveryError::ReadOnly { .. }));
        assert!(matches!(fails(14, "x"), RecoveryError::ReadOnly { .. }));
        assert!(matches!(fails(13, "x"), RecoveryError::NoRoom { .. }));
        assert!(matches!(fails(4874, "x"), RecoveryError::NoRoom { .. }));
        let long = format!("\u{1b}[2J{}", "y".repeat(1000));
        let error = fails(10, &long).to_string();
        assert!(!error.contains(char::is_control), "{error}");
        assert!(error.contains("code 10") && error.len() < 500, "{error}");
    }

    /// A file that is encrypted is none to SQLite, which by then has opened its log.
    #[test]
    fn unreadable_file_is_open_if_its_log_is() {
        let scene = Scene::new(
            r#"echo '{"state":"unreadable","message":"file is not a database"}'; exec /bin/cat"#,
        );
        assert!(matches!(scene.error(), RecoveryError::NotADatabase { .. }));
        fs::write(scene.path("db-wal"), "").unwrap();
        assert!(matches!(scene.error(), RecoveryError::NotADatabase { .. }));
        fs::write(scene.path("db-shm"), "index").unwrap();
        scene.open(PATIENCE).unwrap();
    }

    /// It reads the log by an index of its own then.
    #[test]
    fn reading_only_is_not_enough_for_a_log() {
        let scene = Scene::new(r#"echo '{"state":"open","is_read_only":true}'; exec /bin/cat"#);
        scene.open(PATIENCE).unwrap();
        fs::write(scene.path("db-wal"), "log").unwrap();
        assert!(matches!(scene.error(), RecoveryError::ReadOnly { .. }));
    }
}
