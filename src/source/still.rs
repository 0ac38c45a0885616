//! A database opened for reading at one still moment: a copy, a mount, a stopped engine's directory,
//! or a running engine by a pin of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::database::{Engine, PAGE_FILE};
use crate::engine::error::{EngineError, HeaderFault};
use crate::os::path::{FileType, canonical, metadata};
use crate::os::{Host, OpenMode};
use crate::pin::{ClientLease, PinError, RefusalKind};
use crate::source::native::{self, NativePin};
use crate::source::{PinAs, SourceError};
use crate::view::{PinnedFile, ViewFile};

/// Clean pages that a read-only opening keeps.
const CACHE_BYTES: u64 = 64 << 20;
/// How long an engine that starts or stops is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long between two looks at it.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the still moment comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StillKind {
    /// A directory that no engine writes: a copy, a mount, a stopped database.
    Directory,
    /// A page file that stands by itself, whatever its name.
    File,
    /// A pin of a running engine.
    Pinned,
}

/// See the head of the file.
#[derive(Debug)]
pub struct StillDatabase {
    engine: Engine,
    path: PathBuf,
    kind: StillKind,
    pin: Option<(Arc<PinnedFile>, ClientLease)>,
}

/// Opens the database at `path`: its directory, its `data.pages` (which means the directory, log and
/// running engine included), or a page file of another name, which must have been closed cleanly.
///
/// Errors: `Missing`; those of the engine; of a running engine those of a pin.
pub fn open(host: &Host, path: &Path, holder: &str) -> Result<StillDatabase, SourceError> {
    let whole = canonical(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SourceError::Missing {
            path: path.to_owned(),
        },
        _ => SourceError::io("look at", path)(error),
    })?;
    let found = metadata(&whole).map_err(SourceError::io("look at", path))?;
    if found.file_type == FileType::Directory {
        return open_dir(host, &whole, holder);
    }
    match whole.parent() {
        Some(dir) if whole.ends_with(PAGE_FILE) => open_dir(host, dir, holder),
        _ => open_file(host, whole),
    }
}

fn open_file(host: &Host, path: PathBuf) -> Result<StillDatabase, SourceError> {
    let file = host.disk.open(&path, OpenMode::Read);
    let file = file.map_err(SourceError::io("open", &path))?;
    let engine = Engine::open_still(host, file, CACHE_BYTES).map_err(|error| match error {
        EngineError::Header {
            fault: HeaderFault::Magic | HeaderFault::Short(_),
            ..
        } => SourceError::NotAPageFile { path: path.clone() },
        EngineError::Header { fault, .. } => {
            let path = path.clone();
            EngineError::Header { path, fault }.into()
        }
        EngineError::FutureVersion { found, known, .. } => {
            let path = path.clone();
            EngineError::FutureVersion { path, found, known }.into()
        }
        error => error.into(),
    })?;
    Ok(StillDatabase {
        engine,
        path,
        kind: StillKind::File,
        pin: None,
    })
}

/// The lock says whether an engine runs. One that starts or stops holds it while it answers nobody,
/// and that passes.
fn open_dir(host: &Host, dir: &Path, holder: &str) -> Result<StillDatabase, SourceError> {
    let begun = host.clock.monotonic();
    loop {
        let in_use = match Engine::open_read_only(host, dir, CACHE_BYTES) {
            Ok(engine) => {
                return Ok(StillDatabase {
                    engine,
                    path: dir.to_owned(),
                    kind: StillKind::Directory,
                    pin: None,
                });
            }
            Err(error @ EngineError::InUse { .. }) => error,
            Err(error) => return Err(error.into()),
        };
        let is_late = host.clock.monotonic().saturating_sub(begun) >= PATIENCE;
        match open_pinned(host, dir, holder) {
            Err(error) if is_passing(&error) && !is_late => {
                tracing::debug!(%in_use, %error, "waiting for the engine");
                host.clock.sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

/// Whether an error may be over in a moment.
pub(super) fn is_passing(error: &SourceError) -> bool {
    matches!(
        error,
        SourceError::NotRunning { .. }
            | SourceError::NoPinServer { .. }
            | SourceError::Engine(EngineError::InUse { .. })
            | SourceError::Pin(
                PinError::Closed { .. }
                    | PinError::Refused {
                        kind: RefusalKind::Stopping,
                        ..
                    }
            )
    )
}

fn open_pinned(host: &Host, dir: &Path, holder: &str) -> Result<StillDatabase, SourceError> {
    let pin_as = PinAs::plain(holder);
    let NativePin { file, lease, .. } = native::connect(host, dir, &pin_as)?;
    let still = Arc::new(ViewFile::new(file.clone()));
    let engine = Engine::open_still(host, still, CACHE_BYTES)?;
    Ok(StillDatabase {
        engine,
        path: dir.to_owned(),
        kind: StillKind::Pinned,
        pin: Some((file, lease)),
    })
}

impl StillDatabase {
    /// The database, for reading.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its directory, or its page file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the still moment comes from.
    #[must_use]
    pub fn kind(&self) -> StillKind {
        self.kind
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

    /// Gives the pin up, if there is one. An engine that has gone meanwhile is no failure.
    ///
    /// Errors: `Pin`.
    pub fn release(self) -> Result<(), SourceError> {
        let Some((_, lease)) = self.pin else {
            return Ok(());
        };
        match lease.release() {
            Ok(()) | Err(PinError::Closed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods)]

    use super::*;
    use crate::database::{Database, EngineOptions, PinServing};

    fn made(dir: &Path, serving: PinServing) -> Database {
        let database = Database::open(dir, &EngineOptions::default(), serving).unwrap();
        let mut write = database.begin_write().unwrap();
        write.put("t", b"k", b"v").unwrap();
        write.commit().unwrap();
        database
    }

    fn value(still: &StillDatabase) -> Option<Vec<u8>> {
        still.engine().begin_read().get("t", b"k").unwrap()
    }

    /// A link, the page file in its directory, and a copy under another name all lead to it.
    #[test]
    fn every_way_to_name_a_stopped_database_opens_it() {
        let root = tempfile::tempdir().unwrap();
        let (dir, host) = (root.path().join("d"), Host::system());
        made(&dir, PinServing::Off).close().unwrap();
        let (link, copy) = (root.path().join("link"), root.path().join("copy.pages"));
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        std::fs::copy(dir.join(PAGE_FILE), &copy).unwrap();
        for (path, kind) in [
            (&dir, StillKind::Directory),
            (&link, StillKind::Directory),
            (&dir.join(PAGE_FILE), StillKind::Directory),
            (&link.join(PAGE_FILE), StillKind::Directory),
            (&copy, StillKind::File),
        ] {
            let still = open(&host, path, "test").unwrap();
            assert_eq!((still.kind(), value(&still)), (kind, Some(b"v".to_vec())));
            still.release().unwrap();
        }
    }

    /// The page file of a running engine means the newest commit, which is still in the log.
    #[test]
    fn running_database_is_pinned_also_by_its_page_file() {
        let dir = tempfile::tempdir().unwrap();
        let database = made(dir.path(), PinServing::On);
        let still = open(&Host::system(), &dir.path().join(PAGE_FILE), "test").unwrap();
        assert_eq!(
            (still.kind(), value(&still)),
            (StillKind::Pinned, Some(b"v".to_vec()))
        );
        assert_eq!(database.stats().pins, 1);
        still.release().unwrap();
        assert_eq!(database.stats().pins, 0);
    }

    /// A copy of the page file alone, made while the engine ran, lacks what the log has.
    #[test]
    fn page_file_that_needs_its_log_is_refused_without_it() {
        let root = tempfile::tempdir().unwrap();
        let (dir, copy) = (root.path().join("d"), root.path().join("copy.pages"));
        let _database = made(&dir, PinServing::Off);
        std::fs::copy(dir.join(PAGE_FILE), &copy).unwrap();
        let error = open(&Host::system(), &copy, "test").unwrap_err();
        assert!(
            matches!(error, SourceError::Engine(EngineError::Log { .. })),
            "{error}"
        );
    }
}
