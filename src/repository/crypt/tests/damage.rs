//! What lies in the files of an encrypted repository, and what becomes of it when they are changed.

use super::*;
use crate::repository::crypt::cipher::CHUNK_BYTES;
use crate::repository::manifest::Manifest;
use crate::repository::mark::Mark;
use crate::repository::progress::Control;
use crate::repository::prune::{Run, prune};
use crate::repository::specimen::{read_back, require_whole, verified};
use crate::repository::store::Put;

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

/// CR1, G37: neither content, nor names, nor digests, nor ids, nor times lie anywhere.
#[test]
fn nothing_of_a_backup_is_in_the_files_or_their_names() {
    let (specimen, ids) = rich(1);
    let store = specimen.repository.store();
    let files = Files(&*specimen.machine.host.disk);
    let mut words: Vec<Vec<u8>> = [
        "needless 0",
        "old 1",
        "/srv",
        "zeros",
        "stillfs_mark",
        "age1",
    ]
    .map(|word| word.as_bytes().to_vec())
    .to_vec();
    for id in &ids {
        let facts = specimen.repository.facts(id).unwrap();
        let manifest = specimen.repository.manifest(id).unwrap();
        words.push(id.as_str().as_bytes().to_vec());
        words.push(id.as_str().as_bytes()[..15].to_vec());
        words.push(facts.begun_ns.to_le_bytes()[..7].to_vec());
        words.push(manifest.facts.digest.0.to_vec());
        for pack in &manifest.packs {
            words.push(pack.0.to_vec());
            words.push(pack.to_string().into_bytes());
        }
    }
    // They are there to be found, behind the key.
    let mut plain = Vec::new();
    for folder in ["backups", "marks", "packs"] {
        for name in store.list(folder).unwrap() {
            let name = format!("{folder}/{name}");
            plain.extend(read_all(&specimen.repository, &name).unwrap());
            plain.extend(name.into_bytes());
        }
    }
    let found = words.iter().filter(|word| contains(&plain, word)).count();
    assert!(found > words.len() / 2, "{found} of {}", words.len());
    for name in files.names() {
        let bytes = files.read(&name);
        for word in &words {
            // The ring says that it is one of age.
            let is_age = name.starts_with("keys/") && word == b"age1";
            assert!(is_age || !contains(&bytes, word), "{word:?} is in {name}");
            assert!(
                !contains(name.as_bytes(), word),
                "{word:?} is in the name {name}"
            );
        }
    }
}

/// The work of a repository does not know of the key.
#[test]
fn backups_are_verified_restored_and_pruned_as_ever() {
    let (specimen, ids) = rich(2);
    for id in &ids {
        let files = read_back(&specimen.repository, id).unwrap();
        assert_eq!(files, specimen.backups[id]);
    }
    let report = verified(&specimen.repository);
    assert_eq!(report.findings, [], "{:?}", report.findings);
    assert_eq!(report.verified.len(), 3);
    let report = prune(&specimen.repository, Run::Really, &Control::default()).unwrap();
    assert_eq!(report.packs_removed, 1);
    let machine = specimen.machine.crash(3);
    let again = open(&machine, &by_key(ALICE[0])).unwrap();
    require_whole(&again, &specimen.backups);
    assert!(again.mark(&ids[1]).unwrap().is_held);
}

/// Reads each kind of object: with the bytes of its file changed, none of them comes back.
fn refused(repository: &Repository, name: &str, why: &str) {
    match read_all(repository, name) {
        Ok(_) => panic!("{name} is read with {why}"),
        Err(
            RepositoryError::Damaged { object, .. }
            | RepositoryError::Cut { object, .. }
            | RepositoryError::Version { object, .. },
        ) => assert!(object.contains(name), "{object}: {why}"),
        Err(error) => panic!("{name} with {why}: {error}"),
    }
}

/// The real names of objects, by the names of their files.
fn objects(repository: &Repository, files: &Files<'_>) -> Vec<(String, String)> {
    let store = repository.store();
    let mut out = Vec::new();
    for folder in ["backups", "damaged", "marks", "packs"] {
        for real in store.list(folder).unwrap() {
            let name = format!("{folder}/{real}");
            let whole = read_all(repository, &name).unwrap();
            // The file whose removal makes it go.
            let stored = files.of(folder).into_iter().find(|stored| {
                let bytes = files.read(stored);
                files.0.remove(&Files::path(stored)).unwrap();
                let is_it = store.size(&name).is_err();
                files.set(stored, &bytes);
                is_it
            });
            assert_eq!(read_all(repository, &name).unwrap(), whole);
            out.push((name, stored.unwrap()));
        }
    }
    out
}

/// CR2: of every kind of object every bit counts, and every byte of its length.
#[test]
fn every_flipped_bit_and_every_cut_of_every_kind_is_found() {
    let (specimen, _) = rich(4);
    let repository = &specimen.repository;
    let files = Files(&*specimen.machine.host.disk);
    let record = format!("damaged/{}", "0f".repeat(16));
    repository
        .store()
        .put(&record, &[b"damage"], Put::New)
        .unwrap();
    let mut kinds = Vec::new();
    for (name, stored) in objects(repository, &files) {
        let folder = name.split('/').next().unwrap().to_owned();
        if kinds.contains(&folder) {
            continue;
        }
        kinds.push(folder);
        let bytes = files.read(&stored);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            let bits = if at < 100 { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                changed[at] = bytes[at] ^ (1 << bit);
                files.set(&stored, &changed);
                refused(
                    repository,
                    &name,
                    &format!("bit {bit} of byte {at} flipped"),
                );
            }
        }
        for length in 0..bytes.len() {
            files.set(&stored, &bytes[..length]);
            refused(
                repository,
                &name,
                &format!("{length} bytes of {}", bytes.len()),
            );
        }
        files.set(&stored, &[&bytes[..], &[0]].concat());
        refused(repository, &name, "one byte more");
        files.set(&stored, &bytes);
        read_all(repository, &name).unwrap();
    }
    assert_eq!(kinds, ["backups", "damaged", "marks", "packs"]);
    for name in ["repository.json", "keys/ring"] {
        let bytes = files.read(name);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            files.set(name, &changed);
            let opened = open(&specimen.machine, &by_key(ALICE[0]));
            assert!(opened.is_err(), "{name}: byte {at}");
            files.set(name, &bytes[..at]);
            let opened = open(&specimen.machine, &by_key(ALICE[0]));
            assert!(opened.is_err(), "{name}: cut at {at}");
        }
        files.set(name, &bytes);
    }
    open(&specimen.machine, &by_key(ALICE[0])).unwrap();
}

/// CR2, G38: chunks of one size, all authentic, are not taken for others.
#[test]
fn chunks_in_another_place_are_found() {
    let (machine, repository) = empty(5);
    let (store, files) = (repository.store().as_ref(), Files(&*machine.host.disk));
    let whole = |byte| vec![byte; usize::try_from(3 * CHUNK_BYTES).unwrap()];
    store.put("packs/a", &[&whole(1)], Put::New).unwrap();
    let first = files.of("packs").remove(0);
    store.put("packs/b", &[&whole(2)], Put::New).unwrap();
    let other = files.of("packs");
    let second = other.into_iter().find(|name| *name != first).unwrap();
    let (a, b) = (files.read(&first), files.read(&second));
    let chunk = |number: usize| 64 + number * 65_552..64 + (number + 1) * 65_552;
    let mut attempts = vec![("another object", b.clone())];
    for number in 0..3 {
        let mut mixed = a.clone();
        mixed[chunk(number)].copy_from_slice(&b[chunk(number)]);
        attempts.push(("a chunk of another object", mixed));
    }
    let mut swapped = a.clone();
    swapped[chunk(0)].copy_from_slice(&a[chunk(1)]);
    swapped[chunk(1)].copy_from_slice(&a[chunk(0)]);
    attempts.push(("two chunks exchanged", swapped));
    attempts.push(("the last chunk gone", a[..chunk(2).start].to_vec()));
    attempts.push(("a chunk twice", [&a[..], &a[chunk(2)]].concat()));
    attempts.push(("the header of another", [&b[..64], &a[64..]].concat()));
    for (why, bytes) in attempts {
        files.set(&first, &bytes);
        refused(&repository, "packs/a", why);
    }
    files.set(&first, &a);
    assert_eq!(read_all(&repository, "packs/a").unwrap(), whole(1));
    // The same object under a name of its folder, and of another folder.
    files.set(&second, &a);
    refused(&repository, "packs/b", "the file of another name");
    let moved = first.replace("packs/", "marks/");
    files.set(&moved, &a);
    assert!(store.list("marks").unwrap()[0].ends_with('~'));
}

/// Exchanged and damaged objects are found by the work of a repository, and named by what they are.
#[test]
fn verification_names_what_was_exchanged() {
    let (specimen, ids) = rich(6);
    let files = Files(&*specimen.machine.host.disk);
    let objects = objects(&specimen.repository, &files);
    let stored = |name: String| {
        let found = objects.iter().find(|(real, _)| *real == name);
        found.unwrap().1.clone()
    };
    let [one, two] = [0, 1].map(|number| stored(Manifest::object(&ids[number])));
    let [a, b] = [files.read(&one), files.read(&two)];
    files.set(&one, &b);
    files.set(&two, &a);
    let report = verified(&specimen.repository);
    for id in &ids[..2] {
        let object = Manifest::object(id);
        assert!(report.findings.iter().any(|found| found.object == object));
    }
    assert_eq!(report.verified, [ids[2].clone()]);
    files.set(&one, &a);
    files.set(&two, &b);
    let mark = stored(Mark::object(&ids[1]));
    files.set(&mark, &files.read(&stored(Mark::object(&ids[2]))));
    let error = specimen.repository.mark(&ids[1]).unwrap_err();
    assert!(matches!(error, RepositoryError::Damaged { .. }), "{error}");
}
