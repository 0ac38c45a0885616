//! The database header: two copies, in pages 0 and 1, written alternately. Little endian:
//!
//! ```text
//! offset size
//!      0   32  page header (kind Header; LSN = the LSN field below)
//!     32    8  magic "STILLFS\x01"
//!     40    4  format version, 1
//!     44    4  page size in bytes
//!     48   16  database id
//!     64   16  history id
//!     80    8  epoch; 0 in a view
//!     88    8  sequence; the copy with the higher one counts
//!     96    1  state: 1 clean, 2 the log is needed
//!     97    7  reserved, 0
//!    104    8  log start: LSN from which the log must be replayed
//!    112    8  timestamp of the newest commit that the file holds in full
//!    120    8  its wall clock, nanoseconds since 1970
//!    128    8  its LSN
//!    136    8  page count
//!    144    8  first page of the free list, 0 = none
//!    152    8  pages in the free list
//!    160   16  history that this one forked from; zeros = none
//!    176   16  history whose commits this one goes on from; zeros = none, or not known
//!    192    8  LSN of the last of those commits
//!    200  308  reserved, 0
//!    508    4  crc32 of bytes 32 .. 508
//!    512       zeros to the end of the page
//! ```
//!
//! The inner checksum makes the first 512 bytes readable by themselves, which the merged read's last
//! look does for every reply.

#![deny(clippy::indexing_slicing)]

use std::path::Path;

use crate::codec;
use crate::engine::commit_point::CommitPoint;
use crate::engine::error::{EngineError, FileRole, HeaderFault, Result};
use crate::engine::page_io::FreeList;
use crate::id::{DatabaseId, Epoch, HistoryId};
use crate::lsn::{Lsn, Timestamp};
use crate::os::{self, File};
use crate::page::{self, PageBuf, PageKind, PageNo, PageSize};

/// Bytes at the start of a header page that hold all of it.
pub const HEADER_BYTES: usize = 512;
/// The newest format version of `data.pages` that this build reads.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"STILLFS\x01";

/// Whether the page file stands by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderState {
    /// No log is needed.
    Clean,
    /// The log must be replayed from the log start.
    LogNeeded,
}

/// Where a history goes on from another one's commits. Histories between the two that had no commits of
/// their own, as those of views, are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The other one.
    pub history: HistoryId,
    /// The last commit that both have.
    pub lsn: Lsn,
}

/// One copy of the header, decoded and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Page size.
    pub page_size: PageSize,
    /// Identity of the database.
    pub database: DatabaseId,
    /// Line of commits.
    pub history: HistoryId,
    /// The history that this one forked from.
    pub parent_history: Option<HistoryId>,
    /// Whose commits this history goes on from; `None` where there is none, or it is not known.
    pub fork: Option<Fork>,
    /// Incarnation of the engine.
    pub epoch: Epoch,
    /// Order of the two copies.
    pub sequence: u64,
    /// Whether the log is needed.
    pub state: HeaderState,
    /// Where the log must start.
    pub log_start: Lsn,
    /// The newest commit that the file holds in full.
    pub(crate) point: CommitPoint,
}

impl Header {
    /// The newest commit that the file holds in full: timestamp, LSN, wall clock (ns), page count.
    #[must_use]
    pub fn commit(&self) -> (Timestamp, Lsn, u64, u64) {
        (
            self.point.timestamp,
            self.point.lsn,
            self.point.wall_ns,
            self.point.page_count,
        )
    }

    /// The header page for `page` (0 or 1), sealed.
    #[must_use]
    pub fn encode(&self, page: PageNo) -> PageBuf {
        let mut buf = PageBuf::formatted(self.page_size, page, PageKind::Header);
        let state = match self.state {
            HeaderState::Clean => 1u8,
            HeaderState::LogNeeded => 2,
        };
        let parent = self.parent_history.map_or([0; 16], |history| history.0);
        codec::put(&mut buf, 32, &MAGIC);
        codec::put(&mut buf, 40, &FORMAT_VERSION.to_le_bytes());
        codec::put(&mut buf, 44, &self.page_size.get().to_le_bytes());
        codec::put(&mut buf, 48, &self.database.0);
        codec::put(&mut buf, 64, &self.history.0);
        codec::put(&mut buf, 96, &[state]);
        for (offset, value) in [
            (80, self.epoch.0),
            (88, self.sequence),
            (104, self.log_start.0),
            (112, self.point.timestamp.0),
            (120, self.point.wall_ns),
            (128, self.point.lsn.0),
            (136, self.point.page_count),
            (144, self.point.free.head.0),
            (152, self.point.free.count),
        ] {
            codec::put(&mut buf, offset, &value.to_le_bytes());
        }
        codec::put(&mut buf, 160, &parent);
        if let Some(fork) = &self.fork {
            codec::put(&mut buf, 176, &fork.history.0);
            codec::put(&mut buf, 192, &fork.lsn.0.to_le_bytes());
        }
        let crc = crc32fast::hash(buf.get(32..508).unwrap_or_default());
        codec::put(&mut buf, 508, &crc.to_le_bytes());
        buf.seal(self.point.lsn);
        buf
    }

    /// Decodes the first [`HEADER_BYTES`] of a header page.
    ///
    /// Errors: [`HeaderFault`]; a version from the future is reported by [`decode_version`] first.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let field = |offset| codec::get_u64(bytes, offset).unwrap_or_default();
        if bytes.len() < HEADER_BYTES {
            return Err(HeaderFault::Short(bytes.len() as u64));
        }
        if codec::get_array(bytes, 32) != Some(MAGIC) {
            return Err(HeaderFault::Magic);
        }
        let expected = crc32fast::hash(bytes.get(32..508).unwrap_or_default());
        let found = codec::get_u32(bytes, 508).unwrap_or_default();
        if expected != found {
            return Err(HeaderFault::Checksum { expected, found });
        }
        let page_bytes = u64::from(codec::get_u32(bytes, 44).unwrap_or_default());
        let wrong = |field, found| HeaderFault::Field { field, found };
        let page_size = PageSize::new(page_bytes).ok_or(wrong("page size", page_bytes))?;
        let state = match bytes.get(96) {
            Some(1) => HeaderState::Clean,
            Some(2) => HeaderState::LogNeeded,
            other => return Err(wrong("state", other.map_or(0, |&state| u64::from(state)))),
        };
        let free = FreeList {
            head: PageNo(field(144)),
            count: field(152),
        };
        let point = CommitPoint {
            timestamp: Timestamp(field(112)),
            wall_ns: field(120),
            lsn: Lsn(field(128)),
            page_count: field(136),
            free,
        };
        if let Some((field, found)) = point.fault(page_size) {
            return Err(wrong(field, found));
        }
        let parent = HistoryId(codec::get_array(bytes, 160).unwrap_or_default());
        let fork = Fork {
            history: HistoryId(codec::get_array(bytes, 176).unwrap_or_default()),
            lsn: Lsn(field(192)),
        };
        if fork.lsn > point.lsn {
            return Err(wrong("fork", fork.lsn.0));
        }
        Ok(Self {
            page_size,
            database: DatabaseId(codec::get_array(bytes, 48).unwrap_or_default()),
            history: HistoryId(codec::get_array(bytes, 64).unwrap_or_default()),
            parent_history: (parent.0 != [0; 16]).then_some(parent),
            fork: (fork.history.0 != [0; 16]).then_some(fork),
            epoch: Epoch(field(80)),
            sequence: field(88),
            state,
            log_start: Lsn(field(104)),
            point,
        })
    }

    /// What a history that starts at `point` goes on from.
    pub(crate) fn fork_at(&self, point: CommitPoint) -> Fork {
        let own = Fork {
            history: self.history,
            lsn: point.lsn,
        };
        self.fork
            .filter(|fork| fork.lsn == point.lsn)
            .unwrap_or(own)
    }

    /// The header of the view of this database at `point`: what a clean close there would leave, in a
    /// history of its own. The same for every pin of one commit.
    #[must_use]
    pub(crate) fn of_view(&self, point: CommitPoint) -> Self {
        Self {
            history: HistoryId::of_view(self.database, self.history, point.timestamp),
            parent_history: Some(self.history),
            fork: Some(self.fork_at(point)),
            epoch: Epoch(0),
            sequence: 1,
            state: HeaderState::Clean,
            log_start: point.lsn,
            point,
            ..*self
        }
    }
}

/// The valid copies of the header in `file`, at the two places where `page_size` puts them.
///
/// Errors: `Io`.
pub(crate) fn read_copies(file: &dyn File, page_size: PageSize) -> Result<Vec<Header>> {
    let mut copies = Vec::with_capacity(2);
    for offset in [0, u64::from(page_size.get())] {
        let mut bytes = [0; HEADER_BYTES];
        let found = os::read_up_to(file, &mut bytes, offset)
            .map_err(EngineError::io("read the header of", FileRole::PageFile))?;
        copies.extend(Header::decode(bytes.get(..found).unwrap_or_default()));
    }
    Ok(copies)
}

/// The format version in a header with the right magic, whatever else is wrong with it.
#[must_use]
pub fn decode_version(bytes: &[u8]) -> Option<u32> {
    (codec::get_array(bytes, 32)? == MAGIC).then(|| codec::get_u32(bytes, 40))?
}

/// Whether `bytes` begin like a page file of ours; for recognising a directory.
#[must_use]
pub fn has_magic(bytes: &[u8]) -> bool {
    decode_version(bytes).is_some()
}

/// Reads the newer valid copy of the header of the page file `file` at `path`.
///
/// Errors: `FutureVersion` if a copy says so; `Header` if both are bad; `Io`.
pub(crate) fn read(file: &dyn File, path: &Path) -> Result<Header> {
    let mut fault = HeaderFault::Short(0);
    let mut best: Option<Header> = None;
    let mut consider = |offset: u64, first: bool| -> Result<()> {
        let mut bytes = [0; HEADER_BYTES];
        let found = os::read_up_to(file, &mut bytes, offset).map_err(EngineError::io_at(
            "read",
            FileRole::PageFile,
            path,
        ))?;
        let bytes = bytes.get(..found).unwrap_or_default();
        match decode_version(bytes) {
            Some(version) if version > FORMAT_VERSION => {
                let (path, known) = (path.to_owned(), FORMAT_VERSION);
                return Err(EngineError::FutureVersion {
                    path,
                    found: version,
                    known,
                });
            }
            _ => {}
        }
        match Header::decode(bytes) {
            // A copy counts only at the place where its own page size puts it.
            Ok(header) if offset == 0 || offset == u64::from(header.page_size.get()) => {
                if best
                    .as_ref()
                    .is_none_or(|best| header.sequence > best.sequence)
                {
                    best = Some(header);
                }
            }
            Ok(_) => {}
            Err(found) if first => fault = found,
            Err(_) => {}
        }
        Ok(())
    };
    consider(0, true)?;
    for shift in 12..=16 {
        consider(1 << shift, false)?;
    }
    let best = best.ok_or_else(|| EngineError::Header {
        path: path.to_owned(),
        fault,
    })?;
    for copy in bad_copies(file, &best) {
        tracing::warn!(path = %path.display(), page = %copy, "a copy of the header is damaged; the other one counts");
    }
    Ok(best)
}

/// The copies of `header` in `file` that are not whole. A torn one is what a crash in the middle of a
/// checkpoint leaves; the next checkpoint or open writes it anew.
pub(crate) fn bad_copies(file: &dyn File, header: &Header) -> Vec<PageNo> {
    let is_bad = |copy: &PageNo| {
        let mut bytes = PageBuf::zeroed(header.page_size);
        let offset = copy.0 * u64::from(header.page_size.get());
        os::read_exact_at(file, &mut bytes, offset).is_err()
            || page::check(&bytes, *copy, Lsn::MAX).is_err()
            || Header::decode(&bytes).is_err()
    };
    let copies = [PageNo(0), PageNo(1)];
    copies.into_iter().filter(is_bad).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        let free = FreeList {
            head: PageNo(5),
            count: 2,
        };
        let point = CommitPoint {
            timestamp: Timestamp(7),
            wall_ns: 99,
            lsn: Lsn(4096),
            page_count: 10,
            free,
        };
        Header {
            page_size: PageSize::DEFAULT,
            database: DatabaseId([1; 16]),
            history: HistoryId([2; 16]),
            parent_history: None,
            fork: Some(Fork {
                history: HistoryId([8; 16]),
                lsn: Lsn(4000),
            }),
            epoch: Epoch(3),
            sequence: 4,
            state: HeaderState::LogNeeded,
            log_start: Lsn(512),
            point,
        }
    }

    #[test]
    fn encoded_header_decodes_to_itself_and_is_a_valid_page() {
        let header = sample();
        let bytes = header.encode(PageNo(1));
        assert_eq!(Header::decode(&bytes), Ok(header));
        assert_eq!(page::check(&bytes, PageNo(1), Lsn(4096)), Ok(()));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        let page = sample().encode(PageNo(0));
        for bit in 32 * 8..HEADER_BYTES * 8 {
            let mut bad = page.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&bad).is_err(), "bit {bit}");
        }
    }

    /// D3: nothing in a view's header may depend on when or by whom it was pinned.
    #[test]
    fn two_views_of_one_commit_have_equal_headers() {
        let header = sample();
        let later = Header {
            epoch: Epoch(77),
            sequence: 90,
            log_start: Lsn(9),
            ..header.clone()
        };
        let page = |h: &Header| h.of_view(header.point).encode(PageNo(0));
        assert_eq!(page(&header), page(&later));
    }
}
