//! The formats on disk: a repository of format 1 that other code has written from docs/formats.md, and
//! every way to damage one of its objects a little.

#![allow(clippy::disallowed_methods, clippy::cast_possible_truncation)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blob_reader::BlobReader;
use super::error::Result;
use super::mark::Mark;
use super::pack::{PackBuilder, PackDirectory, PackId, SealedFrame, Slot};
use super::store::{LineLock, MarksLock, ObjectName, Put, Store, WriterLock};
use super::*;
use crate::os::sim::SimDisk;
use crate::os::{Disk, Host, OpenMode, SimulatedHost, write_all_at};

const ID: &str = "20261120T190729Z-1f3a5c7e";
const PLAIN: PackId = PackId([0xa1; 16]);
const COMPRESSED: PackId = PackId([0xb2; 16]);

fn id() -> BackupId {
    ID.parse().unwrap()
}

/// The bytes of an object of the repository in `tests/fixtures`.
fn golden(object: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    std::fs::read(root.join("tests/fixtures/repository-1").join(object)).unwrap()
}

fn objects() -> [String; 5] {
    [
        "repository.json".to_owned(),
        PLAIN.object(),
        COMPRESSED.object(),
        Manifest::object(&id()),
        Mark::object(&id()),
    ]
}

/// A machine with that repository as `/r`, without `tmp` and `LOCK`.
fn machine() -> SimulatedHost {
    let machine = Host::simulated(1);
    for folder in ["/r", "/r/packs", "/r/backups", "/r/marks"] {
        machine.disk.create_dir(Path::new(folder)).unwrap();
    }
    for object in objects() {
        set(&machine.disk, &object, &golden(&object));
    }
    machine
}

fn set(disk: &SimDisk, object: &str, bytes: &[u8]) {
    let path = Path::new("/r").join(object);
    drop(disk.remove(&path));
    let file = disk.open(&path, OpenMode::CreateNew).unwrap();
    write_all_at(file.as_ref(), bytes, 0).unwrap();
}

fn open(machine: &SimulatedHost) -> Result<Repository> {
    Repository::open(&machine.host, Path::new("/r"))
}

fn content(manifest: &Manifest, reader: &BlobReader, file: &FileContent) -> (Vec<u8>, Vec<Digest>) {
    let (mut out, mut digests) = (Vec::new(), Vec::new());
    for extent in &file.extents {
        if extent.pack == Extent::ZEROS {
            let unit = vec![0; file.unit_bytes as usize];
            digests.extend((0..extent.count).map(|_| Digest::of(&unit)));
            out.extend(unit.repeat(extent.count as usize));
        } else {
            let pack = manifest.packs[extent.pack as usize];
            reader
                .read(pack, extent.slot, extent.count, &mut out)
                .unwrap();
            digests.extend(reader.digests(pack, extent.slot, extent.count).unwrap());
        }
    }
    (out, digests)
}

/// BK5: with nothing but its manifest and the packs that it names. A reader changes nothing.
#[test]
fn repository_of_format_1_is_read_to_the_last_byte_and_left_alone() {
    let machine = machine();
    let changes = machine.disk.change_count();
    let repository = open(&machine).unwrap();
    assert_eq!(repository.id()[..4], [0x00, 0x11, 0x22, 0x33]);
    let manifest = repository
        .manifest(&repository.find("latest").unwrap())
        .unwrap();
    assert_eq!(repository.facts(&id()).unwrap(), manifest.facts);
    assert_eq!(
        manifest.facts.digest,
        Manifest::digest_of(&manifest.entries)
    );
    let reader = BlobReader::new(&repository);
    let mut found = Vec::new();
    for entry in &manifest.entries {
        let path = String::from_utf8(entry.path.clone()).unwrap();
        assert_eq!((entry.uid, entry.gid, entry.mtime_ns), (1000, 100, -5));
        match &entry.content {
            EntryContent::File(file) => {
                let (bytes, digests) = content(&manifest, &reader, file);
                assert_eq!(bytes.len() as u64, file.bytes);
                assert_eq!(Digest::of_units(file.bytes, digests), file.digest);
                found.push((path, entry.mode, format!("{:?}", bytes.get(..17))));
            }
            other => found.push((path, entry.mode, format!("{other:?}"))),
        }
    }
    let sixteen = |first: u8, last: u8| format!("{:?}", Some([&[first; 16][..], &[last]].concat()));
    let expected = [
        ("", 0o755, "Directory".to_owned()),
        ("a.bin", 0o640, sixteen(b'a', 0)),
        ("d", 0o2750, "Directory".to_owned()),
        ("d/empty", 0o600, "None".to_owned()),
        (
            "d/link",
            0o777,
            format!("{:?}", EntryContent::Link(b"../a.bin".to_vec())),
        ),
        ("data.pages", 0o600, sixteen(b'p', b'p')),
        (
            "hard",
            0o640,
            format!("{:?}", EntryContent::HardLink(b"a.bin".to_vec())),
        ),
    ];
    assert_eq!(
        found,
        expected.map(|(path, mode, what)| (path.to_owned(), mode, what))
    );
    let mark = repository.mark(&id()).unwrap();
    assert!(mark.is_held);
    assert_eq!(mark.verified.unwrap().bytes, 12328);
    assert_eq!(machine.disk.change_count(), changes);
}

/// A change of one of these bytes needs a new version and a reader of the old.
#[test]
fn objects_have_the_promised_bytes() {
    let machine = machine();
    let repository = open(&machine).unwrap();
    let manifest = repository.manifest(&id()).unwrap();
    assert!(manifest.encode() == golden(&objects()[3]));

    let mut builder = PackBuilder::new(repository.id(), PLAIN);
    let slots = [&b"aaaaaaaaaaaaaaaa"[..], b"bbbbbbbb"].map(|unit| Slot {
        digest: Digest::of(unit),
        bytes: unit.len() as u32,
    });
    let raw = b"aaaaaaaaaaaaaaaabbbbbbbb";
    builder.push(SealedFrame::seal(raw, slots.to_vec(), Compression::None));
    assert_eq!(builder.object_bytes(), golden(&objects()[1]).len() as u64);
    let store = repository.store().as_ref();
    builder.finish(store, Put::Replace).unwrap();
    repository.set_mark(&id(), &mut |_| {}).unwrap();
    for object in [&objects()[1], &objects()[4]] {
        let mut bytes = vec![0; store.size(object).unwrap() as usize];
        store.read_at(object, 0, &mut bytes).unwrap();
        assert!(bytes == golden(object), "{object}");
    }

    let new = Repository::open_or_create(&machine.host, Path::new("/new")).unwrap();
    let digits = hex::encode(&new.id());
    let text =
        format!(r#"{{"stillfs_repository":1,"id":"{digits}","created":"2026-01-01T00:00:00Z""#);
    let expected = format!(
        "{text},\"crc32\":\"{:08x}\"}}\n",
        crc32fast::hash(text.as_bytes())
    );
    let mut found = vec![0; expected.len()];
    assert_eq!(
        new.store().size("repository.json").unwrap(),
        found.len() as u64
    );
    new.store()
        .read_at("repository.json", 0, &mut found)
        .unwrap();
    assert_eq!(String::from_utf8(found).unwrap(), expected);
}

/// Tried on every kind of object: the version counts before any checksum is looked at.
#[test]
fn object_of_a_later_version_is_refused_by_name() {
    for object in objects() {
        let machine = machine();
        let mut bytes = golden(&object);
        // Version 2 of the whole repository is that of an encrypted one.
        let newest = if object == "repository.json" { 2 } else { 1 };
        if bytes[0] == b'{' {
            let at = bytes.iter().position(|byte| *byte == b':').unwrap();
            bytes[at + 1] = b'1' + newest as u8;
        } else {
            bytes[8] = 2;
        }
        set(&machine.disk, &object, &bytes);
        let error = look_at_all(&machine).unwrap_err();
        assert!(
            matches!(&error, RepositoryError::Version { object: named, found, known } if *named == object && *known == newest && *found == newest + 1),
            "{object}: {error}"
        );
        assert!(error.to_string().contains(&object));
    }
}

/// A manifest, a mark or a pack under the name of another is told apart from it.
#[test]
fn object_under_the_name_of_another_is_damaged() {
    let other: BackupId = "20261120T190730Z-00000000".parse().unwrap();
    let machine = machine();
    let repository = open(&machine).unwrap();
    set(
        &machine.disk,
        &Manifest::object(&other),
        &golden(&objects()[3]),
    );
    set(&machine.disk, &Mark::object(&other), &golden(&objects()[4]));
    set(&machine.disk, &objects()[1], &golden(&objects()[2]));
    let store = repository.store().as_ref();
    let errors = [
        repository.manifest(&other).map(drop),
        repository.facts(&other).map(drop),
        repository.mark(&other).map(drop),
        repository.set_mark(&other, &mut |mark| mark.is_held = true),
        PackDirectory::read(store, repository.id(), PLAIN).map(drop),
        PackDirectory::read(store, [1; 16], COMPRESSED).map(drop),
    ];
    for error in errors.map(Result::unwrap_err) {
        assert!(matches!(error, RepositoryError::Damaged { .. }), "{error}");
    }
    // What cannot be read can be replaced, by name.
    repository.new_mark(&other, &Mark::default()).unwrap();
    assert_eq!(repository.mark(&other).unwrap(), Mark::default());
    machine
        .disk
        .remove(&Path::new("/r").join(Mark::object(&other)))
        .unwrap();
    let missing = repository.mark(&other).unwrap_err();
    assert!(
        matches!(missing, RepositoryError::Missing { .. }),
        "{missing}"
    );
}

fn look_at_all(machine: &SimulatedHost) -> Result<()> {
    let repository = open(machine)?;
    let manifest = repository.manifest(&id())?;
    repository.mark(&id())?;
    manifest
        .packs
        .iter()
        .try_for_each(|pack| look_at_pack(repository.store().as_ref(), *pack))
}

fn look_at_pack(store: &dyn Store, pack: PackId) -> Result<()> {
    let repository = hex::decode("00112233445566778899aabbccddeeff").unwrap();
    let directory = PackDirectory::read(store, repository, pack)?;
    for index in 0..directory.frames.len() {
        let raw = directory.read_frame(store, index)?;
        let bytes: u32 = directory
            .slots_of(index)
            .iter()
            .map(|slot| slot.bytes)
            .sum();
        assert_eq!(raw.len(), bytes as usize);
    }
    Ok(())
}

/// One object, under whatever name it is asked for.
#[derive(Debug)]
struct OneObject(Vec<u8>);

impl Store for OneObject {
    fn read_at(&self, name: &ObjectName, offset: u64, out: &mut [u8]) -> Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = self.0.get(from..from.saturating_add(out.len()));
        let found = found.ok_or_else(|| RepositoryError::Cut {
            object: name.to_owned(),
            bytes: self.0.len() as u64,
            needed: offset.saturating_add(out.len() as u64),
        })?;
        out.copy_from_slice(found);
        Ok(())
    }
    fn size(&self, _name: &ObjectName) -> Result<u64> {
        Ok(self.0.len() as u64)
    }
    fn place(&self) -> String {
        "memory".to_owned()
    }
    fn put(&self, _name: &ObjectName, _parts: &[&[u8]], _put: Put) -> Result<()> {
        unreachable!("nothing is stored here")
    }
    fn settle(&self) -> Result<()> {
        unreachable!("nothing is stored here")
    }
    fn list(&self, _folder: &str) -> Result<Vec<String>> {
        unreachable!("nothing is listed here")
    }
    fn remove(&self, _name: &ObjectName) -> Result<()> {
        unreachable!("nothing is removed here")
    }
    fn lock(&self) -> Result<Box<dyn WriterLock>> {
        unreachable!("nobody writes here")
    }
    fn lock_marks(&self) -> Result<Box<dyn MarksLock>> {
        unreachable!("nobody writes here")
    }
    fn lock_line(&self, line: &str) -> Result<Box<dyn LineLock>> {
        unreachable!("nobody writes here: {line}")
    }
    fn free_bytes(&self) -> Result<Option<u64>> {
        unreachable!("nobody writes here")
    }
}

/// Cut at every length, with every bit changed, and with a byte too many.
fn expect_damage_is_found(object: &str, look: impl Fn(Vec<u8>) -> Result<()>) {
    let good = golden(object);
    look(good.clone()).unwrap();
    for length in 0..good.len() {
        assert!(
            look(good[..length].to_vec()).is_err(),
            "{object} cut at {length}"
        );
    }
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(look(bytes).is_err(), "{object} with bit {bit} changed");
    }
    let longer = [good, vec![0]].concat();
    assert!(look(longer).is_err(), "{object} with a byte behind it");
}

/// BK4: nothing is given out of a pack, a manifest or a mark that is not as it was written.
#[test]
fn damage_of_any_bit_of_any_object_is_found() {
    for pack in [PLAIN, COMPRESSED] {
        expect_damage_is_found(&pack.object(), |bytes| {
            look_at_pack(&OneObject(bytes), pack)
        });
    }
    expect_damage_is_found(&Manifest::object(&id()), |bytes| {
        Manifest::decode(&Manifest::object(&id()), &bytes).map(drop)
    });
    expect_damage_is_found(&Mark::object(&id()), |bytes| {
        Mark::read(&OneObject(bytes), &id()).map(drop)
    });
    let host = Host::simulated(1).host;
    expect_damage_is_found("repository.json", |bytes| {
        Repository::on(&host, Arc::new(OneObject(bytes))).map(drop)
    });
}

/// The facts are read without the body: what is damaged there does not change them.
#[test]
fn facts_are_right_or_refused_whatever_bit_is_damaged() {
    let good = golden(&Manifest::object(&id()));
    let facts = BackupFacts::read(&OneObject(good.clone()), &id()).unwrap();
    let mut refused = 0;
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match BackupFacts::read(&OneObject(bytes), &id()) {
            Ok(found) => assert!(found == facts, "bit {bit}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > good.len() * 4, "{refused}");
    for length in 0..good.len() {
        let cut = OneObject(good[..length].to_vec());
        BackupFacts::read(&cut, &id()).unwrap_err();
    }
}
