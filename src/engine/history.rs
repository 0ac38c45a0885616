//! A new line of commits for a page file that stands by itself.
//!
//! A copy that goes on from the same commit as its original must not share its history: the log of the
//! one would be taken for that of the other.

use std::path::Path;

use crate::engine::create::is_untouched_copy;
use crate::engine::error::{EngineError, FileRole, LogFault, Result};
use crate::engine::header::{self, Header, HeaderState};
use crate::id::{Epoch, HistoryId};
use crate::os::{self, File, Host};
use crate::page::PageNo;

/// Gives the page file `file`, on which nobody works and which needs no log, the history `new`, forked
/// from the one that it has; the header tells whose commits it goes on from, too. Both header copies say so, and everything in the file is synced, when this
/// returns; `path` is for messages. A crash halfway leaves the old history or the new one, and this may
/// be done again. Gives the header as it is then.
///
/// Errors: `Log` if the file needs a log; `Header`, `FutureVersion`, `Exhausted`, `Io`.
pub fn start_history(file: &dyn File, path: &Path, new: HistoryId) -> Result<Header> {
    let failed = |op| EngineError::io_at(op, FileRole::PageFile, path);
    let mut header = header::read(file, path)?;
    if header.state != HeaderState::Clean {
        return Err(EngineError::Log {
            segment: path.to_owned(),
            at: header.log_start,
            fault: LogFault::Missing {
                wanted: header.log_start,
            },
        });
    }
    if header.history != new {
        header.fork = Some(header.fork_at(header.point));
        header.parent_history = Some(header.history);
        header.history = new;
    }
    for _ in 0..2 {
        header.sequence = header
            .sequence
            .checked_add(1)
            .ok_or(EngineError::Exhausted {
                what: "the header's sequence",
            })?;
        let copy = PageNo(header.sequence % 2);
        let offset = copy.0 * u64::from(header.page_size.get());
        os::write_all_at(file, &header.encode(copy), offset).map_err(failed("write"))?;
        file.sync_data().map_err(failed("sync"))?;
    }
    Ok(header)
}

/// Gives a copy of a view on which nobody has worked yet a history of its own; any other file keeps what
/// it has. Two copies of one view are equal to the byte: what changed in the one would be taken for what
/// changed in the other. A pin of the copy, which had made files beside it, goes on.
///
/// Errors: those of [`start_history`]; `Io`.
pub(super) fn leave_view(
    host: &Host,
    dir: &Path,
    (file, path): (&dyn File, &Path),
    header: Header,
) -> Result<Header> {
    let is_of_view = header.epoch == Epoch(0)
        && header.parent_history.is_some()
        && header.state == HeaderState::Clean;
    if !is_of_view || !is_untouched_copy(host, dir)? {
        return Ok(header);
    }
    let mut id = [0; 16];
    host.random.fill(&mut id).map_err(EngineError::io_at(
        "draw a history for",
        FileRole::PageFile,
        path,
    ))?;
    start_history(file, path, HistoryId(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineOptions, PAGE_FILE};
    use crate::os::{Host, OpenMode};

    const DIR: &str = "/db";

    /// W8: two copies of one view, one after the other in the same place, are of two histories; opening one
    /// again keeps its history.
    #[test]
    fn each_copy_of_a_view_goes_on_in_a_history_of_its_own() {
        let simulated = Host::simulated(2);
        let (host, dir) = (&simulated.host, Path::new(DIR));
        let open = || Engine::open(host, dir, &EngineOptions::default(), None).unwrap();
        let engine = open();
        engine.close().unwrap();
        let (header, mut found) = (engine.header(), vec![engine.identity().history]);
        drop(engine);
        let view = header.of_view(header.point);
        let path = dir.join(PAGE_FILE);
        for _ in 0..2 {
            for folder in ["wal", "changes"] {
                for name in host.disk.list(&dir.join(folder)).unwrap_or_default() {
                    host.disk.remove(&dir.join(folder).join(name)).unwrap();
                }
                let _ = host.disk.remove_dir(&dir.join(folder));
            }
            let file = host.disk.open(&path, OpenMode::ReadWrite).unwrap();
            for copy in [PageNo(0), PageNo(1)] {
                let offset = copy.0 * u64::from(view.page_size.get());
                os::write_all_at(&*file, &view.encode(copy), offset).unwrap();
            }
            let engine = open();
            let own = engine.identity().history;
            assert_eq!(engine.header().parent_history, Some(view.history));
            assert_eq!(engine.header().fork, view.fork);
            assert_eq!(engine.header().fork.unwrap().history, found[0]);
            assert!(!found.contains(&own) && own != view.history);
            found.push(own);
            drop(engine);
            assert_eq!(open().identity().history, own);
        }
    }

    /// BK9: a copy that was restored goes on in a line of its own; a crash in the middle leaves a file
    /// with one valid history.
    #[test]
    fn a_clean_page_file_gets_a_new_history_in_both_copies() {
        let simulated = Host::simulated(1);
        let (host, dir) = (&simulated.host, Path::new(DIR));
        let engine = Engine::open(host, dir, &EngineOptions::default(), None).unwrap();
        let path = dir.join(PAGE_FILE);
        let file = host.disk.open(&path, OpenMode::ReadWrite).unwrap();
        let new = HistoryId([7; 16]);
        let refused = start_history(&*file, &path, new);
        assert!(
            matches!(refused, Err(EngineError::Log { .. })),
            "{refused:?}"
        );
        engine.close().unwrap();
        let old = engine.identity().history;
        drop(engine);

        let started = start_history(&*file, &path, new).unwrap();
        assert_eq!((started.history, started.parent_history), (new, Some(old)));
        let fork = Some(header::Fork {
            history: old,
            lsn: started.point.lsn,
        });
        assert_eq!(started.fork, fork);
        let again = start_history(&*file, &path, HistoryId([8; 16])).unwrap();
        assert_eq!(again.fork, fork, "nothing was committed in between");
        let started = start_history(&*file, &path, new).unwrap();
        let old = again.history;
        for copy in header::read_copies(&*file, started.page_size).unwrap() {
            assert_eq!((copy.history, copy.parent_history), (new, Some(old)));
        }
        assert_eq!(
            header::bad_copies(&*file, &started),
            [],
            "both are whole pages"
        );
        assert_eq!(
            start_history(&*file, &path, new).unwrap().parent_history,
            Some(old),
            "it may be done again"
        );
        let engine = Engine::open(host, dir, &EngineOptions::default(), None).unwrap();
        assert_eq!(engine.identity().history, new);
        assert!(engine.check().unwrap().is_clean());
    }
}
