//! Another database in the place of a running one, in its own directory.
//!
//! ```text
//! DIR/data.pages, wal/, changes/, shadow/      what is served
//! DIR/.stillfs-restoring/new/data.pages        what is to be served: whole, durable, needing no log
//! DIR/.stillfs-restoring/old/                  what was served, until the new one is open
//!
//! close cleanly -> new/data.pages gets owner and mode of DIR/data.pages -> old/data.pages, a second name
//!   -> wal, changes, shadow to old/ -> all of it synced -> new/data.pages renamed over DIR/data.pages, in one
//!   step -> synced -> opened -> .stillfs-restoring/ goes
//! ```
//!
//! * EX1 The directory's lock is held from before the old engine closes until the new one is open.
//! * EX2 At every moment `DIR/data.pages` is the old page file or the new one, and whichever it is needs
//!   nothing of the other's: the old one was closed cleanly before its log is moved.
//! * EX3 Whatever stops it where, the next opening finds the old database whole, or the new one, and needs no
//!   hand: what there is in `.stillfs-restoring` tells how far it was.
//! * EX4 If the new one does not open, the old one takes its place again, with its log, what changed in it, and
//!   its shadow. The last of it is removed only when the new one is open. A start that finds the new one
//!   does the same as long as nothing was ever committed to it, which its log tells; else it says where the
//!   old one is.
//! * EX5 Nothing is exchanged under a pin, and none is taken meanwhile.
//! * EX6 In `.stillfs-restoring` nothing is removed if there is something in it that no restore makes, and
//!   nothing that has the name keeps a database from being opened.
//!
//! | old/data.pages | new/data.pages | what it was at | what is done |
//! |---|---|---|---|
//! | no | yes or no, and no part in old/ | the new one is made, or nothing is moved yet | the folder goes |
//! | yes | yes | parts are moved to old/ | what is missing comes back; the folder goes |
//! | yes | no | the new one is in its place | it is opened; then the folder goes |
//! | no | no, and there are parts in old/ | the old one comes back | its parts replace those of the new one; the folder goes |
//!
//! `archive/` stays: a cursor of another history keeps the new log from its beginning, so that an archive goes
//! on without a gap. What it had not taken of the old log goes with that.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::database::error::DatabaseError;
use crate::database::state::State;
use crate::database::{CHANGES_DIR, Database, LOG_DIR, PAGE_FILE, SHADOW_DIR};
use crate::engine::header::HeaderState;
use crate::engine::{Create, DirLock, EngineOptions};
use crate::os::dir_edit::{sync_all, take_attributes};
use crate::os::{Disk, Host, OpenMode};

/// The folder in a database's directory in which another one is made that is to take its place.
pub const EXCHANGE_DIR: &str = ".stillfs-restoring";
/// The same on its way out.
const GONE_DIR: &str = ".stillfs-restoring.gone";
const NEW: &str = "new";
const OLD: &str = "old";
/// How the folders begin in which a restore to `new` works.
const WORKSPACE: &[u8] = b".new.stillfs-restore";
/// What belongs to a page file, and to no other one.
const PARTS: [&str; 3] = [LOG_DIR, CHANGES_DIR, SHADOW_DIR];

/// What an exchange came to.
#[derive(Debug)]
pub enum Exchanged {
    /// The new database is open.
    Done(Database),
    /// The old one is open again, with all that was committed.
    Kept {
        /// It.
        database: Database,
        /// Why.
        error: DatabaseError,
    },
    /// Neither could be opened; the next start finds one of them.
    Lost {
        /// Why it was not exchanged.
        error: DatabaseError,
        /// Why the old one could not be opened again.
        again: DatabaseError,
    },
}

/// No pin is held, and none can be taken, as long as this lives.
#[derive(Debug)]
pub struct PinsRefused {
    state: Arc<State>,
}

impl Drop for PinsRefused {
    fn drop(&mut self) {
        *self.state.refuses_pins.write() = false;
    }
}

impl Database {
    /// Sees to it that nothing is pinned from here on (EX5).
    ///
    /// Errors: `Pinned` if something is; `Exchanging` if somebody else has done this.
    pub fn refuse_pins(&self) -> Result<PinsRefused, DatabaseError> {
        let state = &self.handle.state;
        state.tend();
        let mut refuses_pins = state.refuses_pins.write();
        if *refuses_pins {
            return Err(DatabaseError::Exchanging);
        }
        match state.shadow.pins().len() {
            0 => *refuses_pins = true,
            pins => return Err(DatabaseError::Pinned { pins }),
        }
        Ok(PinsRefused {
            state: Arc::clone(state),
        })
    }

    /// Makes the folder for a new database, without what was left of another try; gives the path of the
    /// directory that is to be made there, with a page file that needs no log, all of it durable.
    ///
    /// Errors: `Io`; `Occupied` if something of somebody else is there.
    pub fn prepare_exchange(&self) -> Result<PathBuf, DatabaseError> {
        let (host, dir) = (self.engine().host(), self.directory());
        discard(host, dir)?;
        let work = dir.join(EXCHANGE_DIR);
        let made = host.disk.create_dir(&work);
        let made = made.and_then(|()| host.disk.sync_dir(dir));
        made.map_err(failed("make", "the folder of the new database"))?;
        Ok(work.join(NEW))
    }

    /// Removes what [`Self::prepare_exchange`] led to. What cannot be removed goes at the next start.
    pub fn abandon_exchange(&self) {
        clear(self.engine().host(), self.directory());
    }

    /// Puts the database that was prepared in the place of this one, which nobody uses any more, and opens
    /// it. `PinsRefused` goes with the old one.
    pub fn exchange(self, options: &EngineOptions, pins: PinsRefused) -> Exchanged {
        let serves_pins = self.handle.pin_server.lock().is_some();
        let opening = Opening {
            host: self.engine().host().clone(),
            dir: self.directory().to_owned(),
            options: EngineOptions {
                create: Create::Never,
                ..*options
            },
            lock: self.engine().dir_lock(),
            serves_pins,
        };
        let (host, dir) = (&opening.host, &*opening.dir);
        let closed = self.close_for_good();
        drop((self, pins));
        let opened = closed
            .and_then(|()| put(&*host.disk, dir))
            .and_then(|()| opening.open());
        let error = match opened {
            Ok(database) => {
                clear(host, dir);
                return Exchanged::Done(database);
            }
            Err(error) => error,
        };
        tracing::error!(%error, dir = %dir.display(), "the database could not be exchanged");
        // Before it is opened: the room of the new one may be what it needs.
        let again = take_back(&*host.disk, dir)
            .map(|()| clear(host, dir))
            .and_then(|()| opening.open());
        match again {
            Ok(database) => Exchanged::Kept { database, error },
            Err(again) => Exchanged::Lost { error, again },
        }
    }

    /// Errors: those of a checkpoint; `LogNeeded`.
    fn close_for_good(&self) -> Result<(), DatabaseError> {
        self.close()?;
        match self.engine().header().state {
            HeaderState::Clean => Ok(()),
            HeaderState::LogNeeded => Err(DatabaseError::LogNeeded),
        }
    }
}

/// How a database is opened again.
struct Opening {
    host: Host,
    dir: PathBuf,
    options: EngineOptions,
    lock: Option<DirLock>,
    serves_pins: bool,
}

impl Opening {
    fn open(&self) -> Result<Database, DatabaseError> {
        let lock = self.lock.clone().ok_or(DatabaseError::LogNeeded)?;
        let database = Database::open_locked(&self.host, &self.dir, &self.options, lock)?;
        if self.serves_pins {
            database.serve_pins()?;
        }
        Ok(database)
    }
}

/// Which database a directory was brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// The only one that there is.
    Plain,
    /// The new one, with the old one beside it.
    New,
}

/// Brings the directory to one database (EX3), before anything is opened there: the caller has its lock.
///
/// Errors: `Io`.
pub(super) fn settle(host: &Host, dir: &Path) -> Result<Settled, DatabaseError> {
    let disk = &*host.disk;
    let (work, old) = (dir.join(EXCHANGE_DIR), dir.join(EXCHANGE_DIR).join(OLD));
    if !is_dir(disk, &work)? {
        return Ok(Settled::Plain);
    }
    let has_new = is_file(disk, &work.join(NEW).join(PAGE_FILE))?;
    if is_file(disk, &old.join(PAGE_FILE))? {
        if !has_new {
            tracing::info!(dir = %dir.display(), "the restored database is in its place");
            return Ok(Settled::New);
        }
        return_parts(disk, dir, Replace::No)?;
    } else if !has_new && is_dir(disk, &old)? {
        return_parts(disk, dir, Replace::Yes)?;
    }
    tracing::info!(dir = %dir.display(), "what was left of a restore in place goes");
    clear(host, dir);
    Ok(Settled::Plain)
}

/// Puts the old database back if the new one, that [`settle`] found, could not be opened because of `error`,
/// and never was before: then there is no commit in it (EX4).
///
/// Errors: `error` if there is no other one; `Restored` if the new one was in use; `Io`.
pub(super) fn fall_back(
    host: &Host,
    dir: &Path,
    found: Settled,
    error: DatabaseError,
) -> Result<(), DatabaseError> {
    if found == Settled::Plain {
        return Err(error);
    }
    let disk = &*host.disk;
    // Every engine makes its log before it takes a commit.
    let was_used = match disk.list(&dir.join(LOG_DIR)) {
        Ok(segments) => !segments.is_empty(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    if was_used {
        return Err(DatabaseError::Restored {
            old: dir.join(EXCHANGE_DIR).join(OLD),
            source: Box::new(error),
        });
    }
    tracing::error!(%error, dir = %dir.display(), "the restored database cannot be opened: the old one comes back");
    take_back(disk, dir)?;
    clear(host, dir);
    Ok(())
}

/// Removes what is left of an exchange. Failures are told: the next start tries again.
pub(super) fn clear(host: &Host, dir: &Path) {
    if let Err(error) = discard(host, dir) {
        tracing::warn!(%error, dir = %dir.display(), "what a restore in place has left stays for the next start");
    }
}

/// Errors: `Io`; then the folder is whole or has its other name. `Occupied` if something else is in it.
fn discard(host: &Host, dir: &Path) -> Result<(), DatabaseError> {
    let disk = &*host.disk;
    let (work, gone) = (dir.join(EXCHANGE_DIR), dir.join(GONE_DIR));
    let remove = || match is_dir(disk, &gone)? {
        true => {
            refuse_foreign(disk, &gone)?;
            remove_tree(disk, &gone).map_err(failed("remove", "what a restore has left"))
        }
        false => Ok(()),
    };
    remove()?;
    if !is_dir(disk, &work)? {
        return Ok(());
    }
    refuse_foreign(disk, &work)?;
    // In one step: what is half removed would tell something else.
    let moved = disk.rename(&work, &gone).and_then(|()| disk.sync_dir(dir));
    moved.map_err(failed("rename", "what a restore has left"))?;
    remove()
}

/// Errors: `Occupied` if something is in `folder` that no restore makes (EX6); `Io`.
fn refuse_foreign(disk: &dyn Disk, folder: &Path) -> Result<(), DatabaseError> {
    let names = disk.list(folder);
    let names = names.map_err(failed("list", "what a restore has left"))?;
    let is_ours =
        |name: &OsString| name == NEW || name == OLD || name.as_bytes().starts_with(WORKSPACE);
    match names.iter().all(is_ours) {
        true => Ok(()),
        false => Err(DatabaseError::Occupied {
            path: folder.to_owned(),
        }),
    }
}

/// Gives the new page file owner, group and mode of the one that it replaces: those of the backup may keep the
/// engine from writing it, and let others.
///
/// Errors: `Io`, also if it cannot be written even then.
fn dress(disk: &dyn Disk, live: &Path, new: &Path) -> Result<(), DatabaseError> {
    let like = disk.open(live, OpenMode::Read);
    let dressed = like.and_then(|like| {
        let file = disk.open(new, OpenMode::Read)?;
        take_attributes(&*file, &*like)?;
        sync_all(&*file)?;
        disk.open(new, OpenMode::ReadWrite).map(drop)
    });
    dressed.map_err(failed("prepare", "the new database"))
}

/// Errors: `Io`, wherever it was.
fn put(disk: &dyn Disk, dir: &Path) -> Result<(), DatabaseError> {
    let work = dir.join(EXCHANGE_DIR);
    let (new, old) = (work.join(NEW), work.join(OLD));
    let live = dir.join(PAGE_FILE);
    dress(disk, &live, &new.join(PAGE_FILE))?;
    let aside = || failed("put aside", "the database");
    disk.create_dir(&old)
        .and_then(|()| disk.link(&live, &old.join(PAGE_FILE)))
        .and_then(|()| disk.sync_dir(&old))
        .and_then(|()| disk.sync_dir(&work))
        .map_err(aside())?;
    for part in PARTS {
        match disk.rename(&dir.join(part), &old.join(part)) {
            // So that one of the new database is known to be no part of this one (EX4).
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                disk.create_dir(&old.join(part)).map_err(aside())?;
            }
            moved => moved.map_err(aside())?,
        }
    }
    disk.sync_dir(&old)
        .and_then(|()| disk.sync_dir(dir))
        .map_err(aside())?;
    disk.rename(&new.join(PAGE_FILE), &live)
        .and_then(|()| disk.sync_dir(dir))
        .and_then(|()| disk.sync_dir(&new))
        .map_err(failed("put in its place", "the new database"))
}

/// Puts the old database back in its place, wherever it was. Errors: `Io`.
fn take_back(disk: &dyn Disk, dir: &Path) -> Result<(), DatabaseError> {
    let work = dir.join(EXCHANGE_DIR);
    let old = work.join(OLD);
    if !is_dir(disk, &old)? {
        return Ok(());
    }
    if is_file(disk, &work.join(NEW).join(PAGE_FILE))? {
        return return_parts(disk, dir, Replace::No);
    }
    match disk.rename(&old.join(PAGE_FILE), &dir.join(PAGE_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        moved => moved
            .and_then(|()| disk.sync_dir(&old))
            .and_then(|()| disk.sync_dir(dir))
            .map_err(failed("put back", "the database"))?,
    }
    return_parts(disk, dir, Replace::Yes)
}

/// What becomes of a part that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replace {
    /// It is of the old database, or came to it since.
    No,
    /// It is of the new one.
    Yes,
}

fn return_parts(disk: &dyn Disk, dir: &Path, replace: Replace) -> Result<(), DatabaseError> {
    let old = dir.join(EXCHANGE_DIR).join(OLD);
    let back = || failed("put back", "a part of the database");
    for part in PARTS {
        let (kept, place) = (old.join(part), dir.join(part));
        if !is_dir(disk, &kept)? {
            continue;
        }
        match (is_dir(disk, &place)?, replace) {
            (true, Replace::No) => continue,
            (true, Replace::Yes) => remove_tree(disk, &place).map_err(back())?,
            (false, _) => {}
        }
        disk.rename(&kept, &place).map_err(back())?;
    }
    let synced = disk.sync_dir(&old).and_then(|()| disk.sync_dir(dir));
    synced.map_err(back())
}

fn is_dir(disk: &dyn Disk, path: &Path) -> Result<bool, DatabaseError> {
    is_there(disk.open(path, OpenMode::Directory).map(drop))
}

fn is_file(disk: &dyn Disk, path: &Path) -> Result<bool, DatabaseError> {
    is_there(disk.open(path, OpenMode::Read).map(drop))
}

fn is_there(opened: io::Result<()>) -> Result<bool, DatabaseError> {
    match opened {
        Ok(()) => Ok(true),
        // Something else that has the name is none of ours (EX6).
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(failed("look for", "what a restore has left")(error)),
    }
}

/// Removes `path` with all in it, if it is there. Errors: the system's.
fn remove_tree(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
        removed => return removed,
    }
    for name in disk.list(path)? {
        remove_tree(disk, &path.join(name))?;
    }
    disk.remove_dir(path)
}

fn failed(op: &'static str, what: &'static str) -> impl FnOnce(io::Error) -> DatabaseError {
    move |source| DatabaseError::Io { op, what, source }
}
