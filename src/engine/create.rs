//! Making an empty database.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::engine::catalog::{self, CATALOG_ROOT};
use crate::engine::commit_point::{CommitPoint, bounded_wall};
use crate::engine::error::{EngineError, FileRole, Result};
use crate::engine::header::{self, Header, HeaderState};
use crate::engine::page_io::{FreeList, PageRead, PageWrite};
use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::{Lsn, Timestamp};
use crate::os::{self, File, Host, OpenMode};
use crate::page::{PageBuf, PageKind, PageNo, PageRef, PageSize};

/// Name of the page file in a database's directory.
pub const PAGE_FILE: &str = "data.pages";
/// Name of the file that says for people who holds the directory.
pub const LOCK_FILE: &str = "LOCK";
const NEW_PAGE_FILE: &str = "data.pages.new";

/// Name of the file that a mount shows beside the page file; a copy's engine ignores it.
pub const SNAPSHOT_FILE: &str = "snapshot.json";

/// What a database that is being made may have in its directory.
const FIRST_FILES: [&str; 3] = [PAGE_FILE, NEW_PAGE_FILE, LOCK_FILE];

/// Whether nothing but [`FIRST_FILES`] is in `dir`.
pub(super) fn has_first_files_only(host: &Host, dir: &Path) -> Result<bool> {
    let names =
        host.disk
            .list(dir)
            .map_err(EngineError::io_at("list", FileRole::Directory, dir))?;
    Ok(names
        .iter()
        .all(|name| FIRST_FILES.iter().any(|first| name == first)))
}

/// Whether nothing is in `dir` but what a copy of a view has there.
pub(super) fn is_untouched_copy(host: &Host, dir: &Path) -> Result<bool> {
    let names =
        host.disk
            .list(dir)
            .map_err(EngineError::io_at("list", FileRole::Directory, dir))?;
    let known = [PAGE_FILE, LOCK_FILE, SNAPSHOT_FILE];
    Ok(names
        .iter()
        .all(|name| known.iter().any(|known| name == known)))
}

/// W6: the page size of a page file that was made, but that no engine got to use: nothing tells that its
/// name is durable, and a sync that succeeds now need not mean it. A copy of a view has a parent.
///
/// Errors: those of [`header::read`].
pub(super) fn unused_page_file(
    host: &Host,
    dir: &Path,
    file: &dyn File,
) -> Result<Option<PageSize>> {
    if !has_first_files_only(host, dir)? {
        return Ok(None);
    }
    let header = header::read(file, &dir.join(PAGE_FILE))?;
    let is_unused = header.epoch == Epoch(0)
        && header.point.timestamp == Timestamp(0)
        && header.parent_history.is_none();
    Ok(is_unused.then_some(header.page_size))
}

/// A database is made only in an empty directory: a folder with other files is somebody's, and one
/// with a log but no page file has lost it.
pub(super) fn refuse_foreign_content(host: &Host, dir: &Path) -> Result<()> {
    if has_first_files_only(host, dir)? {
        return Ok(());
    }
    Err(EngineError::NotADatabase {
        dir: dir.to_owned(),
        missing: PAGE_FILE,
    })
}

/// Writes an empty database under another name, syncs it, and gives it its name.
pub(super) fn create_page_file(host: &Host, dir: &Path, page_size: PageSize) -> Result<()> {
    let new_path = dir.join(NEW_PAGE_FILE);
    let failed = |op| EngineError::io_at(op, FileRole::PageFile, &new_path);
    match host.disk.remove(&new_path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove the unfinished")(error));
        }
        _ => {}
    }
    let file = host
        .disk
        .open(&new_path, OpenMode::CreateNew)
        .map_err(failed("create"))?;
    let mut ids = [0; 32];
    host.random.fill(&mut ids).map_err(failed("draw ids for"))?;
    let (database, history) = ids.split_at(16);
    let point = CommitPoint {
        timestamp: Timestamp(0),
        wall_ns: bounded_wall(host.clock.wall_ns()),
        lsn: Lsn::ZERO,
        page_count: CATALOG_ROOT.0 + 1,
        free: FreeList::default(),
    };
    let header = Header {
        page_size,
        database: DatabaseId(database.try_into().expect("16 of 32 bytes")),
        history: HistoryId(history.try_into().expect("16 of 32 bytes")),
        parent_history: None,
        fork: None,
        epoch: Epoch(0),
        sequence: 1,
        state: HeaderState::Clean,
        log_start: Lsn::ZERO,
        point,
    };
    let root = empty_catalog(page_size)?;
    let pages = [header.encode(PageNo(0)), header.encode(PageNo(1)), root];
    let bytes: Vec<u8> = pages.iter().flat_map(|page| page.iter().copied()).collect();
    os::write_all_at(&*file, &bytes, 0).map_err(failed("write"))?;
    file.sync_data().map_err(failed("sync"))?;
    host.disk
        .rename(&new_path, &dir.join(PAGE_FILE))
        .map_err(failed("rename"))?;
    host.disk
        .sync_dir(dir)
        .map_err(failed("sync the directory of"))
}

/// The catalog of an empty database, made by the same code as every other tree.
fn empty_catalog(page_size: PageSize) -> Result<PageBuf> {
    #[derive(Debug)]
    struct OnePage(PageBuf);
    impl PageRead for OnePage {
        fn page_size(&self) -> PageSize {
            PageSize::new(self.0.len() as u64).expect("made with a page size")
        }
        fn page_count(&self) -> u64 {
            CATALOG_ROOT.0 + 1
        }
        fn read(&self, _page: PageNo) -> Result<PageRef> {
            Ok(Arc::new(self.0.clone()))
        }
    }
    impl PageWrite for OnePage {
        fn modify(&mut self, _page: PageNo) -> Result<&mut [u8]> {
            Ok(&mut self.0)
        }
        fn allocate(&mut self, kind: PageKind) -> Result<PageNo> {
            self.0 = PageBuf::formatted(PageRead::page_size(self), CATALOG_ROOT, kind);
            Ok(CATALOG_ROOT)
        }
        fn free(&mut self, page: PageNo) -> Result<()> {
            Err(EngineError::Structure {
                page,
                expected: "a new database",
                found: page.0,
            })
        }
    }
    let mut pages = OnePage(PageBuf::zeroed(page_size));
    catalog::initialise(&mut pages)?;
    pages.0.seal(Lsn::ZERO);
    Ok(pages.0)
}
