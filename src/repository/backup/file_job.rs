//! One file on its way: which of its units must be read (BK6), and what each turned out to be.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::fault::{self, Fault};
use crate::id::Epoch;
use crate::lsn::Lsn;
use crate::os::File;
use crate::os::path::Metadata;
use crate::repository::backup::blob_index::{BlobIndex, BlobNo};
use crate::repository::backup::walk::WalkedFile;
use crate::repository::manifest::{DatabaseFacts, Entry, EntryContent, FileContent, Manifest};
use crate::repository::pack::UNIT_BYTES_MAX;
use crate::view::tree::{Content, Node, NodeId, PageVersion, RangeRead};

/// Pages of a native file that every commit changes, and whose LSN says nothing: the two headers.
pub(super) const HEADER_PAGES: u64 = 2;

/// More units than can be numbered are in no file: 256 TiB of blocks.
const UNITS_MAX: u64 = u32::MAX as u64;

/// A file, and how far it is.
#[derive(Debug)]
pub(super) struct FileJob {
    /// The place of its entry.
    pub(super) entry: usize,
    /// Its node.
    pub(super) node: NodeId,
    /// Bytes of a unit.
    pub(super) unit_bytes: u32,
    /// Bytes of a page; `None` for what is no database.
    pub(super) database: Option<u32>,
    /// Which commit it shows.
    pub(super) version: Option<PageVersion>,
    /// The incarnation that wrote that commit, where it is known.
    pub(super) epoch: Option<Epoch>,
    /// A page that is not of a later commit than this is the one of `hints`.
    pub(super) unchanged_up_to: Option<Lsn>,
    /// What the parent has at the same places, where it is not taken over anyway.
    pub(super) hints: Vec<BlobNo>,
    /// What changes on the way.
    pub(super) state: Mutex<FileState>,
}

/// See [`FileJob::state`].
#[derive(Debug, Default)]
pub(super) struct FileState {
    /// Its size; of a live file 0 until it is opened, and in the end what was found.
    pub(super) bytes: u64,
    /// What its units are.
    pub(super) numbers: Vec<BlobNo>,
    /// Units that must be read, in order, none twice; those of a live file are known when it is opened.
    pub(super) must_read: Vec<Range<u64>>,
    /// A live file while it is read.
    pub(super) open: Option<OpenFile>,
    /// What `stat` said of a live file when it was opened.
    pub(super) found: Option<Metadata>,
    /// Whether a live file was changed while it was read.
    pub(super) is_changed: bool,
    /// Why a live file could not be had.
    pub(super) left_out: Option<String>,
}

/// A live file while it is read.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    /// Its content.
    pub(super) file: Arc<dyn File>,
    /// Tasks that are not done.
    pub(super) tasks_left: u64,
}

/// The backup that is compared with.
#[derive(Debug)]
pub(super) struct Parent<'a> {
    packs: &'a [crate::repository::pack::PackId],
    files: HashMap<&'a [u8], &'a FileContent>,
    databases: &'a [DatabaseFacts],
}

impl<'a> Parent<'a> {
    /// What `manifest` has of each path.
    pub(super) fn new(manifest: &'a Manifest) -> Self {
        let file = |entry: &'a Entry| match &entry.content {
            EntryContent::File(file) => Some((entry.path.as_slice(), file)),
            _ => None,
        };
        Self {
            packs: &manifest.packs,
            files: manifest.entries.iter().filter_map(file).collect(),
            databases: &manifest.facts.databases,
        }
    }

    /// Who wrote the commit that the file at `path` shows, and its wall clock, as its manifest says it.
    fn commit(&self, path: &[u8]) -> Option<(&'a str, u64)> {
        let path = String::from_utf8_lossy(path);
        let facts = self.databases.iter().find(|facts| facts.path == path)?;
        Some((facts.epoch.as_deref()?, facts.wall_ns?))
    }

    /// The content of each unit of `file`, as far as the repository still has it; of `limit` units at most,
    /// since a manifest may say anything.
    fn numbers(&self, file: &FileContent, index: &BlobIndex, limit: usize) -> Vec<BlobNo> {
        let mut numbers = Vec::new();
        for extent in &file.extents {
            let room = limit - numbers.len();
            let count = room.min(extent.count as usize);
            match self.packs.get(extent.pack as usize) {
                Some(pack) => {
                    let slots = index.slots(*pack, extent.slot, extent.count);
                    numbers.extend(slots.take(count));
                }
                None if extent.pack == crate::repository::manifest::Extent::ZEROS => {
                    numbers.extend(std::iter::repeat_n(BlobNo::ZEROS, count));
                }
                None => numbers.extend(std::iter::repeat_n(BlobNo::UNKNOWN, count)),
            }
        }
        numbers
    }
}

impl FileJob {
    /// Decides what must be read of `walked`, whose node is `node` and whose path is `path`.
    pub(super) fn new(
        walked: WalkedFile,
        node: &Node,
        path: &[u8],
        parent: Option<&Parent<'_>>,
        index: &BlobIndex,
    ) -> Self {
        let pages = match &node.content {
            Content::Paged(pages) => Some(&**pages),
            _ => None,
        };
        let page_bytes = pages.and_then(RangeRead::page_bytes);
        let fits = |bytes: &u32| (1..=UNIT_BYTES_MAX).contains(&(*bytes as usize));
        let unit_bytes = page_bytes.filter(fits).unwrap_or(BLOCK_BYTES);
        let mut job = Self {
            entry: walked.entry,
            node: walked.node,
            unit_bytes,
            database: pages.map(|_| page_bytes.unwrap_or(0)),
            version: pages.and_then(RangeRead::version),
            epoch: None,
            unchanged_up_to: None,
            hints: Vec::new(),
            state: Mutex::default(),
        };
        if let (Some(pages), Some(version)) = (pages, job.version) {
            job.epoch = pages.incarnation_of(version.lsn);
        }
        let older = parent.and_then(|parent| {
            let file = parent.files.get(path).copied()?;
            let units = walked.bytes.div_ceil(u64::from(unit_bytes)).min(UNITS_MAX);
            let limit = usize::try_from(units).unwrap_or(usize::MAX);
            (file.unit_bytes == unit_bytes).then(|| (file, parent.numbers(file, index, limit)))
        });
        let is_fixed = !matches!(node.content, Content::Live(_));
        if is_fixed {
            job.size(node.size());
        }
        if let Some((file, numbers)) = older {
            job.hints = numbers;
            if let Some(pages) = pages {
                let commit = parent.and_then(|parent| parent.commit(path));
                job.take_over(file, commit, pages);
            }
        }
        job
    }

    /// Number of units of a file of `bytes` bytes.
    pub(super) fn unit_count(&self, bytes: u64) -> u64 {
        bytes.div_ceil(u64::from(self.unit_bytes))
    }

    /// Fixes the size: every unit must be read. A file that says to be larger than memory can have a
    /// number for each unit of is left out: anybody can make one that has no content.
    pub(super) fn size(&self, bytes: u64) {
        let count = self.unit_count(bytes);
        let mut state = self.state.lock();
        let mut numbers = Vec::new();
        let length = usize::try_from(count).unwrap_or(usize::MAX);
        if count > UNITS_MAX || numbers.try_reserve_exact(length).is_err() {
            state.left_out = Some(format!(
                "its size of {bytes} bytes is too much for the memory"
            ));
            return;
        }
        numbers.resize(length, BlobNo::UNKNOWN);
        state.bytes = bytes;
        state.numbers = numbers;
        state.must_read = Vec::from_iter((count > 0).then_some(0..count));
    }

    /// BK6: takes over what is proved unchanged since `older`, whose commit is `commit`: who wrote it, and when.
    /// Another one at its LSN is of a past that was put back, by a copy of the directory, which goes on in
    /// another incarnation, or of the machine with its memory, which goes on at another time: pages that
    /// changed in both have LSNs that say nothing. So it is where nobody can say what was there.
    fn take_over(
        &mut self,
        older: &FileContent,
        commit: Option<(&str, u64)>,
        pages: &dyn RangeRead,
    ) {
        let (Some(shown), Some(before), Some(commit)) = (self.version, older.version, commit)
        else {
            return;
        };
        let unit_bytes = u64::from(self.unit_bytes);
        let is_whole = |bytes: u64| bytes.is_multiple_of(unit_bytes);
        let is_same_line = (shown.database, shown.history) == (before.database, before.history)
            || fault::is(Fault::ForeignBaseBelieved);
        if !is_same_line
            || before.lsn > shown.lsn
            || !is_whole(older.bytes)
            || !is_whole(pages.size())
        {
            return;
        }
        let there = pages.commit_at(before.lsn);
        let there = there.map(|(epoch, wall_ns)| (epoch.to_string(), wall_ns));
        if there.as_ref().map(|(epoch, wall)| (epoch.as_str(), *wall)) != Some(commit) {
            tracing::info!(lsn = %before.lsn, "nobody says that the base is of this past: every page is read");
            return;
        }
        let count = self.unit_count(pages.size());
        let mut must_read = if before.lsn == shown.lsn {
            Vec::new()
        } else if let Some(changed) = pages.changed_since(before.lsn) {
            let headers = std::iter::once(0..HEADER_PAGES);
            changed.into_iter().chain(headers).collect()
        } else {
            self.unchanged_up_to = Some(before.lsn);
            return;
        };
        let mut numbers = std::mem::take(&mut self.hints);
        let known_count = numbers.len() as u64;
        numbers.resize(
            usize::try_from(count).unwrap_or(usize::MAX),
            BlobNo::UNKNOWN,
        );
        must_read.push(known_count..count);
        let missing = (0..known_count).zip(&numbers);
        let missing = missing.filter(|(_, number)| **number == BlobNo::UNKNOWN);
        must_read.extend(missing.map(|(unit, _)| unit..unit + 1));
        let must_read = in_order(must_read, count);
        for range in &must_read {
            if let (Ok(first), Ok(end)) = (range.start.try_into(), range.end.try_into()) {
                let (first, end): (usize, usize) = (first, end);
                numbers[first..end].fill(BlobNo::UNKNOWN);
            }
        }
        let mut state = self.state.lock();
        state.numbers = numbers;
        state.must_read = must_read;
    }

    /// Bytes of units `range` of a file of `bytes` bytes.
    pub(super) fn bytes_of(&self, range: &Range<u64>, bytes: u64) -> u64 {
        let unit_bytes = u64::from(self.unit_bytes);
        let end = range.end.saturating_mul(unit_bytes).min(bytes);
        end.saturating_sub(range.start.saturating_mul(unit_bytes))
    }
}

/// Bytes of a unit of what has no pages.
#[expect(clippy::cast_possible_truncation, reason = "it is 64 KiB")]
const BLOCK_BYTES: u32 = UNIT_BYTES_MAX as u32;

/// What of `ranges` lies below `count`, in order, nothing twice.
fn in_order(mut ranges: Vec<Range<u64>>, count: u64) -> Vec<Range<u64>> {
    ranges.retain_mut(|range| {
        range.end = range.end.min(count);
        range.start < range.end
    });
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let touches = next.start <= last.end;
        if touches {
            last.end = last.end.max(next.end);
        }
        touches
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::backup::fixture::Rig;
    use crate::repository::digest::Digest;
    use crate::repository::manifest::Extent;
    use crate::repository::pack::PackId;
    use crate::repository::progress::Control;

    /// What a manifest says takes no more memory than what is there.
    #[test]
    fn parent_that_lies_about_its_units_is_heard_up_to_the_size_of_the_file() {
        let rig = Rig::new(1);
        let index = BlobIndex::load(&rig.repository, &Control::default()).unwrap();
        let extent = |pack| Extent {
            pack,
            slot: 7,
            count: u32::MAX,
        };
        let parent = Parent {
            packs: &[PackId([1; 16])],
            files: HashMap::new(),
            databases: &[],
        };
        for pack in [Extent::ZEROS, 0, 9] {
            let file = FileContent {
                bytes: u64::MAX,
                unit_bytes: 4096,
                digest: Digest::default(),
                extents: vec![extent(pack); 1000],
                version: None,
            };
            assert_eq!(parent.numbers(&file, &index, 3).len(), 3);
        }
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "it is a list of ranges")]
    fn ranges_are_joined_and_cut_to_the_file() {
        assert_eq!(
            in_order(vec![5..7, 0..2, 2..3, 6..6, 9..20, 30..31], 10),
            [0..3, 5..7, 9..10]
        );
        assert_eq!(in_order(vec![3..9, 4..5, 0..1], 100), [0..1, 3..9]);
        assert_eq!(in_order(vec![0..2], 1), [0..1]);
        assert_eq!(in_order(vec![0..2], 0), []);
    }
}
