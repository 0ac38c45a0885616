//! A log without an index: read frame by frame, as SQLite does when it recovers (`walIndexRecover`).
//!
//! Only where nobody can write: the checksums tell where the log ends, not whether somebody goes on.

use std::io;

use crate::os::{File, read_up_to};
use crate::source::sqlite::format::{
    Checksum, FRAME_HEADER_BYTES, FrameHeader, Salts, WAL_HEADER_BYTES, WalHeader, frame_offset,
};
use crate::source::sqlite::page_index::{PageIndex, PageIndexBuilder};

/// Frames are read in one go up to this many bytes.
const STEP_BYTES: u64 = 1 << 20;

/// What a log says up to its last whole commit.
#[derive(Debug)]
pub(super) struct Scanned {
    /// Bytes of a page.
    pub(super) page_bytes: u64,
    /// Its salts.
    pub(super) salts: Salts,
    /// Frames up to the commit; 0 if there is none.
    pub(super) frame_count: u32,
    /// Pages of the database after it.
    pub(super) page_count: u32,
    /// The checksum of its last frame.
    pub(super) checksum: Checksum,
    /// Where the newest frame of each page is.
    pub(super) index: PageIndex,
}

/// Why there is nothing to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoLog {
    /// SQLite takes no notice of it.
    Ignored,
    /// It is of a version that is not known.
    Future,
}

/// Reads a whole log. Memory: 8 bytes for each frame with a right checksum.
///
/// Errors: the system's.
pub(super) fn scan(log: &dyn File) -> io::Result<Result<Scanned, NoLog>> {
    let mut bytes = [0; WAL_HEADER_BYTES];
    if read_up_to(log, &mut bytes, 0)? < bytes.len() {
        return Ok(Err(NoLog::Ignored));
    }
    let Some(header) = WalHeader::parse(&bytes) else {
        return Ok(Err(if WalHeader::is_of_future(&bytes) {
            NoLog::Future
        } else {
            NoLog::Ignored
        }));
    };
    let mut scan = Scan {
        header,
        checksum: header.checksum,
        builder: PageIndexBuilder::default(),
        last_commit: None,
    };
    scan.run(log)?;
    let commit = scan.last_commit.unwrap_or(Commit {
        frame: 0,
        page_count: 0,
        checksum: header.checksum,
    });
    let frames = usize::try_from(commit.frame).unwrap_or(usize::MAX);
    Ok(Ok(Scanned {
        page_bytes: header.page_bytes,
        salts: header.salts,
        frame_count: commit.frame,
        page_count: commit.page_count,
        checksum: commit.checksum,
        index: scan.builder.finish(frames, commit.page_count),
    }))
}

struct Commit {
    frame: u32,
    page_count: u32,
    checksum: Checksum,
}

struct Scan {
    header: WalHeader,
    checksum: Checksum,
    builder: PageIndexBuilder,
    last_commit: Option<Commit>,
}

impl Scan {
    fn run(&mut self, log: &dyn File) -> io::Result<()> {
        let frame_bytes = FRAME_HEADER_BYTES as u64 + self.header.page_bytes;
        let frame_bytes = usize::try_from(frame_bytes).expect("a page is small");
        let step = (usize::try_from(STEP_BYTES).unwrap_or(0) / frame_bytes).max(1);
        let mut bytes = vec![0; step * frame_bytes];
        let mut frame = 1_u32;
        loop {
            let found = read_up_to(log, &mut bytes, frame_offset(frame, self.header.page_bytes))?;
            let whole = bytes.get(..found).unwrap_or_default();
            for bytes in whole.chunks_exact(frame_bytes) {
                if !self.take(frame, bytes) {
                    return Ok(());
                }
                let Some(next) = frame.checked_add(1) else {
                    return Ok(());
                };
                frame = next;
            }
            if found < bytes.len() {
                return Ok(());
            }
        }
    }

    /// `false` if the log ends before this frame.
    fn take(&mut self, frame: u32, bytes: &[u8]) -> bool {
        let (head, page) = bytes.split_at(FRAME_HEADER_BYTES);
        let Some(found) = FrameHeader::parse(head).filter(|found| {
            // A frame of no page, or of another log, ends it (`walDecodeFrame`).
            found.salts == self.header.salts && found.page != 0
        }) else {
            return false;
        };
        let order = self.header.order;
        let start = head.get(..8).unwrap_or_default();
        self.checksum = self.checksum.add(order, start).add(order, page);
        if found.checksum != self.checksum || !self.builder.push(found.page, frame) {
            return false;
        }
        if found.commit_pages != 0 {
            self.last_commit = Some(Commit {
                frame,
                page_count: found.commit_pages,
                checksum: found.checksum,
            });
        }
        true
    }
}
