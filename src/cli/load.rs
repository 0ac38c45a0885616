//! `stillfs load`: a new database out of the text that `stillfs dump` writes.
//!
//! Runs in its own process. The database is made in the folder `DIR/.stillfs-load`, and its page
//! file is moved to its place only when the whole text was read, the database closed cleanly, and
//! everything synced. So whatever happens, DIR holds the whole database or none; what a killed load
//! leaves is that folder, which no engine takes for a database and the next load removes.
//!
//! DIR itself is locked as by an engine. Memory: the engine's cache, one transaction, one entry.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::exit::{Exit, Failure, Outcome};
use super::output;
use super::size::{self, ByteSize};
use crate::amount::Many;
use crate::database::{
    CHANGES_DIR, Create, Engine, EngineOptions, LOCK_FILE, LOG_DIR, Loaded, PAGE_FILE, load_text,
};
use crate::engine::error::EngineError;
use crate::os::path::{FileType, file_type_of, remove_dir};
use crate::os::{self, File, Host, LockKind, OpenMode};
use crate::page::PageSize;

/// Where the database is made, inside its directory.
const SCRATCH_DIR: &str = ".stillfs-load";
/// What is read of standard input at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Make a new database from a dump on standard input
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  stillfs load /var/lib/new < app.dump
  stillfs dump /var/lib/app | stillfs load /var/lib/repacked --page-size 16K")]
pub(crate) struct LoadArgs {
    /// Directory of the new database, missing or empty
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Page size, 4K to 64K
    #[arg(long, value_name = "SIZE", default_value = "8K", value_parser = size::page_size)]
    page_size: PageSize,
    /// Memory for clean pages while loading
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    cache: ByteSize,
}

/// Loads standard input into the directory.
///
/// Errors: `InUse`; `Failed` where the directory is not empty or the text is no whole dump.
pub(crate) fn run(args: &LoadArgs) -> Outcome {
    let host = Host::system();
    let input = BufReader::with_capacity(BUFFER_BYTES, io::stdin().lock());
    let loaded = load_into(&host, args, input)?;
    output::line(&format!(
        "loaded {}: {}, {}",
        args.dir.display(),
        Many(loaded.table_count, "table"),
        Many(loaded.entry_count, "entry")
    ));
    Ok(Exit::Done)
}

fn load_into(host: &Host, args: &LoadArgs, input: impl BufRead) -> Result<Loaded, Failure> {
    let place = Place::prepare(host, &args.dir)?;
    let loaded = place.fill(args, input).and_then(|loaded| {
        place.publish()?;
        Ok(loaded)
    });
    let cleared = place.clear();
    match loaded {
        Ok(loaded) => {
            cleared?;
            Ok(loaded)
        }
        Err(failure) => {
            if let Err(error) = cleared.and_then(|()| place.unmake()) {
                tracing::warn!(%error, "cannot remove what was made");
            }
            Err(failure)
        }
    }
}

/// Whether the directory was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Found,
    Made,
}

/// The directory of the new database, locked.
#[derive(Debug)]
struct Place<'a> {
    host: &'a Host,
    dir: PathBuf,
    scratch: PathBuf,
    origin: Origin,
    _lock: Arc<dyn File>,
}

impl<'a> Place<'a> {
    /// Makes the directory if it is missing; locks it; refuses it if anything is in it.
    fn prepare(host: &'a Host, dir: &Path) -> Result<Self, Failure> {
        let shown = dir.display();
        let origin = match host.disk.create_dir(dir) {
            Ok(()) => Origin::Made,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Origin::Found,
            Err(error) => Err(error).with_context(|| format!("cannot make {shown}"))?,
        };
        let dir = os::path::canonical(dir).with_context(|| format!("cannot look at {shown}"))?;
        let lock = host.disk.open(&dir, OpenMode::Directory);
        let lock = lock.with_context(|| format!("cannot open {shown} as a directory"))?;
        let locked = lock.try_lock(LockKind::Exclusive);
        if !locked.with_context(|| format!("cannot lock {shown}"))? {
            let holder = None;
            return Err(EngineError::InUse { dir, holder }.into());
        }
        let names = host.disk.list(&dir);
        let names = names.with_context(|| format!("cannot list {shown}"))?;
        let is_ours = |name: &OsStr| name == SCRATCH_DIR || name == LOCK_FILE;
        if let Some(name) = names.iter().find(|name| !is_ours(name)) {
            return Err(anyhow::anyhow!(
                "{shown} is not empty (there is {}): load makes a new database in a missing or \
                 empty directory",
                name.display()
            )
            .into());
        }
        let place = Self {
            host,
            scratch: dir.join(SCRATCH_DIR),
            dir,
            origin,
            _lock: lock,
        };
        place.clear()?;
        if origin == Origin::Made {
            place.sync_parent().or_else(|error| {
                // As in `publish`.
                remove_dir(&place.dir).context("cannot remove the directory either")?;
                Err(error)
            })?;
        }
        Ok(place)
    }

    /// Makes the whole database in the scratch folder and closes it.
    fn fill(&self, args: &LoadArgs, input: impl BufRead) -> Result<Loaded, Failure> {
        let options = EngineOptions {
            create: Create::IfMissing,
            page_size: args.page_size,
            cache_bytes: args.cache.0,
            ..EngineOptions::default()
        };
        let engine = Engine::open(self.host, &self.scratch, &options, None)?;
        let loaded = load_text(&engine, input)?;
        engine.close()?;
        Ok(loaded)
    }

    /// Gives the finished page file its place. It is clean, so that it needs no log.
    fn publish(&self) -> Result<(), Failure> {
        let (from, to) = (self.scratch.join(PAGE_FILE), self.dir.join(PAGE_FILE));
        let disk = &self.host.disk;
        let renamed = disk.rename(&from, &to);
        renamed.with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))?;
        let synced = disk.sync_dir(&self.dir);
        if synced.is_err() {
            // A later sync may succeed without bringing this name to the disk: the next load gives it.
            disk.rename(&to, &from).with_context(|| {
                format!(
                    "cannot sync {}, nor remove {}",
                    self.dir.display(),
                    to.display()
                )
            })?;
        }
        synced.with_context(|| format!("cannot sync {}", self.dir.display()))?;
        Ok(())
    }

    /// Removes the scratch folder and what an engine makes in it.
    fn clear(&self) -> anyhow::Result<()> {
        let inner = [LOG_DIR, CHANGES_DIR].map(|name| self.scratch.join(name));
        for folder in inner.iter().chain([&self.scratch]) {
            let names = match self.host.disk.list(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                names => names.with_context(|| format!("cannot list {}", folder.display()))?,
            };
            for path in names.iter().map(|name| folder.join(name)) {
                let removed = file_type_of(&path).and_then(|found| match found {
                    FileType::Directory => remove_dir(&path),
                    _ => self.host.disk.remove(&path),
                });
                removed.with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        match remove_dir(&self.scratch) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.with_context(|| format!("cannot remove {}", self.scratch.display())),
        }
    }

    /// Removes the directory if it was made for this load.
    fn unmake(&self) -> anyhow::Result<()> {
        if self.origin == Origin::Found {
            return Ok(());
        }
        remove_dir(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))?;
        self.sync_parent()
    }

    fn sync_parent(&self) -> anyhow::Result<()> {
        let parent = self.dir.parent().unwrap_or(&self.dir);
        let synced = self.host.disk.sync_dir(parent);
        synced.with_context(|| format!("cannot sync {}", parent.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::sim::{Fault, Faults, Operation};

    /// W6: after a failed sync the page file's name may be lost for good, so it must not stay.
    #[test]
    fn page_file_whose_name_could_not_be_synced_is_taken_away_again() {
        let machine = Host::simulated(1);
        let (dir, disk) = (PathBuf::from("/db"), &machine.host.disk);
        let scratch = dir.join(SCRATCH_DIR);
        disk.create_dir(&dir).unwrap();
        disk.create_dir(&scratch).unwrap();
        let made = scratch.join(PAGE_FILE);
        disk.open(&made, OpenMode::CreateNew).unwrap();
        let place = Place {
            host: &machine.host,
            scratch,
            origin: Origin::Found,
            _lock: disk.open(&dir, OpenMode::Directory).unwrap(),
            dir: dir.clone(),
        };
        let fault = Fault::errno(Operation::SyncDir, 5);
        machine.disk.set_faults(Faults::none().with(fault));
        assert!(place.publish().is_err());
        assert_eq!(disk.list(&dir).unwrap(), [SCRATCH_DIR]);
        place.publish().unwrap();
        assert!(disk.list(&dir).unwrap().contains(&PAGE_FILE.into()));
    }
}
