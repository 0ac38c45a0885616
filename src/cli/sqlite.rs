//! The hidden `sqlite` command: SQLite at work on one database, in a process of its own.
//!
//! The only place where SQLite itself runs. The file may be hostile and SQLite may fail on it in any way:
//! so the process has no rights but the owner's, nothing inherited, a ceiling, and one thing to do. It says
//! one line of JSON on standard output. POSIX locks are a process's, which is the other reason for one of
//! its own: whoever closes a descriptor of the database drops all of them.
//!
//! Starters: `source::sqlite::recovery`, which has the invariants, and `check`.

pub(crate) mod integrity;

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::os::confinement::{
    Ceiling, Reach, become_user, drop_inherited, keep_only, leave_directory, set_ceiling,
};
use crate::os::path::{FileType, Metadata, canonical, metadata, symlink_metadata};
use crate::os::process::effective_user;
use crate::source::sqlite::HelperReport;

/// How long SQLite waits for one lock of somebody else.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// For opening: a log of a terabyte has an index of some gigabytes, which are mapped.
const OPEN_CEILING: Ceiling = Ceiling {
    memory_bytes: 8 << 30,
    cpu_seconds: Some(60),
    open_files: 64,
    // A journal may make the file any size that it had.
    file_bytes: None,
};
/// Users and groups of whom nothing is known here have this number.
const NOBODYS_GROUP: u32 = 65_534;
const NOT_A_DATABASE: i32 = 26;
const CANNOT_OPEN: i32 = 14;

/// Arguments of the hidden `sqlite` command.
#[derive(Debug, Args)]
pub(crate) struct SqliteArgs {
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Opens the database and reads of it, says so, and keeps it open until standard input ends.
    Open { path: PathBuf },
    /// Runs the integrity check on a file that nobody changes; ends with standard input.
    Check { path: PathBuf },
}

pub(crate) fn run(args: &SqliteArgs) -> Outcome {
    match &args.work {
        Work::Open { path } => open(path),
        Work::Check { path } => integrity::run(path),
    }
}

fn open(path: &Path) -> Outcome {
    drop_inherited()?;
    set_ceiling(OPEN_CEILING)?;
    let place = match path.is_absolute() {
        true => {
            leave_directory()?;
            Place::of(path)
        }
        false => Place::here(path)?,
    };
    let report = match take_owners_rights(path).and_then(|()| place.look(path)) {
        Err(error) => HelperReport::Unreachable {
            uid: effective_user(),
            message: error.to_string(),
        },
        // A pipe or a device would keep SQLite for ever.
        Ok(found) if found.file_type != FileType::File => HelperReport::Unreadable {
            message: "not a regular file".to_owned(),
        },
        // SQLite removes what lies beside an empty file.
        Ok(found) if found.size == 0 && has_log(path) => HelperReport::LogOfNothing,
        Ok(_) => {
            let dir = match place.is_here {
                true => Path::new(".").to_owned(),
                false => real_directory(path)?,
            };
            // A journal may name files anywhere for SQLite to remove; a link may lead to another directory.
            keep_only(&dir, Reach::Write)?;
            return open_and_wait(&place);
        }
    };
    say(&report)
}

/// Where the database is for SQLite, which takes whole paths only.
struct Place {
    path: PathBuf,
    /// Whether it is in the working directory, which whoever started us found: no path counts, and no link.
    is_here: bool,
}

impl Place {
    fn of(path: &Path) -> Self {
        let path = path.to_owned();
        Self {
            path,
            is_here: false,
        }
    }

    /// Errors: usage, unless `path` is one name.
    fn here(path: &Path) -> Result<Self, Failure> {
        let mut parts = path.components();
        let is_name = (parts.next(), parts.next(), parts.next());
        match is_name {
            (Some(Component::CurDir), Some(Component::Normal(name)), None) => Ok(Self {
                path: std::env::current_dir()?.join(name),
                is_here: true,
            }),
            _ => Err(Failure::usage(anyhow::anyhow!(
                "the path must be absolute, or ./ and a name"
            ))),
        }
    }

    /// What is at `path`, as it was given. Errors: the system's; `NotFound` where SQLite would find
    /// something else.
    fn look(&self, path: &Path) -> io::Result<Metadata> {
        if !self.is_here {
            return metadata(path);
        }
        let found = symlink_metadata(path)?;
        match symlink_metadata(&self.path)?.identity == found.identity {
            true => Ok(found),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// The directory in which SQLite works.
fn real_directory(path: &Path) -> io::Result<PathBuf> {
    let real = canonical(path)?;
    Ok(real.parent().unwrap_or(Path::new("/")).to_owned())
}

fn open_and_wait(place: &Place) -> Outcome {
    let connection = match connect(place) {
        Ok(connection) => connection,
        Err(error) => return say(&failure(&error)),
    };
    // A journal of several databases names a file that may lie elsewhere: that is refused when this one is
    // rolled back already.
    let read = read_once(&connection);
    let read = read.or_else(|error| match code_of(&error) & 0xff {
        CANNOT_OPEN => read_once(&connection),
        _ => Err(error),
    });
    let report = match read {
        Ok(report) => report,
        // By then log and journal are done: pages are told from others only after.
        Err(error) if code_of(&error) == NOT_A_DATABASE => HelperReport::Unreadable {
            message: error.to_string(),
        },
        Err(error) => return say(&failure(&error)),
    };
    say(&report)?;
    let mut input = io::stdin().lock();
    let mut ignored = [0; 64];
    while !matches!(input.read(&mut ignored), Ok(0) | Err(_)) {}
    // No checkpoint: see `connect`. Whatever it says, nobody listens any more.
    drop(connection.close());
    Ok(Exit::Done)
}

/// Everything that keeps SQLite from doing more than it must stands before the first statement.
fn connect(place: &Place) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let no_links = match place.is_here {
        true => OpenFlags::SQLITE_OPEN_NOFOLLOW,
        false => OpenFlags::empty(),
    };
    restrain(Connection::open_with_flags(&place.path, flags | no_links)?)
}

fn restrain(connection: Connection) -> rusqlite::Result<Connection> {
    for (setting, is_on) in [
        (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
    ] {
        connection.set_db_config(setting, is_on)?;
    }
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    Ok(connection)
}

/// A read transaction that looks at the first page only: the schema, which anybody may have written, is not
/// parsed, and may be damaged.
fn read_once(connection: &Connection) -> rusqlite::Result<HelperReport> {
    connection.pragma_query_value(None, "schema_version", |row| row.get::<_, i64>(0))?;
    let is_read_only = connection.is_readonly("main")?;
    Ok(HelperReport::Open { is_read_only })
}

fn code_of(error: &rusqlite::Error) -> i32 {
    match error {
        rusqlite::Error::SqliteFailure(error, _) => error.extended_code,
        _ => 1,
    }
}

fn failure(error: &rusqlite::Error) -> HelperReport {
    HelperReport::Failed {
        code: code_of(error),
        message: error.to_string(),
    }
}

fn say(report: &HelperReport) -> Outcome {
    output::line(&serde_json::to_string(report)?);
    Ok(Exit::Done)
}

fn has_log(path: &Path) -> bool {
    let mut log = OsString::from(path);
    log.push("-wal");
    metadata(Path::new(&log)).is_ok_and(|found| found.size > 0)
}

/// Where this process is root's, it becomes that of the database's owner; where root's own file lies below
/// the directory of a user, who could put any file and journal there, that of the directory's.
///
/// Errors: the system's.
fn take_owners_rights(path: &Path) -> io::Result<()> {
    if effective_user() != 0 {
        return Ok(());
    }
    let found = match path.is_absolute() {
        true => metadata(path)?,
        false => symlink_metadata(path)?,
    };
    let owner = match found {
        Metadata { uid: 0, .. } => first_user_on_the_way(&canonical(path)?)?,
        found => found,
    };
    match owner.uid {
        0 => Ok(()),
        // Root's group has rights that the owner need not have.
        uid if owner.gid == 0 => become_user(uid, NOBODYS_GROUP),
        uid => become_user(uid, owner.gid),
    }
}

/// The facts of the first directory on the way down to `path` that is not root's, else of one that is.
///
/// Its owner could exchange what lies below it between two looks, so nothing that is seen there counts; what
/// lies above it nobody but root can exchange.
fn first_user_on_the_way(path: &Path) -> io::Result<Metadata> {
    let mut way: Vec<&Path> = path.ancestors().skip(1).collect();
    way.reverse();
    for dir in &way {
        let found = symlink_metadata(dir)?;
        if found.uid != 0 {
            return Ok(found);
        }
    }
    symlink_metadata(way.first().copied().unwrap_or(path))
}
