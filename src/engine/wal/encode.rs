//! One commit as bytes of the log.

use std::ops::Range;

use crate::engine::commit_point::CommitPoint;
use crate::engine::page_io::FreeList;
use crate::engine::wal::delta;
use crate::engine::wal::record::{
    COMMIT_BYTES, CommitRecord, IMAGE_HEAD_BYTES, RecordKind, encode_image, framed_bytes,
    push_record,
};
use crate::lsn::{Lsn, Timestamp};
use crate::page::{PageBuf, PageNo};

/// One page of a commit.
#[derive(Debug)]
pub(crate) struct PageChange<'a> {
    pub(crate) page: PageNo,
    /// The committed image that a delta may refer to; `None` asks for a full image.
    pub(crate) before: Option<&'a PageBuf>,
    /// The image to commit; [`encode_commit`] seals it.
    pub(crate) after: &'a mut PageBuf,
}

/// What a commit says beside its pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitFields {
    pub(crate) timestamp: Timestamp,
    pub(crate) wall_ns: u64,
    pub(crate) synced: Lsn,
    pub(crate) page_count: u64,
    pub(crate) free: FreeList,
}

enum Form {
    Image {
        hole: Range<usize>,
    },
    Delta {
        base: Lsn,
        ranges: Vec<Range<usize>>,
    },
}

/// Seals the pages and encodes the commit as it stands in the log from `start` on.
///
/// The sizes come first: every page carries the LSN of the commit's end.
pub(crate) fn encode_commit(
    changes: &mut [PageChange<'_>],
    fields: &CommitFields,
    start: Lsn,
    salt: u64,
) -> (Vec<u8>, CommitPoint) {
    let forms: Vec<Form> = changes.iter().map(form_of).collect();
    let payloads = changes.iter().zip(&forms).map(|(change, form)| match form {
        Form::Image { hole } => IMAGE_HEAD_BYTES + change.after.len() - hole.len(),
        Form::Delta { ranges, .. } => delta::delta_bytes(ranges),
    });
    let total = payloads.map(framed_bytes).sum::<usize>() + framed_bytes(COMMIT_BYTES);
    let end = Lsn(start.0 + total as u64);
    let mut out = Vec::with_capacity(total);
    for (change, form) in changes.iter_mut().zip(&forms) {
        change.after.seal(end);
        let at = Lsn(start.0 + out.len() as u64);
        match form {
            Form::Image { hole } => {
                let payload = encode_image(change.page, change.after, hole.clone());
                push_record(&mut out, salt, at, RecordKind::PageImage, &payload);
            }
            Form::Delta { base, ranges } => {
                let payload = delta::encode_delta(change.page, *base, change.after, ranges);
                push_record(&mut out, salt, at, RecordKind::PageDelta, &payload);
            }
        }
    }
    let CommitFields {
        timestamp,
        wall_ns,
        synced,
        page_count,
        free,
    } = *fields;
    let record = CommitRecord {
        timestamp,
        wall_ns,
        synced,
        page_count,
        free,
    };
    let at = Lsn(start.0 + out.len() as u64);
    push_record(&mut out, salt, at, RecordKind::Commit, &record.encode());
    debug_assert_eq!(out.len(), total);
    (out, record.point(end))
}

/// A delta where it takes less than half of an image.
fn form_of(change: &PageChange<'_>) -> Form {
    let after: &[u8] = change.after;
    let ranges = change.before.and_then(|before| {
        let ranges = delta::changed_ranges(before, after, after.len() / 2)?;
        Some((before.lsn(), ranges))
    });
    match ranges {
        Some((base, ranges)) => Form::Delta { base, ranges },
        None => Form::Image {
            hole: longest_zeros(after),
        },
    }
}

/// The longest run of zero words in the body: unused space in a node, the tail of a short page.
fn longest_zeros(page: &[u8]) -> Range<usize> {
    let mut best = 0..0;
    let mut run = 0..0;
    for (index, word) in page.chunks_exact(8).enumerate().skip(4) {
        if word == [0; 8] {
            if run.is_empty() {
                run.start = index * 8;
            }
            run.end = index * 8 + 8;
            if run.len() > best.len() {
                best = run.clone();
            }
        } else {
            run = 0..0;
        }
    }
    best
}
