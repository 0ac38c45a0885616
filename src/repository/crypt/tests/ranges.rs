//! Ranges of objects, at every border of a chunk.

use super::*;
use crate::os::random::SeededRandom;
use crate::repository::crypt::cipher::CHUNK_BYTES;
use crate::repository::store::Put;

const SIZES: [u64; 8] = [
    0,
    1,
    CHUNK_BYTES - 1,
    CHUNK_BYTES,
    CHUNK_BYTES + 1,
    2 * CHUNK_BYTES,
    3 * CHUNK_BYTES - 1,
    70 * CHUNK_BYTES + 3,
];

fn content(bytes: u64) -> Vec<u8> {
    let mut out = vec![0; usize::try_from(bytes).unwrap()];
    crate::os::Random::fill(&SeededRandom::new(bytes), &mut out).unwrap();
    out
}

/// Offsets about each border of the first chunks and of the end.
fn offsets(bytes: u64) -> Vec<u64> {
    let borders = [0, CHUNK_BYTES, 2 * CHUNK_BYTES, 64 * CHUNK_BYTES, bytes];
    let near = |border: u64| [border.saturating_sub(1), border, border + 1];
    let mut all: Vec<u64> = borders.into_iter().flat_map(near).collect();
    all.retain(|offset| *offset <= bytes);
    all.sort_unstable();
    all.dedup();
    all
}

/// CR2: a range is that of the object, whichever chunks it begins and ends in.
#[test]
fn range_is_that_of_the_object_at_all_borders() {
    let (_machine, repository) = empty(1);
    let store = repository.store().as_ref();
    for bytes in SIZES {
        let (name, whole) = (format!("packs/{bytes:032}"), content(bytes));
        // In parts of which none ends where a chunk does.
        let parts: Vec<&[u8]> = whole.chunks(50_001).collect();
        store.put(&name, &parts, Put::New).unwrap();
        assert_eq!(store.size(&name).unwrap(), bytes);
        for from in offsets(bytes) {
            let near = |to: &u64| *to >= from && *to - from <= 2 * CHUNK_BYTES + 2;
            for to in offsets(bytes).into_iter().filter(near) {
                let mut out = vec![0; usize::try_from(to - from).unwrap()];
                store.read_at(&name, from, &mut out).unwrap();
                let range = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
                assert!(out == whole[range], "{bytes}: {from}..{to}");
            }
        }
        for (offset, count) in [(bytes, 1), (bytes + 1, 0), (0, bytes + 1), (u64::MAX, 1)] {
            let mut out = vec![0; usize::try_from(count).unwrap()];
            let error = store.read_at(&name, offset, &mut out).unwrap_err();
            assert!(
                matches!(&error, RepositoryError::Cut { object, bytes: found, .. } if *object == name && *found == bytes),
                "{error}"
            );
        }
    }
}

/// CR3: who sees two objects cannot tell that they are the same.
#[test]
fn same_object_is_never_the_same_twice() {
    let (machine, repository) = empty(4);
    let (store, files) = (repository.store().as_ref(), Files(&*machine.host.disk));
    let [first, second] = [1, 2].map(|_| {
        store.put("packs/00", &[&[7; 5000]], Put::Replace).unwrap();
        files.read(&files.of("packs").remove(0))
    });
    assert_eq!(first.len(), second.len());
    // Magic, versions and the id of the master key are.
    assert_eq!(first[..32], second[..32]);
    let same = first[32..]
        .iter()
        .zip(&second[32..])
        .filter(|(a, b)| a == b);
    assert!(same.count() < 100);
}

/// A range costs the chunks that it lies in, and no more of the object.
#[test]
fn range_needs_no_other_chunk() {
    let (machine, repository) = empty(2);
    let (store, files) = (repository.store().as_ref(), Files(&*machine.host.disk));
    let whole = content(5 * CHUNK_BYTES);
    store.put("packs/00", &[&whole], Put::New).unwrap();
    let stored = files.of("packs").remove(0);
    let mut bytes = files.read(&stored);
    for other in [0, 1, 3, 4] {
        bytes[64 + other * (65_536 + 16) + 5] ^= 1;
    }
    files.set(&stored, &bytes);
    let mut out = vec![0; 65_536];
    store
        .read_at("packs/00", 2 * CHUNK_BYTES, &mut out)
        .unwrap();
    assert!(out == whole[2 * 65_536..3 * 65_536]);
    for beside in [2 * CHUNK_BYTES - 1, 2 * CHUNK_BYTES + 1] {
        let error = store.read_at("packs/00", beside, &mut out).unwrap_err();
        assert!(matches!(error, RepositoryError::Damaged { .. }), "{error}");
    }
}

/// CR1: what nobody with the key has put there has no name of an object, whatever it is called.
#[test]
fn foreign_names_are_listed_as_such() {
    let (machine, repository) = empty(3);
    let (store, files) = (repository.store().as_ref(), Files(&*machine.host.disk));
    store.put("packs/b", &[b"x"], Put::New).unwrap();
    store.put("packs/a", &[b"x"], Put::New).unwrap();
    let error = store.put("packs/a", &[b"y"], Put::New).unwrap_err();
    assert!(matches!(&error, RepositoryError::Exists { object } if object == "packs/a"));
    files.set("packs/00112233445566778899aabbccddeeff", b"x");
    let names = store.list("packs").unwrap();
    assert_eq!(names, ["00112233445566778899aabbccddeeff~", "a", "b"]);
    store.remove("packs/a").unwrap();
    let error = store.size("packs/a").unwrap_err();
    assert!(matches!(&error, RepositoryError::Missing { object } if object == "packs/a"));
    let long = format!("packs/{}", "x".repeat(129));
    assert!(matches!(
        store.put(&long, &[], Put::New),
        Err(RepositoryError::Io { .. })
    ));
}
