//! The mounts of this user: one record file for each, held by its daemon.
//!
//! ```text
//! /run/stillfs/<hash of the mount point>.mount     0600, JSON, flock held by the daemon
//! ```
//!
//! A record is published whole: it is written and locked under a private name and then linked, so
//! whoever sees it sees all of it, and sees it held (M7).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::record::MountRecord;
use super::record_file::{self, DirFault, Removal};
use crate::os::Clock;
use crate::os::process::effective_user;
use crate::os::trust::{Distrust, refuse_place};

/// Ending of a record's name.
const EXTENSION: &str = "mount";
/// How often a publisher tries again when records come and go around it.
const ATTEMPTS_MAX: u32 = 100;
/// How often a waiter looks whether a lock is free.
const POLL: Duration = Duration::from_millis(10);

/// Where the records of a user's mounts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    dir: PathBuf,
}

/// Whether the daemon of a record lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// The record's lock is held.
    Alive,
    /// Nobody holds it: the daemon died.
    Dead,
}

/// A record as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What it says.
    pub record: MountRecord,
    /// Whether its daemon lives.
    pub liveness: Liveness,
}

/// The file of a record, and what is in it.
pub type LookedAt = (PathBuf, Result<Listed, RegistryError>);

/// How waiting for a daemon came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The daemon has let its record go, and its pin before that.
    Gone,
    /// It still has it.
    TimedOut,
}

/// What can go wrong with the registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The directory of records cannot be trusted.
    #[error("{} is not a directory; remove it, or set XDG_RUNTIME_DIR to a directory of your own", dir.display())]
    NotDirectory {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory belongs to somebody else.
    #[error("{} belongs to user {owner}; set XDG_RUNTIME_DIR to a directory of your own", dir.display())]
    ForeignOwner {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others may look into the directory or write to it.
    #[error("{} has mode {mode:o}; it must not be open to others: chmod 700 it", dir.display())]
    OpenToOthers {
        /// The directory.
        dir: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Others could exchange the directory.
    #[error("mount records cannot be kept in {}: {source}", dir.display())]
    Untrusted {
        /// The directory.
        dir: PathBuf,
        /// Who could, and where.
        source: Distrust,
    },
    /// A live daemon holds the record of this mount point.
    #[error("{} is held by another stillfs daemon: stillfs umount {} ends it; a view that was unmounted lazily ends with its last user", mount_point.display(), mount_point.display())]
    Held {
        /// The mount point.
        mount_point: PathBuf,
    },
    /// A record cannot be written as JSON.
    #[error("cannot write down the mount: {0}")]
    Encode(#[source] serde_json::Error),
    /// The operating system refused.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl RegistryError {
    fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }
}

/// Refuses a directory that somebody else could exchange for another.
fn refuse_untrusted(dir: &Path) -> Result<(), RegistryError> {
    refuse_place(dir.parent().unwrap_or(dir)).map_err(|source| RegistryError::Untrusted {
        dir: dir.to_owned(),
        source,
    })
}

impl Registry {
    /// The registry of the user who runs this process: `/run/stillfs` for root, else
    /// `$XDG_RUNTIME_DIR/stillfs` if that is a directory of this user's, else `/tmp/stillfs-<uid>`.
    ///
    /// Errors: those of [`Registry::at`].
    pub fn of_this_user() -> Result<Self, RegistryError> {
        Self::at(Self::dir_of_this_user())
    }

    /// Where the registry of this user is, or will be.
    #[must_use]
    pub fn dir_of_this_user() -> PathBuf {
        let uid = effective_user();
        // After `su` the variable still names the directory of another user.
        let is_own = |dir: &PathBuf| dir.is_absolute() && record_file::is_own_dir(dir);
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        match runtime.filter(is_own) {
            _ if uid == 0 => "/run/stillfs".into(),
            Some(dir) => dir.join("stillfs"),
            None => format!("/tmp/stillfs-{uid}").into(),
        }
    }

    /// The registry in `dir` if it is there already; nothing is made.
    ///
    /// Errors: those of [`Registry::at`].
    pub fn existing(dir: PathBuf) -> Result<Option<Self>, RegistryError> {
        match record_file::dir_fault(&dir) {
            Ok(fault) => {
                refuse_untrusted(&dir)?;
                Self::trusted(dir, fault).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RegistryError::io("look at", &dir)(error)),
        }
    }

    /// Its directory: private to this user.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The registry in `dir`, which is made unless it exists.
    ///
    /// Errors: `NotDirectory`, `ForeignOwner`, `OpenToOthers`, `Untrusted`, `Io`.
    pub fn at(dir: PathBuf) -> Result<Self, RegistryError> {
        refuse_untrusted(&dir)?;
        let fault = record_file::private_dir(&dir).map_err(RegistryError::io(
            "make the directory of mount records",
            &dir,
        ))?;
        Self::trusted(dir, fault)
    }

    fn trusted(dir: PathBuf, fault: Option<DirFault>) -> Result<Self, RegistryError> {
        match fault {
            None => Ok(Self { dir }),
            Some(DirFault::NotDirectory) => Err(RegistryError::NotDirectory { dir }),
            Some(DirFault::Owner(owner)) => Err(RegistryError::ForeignOwner { dir, owner }),
            Some(DirFault::Mode(mode)) => Err(RegistryError::OpenToOthers { dir, mode }),
        }
    }

    /// Publishes the record of a mount and holds it until the result is dropped. The record that a
    /// dead daemon left for the same mount point is replaced.
    ///
    /// Errors: `Held` by a live daemon; `Encode`; `Io`.
    pub fn hold(&self, record: &MountRecord) -> Result<HeldRecord, RegistryError> {
        let mut text = serde_json::to_vec(record).map_err(RegistryError::Encode)?;
        text.push(b'\n');
        let path = self.record_path(&record.mount_point);
        for _ in 0..ATTEMPTS_MAX {
            let private = self.private_path();
            let file = match record_file::create_held(&private, &text) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(RegistryError::io("write", &private)(error)),
            };
            let linked = record_file::link(&private, &path);
            record_file::remove(&private).map_err(RegistryError::io("remove", &private))?;
            match linked {
                Ok(()) => return Ok(HeldRecord { path, file }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.make_way(&path, &record.mount_point)?;
                }
                Err(error) => return Err(RegistryError::io("write", &path)(error)),
            }
        }
        Err(RegistryError::Held {
            mount_point: record.mount_point.clone(),
        })
    }

    /// All records, in the order of their mount points. One that cannot be read is left out, with a
    /// line in the log.
    ///
    /// Errors: `Io`.
    pub fn list(&self) -> Result<Vec<Listed>, RegistryError> {
        let mut listed = Vec::new();
        for (_, looked) in self.look_at_all()? {
            match looked {
                Ok(found) => listed.push(found),
                Err(error) => tracing::warn!(%error, "a mount record is left out"),
            }
        }
        listed.sort_by(|a: &Listed, b| a.record.mount_point.cmp(&b.record.mount_point));
        Ok(listed)
    }

    /// Every record with its file, also those that cannot be read, in no order.
    ///
    /// Errors: `Io`, for the directory.
    pub fn look_at_all(&self) -> Result<Vec<LookedAt>, RegistryError> {
        let paths = record_file::paths(&self.dir).map_err(RegistryError::io("list", &self.dir))?;
        let is_record = |path: &PathBuf| path.extension() == Some(OsStr::new(EXTENSION));
        let looked = paths.into_iter().filter(is_record).filter_map(|path| {
            let found = look(&path).transpose()?;
            Some((path, found))
        });
        Ok(looked.collect())
    }

    /// The record of a mount point. Errors: `Io`.
    pub fn find(&self, mount_point: &Path) -> Result<Option<Listed>, RegistryError> {
        look(&self.record_path(mount_point))
    }

    /// Takes hold of the record of a mount point, to wait for its daemon later. To be called before
    /// unmounting: afterwards the record may be that of the next mount. Errors: `Io`.
    pub fn watch(&self, mount_point: &Path) -> Result<Option<RecordWatch>, RegistryError> {
        let path = self.record_path(mount_point);
        let opened = record_file::open(&path).map_err(RegistryError::io("open", &path))?;
        Ok(opened.map(|file| RecordWatch { path, file }))
    }

    /// Waits until the daemon of a mount point has let its record go; at once if there is none.
    /// Blocks up to `timeout`. Errors: `Io`.
    pub fn wait_gone(
        &self,
        mount_point: &Path,
        timeout: Duration,
        clock: &dyn Clock,
    ) -> Result<Wait, RegistryError> {
        match self.watch(mount_point)? {
            Some(watch) => watch.wait_gone(timeout, clock),
            None => Ok(Wait::Gone),
        }
    }

    /// Removes the record of a mount point if its daemon is dead, and says whether none is left.
    /// Errors: `Io`.
    pub fn remove_dead(&self, mount_point: &Path) -> Result<bool, RegistryError> {
        let path = self.record_path(mount_point);
        remove_dead(&path).map(|removal| removal == Removal::Gone)
    }

    fn make_way(&self, path: &Path, mount_point: &Path) -> Result<(), RegistryError> {
        match remove_dead(path)? {
            Removal::Gone => Ok(()),
            Removal::Held => Err(RegistryError::Held {
                mount_point: mount_point.to_owned(),
            }),
        }
    }

    /// The file of the record of a mount point, there or not. Mount points may be longer than names, and
    /// hold bytes that names should not.
    #[must_use]
    pub fn record_path(&self, mount_point: &Path) -> PathBuf {
        let digest = Sha256::digest(mount_point.as_os_str().as_bytes());
        let hash = digest.iter().take(16).map(|byte| format!("{byte:02x}"));
        let name = hash.collect::<String>();
        self.dir.join(name).with_extension(EXTENSION)
    }

    /// A name that no other process and no other call uses at the same time.
    fn private_path(&self) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.dir
            .join(format!(".{}-{number}.new", std::process::id()))
    }
}

/// Removes a dead record. A look at its liveness holds it for a moment, so what is held is looked at
/// more than once before it is called alive.
fn remove_dead(path: &Path) -> Result<Removal, RegistryError> {
    let failed = || RegistryError::io("remove", path);
    for _ in 0..ATTEMPTS_MAX {
        if record_file::remove_unheld(path).map_err(failed())? == Removal::Gone {
            return Ok(Removal::Gone);
        }
        let Some(file) = record_file::open(path).map_err(failed())? else {
            return Ok(Removal::Gone);
        };
        if record_file::is_held(&file).map_err(failed())? {
            return Ok(Removal::Held);
        }
        std::thread::yield_now();
    }
    Ok(Removal::Held)
}

/// Reads a record and looks whether it is held; `None` if there is none.
fn look(path: &Path) -> Result<Option<Listed>, RegistryError> {
    let failed = || RegistryError::io("read", path);
    let Some(file) = record_file::open(path).map_err(failed())? else {
        return Ok(None);
    };
    let text = record_file::content(&file).map_err(failed())?;
    let record = serde_json::from_slice(&text)
        .map_err(|error| failed()(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    let liveness = if record_file::is_held(&file).map_err(failed())? {
        Liveness::Alive
    } else {
        Liveness::Dead
    };
    Ok(Some(Listed { record, liveness }))
}

/// The record of a mount that this process serves. Dropping it is the last thing that a daemon does:
/// whoever waits for it may rely on the pin being released.
#[derive(Debug)]
pub struct HeldRecord {
    path: PathBuf,
    file: File,
}

impl Drop for HeldRecord {
    fn drop(&mut self) {
        // The name goes before the lock: what is seen without a lock is a dead daemon's.
        if let Err(error) = record_file::remove_own(&self.path, &self.file) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove a mount record");
        }
    }
}

/// A record that was there, and whose daemon can be waited for.
#[derive(Debug)]
pub struct RecordWatch {
    path: PathBuf,
    file: File,
}

impl RecordWatch {
    /// Waits until the daemon has let this record go. Blocks up to `timeout`. Errors: `Io`.
    pub fn wait_gone(&self, timeout: Duration, clock: &dyn Clock) -> Result<Wait, RegistryError> {
        let deadline = clock.monotonic().saturating_add(timeout);
        loop {
            if !record_file::is_held(&self.file).map_err(RegistryError::io("watch", &self.path))? {
                return Ok(Wait::Gone);
            }
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Ok(Wait::TimedOut);
            }
            clock.sleep(left.min(POLL));
        }
    }
}

#[cfg(test)]
mod tests;
