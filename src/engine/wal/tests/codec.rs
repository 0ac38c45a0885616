//! Records: round trips, and the bytes that the format promises.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::engine::wal::record::*;
use crate::engine::wal::segment::SegmentHeader;
use crate::os::Host;

/// What follows was computed from the tables in the head of `wal`, by other code.
const SALT: u64 = 0x0123_4567_89ab_cdef;
const WALL_NS: u64 = 1_767_225_600_000_000_000;
const IMAGE: &str = "8750d20e3800000001000000000000000010000000000000070000000000000028000000d80f0000b9cb4c5d02010000070000000000000098100000000000000000000000000000676f6c64656e2121";
const COMMIT_OF_IMAGE: &str = "9998de61300000000300000000000000501000000000000006000000000000000100faed517286180010000000000000090000000000000005000000000000000200000000000000";
const DELTA: &str = "b84f658522000000020000000000000098100000000000000700000000000000981000000000000052d229bc0100000026000000020000006572000000000000";
const COMMIT_OF_DELTA: &str = "08aefc9f300000000300000000000000d81000000000000007000000000000000200faed517286189810000000000000090000000000000005000000000000000200000000000000";
const SUMMARY: &str = "72795707120000000600000000000000201100000000000000100000000000000300000003c501a8a104000000000000";
const CHECKPOINT_BEGIN: &str = "621edbc008000000040000000000000020110000000000002011000000000000";
const CHECKPOINT_END: &str = "457bfe4108000000050000000000000020110000000000002011000000000000";
const SEGMENT_HEADER: &str = "53465357414c00010100000000100000111111111111111111111111111111112222222222222222222222222222222203000000000000000010000000000000efcdab896745230155000000000000000000faed51728618";
const SEGMENT_HEADER_CRC: &str = "082e6284";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden_fields(timestamp: u64, synced: u64) -> CommitRecord {
    CommitRecord {
        timestamp: Timestamp(timestamp),
        wall_ns: WALL_NS + timestamp - 5,
        synced: Lsn(synced),
        page_count: 9,
        free: FreeList {
            head: PageNo(5),
            count: 2,
        },
    }
}

fn record(kind: RecordKind, payload: &[u8]) -> String {
    let mut out = Vec::new();
    push_record(&mut out, SALT, Lsn(4384), kind, payload);
    hex(&out)
}

/// The formats on disk: a change of one of these bytes needs a new version and a reader of the old.
#[test]
fn commits_have_the_promised_bytes() {
    let mut before = page(7, 0, 0);
    before[32..40].copy_from_slice(b"golden!!");
    let mut change = [PageChange {
        page: PageNo(7),
        before: None,
        after: &mut before,
    }];
    let (bytes, point) = encode_commit(&mut change, &golden_fields(6, 4096), Lsn(4096), SALT);
    assert_eq!(hex(&bytes), [IMAGE, COMMIT_OF_IMAGE].concat());
    assert_eq!(point.lsn, Lsn(4248));

    let mut after = before.clone();
    after[32..40].copy_from_slice(b"goldener");
    let mut change = [PageChange {
        page: PageNo(7),
        before: Some(&before),
        after: &mut after,
    }];
    let (bytes, point) = encode_commit(&mut change, &golden_fields(7, 4248), Lsn(4248), SALT);
    assert_eq!(hex(&bytes), [DELTA, COMMIT_OF_DELTA].concat());
    assert_eq!(point.lsn, Lsn(4384));
}

#[test]
fn notes_and_summaries_have_the_promised_bytes() {
    let lsn = 4384u64.to_le_bytes();
    assert_eq!(record(RecordKind::CheckpointBegin, &lsn), CHECKPOINT_BEGIN);
    assert_eq!(record(RecordKind::CheckpointEnd, &lsn), CHECKPOINT_END);
    let pages = [3, 200, 70_000].map(PageNo);
    let summaries = encode_summaries(Lsn(4096), &pages);
    assert_eq!(summaries.len(), 1);
    assert_eq!(record(RecordKind::PageSummary, &summaries[0]), SUMMARY);
}

#[test]
fn segment_header_has_the_promised_bytes() {
    let header = SegmentHeader {
        page_size: 4096,
        database: DatabaseId([0x11; 16]),
        history: HistoryId([0x22; 16]),
        sequence: 3,
        start: Lsn(4096),
        salt: SALT,
        epoch: Epoch(0x55),
        created_ns: WALL_NS,
    };
    let bytes = header.encode();
    assert_eq!(hex(&bytes[..88]), SEGMENT_HEADER);
    assert_eq!(bytes[88..508], [0; 420]);
    assert_eq!(hex(&bytes[508..]), SEGMENT_HEADER_CRC);
    assert_eq!(SegmentHeader::decode(&bytes), Some(Ok(header)));
    assert_eq!(segment_name(0xab), "00000000000000ab.wal");
}

fn any_size() -> impl Strategy<Value = PageSize> {
    (12..=16u32).prop_map(|shift| PageSize::new(1 << shift).unwrap())
}

/// Runs of bytes at places of a page, as parts of 65536, so that one draw serves every size.
fn any_runs(count: usize) -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    vec((any::<u16>(), vec(any::<u8>(), 0..200)), 0..count)
}

fn write_runs(page: &mut PageBuf, runs: &[(u16, Vec<u8>)]) {
    let size = page.len();
    for (place, bytes) in runs {
        let at = 32 + usize::from(*place) * (size - 32) / 65536;
        let bytes = &bytes[..bytes.len().min(size - at)];
        page[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// A page of a commit: its filling, what was there before, and what is changed in it.
type DrawnPage = (u8, Vec<(u16, Vec<u8>)>, Option<Vec<(u16, Vec<u8>)>>);

fn any_page() -> impl Strategy<Value = DrawnPage> {
    let background = prop_oneof![Just(0u8), any::<u8>()];
    (background, any_runs(6), proptest::option::of(any_runs(12)))
}

/// The images before (sealed) and after of each page.
fn draw_images(size: PageSize, drawn: &[DrawnPage]) -> Vec<(PageNo, Option<PageBuf>, PageBuf)> {
    let images = drawn.iter().enumerate().map(|(index, drawn)| {
        let (background, runs, changes) = drawn;
        let number = PageNo(3 + index as u64);
        let mut image = PageBuf::formatted(size, number, PageKind::Leaf);
        image[32..].fill(*background);
        write_runs(&mut image, runs);
        let Some(changes) = changes else {
            return (number, None, image);
        };
        image.seal(Lsn(40 + index as u64));
        let mut after = image.clone();
        after[4] = PageKind::Overflow as u8;
        write_runs(&mut after, changes);
        (number, Some(image), after)
    });
    images.collect()
}

fn write_log(host: &Host, size: PageSize) -> Log {
    let identity = LogIdentity {
        page_size: size,
        ..identity()
    };
    Log::start(host, Path::new(DIR), identity, Vec::new(), 1, Lsn(800)).unwrap()
}

fn pages_in_log(disk: &dyn Disk, size: PageSize) -> (Vec<ScannedPage>, CommitPoint, Scan) {
    let mut found = Vec::new();
    let (dir, ids) = (Path::new(DIR), (DATABASE, HISTORY));
    let missing = MissingLog::IsError;
    let read = scan(disk, dir, ids, size, Lsn(800), missing, &mut |commit| {
        found.push((commit.pages.to_vec(), commit.point));
        Ok(())
    });
    assert_eq!(found.len(), 1);
    let (pages, point) = found.remove(0);
    (pages, point, read.unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// What a commit sealed is what is made from the log, byte by byte, by image and by delta, with
    /// and without holes, at every page size.
    #[test]
    fn pages_made_from_the_log_are_the_committed_ones(
        size in any_size(),
        drawn in vec(any_page(), 1..5),
    ) {
        let machine = Host::simulated(1);
        let mut images = draw_images(size, &drawn);
        let log = write_log(&machine.host, size);
        let mut changes: Vec<_> = images
            .iter_mut()
            .map(|(page, before, after)| PageChange { page: *page, before: before.as_ref(), after })
            .collect();
        let (bytes, point) = encode_commit(&mut changes, &fields(1, Lsn::ZERO), log.end(), log.salt());
        prop_assert_eq!(append(&log, &bytes, []).unwrap(), point.lsn);

        let (scanned, found, read) = pages_in_log(&machine.disk, size);
        prop_assert_eq!(found, point);
        prop_assert_eq!(read.end, point.lsn);
        prop_assert_eq!(scanned.len(), images.len());
        for (scanned, (number, before, after)) in scanned.iter().zip(&images) {
            let payload = read.read_page(scanned.position).unwrap();
            prop_assert_eq!(payload.is_image, scanned.is_image);
            let made = if payload.is_image {
                decode_image(&payload.bytes, size).unwrap()
            } else {
                let (delta, before) = (decode_delta(&payload.bytes, size).unwrap(), before.as_ref().unwrap());
                let mut replay = PageReplay::of(before.clone(), point.lsn);
                replay.apply(&delta, point.lsn).unwrap();
                let made = apply_delta(before, &delta, point.lsn).unwrap();
                prop_assert!(replay.prove(scanned.page).unwrap() == made);
                made
            };
            prop_assert_eq!(scanned.page, *number);
            prop_assert!(&made == after);
            prop_assert_eq!(crate::page::check(&made, *number, point.lsn), Ok(()));
        }
    }

    /// A page that changed in a few bytes is logged as a delta that is smaller than the change is far.
    #[test]
    fn few_changed_bytes_make_a_short_record(size in any_size(), place in any::<u16>()) {
        let mut before = PageBuf::formatted(size, PageNo(3), PageKind::Leaf);
        before[32..].fill(0xa5);
        before.seal(Lsn(1));
        let mut after = before.clone();
        write_runs(&mut after, &[(place, vec![1; 20])]);
        let mut change = [PageChange { page: PageNo(3), before: Some(&before), after: &mut after }];
        let (bytes, _) = encode_commit(&mut change, &fields(1, Lsn::ZERO), Lsn::ZERO, SALT);
        prop_assert!(bytes.len() <= framed_bytes(DELTA_HEAD_BYTES + RANGE_HEAD_BYTES + 20) + framed_bytes(COMMIT_BYTES));
    }

    #[test]
    fn images_survive_any_hole(size in any_size(), a in any::<u16>(), b in any::<u16>()) {
        let (low, high) = (usize::from(a.min(b)), usize::from(a.max(b)));
        let (low, high) = (low.min(size.bytes()), high.min(size.bytes()));
        let mut image = PageBuf::from_bytes(&vec![0x5a; size.bytes()]);
        image[low..high].fill(0);
        let payload = encode_image(PageNo(9), &image, low..high);
        prop_assert_eq!(payload.len(), IMAGE_HEAD_BYTES + size.bytes() - (high - low));
        prop_assert_eq!(page_of(&payload), Some(PageNo(9)));
        prop_assert!(decode_image(&payload, size).unwrap() == image);
    }

    #[test]
    fn commit_records_survive(raw in any::<[u64; 6]>()) {
        let commit = CommitRecord {
            timestamp: Timestamp(raw[0]),
            wall_ns: raw[1],
            synced: Lsn(raw[2]),
            page_count: raw[3],
            free: FreeList { head: PageNo(raw[4]), count: raw[5] },
        };
        prop_assert_eq!(CommitRecord::decode(&commit.encode()), Ok(commit));
    }

    #[test]
    fn summaries_survive(base in any::<u64>(), pages in btree_set(any_page_number(), 0..6000)) {
        let pages: Vec<PageNo> = pages.into_iter().map(PageNo).collect();
        let mut found = Vec::new();
        for payload in encode_summaries(Lsn(base), &pages) {
            let (found_base, part) = decode_summary(&payload).unwrap();
            prop_assert_eq!(found_base, Lsn(base));
            found.extend(part);
        }
        prop_assert_eq!(found, pages);
    }

    /// Payloads are checked by their checksum, but a decoder must not fall over what a faulty writer
    /// made: it answers or refuses.
    #[test]
    fn decoders_take_any_bytes(payload in vec(any::<u8>(), 0..200), count in 0..4u32, size in any_size()) {
        let mut payload = payload;
        let _ = decode_image(&payload, size);
        let _ = CommitRecord::decode(&payload);
        let _ = decode_summary(&payload);
        let _ = SegmentHeader::decode(&payload);
        // A likely count of ranges, so that the ranges themselves are looked at.
        if payload.len() >= DELTA_HEAD_BYTES {
            crate::codec::put(&mut payload, 20, &count.to_le_bytes());
        }
        if let Ok(delta) = decode_delta(&payload, size) {
            let before = PageBuf::zeroed(size);
            let _ = apply_delta(&before, &delta, Lsn(5));
        }
    }
}

fn any_page_number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, 0..100_000u64, any::<u64>()]
}

/// A hole that lies about its place or length gives no page.
#[test]
fn holes_that_do_not_fit_are_refused() {
    let image = page(3, 7, 64);
    let good = encode_image(PageNo(3), &image, 96..4096);
    assert!(decode_image(&good, page_size()).is_ok());
    for (offset, bytes) in [
        (97, 4000),
        (96, 3999),
        (96, 4001),
        (u32::MAX, 4000),
        (96, u32::MAX),
    ] {
        let mut bad = good.clone();
        crate::codec::put(&mut bad, 8, &u32::to_le_bytes(offset));
        crate::codec::put(&mut bad, 12, &u32::to_le_bytes(bytes));
        assert!(decode_image(&bad, page_size()).is_err(), "{offset} {bytes}");
    }
}

/// A range before byte 4 would overwrite the checksum, one past the end the memory after the page.
#[test]
fn ranges_out_of_the_page_are_refused() {
    for (offset, bytes) in [(0u32, 4u32), (3, 1), (4095, 2), (4096, 1), (u32::MAX, 8)] {
        let mut payload = vec![0; DELTA_HEAD_BYTES];
        crate::codec::put(&mut payload, 20, &1u32.to_le_bytes());
        payload.extend_from_slice(&offset.to_le_bytes());
        payload.extend_from_slice(&bytes.to_le_bytes());
        payload.resize(payload.len() + bytes as usize, 1);
        assert!(
            decode_delta(&payload, page_size()).is_err(),
            "{offset} {bytes}"
        );
    }
}

/// A delta is for one image and makes one image: on another it is refused, and so is a result that
/// is not the committed one.
#[test]
fn delta_of_another_image_is_refused() {
    let mut before = page(7, 1, 64);
    before.seal(Lsn(100));
    let mut after = before.clone();
    after[40] = 9;
    let mut change = [PageChange {
        page: PageNo(7),
        before: Some(&before),
        after: &mut after,
    }];
    let (bytes, point) = encode_commit(&mut change, &fields(1, Lsn::ZERO), Lsn(200), SALT);
    let delta = decode_delta(&bytes[RECORD_HEADER_BYTES..][..33], page_size()).unwrap();
    let refused = Err(LogFault::Delta { page: PageNo(7) });
    assert_eq!(apply_delta(&before, &delta, point.lsn), Ok(after));
    assert_eq!(apply_delta(&before, &delta, Lsn(point.lsn.0 + 8)), refused);
    let mut other = before.clone();
    other[50] = 9;
    other.seal(Lsn(100));
    assert_eq!(apply_delta(&other, &delta, point.lsn), refused);
    before.seal(Lsn(99));
    assert_eq!(apply_delta(&before, &delta, point.lsn), refused);
    let mut replay = PageReplay::of(before, point.lsn);
    let refused = Err(LogFault::Delta { page: PageNo(7) });
    assert_eq!(replay.apply(&delta, point.lsn), refused);
    let mut replay = PageReplay::of(other, point.lsn);
    replay.apply(&delta, point.lsn).unwrap();
    assert_eq!(
        replay.prove(PageNo(7)).unwrap_err(),
        LogFault::Delta { page: PageNo(7) }
    );
}

/// A summary names each page once, in order, and nothing follows its last page.
#[test]
fn summaries_that_are_cut_repeated_or_too_long_are_refused() {
    let good = encode_summaries(Lsn(1), &[3, 200, 70_000].map(PageNo)).remove(0);
    for cut in 0..good.len() {
        assert!(decode_summary(&good[..cut]).is_err(), "{cut}");
    }
    let mut repeated = good.clone();
    repeated[13] = 0x80;
    repeated[14] = 0x00;
    assert!(decode_summary(&repeated).is_err());
    let mut longer = good;
    longer.push(1);
    assert!(decode_summary(&longer).is_err());
}
