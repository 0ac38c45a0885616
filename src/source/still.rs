//! A database opened for reading at one still moment: a copy, a mount, a stopped engine's directory,
//! or a running engine by a pin of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::database::{Engine, PAGE_FILE};
use crate::engine::error::EngineError;
use crate::os::Host;
use crate::source::native::{self, NativePin};
use crate::source::{PinAs, SourceError};
use crate::view::{PinnedFile, ViewFile};

/// Clean pages that a read-only opening keeps.
const CACHE_BYTES: u64 = 64 << 20;

/// Where the still moment comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StillKind {
    /// A directory that no engine writes: a copy, a mount, a stopped database.
    Directory,
    /// A pin of a running engine.
    Pinned,
}

/// See the head of the file.
#[derive(Debug)]
pub struct StillDatabase {
    engine: Engine,
    path: PathBuf,
    pin: Option<(Arc<PinnedFile>, crate::pin::ClientLease)>,
}

/// Opens the database at `path`: its directory, or its page file.
///
/// Errors: `Missing`; those of the engine; of a running engine those of a pin.
pub fn open(host: &Host, path: &Path, holder: &str) -> Result<StillDatabase, SourceError> {
    if crate::os::path::metadata(path).is_err() {
        return Err(SourceError::Missing {
            path: path.to_owned(),
        });
    }
    let is_page_file = path.file_name().is_some_and(|name| name == PAGE_FILE);
    let dir = match path.parent() {
        Some(parent) if is_page_file && parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) if is_page_file => parent,
        _ => path,
    };
    match Engine::open_read_only(host, dir, CACHE_BYTES) {
        Ok(engine) => Ok(StillDatabase {
            engine,
            path: dir.to_owned(),
            pin: None,
        }),
        Err(EngineError::InUse { .. }) => open_pinned(host, dir, holder),
        Err(error) => Err(error.into()),
    }
}

fn open_pinned(host: &Host, dir: &Path, holder: &str) -> Result<StillDatabase, SourceError> {
    let pin_as = PinAs {
        holder,
        mount_point: None,
    };
    let NativePin { file, lease, .. } = native::connect(host, dir, &pin_as)?;
    let still = Arc::new(ViewFile::new(file.clone()));
    let engine = Engine::open_still(host, still, CACHE_BYTES)?;
    Ok(StillDatabase {
        engine,
        path: dir.to_owned(),
        pin: Some((file, lease)),
    })
}

impl StillDatabase {
    /// The database, for reading.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the still moment comes from.
    #[must_use]
    pub fn kind(&self) -> StillKind {
        if self.pin.is_some() {
            StillKind::Pinned
        } else {
            StillKind::Directory
        }
    }

    /// Whether what was read so far counts: errors if the pin has ended meanwhile.
    ///
    /// Errors: `View`.
    pub fn look(&self) -> Result<(), SourceError> {
        match &self.pin {
            Some((file, _)) => Ok(file.look()?),
            None => Ok(()),
        }
    }

    /// Gives the pin up, if there is one.
    ///
    /// Errors: `Pin`.
    pub fn release(self) -> Result<(), SourceError> {
        match self.pin {
            Some((_, lease)) => Ok(lease.release()?),
            None => Ok(()),
        }
    }
}
