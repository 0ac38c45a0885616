//! `audit/newest`, `audit/older`: who did what to a repository, and how it ended.
//!
//! One JSON object on each line, oldest first. A line is never changed. Whoever adds one holds the lock of
//! the marks, reads the object, and puts it back with the line in one step, so that of two processes
//! neither loses its line and no reader finds half of one (BK14). An object that would become larger than
//! 256 KiB becomes `audit/older` first, in the place of the one before: a repository keeps the newest 256
//! KiB at least and twice that at most. A crash between those two steps leaves lines in both, which are known by
//! their `id`.
//!
//! What cannot be read as a line is passed over and counted. It is kept, and the lines around it stay good.
//! An object that is damaged as a whole, as an encrypted one may be, counts as one such line; whoever adds the
//! next line begins it anew.

use serde::{Deserialize, Serialize};

use crate::os::Random;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::hex;
use crate::repository::store::{Put, Store};

/// The folder of the log.
pub(super) const FOLDER: &str = "audit";
const NEWEST: &str = "audit/newest";
const OLDER: &str = "audit/older";
/// Newest version of a line.
const AUDIT_VERSION: u32 = 1;
/// An object is not larger than this.
const OBJECT_BYTES_MAX: usize = 256 << 10;
/// Text of one field that people or an error wrote.
const TEXT_BYTES_MAX: usize = 1000;
/// Backups that a line names; `...` counts the others.
const BACKUPS_MAX: usize = 100;
/// How often an object is read before it counts as damaged: it may be replaced between two steps of that.
const TRIES: u32 = 4;

/// One command that somebody ran. The names are stable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Version of the line.
    pub stillfs_audit: u32,
    /// Drawn at random, so that a line that is there twice counts once.
    pub id: String,
    /// `backup`, `forget`, `verify` ...
    pub command: String,
    /// The entry of the configuration that it was run for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The name of the user, where there is one.
    #[serde(default)]
    pub user: Option<String>,
    /// Its number.
    pub uid: u32,
    /// Who became that user by `sudo`, as that says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_user: Option<String>,
    /// The machine.
    pub host: String,
    /// The process.
    pub process_id: u32,
    /// Version of the stillfs that ran.
    pub stillfs: String,
    /// What was backed up, or where it was copied from.
    #[serde(default)]
    pub path: Option<String>,
    /// The backups that were made, forgotten, verified, held, copied.
    #[serde(default)]
    pub backups: Vec<String>,
    /// When it began, nanoseconds since 1970.
    pub begun_ns: u64,
    /// When it ended.
    pub finished_ns: u64,
    /// Its exit code.
    pub exit: u8,
    /// Why it failed.
    #[serde(default)]
    pub message: Option<String>,
}

/// What the log of a repository says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditLog {
    /// Oldest first.
    pub events: Vec<AuditEvent>,
    /// Lines that could not be read; an object that is damaged counts as one.
    pub unreadable: u64,
}

impl AuditLog {
    /// The bytes of an object; one that is damaged is counted, and has none.
    fn take_object(&mut self, store: &dyn Store, object: &str) -> Result<Vec<u8>> {
        match read_object(store, object) {
            Err(error) if is_spoilt(&error) => {
                tracing::debug!(%error, "an object of the audit log cannot be read");
                self.unreadable += 1;
                Ok(Vec::new())
            }
            content => content,
        }
    }
}

impl AuditEvent {
    /// Whether the command did what it was asked to, maybe not with all of it.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.exit, 0 | 3)
    }

    /// Whether it was a scheduled verification for the source at `path`: of every byte of the repository.
    #[must_use]
    pub fn is_verification_of(&self, path: &str) -> bool {
        let is_scheduled = self.command == "verify" && self.entry.is_some();
        is_scheduled && self.path.as_deref() == Some(path)
    }

    /// The line, within bounds.
    fn line(&self) -> Vec<u8> {
        let mut event = self.clone();
        event.stillfs_audit = AUDIT_VERSION;
        let texts = [&mut event.path, &mut event.message, &mut event.entry];
        texts.into_iter().flatten().for_each(shorten);
        let more = event.backups.len().saturating_sub(BACKUPS_MAX);
        event.backups.truncate(BACKUPS_MAX);
        event
            .backups
            .extend((more > 0).then(|| format!("... {more}")));
        let mut line = serde_json::to_vec(&event).expect("plain fields can be written");
        line.push(b'\n');
        line
    }
}

fn shorten(text: &mut String) {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push_str("...");
    }
}

/// Adds a line, durably; `event` gets an id. Waits for others who are at it.
///
/// Errors: `Locked` if they do not come to an end; `NoSpace`, `Io`. The log is then as it was.
pub fn record(store: &dyn Store, random: &dyn Random, event: &AuditEvent) -> Result<()> {
    let mut id = [0; 8];
    let drawn = random.fill(&mut id);
    drawn.map_err(RepositoryError::io("draw an id for", NEWEST))?;
    let event = AuditEvent {
        id: hex::encode(&id),
        ..event.clone()
    };
    let line = event.line();
    let _marks = store.lock_marks()?;
    let mut newest = match read_object(store, NEWEST) {
        // Nobody can write to it meanwhile. Without it there would be no log any more.
        Err(error) if is_spoilt(&error) => {
            tracing::warn!(%error, "the newest lines of the audit log are lost; it begins anew");
            Vec::new()
        }
        newest => newest?,
    };
    if newest.last().is_some_and(|last| *last != b'\n') {
        newest.push(b'\n');
    }
    if newest.len() + line.len() > OBJECT_BYTES_MAX {
        store.put(OLDER, &[&newest], Put::Replace)?;
        // Before the lines are gone from their old place.
        store.settle()?;
        newest.clear();
    }
    store.put(NEWEST, &[&newest, &line], Put::Replace)?;
    store.settle()
}

/// All that is known. Errors: `Version`, `Io`.
pub fn read(store: &dyn Store) -> Result<AuditLog> {
    let mut log = AuditLog::default();
    // In this order nothing is missed that becomes older meanwhile; what is in both counts once.
    let newest = log.take_object(store, NEWEST)?;
    let older = log.take_object(store, OLDER)?;
    let mut seen = std::collections::BTreeSet::new();
    for line in older
        .split(|byte| *byte == b'\n')
        .chain(newest.split(|byte| *byte == b'\n'))
    {
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice::<AuditEvent>(line) {
            Ok(event) if event.stillfs_audit <= AUDIT_VERSION => {
                if seen.insert(event.id.clone()) {
                    log.events.push(event);
                }
            }
            _ => log.unreadable += 1,
        }
    }
    Ok(log)
}

/// Whether it is so again however often it is read.
fn is_spoilt(error: &RepositoryError) -> bool {
    use RepositoryError::{Cut, Damaged};
    matches!(error, Damaged { .. } | Cut { .. })
}

/// The bytes of an object, or of one that is too large the last of them; none if there is none.
///
/// Size, head and content are read one after the other, so that what is replaced meanwhile may look damaged.
fn read_object(store: &dyn Store, object: &str) -> Result<Vec<u8>> {
    let mut tries = 1;
    loop {
        match read_once(store, object) {
            Err(error) if is_spoilt(&error) && tries < TRIES => tries += 1,
            content => return content,
        }
    }
}

fn read_once(store: &dyn Store, object: &str) -> Result<Vec<u8>> {
    let bytes = match store.size(object) {
        Err(RepositoryError::Missing { .. }) => return Ok(Vec::new()),
        bytes => bytes?,
    };
    let start = bytes.saturating_sub(OBJECT_BYTES_MAX as u64);
    let count = usize::try_from(bytes - start).unwrap_or(OBJECT_BYTES_MAX);
    let mut content = vec![0; count];
    store.read_at(object, start, &mut content)?;
    if start > 0 {
        // Its first line is not whole.
        let end = content.iter().position(|byte| *byte == b'\n');
        content.drain(..end.map_or(count, |end| end + 1));
    }
    Ok(content)
}

#[cfg(test)]
mod tests;
