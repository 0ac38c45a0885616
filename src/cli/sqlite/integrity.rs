//! SQLite's own checks of one file: the hidden `stillfs sqlite check`, and who asks it.
//!
//! The file must be still: a view, or a copy that nobody has open. SQLite is told so (`immutable=1`), takes
//! no lock and writes nothing, neither there nor anywhere.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::Context;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use super::{code_of, real_directory, restrain};
use crate::cli::exit::{Exit, Failure, Outcome};
use crate::cli::output;
use crate::os::confinement::{
    Ceiling, Reach, drop_inherited, keep_only, leave_directory, set_ceiling,
};

/// It may take hours, and reads by pages; nothing is written.
const CHECK_CEILING: Ceiling = Ceiling {
    memory_bytes: 16 << 30,
    cpu_seconds: None,
    open_files: 64,
    file_bytes: Some(0),
};
/// How many problems are told of one database.
pub(crate) const PROBLEMS_MAX: usize = 1000;
const PROBLEM_CHARACTERS_MAX: usize = 500;
const FOREIGN_TABLES_MAX: usize = 100;
const CACHE_KIB: i64 = 64 << 10;
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What SQLite says of a database.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Integrity {
    /// Bytes of a page.
    pub(crate) page_size: Option<u64>,
    /// Pages.
    pub(crate) page_count: Option<u64>,
    /// What `integrity_check` found, at most [`PROBLEMS_MAX`].
    pub(crate) problems: Vec<String>,
    /// What `foreign_key_check` found: rows by "table -> parent".
    pub(crate) foreign_keys: BTreeMap<String, u64>,
    /// Why the checks could not be ended.
    pub(crate) failure: Option<Fault>,
}

/// A failure of SQLite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// Its extended result code.
    pub(crate) code: i32,
    /// What it said.
    pub(crate) message: String,
}

impl Fault {
    fn of(error: &rusqlite::Error) -> Self {
        Self {
            code: code_of(error),
            message: shortened(&error.to_string()),
        }
    }

    /// Whether SQLite read something that no database has in that place.
    pub(crate) fn is_damage(&self) -> bool {
        self.code & 0xff == 11
    }

    /// Whether SQLite takes the file for none of its own: encrypted, or anything else.
    pub(crate) fn is_not_a_database(&self) -> bool {
        self.code & 0xff == 26
    }
}

/// Lets SQLite check the still file at `path`, in a process of its own.
///
/// Errors: if that cannot be started, or ends without an answer.
pub(crate) fn ask(path: &Path, started: impl FnOnce(u32)) -> Result<Integrity, Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["sqlite", "check", "--"])
        .arg(path)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the process that runs SQLite")?;
    started(child.id());
    let output = child.stdout.take().context("SQLite has no output")?;
    let mut answer = Vec::new();
    let read = output.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    // Its input ends here at the latest, and with it the process.
    drop(child.stdin.take());
    let status = child.wait().context("cannot wait for SQLite")?;
    read.context("cannot read what SQLite says")?;
    let lost = || format!("SQLite ended without an answer ({status})");
    Ok(serde_json::from_slice(&answer).with_context(lost)?)
}

/// The child's side.
pub(super) fn run(path: &Path) -> Outcome {
    drop_inherited()?;
    leave_directory()?;
    set_ceiling(CHECK_CEILING)?;
    let mut found = Integrity::default();
    let opened = real_directory(path).and_then(|dir| keep_only(&dir, Reach::Read));
    match opened {
        Ok(_) => {
            thread::spawn(end_with_input);
            found.failure = check(path, &mut found).err().map(|e| Fault::of(&e));
        }
        Err(error) => {
            found.failure = Some(Fault {
                code: 14,
                message: error.to_string(),
            });
        }
    }
    // What stopped the checks may be a finding itself.
    if let Some(fault) = found.failure.take_if(|fault| fault.is_damage()) {
        found.problems.push(fault.message);
    }
    output::line(&serde_json::to_string(&found)?);
    Ok(Exit::Done)
}

/// Whoever asked is gone.
fn end_with_input() {
    drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
    std::process::exit(Exit::Interrupted.code().into());
}

fn check(path: &Path, found: &mut Integrity) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let connection = restrain(Connection::open_with_flags(address(path), flags)?)?;
    // What does not fit into memory fails: nothing may be written.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    found.page_size = u64::try_from(number("page_size")?).ok();
    found.page_count = u64::try_from(number("page_count")?).ok();
    problems(&connection, &mut found.problems)?;
    match foreign_keys(&connection, &mut found.foreign_keys) {
        // Of a table whose parent cannot be asked by that key: nobody can tell.
        Err(error) if code_of(&error) == 1 => Ok(()),
        checked => checked,
    }
}

fn problems(connection: &Connection, found: &mut Vec<String>) -> rusqlite::Result<()> {
    let mut asked = connection.prepare(&format!("PRAGMA integrity_check({PROBLEMS_MAX})"))?;
    let mut rows = asked.query([])?;
    while let Some(row) = rows.next()? {
        let text = row.get_ref(0)?.as_bytes().unwrap_or_default();
        // One row may hold several lines, below a headline.
        for line in String::from_utf8_lossy(text).lines() {
            let is_said = line == "ok" || line.starts_with("*** in database ");
            if !is_said && found.len() < PROBLEMS_MAX {
                found.push(shortened(line));
            }
        }
    }
    Ok(())
}

fn foreign_keys(
    connection: &Connection,
    found: &mut BTreeMap<String, u64>,
) -> rusqlite::Result<()> {
    let mut asked = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = asked.query([])?;
    while let Some(row) = rows.next()? {
        let word = |at| {
            let word = row.get_ref(at).ok().and_then(|word| word.as_bytes().ok());
            shortened(&String::from_utf8_lossy(word.unwrap_or_default()))
        };
        let names = format!("{} -> {}", word(0), word(2));
        if found.len() < FOREIGN_TABLES_MAX || found.contains_key(&names) {
            *found.entry(names).or_default() += 1;
        }
    }
    Ok(())
}

/// `file:...?immutable=1`, whatever bytes the path has.
fn address(path: &Path) -> String {
    let mut address = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => address.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => address.push(char::from(*byte)),
            byte => address.push_str(&format!("%{byte:02x}")),
        }
    }
    address + "?immutable=1"
}

/// A text that may come from a hostile file.
fn shortened(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars().take(PROBLEM_CHARACTERS_MAX) {
        match character.is_control() {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    out
}
