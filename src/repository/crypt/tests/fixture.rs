//! A repository that was encrypted by the first version that could, with its test keys.

#![allow(clippy::disallowed_methods, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::repository::blob_reader::BlobReader;
use crate::repository::manifest::{EntryContent, Extent};
use crate::repository::store::Put;
use crate::repository::{hex, sealed_json};

/// The passphrase of the fixture; its key is Alice's.
const WORDS: &[u8] = b"a passphrase for tests only";

fn fixture() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fixtures/repository-encrypted-1")
}

/// A machine with it.
fn machine() -> SimulatedHost {
    let machine = Host::simulated(1);
    machine.disk.create_dir(root()).unwrap();
    let files = Files(&*machine.host.disk);
    files.set(
        "repository.json",
        &fs::read(fixture().join("repository.json")).unwrap(),
    );
    for folder in ["backups", "damaged", "keys", "marks", "packs"] {
        machine.disk.create_dir(&root().join(folder)).unwrap();
        let Ok(names) = fs::read_dir(fixture().join(folder)) else {
            continue;
        };
        for entry in names.map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            files.set(
                &format!("{folder}/{name}"),
                &fs::read(entry.path()).unwrap(),
            );
        }
    }
    machine
}

/// The bytes of all files of a backup, by their paths.
fn files_of(repository: &Repository, id: &BackupId) -> BTreeMap<String, Vec<u8>> {
    let (manifest, reader) = (
        repository.manifest(id).unwrap(),
        BlobReader::new(repository),
    );
    let mut files = BTreeMap::new();
    for entry in &manifest.entries {
        let EntryContent::File(file) = &entry.content else {
            continue;
        };
        let mut bytes = Vec::new();
        for extent in &file.extents {
            match extent.pack == Extent::ZEROS {
                true => bytes.resize(bytes.len() + (file.unit_bytes * extent.count) as usize, 0),
                false => {
                    let pack = manifest.packs[extent.pack as usize];
                    let read = reader.read(pack, extent.slot, extent.count, &mut bytes);
                    read.unwrap();
                }
            }
        }
        bytes.truncate(usize::try_from(file.bytes).unwrap());
        files.insert(String::from_utf8(entry.path.clone()).unwrap(), bytes);
    }
    files
}

/// CR1, CR2: whatever changes, what was stored stays readable, by key and by passphrase.
#[test]
fn repository_encrypted_by_version_1_is_read() {
    let machine = machine();
    let changes = machine.disk.change_count();
    let text = fs::read(fixture().join("key.txt")).unwrap();
    let mut by_file = Unlock::none();
    by_file.add_key_file(&text).unwrap();
    let mut by_words = Unlock::none();
    by_words.set_passphrase(Passphrase::new(WORDS).unwrap());
    for unlock in [by_file, by_words] {
        let repository = open(&machine, &unlock).unwrap();
        let id = repository.find("latest").unwrap();
        let found = files_of(&repository, &id);
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["app.db", "large.bin", "small.txt"]);
        assert!(found["app.db"].starts_with(b"SQLite format 3\0"));
        assert_eq!(found["small.txt"], b"frozen\n");
        let large: Vec<u8> = (0..70_000_u32).map(|at| (at * 7919 % 251) as u8).collect();
        assert!(found["large.bin"] == large);
        let facts = repository.facts(&id).unwrap();
        assert_eq!(facts.tag.as_deref(), Some("fixture"));
        assert!(repository.mark(&id).is_ok());
    }
    assert_eq!(machine.disk.change_count(), changes);
}

/// By its name, and before anything else is looked at.
#[test]
fn later_versions_are_refused_by_name() {
    let later = |name: &str| {
        let (machine, repository) = empty(1);
        let store = repository.store();
        store.put("packs/00", &[b"x"], Put::New).unwrap();
        let files = Files(&*machine.host.disk);
        match name {
            "keys/ring" => {
                let age = &ALICE[1].parse().unwrap();
                let ring = br#"{"stillfs_keys":2,"else":"unknown"}"#;
                let sealed = unlock::wrap_to(std::slice::from_ref(age), ring);
                files.set(name, &sealed.unwrap());
            }
            "packs/00" => {
                let stored = files.of("packs").remove(0);
                let mut bytes = files.read(&stored);
                bytes[8] = 2;
                files.set(&stored, &bytes);
                return store.read_at(name, 0, &mut [0]).unwrap_err();
            }
            _ => {
                let id = hex::encode(&repository.id());
                let config = serde_json::json!({
                    "stillfs_repository": 2, "id": id, "created": "", "encryption": 2,
                });
                files.set(name, &sealed_json::seal(&config));
            }
        }
        open(&machine, &by_key(ALICE[0])).unwrap_err()
    };
    for name in ["repository.json", "keys/ring", "packs/00"] {
        let error = later(name);
        let is_it = matches!(
            &error,
            RepositoryError::Version { object, found: 2, known: 1 } if object.contains(name)
        );
        assert!(is_it, "{name}: {error}");
        assert!(error.to_string().contains("use a newer stillfs"));
    }
}
