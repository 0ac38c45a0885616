//! Packs written and read back, and packs that lie with the right checksums.

#![allow(clippy::cast_possible_truncation)]

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::codec::put;
use crate::os::Host;
use crate::os::random::SeededRandom;
use crate::repository::compression::Compression;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::folder_store::FolderStore;
use crate::repository::store::{Put, Store};

const REPOSITORY: [u8; 16] = [7; 16];
const ID: PackId = PackId([9; 16]);

fn store() -> FolderStore {
    let store = FolderStore::new(&Host::simulated(1).host, Path::new("/r"));
    store.prepare().unwrap();
    store
}

/// A unit, half of which can be compressed; of no bytes for an emptied slot.
fn unit(random: &SeededRandom, bytes: usize) -> Vec<u8> {
    let noise = (0..bytes / 2).map(|_| random.next().to_le_bytes()[0]);
    let mut unit: Vec<u8> = noise.collect();
    unit.resize(bytes, 5);
    unit
}

fn slot(unit: &[u8]) -> Slot {
    let digest = match unit.is_empty() {
        true => Digest::default(),
        false => Digest::of(unit),
    };
    let bytes = u32::try_from(unit.len()).unwrap();
    Slot { digest, bytes }
}

fn sealed(units: &[Vec<u8>], compression: Compression) -> SealedFrame {
    let slots = units.iter().map(|unit| slot(unit)).collect();
    SealedFrame::seal(&units.concat(), slots, compression)
}

fn read(store: &dyn Store) -> Result<PackDirectory> {
    PackDirectory::read(store, REPOSITORY, ID)
}

const FORMS: [Compression; 3] = [Compression::Lz4, Compression::None, Compression::Zstd(3)];

#[test]
fn frames_of_every_form_come_back_by_their_slots() {
    let (store, random) = (store(), SeededRandom::new(3));
    let sizes = [4096, 1, UNIT_BYTES_MAX, 8192];
    let frames = FORMS.map(|form| (sizes.map(|bytes| unit(&random, bytes)), form));
    let mut builder = PackBuilder::new(REPOSITORY, ID);
    for (number, (units, form)) in frames.iter().enumerate() {
        assert_eq!(builder.push(sealed(units, *form)) as usize, number * 4);
    }
    let (slots, told) = (builder.slot_count(), builder.object_bytes());
    assert_eq!(slots, 12);
    let bytes = builder.finish(&store, Put::New).unwrap();
    let directory = read(&store).unwrap();
    assert_eq!((directory.object_bytes, told), (bytes, bytes));
    let found = directory.frames.iter().map(|frame| frame.compression);
    assert!(found.eq([FrameForm::Lz4, FrameForm::Plain, FrameForm::Zstd]));
    for (index, (units, _)) in frames.iter().enumerate() {
        let raw = directory.read_frame(&store, index).unwrap();
        assert!(raw == units.concat());
    }
    assert!(directory.read_frame(&store, 3).is_err());
    let again = PackBuilder::new(REPOSITORY, ID).finish(&store, Put::New);
    assert!(matches!(again, Err(RepositoryError::Exists { .. })));
}

#[test]
fn what_cannot_be_compressed_is_stored_as_it_is() {
    let random = SeededRandom::new(5);
    let noise: Vec<u8> = (0..4096).map(|_| random.next().to_le_bytes()[3]).collect();
    for form in FORMS {
        let frame = sealed(std::slice::from_ref(&noise), form);
        assert_eq!((frame.form, &frame.stored), (FrameForm::Plain, &noise));
    }
    assert!(sealed(&[vec![0; 4096]], Compression::Zstd(19)).stored.len() < 100);
}

/// However small its units, a pack that is closed in time has a directory of a bounded size.
#[test]
fn pack_of_tiny_units_is_full_before_it_has_too_many_slots() {
    let units = vec![vec![1]; 65536];
    let frame = sealed(&units, Compression::Lz4);
    let mut builder = PackBuilder::new(REPOSITORY, ID);
    while builder.bytes() < PACK_BYTES {
        builder.push(frame.clone());
    }
    let most = FRAME_BYTES as u32;
    assert!(builder.slot_count() - 65536 + most <= SLOTS_MAX);
}

/// `slots_of` by another way: each frame's first slot is the sum of those before.
fn check_places(directory: &PackDirectory, counts: &[usize]) {
    let mut slot = 0;
    for (index, count) in counts.iter().enumerate() {
        assert_eq!(directory.slots_of(index).len(), *count);
        for _ in 0..*count {
            assert_eq!(directory.frame_of(slot), Some(index));
            slot += 1;
        }
    }
    assert_eq!(directory.frame_of(slot), None);
    assert_eq!(directory.frame_of(u32::MAX), None);
    assert!(directory.slots_of(counts.len()).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is put into a pack comes back, and a pack hollowed in place keeps the rest (BK2, BK4).
    #[test]
    fn packs_and_hollowed_packs_come_back(
        frames in prop::collection::vec(
            (prop::collection::vec(0_usize..9000, 1..6), 0_usize..3), 0..5),
        seed: u64,
    ) {
        let (store, random) = (store(), SeededRandom::new(seed));
        let mut frames: Vec<_> = frames
            .into_iter()
            .map(|(sizes, form)| {
                let units: Vec<_> = sizes.iter().map(|bytes| unit(&random, *bytes)).collect();
                (units, FORMS[form])
            })
            .collect();
        for round in 0..2 {
            let mut builder = PackBuilder::new(REPOSITORY, ID);
            for (units, form) in &frames {
                builder.push(sealed(units, *form));
            }
            builder.finish(&store, Put::Replace).unwrap();
            let directory = read(&store).unwrap();
            for (index, (units, _)) in frames.iter().enumerate() {
                prop_assert!(directory.read_frame(&store, index).unwrap() == units.concat());
                let slots: Vec<_> = units.iter().map(|unit| slot(unit)).collect();
                prop_assert_eq!(directory.slots_of(index), slots);
            }
            let counts: Vec<_> = frames.iter().map(|(units, _)| units.len()).collect();
            check_places(&directory, &counts);
            if round == 0 {
                for unit in frames.iter_mut().flat_map(|(units, _)| units) {
                    if random.below(2) == 0 {
                        unit.clear();
                    }
                }
            }
        }
    }
}

/// A pack of two frames: Lz4 with units of 4096 and 100 bytes, plain with one of 50.
fn sample(store: &FolderStore) -> Vec<u8> {
    let mut builder = PackBuilder::new(REPOSITORY, ID);
    builder.push(sealed(&[vec![1; 4096], vec![2; 100]], Compression::Lz4));
    builder.push(sealed(&[vec![3; 50]], Compression::None));
    let bytes = builder.finish(store, Put::Replace).unwrap();
    let mut pack = vec![0; usize::try_from(bytes).unwrap()];
    store.read_at(&ID.object(), 0, &mut pack).unwrap();
    pack
}

/// Changes a field and has all checksums right again; then reads everything.
fn lie(store: &FolderStore, pack: &[u8], at: usize, value: &[u8]) -> Result<()> {
    let mut pack = pack.to_vec();
    let trailer = pack.len() - TRAILER_BYTES;
    let directory = trailer - 2 * FRAME_ENTRY_BYTES - 3 * SLOT_ENTRY_BYTES;
    put(&mut pack, at, value);
    let crc = crc32fast::hash(&pack[..60]);
    put(&mut pack, 60, &crc.to_le_bytes());
    let crc = crc32fast::hash(&pack[directory..trailer + 20]);
    put(&mut pack, trailer + 20, &crc.to_le_bytes());
    store.put(&ID.object(), &[&pack], Put::Replace)?;
    let directory = read(store)?;
    (0..directory.frames.len()).try_for_each(|index| directory.read_frame(store, index).map(drop))
}

/// BK4: no field is believed, though every checksum is right.
#[test]
fn field_that_lies_is_found() {
    let store = store();
    let pack = sample(&store);
    let trailer = pack.len() - TRAILER_BYTES;
    let slots = trailer - 3 * SLOT_ENTRY_BYTES;
    let frames = slots - 2 * FRAME_ENTRY_BYTES;
    lie(&store, &pack, 48, &[1]).expect("reserved bytes are left alone");
    let stored_bytes = u32::from_le_bytes(pack[frames..frames + 4].try_into().unwrap());
    let u32s = |at: usize, values: &[u32]| -> Vec<(usize, Vec<u8>)> {
        let change = |value: &u32| (at, value.to_le_bytes().to_vec());
        values.iter().map(change).collect()
    };
    let changes = [
        u32s(8, &[0]),
        vec![(16, vec![1]), (32, vec![1])],
        u32s(
            frames,
            &[0, stored_bytes - 1, stored_bytes + 1, 5000, u32::MAX],
        ),
        u32s(frames + 4, &[0]),
        u32s(frames + 8, &[0, 1, 3, u32::MAX]),
        vec![
            (frames + 12, vec![0]),
            (frames + 12, vec![1]),
            (frames + 12, vec![2]),
        ],
        vec![(frames + 12, vec![4]), (frames + 12, vec![255])],
        u32s(slots + 32, &[0, 1, 4095, 4097, 65537, u32::MAX]),
        u32s(slots + 2 * SLOT_ENTRY_BYTES + 32, &[0, 49, 51]),
        vec![(slots, vec![0; 32])],
        u32s(trailer + 8, &[0, 1, 3, u32::MAX]),
        u32s(trailer + 12, &[0, 2, 4, SLOTS_MAX, SLOTS_MAX + 1, u32::MAX]),
    ];
    for (at, value) in changes.into_iter().flatten() {
        let error = lie(&store, &pack, at, &value).expect_err(&format!("{value:?} at {at}"));
        assert!(
            matches!(
                error,
                RepositoryError::Damaged { .. } | RepositoryError::OtherContent { .. }
            ),
            "{value:?} at {at}: {error}"
        );
    }
    for offset in [0, 63, frames as u64 - 1, frames as u64 + 1, u64::MAX] {
        let error = lie(&store, &pack, trailer, &offset.to_le_bytes()).unwrap_err();
        assert!(
            matches!(error, RepositoryError::Damaged { .. }),
            "{offset}: {error}"
        );
    }
}

/// 64 MiB of zeros in some kilobytes: no more is unpacked than the slots say.
#[test]
fn frame_that_unpacks_to_more_than_its_slots_is_refused() {
    let bomb = vec![0; 64 << 20];
    for (form, stored) in [
        (FrameForm::Zstd, zstd::bulk::compress(&bomb, 1).unwrap()),
        (FrameForm::Lz4, lz4_flex::block::compress(&bomb)),
    ] {
        let store = store();
        // As many slots as let so large a frame pass.
        let slots = vec![slot(&vec![0; 65536]); 8];
        assert!(stored.len() < FRAME_BYTES);
        let frame = SealedFrame {
            form,
            crc: crc32fast::hash(&stored),
            stored,
            slots,
        };
        let mut builder = PackBuilder::new(REPOSITORY, ID);
        builder.push(frame);
        builder.finish(&store, Put::New).unwrap();
        let error = read(&store).unwrap().read_frame(&store, 0).unwrap_err();
        assert!(
            error.to_string().contains("cannot be decompressed"),
            "{error}"
        );
    }
}
