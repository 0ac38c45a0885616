//! A repository made by the real code, and its objects with their checksums mended.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use stillfs::codec;
use stillfs::engine::LogState;
use stillfs::os::{Host, OpenMode, read_exact_at};
use stillfs::repository::crypt::{NewKeys, Unlock};
use stillfs::repository::log::{Archiver, LogCatalog, read_piece};
use stillfs::repository::pack::{PackBuilder, PackId, SealedFrame, Slot};
use stillfs::repository::store::{Put, Store};
use stillfs::repository::{Compression, Control, Digest, Repository};

use crate::page_image::mend_sector;
use crate::sample;

/// The pack that [`PACK`] is.
pub const ID: PackId = PackId([5; 16]);

/// Bytes of a pack's trailer.
const TRAILER_BYTES: usize = 32;

/// A repository on a disk of its own.
pub fn repository() -> Repository {
    let host = Host::simulated(1).host;
    Repository::open_or_create(&host, Path::new("/r")).expect("nothing fails on this machine")
}

/// An encrypted one, and its machine.
pub fn encrypted() -> (Host, Repository) {
    let host = Host::simulated(1).host;
    let recipient = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    let identity = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
    let keys = NewKeys {
        recipients: vec![recipient.parse().expect("a recipient")],
        passphrase: None,
    };
    let made = Repository::create(&host, Path::new("/r"), &keys);
    made.expect("nothing fails on this machine");
    let mut unlock = Unlock::none();
    let added = unlock.add_key_file(identity.as_bytes());
    added.expect("an identity");
    let repository = Repository::open_with(&host, Path::new("/r"), &unlock);
    (host, repository.expect("nothing fails on this machine"))
}

/// The file of the only object in `folder`, and its bytes.
pub fn stored(host: &Host, folder: &str) -> (PathBuf, Vec<u8>) {
    let folder = Path::new("/r").join(folder);
    let names = host.disk.list(&folder).expect("a folder");
    let path = folder.join(names.first().expect("an object"));
    let file = host.disk.open(&path, OpenMode::Read).expect("a file");
    let bytes = file.len().expect("nothing fails on this machine");
    let mut out = vec![0; usize::try_from(bytes).expect("a small object")];
    read_exact_at(file.as_ref(), &mut out, 0).expect("nothing fails on this machine");
    (path, out)
}

/// The bytes of a small pack: a frame of each form, one of them with an emptied slot.
pub static PACK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let repository = repository();
    let mut builder = PackBuilder::new(repository.id(), ID);
    for compression in [Compression::Lz4, Compression::None, Compression::Zstd(3)] {
        let units = [vec![1; 400], Vec::new(), b"0123456789".repeat(20)];
        let slot = |unit: &Vec<u8>| Slot {
            digest: Digest::of(unit),
            bytes: u32::try_from(unit.len()).expect("a small unit"),
        };
        let slots = units.iter().map(slot).collect();
        builder.push(SealedFrame::seal(&units.concat(), slots, compression));
    }
    let store = repository.store().as_ref();
    builder
        .finish(store, Put::New)
        .expect("nothing fails on this machine");
    read(store, &ID.object())
});

/// A manifest that other code has written, with an entry of each kind.
pub static MANIFEST: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let name = "tests/fixtures/repository-1/backups/20261120T190729Z-1f3a5c7e";
    std::fs::read(root.join(name)).expect("the fixture is there")
});

/// Bytes of the head of a piece of a log.
const PIECE_HEAD_BYTES: usize = 696;

/// The name of a piece of a log, and its bytes; its records are not compressed.
pub static PIECE: LazyLock<(String, Vec<u8>)> = LazyLock::new(|| {
    let fine = "nothing fails on these machines";
    let host = Host::simulated(1).host;
    let open = || Repository::open_or_create(&host, Path::new("/r")).expect(fine);
    let machine = sample::machine_with(&sample::KILLED);
    let dir = Path::new(sample::DIR);
    let state = LogState::settle(&machine.host, dir).expect("the database is sound");
    let mut archiver = Archiver::new(&machine.host, dir, open());
    archiver.step(&state, &Control::default()).expect(fine);
    drop(archiver);
    let repository = open();
    let catalog = LogCatalog::read(&repository).expect(fine);
    let line = catalog.lines().next().expect("a line");
    let facts = line.runs[0].pieces[0].facts.clone();
    let records = read_piece(&repository, &facts).expect(fine).records;
    let mut piece = read(repository.store().as_ref(), &facts.object());
    piece.truncate(PIECE_HEAD_BYTES);
    codec::put(&mut piece, 12, &1_u32.to_le_bytes());
    codec::put(&mut piece, 56, &(records.len() as u64).to_le_bytes());
    piece.extend(records);
    mend_piece(&mut piece);
    (facts.object(), piece)
});

/// Mends the digest, of records that are not compressed, and the checksums of a piece of a log.
pub fn mend_piece(piece: &mut [u8]) {
    let Some((head, records)) = piece.split_at_mut_checked(PIECE_HEAD_BYTES) else {
        return;
    };
    codec::put(head, 144, &Digest::of(records).0);
    mend_sector(&mut head[176..], 0);
    put_crc(head, 688, crc32fast::hash(records));
    let crc = crc32fast::hash(&head[..692]);
    put_crc(head, 692, crc);
}

fn read(store: &dyn Store, object: &str) -> Vec<u8> {
    let bytes = store.size(object).expect("it was put");
    let mut out = vec![0; usize::try_from(bytes).expect("a small object")];
    store
        .read_at(object, 0, &mut out)
        .expect("nothing fails on this machine");
    out
}

/// Puts `crc` where a pack or a manifest has it.
fn put_crc(bytes: &mut [u8], at: usize, crc: u32) {
    codec::put(bytes, at, &crc.to_le_bytes());
}

/// Mends the checksums of a pack's header and directory, and of the frames where the directory is where
/// that says.
pub fn mend_pack(pack: &mut [u8]) {
    let Some(trailer) = pack.len().checked_sub(TRAILER_BYTES) else {
        return;
    };
    if pack.len() >= 64 {
        let crc = crc32fast::hash(&pack[..60]);
        put_crc(pack, 60, crc);
    }
    let offset = codec::get_u64(pack, trailer).unwrap_or_default();
    let directory = usize::try_from(offset).unwrap_or(usize::MAX);
    let frame_count = codec::get_u32(pack, trailer + 8).unwrap_or_default();
    if directory > trailer {
        return;
    }
    let mut frame = 64_usize;
    for number in 0..(frame_count as usize).min((trailer - directory) / 24) {
        let entry = directory + number * 24;
        let stored = codec::get_u32(pack, entry).unwrap_or_default() as usize;
        let Some(bytes) = pack.get(frame..frame.saturating_add(stored)) else {
            break;
        };
        let crc = crc32fast::hash(bytes);
        frame += stored;
        put_crc(pack, entry + 4, crc);
    }
    let crc = crc32fast::hash(&pack[directory..trailer + 20]);
    put_crc(pack, trailer + 20, crc);
}

/// Mends the sizes and checksums of a manifest whose facts have `facts_bytes` bytes.
pub fn mend_manifest(manifest: &mut [u8], facts_bytes: usize) {
    let facts_end = 32 + facts_bytes;
    let Some(body_bytes) = manifest.len().checked_sub(facts_end + 4) else {
        return;
    };
    codec::put(manifest, 24, &(body_bytes as u64).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&manifest[..20]);
    hasher.update(&manifest[32..facts_end]);
    put_crc(manifest, 20, hasher.finalize());
    let end = manifest.len() - 4;
    let crc = crc32fast::hash(&manifest[..end]);
    put_crc(manifest, end, crc);
}
