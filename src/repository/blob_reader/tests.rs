//! Units read by many threads, and while prune rewrites their pack.

#![allow(clippy::cast_possible_truncation)]

use std::path::Path;

use super::*;
use crate::os::Host;
use crate::os::random::SeededRandom;
use crate::repository::compression::Compression;
use crate::repository::pack::{PackBuilder, SealedFrame};
use crate::repository::store::Put;

const PACK: PackId = PackId([1; 16]);

fn repository() -> Repository {
    Repository::open_or_create(&Host::simulated(1).host, Path::new("/r")).unwrap()
}

/// Unit `number`, which can be compressed.
fn unit(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(64 + number as usize % 7)
}

/// A pack of `frames` frames with three units each, those left out that `is_kept` does not name.
fn put(repository: &Repository, frames: u32, is_kept: impl Fn(u32) -> bool) {
    let mut builder = PackBuilder::new(repository.id(), PACK);
    for frame in 0..frames {
        let units = (3 * frame..3 * frame + 3).map(|number| match is_kept(number) {
            true => unit(number),
            false => Vec::new(),
        });
        let units: Vec<_> = units.collect();
        let slot = |unit: &Vec<u8>| Slot {
            digest: Digest::of(unit),
            bytes: u32::try_from(unit.len()).unwrap(),
        };
        let slots = units.iter().map(slot).collect();
        builder.push(SealedFrame::seal(&units.concat(), slots, Compression::Lz4));
    }
    builder
        .finish(repository.store().as_ref(), Put::Replace)
        .unwrap();
}

fn is_damaged<T>(result: Result<T>) -> bool {
    matches!(result, Err(RepositoryError::Damaged { .. }))
}

/// BK4: whatever the order, and however many at once.
#[test]
fn many_threads_read_the_same_units_and_few_frames_are_kept() {
    let repository = repository();
    let frames = 2 * FRAMES_MAX as u32;
    put(&repository, frames, |_| true);
    let reader = BlobReader::new(&repository);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let reader = &reader;
            scope.spawn(move || {
                let random = SeededRandom::new(seed);
                for _ in 0..300 {
                    let first = u32::try_from(random.below(u64::from(3 * frames - 5))).unwrap();
                    let count = u32::try_from(random.below(6)).unwrap();
                    let mut out = vec![9];
                    reader.read(PACK, first, count, &mut out).unwrap();
                    let units: Vec<_> = (first..first + count).map(unit).collect();
                    assert!(out[1..] == units.concat(), "seed {seed}: {first} {count}");
                    let digests = reader.digests(PACK, first, count).unwrap();
                    assert!(
                        digests
                            .into_iter()
                            .eq(units.iter().map(|unit| Digest::of(unit)))
                    );
                }
            });
        }
    });
    let cache = reader.frames.lock();
    assert_eq!(
        (cache.cells.len(), cache.order.len()),
        (FRAMES_MAX, FRAMES_MAX)
    );
}

/// BK2: the units that are needed stay where they are; those that nobody needs are never given out.
#[test]
fn pack_that_is_hollowed_meanwhile_still_gives_what_is_needed() {
    let repository = repository();
    put(&repository, 4, |_| true);
    let reader = BlobReader::new(&repository);
    let read = |slot, count| {
        let mut out = Vec::new();
        reader.read(PACK, slot, count, &mut out).map(|()| out)
    };
    // The directory is known, and a frame of the old pack is kept.
    assert_eq!(read(6, 1).unwrap(), unit(6));
    put(&repository, 4, |number| number > 3 && number % 2 == 0);
    assert_eq!(read(4, 1).unwrap(), unit(4));
    assert_eq!(read(6, 1).unwrap(), unit(6));
    assert_eq!(read(10, 1).unwrap(), unit(10));
    assert!(is_damaged(read(5, 1)));
    assert!(is_damaged(read(4, 3)));
    assert!(is_damaged(reader.digests(PACK, 0, 1)));
    assert_eq!(reader.digests(PACK, 8, 1).unwrap(), [Digest::of(&unit(8))]);
}

#[test]
fn slots_that_are_not_there_are_refused() {
    let repository = repository();
    put(&repository, 2, |_| true);
    let reader = BlobReader::new(&repository);
    let mut out = vec![1, 2];
    for (slot, count) in [
        (6, 1),
        (5, 2),
        (0, u32::MAX),
        (u32::MAX, u32::MAX),
        (u32::MAX, 0),
    ] {
        assert!(
            is_damaged(reader.read(PACK, slot, count, &mut out)),
            "{slot} {count}"
        );
        assert!(
            is_damaged(reader.digests(PACK, slot, count)),
            "{slot} {count}"
        );
    }
    assert_eq!(out, [1, 2]);
    let missing = reader.digests(PackId([2; 16]), 0, 1);
    assert!(matches!(missing, Err(RepositoryError::Missing { .. })));
    // A pack that goes once it was met.
    repository.store().remove(&PACK.object()).unwrap();
    let missing = reader.read(PACK, 0, 6, &mut out);
    assert!(matches!(missing, Err(RepositoryError::Missing { .. })));
    assert_eq!(out, [1, 2]);
}
