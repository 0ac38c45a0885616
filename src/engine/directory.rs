//! The directory of a database: its making and its name, its lock, who holds it, and whether it may be
//! trusted.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::create::{LOCK_FILE, has_first_files_only};
use crate::engine::error::{EngineError, FileRole, Result};
use crate::os::file_system::{self, RefusedFileSystem};
use crate::os::{self, File, Host, LockKind, OpenMode, trust};

/// How long an engine that starts waits for those who only look at its directory.
const LOOKERS_PATIENCE: Duration = Duration::from_secs(30);
const LOOKERS_PAUSE: Duration = Duration::from_millis(50);
const HOLDER_TRIES: u32 = 20;
const HOLDER_PAUSE: Duration = Duration::from_millis(5);

pub(super) fn make_dir(host: &Host, dir: &Path) -> Result<()> {
    refuse_untrusted_parent(host, dir)?;
    match host.disk.create_dir(dir) {
        Ok(()) => sync_parent(host, dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            sync_parent_if_readable(host, dir)
        }
        Err(error) => Err(EngineError::io_at("make", FileRole::Directory, dir)(error)),
    }
}

/// A process that was killed may have made `dir` without syncing its name. Where the parent cannot be
/// read, it was somebody else who made it.
pub(super) fn sync_parent_if_readable(host: &Host, dir: &Path) -> Result<()> {
    match sync_parent(host, dir) {
        Err(EngineError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            Ok(())
        }
        synced => synced,
    }
}

/// A directory is not made where somebody else would at once put another in its place.
pub(super) fn refuse_untrusted_parent(host: &Host, dir: &Path) -> Result<()> {
    if host.disk.open(dir, OpenMode::Directory).is_ok() {
        return Ok(());
    }
    let parent = parent_of(dir);
    match host.disk.open(parent, OpenMode::Directory) {
        Ok(handle) if handle.as_fd().is_some() => {
            trust::refuse_place(parent).map_err(untrusted(dir))
        }
        // Making it will tell.
        Ok(_) | Err(_) => Ok(()),
    }
}

pub(super) fn untrusted(dir: &Path) -> impl FnOnce(trust::Distrust) -> EngineError {
    let dir = dir.to_owned();
    |source| EngineError::Untrusted { dir, source }
}

/// An engine makes, cuts and removes files by their paths; a simulated disk has no other users.
pub(super) fn refuse_untrusted(handle: &dyn File, dir: &Path) -> Result<()> {
    if handle.as_fd().is_none() {
        return Ok(());
    }
    trust::refuse_shared(dir).map_err(untrusted(dir))
}

pub(super) fn parent_of(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(super) fn sync_parent(host: &Host, dir: &Path) -> Result<()> {
    let parent = parent_of(dir);
    let synced = host.disk.sync_dir(parent);
    if synced.is_err() {
        remake_name(host, dir);
    }
    synced.map_err(EngineError::io_at("sync", FileRole::Directory, parent))
}

/// W6: a sync of the parent failed, and the next one may succeed without bringing the name of `dir` to
/// the disk, unless it changes once more. One that holds more than the first files had an engine, which
/// came past such a sync; it is left alone.
pub(super) fn remake_name(host: &Host, dir: &Path) {
    let Some(name) = dir.file_name() else {
        return;
    };
    let mut aside = name.to_owned();
    aside.push(".new");
    let aside = dir.with_file_name(aside);
    let is_taken = || host.disk.open(&aside, OpenMode::Directory).is_ok();
    if has_first_files_only(host, dir).is_ok_and(|only| only)
        && !is_taken()
        && host.disk.rename(dir, &aside).is_ok()
        && let Err(error) = host.disk.rename(&aside, dir)
    {
        tracing::warn!(dir = %dir.display(), aside = %aside.display(), %error, "an empty directory was renamed");
    }
}

/// How a directory is locked, and who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// For an engine: those who look at the directory, and mounts that pin it, are done some time.
    Looks,
    /// For a mount without an engine, whose caller waits.
    None,
    /// For those who only look.
    Looker,
}

pub(super) fn lock_dir(host: &Host, dir: &Path, patience: Patience) -> Result<Arc<dyn File>> {
    let kind = match patience {
        Patience::Looks | Patience::None => LockKind::Exclusive,
        Patience::Looker => LockKind::Shared,
    };
    let handle =
        host.disk
            .open(dir, OpenMode::Directory)
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => EngineError::NotADatabase {
                    dir: dir.to_owned(),
                    missing: "the directory",
                },
                _ => EngineError::io_at("open", FileRole::Directory, dir)(source),
            })?;
    let in_use = || EngineError::InUse {
        dir: dir.to_owned(),
        holder: read_holder(host, dir),
    };
    let lock = |kind| {
        handle
            .try_lock(kind)
            .map_err(EngineError::io_at("lock", FileRole::Directory, dir))
    };
    // By a handle of its own: a lock that is kept while this one waits would keep others out.
    let is_looked_at = || {
        let probe = host.disk.open(dir, OpenMode::Directory);
        let is_shared = probe.and_then(|probe| probe.try_lock(LockKind::Shared));
        is_shared.map_err(EngineError::io_at("lock", FileRole::Directory, dir))
    };
    let begun = host.clock.monotonic();
    let mut is_told = false;
    while !lock(kind)? {
        // Whoever only looks (a check, a dump) holds a shared lock, and a mount that pins holds the
        // exclusive one for a moment. An engine has the `LOCK` file locked too.
        let is_passing =
            patience == Patience::Looks && (is_looked_at()? || !is_held_by_engine(host, dir));
        let waited = host.clock.monotonic().saturating_sub(begun);
        if !is_passing || waited >= LOOKERS_PATIENCE {
            return Err(in_use());
        }
        if !is_told {
            is_told = true;
            let holder = read_holder(host, dir).unwrap_or_default();
            tracing::info!(dir = %dir.display(), holder, "waiting for those who hold the directory for a moment");
        }
        host.clock.sleep(LOOKERS_PAUSE);
    }
    Ok(handle)
}

/// Locks and a coherent page cache are what everything rests on; a simulated disk has both.
pub(super) fn refuse_remote(handle: &dyn File, dir: &Path) -> Result<()> {
    if handle.as_fd().is_none() {
        return Ok(());
    }
    file_system::refuse_remote(dir).map_err(|refused| match refused {
        RefusedFileSystem::Remote(kind) => EngineError::RemoteFileSystem {
            path: dir.to_owned(),
            kind: kind.name(),
        },
        RefusedFileSystem::Unknown(source) => {
            EngineError::io_at("look at the file system of", FileRole::Directory, dir)(source)
        }
    })
}

/// What the holder of the directory wrote about itself: for people only, never for decisions.
pub(super) fn read_holder(host: &Host, dir: &Path) -> Option<String> {
    let file = host.disk.open(&dir.join(LOCK_FILE), OpenMode::Read).ok()?;
    let mut bytes = [0; 128];
    let found = os::read_up_to(&*file, &mut bytes, 0).ok()?;
    let text = String::from_utf8_lossy(&bytes[..found]);
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Who holds a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Engine,
    Mount,
}

/// Whether the directory's lock is an engine's. One that is just starting may not show it yet, which the
/// next look does.
#[must_use]
pub fn is_held_by_engine(host: &Host, dir: &Path) -> bool {
    let lock = host.disk.open(&dir.join(LOCK_FILE), OpenMode::Read);
    lock.and_then(|lock| lock.try_lock(LockKind::Shared))
        .is_ok_and(|is_free| !is_free)
}

/// Says who holds the directory; an engine also locks the file, which tells it from a mount.
pub(super) fn note_holder(host: &Host, dir: &Path, role: Role) -> Option<Arc<dyn File>> {
    let path = dir.join(LOCK_FILE);
    let file = host
        .disk
        .open(&path, OpenMode::ReadWrite)
        .or_else(|_| host.disk.open(&path, OpenMode::CreateNew));
    let file = file.ok()?;
    let role_name = match role {
        Role::Engine => "engine",
        Role::Mount => "mount",
    };
    let text = format!("process {}, {role_name}\n", std::process::id());
    // A courtesy: the lock on the directory is what counts.
    let _ = file.set_len(0);
    let _ = os::write_all_at(&*file, text.as_bytes(), 0);
    if role == Role::Mount {
        return None;
    }
    for _ in 0..HOLDER_TRIES {
        // One that looks whether an engine runs has it for a moment.
        match file.try_lock(LockKind::Exclusive) {
            Ok(false) => host.clock.sleep(HOLDER_PAUSE),
            Ok(true) => return Some(file),
            Err(_) => break,
        }
    }
    None
}
