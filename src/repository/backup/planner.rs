//! What is read next: pieces of files of at most 512 KiB, in the order of the tree.

use std::ops::Range;

use crate::os::File;
use crate::os::path::{Metadata, metadata_of};
use crate::repository::backup::file_job::{FileJob, OpenFile};
use crate::repository::backup::job::Job;
use crate::repository::backup::walk::shown;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::pack::FRAME_BYTES;
use crate::view::tree::{Content, LiveError, LiveFile};

/// Bytes of one task at most.
pub(super) const TASK_BYTES: usize = FRAME_BYTES;

/// Units of one file that one worker reads at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    /// The place of the file in the job.
    pub(super) file: usize,
    /// Its units, in order.
    pub(super) spans: Vec<Range<u64>>,
    /// Their bytes.
    pub(super) bytes: u64,
}

/// Where the planning is. Workers ask one after the other.
#[derive(Debug, Default)]
pub(super) struct Planner {
    file: usize,
    /// What is left of that file.
    rest: std::collections::VecDeque<Range<u64>>,
    /// Its size, and bytes of its units; `None` before it is begun.
    begun: Option<u64>,
}

impl Planner {
    /// The next task; `None` when everything is planned.
    ///
    /// Errors: `Live` if a live file cannot be opened.
    pub(super) fn next(&mut self, job: &Job<'_>) -> Result<Option<Task>> {
        while let Some(file) = job.files.get(self.file) {
            let bytes = match self.begun {
                Some(bytes) => bytes,
                None => {
                    let bytes = self.begin(job, file)?;
                    *self.begun.insert(bytes)
                }
            };
            if let Some(task) = self.cut(file, bytes) {
                return Ok(Some(task));
            }
            job.control.add_file();
            self.begun = None;
            self.file += 1;
        }
        Ok(None)
    }

    /// Opens the file, where it is a live one, and returns its size.
    fn begin(&mut self, job: &Job<'_>, file: &FileJob) -> Result<u64> {
        let node = job.tree.node(file.node);
        if let Some(Content::Live(live)) = node.map(|node| &node.content) {
            open_live(&**live, file).map_err(|source| RepositoryError::Live {
                path: shown(&job.entries[file.entry].path),
                source,
            })?;
        }
        let mut state = file.state.lock();
        self.rest = std::mem::take(&mut state.must_read).into();
        Ok(state.bytes)
    }

    /// Cuts the next task from what is left of `file`.
    fn cut(&mut self, file: &FileJob, bytes: u64) -> Option<Task> {
        let units_max = (TASK_BYTES as u64 / u64::from(file.unit_bytes)).max(1);
        let mut task = Task {
            file: self.file,
            spans: Vec::new(),
            bytes: 0,
        };
        let mut room = units_max;
        while room > 0
            && let Some(range) = self.rest.front_mut()
        {
            let end = range.end.min(range.start.saturating_add(room));
            let span = range.start..end;
            room -= end - range.start;
            range.start = end;
            if range.is_empty() {
                self.rest.pop_front();
            }
            task.bytes += file.bytes_of(&span, bytes);
            task.spans.push(span);
        }
        (!task.spans.is_empty()).then_some(task)
    }
}

/// Opens a live file and fixes what is read of it: what it has at this moment. One that is not there any
/// more, or that is not ours to read, is left out.
///
/// Errors: any other `Io` of opening it.
fn open_live(live: &dyn LiveFile, file: &FileJob) -> Result<(), LiveError> {
    let opened = live.open().and_then(|open| {
        let found = stat(&*open, live)?;
        Ok((open, found))
    });
    match opened {
        Ok((open, found)) => {
            file.size(found.size);
            if file.state.lock().left_out.is_some() {
                return Ok(());
            }
            let units_of_task = TASK_BYTES as u64 / u64::from(file.unit_bytes);
            let tasks_left = file.unit_count(found.size).div_ceil(units_of_task);
            let mut state = file.state.lock();
            state.found = Some(found);
            // An empty one is closed at once: there is nothing to be read.
            state.open = (tasks_left > 0).then_some(OpenFile {
                file: open,
                tasks_left,
            });
            Ok(())
        }
        Err(error) if is_left_out(&error) => {
            file.state.lock().left_out = Some(error.to_string());
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn is_left_out(error: &LiveError) -> bool {
    match error {
        LiveError::Gone | LiveError::Replaced | LiveError::BecameDatabase => true,
        LiveError::Io { source, .. } => source.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

/// What `stat` says of an open live file; by its name where it has no descriptor.
pub(super) fn stat(open: &dyn File, live: &dyn LiveFile) -> Result<Metadata, LiveError> {
    match open.as_fd() {
        Some(fd) => metadata_of(fd).map_err(|source| LiveError::Io {
            op: "look at",
            source,
        }),
        None => live.stat(),
    }
}
