//! A log as a hostile writer leaves it: segments of real records with patches, or records of the
//! fuzzer's own, with checksums that are right; then the whole recovery, or a replay over a page file that
//! needs no log.
#![no_main]

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use stillfs::codec;
use stillfs::database::Engine;
use stillfs::engine::{LogPart, Proof, Replay, ReplayRoom, ReplayTarget};
use stillfs::lsn::{Lsn, Timestamp};
use stillfs::os::OpenMode;
use stillfs_fuzz::input::Input;
use stillfs_fuzz::page_image::{PAGE_BYTES, field, mend_page, mend_sector};
use stillfs_fuzz::{sample, walk};

const SEGMENT_HEADER_BYTES: usize = 512;
const RECORD_HEADER_BYTES: usize = 24;
const COMMIT: u8 = 3;
/// After the wall clock of every sample: in 2033.
const WALL_NS: u64 = 2_000_000_000_000_000_000;

/// Pages of the sample, so that a commit need not lie about them.
static PAGE_COUNT: LazyLock<u64> = LazyLock::new(|| {
    let page_file = sample::content(&sample::KILLED, "data.pages");
    field(&page_file, 136).max(field(&page_file, PAGE_BYTES + 136))
});

fuzz_target!(
    init: stillfs_fuzz::plant(&[
        vec![0],
        vec![1, 5, 2, 0],
        // A replay, to some commit.
        vec![8, 3],
        vec![10, 2, 3, 0, 3, 0],
        // An image of page 5, a delta upon it, the commits.
        vec![2, 1, 5, 0, 0, 0, 3, 2, 5, 1, 100, 0, 4, 0, 9, 9, 9, 9, 3, 0],
    ]),
    |data: &[u8]| {
        let mut input = Input::new(data);
        let mode = input.u8();
        if mode & 8 != 0 {
            return replay(mode, &mut input);
        }
        let mut files = sample::KILLED.clone();
        for (path, bytes) in &mut files {
            if path.extension().is_some_and(|ending| ending == "wal") {
                spoil(bytes, mode, 1000, &mut input);
            }
        }
        let machine = sample::machine_with(&files);
        let dir = Path::new(sample::DIR);
        let opened = if mode & 4 == 0 {
            Engine::open(&machine.host, dir, &sample::options(), None)
        } else {
            Engine::open_read_only(&machine.host, dir, 1 << 20)
        };
        if let Ok(engine) = opened {
            walk::look(&engine);
            walk::write(&engine, &mut input);
            let _ = engine.close();
        }
    }
);

/// Patches a segment, or makes one of the fuzzer's own, whose first commit follows that of `timestamp`.
fn spoil(segment: &mut Vec<u8>, mode: u8, timestamp: u64, input: &mut Input<'_>) {
    match mode & 3 {
        0 => drop(input.patch(segment, 512)),
        1 => {
            input.patch(segment, 512);
            mend_sector(segment, 0);
            mend_records(segment);
        }
        _ => forge(segment, timestamp, input),
    }
}

/// Replays the spoilt log of an archive over the page file of a backup; what comes out is a database.
fn replay(mode: u8, input: &mut Input<'_>) {
    let mut archived = sample::ARCHIVED.clone();
    let target = archived.timestamp + u64::from(input.u8() % 8);
    spoil(&mut archived.segment, mode, archived.timestamp, input);
    let first = Lsn(field(&archived.segment, 56));
    let Some((header, records)) = archived.segment.split_at_checked(SEGMENT_HEADER_BYTES) else {
        return;
    };
    let Ok(part) = LogPart::check(header, first, records.to_vec()) else {
        return;
    };
    let path = Path::new(sample::DIR).join("data.pages");
    let machine = sample::machine_with(&vec![(path.clone(), archived.page_file)]);
    let file = machine.host.disk.open(&path, OpenMode::ReadWrite);
    let file = file.expect("it was made");
    let scratch_path = Path::new(sample::DIR).join("scratch");
    let scratch = || machine.host.disk.open(&scratch_path, OpenMode::CreateNew);
    let room = ReplayRoom {
        cache_bytes: if mode & 4 == 0 { 1 << 20 } else { 1 << 13 },
        scratch: &scratch,
    };
    let target = ReplayTarget::Timestamp(Timestamp(target));
    let begun = Replay::begin(&*file, &path, target, room);
    let mut replay = begun.expect("the page file is not after any target");
    if replay
        .apply(&part, archived.history, Lsn(u64::MAX))
        .is_err()
    {
        return;
    }
    if let Ok(replayed) = replay.finish(Proof::ReadBack) {
        let engine = Engine::open_read_only(&machine.host, Path::new(sample::DIR), 1 << 20);
        let engine = engine.expect("what was replayed needs no log");
        assert_eq!(engine.stats().timestamp, replayed.point.timestamp.0);
        walk::look(&engine);
    }
}

fn mend_record(salt: &[u8], record: &mut [u8]) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(salt);
    crc.update(&record[4..]);
    let crc = crc.finalize();
    codec::put(record, 0, &crc.to_le_bytes());
}

/// Mends the checksums of records for as long as their lengths lead to another.
fn mend_records(segment: &mut [u8]) {
    if segment.len() < SEGMENT_HEADER_BYTES {
        return;
    }
    let (head, mut rest) = segment.split_at_mut(SEGMENT_HEADER_BYTES);
    while rest.len() >= RECORD_HEADER_BYTES {
        let payload = codec::get_u32(rest, 4).unwrap_or_default() as usize;
        let Some(end) = RECORD_HEADER_BYTES.checked_add(payload) else {
            return;
        };
        if end > rest.len() {
            return;
        }
        mend_record(&head[64..72], &mut rest[..end]);
        let framed = end.next_multiple_of(8).min(rest.len());
        rest = rest.split_at_mut(framed).1;
    }
}

/// One record that is to be made.
struct Forged {
    kind: u8,
    payload: Vec<u8>,
}

/// Replaces a segment's records by those that the input describes, commit by commit.
fn forge(segment: &mut Vec<u8>, timestamp: u64, input: &mut Input<'_>) {
    let (mut clock, mut images) = (timestamp, HashMap::new());
    segment.truncate(SEGMENT_HEADER_BYTES);
    for _ in 0..16 {
        let mut records = Vec::new();
        while records
            .last()
            .is_none_or(|last: &Forged| last.kind != COMMIT)
        {
            if input.is_empty() || records.len() == 16 {
                break;
            }
            let next = record(input, clock + 1);
            clock += u64::from(next.kind == COMMIT);
            records.push(next);
        }
        append(segment, records, &mut images);
        if input.is_empty() {
            return;
        }
    }
}

fn record(input: &mut Input<'_>, clock: u64) -> Forged {
    let kind = input.u8();
    let mut payload = Vec::new();
    match kind {
        1 => {
            let (page, bytes) = (u64::from(input.u8()), PAGE_BYTES as u32);
            let (hole, length) = (u32::from(input.u16()), u32::from(input.u16()));
            let page_kind = input.u8();
            payload.extend(page.to_le_bytes());
            payload.extend(hole.to_le_bytes());
            payload.extend(length.to_le_bytes());
            let mut image = vec![0; PAGE_BYTES];
            codec::put(&mut image, 4, &[page_kind, 1]);
            codec::put(&mut image, 8, &page.to_le_bytes());
            image.truncate(bytes.saturating_sub(length) as usize);
            payload.extend(image);
        }
        2 => {
            let (page, count) = (u64::from(input.u8()), input.u8());
            payload.extend(page.to_le_bytes());
            payload.extend([0; 12]);
            payload.extend(u32::from(count).to_le_bytes());
            for _ in 0..count.min(8) {
                let (at, piece) = (u32::from(input.u16()), input.piece());
                payload.extend(at.to_le_bytes());
                payload.extend((piece.len() as u32).to_le_bytes());
                payload.extend(piece);
            }
        }
        COMMIT => {
            let lie = input.u8();
            let count = if lie & 1 == 0 {
                *PAGE_COUNT
            } else {
                input.u64()
            };
            let (head, free) = if lie & 2 == 0 {
                (0, 0)
            } else {
                (u64::from(input.u8()), input.u64())
            };
            let synced = if lie & 4 == 0 { 0 } else { input.u64() };
            for value in [clock, WALL_NS + clock, synced, count, head, free] {
                payload.extend(value.to_le_bytes());
            }
        }
        _ => payload.extend(input.piece()),
    }
    Forged { kind, payload }
}

/// Appends the records of one commit. Images are sealed, and deltas say what they make of the image
/// before, as far as there is one.
fn append(segment: &mut Vec<u8>, records: Vec<Forged>, images: &mut HashMap<u64, Vec<u8>>) {
    let start = field(segment, 56);
    let salt = segment[64..72].to_vec();
    let framed = |record: &Forged| (RECORD_HEADER_BYTES + record.payload.len()).next_multiple_of(8);
    let begin = start + (segment.len() - SEGMENT_HEADER_BYTES) as u64;
    let end = begin + records.iter().map(framed).sum::<usize>() as u64;
    for Forged { kind, mut payload } in records {
        let page = field(&payload, 0);
        if kind == 1 && payload.len() == 16 + PAGE_BYTES {
            codec::put(&mut payload, 16 + 16, &end.to_le_bytes());
            mend_page(&mut payload[16..]);
            images.insert(page, payload[16..].to_vec());
        } else if kind == 2
            && let Some(image) = images.get_mut(&page)
        {
            let base = field(image, 16);
            codec::put(&mut payload, 8, &base.to_le_bytes());
            apply(image, &payload);
            codec::put(image, 16, &end.to_le_bytes());
            mend_page(image);
            let crc: [u8; 4] = codec::get_array(image, 0).unwrap_or_default();
            codec::put(&mut payload, 16, &crc);
        }
        let at = start + (segment.len() - SEGMENT_HEADER_BYTES) as u64;
        let mut record = vec![0; RECORD_HEADER_BYTES];
        codec::put(&mut record, 4, &(payload.len() as u32).to_le_bytes());
        codec::put(&mut record, 8, &[kind]);
        codec::put(&mut record, 16, &at.to_le_bytes());
        record.extend(payload);
        mend_record(&salt, &mut record);
        record.resize(record.len().next_multiple_of(8), 0);
        segment.extend(record);
    }
}

/// What the ranges of a delta make of `image`, where they lie in it.
fn apply(image: &mut [u8], payload: &[u8]) {
    let mut input = Input::new(payload.get(24..).unwrap_or_default());
    while !input.is_empty() {
        let (at, count) = (input.u32() as usize, input.u32() as usize);
        let bytes = input.bytes(count);
        if let Some(room) = image.get_mut(at..at.saturating_add(bytes.len())) {
            room.copy_from_slice(bytes);
        }
    }
}
