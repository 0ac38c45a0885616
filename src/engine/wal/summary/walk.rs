//! The pages that the records of one segment name.

#![deny(clippy::indexing_slicing)]

use std::io;

use crate::engine::wal::record::{
    CommitRecord, RECORD_HEADER_BYTES, RecordHead, RecordKind, decode_summary, framed_bytes,
    page_of,
};
use crate::engine::wal::segment::{CommitMark, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::engine::wal::summary::runs::Gathering;
use crate::engine::wal::window::Window;
use crate::lsn::Lsn;
use crate::os::File;

const WINDOW_BYTES: usize = 1 << 20;
/// Longer than the payload of any record.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Reads the records of the segment in `file` up to `until`, or up to the first that is not whole, and
/// adds the pages of the commits that end after `since`. A commit that is not whole is none; `visit` is called
/// with each that is. Gives the end of the last whole commit or note, and that of the last commit, or the
/// start if there is none.
///
/// Errors: the system's. Cost: reads the segment once, 1 MiB at a time.
pub(super) fn walk_segment(
    file: &dyn File,
    header: &SegmentHeader,
    since: Lsn,
    until: Lsn,
    touched: &mut Gathering,
    visit: &mut dyn FnMut(CommitMark),
) -> io::Result<(Lsn, Lsn)> {
    let mut window = Window::new(file, WINDOW_BYTES);
    let mut under_way = Vec::new();
    let (mut at, mut end, mut last_commit) = (header.start, header.start, header.start);
    while at < until {
        let Some((kind, payload, next)) = record_at(&mut window, header, at)? else {
            break;
        };
        if next > until {
            break;
        }
        if kind == RecordKind::Commit {
            let Ok(commit) = CommitRecord::decode(payload) else {
                break;
            };
            visit(CommitMark {
                lsn: next,
                wall_ns: commit.wall_ns,
            });
        }
        match kind {
            RecordKind::PageImage | RecordKind::PageDelta => match page_of(payload) {
                Some(page) => under_way.push(page),
                None => break,
            },
            RecordKind::Commit if next > since => {
                under_way.drain(..).for_each(|page| touched.add_page(page));
            }
            RecordKind::Commit => under_way.clear(),
            // It must not be that the records and their summary disagree. If they do, both are heeded.
            RecordKind::PageSummary if since <= header.start => match decode_summary(payload) {
                Ok((_, pages)) => pages.into_iter().for_each(|page| touched.add_page(page)),
                Err(_) => break,
            },
            RecordKind::PageSummary | RecordKind::CheckpointBegin | RecordKind::CheckpointEnd => {}
        }
        if kind == RecordKind::Commit {
            last_commit = next;
        }
        at = next;
        if under_way.is_empty() {
            end = at;
        }
    }
    Ok((end, last_commit))
}

/// The record at `at`, and where the next one starts; `None` if no whole one is there.
fn record_at<'a>(
    window: &'a mut Window<'_>,
    header: &SegmentHeader,
    at: Lsn,
) -> io::Result<Option<(RecordKind, &'a [u8], Lsn)>> {
    let into = at.0.saturating_sub(header.start.0);
    let Some(offset) = SEGMENT_HEADER_BYTES.checked_add(into) else {
        return Ok(None);
    };
    let head = window.get(offset, RECORD_HEADER_BYTES)?;
    let Some(head) = head.and_then(|head| head.try_into().ok()) else {
        return Ok(None);
    };
    let head = RecordHead::new(head);
    let framed = framed_bytes(head.payload_bytes());
    let next = at.checked_add(framed as u64);
    let (true, Some(next)) = (
        head.lsn() == at && head.payload_bytes() <= PAYLOAD_BYTES_MAX,
        next,
    ) else {
        return Ok(None);
    };
    let record = window.get(offset, framed)?.unwrap_or_default();
    let payload = record
        .get(RECORD_HEADER_BYTES..)
        .and_then(|rest| rest.get(..head.payload_bytes()));
    let checked =
        payload.and_then(|payload| Some((head.check(header.salt, payload)?.ok()?, payload)));
    Ok(checked.map(|(kind, payload)| (kind, payload, next)))
}
