//! Writing: an entry for each segment that is about to go.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::codec;
use crate::engine::wal::log::LogIdentity;
use crate::engine::wal::segment::{MARKS_MAX, SealedSegment, SegmentHeader};
use crate::engine::wal::summary::CHANGES_DIR;
use crate::engine::wal::summary::file::{EntryPlace, FILE_BYTES_MAX, entries_of, sequences};
use crate::engine::wal::summary::format::{
    FILE_HEADER_BYTES, FileHeader, LogRange, encode_entry, file_name,
};
use crate::engine::wal::summary::runs::{Gathering, PageRuns};
use crate::engine::wal::summary::walk::walk_segment;
use crate::lsn::Lsn;
use crate::os::{self, Host, OpenMode};

/// All files together; the oldest go first.
const TOTAL_BYTES_MAX: u64 = 64 << 20;
/// How many files there may be, however small: 16 as a rule.
const FILES_MAX: usize = 64;

/// The folder of summaries, as the log that goes on writes it.
#[derive(Debug)]
pub(crate) struct SummaryFolder {
    host: Host,
    dir: PathBuf,
    identity: LogIdentity,
    at_hand: Mutex<AtHand>,
}

/// The file that is appended to.
#[derive(Debug, Default)]
struct AtHand {
    /// Where it is, and where it ends. It is opened for each append: a descriptor less.
    file: Option<(PathBuf, u64)>,
    /// Nothing more goes into any file that is there: the end of the last one is in doubt.
    is_new_wanted: bool,
}

impl SummaryFolder {
    /// Of the log in `log_dir`. Nothing is made before there is something to keep.
    pub(crate) fn new(host: &Host, log_dir: &Path, identity: LogIdentity) -> Self {
        Self {
            host: host.clone(),
            dir: log_dir.with_file_name(CHANGES_DIR),
            identity,
            at_hand: Mutex::default(),
        }
    }

    /// Keeps what `segments`, which are about to be removed, say of pages. When this returns it is
    /// durable, or there is a hole in what is known (W7), of which the program's log tells: no commit and
    /// no checkpoint fails for want of it.
    pub(crate) fn keep(&self, segments: &[SealedSegment]) {
        let mut entries = segments.iter().filter_map(|segment| self.entry_of(segment));
        let mut at_hand = self.at_hand.lock();
        let mut batch: Vec<u8> = Vec::new();
        let outcome = entries
            .try_for_each(|entry| {
                if (batch.len() + entry.len()) as u64 > FILE_BYTES_MAX / 2 {
                    self.append(&mut at_hand, &std::mem::take(&mut batch))?;
                }
                batch.extend_from_slice(&entry);
                Ok(())
            })
            .and_then(|()| self.append(&mut at_hand, &batch));
        if let Err(error) = outcome {
            *at_hand = AtHand {
                file: None,
                is_new_wanted: true,
            };
            tracing::warn!(
                dir = %self.dir.display(), %error,
                "cannot note which pages a part of the log changed; the next backup may have to read every page"
            );
        }
    }

    /// The entry of a segment; `None` if there is nothing in it, or nobody knows what is.
    fn entry_of(&self, segment: &SealedSegment) -> Option<Vec<u8>> {
        if let Some(touched) = &segment.touched {
            let range = LogRange {
                start: touched.start,
                end: segment.end,
                epoch: self.identity.epoch,
                last_commit: touched.last_commit,
            };
            let pages = PageRuns::from_pages(&touched.pages);
            return (range.start < range.end).then(|| encode_entry(range, &pages, &touched.marks));
        }
        let found = self.read_entry(segment);
        found.unwrap_or_else(|error| {
            let path = segment.path.display();
            tracing::warn!(%path, %error, "cannot read which pages a part of the log changed");
            None
        })
    }

    /// The entry of a segment that an earlier incarnation wrote, by its records.
    fn read_entry(&self, segment: &SealedSegment) -> io::Result<Option<Vec<u8>>> {
        let file = self.host.disk.open(&segment.path, OpenMode::Read)?;
        let mut head = [0; 512];
        let found = os::read_up_to(&*file, &mut head, 0)?;
        let head = SegmentHeader::decode(head.get(..found).unwrap_or_default());
        let Some(Ok(header)) = head else {
            return Ok(None);
        };
        let whose = (header.database, header.history, header.page_size);
        if whose != self.whose() || header.start >= segment.end {
            return Ok(None);
        }
        let mut touched = Gathering::default();
        // Nobody knows any more which of its commits were pinned.
        let mut marks = VecDeque::new();
        let mut keep = |mark| {
            marks.push_back(mark);
            if marks.len() > MARKS_MAX {
                marks.pop_front();
            }
        };
        let (end, last_commit) = walk_segment(
            &*file,
            &header,
            Lsn::ZERO,
            segment.end,
            &mut touched,
            &mut keep,
        )?;
        let range = LogRange {
            start: header.start,
            end,
            epoch: header.epoch,
            last_commit,
        };
        let is_any = range.start < range.end;
        let pages = touched.finish();
        Ok(is_any.then(|| encode_entry(range, &pages, marks.make_contiguous())))
    }

    fn whose(&self) -> (crate::id::DatabaseId, crate::id::HistoryId, u32) {
        let identity = &self.identity;
        (
            identity.database,
            identity.history,
            identity.page_size.get(),
        )
    }

    /// Makes whole entries durable.
    fn append(&self, at_hand: &mut AtHand, entries: &[u8]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        if at_hand.file.is_none() && !at_hand.is_new_wanted {
            at_hand.file = self.newest_to_go_on_with()?;
        }
        let length = entries.len() as u64;
        match at_hand.file.take() {
            Some((path, end)) if end + length <= FILE_BYTES_MAX => {
                let file = self.host.disk.open(&path, OpenMode::ReadWrite)?;
                if file.len()? != end {
                    return Err(io::Error::other("somebody else changed it"));
                }
                os::write_all_at(&*file, entries, end)?;
                file.sync_data()?;
                at_hand.file = Some((path, end + length));
            }
            _ => {
                let (path, end) = self.begin_file(entries)?;
                *at_hand = AtHand {
                    file: Some((path, end)),
                    is_new_wanted: false,
                };
            }
        }
        Ok(())
    }

    /// The newest file, if it is of this history and whole to its end.
    fn newest_to_go_on_with(&self) -> io::Result<Option<(PathBuf, u64)>> {
        let Some(&newest) = sequences(&*self.host.disk, &self.dir)?.last() else {
            return Ok(None);
        };
        let path = self.dir.join(file_name(newest));
        let file = self.host.disk.open(&path, OpenMode::ReadWrite)?;
        let length = file.len()?;
        let Some((header, entries, end)) = entries_of(&*file)? else {
            return Ok(None);
        };
        let is_own = (header.database, header.history, header.page_size) == self.whose();
        let is_readable = |place: &EntryPlace| Ok(place.read(&*file)?.is_some());
        let whole = entries
            .iter()
            .map(is_readable)
            .collect::<io::Result<Vec<_>>>()?;
        let is_whole = end == length && whole.iter().all(|is_whole| *is_whole);
        if !(is_own && is_whole) {
            return Ok(None);
        }
        // Whoever made it may have been killed before its name was durable.
        self.sync_names()?;
        Ok(Some((path, end)))
    }

    fn sync_names(&self) -> io::Result<()> {
        if let Some(parent) = self.dir.parent() {
            self.host.disk.sync_dir(parent)?;
        }
        self.host.disk.sync_dir(&self.dir)
    }

    /// Makes the next file with these entries, its name durable, and lets the oldest go.
    fn begin_file(&self, entries: &[u8]) -> io::Result<(PathBuf, u64)> {
        let disk = &self.host.disk;
        match disk.create_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let before = sequences(&**disk, &self.dir)?;
        self.remove_oldest(&before);
        let sequence = before.last().map_or(1, |last| last.saturating_add(1));
        let path = self.dir.join(file_name(sequence));
        let file = disk.open(&path, OpenMode::CreateNew)?;
        let header = FileHeader {
            page_size: self.identity.page_size.get(),
            database: self.identity.database,
            history: self.identity.history,
            sequence,
        };
        let mut bytes = vec![0; FILE_HEADER_BYTES];
        codec::put(&mut bytes, 0, &header.encode());
        bytes.extend_from_slice(entries);
        let written = os::write_all_at(&*file, &bytes, 0)
            .and_then(|()| file.sync_data())
            .and_then(|()| self.sync_names());
        if let Err(error) = written {
            // What it says is true, should it come back.
            let _ = disk.remove(&path);
            return Err(error);
        }
        Ok((path, bytes.len() as u64))
    }

    /// What cannot be removed is tried again with the next file.
    fn remove_oldest(&self, sequences: &[u64]) {
        let (mut total, mut count) = (FILE_BYTES_MAX, 1);
        for sequence in sequences.iter().rev() {
            let path = self.dir.join(file_name(*sequence));
            let file = self.host.disk.open(&path, OpenMode::Read);
            let length = file.and_then(|file| file.len());
            total += length.unwrap_or_default();
            count += 1;
            if total > TOTAL_BYTES_MAX || count > FILES_MAX {
                let _ = self.host.disk.remove(&path);
            }
        }
    }
}
