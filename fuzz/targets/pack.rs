//! A pack with patches in its header, its frames, its directory and its trailer, read to the last unit; and a
//! piece of a log with patches, read to the last record.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stillfs::engine::LogPart;
use stillfs::repository::Digest;
use stillfs::repository::log::{LogCatalog, read_piece};
use stillfs::repository::pack::PackDirectory;
use stillfs::repository::store::Put;
use stillfs_fuzz::input::Input;
use stillfs_fuzz::repository::{ID, PACK, PIECE, mend_pack, mend_piece, repository};

fuzz_target!(
    init: stillfs_fuzz::plant(&[vec![0; 4], vec![1; 8], vec![1, 3, 9, 0x14, 0, 1], vec![2; 4], vec![3; 8]]),
    |data: &[u8]| {
        let mut input = Input::new(data);
        let how = input.u8();
        if how & 2 == 2 {
            return piece(how, &mut input);
        }
        let mut pack = PACK.clone();
        // The fields of the directory are few bytes among those of the digests.
        input.patch(&mut pack, 12);
        if how & 1 == 1 {
            mend_pack(&mut pack);
        }
        let repository = repository();
        let store = repository.store().as_ref();
        let put = store.put(&ID.object(), &[&pack], Put::New);
        put.expect("nothing fails on this machine");
        let Ok(directory) = PackDirectory::read(store, repository.id(), ID) else {
            return;
        };
        let mut next = 0;
        for index in 0..directory.frames.len() {
            let slots = directory.slots_of(index);
            assert!(!slots.is_empty());
            for slot in 0..slots.len() {
                let slot = next + u32::try_from(slot).expect("few slots");
                assert_eq!(directory.frame_of(slot), Some(index));
            }
            next += u32::try_from(slots.len()).expect("few slots");
            let Ok(raw) = directory.read_frame(store, index) else {
                continue;
            };
            let mut at = 0;
            for slot in slots.iter().filter(|slot| slot.bytes > 0) {
                let end = at + slot.bytes as usize;
                assert_eq!(Digest::of(&raw[at..end]), slot.digest);
                at = end;
            }
            assert_eq!(at, raw.len());
        }
        assert_eq!(next as usize, directory.slots.len());
    }
);

/// What is believed of a piece has its digest, and the catalog names no more than it has.
fn piece(how: u8, input: &mut Input<'_>) {
    let (name, mut bytes) = PIECE.clone();
    input.patch(&mut bytes, 24);
    if how & 1 == 1 {
        mend_piece(&mut bytes);
    }
    let repository = repository();
    let put = repository.store().put(&name, &[&bytes], Put::New);
    put.expect("nothing fails on this machine");
    let catalog = LogCatalog::read(&repository).expect("damage is in the catalog");
    for part in catalog
        .lines()
        .flat_map(|line| &line.runs)
        .flat_map(|run| &run.pieces)
    {
        assert!(part.facts.first <= part.from && part.until <= part.facts.end);
        let Ok(read) = read_piece(&repository, &part.facts) else {
            continue;
        };
        assert_eq!(read.records.len() as u64, part.facts.bytes());
        assert_eq!(Digest::of(&read.records), part.facts.digest);
        let _ = LogPart::check(&read.segment, read.facts.first, read.records);
    }
}
